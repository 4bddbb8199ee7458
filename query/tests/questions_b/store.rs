//! A store in memory filled with rows written as JSON, and what the engine over it answers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, SecondsFormat};
use datafusion::arrow::array::{AsArray, RecordBatch};
use datafusion::arrow::datatypes::{DataType, Float64Type};
use datafusion::dataframe::DataFrame;
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
    /// The engine over a store that is filled.
    pub fn over(engine: Engine) -> Self {
        Self(Arc::new(engine))
    }

    pub async fn ask(&self, sql: &str) -> Vec<Row> {
        rows_of(sql, &self.batches(sql, None).await)
    }

    /// What it answers; where a moment is given, in microseconds, that is now.
    pub async fn batches(&self, sql: &str, now: Option<i64>) -> Vec<RecordBatch> {
        let settings = Arc::new(SessionSettings::new("ada", Duration::from_secs(60)));
        let mut state = self.0.session_context(&settings).expect("a context").state();
        if let Some(now) = now {
            let now = DateTime::from_timestamp_micros(now).expect("a time");
            state.execution_props_mut().query_execution_start_time = Some(now);
        }
        let plan = state.create_logical_plan(sql).await.unwrap_or_else(|e| panic!("{sql}\n{e}"));
        DataFrame::new(state, plan).collect().await.unwrap_or_else(|e| panic!("{sql}\n{e}"))
    }
}

/// An answer as rows; every number in it is one.
pub fn rows_of(sql: &str, batches: &[RecordBatch]) -> Vec<Row> {
    for batch in batches {
        for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
            if field.data_type() == &DataType::Float64 {
                let values = column.as_primitive::<Float64Type>();
                assert!(values.iter().flatten().all(f64::is_finite), "{sql}: {} is no number", field.name());
            }
        }
    }
    let mut writer =
        arrow_json::WriterBuilder::new().with_explicit_nulls(true).build::<_, arrow_json::writer::JsonArray>(vec![]);
    writer.write_batches(&batches.iter().collect::<Vec<_>>()).expect("JSON");
    writer.finish().expect("JSON");
    let text = writer.into_inner();
    if text.is_empty() { Vec::new() } else { serde_json::from_slice(&text).expect("JSON") }
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
    if got.is_i64() && expected.is_i64() {
        return got == expected;
    }
    match (got.as_f64(), expected.as_f64()) {
        (Some(got), Some(expected)) => (got - expected).abs() <= tolerance * got.abs().max(expected.abs()).max(1e-3),
        _ => got == expected,
    }
}

/// Where an answer is not what the oracle says, in the columns that the oracle has. Rows are matched by `key`, in whatever
/// order; floats may differ by `tolerance` of themselves, whole numbers by nothing.
pub fn differences(what: &str, key: &[&str], got: &[Row], expected: &[Row], tolerance: f64) -> Vec<String> {
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
    let (found, wanted) = (names(&got), names(&expected));
    if found != wanted {
        let only = |some: &[String], others: &[String]| -> Vec<String> {
            some.iter().filter(|name| others.binary_search(name).is_err()).take(10).cloned().collect()
        };
        let (more, less) = (only(&found, &wanted), only(&wanted, &found));
        let (many, due) = (found.len(), wanted.len());
        return vec![format!("{what}: {many} rows, not {due}; beside them {more:?}, and without {less:?}")];
    }
    let mut wrong = Vec::new();
    for ((name, got), (_, expected)) in got.iter().zip(&expected) {
        for (column, value) in expected {
            let found = got.get(column).unwrap_or_else(|| panic!("{what}: no column {column}"));
            if !is_same(found, value, tolerance) {
                wrong.push(format!("{what}: {name}: {column} is {found}, not {value}\n{got:?}\n{expected:?}"));
            }
        }
    }
    wrong
}

/// Fails where [`differences`] finds any.
pub fn assert_within(what: &str, key: &[&str], got: &[Row], expected: &[Row], tolerance: f64) {
    let wrong = differences(what, key, got, expected, tolerance);
    assert!(wrong.is_empty(), "{}", wrong[..wrong.len().min(5)].join("\n"));
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
