//! Detections on traces: for each rule of `rules/d*.sql`, what it must find and what it must leave alone.
//!
//! A trace is a file of `detections/`. Its rows are SELECTs, put into a store in memory; `at(M)` is M minutes after
//! noon. The rule's SQL is asked for one window after the other, as the schedule would ask it, and the keys found, with
//! the minute at which the first window ends that finds each, must be exactly those of the trace. A near miss names
//! the rows that keep the rule quiet (`guard`) and what it finds without them (`without`): so a guard that does
//! nothing fails, and so does a rule that finds nothing at all.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by it")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use datafusion::arrow::array::{ArrayRef, RecordBatch};
use datafusion::arrow::compute::{cast, concat_batches};
use datafusion::arrow::datatypes::{DataType, Field, Schema};
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::common::ScalarValue;
use datafusion::prelude::{SessionConfig, SessionContext};
use nodescope_model::catalogue::Catalogue;
use nodescope_model::conform::conform;
use nodescope_query::definition::{Definition, Purpose};
use nodescope_query::engine::{Engine, Spill};
use nodescope_query::limits::Limits;
use nodescope_store::Store;
use nodescope_store::cut::Reader;
use nodescope_store::journal::Journal;
use serde::Deserialize;

/// Noon of 2 March 2026, a Monday, in seconds since 1970.
const NOON: i64 = 1_772_452_800;

/// Table and SELECT.
type Rows = Vec<(String, String)>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Trace {
    /// Of every case.
    #[serde(default)]
    rows: Rows,
    case: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    /// Minutes between which windows end, both included.
    ends: [i64; 2],
    #[serde(default)]
    rows: Rows,
    #[serde(default)]
    guard: Rows,
    finds: BTreeMap<String, i64>,
    without: Option<BTreeMap<String, i64>>,
}

macro_rules! detections {
    ($($rule:ident)*) => {
        $(#[tokio::test]
        async fn $rule() {
            replay(stringify!($rule)).await;
        })*

        #[test]
        fn every_rule_has_its_trace() {
            let tested = [$(stringify!($rule)),*];
            let mut found: Vec<String> = std::fs::read_dir(rules())
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .filter_map(|file| file.strip_suffix(".sql").map(str::to_owned))
                .filter(|name| name.starts_with('d') && name[1..3].bytes().all(|b| b.is_ascii_digit()))
                .collect();
            found.sort();
            assert_eq!(found, tested);
        }
    };
}

detections! {
    d01_accelerator_busy_without_job
    d02_miner_shape
    d03_miner_or_pool
    d04_claimed_but_idle
    d05_unregistered_reporter
    d06_cloned_identity
    d07_physics
    d08_agent_silenced
    d09_selective_blinding
    d10_clock_tampering
    d11_scan_from_inside
    d12_lateral_ssh
    d13_brute_force
    d14_exfiltration
    d15_new_listener
    d16_unlisted_accelerator_process
    d17_kernel_or_persistence
    d18_firmware_drift
    d19_power_or_heat_sabotage
    d20_monitoring_abuse
}

fn rules() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../rules")
}

async fn replay(name: &str) {
    let path = rules().join(format!("{name}.sql"));
    let text = std::fs::read_to_string(&path).unwrap();
    let rule = Definition::parse(&path.display().to_string(), &text, Purpose::Rule).unwrap();
    let trace = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/detections").join(format!("{}.toml", &name[..3]));
    let trace: Trace = toml::from_str(&std::fs::read_to_string(trace).unwrap()).unwrap();
    let (mut positives, mut misses) = (0, 0);
    for case in &trace.case {
        let base: Rows = trace.rows.iter().chain(&case.rows).cloned().collect();
        let guarded: Rows = base.iter().chain(&case.guard).cloned().collect();
        assert_eq!(case.guard.is_empty(), case.without.is_none(), "{name}, {}: a guard shows what it keeps", case.name);
        assert_eq!(found(&rule, &guarded, case.ends).await, case.finds, "{name}, {}", case.name);
        if let Some(without) = &case.without {
            assert_eq!(found(&rule, &base, case.ends).await, *without, "{name}, without the guard: {}", case.name);
            assert_ne!(*without, case.finds, "{name}, {}: the guard guards", case.name);
            misses += 1;
        }
        positives += usize::from(!case.finds.is_empty());
    }
    assert!(positives > 0 || misses > 0, "{name} has a trace on which it finds something");
}

/// What a rule finds in rows, window by window: keys, and the minute at which the first window ends that finds it.
async fn found(rule: &Definition, rows: &Rows, [first, last]: [i64; 2]) -> BTreeMap<String, i64> {
    let engine = engine(rows).await;
    let every = i64::try_from(rule.every.as_secs()).unwrap();
    let window = i64::try_from(rule.window.as_secs()).unwrap();
    let mut found = BTreeMap::new();
    let mut to = (NOON + first * 60).div_euclid(every) * every;
    if to < NOON + first * 60 {
        to += every;
    }
    while to <= NOON + last * 60 {
        let mut values = rule.values();
        for (name, seconds) in [("from", to - window), ("to", to)] {
            let time = ScalarValue::TimestampMicrosecond(Some(seconds * 1_000_000), Some("UTC".into()));
            values.push((name.to_owned(), time));
        }
        let answer = engine.own(&rule.sql, &values).await.unwrap().collect().await.unwrap();
        for batch in &answer {
            for key in keys(batch, &rule.alert.as_ref().unwrap().key) {
                found.entry(key).or_insert((to - NOON) / 60);
            }
        }
        to += every;
    }
    found
}

