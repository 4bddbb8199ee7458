//! Rows on the wire: Arrow's columns as PostgreSQL's rows.
//!
//! `arrow-pg` encodes single values, in text and in binary. Around it stand the things that it leaves open: times
//! with a zone are shown in the zone of the session, whatever zone they are stored with; types that PostgreSQL does
//! not have are sent as the nearest one it has; a NULL is a NULL in every type. A batch is turned into rows one by
//! one, so that no more of them exist at a time than the client takes.

use std::sync::Arc;

use arrow_pg::datatypes::field_into_pg_type;
use arrow_pg::encoder::encode_value;
use chrono::DateTime;
use datafusion::arrow::array::timezone::Tz;
use datafusion::arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Field, Schema, TimeUnit, TimestampMicrosecondType};
use pgwire::api::Type;
use pgwire::api::results::{DataRowEncoder, FieldFormat, FieldInfo};
use pgwire::messages::data::{DataRow, FieldDescription, RowDescription};
use pgwire::types::format::FormatOptions;

use super::errors::Failure;
use super::maps;
use crate::session::SessionSettings;

/// The columns of a result: their names, their types in both worlds, and how they are written.
#[derive(Debug, Clone)]
pub(super) struct RowShape {
    columns: Vec<Arc<Field>>,
    fields: Arc<Vec<FieldInfo>>,
}

impl RowShape {
    /// The shape of results with this schema. `formats` are the client's: none for text, one for all, or one each.
    ///
    /// # Errors
    /// When the number of formats does not fit, or a column has a type that PostgreSQL has no likeness of.
    pub(super) fn new(schema: &Schema, formats: &[i16], settings: &SessionSettings) -> Result<Self, Failure> {
        let zone: Arc<str> = settings.time_zone().into();
        let options = Arc::new(format_options(settings));
        let columns: Vec<Arc<Field>> = schema
            .fields()
            .iter()
            .map(|field| {
                let wire = wire_type(field.data_type(), &zone);
                Arc::new(field.as_ref().clone().with_data_type(wire))
            })
            .collect();
        if formats.len() > 1 && formats.len() != columns.len() {
            return Err(Failure::new(
                "08P01",
                format!("{} result formats are given for {} columns", formats.len(), columns.len()),
            ));
        }
        let fields = columns
            .iter()
            .enumerate()
            .map(|(index, column)| {
                let pg_type = field_into_pg_type(column).map_err(|_| {
                    Failure::new("0A000", format!("column \"{}\" has a type that cannot be sent", column.name()))
                        .hint("Cast it, for instance to text, or take a part of it.")
                })?;
                let format = formats.get(index).or(formats.first()).copied().unwrap_or(0);
                let size = type_size(&pg_type);
                Ok(FieldInfo::new(column.name().clone(), None, None, pg_type, FieldFormat::from(format))
                    .with_type_size(size)
                    .with_format_options(Arc::clone(&options)))
            })
            .collect::<Result<Vec<FieldInfo>, Failure>>()?;
        Ok(RowShape { columns, fields: Arc::new(fields) })
    }

    /// The types of the columns, as the client knows them.
    pub(super) fn types(&self) -> impl Iterator<Item = &Type> {
        self.fields.iter().map(FieldInfo::datatype)
    }

    /// The message that describes the columns.
    pub(super) fn description(&self) -> RowDescription {
        RowDescription::new(self.fields.iter().map(FieldDescription::from).collect())
    }

    /// The rows of a batch.
    ///
    /// # Errors
    /// When the batch does not have this shape, or a value cannot be converted.
    pub(super) fn rows(&self, batch: &RecordBatch) -> Result<BatchRows, Failure> {
        if batch.num_columns() != self.columns.len() {
            return Err(Failure::internal(format!(
                "the engine gave {} columns where it had announced {}",
                batch.num_columns(),
                self.columns.len()
            )));
        }
        let mut columns = Vec::with_capacity(self.columns.len());
        for (array, announced) in batch.columns().iter().zip(&self.columns) {
            let wire = match announced.data_type() {
                DataType::Timestamp(_, Some(zone)) => wire_type(array.data_type(), zone),
                _ => wire_type(array.data_type(), "UTC"),
            };
            let array = if *array.data_type() == wire {
                Arc::clone(array)
            } else if let Some(map) = array.as_map_opt() {
                maps::as_json(map).map_err(|error| Failure::new("22000", error.to_string()))?
            } else {
                cast(array, &wire).map_err(|error| Failure::new("22000", error.to_string()))?
            };
            let field = announced.as_ref().clone().with_data_type(wire);
            columns.push((array, field));
        }
        let encoder = DataRowEncoder::new(Arc::clone(&self.fields));
        Ok(BatchRows { columns, fields: Arc::clone(&self.fields), encoder, next: 0, rows: batch.num_rows() })
    }
}

