//! A store in memory filled with rows written as JSON, and what the engine over it answers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, SecondsFormat};
use datafusion::arrow::array::AsArray;
use datafusion::arrow::datatypes::{DataType, Float64Type};
use nodescope_model::catalogue::Catalogue;
use nodescope_query::engine::{Engine, Spill};
use nodescope_query::limits::Limits;
use nodescope_query::session::SessionSettings;
use nodescope_store::Store;
use nodescope_store::cut::Reader;
use nodescope_store::journal::Journal;
use serde_json::{Map, Value};

pub const MINUTE: i64 = 60_000_000;
pub const HOUR: i64 = 60 * MINUTE;
pub const DAY: i64 = 24 * HOUR;

/// 2026-01-05, a Monday, at 00:00 UTC, in microseconds.
pub const START: i64 = 1_767_571_200_000_000;

pub type Row = Map<String, Value>;

/// The time as JSON and SQL have it.
pub fn time(micros: i64) -> String {
    DateTime::from_timestamp_micros(micros).expect("a time").to_rfc3339_opts(SecondsFormat::Micros, true)
}

/// This moment, in microseconds.
pub fn now() -> i64 {
    chrono::Utc::now().timestamp_micros()
}

/// Rows by table.
#[derive(Default)]
pub struct Rows(BTreeMap<String, Vec<Value>>);

impl Rows {
    pub fn add(&mut self, table: &str, row: Value) {
        self.0.entry(table.to_owned()).or_default().push(row);
    }

    /// The engine over a store that holds them.
    pub async fn open(self) -> Asked {
        let store =
            Store::new(Arc::new(object_store::memory::InMemory::new()), Arc::new(Catalogue::built_in()), "memory:");
        let mut tables = Vec::new();
        for (name, rows) in &self.0 {
            let table = store.catalogue().get(name).unwrap_or_else(|| panic!("no table {name}"));
            let mut decoder = arrow_json::ReaderBuilder::new(Arc::clone(table.schema()))
                .with_strict_mode(true)
                .with_batch_size(rows.len())
                .build_decoder()
                .expect("a decoder");
            decoder.serialize(rows).unwrap_or_else(|e| panic!("{name}: {e}"));
            let batch = decoder.flush().unwrap_or_else(|e| panic!("{name}: {e}")).expect("rows");
            tables.push((Arc::clone(table), vec![batch]));
        }
        let mut journal = Journal::open(&store, "journal.test").await.expect("a journal");
        journal.append(tables).await.expect("an append");
        let spill = Spill { folder: None, bytes: 1 << 30 };
        Asked(Arc::new(Engine::new(Reader::new(store, 1 << 20), Limits::default(), spill).expect("an engine")))
    }
}

/// An engine that is asked.
pub struct Asked(Arc<Engine>);

impl Asked {
    pub async fn ask(&self, sql: &str) -> Vec<Row> {
        let settings = Arc::new(SessionSettings::new("ada", Duration::from_secs(60)));
        let context = self.0.session_context(&settings).expect("a context");
        let frame = context.sql(sql).await.unwrap_or_else(|e| panic!("{sql}\n{e}"));
        let batches = frame.collect().await.unwrap_or_else(|e| panic!("{sql}\n{e}"));
        for batch in &batches {
            for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
                if field.data_type() == &DataType::Float64 {
                    let values = column.as_primitive::<Float64Type>();
                    assert!(values.iter().flatten().all(f64::is_finite), "{sql}: {} is no number", field.name());
                }
            }
        }
        let mut writer = arrow_json::WriterBuilder::new()
            .with_explicit_nulls(true)
            .build::<_, arrow_json::writer::JsonArray>(vec![]);
        writer.write_batches(&batches.iter().collect::<Vec<_>>()).expect("JSON");
        writer.finish().expect("JSON");
        let text = writer.into_inner();
        if text.is_empty() { Vec::new() } else { serde_json::from_slice(&text).expect("JSON") }
    }
}

/// A time in any of its forms as its microseconds; anything else as it is.
fn plain(value: &Value) -> Value {
    match value {
        Value::String(text) => {
            DateTime::parse_from_rfc3339(text).map_or_else(|_| value.clone(), |at| at.timestamp_micros().into())
        }
        other => other.clone(),
    }
}

fn is_same(got: &Value, expected: &Value, tolerance: f64) -> bool {
    match (got.as_f64(), expected.as_f64()) {
        (Some(got), Some(expected)) => (got - expected).abs() <= tolerance * got.abs().max(expected.abs()).max(1e-3),
        _ => got == expected,
    }
}

/// Whether an answer is what the oracle says, in the columns that the oracle has. Rows are matched by `key`, in
/// whatever order; floats may differ by `tolerance` of themselves.
pub fn assert_within(what: &str, key: &[&str], got: &[Row], expected: &[Row], tolerance: f64) {
    let sorted = |rows: &[Row]| -> Vec<(String, Row)> {
        let mut rows: Vec<(String, Row)> = rows
            .iter()
            .map(|row| {
                let row: Row = row.iter().map(|(name, value)| (name.clone(), plain(value))).collect();
                let name: Vec<String> = key
                    .iter()
                    .map(|name| row.get(*name).unwrap_or_else(|| panic!("{what}: no column {name}")).to_string())
                    .collect();
                (name.join(" "), row)
            })
            .collect();
        rows.sort_by(|a, b| a.0.cmp(&b.0));
        rows
    };
    let (got, expected) = (sorted(got), sorted(expected));
    let names = |rows: &[(String, Row)]| rows.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&got), names(&expected), "{what}: other rows");
    for ((name, got), (_, expected)) in got.iter().zip(&expected) {
        for (column, value) in expected {
            let found = got.get(column).unwrap_or_else(|| panic!("{what}: no column {column}"));
            assert!(
                is_same(found, value, tolerance),
                "{what}: {name}: {column} is {found}, not {value}\n{got:?}\n{expected:?}"
            );
        }
    }
}

/// [`assert_within`] a billionth.
pub fn assert_same(what: &str, key: &[&str], got: &[Row], expected: &[Row]) {
    assert_within(what, key, got, expected, 1e-9);
}

/// An object as a row.
pub fn row(value: Value) -> Row {
    match value {
        Value::Object(row) => row,
        other => panic!("{other} is no row"),
    }
}
