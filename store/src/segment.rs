//! The form of a hot segment.
//!
//! ```text
//! [table 1: Arrow IPC stream, lz4][table 2: …] … [footer: JSON][footer length u32][footer CRC32C u32]["NSCOPE01"]
//! ```
//!
//! A segment holds what the collector took of one partition between two offsets, all tables together, so that half a
//! second of a partition is one PUT. The footer says what is inside: a reader that has read the footer (one request
//! for the object's end) knows whether it needs the rest, and where in it.
//!
//! Everything is checksummed. Numbers are little-endian.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMicrosecondType;
use arrow_array::{Array, RecordBatch};
use arrow_ipc::CompressionType;
use arrow_ipc::reader::StreamReader;
use arrow_ipc::writer::{IpcWriteOptions, StreamWriter};
use bytes::Bytes;
use nodescope_model::catalogue::Table;
use nodescope_model::seqs::Seqs;
use object_store::path::Path;
use serde::{Deserialize, Serialize};

use crate::StoreError;
use crate::layout::PartitionId;

const MAGIC: &[u8; 8] = b"NSCOPE01";
/// Bytes after the footer.
pub const TRAILER: usize = 16;

/// What a segment holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Footer {
    /// Where the rows came from.
    pub partition: PartitionId,
    /// First offset covered.
    pub first: u64,
    /// The offset after the last one covered; the next segment begins here.
    pub next: u64,
    /// Which run of a collector wrote it. Tells our own retry from somebody else's segment.
    pub writer: String,
    /// When it was written, microseconds since 1970.
    pub written_us: i64,
    /// The tables inside, by name.
    pub parts: Vec<Part>,
    /// The records taken, by (agent, boot).
    pub taken: Vec<Taken>,
}

/// One table inside a segment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Name of the table.
    pub table: String,
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
    /// Checksum of those bytes.
    pub crc32c: u32,
    /// Rows.
    pub rows: u64,
    /// Smallest and largest `ts`, microseconds since 1970.
    pub ts: (i64, i64),
    /// Smallest and largest `host`.
    pub host: (String, String),
}

/// Records of one run of one agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taken {
    /// Id of the agent.
    pub agent: String,
    /// Its run.
    pub boot: u64,
    /// Which of its records.
    pub seqs: Seqs,
}

impl Footer {
    /// Name of the segment.
    pub fn path(&self) -> Path {
        self.partition.segment(self.first)
    }

    /// The part of that table.
    pub fn part(&self, table: &str) -> Option<&Part> {
        self.parts.binary_search_by(|p| p.table.as_str().cmp(table)).ok().map(|at| &self.parts[at])
    }
}

/// Everything needed to write a segment.
#[derive(Debug)]
pub struct Draft {
    /// Where the rows came from.
    pub partition: PartitionId,
    /// First offset covered.
    pub first: u64,
    /// The offset after the last one covered.
    pub next: u64,
    /// Which run of a collector writes it.
    pub writer: String,
    /// Now, microseconds since 1970.
    pub written_us: i64,
    /// Rows by table, in the table's schema.
    pub tables: Vec<(Arc<Table>, Vec<RecordBatch>)>,
    /// The records taken.
    pub taken: Vec<Taken>,
}

/// Encodes a draft. Costs CPU in proportion to the rows; run it where it may block.
///
/// # Errors
/// When Arrow refuses the rows, which schemas checked before make impossible short of a bug.
pub fn encode(draft: Draft) -> Result<(Footer, Bytes), StoreError> {
    let mut out = Vec::with_capacity(64 * 1024);
    let mut parts = Vec::with_capacity(draft.tables.len());
    for (table, batches) in &draft.tables {
        let batch = arrow_select::concat::concat_batches(table.schema(), batches)
            .map_err(|e| StoreError::rows("join", &table.name, e))?;
        if batch.num_rows() == 0 {
            continue;
        }
        let offset = out.len();
        write_batch(&mut out, &batch).map_err(|e| StoreError::rows("encode", &table.name, e))?;
        parts.push(Part {
            table: table.name.clone(),
            offset: offset as u64,
            length: (out.len() - offset) as u64,
            crc32c: crc32c::crc32c(&out[offset..]),
            rows: batch.num_rows() as u64,
            ts: ts_range(&batch),
            host: host_range(&batch),
        });
    }
    parts.sort_by(|a, b| a.table.cmp(&b.table));
    let footer = Footer {
        partition: draft.partition,
        first: draft.first,
        next: draft.next,
        writer: draft.writer,
        written_us: draft.written_us,
        parts,
        taken: draft.taken,
    };
    let json = serde_json::to_vec(&footer).map_err(|e| StoreError::rows("describe", "segment", e))?;
    let length = u32::try_from(json.len()).map_err(|e| StoreError::rows("describe", "segment", e))?;
    out.extend_from_slice(&json);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&crc32c::crc32c(&json).to_le_bytes());
    out.extend_from_slice(MAGIC);
    Ok((footer, out.into()))
}