/// The rows of one batch, of which some may have been taken.
pub(super) struct BatchRows {
    columns: Vec<(ArrayRef, Field)>,
    fields: Arc<Vec<FieldInfo>>,
    encoder: DataRowEncoder,
    next: usize,
    rows: usize,
}

impl BatchRows {
    /// The next row, if there is one.
    pub(super) fn next_row(&mut self) -> Option<Result<DataRow, Failure>> {
        if self.next == self.rows {
            return None;
        }
        let row = self.next;
        self.next += 1;
        for ((array, column), field) in self.columns.iter().zip(self.fields.iter()) {
            let encoded = if array.is_null(row) {
                self.encoder.encode_field(&None::<i8>)
            } else if let Some(text) = time_text(array, row, field) {
                self.encoder.encode_field(&text)
            } else {
                encode_value(&mut self.encoder, array, row, column, field)
            };
            if let Err(error) = encoded {
                let message = format!("a value of column \"{}\" cannot be sent: {error}", column.name());
                return Some(Err(Failure::new("22000", message)));
            }
        }
        Some(Ok(self.encoder.take_row()))
    }
}

/// A time as PostgreSQL writes it in its ISO style; `None` for anything else. The library's own text of a zone leaves
/// out the minutes of its offset, which half of India's time is.
fn time_text(array: &ArrayRef, row: usize, field: &FieldInfo) -> Option<String> {
    let DataType::Timestamp(TimeUnit::Microsecond, zone) = array.data_type() else { return None };
    if field.format() != FieldFormat::Text || !field.format_options().date_style.starts_with("ISO") {
        return None;
    }
    let micros = array.as_primitive::<TimestampMicrosecondType>().value(row);
    let utc = DateTime::from_timestamp_micros(micros)?;
    let local = match zone {
        Some(zone) => utc.with_timezone(&zone.parse::<Tz>().ok()?).fixed_offset(),
        None => utc.fixed_offset(),
    };
    let mut text = local.format("%Y-%m-%d %H:%M:%S%.6f").to_string();
    if let Some(short) = text.strip_suffix(".000000") {
        text.truncate(short.len());
    } else {
        text.truncate(text.trim_end_matches('0').len());
    }
    if zone.is_some() {
        let offset = local.offset().local_minus_utc();
        let (hours, minutes) = (offset.abs() / 3600, offset.abs() / 60 % 60);
        text.push_str(&format!("{}{hours:02}", if offset < 0 { '-' } else { '+' }));
        if minutes > 0 {
            text.push_str(&format!(":{minutes:02}"));
        }
    }
    Some(text)
}

/// The type in which a column is sent: with the session's zone, and without what only Arrow has.
fn wire_type(data_type: &DataType, zone: &str) -> DataType {
    match data_type {
        // PostgreSQL's times are whole microseconds.
        DataType::Timestamp(_, Some(_)) => DataType::Timestamp(TimeUnit::Microsecond, Some(zone.into())),
        DataType::Timestamp(_, None) => DataType::Timestamp(TimeUnit::Microsecond, None),
        DataType::Dictionary(_, values) => wire_type(values, zone),
        DataType::RunEndEncoded(_, values) => wire_type(values.data_type(), zone),
        DataType::Float16 => DataType::Float32,
        DataType::FixedSizeBinary(_) => DataType::Binary,
        DataType::Decimal32(precision, scale) | DataType::Decimal64(precision, scale) => {
            DataType::Decimal128(*precision, *scale)
        }
        // More digits than the encoder can carry; as text none of them is lost. A map becomes JSON.
        DataType::Decimal256(_, _) | DataType::Map(_, _) => DataType::Utf8,
        other => other.clone(),
    }
}

/// `pg_type.typlen`: the width of a value in bytes, or −1 where it varies.
fn type_size(pg_type: &Type) -> i16 {
    match *pg_type {
        Type::BOOL | Type::CHAR => 1,
        Type::INT2 => 2,
        Type::INT4 | Type::FLOAT4 | Type::DATE | Type::OID => 4,
        Type::INT8 | Type::FLOAT8 | Type::TIMESTAMP | Type::TIMESTAMPTZ | Type::TIME => 8,
        Type::INTERVAL => 16,
        _ => -1,
    }
}

