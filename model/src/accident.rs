//! Rows about what went wrong: the tables `quarantine` and `loss`.
//!
//! A record that cannot be read is kept whole, with the reason. A record that is gone is named by its numbers. Both
//! are rows like any other, so that a question about data quality is a query.

use std::sync::Arc;

use arrow_array::RecordBatch;

use crate::catalogue::{Catalogue, Table};
use crate::rows::{Rows, Stamp};

/// A record that was set aside.
#[derive(Debug, Clone)]
pub struct Quarantined<'a> {
    /// Where it lay on Kafka.
    pub topic: &'a str,
    /// Where it lay on Kafka.
    pub partition: i32,
    /// Where it lay on Kafka.
    pub offset: i64,
    /// One word: `headers`, `table`, `bytes`, `columns`.
    pub reason: &'static str,
    /// A sentence.
    pub detail: String,
    /// The record's key.
    pub key: Option<&'a [u8]>,
    /// Its headers, as `name=value` lines.
    pub headers: String,
    /// Its value.
    pub value: Option<&'a [u8]>,
}

/// A stretch of records that nobody will see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost<'a> {
    /// Who lost it: `spool` or `broker`.
    pub stage: &'static str,
    /// `AGENT/BOOT` for a spool, `TOPIC/PARTITION` for a broker.
    pub origin: &'a str,
    /// First number lost: seq or offset.
    pub first: u64,
    /// Last number lost, inclusive.
    pub last: u64,
    /// One word: why.
    pub reason: &'static str,
    /// Rows in those records, where known.
    pub rows: Option<u64>,
}

/// Collects rows of both tables.
pub struct Accidents {
    quarantine: Rows,
    loss: Rows,
}

impl Accidents {
    /// None yet.
    ///
    /// # Panics
    /// Never: both tables are built in.
    pub fn new(catalogue: &Catalogue) -> Self {
        let rows = |name: &str| Rows::new(catalogue.get(name).expect("built in"));
        Self { quarantine: rows("quarantine"), loss: rows("loss") }
    }

    /// Notes a record set aside.
    pub fn quarantine(&mut self, record: &Quarantined<'_>) {
        let key = record.key.map(String::from_utf8_lossy);
        self.quarantine
            .begin()
            .text("topic", record.topic)
            .int("partition", i64::from(record.partition))
            .int("offset", record.offset)
            .text("reason", record.reason)
            .text("detail", record.detail.as_str())
            .text("key", key.as_deref())
            .text("headers", record.headers.as_str())
            .bytes("value", record.value);
    }

    /// Notes a stretch lost.
    pub fn lost(&mut self, lost: &Lost<'_>) {
        self.loss
            .begin()
            .text("stage", lost.stage)
            .text("origin", lost.origin)
            .count("first", lost.first)
            .count("last", lost.last)
            .text("reason", lost.reason)
            .count("records", (lost.last - lost.first).saturating_add(1))
            .count("rows", lost.rows);
    }

    /// Whether there is nothing to report.
    pub fn is_empty(&self) -> bool {
        self.quarantine.is_empty() && self.loss.is_empty()
    }

    /// Takes what there is, one batch per table that has rows.
    pub fn finish(&mut self, stamp: &Stamp<'_>) -> Vec<(Arc<Table>, RecordBatch)> {
        [&mut self.quarantine, &mut self.loss]
            .into_iter()
            .filter(|rows| !rows.is_empty())
            .map(|rows| (rows.table().clone(), rows.finish(stamp)))
            .collect()
    }
}
