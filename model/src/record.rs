//! One table's rows as a Kafka record, and back.
//!
//! The value is a self-describing Arrow IPC stream: one schema message, one or more record batches. pyarrow opens it
//! with `pyarrow.ipc.open_stream(value).read_all()`. The key is the host. The headers say which table it is and which
//! record ([`Envelope`]); they are text, numbers in decimal, so that any client can write them.
//!
//! Buffers inside are not compressed: Kafka compresses whole batches of records, which does better on small ones, and
//! a reader here never has to believe a length that a stranger wrote.
//!
//! Decoding is where bytes from strangers come in, so [`Decoder`] first walks the framing itself: every length is
//! compared with the bytes that are there before anything is allocated. A schema seen before is recognised by its
//! bytes and not parsed again, which is most of the cost of a small record.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch};
use arrow_buffer::Buffer;
use arrow_ipc::reader::{RecordBatchDecoder, read_dictionary};
use arrow_ipc::writer::{
    DictionaryTracker, IpcDataGenerator, IpcWriteContext, IpcWriteOptions, StreamWriter, write_message,
};
use arrow_ipc::{MessageHeader, MetadataVersion, root_as_message};
use arrow_schema::{ArrowError, DataType, SchemaRef};

use crate::identity::{MAX_AGENT_ID, RecordId};

/// Names of the headers, in the order the agent writes them.
pub mod header {
    /// Name of the table.
    pub const TABLE: &str = "table";
    /// Version of the table's schema.
    pub const SCHEMA: &str = "schema";
    /// Id of the agent.
    pub const AGENT: &str = "agent";
    /// Run of the agent.
    pub const BOOT: &str = "boot";
    /// Number of the record within the boot.
    pub const SEQ: &str = "seq";
    /// How far the host's clock was from the reference, microseconds, when the agent knew.
    pub const CLOCK_OFFSET: &str = "clock_offset_us";
}

/// What the headers of a record say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// Table the rows belong to.
    pub table: String,
    /// Version of its schema that the sender knew.
    pub schema: u32,
    /// Name of the record.
    pub id: RecordId,
    /// Estimated offset of the host's clock, microseconds; `None` when unknown.
    pub clock_offset_us: Option<i64>,
}

/// Why headers could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// A header is not there.
    #[error("header `{0}` is missing")]
    Missing(&'static str),
    /// A header is there and makes no sense.
    #[error("header `{name}` is `{value}`, which is not {expected}")]
    Malformed {
        /// Its name.
        name: &'static str,
        /// What it says, shortened.
        value: String,
        /// What it should be.
        expected: &'static str,
    },
}

impl Envelope {
    /// The headers to send.
    pub fn to_headers(&self) -> Vec<(&'static str, String)> {
        let mut headers = vec![
            (header::TABLE, self.table.clone()),
            (header::SCHEMA, self.schema.to_string()),
            (header::AGENT, self.id.agent.clone()),
            (header::BOOT, self.id.boot.to_string()),
            (header::SEQ, self.id.seq.to_string()),
        ];
        if let Some(offset) = self.clock_offset_us {
            headers.push((header::CLOCK_OFFSET, offset.to_string()));
        }
        headers
    }

    /// Reads headers. Of a header given twice the first counts; unknown ones are left alone.
    ///
    /// # Errors
    /// The first header that is missing or malformed.
    pub fn from_headers<'a>(headers: impl Iterator<Item = (&'a str, Option<&'a [u8]>)>) -> Result<Self, EnvelopeError> {
        let mut found: [Option<&[u8]>; 6] = [None; 6];
        const NAMES: [&str; 6] =
            [header::TABLE, header::SCHEMA, header::AGENT, header::BOOT, header::SEQ, header::CLOCK_OFFSET];
        for (name, value) in headers {
            if let Some(at) = NAMES.iter().position(|n| *n == name)
                && found[at].is_none()
            {
                found[at] = value;
            }
        }
        let [table, schema, agent, boot, seq, clock] = found;
        let agent = text(header::AGENT, agent)?;
        if agent.is_empty() || agent.len() > MAX_AGENT_ID {
            return Err(malformed(header::AGENT, agent, "1 to 128 bytes long"));
        }
        Ok(Self {
            table: text(header::TABLE, table)?.to_owned(),
            schema: number(header::SCHEMA, schema)?,
            id: RecordId { agent: agent.to_owned(), boot: number(header::BOOT, boot)?, seq: number(header::SEQ, seq)? },
            clock_offset_us: match clock {
                Some(_) => Some(number(header::CLOCK_OFFSET, clock)?),
                None => None,
            },
        })
    }
}

