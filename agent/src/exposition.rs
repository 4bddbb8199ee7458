//! The newest values in Prometheus' text format (0.0.4), by the catalogue.
//!
//! Existing dashboards ask for names that others coined: `node_memory_MemAvailable_bytes`, `DCGM_FI_DEV_GPU_TEMP`. The
//! catalogue says which of our columns are the same thing, and which of our columns are its labels. A column without
//! such a name is shown as `nodescope_<table>_<column>`, labelled with the entity. So every number the agent samples
//! can be scraped, and none is defined twice. Maps become a series for each entry, named states a series for each
//! state, and info metrics tell in their labels what a row is. NULLs are left out, as are labels, texts and times.
//!
//! Rows come every second and are asked for every fifteen, or never. So taking them in must cost nearly nothing: the
//! batch is kept as it came, in place of the one before with the same entities, and nothing is looked at but whether
//! they are the same, which is a comparison of bytes. Not all rows of a table come at every tick (single CPUs come more
//! seldom than their total), so a table has a few such *groups*, and of an entity that is in several the newest row
//! counts. The text of labels is made at the first page after they changed and kept with the group; the names, help and
//! order of all metrics are made when a table is first seen.
//!
//! A group that is not seen any more goes after five of its table's intervals, at the earliest after a minute.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int64Type};
use arrow_array::{Array, ArrayRef, RecordBatch};
use nodescope_model::catalogue::{
    COMMON_COLUMNS, Column, ColumnType, InfoLabel, Kind, PrometheusInfo, PrometheusName, Table,
};
use parking_lot::Mutex;

/// A group is kept at least this long after it was seen.
const KEEP_AT_LEAST: Duration = Duration::from_secs(60);

/// And at least for so many of its table's intervals.
const KEEP_INTERVALS: u32 = 5;

/// Groups of one table. Beyond that the oldest goes: where entities change at every tick, they are in the newer ones.
const MAX_GROUPS: usize = 16;

/// The newest row of every entity of every table.
#[derive(Debug, Default)]
pub struct Exposition {
    shown: Mutex<Shown>,
}

#[derive(Debug, Default)]
struct Shown {
    tables: Vec<Newest>,
    by_name: HashMap<String, usize>,
    families: Vec<Family>,
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
        let mut shown = self.shown.lock();
        let at = match shown.by_name.get(&table.name) {
            Some(at) => *at,
            None => shown.add(table),
        };
        shown.tables[at].take(batch, now);
    }

    /// Appends the whole exposition to `out`.
    pub fn render(&self, out: &mut String) {
        self.render_at(out, Instant::now());
    }

    fn render_at(&self, out: &mut String, now: Instant) {
        let mut shown = self.shown.lock();
        for newest in &mut shown.tables {
            newest.prepare(now);
        }
        let mut seen = HashSet::new();
        for family in &shown.families {
            family.render(&shown.tables, &mut seen, out);
        }
    }
}

impl Shown {
    /// A table that was not there before. The families are made anew, for its metrics may belong to known ones.
    fn add(&mut self, table: &Arc<Table>) -> usize {
        let at = self.tables.len();
        self.tables.push(Newest::new(table));
        self.by_name.insert(table.name.clone(), at);
        let mut families: BTreeMap<&str, Family> = BTreeMap::new();
        for (at, newest) in self.tables.iter().enumerate() {
            for (metric_at, metric) in newest.metrics.iter().enumerate() {
                families.entry(&metric.name).or_default().metrics.push((at, metric_at));
            }
        }
        let finished = families.into_iter().map(|(name, family)| family.finish(name, &self.tables)).collect();
        self.families = finished;
        at
    }
}

