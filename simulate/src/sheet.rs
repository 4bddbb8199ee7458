//! Rows of one table under construction, many at a time.
//!
//! [`nodescope_model::rows`] finds a column by its name at every cell, which is right for an agent's few rows a second
//! and wrong for a hundred million. Here the columns that will have values are named once; cells are then given in
//! that order. Columns that were not named are NULL, or left out of the batch where the reader adds them.

use std::sync::Arc;

use arrow_array::builder::{
    ArrayBuilder, BooleanBuilder, Float64Builder, Int64Builder, MapBuilder, MapFieldNames, StringBuilder,
    TimestampMicrosecondBuilder,
};
use arrow_array::{ArrayRef, RecordBatch, new_null_array};
use arrow_schema::{ArrowError, Schema, SchemaRef};
use nodescope_model::catalogue::{COMMON_COLUMNS, ColumnType, Table};

/// One value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Datum<'a> {
    /// Nobody knows.
    Null,
    /// A whole number.
    Int(i64),
    /// A number.
    Float(f64),
    /// A text.
    Text(&'a str),
    /// Yes or no.
    Bool(bool),
    /// A time, microseconds since 1970.
    Time(i64),
    /// Names with a number each.
    Numbers(&'a [(String, i64)]),
    /// Names with a text each.
    Texts(&'a [(String, String)]),
}

enum Cells {
    Numbers(MapBuilder<StringBuilder, Int64Builder>),
    Texts(MapBuilder<StringBuilder, StringBuilder>),
    Int(Int64Builder),
    Float(Float64Builder),
    Text(StringBuilder),
    Bool(BooleanBuilder),
    Time(TimestampMicrosecondBuilder),
}

fn map_names() -> MapFieldNames {
    MapFieldNames { entry: "key_value".to_owned(), key: "key".to_owned(), value: "value".to_owned() }
}

/// Ends a map. Keys and values are appended in pairs, which is all that it refuses.
fn end_map<V: ArrayBuilder>(map: &mut MapBuilder<StringBuilder, V>, is_there: bool) {
    let ended = map.append(is_there);
    debug_assert!(ended.is_ok(), "keys and values in pairs");
}

fn times() -> TimestampMicrosecondBuilder {
    TimestampMicrosecondBuilder::new().with_data_type(ColumnType::Timestamp.data_type())
}

impl Cells {
    fn new(column_type: ColumnType) -> Option<Self> {
        Some(match column_type {
            ColumnType::Int => Self::Int(Int64Builder::new()),
            ColumnType::Float => Self::Float(Float64Builder::new()),
            ColumnType::Text => Self::Text(StringBuilder::new()),
            ColumnType::Bool => Self::Bool(BooleanBuilder::new()),
            ColumnType::Timestamp => Self::Time(times()),
            ColumnType::IntMap => {
                Self::Numbers(MapBuilder::new(Some(map_names()), StringBuilder::new(), Int64Builder::new()))
            }
            ColumnType::TextMap => {
                Self::Texts(MapBuilder::new(Some(map_names()), StringBuilder::new(), StringBuilder::new()))
            }
            ColumnType::Bytes => return None,
        })
    }

    fn push(&mut self, value: Datum<'_>) {
        #[allow(clippy::cast_precision_loss, reason = "a whole number given to a float column is a small one")]
        match (self, value) {
            (Self::Int(b), Datum::Int(v)) => b.append_value(v),
            (Self::Float(b), Datum::Float(v)) => b.append_value(v),
            (Self::Float(b), Datum::Int(v)) => b.append_value(v as f64),
            (Self::Text(b), Datum::Text(v)) => b.append_value(v),
            (Self::Bool(b), Datum::Bool(v)) => b.append_value(v),
            (Self::Time(b), Datum::Time(v)) => b.append_value(v),
            (Self::Numbers(b), Datum::Numbers(entries)) => {
                for (name, value) in entries {
                    b.keys().append_value(name);
                    b.values().append_value(*value);
                }
                end_map(b, true);
            }
            (Self::Texts(b), Datum::Texts(entries)) => {
                for (name, value) in entries {
                    b.keys().append_value(name);
                    b.values().append_value(value);
                }
                end_map(b, true);
            }
            (cells, value) => {
                debug_assert!(value == Datum::Null, "a value of another type than its column's: {value:?}");
                match cells {
                    Self::Int(b) => b.append_null(),
                    Self::Float(b) => b.append_null(),
                    Self::Text(b) => b.append_null(),
                    Self::Bool(b) => b.append_null(),
                    Self::Time(b) => b.append_null(),
                    Self::Numbers(b) => end_map(b, false),
                    Self::Texts(b) => end_map(b, false),
                }
            }
        }
    }

    fn finish(&mut self) -> ArrayRef {
        match self {
            Self::Int(b) => Arc::new(b.finish()),
            Self::Float(b) => Arc::new(b.finish()),
            Self::Text(b) => Arc::new(b.finish()),
            Self::Bool(b) => Arc::new(b.finish()),
            Self::Time(b) => Arc::new(b.finish()),
            Self::Numbers(b) => Arc::new(b.finish()),
            Self::Texts(b) => Arc::new(b.finish()),
        }
    }
}

/// Rows of one table under construction.
pub struct Sheet {
    table: Arc<Table>,
    /// Place in the table of each named column, in the order in which they were named.
    places: Vec<usize>,
    cells: Vec<Cells>,
    ts: TimestampMicrosecondBuilder,
    node: StringBuilder,
    host: StringBuilder,
    rows: usize,
    lean: SchemaRef,
}

impl Sheet {
    /// No rows yet. `names` are the columns that will have values; those that the table does not have, or that hold
    /// bytes, are mistakes of ours.
    ///
    /// # Errors
    /// The name of the first such column.
    pub fn new<S: AsRef<str>>(table: &Arc<Table>, names: &[S]) -> Result<Self, String> {
        let mut places = Vec::with_capacity(names.len());
        let mut cells = Vec::with_capacity(names.len());
        for name in names {
            let name = name.as_ref();
            let wrong = || format!("{}.{name}", table.name);
            let place = table.columns.iter().position(|c| c.name == name).ok_or_else(wrong)?;
            places.push(place);
            cells.push(Cells::new(table.columns[place].column_type).ok_or_else(wrong)?);
        }
        let schema = table.schema();
        let mut kept: Vec<usize> = places.iter().map(|p| p + COMMON_COLUMNS.len()).collect();
        kept.sort_unstable();
        let lean = (0..COMMON_COLUMNS.len()).chain(kept).map(|at| schema.fields()[at].clone()).collect::<Vec<_>>();
        Ok(Self {
            table: table.clone(),
            places,
            cells,
            ts: times(),
            node: StringBuilder::new(),
            host: StringBuilder::new(),
            rows: 0,
            lean: Arc::new(Schema::new(lean)),
        })
    }

    /// The table.
    pub fn table(&self) -> &Arc<Table> {
        &self.table
    }

    /// Rows so far.
    pub fn len(&self) -> usize {
        self.rows
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Begins a row; a [`Sheet::push`] for each named column follows, in their order.
    pub fn begin(&mut self, ts_micros: i64, node: &str, host: &str) {
        self.ts.append_value(ts_micros);
        self.node.append_value(node);
        self.host.append_value(host);
        self.rows += 1;
    }

    /// Gives the value of the named column number `at`.
    pub fn push(&mut self, at: usize, value: Datum<'_>) {
        self.cells[at].push(value);
    }

    /// Gives a number to a column of either kind; NULL is `None`.
    pub fn push_number(&mut self, at: usize, value: Option<f64>) {
        #[allow(clippy::cast_possible_truncation, reason = "a whole number in a float")]
        match (&mut self.cells[at], value) {
            (Cells::Int(b), value) => b.append_option(value.map(|v| v as i64)),
            (Cells::Float(b), value) => b.append_option(value),
            (cells, _) => cells.push(Datum::Null),
        }
    }

    /// Takes the rows, in the table's whole schema.
    ///
    /// # Errors
    /// When a row lacks a cell: a mistake of ours.
    pub fn finish(&mut self) -> Result<RecordBatch, ArrowError> {
        let rows = self.rows;
        let mut columns: Vec<Option<ArrayRef>> = self.table.columns.iter().map(|_| None).collect();
        for (place, cells) in self.places.iter().zip(&mut self.cells) {
            columns[*place] = Some(cells.finish());
        }
        let nulls = |(at, column): (usize, Option<ArrayRef>)| {
            column.unwrap_or_else(|| new_null_array(&self.table.columns[at].column_type.data_type(), rows))
        };
        let rest: Vec<ArrayRef> = columns.into_iter().enumerate().map(nulls).collect();
        let all = self.common().into_iter().chain(rest).collect();
        RecordBatch::try_new(self.table.schema().clone(), all)
    }

    /// Takes the rows, without the columns that were not named.
    ///
    /// # Errors
    /// As [`Sheet::finish`].
    pub fn finish_lean(&mut self) -> Result<RecordBatch, ArrowError> {
        let mut order: Vec<usize> = (0..self.places.len()).collect();
        order.sort_unstable_by_key(|at| self.places[*at]);
        let rest: Vec<ArrayRef> = order.into_iter().map(|at| self.cells[at].finish()).collect();
        let all = self.common().into_iter().chain(rest).collect();
        RecordBatch::try_new(self.lean.clone(), all)
    }

    fn common(&mut self) -> [ArrayRef; 3] {
        self.rows = 0;
        [Arc::new(self.ts.finish()), Arc::new(self.node.finish()), Arc::new(self.host.finish())]
    }
}

#[cfg(test)]
mod tests {
    use nodescope_model::catalogue::Catalogue;

    use super::*;

    #[test]
    fn both_forms_hold_the_same_rows() {
        let catalogue = Catalogue::built_in();
        let table = catalogue.get("cpu").unwrap();
        let fill = |sheet: &mut Sheet| {
            sheet.begin(1_000_000, "n", "h");
            sheet.push(0, Datum::Float(2.5));
            sheet.push(1, Datum::Text("all"));
        };
        let mut sheet = Sheet::new(table, &["user_seconds", "cpu"]).unwrap();
        fill(&mut sheet);
        let whole = sheet.finish().unwrap();
        fill(&mut sheet);
        let lean = sheet.finish_lean().unwrap();
        assert_eq!(nodescope_model::conform::conform(&lean, table).unwrap().batch, whole);
        assert_eq!(lean.num_columns(), 5);
        assert!(Sheet::new(table, &["nowhere"]).is_err());
    }
}