fn malformed(name: &'static str, value: &str, expected: &'static str) -> EnvelopeError {
    EnvelopeError::Malformed { name, value: value.chars().take(64).collect(), expected }
}

fn text<'a>(name: &'static str, value: Option<&'a [u8]>) -> Result<&'a str, EnvelopeError> {
    let value = value.ok_or(EnvelopeError::Missing(name))?;
    std::str::from_utf8(value).map_err(|_| malformed(name, &String::from_utf8_lossy(value), "UTF-8 text"))
}

fn number<T: std::str::FromStr>(name: &'static str, value: Option<&[u8]>) -> Result<T, EnvelopeError> {
    let value = text(name, value)?;
    value.parse().map_err(|_| malformed(name, value, "a decimal number in range"))
}

/// How records are written: every buffer begins on a multiple of 8 bytes, the least the format allows. Arrow's own
/// choice is 64, which makes a row of one tick, whose buffers hold a number each, several times as long.
fn options() -> Result<IpcWriteOptions, ArrowError> {
    IpcWriteOptions::try_new(8, false, MetadataVersion::V5)
}

/// A batch as an Arrow IPC stream.
///
/// # Errors
/// Only when the batch holds a type that IPC cannot write; those of the catalogue all can.
pub fn encode(batch: &RecordBatch) -> Result<Vec<u8>, ArrowError> {
    let mut writer = StreamWriter::try_new_with_options(Vec::with_capacity(4096), batch.schema_ref(), options()?)?;
    writer.write(batch)?;
    writer.finish()?;
    writer.into_inner()
}

/// Schemas that an encoder keeps ready.
const MAX_READY: usize = 256;

/// Writes batches as [`encode`] does, for whoever writes many of the same few tables: a table's schema, which is half of
/// a small record, is encoded once.
#[derive(Default)]
pub struct Encoder {
    /// By the schema's place in memory, which it keeps for as long as it is here.
    ready: HashMap<usize, (SchemaRef, Vec<u8>)>,
    context: IpcWriteContext,
    longest: usize,
}

impl Encoder {
    /// A batch as an Arrow IPC stream.
    ///
    /// # Errors
    /// Only when the batch holds a type that IPC cannot write; those of the catalogue all can.
    pub fn encode(&mut self, batch: &RecordBatch) -> Result<Vec<u8>, ArrowError> {
        let options = options()?;
        let mut tracker = DictionaryTracker::new(false);
        let schema = batch.schema_ref();
        let place = Arc::as_ptr(schema) as usize;
        if !self.ready.contains_key(&place) {
            if self.ready.len() >= MAX_READY {
                self.ready.clear();
            }
            let message =
                IpcDataGenerator::default().schema_to_bytes_with_dictionary_tracker(schema, &mut tracker, &options);
            let mut head = Vec::new();
            write_message(&mut head, message, &options)?;
            self.ready.insert(place, (schema.clone(), head));
        }
        let head = self.ready.get(&place).map_or(&[][..], |(_, head)| head.as_slice());
        let (dictionaries, data) =
            IpcDataGenerator::default().encode(batch, &mut tracker, &options, &mut self.context)?;
        if !dictionaries.is_empty() {
            return encode(batch);
        }
        let mut out = Vec::with_capacity(self.longest);
        out.extend_from_slice(head);
        write_message(&mut out, data, &options)?;
        // The end of a stream: a continuation without a message.
        out.extend_from_slice(&[0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]);
        self.longest = self.longest.max(out.len());
        Ok(out)
    }
}

