//! Filling one tick's rows of a table.
//!
//! A probe names columns and gives values; what it leaves out, or gives as `None`, is NULL. The common columns are
//! filled in once at the end, the same for every row.
//!
//! ```
//! # use nodescope_model::{catalogue::Catalogue, rows::{Rows, Stamp}};
//! let catalogue = Catalogue::built_in();
//! let mut rows = Rows::new(catalogue.get("cpu").unwrap());
//! rows.begin().text("cpu", "all").float("user_seconds", 12.5).float("steal_seconds", None);
//! let batch = rows.finish(&Stamp { ts_micros: 1_000_000, node: "", host: "a" });
//! assert_eq!(batch.num_rows(), 1);
//! ```

use std::collections::HashMap;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int64Type, TimestampMicrosecondType};
use arrow_array::{ArrayRef, RecordBatch, StringArray, TimestampMicrosecondArray};

use crate::catalogue::{COMMON_COLUMNS, ColumnType, Table};
use crate::cells::{Cells, end_map};

/// What is the same for all rows of one tick.
#[derive(Debug, Clone, Copy)]
pub struct Stamp<'a> {
    /// The aligned tick, microseconds since 1970, UTC.
    pub ts_micros: i64,
    /// Identification code of the platform node.
    pub node: &'a str,
    /// Name of the host.
    pub host: &'a str,
}

/// Room made at first: one tick of one host has few rows.
const ROWS: usize = 8;

/// Rows of one table under construction. Reused from tick to tick.
pub struct Rows {
    table: Arc<Table>,
    index: HashMap<String, usize>,
    cells: Vec<Cells>,
    rows: usize,
}

impl Rows {
    /// No rows yet.
    pub fn new(table: &Arc<Table>) -> Self {
        Self {
            index: table.columns.iter().enumerate().map(|(at, c)| (c.name.clone(), at)).collect(),
            cells: table.columns.iter().map(|c| Cells::new(c.column_type, ROWS)).collect(),
            table: table.clone(),
            rows: 0,
        }
    }

    /// The table these rows belong to.
    pub fn table(&self) -> &Arc<Table> {
        &self.table
    }

    /// How many rows have been begun.
    pub fn len(&self) -> usize {
        self.rows
    }

    /// Whether no row has been begun.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Begins a row. It ends when the next one begins.
    pub fn begin(&mut self) -> Row<'_> {
        self.fill();
        self.rows += 1;
        Row { rows: self }
    }

    /// Appends rows of this table that another process made. Their common columns are filled in anew.
    ///
    /// # Panics
    /// When the batch is of another schema.
    pub fn extend(&mut self, batch: &RecordBatch) {
        assert_eq!(batch.schema_ref(), self.table.schema(), "rows of another table");
        self.fill();
        for (cells, column) in self.cells.iter_mut().zip(&batch.columns()[COMMON_COLUMNS.len()..]) {
            match cells {
                Cells::Int(b) => b.extend(column.as_primitive::<Int64Type>().iter()),
                Cells::Float(b) => b.extend(column.as_primitive::<Float64Type>().iter()),
                Cells::Text(b) => b.extend(column.as_string::<i32>().iter()),
                Cells::Bool(b) => b.extend(column.as_boolean().iter()),
                Cells::Timestamp(b) => b.extend(column.as_primitive::<TimestampMicrosecondType>().iter()),
                Cells::Bytes(b) => b.extend(column.as_binary::<i32>().iter()),
                Cells::IntMap(b) => {
                    for entries in column.as_map().iter() {
                        if let Some(entries) = &entries {
                            b.keys().extend(entries.column(0).as_string::<i32>().iter());
                            b.values().extend(entries.column(1).as_primitive::<Int64Type>().iter());
                        }
                        end_map(b, entries.is_some());
                    }
                }
                Cells::TextMap(b) => {
                    for entries in column.as_map().iter() {
                        if let Some(entries) = &entries {
                            b.keys().extend(entries.column(0).as_string::<i32>().iter());
                            b.values().extend(entries.column(1).as_string::<i32>().iter());
                        }
                        end_map(b, entries.is_some());
                    }
                }
            }
        }
        self.rows += batch.num_rows();
    }

    /// What was left out so far is NULL.
    fn fill(&mut self) {
        for cells in &mut self.cells {
            while cells.len() < self.rows {
                cells.append_null();
            }
        }
    }

    /// Takes the rows as a batch of the table's schema; none remain.
    ///
    /// # Panics
    /// When a column of the entity was left out of a row: a probe's mistake that its test finds.
    pub fn finish(&mut self, stamp: &Stamp<'_>) -> RecordBatch {
        self.fill();
        let rows = self.rows;
        let ts = TimestampMicrosecondArray::from_value(stamp.ts_micros, rows)
            .with_data_type(ColumnType::Timestamp.data_type());
        let same = |text: &str| Arc::new(StringArray::from_iter_values(std::iter::repeat_n(text, rows)));
        let mut columns: Vec<ArrayRef> = vec![Arc::new(ts), same(stamp.node), same(stamp.host)];
        columns.extend(self.cells.iter_mut().map(Cells::finish));
        self.rows = 0;
        debug_assert_eq!(columns.len(), COMMON_COLUMNS.len() + self.table.columns.len());
        RecordBatch::try_new(self.table.schema().clone(), columns).expect("a row lacks a column of its entity")
    }
}