fn format_options(settings: &SessionSettings) -> FormatOptions {
    let mut options = FormatOptions::default();
    settings.date_style().clone_into(&mut options.date_style);
    settings.interval_style().clone_into(&mut options.interval_style);
    settings.bytea_output().clone_into(&mut options.bytea_output);
    settings.time_zone().clone_into(&mut options.time_zone);
    options.extra_float_digits = settings.extra_float_digits();
    options
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use datafusion::arrow::array::{
        Decimal128Array, DictionaryArray, Float64Array, Int64Array, IntervalMonthDayNanoArray, StringArray,
        TimestampMicrosecondArray, UInt64Array,
    };
    use datafusion::arrow::datatypes::Int32Type;

    use super::*;

    fn settings(zone: &str) -> SessionSettings {
        let mut settings = SessionSettings::new("ada", Duration::from_secs(1));
        settings.set("timezone", &[zone.to_owned()]).expect("a zone");
        settings
    }

    fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
        RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true)))
            .expect("a batch")
    }

    /// The values of a row, as text.
    fn texts(row: &DataRow) -> Vec<Option<String>> {
        let mut data = &row.data[..];
        let mut values = Vec::new();
        while let Some((length, rest)) = data.split_first_chunk::<4>() {
            match usize::try_from(i32::from_be_bytes(*length)) {
                Err(_) => {
                    values.push(None);
                    data = rest;
                }
                Ok(length) => {
                    let (value, rest) = rest.split_at(length);
                    values.push(Some(String::from_utf8(value.to_vec()).expect("text")));
                    data = rest;
                }
            }
        }
        values
    }

    fn all(batch: &RecordBatch, zone: &str) -> (RowShape, Vec<Vec<Option<String>>>) {
        let shape = RowShape::new(&batch.schema(), &[], &settings(zone)).expect("a shape");
        let mut rows = shape.rows(batch).expect("rows");
        let mut found = Vec::new();
        while let Some(row) = rows.next_row() {
            found.push(texts(&row.expect("a row")));
        }
        (shape, found)
    }

    #[test]
    fn times_are_shown_in_the_zone_of_the_session() {
        let array = TimestampMicrosecondArray::from(vec![Some(1_700_000_000_000_000), None]).with_timezone("UTC");
        let batch = batch(vec![("ts", Arc::new(array))]);
        for (zone, text) in [
            ("UTC", "2023-11-14 22:13:20+00"),
            ("Europe/Berlin", "2023-11-14 23:13:20+01"),
            ("America/St_Johns", "2023-11-14 18:43:20-03:30"),
            ("+05:30", "2023-11-15 03:43:20+05:30"),
        ] {
            let (shape, rows) = all(&batch, zone);
            assert_eq!(shape.types().collect::<Vec<_>>(), [&Type::TIMESTAMPTZ]);
            assert_eq!(rows, [vec![Some(text.to_owned())], vec![None]], "{zone}");
        }
    }

    #[test]
    fn every_type_has_a_form_and_a_null_is_a_null() {
        let dictionary: DictionaryArray<Int32Type> = [Some("a"), None].into_iter().collect();
        let decimal =
            Decimal128Array::from(vec![Some(12_345), None]).with_precision_and_scale(38, 2).expect("a decimal");
        let batch = batch(vec![
            ("n", Arc::new(Int64Array::from(vec![Some(-5), None]))),
            ("u", Arc::new(UInt64Array::from(vec![Some(u64::MAX), None]))),
            ("f", Arc::new(Float64Array::from(vec![Some(1.5), None]))),
            ("t", Arc::new(StringArray::from(vec![Some(""), None]))),
            ("d", Arc::new(dictionary)),
            ("m", Arc::new(decimal)),
            ("i", Arc::new(IntervalMonthDayNanoArray::from(vec![None, None]))),
            ("p", Arc::new(maps::tests::map(&[Some(&[("a\"b", 1), ("c", -2)]), None]))),
        ]);
        let (shape, rows) = all(&batch, "UTC");
        let types: Vec<&Type> = shape.types().collect();
        let expected = [
            Type::INT8,
            Type::NUMERIC,
            Type::FLOAT8,
            Type::TEXT,
            Type::TEXT,
            Type::NUMERIC,
            Type::INTERVAL,
            Type::TEXT,
        ];
        assert_eq!(types, expected.iter().collect::<Vec<_>>());
        let value = |text: &str| Some(text.to_owned());
        let first = ["-5", "18446744073709551615", "1.5", "", "a", "123.45"].map(value);
        assert_eq!(rows[0][..6], first);
        assert_eq!(rows[0][6], None);
        assert_eq!(rows[0][7], value(r#"{"a\"b":1,"c":-2}"#));
        assert_eq!(rows[1], vec![None; 8]);
    }

    #[test]
    fn formats_are_for_all_columns_or_for_each() {
        let batch = batch(vec![("a", Arc::new(Int64Array::from(vec![1]))), ("b", Arc::new(Int64Array::from(vec![2])))]);
        for (formats, lengths) in [(&[][..], [1, 1]), (&[0][..], [1, 1]), (&[1][..], [8, 8]), (&[0, 1][..], [1, 8])] {
            let shape = RowShape::new(&batch.schema(), formats, &settings("UTC")).expect("a shape");
            let row = shape.rows(&batch).expect("rows").next_row().expect("one").expect("a row");
            assert_eq!(row.data.len(), lengths[0] + lengths[1] + 8, "{formats:?}");
        }
        assert!(RowShape::new(&batch.schema(), &[0, 1, 0], &settings("UTC")).is_err());
    }
}