/// One table's newest rows.
#[derive(Debug)]
struct Newest {
    table: Arc<Table>,
    /// All there is to show of a row.
    metrics: Vec<Metric>,
    /// Label sets that metrics of this table have: label and index of the column, in order of label.
    label_sets: Vec<Vec<(String, usize)>>,
    /// Columns that tell entities apart, and those that labels come from: while they are the same, a batch takes the
    /// place of the one before. The entity's come first.
    entity: Vec<usize>,
    looks: Vec<usize>,
    /// Columns and the text in them that hides a row.
    except: Vec<(usize, String)>,
    groups: Vec<Group>,
}

/// Rows that came together.
#[derive(Debug)]
struct Group {
    batch: RecordBatch,
    at: Instant,
    /// Which rows are shown: neither hidden nor in a newer group.
    visible: Vec<bool>,
    /// The text of each label set, row by row. Made when first needed.
    labels: Vec<Texts>,
}

/// Many short texts in one.
#[derive(Debug, Default)]
struct Texts {
    text: String,
    ends: Vec<usize>,
}

impl Texts {
    fn get(&self, at: usize) -> &str {
        let begin = at.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or(0);
        self.ends.get(at).and_then(|end| self.text.get(begin..*end)).unwrap_or_default()
    }
}

impl Newest {
    fn new(table: &Arc<Table>) -> Self {
        let mut newest = Self {
            table: Arc::clone(table),
            metrics: Vec::new(),
            label_sets: Vec::new(),
            entity: Vec::new(),
            looks: Vec::new(),
            except: Vec::new(),
            groups: Vec::new(),
        };
        let index = |name: &str| table.schema().index_of(name).ok();
        newest.entity = table.entity.iter().filter_map(|name| index(name)).collect();
        newest.except =
            table.prometheus_except.iter().filter_map(|(name, text)| Some((index(name)?, text.clone()))).collect();
        for (at, column) in table.columns.iter().enumerate() {
            newest.add_metrics(column, at + COMMON_COLUMNS.len());
        }
        for info in &table.prometheus_info {
            newest.add_info(info);
        }
        let labels = newest.label_sets.iter().flatten().map(|(_, column)| *column);
        let mut looks: Vec<usize> = labels.chain(newest.except.iter().map(|(column, _)| *column)).collect();
        looks.sort_unstable();
        looks.dedup();
        looks.retain(|column| !newest.entity.contains(column));
        newest.looks = looks;
        newest
    }

    fn add_metrics(&mut self, column: &Column, index: usize) {
        let value = match column.column_type {
            _ if !column.prometheus_states.is_empty() => Value::States(index, column.prometheus_states.clone()),
            _ if column.kind == Kind::Label => return,
            ColumnType::Int => Value::Int(index),
            ColumnType::Float => Value::Float(index),
            ColumnType::Bool => Value::Bool(index),
            ColumnType::IntMap => Value::Map(index),
            ColumnType::Text | ColumnType::Timestamp | ColumnType::Bytes | ColumnType::TextMap => return,
        };
        let table = Arc::clone(&self.table);
        let default_key = if matches!(value, Value::States(..)) { "state" } else { "key" };
        let mut add = |name: &PrometheusName, labels: BTreeMap<&str, &str>| {
            let keyed = matches!(value, Value::States(..) | Value::Map(_));
            let key = keyed.then(|| name.key.clone().unwrap_or_else(|| default_key.to_owned()));
            self.add(&name.name, &name.labels, labels, key, value.clone(), Some(column), &column.help);
        };
        if column.prometheus.is_empty() {
            let name = PrometheusName { name: own_metric_name(&table, column), ..PrometheusName::default() };
            add(&name, table.entity.iter().map(|column| (column.as_str(), column.as_str())).collect());
        }
        for name in &column.prometheus {
            let of_table = table.prometheus_labels.iter().map(|(label, from)| (label.as_str(), from.as_str()));
            let of_column = name.columns.iter().map(|(label, from)| (label.as_str(), from.as_str()));
            add(name, of_table.chain(of_column).collect());
        }
    }

