//! TLS, which fails closed.
//!
//! A server that was given a certificate and cannot use it must not start, because its clients would otherwise send
//! in clear what they believe to be encrypted. So the files are read and the key is checked against the certificate
//! before a port is bound. The protocols are TLS 1.2 and 1.3 with the cipher suites that rustls holds to be safe.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use thiserror::Error;
use tokio_rustls::TlsAcceptor;

/// The name that clients give to this protocol when they begin with TLS at once.
pub(super) const PROTOCOL: &[u8] = b"postgresql";

/// Where the certificate and its key are, both as PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate, followed by those that lead to its root.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// Why TLS cannot be offered.
#[derive(Debug, Error)]
pub enum TlsError {
    /// The certificate's file cannot be read.
    #[error("the certificate {path} cannot be read")]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: pem::Error,
    },
    /// The file holds no certificate.
    #[error("{0} holds no certificate")]
    NoCertificate(PathBuf),
    /// The key's file cannot be read.
    #[error("the private key {path} cannot be read")]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: pem::Error,
    },
    /// Certificate and key do not go together, or are of a kind that is not supported.
    #[error("the certificate and its key cannot be used")]
    Unusable(#[source] rustls::Error),
}

/// Reads the files and makes what accepts TLS connections with them.
///
/// # Errors
/// When anything about them does not fit.
pub(super) fn acceptor(files: &TlsFiles) -> Result<TlsAcceptor, TlsError> {
    let certificates = certificates(&files.cert)?;
    let key =
        PrivateKeyDer::from_pem_file(&files.key).map_err(|source| TlsError::Key { path: files.key.clone(), source })?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Unusable)?
        .with_no_client_auth()
        .with_single_cert(certificates, key)
        .map_err(TlsError::Unusable)?;
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let unreadable = |source| TlsError::Certificate { path: path.to_owned(), source };
    let certificates = CertificateDer::pem_file_iter(path)
        .map_err(unreadable)?
        .collect::<Result<Vec<_>, pem::Error>>()
        .map_err(unreadable)?;
    if certificates.is_empty() { Err(TlsError::NoCertificate(path.to_owned())) } else { Ok(certificates) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_cannot_be_used_are_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        let cert = directory.path().join("server.crt");
        let key = directory.path().join("server.key");
        let files = TlsFiles { cert: cert.clone(), key };
        assert!(matches!(acceptor(&files), Err(TlsError::Certificate { .. })), "no file");
        std::fs::write(&cert, "not PEM at all").expect("written");
        assert!(matches!(acceptor(&files), Err(TlsError::NoCertificate(_))), "no certificate in it");
        std::fs::write(&cert, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").expect("written");
        assert!(matches!(acceptor(&files), Err(TlsError::Key { .. })), "no key");
    }
}