fn write_batch(out: &mut Vec<u8>, batch: &RecordBatch) -> Result<(), arrow_schema::ArrowError> {
    let options = IpcWriteOptions::default().try_with_compression(Some(CompressionType::LZ4_FRAME))?;
    let mut writer = StreamWriter::try_new_with_options(out, batch.schema_ref(), options)?;
    writer.write(batch)?;
    writer.finish()
}

/// Smallest and largest `ts` of a batch that has rows.
pub(crate) fn ts_range(batch: &RecordBatch) -> (i64, i64) {
    let ts = batch.column(0).as_primitive::<TimestampMicrosecondType>();
    let values = ts.values();
    (values.iter().copied().min().unwrap_or(0), values.iter().copied().max().unwrap_or(0))
}

fn host_range(batch: &RecordBatch) -> (String, String) {
    let hosts = batch.column(2).as_string::<i32>();
    let mut range: Option<(&str, &str)> = None;
    for host in (0..hosts.len()).map(|at| hosts.value(at)) {
        range = Some(range.map_or((host, host), |(min, max)| (min.min(host), max.max(host))));
    }
    range.map(|(min, max)| (min.to_owned(), max.to_owned())).unwrap_or_default()
}

/// How many bytes from the object's end the footer begins, told by the object's last [`TRAILER`] bytes.
///
/// # Errors
/// `Damaged` when these are not the last bytes of a segment.
pub fn footer_length(path: &Path, trailer: &[u8]) -> Result<usize, StoreError> {
    let damaged = |what: &str| StoreError::Damaged { path: path.to_string(), what: what.to_owned() };
    let trailer: &[u8; TRAILER] = trailer.try_into().map_err(|_| damaged("it is shorter than a trailer"))?;
    if &trailer[8..] != MAGIC {
        return Err(damaged("it does not end as a segment ends"));
    }
    Ok(u32::from_le_bytes([trailer[0], trailer[1], trailer[2], trailer[3]]) as usize)
}

/// Reads the footer from the end of a segment: at least the footer and the trailer, more is fine.
///
/// # Errors
/// `Damaged` when checksum or form are wrong, or `tail` does not reach back to the footer's beginning.
pub fn read_footer(path: &Path, tail: &[u8]) -> Result<Footer, StoreError> {
    let damaged = |what: String| StoreError::Damaged { path: path.to_string(), what };
    let split = tail.len().checked_sub(TRAILER).ok_or_else(|| damaged("it is shorter than a trailer".into()))?;
    let (before, trailer) = tail.split_at(split);
    let length = footer_length(path, trailer)?;
    let start = before.len().checked_sub(length).ok_or_else(|| damaged("its footer is longer than itself".into()))?;
    let json = &before[start..];
    let checksum = u32::from_le_bytes([trailer[4], trailer[5], trailer[6], trailer[7]]);
    if crc32c::crc32c(json) != checksum {
        return Err(damaged("the footer's checksum is wrong".into()));
    }
    serde_json::from_slice(json).map_err(|e| damaged(format!("the footer cannot be read: {e}")))
}

