//! Rules that every table keeps.

use std::collections::BTreeSet;

use super::parse::CatalogueErrors;
use super::prometheus::{InfoLabel, is_label_name, is_metric_name};
use super::{COMMON_COLUMNS, Column, ColumnType, Kind, REVISION, Table};

/// Units that a column name must end in. `1` is a plain number and leaves no mark.
const UNITS: &[&str] = &[
    "seconds",
    "bytes",
    "hertz",
    "ratio",
    "celsius",
    "watts",
    "joules",
    "volts",
    "amperes",
    "bits_per_second",
    "bytes_per_second",
    "microseconds",
];

/// Longest name of a table or column: PostgreSQL's limit, so that no tool cuts one.
pub(super) const MAX_NAME: usize = 63;

/// More columns than this in one table is a mistake, not a table.
pub(super) const MAX_COLUMNS: usize = 1_000;

pub(super) fn table(file: &str, table: &Table, errors: &mut CatalogueErrors) {
    if !is_sql_name(&table.name) {
        errors.add(file, format!("table = \"{}\": use lower-case letters, digits and _, a letter first", table.name));
    }
    if table.comment.is_empty() {
        errors.add(file, "comment: say in a sentence what the table holds");
    }
    if table.columns.is_empty() {
        errors.add(file, "a table needs at least one [[column]]");
    }
    if table.columns.len() > MAX_COLUMNS {
        errors.add(file, format!("{} columns; {MAX_COLUMNS} is the most", table.columns.len()));
    }
    let mut seen: BTreeSet<&str> = COMMON_COLUMNS.into();
    for column in &table.columns {
        let place = format!("{file}: column `{}`", column.name);
        if !is_sql_name(&column.name) {
            errors.add(&place, "use lower-case letters, digits and _, a letter first");
        }
        if !seen.insert(&column.name) {
            errors.add(&place, "is there already (ts, node and host are part of every table)");
        }
        if column.help.is_empty() {
            errors.add(&place, "help: say in a sentence what it means");
        }
        unit(&place, column, errors);
        prometheus(&place, table, column, errors);
    }
    for (at, name) in table.entity.iter().enumerate() {
        match table.columns.get(at) {
            Some(column) if column.name == *name && column.kind == Kind::Label => {
                if column.column_type != ColumnType::Text && column.column_type != ColumnType::Int {
                    errors.add(file, format!("entity column `{name}` must be text or int"));
                }
            }
            _ => errors.add(
                file,
                format!("entity `{name}` must be a label, and the first columns must be the entity's, in its order"),
            ),
        }
    }
    for (label, column) in &table.prometheus_labels {
        if !is_label_name(label) {
            errors.add(file, format!("prometheus_labels: `{label}` is not a label name"));
        }
        if table.schema().field_with_name(column).is_err() {
            errors.add(file, format!("prometheus_labels: there is no column `{column}`"));
        }
    }
    if table.revised && table.column(REVISION).is_none_or(|c| c.column_type != ColumnType::Int) {
        errors.add(file, format!("revised: it needs a column `{REVISION}` of type int"));
    }
    for column in table.rollup_expects.keys() {
        if table.column(column).is_none_or(|c| c.column_type != ColumnType::Text) {
            errors.add(file, format!("rollup_expects: there is no column `{column}` of type text"));
        }
    }
    for column in table.prometheus_except.keys() {
        if table.column(column).is_none() {
            errors.add(file, format!("prometheus_except: there is no column `{column}`"));
        }
    }
    for info in &table.prometheus_info {
        let place = format!("{file}: prometheus_info `{}`", info.name);
        if !is_metric_name(&info.name) {
            errors.add(&place, "name: not a Prometheus metric name");
        }
        if info.labels.is_empty() {
            errors.add(&place, "labels: at least one, as { label = \"column\" }");
        }
        for (label, from) in &info.labels {
            if !is_label_name(label) {
                errors.add(&place, format!("`{label}` is not a label name"));
            }
            if let InfoLabel::Column(column) = from
                && !can_be_label(table, column)
            {
                errors.add(&place, format!("there is no column `{column}` of text, numbers or yes and no"));
            }
        }
    }
}

/// Labels come from columns that have one short value: no maps, bytes or times.
fn can_be_label(table: &Table, column: &str) -> bool {
    match table.column(column) {
        Some(column) => !matches!(
            column.column_type,
            ColumnType::Bytes | ColumnType::Timestamp | ColumnType::IntMap | ColumnType::TextMap
        ),
        None => COMMON_COLUMNS.contains(&column) && column != "ts",
    }
}

/// Names, the labels they take from elsewhere, and states.
fn prometheus(place: &str, table: &Table, column: &Column, errors: &mut CatalogueErrors) {
    let has_states = !column.prometheus_states.is_empty();
    let is_map = column.column_type == ColumnType::IntMap;
    if has_states && (column.column_type != ColumnType::Text || column.kind != Kind::State) {
        errors.add(place, "prometheus_states: only a column of type text and kind state has them");
    }
    let mut seen = BTreeSet::new();
    if let Some(twice) = column.prometheus_states.iter().find(|state| !seen.insert(*state)) {
        errors.add(place, format!("prometheus_states: `{twice}` is there twice"));
    }
    let has_series = has_states
        || column.kind != Kind::Label
            && matches!(
                column.column_type,
                ColumnType::Int | ColumnType::Float | ColumnType::Bool | ColumnType::IntMap
            );
    if !column.prometheus.is_empty() && !has_series {
        errors.add(place, "prometheus: only numbers, yes and no, maps of numbers and named states are shown");
    }
    for name in &column.prometheus {
        for (_, from) in &name.columns {
            if !can_be_label(table, from) {
                errors.add(place, format!("prometheus: there is no column `{from}` of text, numbers or yes and no"));
            }
        }
        if name.key.is_some() && !is_map && !has_states {
            errors.add(place, "prometheus: `key` is for columns of type int_map or with prometheus_states");
        }
        if name.key.is_none() && is_map {
            errors.add(place, format!("prometheus: say which label names the entry: {}{{label=key}}", name.name));
        }
    }
}

fn unit(place: &str, column: &super::Column, errors: &mut CatalogueErrors) {
    let number = matches!(column.column_type, ColumnType::Int | ColumnType::Float | ColumnType::IntMap);
    if matches!(column.kind, Kind::Counter | Kind::Gauge) {
        if !number {
            errors.add(place, format!("a {} is a number: type int, float or int_map", column.kind.as_str()));
        }
        if column.unit.is_empty() {
            errors.add(place, format!("unit: one of {}, or 1", UNITS.join(", ")));
        }
    }
    if !column.unit.is_empty() && column.unit != "1" {
        if !UNITS.contains(&column.unit.as_str()) {
            errors.add(place, format!("unit `{}` is none of {}, 1", column.unit, UNITS.join(", ")));
        } else if !column.name.ends_with(&format!("_{}", column.unit)) && column.name != column.unit {
            errors.add(place, format!("the unit comes last in the name: `{}_{}`", column.name, column.unit));
        }
    }
}

fn is_sql_name(name: &str) -> bool {
    name.len() <= MAX_NAME
        && name.bytes().next().is_some_and(|b| b.is_ascii_lowercase())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}
