//! Names of objects.
//!
//! ```text
//! hot/<topic>/<partition>/<first offset>.seg      one segment
//! taken/<topic>/<partition>/<next offset>.json    which records had been taken up to there
//! sealed/<table>/_delta_log/…                     the Delta log
//! sealed/<table>/<uuid>.parquet                   sorted rows
//! ```
//!
//! Offsets are written with twenty digits, so that the order of names is the order of offsets.

use object_store::path::Path;
use serde::{Deserialize, Serialize};

/// One partition of one topic.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PartitionId {
    /// Name of the topic. Kafka allows letters, digits, `.`, `_` and `-`.
    pub topic: String,
    /// Number of the partition.
    pub partition: i32,
}

impl std::fmt::Display for PartitionId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.topic, self.partition)
    }
}

impl PartitionId {
    /// A partition of a topic.
    pub fn new(topic: impl Into<String>, partition: i32) -> Self {
        Self { topic: topic.into(), partition }
    }

    /// The id under which Delta keeps this partition's watermark (`txn.appId`).
    pub fn app_id(&self) -> String {
        format!("nodescope/{self}")
    }

    /// Folder of the partition's segments.
    pub fn hot(&self) -> Path {
        Path::from(format!("{HOT}/{self}"))
    }

    /// Name of the segment that begins at `first`.
    pub fn segment(&self, first: u64) -> Path {
        Path::from(format!("{HOT}/{self}/{first:020}.seg"))
    }

    /// Folder of the partition's notes of taken records.
    pub fn taken(&self) -> Path {
        Path::from(format!("{TAKEN}/{self}"))
    }

    /// Name of the note written when `next` was the next offset.
    pub fn taken_at(&self, next: u64) -> Path {
        Path::from(format!("{TAKEN}/{self}/{next:020}.json"))
    }
}

/// Folder of all hot segments.
pub const HOT: &str = "hot";
/// Folder of all notes of taken records.
pub const TAKEN: &str = "taken";
/// Folder of all sealed tables.
pub const SEALED: &str = "sealed";

/// Folder of one sealed table.
pub fn sealed(table: &str) -> Path {
    Path::from(format!("{SEALED}/{table}"))
}

/// Reads `hot/<topic>/<partition>/<offset>.seg` back. Other names are not ours.
pub fn parse_segment(path: &Path) -> Option<(PartitionId, u64)> {
    parse(path, HOT, ".seg")
}

/// Reads `taken/<topic>/<partition>/<offset>.json` back.
pub fn parse_taken(path: &Path) -> Option<(PartitionId, u64)> {
    parse(path, TAKEN, ".json")
}

fn parse(path: &Path, folder: &str, suffix: &str) -> Option<(PartitionId, u64)> {
    let mut parts = path.as_ref().split('/');
    let (first, topic, partition, name) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    if first != folder || parts.next().is_some() {
        return None;
    }
    let offset = name.strip_suffix(suffix)?;
    if offset.len() != 20 {
        return None;
    }
    Some((PartitionId::new(topic, partition.parse().ok()?), offset.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back() {
        let id = PartitionId::new("telemetry.tenant-1", 12);
        assert_eq!(parse_segment(&id.segment(77)), Some((id.clone(), 77)));
        assert_eq!(parse_taken(&id.taken_at(u64::MAX)), Some((id.clone(), u64::MAX)));
        assert_eq!(parse_taken(&id.segment(77)), None);
        assert_eq!(parse_segment(&Path::from("hot/t/0/5.seg")), None);
        assert_eq!(parse_segment(&Path::from("hot/t/0/00000000000000000005.seg.tmp")), None);
    }

    #[test]
    fn the_order_of_names_is_the_order_of_offsets() {
        let id = PartitionId::new("t", 0);
        assert!(id.segment(9).as_ref() < id.segment(10).as_ref());
        assert!(id.segment(u64::from(u32::MAX)).as_ref() < id.segment(u64::MAX).as_ref());
    }
}
