//! The values of one column under construction.
//!
//! [`crate::rows`] fills a few rows by the names of columns; whoever makes millions names its columns once and fills these.

use std::sync::Arc;

use arrow_array::ArrayRef;
use arrow_array::builder::{
    ArrayBuilder, BinaryBuilder, BooleanBuilder, Float64Builder, Int64Builder, MapBuilder, MapFieldNames,
    StringBuilder, TimestampMicrosecondBuilder,
};

use crate::catalogue::ColumnType;

/// Bytes of a text that room is made for.
const TEXT: usize = 16;

/// Values of one column, by its type.
#[derive(Debug)]
pub enum Cells {
    /// Whole numbers.
    Int(Int64Builder),
    /// Numbers.
    Float(Float64Builder),
    /// Texts.
    Text(StringBuilder),
    /// Yes and no.
    Bool(BooleanBuilder),
    /// Microseconds since 1970, UTC.
    Timestamp(TimestampMicrosecondBuilder),
    /// Bytes.
    Bytes(BinaryBuilder),
    /// Names with a number each.
    IntMap(MapBuilder<StringBuilder, Int64Builder>),
    /// Names with a text each.
    TextMap(MapBuilder<StringBuilder, StringBuilder>),
}

/// The names that [`ColumnType::data_type`] gives the parts of a map.
fn map_names() -> Option<MapFieldNames> {
    Some(MapFieldNames { entry: "key_value".to_owned(), key: "key".to_owned(), value: "value".to_owned() })
}

impl Cells {
    /// None yet, with room for so many at first. (Arrow's own guess is 1,024.)
    pub fn new(column_type: ColumnType, rows: usize) -> Self {
        match column_type {
            ColumnType::Int => Self::Int(Int64Builder::with_capacity(rows)),
            ColumnType::Float => Self::Float(Float64Builder::with_capacity(rows)),
            ColumnType::Text => Self::Text(StringBuilder::with_capacity(rows, TEXT * rows)),
            ColumnType::Bool => Self::Bool(BooleanBuilder::with_capacity(rows)),
            ColumnType::Timestamp => Self::Timestamp(
                TimestampMicrosecondBuilder::with_capacity(rows).with_data_type(ColumnType::Timestamp.data_type()),
            ),
            ColumnType::Bytes => Self::Bytes(BinaryBuilder::with_capacity(rows, TEXT * rows)),
            ColumnType::IntMap => Self::IntMap(MapBuilder::new(map_names(), StringBuilder::new(), Int64Builder::new())),
            ColumnType::TextMap => {
                Self::TextMap(MapBuilder::new(map_names(), StringBuilder::new(), StringBuilder::new()))
            }
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Self::Int(b) => b.len(),
            Self::Float(b) => b.len(),
            Self::Text(b) => b.len(),
            Self::Bool(b) => b.len(),
            Self::Timestamp(b) => b.len(),
            Self::Bytes(b) => b.len(),
            Self::IntMap(b) => b.len(),
            Self::TextMap(b) => b.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Nobody knows.
    pub fn append_null(&mut self) {
        match self {
            Self::Int(b) => b.append_null(),
            Self::Float(b) => b.append_null(),
            Self::Text(b) => b.append_null(),
            Self::Bool(b) => b.append_null(),
            Self::Timestamp(b) => b.append_null(),
            Self::Bytes(b) => b.append_null(),
            Self::IntMap(b) => end_map(b, false),
            Self::TextMap(b) => end_map(b, false),
        }
    }

    /// Takes them; none remain.
    pub fn finish(&mut self) -> ArrayRef {
        match self {
            Self::Int(b) => Arc::new(b.finish()),
            Self::Float(b) => Arc::new(b.finish()),
            Self::Text(b) => Arc::new(b.finish()),
            Self::Bool(b) => Arc::new(b.finish()),
            Self::Timestamp(b) => Arc::new(b.finish()),
            Self::Bytes(b) => Arc::new(b.finish()),
            Self::IntMap(b) => Arc::new(b.finish()),
            Self::TextMap(b) => Arc::new(b.finish()),
        }
    }
}

/// Ends a map's row: with what was put into it, or NULL.
///
/// # Panics
/// When keys and values are of different number: they are appended in pairs.
pub fn end_map<V: ArrayBuilder>(map: &mut MapBuilder<StringBuilder, V>, is_there: bool) {
    map.append(is_there).expect("keys and values are appended in pairs");
}
