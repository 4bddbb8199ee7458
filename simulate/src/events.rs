//! Rows that tell of something that happened, one by one.
//!
//! What moves all the time is a [`crate::series`]; the rest is here: what began and ended, who came in, what is told
//! once an hour. An event is a row with its values by name; [`batches`] puts those of a table together.

use std::borrow::Cow;
use std::collections::BTreeMap;

use arrow_array::RecordBatch;
use nodescope_model::catalogue::Catalogue;

use crate::SimulateError;
use crate::sheet::{Datum, Sheet};

/// A value of an event.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A whole number.
    Int(i64),
    /// A number.
    Float(f64),
    /// A text.
    Text(Cow<'static, str>),
    /// Yes or no.
    Bool(bool),
    /// Microseconds since 1970.
    Time(i64),
    /// Names with a number each.
    Numbers(Vec<(String, i64)>),
    /// Names with a text each.
    Texts(Vec<(String, String)>),
}

impl Value {
    fn datum(&self) -> Datum<'_> {
        match self {
            Self::Int(v) => Datum::Int(*v),
            Self::Float(v) => Datum::Float(*v),
            Self::Text(v) => Datum::Text(v),
            Self::Bool(v) => Datum::Bool(*v),
            Self::Time(v) => Datum::Time(*v),
            Self::Numbers(v) => Datum::Numbers(v),
            Self::Texts(v) => Datum::Texts(v),
        }
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Self::Float(value)
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<&'static str> for Value {
    fn from(value: &'static str) -> Self {
        Self::Text(Cow::Borrowed(value))
    }
}

impl From<String> for Value {
    fn from(value: String) -> Self {
        Self::Text(Cow::Owned(value))
    }
}

/// A time of so many seconds since 1970.
pub fn time(seconds: i64) -> Value {
    Value::Time(seconds * 1_000_000)
}

/// One row of one table.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// The table.
    pub table: &'static str,
    /// Its time, microseconds since 1970.
    pub ts: i64,
    /// Code of the node.
    pub node: String,
    /// Name of the host; empty for what is about a node.
    pub host: String,
    /// What is not NULL.
    pub values: Vec<(&'static str, Value)>,
}

impl Event {
    /// A row with nothing in it yet, at a second.
    pub fn new(table: &'static str, seconds: i64, node: &str, host: &str) -> Self {
        Self { table, ts: seconds * 1_000_000, node: node.to_owned(), host: host.to_owned(), values: Vec::new() }
    }

    /// Sets a column.
    #[must_use]
    pub fn with(mut self, column: &'static str, value: impl Into<Value>) -> Self {
        self.values.push((column, value.into()));
        self
    }

    /// Sets a column, or leaves it NULL.
    #[must_use]
    pub fn maybe(mut self, column: &'static str, value: Option<impl Into<Value>>) -> Self {
        if let Some(value) = value {
            self.values.push((column, value.into()));
        }
        self
    }

    /// The value of a column; `None` when it is NULL.
    pub fn value(&self, column: &str) -> Option<&Value> {
        self.values.iter().find(|(name, _)| *name == column).map(|(_, value)| value)
    }
}

/// The events as one batch for each table.
///
/// # Errors
/// When an event has a column that its table does not have: a mistake of ours.
pub fn batches(catalogue: &Catalogue, events: &[Event]) -> Result<BTreeMap<&'static str, RecordBatch>, SimulateError> {
    let mut of: BTreeMap<&'static str, Vec<&Event>> = BTreeMap::new();
    for event in events {
        of.entry(event.table).or_default().push(event);
    }
    let mut all = BTreeMap::new();
    for (name, events) in of {
        let table = catalogue.get(name).ok_or_else(|| SimulateError::NoTable(name.to_owned()))?;
        let mut columns: Vec<&str> = events.iter().flat_map(|e| e.values.iter().map(|(column, _)| *column)).collect();
        columns.extend(table.entity.iter().map(String::as_str));
        columns.sort_unstable();
        columns.dedup();
        let mut sheet = Sheet::new(table, &columns).map_err(SimulateError::NoColumn)?;
        for event in events {
            sheet.begin(event.ts, &event.node, &event.host);
            for (place, column) in columns.iter().enumerate() {
                sheet.push(place, event.value(column).map_or(Datum::Null, Value::datum));
            }
        }
        all.insert(name, sheet.finish().map_err(|source| SimulateError::rows(name, source))?);
    }
    Ok(all)
}
