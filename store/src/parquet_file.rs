//! One file of sealed rows.
//!
//! Rows are sorted by node, host, entity and time, so that the values of one series lie together: a walking counter
//! then costs less than a byte a value, and a question about one host reads a small stretch. Encodings follow what was
//! measured (`ARCHITECTURE.md` has the figures): text by dictionary, integers and times as differences, floats split
//! by byte, all under zstd.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Int64Type, TimestampMicrosecondType};
use arrow_array::{Array, ArrayRef, RecordBatch, UInt32Array};
use arrow_row::{RowConverter, SortField};
use arrow_schema::{DataType, Schema};
use arrow_select::concat::concat_batches;
use arrow_select::take::take_record_batch;
use bytes::Bytes;
use nodescope_model::catalogue::{ColumnType, REVISION, Table};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::metadata::SortingColumn;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::StoreError;

/// Rows of one row group: the unit that a query skips by statistics.
pub const ROW_GROUP_ROWS: usize = 256 * 1024;

/// Text longer than this is left out of file statistics.
const MAX_STATISTIC: usize = 256;

/// A file that has been encoded and not yet put anywhere.
#[derive(Debug)]
pub struct EncodedFile {
    /// The file.
    pub bytes: Bytes,
    /// What Delta's log says about it.
    pub facts: FileStatistics,
}

/// What is known of a file's rows without opening it. The form is Delta's `stats`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FileStatistics {
    /// Rows.
    pub num_records: u64,
    /// Smallest value of each column of the sort order, and of the revision.
    #[serde(default)]
    pub min_values: Map<String, Value>,
    /// Largest value of each column of the sort order, and of the revision.
    #[serde(default)]
    pub max_values: Map<String, Value>,
    /// NULLs by column.
    #[serde(default)]
    pub null_count: Map<String, Value>,
}

impl FileStatistics {
    /// Smallest and largest `ts`, microseconds since 1970. Other writers may cut times to milliseconds, so the range is
    /// widened by one.
    pub fn ts_range(&self) -> Option<(i64, i64)> {
        let micros =
            |value: &Value| chrono::DateTime::parse_from_rfc3339(value.as_str()?).ok().map(|t| t.timestamp_micros());
        Some((micros(self.min_values.get("ts")?)?, micros(self.max_values.get("ts")?)?.saturating_add(1_000)))
    }

    /// Smallest and largest `host`.
    pub fn host_range(&self) -> Option<(&str, &str)> {
        Some((self.min_values.get("host")?.as_str()?, self.max_values.get("host")?.as_str()?))
    }
}

/// Sorts rows into the table's order.
///
/// # Errors
/// When Arrow refuses the rows, which schemas checked before make impossible short of a bug.
pub fn sort(table: &Table, batches: &[RecordBatch]) -> Result<RecordBatch, StoreError> {
    let failed = |e: arrow_schema::ArrowError| StoreError::rows("sort", &table.name, e);
    let batch = concat_batches(table.schema(), batches).map_err(failed)?;
    let keys: Vec<ArrayRef> = sort_keys(table, &batch);
    let fields = keys.iter().map(|k| SortField::new(k.data_type().clone())).collect();
    let rows = RowConverter::new(fields).and_then(|c| c.convert_columns(&keys)).map_err(failed)?;
    if (1..rows.num_rows()).all(|at| rows.row(at - 1) <= rows.row(at)) {
        return Ok(batch);
    }
    let count = u32::try_from(rows.num_rows()).map_err(|e| StoreError::rows("sort", &table.name, e))?;
    let mut order: Vec<u32> = (0..count).collect();
    // Stable, so that rows with equal keys keep the order in which they came.
    order.sort_by(|a, b| rows.row(*a as usize).cmp(&rows.row(*b as usize)));
    take_record_batch(&batch, &UInt32Array::from(order)).map_err(failed)
}

fn sort_keys(table: &Table, batch: &RecordBatch) -> Vec<ArrayRef> {
    table.sort_columns().iter().filter_map(|name| batch.column_by_name(name).cloned()).collect()
}

/// Encodes rows that are in the table's order.
///
/// # Errors
/// When Parquet refuses the rows, which schemas checked before make impossible short of a bug.
pub fn encode(table: &Table, batch: &RecordBatch) -> Result<EncodedFile, StoreError> {
    let failed = |e: parquet::errors::ParquetError| StoreError::rows("write", &table.name, e);
    let mut writer =
        ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties(table, &batch.schema()))).map_err(failed)?;
    writer.write(batch).map_err(failed)?;
    let bytes = writer.into_inner().map_err(failed)?;
    Ok(EncodedFile { bytes: bytes.into(), facts: statistics(table, batch) })
}

/// Reads a whole file back, in the table's schema as it is now: columns added since are NULL.
///
/// # Errors
/// `Damaged` when it is not such a file.
pub fn decode(path: &str, table: &Table, bytes: Bytes) -> Result<Vec<RecordBatch>, StoreError> {
    let damaged = |what: String| StoreError::Damaged { path: path.to_owned(), what };
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes)
        .and_then(|b| b.with_batch_size(64 * 1024).build())
        .map_err(|e| damaged(e.to_string()))?;
    reader
        .map(|batch| {
            let batch = batch.map_err(|e| damaged(e.to_string()))?;
            nodescope_model::conform::conform(&batch, table).map(|c| c.batch).map_err(|e| damaged(e.to_string()))
        })
        .collect()
}

