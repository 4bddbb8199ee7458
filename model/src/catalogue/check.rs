//! Rules that every table keeps.

use std::collections::BTreeSet;

use super::parse::CatalogueErrors;
use super::prometheus::is_label_name;
use super::{COMMON_COLUMNS, ColumnType, Kind, Table};

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
const MAX_NAME: usize = 63;

/// More columns than this in one table is a mistake, not a table.
const MAX_COLUMNS: usize = 1_000;

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
    for column in table.prometheus_except.keys() {
        if table.column(column).is_none() {
            errors.add(file, format!("prometheus_except: there is no column `{column}`"));
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