/// The row begun last. Each setter may be called once per column; `None` is NULL.
pub struct Row<'a> {
    rows: &'a mut Rows,
}

macro_rules! setter {
    ($(#[$doc:meta])* $name:ident, $value:ty, $variant:ident) => {
        $(#[$doc])*
        pub fn $name(&mut self, column: &str, value: impl Into<Option<$value>>) -> &mut Self {
            if let Some(Cells::$variant(cells)) = self.cells(column) {
                cells.append_option(value.into());
            } else {
                debug_assert!(false, "{}.{column} is no {} column", self.rows.table.name, stringify!($name));
            }
            self
        }
    };
}

impl Row<'_> {
    setter!(/// Sets an `int` column.
        int, i64, Int);
    setter!(/// Sets a `float` column. Units are those of the catalogue.
        float, f64, Float);
    setter!(/// Sets a `bool` column.
        bool, bool, Bool);
    setter!(/// Sets a `timestamp` column: microseconds since 1970, UTC.
        timestamp, i64, Timestamp);

    /// Sets an `int` column from a kernel counter. Counters beyond 2^63 wrap into NULL rather than a negative number.
    pub fn count(&mut self, column: &str, value: impl Into<Option<u64>>) -> &mut Self {
        self.int(column, value.into().and_then(|v| i64::try_from(v).ok()))
    }

    /// Sets a `text` column.
    pub fn text<'t>(&mut self, column: &str, value: impl Into<Option<&'t str>>) -> &mut Self {
        if let Some(Cells::Text(cells)) = self.cells(column) {
            cells.append_option(value.into());
        } else {
            debug_assert!(false, "{}.{column} is no text column", self.rows.table.name);
        }
        self
    }

    /// Sets a `bytes` column.
    pub fn bytes<'t>(&mut self, column: &str, value: impl Into<Option<&'t [u8]>>) -> &mut Self {
        if let Some(Cells::Bytes(cells)) = self.cells(column) {
            cells.append_option(value.into());
        } else {
            debug_assert!(false, "{}.{column} is no bytes column", self.rows.table.name);
        }
        self
    }

    /// Sets an `int_map` column. A name given twice makes no valid map: it is the caller's to see to.
    pub fn int_map<'t>(&mut self, column: &str, entries: impl IntoIterator<Item = (&'t str, i64)>) -> &mut Self {
        if let Some(Cells::IntMap(cells)) = self.cells(column) {
            for (name, value) in entries {
                cells.keys().append_value(name);
                cells.values().append_value(value);
            }
            end_map(cells, true);
        } else {
            debug_assert!(false, "{}.{column} is no int_map column", self.rows.table.name);
        }
        self
    }

    /// Sets a `text_map` column. A name given twice makes no valid map: it is the caller's to see to.
    pub fn text_map<'t>(&mut self, column: &str, entries: impl IntoIterator<Item = (&'t str, &'t str)>) -> &mut Self {
        if let Some(Cells::TextMap(cells)) = self.cells(column) {
            for (name, value) in entries {
                cells.keys().append_value(name);
                cells.values().append_value(value);
            }
            end_map(cells, true);
        } else {
            debug_assert!(false, "{}.{column} is no text_map column", self.rows.table.name);
        }
        self
    }

    /// The column's cells, if it exists and this row has no value there yet.
    fn cells(&mut self, column: &str) -> Option<&mut Cells> {
        let at = *self.rows.index.get(column)?;
        let cells = &mut self.rows.cells[at];
        debug_assert!(cells.len() < self.rows.rows, "{column} is set twice");
        (cells.len() < self.rows.rows).then_some(cells)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::Catalogue;

    #[test]
    fn what_is_left_out_is_null() {
        let catalogue = Catalogue::built_in();
        let mut rows = Rows::new(catalogue.get("cpu").unwrap());
        rows.begin().text("cpu", "0").float("user_seconds", 1.5);
        rows.begin().text("cpu", "1").float("user_seconds", None);
        rows.begin().text("cpu", "2");
        let batch = rows.finish(&Stamp { ts_micros: 5, node: "n", host: "h" });
        let user = batch.column_by_name("user_seconds").unwrap().as_primitive::<Float64Type>();
        assert_eq!(user.iter().collect::<Vec<_>>(), [Some(1.5), None, None]);
        assert_eq!(batch.column_by_name("system_seconds").unwrap().null_count(), 3);
        assert_eq!(batch.column_by_name("host").unwrap().as_string::<i32>().value(2), "h");
        assert!(rows.is_empty());
        assert_eq!(rows.finish(&Stamp { ts_micros: 5, node: "n", host: "h" }).num_rows(), 0);
    }

    #[test]
    fn rows_of_another_process_are_appended_as_they_are() {
        let text = r#"
            table = "t"
            comment = "All types."
            entity = ["part"]
            column = [
                { name = "part", type = "text", kind = "label", help = "h" },
                { name = "i", type = "int", kind = "gauge", unit = "1", help = "h" },
                { name = "f", type = "float", kind = "gauge", unit = "1", help = "h" },
                { name = "b", type = "bool", kind = "state", help = "h" },
                { name = "t", type = "timestamp", kind = "state", help = "h" },
                { name = "y", type = "bytes", kind = "state", help = "h" },
                { name = "im", type = "int_map", kind = "counter", unit = "1", help = "h" },
                { name = "tm", type = "text_map", kind = "state", help = "h" },
            ]
        "#;
        let catalogue = Catalogue::with_texts(&[("t.toml", text)]).unwrap();
        let fill = |rows: &mut Rows, part: &str| {
            rows.begin()
                .text("part", part)
                .int("i", 1)
                .float("f", 0.5)
                .bool("b", true)
                .timestamp("t", 7)
                .bytes("y", &b"x"[..])
                .int_map("im", [("one", 1), ("two", 2)])
                .text_map("tm", [("k", "v")]);
            rows.begin().text("part", "none").int_map("im", []);
        };
        let stamp = Stamp { ts_micros: 5, node: "n", host: "h" };
        let mut rows = Rows::new(catalogue.get("t").unwrap());
        fill(&mut rows, "a");
        let child = rows.finish(&Stamp { node: "", host: "", ..stamp });
        fill(&mut rows, "a");
        fill(&mut rows, "b");
        let wanted = rows.finish(&stamp);
        rows.extend(&child);
        fill(&mut rows, "b");
        assert_eq!(rows.finish(&stamp), wanted);
        assert_eq!(wanted.column_by_name("tm").unwrap().null_count(), 2);
        assert_eq!(wanted.column_by_name("im").unwrap().null_count(), 0);
    }
}