    fn add_info(&mut self, info: &PrometheusInfo) {
        let mut columns = BTreeMap::new();
        let mut fixed = Vec::new();
        for (label, from) in &info.labels {
            match from {
                InfoLabel::Column(column) => {
                    columns.insert(label.as_str(), column.as_str());
                }
                InfoLabel::Text(text) => fixed.push((label.clone(), text.clone())),
            }
        }
        self.add(&info.name, &fixed, columns, None, Value::One, None, &info.help);
    }

    /// One metric. Labels written in the catalogue go before those of the row, and an empty one takes such a label
    /// away, so that none is there twice.
    #[allow(clippy::too_many_arguments, reason = "it is what makes a metric")]
    fn add(
        &mut self,
        name: &str,
        fixed: &[(String, String)],
        mut columns: BTreeMap<&str, &str>,
        key: Option<String>,
        value: Value,
        column: Option<&Column>,
        help: &str,
    ) {
        for label in fixed.iter().map(|(label, _)| label).chain(&key) {
            columns.remove(label.as_str());
        }
        let schema = self.table.schema();
        let set: Vec<(String, usize)> = columns
            .into_iter()
            .filter_map(|(label, column)| Some((label.to_owned(), schema.index_of(column).ok()?)))
            .collect();
        let covers_entity = self.entity.iter().all(|entity| set.iter().any(|(_, column)| column == entity));
        let labels = self.label_sets.iter().position(|known| *known == set).unwrap_or_else(|| {
            self.label_sets.push(set);
            self.label_sets.len() - 1
        });
        let mut text = String::new();
        for (label, value) in fixed.iter().filter(|(_, value)| !value.is_empty()) {
            put_label(&mut text, label, value);
        }
        self.metrics.push(Metric {
            name: name.to_owned(),
            fixed: text,
            labels,
            key,
            value,
            covers_entity,
            is_counter: column.is_some_and(|column| column.kind == Kind::Counter),
            column: column.map(|column| column.name.clone()),
            help: help.to_owned(),
        });
    }

    /// Takes a batch in. This is what happens every second.
    fn take(&mut self, batch: &RecordBatch, now: Instant) {
        self.forget(now);
        if batch.num_columns() != self.table.schema().fields().len() {
            return;
        }
        // The newest is the likeliest to be the same.
        let same = |group: &Group, columns: &[usize]| {
            columns.iter().all(|at| is_same(batch.column(*at), group.batch.column(*at)))
        };
        let found = self
            .groups
            .iter()
            .rposition(|group| group.batch.num_rows() == batch.num_rows() && same(group, &self.entity));
        match found {
            Some(at) => {
                let mut group = self.groups.remove(at);
                if !same(&group, &self.looks) {
                    group.labels.clear();
                }
                group.batch = batch.clone();
                group.at = now;
                self.groups.push(group);
            }
            None => {
                if self.groups.len() == MAX_GROUPS {
                    self.groups.remove(0);
                }
                let (visible, labels) = (Vec::new(), Vec::new());
                self.groups.push(Group { batch: batch.clone(), at: now, visible, labels });
            }
        }
    }

    fn forget(&mut self, now: Instant) {
        let interval = self.table.every.unwrap_or_default();
        let keep = KEEP_AT_LEAST.max(interval.saturating_mul(KEEP_INTERVALS));
        self.groups.retain(|group| now.saturating_duration_since(group.at) <= keep);
    }

    /// Says which rows are shown and makes the labels that are missing.
    fn prepare(&mut self, now: Instant) {
        self.forget(now);
        let several = self.groups.len() > 1;
        let mut seen: HashSet<String> = HashSet::new();
        let mut key = String::new();
        for group in self.groups.iter_mut().rev() {
            group.visible.clear();
            for row in 0..group.batch.num_rows() {
                let is_hidden =
                    self.except.iter().any(|(column, hidden)| is_text(group.batch.column(*column), row, hidden));
                let is_newest = !several || {
                    key.clear();
                    for column in &self.entity {
                        put_text(&mut key, group.batch.column(*column), row);
                        key.push('\u{1f}');
                    }
                    // Looked up first: what is there already costs no allocation.
                    !seen.contains(&key) && seen.insert(key.clone())
                };
                group.visible.push(is_newest && !is_hidden);
            }
            if group.labels.is_empty() {
                group.labels = self.label_sets.iter().map(|set| label_texts(set, &group.batch)).collect();
            }
        }
    }
}

