//! Rows of one table under construction, many at a time.
//!
//! [`nodescope_model::rows`] finds a column by its name at every cell, which is right for an agent's few rows a second
//! and wrong for a hundred million. Here the columns that will have values are named once; cells are then given in
//! that order. Columns that were not named are NULL, or left out of the batch where the reader adds them.

use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch, new_null_array};
use arrow_schema::{ArrowError, Schema, SchemaRef};
use nodescope_model::catalogue::{COMMON_COLUMNS, ColumnType, Table};
use nodescope_model::cells::{Cells, end_map};

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
    /// A name with a number, alone in its map.
    Number(&'a str, i64),
    /// Names with a number each.
    Numbers(&'a [(String, i64)]),
    /// Names with a text each.
    Texts(&'a [(String, String)]),
}

/// Room made at first.
const ROWS: usize = 1_024;

fn push(cells: &mut Cells, value: Datum<'_>) {
    #[allow(clippy::cast_precision_loss, reason = "a whole number given to a float column is a small one")]
    match (cells, value) {
        (Cells::Int(b), Datum::Int(v)) => b.append_value(v),
        (Cells::Float(b), Datum::Float(v)) => b.append_value(v),
        (Cells::Float(b), Datum::Int(v)) => b.append_value(v as f64),
        (Cells::Text(b), Datum::Text(v)) => b.append_value(v),
        (Cells::Bool(b), Datum::Bool(v)) => b.append_value(v),
        (Cells::Timestamp(b), Datum::Time(v)) => b.append_value(v),
        (Cells::IntMap(b), Datum::Number(name, value)) => {
            b.keys().append_value(name);
            b.values().append_value(value);
            end_map(b, true);
        }
        (Cells::IntMap(b), Datum::Numbers(entries)) => {
            for (name, value) in entries {
                b.keys().append_value(name);
                b.values().append_value(*value);
            }
            end_map(b, true);
        }
        (Cells::TextMap(b), Datum::Texts(entries)) => {
            for (name, value) in entries {
                b.keys().append_value(name);
                b.values().append_value(value);
            }
            end_map(b, true);
        }
        (cells, value) => {
            debug_assert!(value == Datum::Null, "a value of another type than its column's: {value:?}");
            cells.append_null();
        }
    }
}

/// Rows of one table under construction.
pub struct Sheet {
    table: Arc<Table>,
    /// Place in the table of each named column, in the order in which they were named.
    places: Vec<usize>,
    cells: Vec<Cells>,
    common: [Cells; 3],
    rows: usize,
    lean: SchemaRef,
}

impl Sheet {
    /// No rows yet. `names` are the columns that will have values; those that the table does not have are
    /// mistakes of ours.
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
            cells.push(Cells::new(table.columns[place].column_type, ROWS));
        }
        let schema = table.schema();
        let mut kept: Vec<usize> = places.iter().map(|p| p + COMMON_COLUMNS.len()).collect();
        kept.sort_unstable();
        let lean = (0..COMMON_COLUMNS.len()).chain(kept).map(|at| schema.fields()[at].clone()).collect::<Vec<_>>();
        Ok(Self {
            table: table.clone(),
            places,
            cells,
            common: [ColumnType::Timestamp, ColumnType::Text, ColumnType::Text].map(|of| Cells::new(of, ROWS)),
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
        for (cells, value) in self.common.iter_mut().zip([Datum::Time(ts_micros), Datum::Text(node), Datum::Text(host)])
        {
            push(cells, value);
        }
        self.rows += 1;
    }

    /// Gives the value of the named column number `at`.
    pub fn push(&mut self, at: usize, value: Datum<'_>) {
        push(&mut self.cells[at], value);
    }

    /// Gives a number to a column of either kind; NULL is `None`.
    pub fn push_number(&mut self, at: usize, value: Option<f64>) {
        #[allow(clippy::cast_possible_truncation, reason = "a whole number in a float")]
        match (&mut self.cells[at], value) {
            (Cells::Int(b), value) => b.append_option(value.map(|v| v as i64)),
            (Cells::Float(b), value) => b.append_option(value),
            (cells, _) => cells.append_null(),
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
        self.common.each_mut().map(Cells::finish)
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