/// Why the value of a record could not be read.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// The framing does not add up: cut short, or never a stream.
    #[error("not an Arrow IPC stream: {0}")]
    Framing(&'static str),
    /// The framing is right and what it frames is not.
    #[error("the Arrow IPC stream cannot be read: {0}")]
    Arrow(String),
    /// Something this reader declines on purpose.
    #[error("{0}")]
    Declined(&'static str),
}

/// Most rows taken from one record.
pub const MAX_ROWS: usize = 1 << 20;

/// Schemas remembered by a decoder.
const MAX_SCHEMAS: usize = 256;

/// Reads record values. Keeps the schemas it has seen.
#[derive(Default)]
pub struct Decoder {
    schemas: HashMap<Vec<u8>, SchemaRef>,
}

impl Decoder {
    /// All batches of a record's value.
    ///
    /// # Errors
    /// When the bytes are not such a stream. Never panics, and never allocates more than a small multiple of what
    /// it was given.
    pub fn decode(&mut self, value: &Buffer) -> Result<Vec<RecordBatch>, DecodeError> {
        // Arrow checks offsets, lengths and UTF-8 and reports what is wrong. Should it ever panic on bytes we have
        // not thought of, that record is bad, not this process.
        match catch_unwind(AssertUnwindSafe(|| self.decode_stream(value))) {
            Ok(result) => result,
            Err(_) => Err(DecodeError::Declined("the Arrow reader gave up on these bytes")),
        }
    }

    fn decode_stream(&mut self, value: &Buffer) -> Result<Vec<RecordBatch>, DecodeError> {
        let mut rest = Frames { bytes: value.clone() };
        let Some(first) = rest.next_frame()? else { return Err(DecodeError::Framing("it is empty")) };
        let schema = self.schema(&first.metadata)?;
        let mut dictionaries: HashMap<i64, ArrayRef> = HashMap::new();
        let mut batches = Vec::new();
        let mut rows = 0usize;
        while let Some(frame) = rest.next_frame()? {
            let message = root_as_message(&frame.metadata).map_err(|e| DecodeError::Arrow(e.to_string()))?;
            match message.header_type() {
                MessageHeader::RecordBatch => {
                    let batch = message.header_as_record_batch().ok_or(DecodeError::Framing("an empty message"))?;
                    let length =
                        usize::try_from(batch.length()).map_err(|_| DecodeError::Framing("a negative length"))?;
                    rows = rows.saturating_add(length);
                    if rows > MAX_ROWS {
                        return Err(DecodeError::Declined("more than 1048576 rows in one record"));
                    }
                    if batch.compression().is_some() {
                        return Err(DecodeError::Declined("compressed buffers: leave compression to Kafka"));
                    }
                    let batch = RecordBatchDecoder::try_new(
                        &frame.body,
                        batch,
                        schema.clone(),
                        &dictionaries,
                        &message.version(),
                    )
                    .and_then(RecordBatchDecoder::read_record_batch)
                    .map_err(|e| DecodeError::Arrow(e.to_string()))?;
                    batches.push(batch);
                }
                MessageHeader::DictionaryBatch => {
                    let dictionary =
                        message.header_as_dictionary_batch().ok_or(DecodeError::Framing("an empty message"))?;
                    if dictionary.data().is_none_or(|d| d.compression().is_some()) {
                        return Err(DecodeError::Declined("compressed buffers: leave compression to Kafka"));
                    }
                    read_dictionary(&frame.body, dictionary, &schema, &mut dictionaries, &message.version())
                        .map_err(|e| DecodeError::Arrow(e.to_string()))?;
                }
                _ => return Err(DecodeError::Framing("a message that is neither batch nor dictionary")),
            }
        }
        Ok(batches)
    }

    fn schema(&mut self, metadata: &Buffer) -> Result<SchemaRef, DecodeError> {
        if let Some(schema) = self.schemas.get(metadata.as_slice()) {
            return Ok(schema.clone());
        }
        let message = root_as_message(metadata).map_err(|e| DecodeError::Arrow(e.to_string()))?;
        let schema = message.header_as_schema().ok_or(DecodeError::Framing("it does not begin with a schema"))?;
        let schema = Arc::new(arrow_ipc::convert::fb_to_schema(schema));
        if schema.fields().iter().any(|f| !is_flat(f.data_type()) && !is_map(f.data_type())) {
            return Err(DecodeError::Declined(
                "nested columns: a table's columns are plain values, or maps from text to them",
            ));
        }
        if self.schemas.len() >= MAX_SCHEMAS {
            self.schemas.clear();
        }
        self.schemas.insert(metadata.to_vec(), schema.clone());
        Ok(schema)
    }
}

/// Whether a column of this type could be cast to one of the catalogue's types. Nested types are declined before
/// their buffers are looked at, which keeps the reader's work proportional to the bytes.
fn is_flat(data_type: &DataType) -> bool {
    match data_type {
        DataType::Dictionary(key, value) => {
            key.is_integer() && is_flat(value) && !matches!(**value, DataType::Dictionary(..))
        }
        other => !other.is_nested() && !matches!(other, DataType::FixedSizeBinary(_)),
    }
}

/// Whether it is a map from text to plain values. Each entry costs the bytes of its key's offset at least.
fn is_map(data_type: &DataType) -> bool {
    let DataType::Map(entries, _) = data_type else { return false };
    let DataType::Struct(parts) = entries.data_type() else { return false };
    let [key, value] = parts.as_ref() else { return false };
    matches!(key.data_type(), DataType::Utf8 | DataType::LargeUtf8)
        && is_flat(value.data_type())
        && !matches!(value.data_type(), DataType::Null | DataType::Dictionary(..))
}

/// One message: its metadata and its body, both within the bytes that were given.
struct Frame {
    metadata: Buffer,
    body: Buffer,
}

/// The messages of a stream, one after the other.
struct Frames {
    bytes: Buffer,
}

impl Frames {
    fn next_frame(&mut self) -> Result<Option<Frame>, DecodeError> {
        let Some(mut length) = self.u32() else { return Ok(None) };
        if length == u32::MAX {
            length = self.u32().ok_or(DecodeError::Framing("cut short in a message's length"))?;
        }
        if length == 0 {
            return Ok(None);
        }
        let metadata = self.take(length as usize).ok_or(DecodeError::Framing("cut short in a message's metadata"))?;
        let body_length = root_as_message(&metadata).map_err(|e| DecodeError::Arrow(e.to_string()))?.bodyLength();
        let body = usize::try_from(body_length)
            .ok()
            .and_then(|n| self.take(n))
            .ok_or(DecodeError::Framing("cut short in a message's body"))?;
        Ok(Some(Frame { metadata, body }))
    }

    fn u32(&mut self) -> Option<u32> {
        let bytes = self.take(4)?;
        Some(u32::from_le_bytes(bytes.as_slice().try_into().ok()?))
    }

    fn take(&mut self, length: usize) -> Option<Buffer> {
        if length > self.bytes.len() {
            return None;
        }
        let taken = self.bytes.slice_with_length(0, length);
        self.bytes = self.bytes.slice(length);
        Some(taken)
    }
}

#[cfg(test)]
mod tests {
    use arrow_array::{Int64Array, StringArray};
    use arrow_schema::{Field, Schema};
    use proptest::prelude::*;

    use super::*;
    use crate::catalogue::{Catalogue, ColumnType, Table};
    use crate::rows::{Rows, Stamp};

    fn batch() -> RecordBatch {
        let schema =
            Schema::new(vec![Field::new("host", DataType::Utf8, false), Field::new("value", DataType::Int64, true)]);
        RecordBatch::try_new(
            Arc::new(schema),
            vec![
                Arc::new(StringArray::from(vec!["a", "b", "c"])),
                Arc::new(Int64Array::from(vec![Some(1), None, Some(3)])),
            ],
        )
        .unwrap()
    }

    fn envelope() -> Envelope {
        Envelope {
            table: "cpu".into(),
            schema: 3,
            id: RecordId { agent: "a-1".into(), boot: 7, seq: 42 },
            clock_offset_us: Some(-5),
        }
    }

    fn read(headers: &[(&'static str, String)]) -> Result<Envelope, EnvelopeError> {
        Envelope::from_headers(headers.iter().map(|(n, v)| (*n, Some(v.as_bytes()))))
    }

    #[test]
    fn headers_come_back() {
        assert_eq!(read(&envelope().to_headers()).unwrap(), envelope());
        let unknown_clock = Envelope { clock_offset_us: None, ..envelope() };
        assert_eq!(read(&unknown_clock.to_headers()).unwrap(), unknown_clock);
    }

    #[test]
    fn each_missing_or_malformed_header_is_named() {
        for at in 0..5 {
            let mut headers = envelope().to_headers();
            let (name, _) = headers.remove(at);
            assert_eq!(read(&headers).unwrap_err(), EnvelopeError::Missing(name));
        }
        for (at, bad) in [(1, "-1"), (3, "x"), (4, "1.5"), (2, ""), (5, "soon")] {
            let mut headers = envelope().to_headers();
            headers[at].1 = bad.into();
            assert!(matches!(read(&headers).unwrap_err(), EnvelopeError::Malformed { .. }), "{bad}");
        }
    }

    #[test]
    fn a_batch_comes_back_and_its_schema_is_parsed_once() {
        let value = Buffer::from_vec(encode(&batch()).unwrap());
        let mut decoder = Decoder::default();
        let first = decoder.decode(&value).unwrap();
        let second = decoder.decode(&value).unwrap();
        assert_eq!(first, [batch()]);
        assert!(Arc::ptr_eq(first[0].schema_ref(), second[0].schema_ref()));
    }

    #[test]
    fn a_stream_cut_short_is_an_error_wherever_it_is_cut() {
        let value = encode(&batch()).unwrap();
        let end_of_stream = 8;
        for length in 0..value.len() - end_of_stream {
            let cut = Buffer::from_vec(value[..length].to_vec());
            let rows = Decoder::default().decode(&cut).map(|b| b.iter().map(RecordBatch::num_rows).sum::<usize>());
            // Cut exactly between two messages it is a shorter stream, which is a stream.
            assert!(rows.is_err() || rows.is_ok_and(|r| r == 0), "{length}");
        }
    }

    #[test]
    fn dictionaries_are_understood() {
        use arrow_array::{DictionaryArray, types::Int32Type};
        let column: DictionaryArray<Int32Type> = ["x", "y", "x"].into_iter().collect();
        let batch = RecordBatch::try_from_iter([("d", Arc::new(column) as ArrayRef)]).unwrap();
        let value = Buffer::from_vec(encode(&batch).unwrap());
        assert_eq!(Decoder::default().decode(&value).unwrap(), [batch]);
    }

    /// A row of every built-in table with something in each column.
    fn full_rows() -> Vec<(Arc<Table>, RecordBatch)> {
        let catalogue = Catalogue::built_in();
        let stamp = Stamp { ts_micros: 1_000_000, node: "n", host: "h" };
        let of = |table: &Arc<Table>| {
            let mut rows = Rows::new(table);
            let mut row = rows.begin();
            for column in &table.columns {
                match column.column_type {
                    ColumnType::Int => row.int(&column.name, 7),
                    ColumnType::Float => row.float(&column.name, 0.5),
                    ColumnType::Text => row.text(&column.name, "text"),
                    ColumnType::Bool => row.bool(&column.name, true),
                    ColumnType::Timestamp => row.timestamp(&column.name, 1_000_000),
                    ColumnType::Bytes => row.bytes(&column.name, &b"bytes"[..]),
                    ColumnType::IntMap => row.int_map(&column.name, [("one", 1), ("two", 2)]),
                    ColumnType::TextMap => row.text_map(&column.name, [("a", "b"), ("c", "d")]),
                };
            }
            (table.clone(), rows.finish(&stamp))
        };
        catalogue.tables().map(of).collect()
    }

    #[test]
    fn every_table_goes_through_kafka_as_it_is() {
        let (mut decoder, mut encoder) = (Decoder::default(), Encoder::default());
        for (table, batch) in full_rows() {
            let value = Buffer::from_vec(encode(&batch).unwrap());
            let decoded = decoder.decode(&value).unwrap_or_else(|error| panic!("{}: {error}", table.name));
            assert_eq!(decoded, std::slice::from_ref(&batch), "{}", table.name);
            for _ in 0..2 {
                assert_eq!(encoder.encode(&batch).unwrap(), value.as_slice(), "{}", table.name);
            }
            let conformed =
                crate::conform::conform(&decoded[0], &table).unwrap_or_else(|e| panic!("{}: {e}", table.name));
            assert_eq!(conformed.batch, batch, "{}", table.name);
        }
    }

    #[test]
    fn other_nested_columns_are_declined() {
        use arrow_array::builder::{Int64Builder, ListBuilder};
        let mut lists = ListBuilder::new(Int64Builder::new());
        lists.append_value([Some(1)]);
        let batch = RecordBatch::try_from_iter([("l", Arc::new(lists.finish()) as ArrayRef)]).unwrap();
        let error = Decoder::default().decode(&Buffer::from_vec(encode(&batch).unwrap())).unwrap_err();
        assert!(matches!(error, DecodeError::Declined(_)), "{error}");
    }

    #[test]
    fn compressed_buffers_are_declined() {
        use arrow_ipc::{CompressionType, writer::IpcWriteOptions};
        let options = IpcWriteOptions::default().try_with_compression(Some(CompressionType::LZ4_FRAME)).unwrap();
        let mut writer = StreamWriter::try_new_with_options(Vec::new(), batch().schema_ref(), options).unwrap();
        writer.write(&batch()).unwrap();
        writer.finish().unwrap();
        let value = Buffer::from_vec(writer.into_inner().unwrap());
        let error = Decoder::default().decode(&value).unwrap_err();
        assert!(matches!(error, DecodeError::Declined(_)), "{error}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn mutated_maps_never_panic(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
            static WHOLE: std::sync::LazyLock<Vec<u8>> = std::sync::LazyLock::new(|| {
                let (_, batch) = full_rows().into_iter().find(|(table, _)| table.name == "rdma").unwrap();
                encode(&batch).unwrap()
            });
            let mut value = WHOLE.clone();
            for (at, byte) in changes {
                let at = at.index(value.len());
                value[at] = byte;
            }
            let _ = Decoder::default().decode(&Buffer::from_vec(value));
        }

        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Decoder::default().decode(&Buffer::from_vec(bytes));
        }

        #[test]
        fn mutated_records_never_panic(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
            let mut value = encode(&batch()).unwrap();
            for (at, byte) in changes {
                let at = at.index(value.len());
                value[at] = byte;
            }
            let _ = Decoder::default().decode(&Buffer::from_vec(value));
        }
    }
}
