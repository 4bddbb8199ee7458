//! Opening a store by its URL.
//!
//! - a path, or `file:///path`: one machine's own disk, through [`crate::durable`];
//! - `s3://bucket/prefix`: any S3-compatible service with conditional PUT. Credentials and endpoint come from the
//!   `AWS_…` environment (`AWS_ENDPOINT_URL` or `AWS_ENDPOINT`, `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`,
//!   `AWS_REGION`, `AWS_ALLOW_HTTP`), never from the URL;
//! - `memory:`: nothing is kept. For tests and benchmarks.

use std::path::PathBuf;
use std::sync::Arc;

use nodescope_model::catalogue::Catalogue;
use object_store::ObjectStore;
use object_store::aws::{AmazonS3Builder, S3ConditionalPut};
use object_store::prefix::PrefixStore;
use url::Url;

use crate::Store;
use crate::durable::DurableStore;

/// Where a store is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// A directory of this machine.
    Directory(PathBuf),
    /// A bucket and a prefix in it.
    S3 {
        /// The bucket.
        bucket: String,
        /// Where in it.
        prefix: String,
    },
    /// Memory of this process.
    Memory,
}

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum LocationError {
    /// The text is no URL of a kind known here.
    #[error("`{text}` is no store: {what}; give a path, file:///path or s3://bucket/prefix")]
    NotAStore {
        /// The text, without anything secret.
        text: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The directory cannot be used.
    #[error("cannot use directory {}", path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The object store's settings are wrong.
    #[error("cannot open {name}")]
    Settings {
        /// The store.
        name: String,
        /// Why.
        #[source]
        source: object_store::Error,
    },
}

impl std::str::FromStr for Location {
    type Err = LocationError;

    fn from_str(text: &str) -> Result<Self, LocationError> {
        let wrong = |what| LocationError::NotAStore { text: without_secrets(text), what };
        if text.is_empty() {
            return Err(wrong("it is empty"));
        }
        if text == "memory:" {
            return Ok(Self::Memory);
        }
        if !text.contains("://") {
            return Ok(Self::Directory(PathBuf::from(text)));
        }
        let url = Url::parse(text).map_err(|_| wrong("it is not a URL"))?;
        match url.scheme() {
            "file" => url.to_file_path().map(Self::Directory).map_err(|()| wrong("a file URL has three slashes")),
            "s3" | "s3a" => {
                if !url.username().is_empty() || url.password().is_some() {
                    return Err(wrong("credentials belong in the environment, not in the URL"));
                }
                let bucket = url.host_str().ok_or_else(|| wrong("the bucket is missing"))?.to_owned();
                Ok(Self::S3 { bucket, prefix: url.path().trim_matches('/').to_owned() })
            }
            _ => Err(wrong("its scheme is not known here")),
        }
    }
}

/// The text, or only its scheme when it may hold credentials.
fn without_secrets(text: &str) -> String {
    match text.split_once("://") {
        Some((scheme, rest)) if rest.contains('@') => format!("{scheme}://…"),
        _ => text.to_owned(),
    }
}

impl std::fmt::Display for Location {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Directory(path) => write!(f, "{}", path.display()),
            Self::S3 { bucket, prefix } => write!(f, "s3://{bucket}/{prefix}"),
            Self::Memory => f.write_str("memory:"),
        }
    }
}

impl Location {
    /// Opens the store. Asks nothing of a remote one yet.
    ///
    /// # Errors
    /// When the directory cannot be used or the settings are wrong.
    pub fn open(&self, catalogue: Arc<Catalogue>) -> Result<Store, LocationError> {
        let name = self.to_string();
        let objects: Arc<dyn ObjectStore> = match self {
            Self::Memory => Arc::new(object_store::memory::InMemory::new()),
            Self::Directory(path) => Arc::new(
                DurableStore::open(path).map_err(|source| LocationError::Directory { path: path.clone(), source })?,
            ),
            Self::S3 { bucket, prefix } => {
                let s3 = AmazonS3Builder::from_env()
                    .with_bucket_name(bucket)
                    .with_conditional_put(S3ConditionalPut::ETagMatch)
                    .build()
                    .map_err(|source| LocationError::Settings { name: name.clone(), source })?;
                if prefix.is_empty() { Arc::new(s3) } else { Arc::new(PrefixStore::new(s3, prefix.as_str())) }
            }
        };
        Ok(Store::new(objects, catalogue, name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_are_read() {
        let s3 = |bucket: &str, prefix: &str| Location::S3 { bucket: bucket.into(), prefix: prefix.into() };
        for (text, expected) in [
            ("data/store", Location::Directory("data/store".into())),
            ("/var/lib/x", Location::Directory("/var/lib/x".into())),
            ("file:///var/lib/x", Location::Directory("/var/lib/x".into())),
            ("s3://bucket", s3("bucket", "")),
            ("s3://bucket/a/b/", s3("bucket", "a/b")),
            ("memory:", Location::Memory),
        ] {
            assert_eq!(text.parse::<Location>().unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn mistakes_are_named_and_secrets_are_not_repeated() {
        for text in ["", "ftp://x/y", "s3://", "s3://key:secret@bucket/x"] {
            let message = text.parse::<Location>().unwrap_err().to_string();
            assert!(!message.contains("secret"), "{message}");
            assert!(message.contains("s3://bucket/prefix"), "{message}");
        }
    }
}