fn keys(batch: &RecordBatch, columns: &[String]) -> Vec<String> {
    let options = FormatOptions::default().with_null("");
    let columns: Vec<_> = columns
        .iter()
        .map(|name| ArrayFormatter::try_new(batch.column_by_name(name).unwrap().as_ref(), &options).unwrap())
        .collect();
    (0..batch.num_rows())
        .map(|row| columns.iter().map(|column| column.value(row).to_string()).collect::<Vec<_>>().join(" "))
        .collect()
}

/// An engine over a store that has the rows.
async fn engine(rows: &Rows) -> Engine {
    let objects = Arc::new(object_store::memory::InMemory::new());
    let catalogue = Arc::new(Catalogue::built_in());
    let store = Store::new(objects, Arc::clone(&catalogue), "memory:");
    let mut config = SessionConfig::new();
    config.options_mut().execution.time_zone = Some("UTC".to_owned());
    config.options_mut().sql_parser.dialect = datafusion::common::config::Dialect::PostgreSQL;
    let context = SessionContext::new_with_config(config);
    let mut tables = Vec::new();
    for (name, sql) in rows {
        let table = catalogue.get(name).unwrap_or_else(|| panic!("there is no table {name}"));
        let frame = context.sql(&with_times(sql)).await.unwrap_or_else(|error| panic!("{name}: {error}\n{sql}"));
        let batches = frame.collect().await.unwrap_or_else(|error| panic!("{name}: {error}\n{sql}"));
        let Some(first) = batches.first() else { continue };
        let batch = concat_batches(&first.schema(), &batches).unwrap();
        let batch = typed(&batch, table.schema());
        let conformed = conform(&batch, table).unwrap_or_else(|error| panic!("{name}: {error}\n{sql}"));
        assert!(conformed.unknown.is_empty(), "{name} has no columns {:?}", conformed.unknown);
        tables.push((Arc::clone(table), vec![conformed.batch]));
    }
    Journal::open(&store, "journal.trace").await.unwrap().append(tables).await.unwrap();
    let limits = Limits { statement_timeout: Duration::from_secs(120), ..Limits::default() };
    Engine::new(Reader::new(store, 1 << 24), limits, Spill { folder: None, bytes: 1 << 30 }).unwrap()
}

/// `at(M)`, in SQL that DataFusion knows.
fn with_times(sql: &str) -> String {
    let mut text = String::new();
    let mut rest = sql;
    while let Some(place) = rest
        .match_indices("at(")
        .map(|(place, _)| place)
        .find(|place| !rest[..*place].ends_with(|before: char| before.is_ascii_alphanumeric() || before == '_'))
    {
        let inside = &rest[place + 3..];
        let mut depth = 1;
        let length = inside
            .find(|letter| {
                depth += i32::from(letter == '(') - i32::from(letter == ')');
                depth == 0
            })
            .expect("a closing bracket");
        text += &rest[..place];
        text += &format!("to_timestamp_micros(cast(({NOON} + 60.0 * ({})) * 1000000 as bigint))", &inside[..length]);
        rest = &inside[length + 1..];
    }
    text + rest
}

/// Columns in the types of the table: literals of SQL are wider or narrower, and without a zone.
fn typed(batch: &RecordBatch, schema: &Schema) -> RecordBatch {
    let (mut fields, mut columns): (Vec<Field>, Vec<ArrayRef>) = batch
        .schema()
        .fields()
        .iter()
        .zip(batch.columns())
        .map(|(field, column)| {
            let wanted = schema.field_with_name(field.name()).map(Field::data_type).unwrap_or(field.data_type());
            let column = match (column.data_type(), wanted) {
                (DataType::Timestamp(_, None), DataType::Timestamp(unit, Some(_))) => {
                    let plain = cast(column, &DataType::Timestamp(*unit, None)).unwrap();
                    cast(&plain, wanted).unwrap()
                }
                _ => cast(column, wanted).unwrap(),
            };
            (Field::new(field.name(), column.data_type().clone(), true), column)
        })
        .unzip();
    // What no row can be without, and a trace does not care for.
    for field in schema.fields().iter().filter(|f| !f.is_nullable() && batch.column_by_name(f.name()).is_none()) {
        let default = match field.data_type() {
            DataType::Utf8 => ScalarValue::from(""),
            _ => ScalarValue::from(0_i64),
        };
        fields.push(Field::new(field.name(), field.data_type().clone(), true));
        columns.push(default.to_array_of_size(batch.num_rows()).unwrap());
    }
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()
}