/// Whether two columns hold the same. One that is the very same array, or equal bytes.
fn is_same(one: &ArrayRef, other: &ArrayRef) -> bool {
    Arc::ptr_eq(one, other) || one == other
}

/// The labels of each row, without braces.
fn label_texts(set: &[(String, usize)], batch: &RecordBatch) -> Texts {
    let mut texts = Texts::default();
    if set.is_empty() {
        return texts;
    }
    let mut value = String::new();
    let mut labels = String::new();
    for row in 0..batch.num_rows() {
        labels.clear();
        for (label, column) in set {
            value.clear();
            put_text(&mut value, batch.column(*column), row);
            // An empty label means the same as none.
            if !value.is_empty() {
                put_label(&mut labels, label, &value);
            }
        }
        texts.text.push_str(&labels);
        texts.ends.push(texts.text.len());
    }
    texts
}

/// One metric of one table: a column under one of its names, or an info.
#[derive(Debug)]
struct Metric {
    name: String,
    /// Labels that are always the same, ready to be written.
    fixed: String,
    /// Which label set of the table's.
    labels: usize,
    /// The label that names the entry or the state.
    key: Option<String>,
    value: Value,
    /// Whether no two rows can have the same labels.
    covers_entity: bool,
    is_counter: bool,
    /// Whose help it is; info metrics have no column.
    column: Option<String>,
    help: String,
}

/// Where a value comes from: the index of the column.
#[derive(Debug, Clone)]
enum Value {
    Int(usize),
    Float(usize),
    Bool(usize),
    Map(usize),
    States(usize, Vec<String>),
    /// It is always 1.
    One,
}

impl Metric {
    /// Appends the series of one group.
    fn render(&self, group: &Group, seen: &mut Option<&mut HashSet<String>>, out: &mut String) {
        let empty = Texts::default();
        let labels = group.labels.get(self.labels).unwrap_or(&empty);
        let rows = || group.visible.iter().enumerate().filter(|(_, shown)| **shown).map(|(row, _)| row);
        let column = |at: usize| group.batch.column(at);
        match &self.value {
            Value::Int(at) => {
                let Some(array) = column(*at).as_primitive_opt::<Int64Type>() else { return };
                for row in rows().filter(|row| array.is_valid(*row)) {
                    self.line(labels.get(row), None, seen, out, |out| put_int(out, array.value(row)));
                }
            }
            Value::Float(at) => {
                let Some(array) = column(*at).as_primitive_opt::<Float64Type>() else { return };
                for row in rows().filter(|row| array.is_valid(*row)) {
                    self.line(labels.get(row), None, seen, out, |out| put_float(out, array.value(row)));
                }
            }
            Value::Bool(at) => {
                let Some(array) = column(*at).as_boolean_opt() else { return };
                for row in rows().filter(|row| array.is_valid(*row)) {
                    self.line(labels.get(row), None, seen, out, |out| put_bool(out, array.value(row)));
                }
            }
            Value::Map(at) => {
                let Some(array) = column(*at).as_map_opt() else { return };
                for row in rows().filter(|row| array.is_valid(*row)) {
                    let entries = array.value(row);
                    let [keys, values] = entries.columns() else { return };
                    let (Some(keys), Some(values)) =
                        (keys.as_string_opt::<i32>(), values.as_primitive_opt::<Int64Type>())
                    else {
                        return;
                    };
                    for entry in (0..entries.len()).filter(|entry| values.is_valid(*entry)) {
                        let key = Some(keys.value(entry));
                        self.line(labels.get(row), key, seen, out, |out| put_int(out, values.value(entry)));
                    }
                }
            }
            Value::States(at, states) => {
                let Some(array) = column(*at).as_string_opt::<i32>() else { return };
                for row in rows().filter(|row| array.is_valid(*row)) {
                    let is = array.value(row);
                    for state in states {
                        self.line(labels.get(row), Some(state), seen, out, |out| put_bool(out, is == state));
                    }
                }
            }
            Value::One => {
                // A row of which nothing is known tells nothing.
                for row in rows().filter(|row| !labels.get(*row).is_empty()) {
                    self.line(labels.get(row), None, seen, out, |out| out.push('1'));
                }
            }
        }
    }