/// Reads one table's rows from its bytes.
///
/// # Errors
/// `Damaged` when checksum or form are wrong.
pub fn read_part(path: &Path, part: &Part, bytes: &[u8]) -> Result<RecordBatch, StoreError> {
    let damaged = |what: String| StoreError::Damaged { path: path.to_string(), what };
    if crc32c::crc32c(bytes) != part.crc32c {
        return Err(damaged(format!("the checksum of table {} is wrong", part.table)));
    }
    let reader = StreamReader::try_new(bytes, None).map_err(|e| damaged(e.to_string()))?;
    let schema = reader.schema();
    let batches = reader.collect::<Result<Vec<_>, _>>().map_err(|e| damaged(e.to_string()))?;
    match <[RecordBatch; 1]>::try_from(batches) {
        Ok([batch]) => Ok(batch),
        Err(batches) => arrow_select::concat::concat_batches(&schema, &batches).map_err(|e| damaged(e.to_string())),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use nodescope_model::catalogue::Catalogue;
    use nodescope_model::rows::{Rows, Stamp};
    use proptest::prelude::*;

    use super::*;

    /// `rows` rows of `memory`, one a second from `from` seconds on.
    pub(crate) fn memory_rows(catalogue: &Catalogue, host: &str, from: i64, rows: i64) -> (Arc<Table>, RecordBatch) {
        let table = catalogue.get("memory").unwrap();
        let mut builder = Rows::new(table);
        let batches: Vec<_> = (from..from + rows)
            .map(|second| {
                builder.begin().int("total_bytes", second);
                builder.finish(&Stamp { ts_micros: second * 1_000_000, node: "n", host })
            })
            .collect();
        (table.clone(), arrow_select::concat::concat_batches(table.schema(), &batches).unwrap())
    }

    pub(crate) fn draft(catalogue: &Catalogue, first: u64, next: u64, hosts: &[&str]) -> Draft {
        let tables = hosts.iter().map(|h| memory_rows(catalogue, h, first as i64, (next - first) as i64));
        let (table, _) = memory_rows(catalogue, "", 0, 0);
        Draft {
            partition: PartitionId::new("t", 0),
            first,
            next,
            writer: "w".into(),
            written_us: 1,
            tables: vec![(table, tables.map(|(_, b)| b).collect())],
            taken: vec![Taken { agent: "a".into(), boot: 1, seqs: Seqs::from(vec![(first, next - 1)]) }],
        }
    }

    #[test]
    fn a_segment_comes_back() {
        let catalogue = Catalogue::built_in();
        let (footer, bytes) = encode(draft(&catalogue, 10, 15, &["b", "a"])).unwrap();
        let path = footer.path();
        assert_eq!(read_footer(&path, &bytes).unwrap(), footer);
        let part = footer.part("memory").unwrap();
        assert_eq!((part.rows, part.ts), (10, (10_000_000, 14_000_000)));
        assert_eq!(part.host, ("a".into(), "b".into()));
        let range = part.offset as usize..(part.offset + part.length) as usize;
        assert_eq!(read_part(&path, part, &bytes[range]).unwrap().num_rows(), 10);
        assert!(footer.part("cpu").is_none());
    }

    #[test]
    fn a_segment_may_be_empty() {
        let catalogue = Catalogue::built_in();
        let (footer, bytes) = encode(draft(&catalogue, 3, 4, &[])).unwrap();
        assert!(footer.parts.is_empty());
        assert_eq!(read_footer(&footer.path(), &bytes).unwrap(), footer);
    }

    proptest! {
        #[test]
        fn every_changed_byte_is_noticed(at in any::<prop::sample::Index>(), change in 1u8..) {
            let catalogue = Catalogue::built_in();
            let (footer, bytes) = encode(draft(&catalogue, 10, 15, &["a"])).unwrap();
            let path = footer.path();
            let mut changed = bytes.to_vec();
            let at = at.index(changed.len());
            changed[at] ^= change;
            if let Ok(read) = read_footer(&path, &changed) {
                prop_assert_eq!(&read, &footer);
                let part = read.part("memory").unwrap();
                let range = part.offset as usize..(part.offset + part.length) as usize;
                prop_assert!(read_part(&path, part, &changed[range]).is_err());
            }
        }

        #[test]
        fn random_bytes_are_damaged_segments(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(read_footer(&Path::from("x"), &bytes).is_err());
        }
    }
}