/// A batch may lack columns of the table: whoever reads the file finds them NULL.
fn properties(table: &Table, schema: &Schema) -> WriterProperties {
    let sorting = table
        .sort_columns()
        .iter()
        .filter_map(|name| schema.index_of(name).ok())
        .filter_map(|at| i32::try_from(at).ok())
        .map(|column_idx| SortingColumn { column_idx, descending: false, nulls_first: true })
        .collect();
    let mut properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(3).unwrap_or_default()))
        .set_statistics_enabled(EnabledStatistics::Page)
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .set_sorting_columns(Some(sorting));
    for field in schema.fields() {
        let path = ColumnPath::from(field.name().as_str());
        let encoding = match field.data_type() {
            DataType::Int64 | DataType::Timestamp(_, _) => Encoding::DELTA_BINARY_PACKED,
            DataType::Float64 => Encoding::BYTE_STREAM_SPLIT,
            _ => continue,
        };
        properties = properties.set_column_dictionary_enabled(path.clone(), false).set_column_encoding(path, encoding);
    }
    properties.build()
}

fn statistics(table: &Table, batch: &RecordBatch) -> FileStatistics {
    let mut facts = FileStatistics { num_records: batch.num_rows() as u64, ..FileStatistics::default() };
    let revision = table.revised.then_some(REVISION);
    for name in table.sort_columns().into_iter().chain(revision) {
        let Some(column) = batch.column_by_name(name) else { continue };
        if let Some((min, max)) = range(column) {
            facts.min_values.insert(name.to_owned(), min);
            facts.max_values.insert(name.to_owned(), max);
        }
    }
    for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
        facts.null_count.insert(field.name().clone(), json!(column.null_count()));
    }
    facts
}

fn range(column: &ArrayRef) -> Option<(Value, Value)> {
    match column.data_type() {
        DataType::Utf8 => {
            let text = column.as_string::<i32>();
            let (mut min, mut max): (Option<&str>, Option<&str>) = (None, None);
            for value in text.iter().flatten() {
                min = Some(min.map_or(value, |m| m.min(value)));
                max = Some(max.map_or(value, |m| m.max(value)));
            }
            let (min, max) = (min?, max?);
            (min.len() <= MAX_STATISTIC && max.len() <= MAX_STATISTIC).then(|| (json!(min), json!(max)))
        }
        DataType::Int64 => {
            let values = column.as_primitive::<Int64Type>();
            Some((json!(values.iter().flatten().min()?), json!(values.iter().flatten().max()?)))
        }
        data_type if *data_type == ColumnType::Timestamp.data_type() => {
            let values = column.as_primitive::<TimestampMicrosecondType>();
            let shown = |micros: i64| {
                chrono::DateTime::from_timestamp_micros(micros)
                    .map(|t| json!(t.to_rfc3339_opts(chrono::SecondsFormat::Micros, true)))
            };
            Some((shown(values.iter().flatten().min()?)?, shown(values.iter().flatten().max()?)?))
        }
        _ => None,
    }
}

/// Sorts and encodes on a thread where that may block.
pub(crate) async fn sort_and_encode(table: Arc<Table>, batches: Vec<RecordBatch>) -> Result<EncodedFile, StoreError> {
    let name = table.name.clone();
    tokio::task::spawn_blocking(move || {
        let sorted = sort(&table, &batches)?;
        drop(batches);
        encode(&table, &sorted)
    })
    .await
    .map_err(|e| StoreError::rows("encode", &name, e))?
}

#[cfg(test)]
mod tests {
    use nodescope_model::catalogue::Catalogue;

    use super::*;
    use crate::segment::tests::memory_rows;

    #[test]
    fn rows_come_back_sorted_with_honest_statistics() {
        let catalogue = Catalogue::built_in();
        let (table, late) = memory_rows(&catalogue, "b", 100, 3);
        let (_, early) = memory_rows(&catalogue, "a", 50, 2);
        let (_, earlier) = memory_rows(&catalogue, "b", 10, 1);
        let sorted = sort(&table, &[late, early, earlier]).unwrap();
        let hosts: Vec<_> = sorted.column(2).as_string::<i32>().iter().flatten().collect();
        assert_eq!(hosts, ["a", "a", "b", "b", "b", "b"]);
        let file = encode(&table, &sorted).unwrap();
        let back = decode("x", &table, file.bytes).unwrap();
        assert_eq!(back, [sorted]);
        assert_eq!(file.facts.num_records, 6);
        assert_eq!(file.facts.ts_range(), Some((10_000_000, 102_001_000)));
        assert_eq!(file.facts.host_range(), Some(("a", "b")));
    }

    #[test]
    fn a_file_of_an_older_schema_gains_null_columns() {
        let old = r#"
            table = "grown"
            comment = "A table."
            [[column]]
            name = "one"
            type = "int"
            kind = "gauge"
            unit = "1"
            help = "First."
        "#;
        let new = format!("{old}\n[[column]]\nname = \"two\"\ntype = \"text\"\nkind = \"state\"\nhelp = \"Second.\"\n");
        let catalogue = |text: &str| Catalogue::with_texts(&[("grown.toml", text)]).unwrap();
        let (old, new) = (catalogue(old), catalogue(&new));
        let table = old.get("grown").unwrap();
        let mut rows = nodescope_model::rows::Rows::new(table);
        rows.begin().int("one", 1);
        let batch = rows.finish(&nodescope_model::rows::Stamp { ts_micros: 1, node: "n", host: "h" });
        let file = encode(table, &batch).unwrap();
        let back = decode("x", new.get("grown").unwrap(), file.bytes).unwrap();
        assert_eq!(back[0].column_by_name("two").unwrap().null_count(), 1);
    }
}