    /// Appends one series, unless it is there already: Prometheus would refuse the whole page for a second.
    fn line(
        &self,
        labels: &str,
        key: Option<&str>,
        seen: &mut Option<&mut HashSet<String>>,
        out: &mut String,
        value: impl FnOnce(&mut String),
    ) {
        let begin = out.len();
        out.push_str(&self.name);
        if !labels.is_empty() || !self.fixed.is_empty() || key.is_some() {
            out.push('{');
            let braced = out.len();
            out.push_str(labels);
            let mut comma = !labels.is_empty();
            if !self.fixed.is_empty() {
                if comma {
                    out.push(',');
                }
                out.push_str(&self.fixed);
                comma = true;
            }
            // An empty label means the same as none.
            if let (Some(label), Some(value)) = (&self.key, key.filter(|value| !value.is_empty())) {
                if comma {
                    out.push(',');
                }
                put_pair(out, label, value);
            }
            if out.len() == braced {
                out.pop();
            } else {
                out.push('}');
            }
        }
        if let Some(seen) = seen {
            let series = out.get(begin + self.name.len()..).unwrap_or_default();
            if seen.contains(series) {
                out.truncate(begin);
                return;
            }
            seen.insert(series.to_owned());
        }
        out.push(' ');
        value(out);
        out.push('\n');
    }
}

/// All series of one metric name, which may come from several columns: CPU time by mode is one column per mode.
#[derive(Debug, Default)]
struct Family {
    /// Its help and type, ready to be written.
    head: String,
    /// Tables and metrics of theirs.
    metrics: Vec<(usize, usize)>,
    /// Whether two rows or columns might give the same series.
    may_repeat: bool,
}

impl Family {
    fn finish(mut self, name: &str, tables: &[Newest]) -> Self {
        let metrics: Vec<&Metric> = self.metrics.iter().map(|(table, at)| &tables[*table].metrics[*at]).collect();
        let Some(first) = metrics.first() else { return self };
        let comment = self.metrics.first().map(|(table, _)| tables[*table].table.comment.as_str()).unwrap_or_default();
        // The help of a column describes no other one.
        let one_column = metrics.iter().all(|metric| metric.column == first.column);
        let help = if one_column && !first.help.is_empty() { &first.help } else { comment };
        let kind = if first.is_counter { "counter" } else { "gauge" };
        self.head.push_str("# HELP ");
        self.head.push_str(name);
        self.head.push(' ');
        put_escaped(&mut self.head, help, false);
        // Writing to a String cannot fail.
        let _ = writeln!(self.head, "\n# TYPE {name} {kind}");
        let one_table = self.metrics.iter().all(|(table, _)| Some(*table) == self.metrics.first().map(|(t, _)| *t));
        let differ = {
            let mut fixed = HashSet::new();
            metrics.iter().all(|metric| fixed.insert(&metric.fixed) && metric.labels == first.labels)
        };
        let alone = metrics.len() == 1;
        let keyed = metrics.iter().any(|metric| metric.key.is_some());
        self.may_repeat =
            !(one_table && metrics.iter().all(|metric| metric.covers_entity) && (alone || (differ && !keyed)));
        self
    }

