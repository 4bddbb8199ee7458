//! The rules that fill minutes and hours: one of each for every table that moves, written from the catalogue.
//!
//! A **minute** is made of the raw rows of its time, and of those shortly before it, of which only the last value of
//! every counter matters: growth from one sample to the next belongs to the window of the later one. How far back is
//! looked depends on the probe: six intervals, at least a minute and at most five. A counter that was silent for longer
//! begins anew with its first sample, and what it grew by meanwhile is in no minute. The rule's window is so much
//! longer than a minute, so that a row that comes late repeats every minute that looked for it.
//!
//! An **hour** is made of its minutes, in their newest revision: least of the least, sum of the growths, means weighed
//! by their counts.
//!
//! Both are SQL like everybody's, in the form of rule files; `nodescope rules` shows them.

use std::fmt::Write;
use std::time::Duration;

use nodescope_model::catalogue::{Catalogue, Column, Grain, Kind, Table};

use crate::definition::{Definition, Mistakes, Purpose};

/// Intervals of a probe that are looked back for the last value of a counter.
const LOOK_BACK: u32 = 6;

/// Least and most of that.
const LOOK_BACK_LIMITS: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(300));

/// The rules of all tables that move, by name of the table they fill.
///
/// # Errors
/// When one is no definition, which is a bug: a test reads all.
pub fn definitions(catalogue: &Catalogue) -> Result<Vec<Definition>, Mistakes> {
    let mut mistakes = Mistakes::default();
    let mut all = Vec::new();
    for table in catalogue.tables().filter(|table| table.moves()) {
        for grain in Grain::ALL {
            let (name, text) = text(table, grain);
            match Definition::parse(&format!("{name}.sql"), &text, Purpose::Rule) {
                Ok(definition) => all.push(definition),
                Err(more) => mistakes.0.extend(more.0),
            }
        }
    }
    if mistakes.0.is_empty() { Ok(all) } else { Err(mistakes) }
}

/// Name and text of the rule that makes minutes or hours of a table.
pub fn text(table: &Table, grain: Grain) -> (String, String) {
    match grain {
        Grain::Minute => minute(table),
        Grain::Hour => hour(table),
    }
}

fn look_back(table: &Table) -> Duration {
    if !table.folded().any(|column| column.kind == Kind::Counter) {
        return Duration::ZERO;
    }
    let (least, most) = LOOK_BACK_LIMITS;
    table.every.map_or(most, |every| (every * LOOK_BACK).clamp(least, most))
}

fn minute(table: &Table) -> (String, String) {
    let name = format!("{}{}", table.name, Grain::Minute.suffix());
    let window = Grain::Minute.length() + look_back(table);
    let kept: Vec<&Column> = table.kept().collect();
    let (counters, gauges): (Vec<&Column>, Vec<&Column>) = table.folded().partition(|c| c.kind == Kind::Counter);
    let key = key(table);
    let start = "$to - INTERVAL '1 minute'";
    let call = |function: &str, columns: &[&Column]| {
        let values: Vec<_> = columns.iter().map(|c| quoted(&c.name)).collect();
        format!(",\n    {function}({start}, ts, {}) AS {}", values.join(", "), &function["rollup_".len()..])
    };
    let calls = [("rollup_latest", &kept), ("rollup_levels", &gauges), ("rollup_growths", &counters)];
    let calls: String = calls.iter().filter(|(_, c)| !c.is_empty()).map(|(f, columns)| call(f, columns)).collect();
    let fallback = table.every.map_or("CAST(NULL AS DOUBLE)".to_owned(), |every| format!("{:?}", every.as_secs_f64()));
    let expected = format!("60.0 / COALESCE(probe.seconds, {fallback})");
    let expected = if table.rollup_expects.is_empty() {
        expected
    } else {
        let only = table.rollup_expects.iter();
        let only: Vec<_> = only
            .map(|(column, value)| format!("sampled.{} = '{}'", quoted(column), value.replace('\'', "''")))
            .collect();
        format!("CASE WHEN {} THEN {expected} END", only.join(" AND "))
    };
    let mut columns = String::new();
    let mut get = |from: &str, field: &str, n: usize, name: &str| {
        let _ = write!(columns, ",\n  get_field(sampled.{from}, '{field}{n}') AS {}", quoted(name));
    };
    for (n, column) in kept.iter().enumerate() {
        get("latest", "c", n, &column.name);
    }
    for (n, column) in gauges.iter().enumerate() {
        for field in ["min", "max", "mean", "last", "count"] {
            get("levels", field, n, &format!("{}_{field}", column.name));
        }
    }
    for (n, column) in counters.iter().enumerate() {
        for field in ["increase", "last", "count"] {
            get("growths", field, n, &format!("{}_{field}", column.name));
        }
    }
    let of_sampled: Vec<_> = key.iter().map(|column| format!("sampled.{column}")).collect();
    let text = format!(
        "{head}WITH sampled AS (
  SELECT {key},
    COUNT(*) FILTER (WHERE ts >= {start}) AS samples{calls}
  FROM {table}
  WHERE ts >= $from AND ts < $to
  GROUP BY {key}
),
probe AS (
  SELECT node, host, last(interval_seconds, ts) AS seconds
  FROM agent
  WHERE ts >= $from AND ts < $to AND probe = '{plain}' AND interval_seconds > 0
  GROUP BY node, host
)
SELECT {start} AS ts, {of_sampled}, sampled.samples,
  {expected} AS expected{columns}
FROM sampled LEFT JOIN probe ON probe.node = sampled.node AND probe.host = sampled.host
WHERE sampled.samples > 0
",
        head = head(table, Grain::Minute, window, "20s"),
        key = key.join(", "),
        table = quoted(&table.name),
        plain = table.name,
        of_sampled = of_sampled.join(", "),
    );
    (name, text)
}

