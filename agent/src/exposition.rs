//! The newest values in Prometheus' text format (0.0.4), by the catalogue.
//!
//! Existing dashboards ask for names that others coined: `node_memory_MemAvailable_bytes`, `DCGM_FI_DEV_GPU_TEMP`. The
//! catalogue says which of our columns are the same thing, and which of our columns are its labels. A column without
//! such a name is shown as `nodescope_<table>_<column>`, labelled with the entity. So every number the agent samples
//! can be scraped, and none is defined twice.
//!
//! Kept is the newest row of each entity, because not all rows of a table come at every tick (single CPUs come more
//! seldom than their total). An entity that is not seen any more goes after five of its table's intervals, at the
//! earliest after a minute. NULLs are left out, as are labels, texts and times.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int64Type};
use arrow_array::{Array, RecordBatch};
use nodescope_model::catalogue::{Column, ColumnType, Kind, PrometheusName, Table};
use parking_lot::Mutex;

/// An entity is kept at least this long after it was seen.
const KEEP_AT_LEAST: Duration = Duration::from_secs(60);

/// And at least for so many of its table's intervals.
const KEEP_INTERVALS: u32 = 5;

/// The newest row of every entity of every table.
#[derive(Debug, Default)]
pub struct Exposition {
    tables: Mutex<BTreeMap<String, Newest>>,
}

/// One table's newest rows, by entity.
#[derive(Debug)]
struct Newest {
    table: Arc<Table>,
    rows: HashMap<String, Seen>,
}

/// A row, as its place in the batch it came in.
#[derive(Debug)]
struct Seen {
    batch: RecordBatch,
    row: usize,
    at: Instant,
}

impl Exposition {
    /// Nothing to show yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a batch of the table's schema. Its rows replace those of the same entities.
    pub fn update(&self, table: &Arc<Table>, batch: &RecordBatch) {
        self.update_at(table, batch, Instant::now());
    }

    fn update_at(&self, table: &Arc<Table>, batch: &RecordBatch, now: Instant) {
        let mut tables = self.tables.lock();
        let newest = tables
            .entry(table.name.clone())
            .or_insert_with(|| Newest { table: Arc::clone(table), rows: HashMap::new() });
        newest.table = Arc::clone(table);
        for row in 0..batch.num_rows() {
            newest.rows.insert(entity_key(table, batch, row), Seen { batch: batch.clone(), row, at: now });
        }
        newest.forget(now);
    }

    /// Appends the whole exposition to `out`.
    pub fn render(&self, out: &mut String) {
        self.render_at(out, Instant::now());
    }

    fn render_at(&self, out: &mut String, now: Instant) {
        let mut families = BTreeMap::new();
        {
            let mut tables = self.tables.lock();
            for newest in tables.values_mut() {
                newest.forget(now);
                newest.collect(&mut families);
            }
        }
        for (name, family) in &families {
            family.render(name, out);
        }
    }
}

impl Newest {
    fn forget(&mut self, now: Instant) {
        let interval = self.table.every.unwrap_or_default();
        let keep = KEEP_AT_LEAST.max(interval.saturating_mul(KEEP_INTERVALS));
        self.rows.retain(|_, seen| now.saturating_duration_since(seen.at) <= keep);
    }

    /// Adds this table's series to the families.
    fn collect(&self, families: &mut BTreeMap<String, Family>) {
        let hidden = |seen: &Seen| {
            self.table
                .prometheus_except
                .iter()
                .any(|(column, value)| text(&seen.batch, column, seen.row).is_some_and(|found| found == *value))
        };
        let rows: Vec<&Seen> = self.rows.values().filter(|seen| !hidden(seen)).collect();
        for column in self.table.columns.iter().filter(|column| is_number(column)) {
            let own_name;
            let names = if column.prometheus.is_empty() {
                own_name = [PrometheusName { name: own_metric_name(&self.table, column), labels: Vec::new() }];
                &own_name[..]
            } else {
                &column.prometheus[..]
            };
            for seen in &rows {
                let Some(value) = number(&seen.batch, column, seen.row) else { continue };
                for name in names {
                    let labels = self.labels(name, !column.prometheus.is_empty(), seen);
                    families.entry(name.name.clone()).or_insert_with(|| Family::new(column)).add(
                        &self.table,
                        column,
                        labels,
                        &value,
                    );
                }
            }
        }
    }

