//! Where rows live: hot segments first, sealed tables later, and one consistent cut of both for readers.
//!
//! The way of a row through this crate, and the files in its order:
//!
//! 1. [`location`] opens a URL as an object store; on a local disk that is [`durable`], which syncs before it says yes.
//! 2. [`segment`] is the form of a hot segment: what the collector took of one partition in about half a second, all
//!    tables together, with a footer.
//! 3. [`hot`] puts a segment under its name with one conditional PUT, and finds segments again.
//! 4. [`taken`] remembers which records have been taken, so that none is taken twice.
//! 5. [`sealed`] keeps one Delta table per catalogue table; [`parquet_file`] writes its files, sorted.
//! 6. [`seal`] moves rows from segments into sealed tables; [`compaction`] and [`retention`] keep those in shape.
//! 7. [`cut`] gives a reader each row once, wherever it is at that moment.
//!
//! Programs of ours that write rows themselves do it by a [`journal`], which is a partition like the others.
//!
//! **Invariants.** A name is written once and never overwritten. A segment begins where the one before it ended. A
//! file is deleted only after a grace time longer than any query may run. Nothing here knows Kafka's client or SQL.

pub mod compaction;
pub mod cut;
pub mod durable;
#[cfg(feature = "faults")]
pub mod faults;
pub mod hot;
pub mod journal;
pub mod layout;
pub mod location;
pub mod parquet_file;
pub mod retention;
pub mod seal;
pub mod sealed;
pub mod segment;
pub mod taken;

use std::sync::Arc;

use nodescope_model::catalogue::Catalogue;
use object_store::ObjectStore;

/// An open store: the objects, and the catalogue that says what they hold.
#[derive(Debug, Clone)]
pub struct Store {
    objects: Arc<dyn ObjectStore>,
    catalogue: Arc<Catalogue>,
    /// A word that begins every log line and error about this store. Holds no credentials.
    name: String,
}

impl Store {
    /// Wraps an object store whose root is ours alone.
    pub fn new(objects: Arc<dyn ObjectStore>, catalogue: Arc<Catalogue>, name: impl Into<String>) -> Self {
        Self { objects, catalogue, name: name.into() }
    }

    /// The objects.
    pub fn objects(&self) -> &Arc<dyn ObjectStore> {
        &self.objects
    }

    /// The tables.
    pub fn catalogue(&self) -> &Arc<Catalogue> {
        &self.catalogue
    }

    /// What to call the store in messages.
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// Why the store did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The name exists already: somebody else writes here too.
    #[error("{path} is there already, written by somebody else")]
    AlreadyWritten {
        /// Name of the object.
        path: String,
    },
    /// An object is not what was written: a checksum, a length or its form is wrong.
    #[error("{path} is damaged: {what}")]
    Damaged {
        /// Name of the object.
        path: String,
        /// What is wrong with it.
        what: String,
    },
    /// Segments of a partition do not follow each other.
    #[error("{partition} has a hole: offset {expected} should come next, {found} does")]
    Hole {
        /// Topic and partition.
        partition: String,
        /// The next offset by what is known.
        expected: u64,
        /// The offset found.
        found: u64,
    },
    /// Somebody else sealed this stretch meanwhile.
    #[error("table {table} is sealed up to {found} of {partition}, not {expected}: somebody else seals it too")]
    SealedElsewhere {
        /// Name of the table.
        table: String,
        /// Topic and partition.
        partition: String,
        /// Our watermark.
        expected: u64,
        /// The table's.
        found: u64,
    },
    /// The object store said no, or nothing.
    #[error("the store failed to {action} {path}")]
    Objects {
        /// What was attempted.
        action: &'static str,
        /// Name of the object.
        path: String,
        /// Why not.
        #[source]
        source: object_store::Error,
    },
    /// The Delta log could not be read or written.
    #[error("the Delta log of {table} failed to {action}")]
    Delta {
        /// Name of the table.
        table: String,
        /// What was attempted.
        action: &'static str,
        /// Why not.
        #[source]
        source: Box<deltalake::DeltaTableError>,
    },
    /// Arrow or Parquet refused rows of ours.
    #[error("failed to {action} rows of {table}")]
    Rows {
        /// Name of the table.
        table: String,
        /// What was attempted.
        action: &'static str,
        /// Why not.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl StoreError {
    pub(crate) fn objects(action: &'static str, path: &object_store::path::Path, source: object_store::Error) -> Self {
        Self::Objects { action, path: path.to_string(), source }
    }

    pub(crate) fn rows(
        action: &'static str,
        table: &str,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Rows { table: table.to_owned(), action, source: source.into() }
    }

    /// Whether trying again later can help: the store is away, or slow.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Objects { source, .. } => !matches!(
                source,
                object_store::Error::NotFound { .. }
                    | object_store::Error::PermissionDenied { .. }
                    | object_store::Error::Unauthenticated { .. }
                    | object_store::Error::NotSupported { .. }
                    | object_store::Error::NotImplemented { .. }
                    | object_store::Error::InvalidPath { .. }
            ),
            Self::Delta { .. } => true,
            _ => false,
        }
    }
}