fn hour(table: &Table) -> (String, String) {
    let name = format!("{}{}", table.name, Grain::Hour.suffix());
    let key = key(table);
    let mut columns = String::new();
    let mut add = |sql: &str, name: &str| {
        let _ = write!(columns, ",\n  {sql} AS {}", quoted(name));
    };
    for column in table.kept() {
        // As the minutes have it: of the last one, known or not.
        add(&format!("last_value({} ORDER BY ts)", quoted(&column.name)), &column.name);
    }
    for column in table.folded() {
        let of = |suffix: &str| quoted(&format!("{}_{suffix}", column.name));
        let mut fold = |sql: String, suffix: &str| add(&sql, &format!("{}_{suffix}", column.name));
        if column.kind == Kind::Counter {
            fold(format!("SUM({})", of("increase")), "increase");
        } else {
            fold(format!("MIN({})", of("min")), "min");
            fold(format!("MAX({})", of("max")), "max");
            fold(format!("SUM({0} * {1}) / NULLIF(SUM({1}), 0)", of("mean"), of("count")), "mean");
        }
        fold(format!("last({}, ts)", of("last")), "last");
        fold(format!("SUM({})", of("count")), "count");
    }
    let text = format!(
        "{head}SELECT $from AS ts, {key}, SUM(samples) AS samples,
  60.0 * AVG(expected) AS expected{columns}
FROM {minutes}
WHERE ts >= $from AND ts < $to
GROUP BY {key}
",
        head = head(table, Grain::Hour, Grain::Hour.length(), "40s"),
        key = key.join(", "),
        minutes = quoted(&format!("{}{}", table.name, Grain::Minute.suffix())),
    );
    (name, text)
}

fn head(table: &Table, grain: Grain, window: Duration, wait: &str) -> String {
    let every = grain.length().as_secs();
    let word = if grain == Grain::Minute { "minute" } else { "hour" };
    format!(
        "/*\ntitle = \"{name} by the {word}\"\nevery = \"{every}s\"\nwindow = \"{window}s\"\nwait = \"{wait}\"\n\
         restate = \"1d\"\nsink = \"table:{name}{suffix}\"\n*/\n",
        name = table.name,
        window = window.as_secs(),
        suffix = grain.suffix(),
    )
}

/// Columns by which rows belong together.
fn key(table: &Table) -> Vec<String> {
    ["node", "host"].into_iter().chain(table.entity.iter().map(String::as_str)).map(quoted).collect()
}

/// A name that may be a word of SQL (`index`, `rows`).
fn quoted(name: &str) -> String {
    format!("\"{name}\"")
}

#[cfg(test)]
mod availability_tests;
#[cfg(test)]
mod tests;