    /// The labels of one series, in braces; empty when there are none. Those written in the catalogue go before those
    /// of the row, so that none is there twice.
    fn labels(&self, name: &PrometheusName, is_foreign: bool, seen: &Seen) -> String {
        let mut labels: BTreeMap<&str, String> = BTreeMap::new();
        let mut add = |label, column: &str| {
            // An empty label means the same as none.
            if let Some(value) = text(&seen.batch, column, seen.row).filter(|value| !value.is_empty()) {
                labels.insert(label, value);
            }
        };
        if is_foreign {
            for (label, column) in &self.table.prometheus_labels {
                add(label.as_str(), column);
            }
        } else {
            for column in &self.table.entity {
                add(column.as_str(), column);
            }
        }
        for (label, value) in &name.labels {
            labels.insert(label, value.clone());
        }
        if labels.is_empty() {
            return String::new();
        }
        let pairs: Vec<String> =
            labels.iter().map(|(label, value)| format!("{label}=\"{}\"", escape(value, true))).collect();
        format!("{{{}}}", pairs.join(","))
    }
}

/// All series of one metric name, which may come from several columns: CPU time by mode is one column per mode.
#[derive(Debug)]
struct Family {
    kind: &'static str,
    /// The column it comes from, with its help; `None` once there is a second, which it would not describe.
    help: Option<(String, String)>,
    table_comment: String,
    series: BTreeMap<String, String>,
}

impl Family {
    fn new(column: &Column) -> Self {
        let kind = if column.kind == Kind::Counter { "counter" } else { "gauge" };
        let help = Some((column.name.clone(), column.help.clone()));
        Self { kind, help, table_comment: String::new(), series: BTreeMap::new() }
    }

    /// Adds a series. One that is there already stays: Prometheus would refuse the whole page for a second.
    fn add(&mut self, table: &Table, column: &Column, labels: String, value: &str) {
        if self.help.as_ref().is_some_and(|(first, _)| *first != column.name) {
            self.help = None;
        }
        if self.table_comment.is_empty() {
            self.table_comment.clone_from(&table.comment);
        }
        self.series.entry(labels).or_insert_with(|| value.to_owned());
    }

    fn render(&self, name: &str, out: &mut String) {
        let help = self.help.as_ref().map_or(&self.table_comment, |(_, help)| help);
        // Writing to a String cannot fail.
        let _ = writeln!(out, "# HELP {name} {}", escape(help, false));
        let _ = writeln!(out, "# TYPE {name} {}", self.kind);
        for (labels, value) in &self.series {
            let _ = writeln!(out, "{name}{labels} {value}");
        }
    }
}

/// Whether a column is shown: counters, gauges, and states that are numbers or yes and no.
fn is_number(column: &Column) -> bool {
    column.kind != Kind::Label && matches!(column.column_type, ColumnType::Int | ColumnType::Float | ColumnType::Bool)
}

fn own_metric_name(table: &Table, column: &Column) -> String {
    let total = if column.kind == Kind::Counter && !column.name.ends_with("_total") { "_total" } else { "" };
    format!("nodescope_{}_{}{total}", table.name, column.name)
}

/// Tells the entities of a table apart.
fn entity_key(table: &Table, batch: &RecordBatch, row: usize) -> String {
    let mut key = String::new();
    for column in &table.entity {
        key.push_str(&text(batch, column, row).unwrap_or_default());
        key.push('\u{1f}');
    }
    key
}

/// A value as a label shows it.
fn text(batch: &RecordBatch, column: &str, row: usize) -> Option<String> {
    let array = batch.column_by_name(column)?;
    if array.is_null(row) {
        return None;
    }
    if let Some(texts) = array.as_string_opt::<i32>() {
        Some(texts.value(row).to_owned())
    } else if let Some(numbers) = array.as_primitive_opt::<Int64Type>() {
        Some(numbers.value(row).to_string())
    } else {
        array.as_boolean_opt().map(|flags| flags.value(row).to_string())
    }
}

/// A value as Prometheus reads it.
fn number(batch: &RecordBatch, column: &Column, row: usize) -> Option<String> {
    let array = batch.column_by_name(&column.name)?;
    if array.is_null(row) {
        return None;
    }
    match column.column_type {
        ColumnType::Int => array.as_primitive_opt::<Int64Type>().map(|numbers| numbers.value(row).to_string()),
        ColumnType::Float => array.as_primitive_opt::<Float64Type>().map(|numbers| float(numbers.value(row))),
        ColumnType::Bool => array.as_boolean_opt().map(|flags| u8::from(flags.value(row)).to_string()),
        ColumnType::Text | ColumnType::Timestamp | ColumnType::Bytes | ColumnType::IntMap | ColumnType::TextMap => None,
    }
}

fn float(value: f64) -> String {
    if value == f64::INFINITY {
        "+Inf".to_owned()
    } else if value == f64::NEG_INFINITY {
        "-Inf".to_owned()
    } else {
        value.to_string()
    }
}

/// Backslashes and line ends, and in label values quotes, are written with a backslash.
fn escape(text: &str, is_label: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '"' if is_label => out.push_str("\\\""),
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests;