    fn render(&self, tables: &[Newest], seen: &mut HashSet<String>, out: &mut String) {
        seen.clear();
        let begin = out.len();
        out.push_str(&self.head);
        let head = out.len();
        let mut seen = self.may_repeat.then_some(seen);
        for (table, at) in &self.metrics {
            let newest = &tables[*table];
            for group in newest.groups.iter().rev() {
                newest.metrics[*at].render(group, &mut seen, out);
            }
        }
        // A family without series is not there.
        if out.len() == head {
            out.truncate(begin);
        }
    }
}

/// Appends the time of day, which is nobody's row: it is as late as the page.
pub fn render_time(out: &mut String) {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let _ = writeln!(
        out,
        "# HELP node_time_seconds Seconds since 1970, UTC, when this page was made.\n# TYPE node_time_seconds gauge\n\
         node_time_seconds {}",
        now.as_secs_f64()
    );
}

fn own_metric_name(table: &Table, column: &Column) -> String {
    let total = if column.kind == Kind::Counter && !column.name.ends_with("_total") { "_total" } else { "" };
    format!("nodescope_{}_{}{total}", table.name, column.name)
}

/// Appends a value as a label shows it; nothing for NULL.
fn put_text(out: &mut String, array: &ArrayRef, row: usize) {
    if array.is_null(row) {
        return;
    }
    if let Some(texts) = array.as_string_opt::<i32>() {
        out.push_str(texts.value(row));
    } else if let Some(numbers) = array.as_primitive_opt::<Int64Type>() {
        put_int(out, numbers.value(row));
    } else if let Some(numbers) = array.as_primitive_opt::<Float64Type>() {
        put_float(out, numbers.value(row));
    } else if let Some(flags) = array.as_boolean_opt() {
        out.push_str(if flags.value(row) { "true" } else { "false" });
    }
}

/// Whether a value is shown as this text.
fn is_text(array: &ArrayRef, row: usize, text: &str) -> bool {
    if let Some(texts) = array.as_string_opt::<i32>() {
        return texts.is_valid(row) && texts.value(row) == text;
    }
    let mut shown = String::new();
    put_text(&mut shown, array, row);
    array.is_valid(row) && shown == text
}

// Writing to a String cannot fail.

fn put_int(out: &mut String, value: i64) {
    let _ = write!(out, "{value}");
}

fn put_bool(out: &mut String, value: bool) {
    out.push(if value { '1' } else { '0' });
}

fn put_float(out: &mut String, value: f64) {
    if value == f64::INFINITY {
        out.push_str("+Inf");
    } else if value == f64::NEG_INFINITY {
        out.push_str("-Inf");
    } else {
        let _ = write!(out, "{value}");
    }
}

/// Appends a label, with a comma before it if it is not the first.
fn put_label(out: &mut String, label: &str, value: &str) {
    if !out.is_empty() {
        out.push(',');
    }
    put_pair(out, label, value);
}

fn put_pair(out: &mut String, label: &str, value: &str) {
    out.push_str(label);
    out.push_str("=\"");
    put_escaped(out, value, true);
    out.push('"');
}

/// Backslashes and line ends, and in label values quotes, are written with a backslash.
fn put_escaped(out: &mut String, text: &str, is_label: bool) {
    let mut rest = text;
    while let Some(at) = rest.find(['\\', '\n', '"']) {
        let (plain, special) = rest.split_at(at);
        out.push_str(plain);
        let mut chars = special.chars();
        match chars.next() {
            Some('\n') => out.push_str("\\n"),
            Some('"') if !is_label => out.push('"'),
            Some(other) => {
                out.push('\\');
                out.push(other);
            }
            None => {}
        }
        rest = chars.as_str();
    }
    out.push_str(rest);
}

#[cfg(test)]
mod tests;
