//! The catalogue as a page for people: `docs/catalogue.md`.
//!
//! Nobody writes that page. It is made from the same definitions as the Arrow schemas and the SQL comments, so it
//! cannot say anything else than they do, and a test fails when the page that is kept is not the one made here.

use std::fmt::Write;
use std::time::Duration;

use crate::catalogue::{Catalogue, Column, InfoLabel, Table};

const HEAD: &str = "\
# The catalogue

<!-- Generated from model/catalogue/*.toml. Do not edit: UPDATE=1 cargo test -p nodescope-model --test page -->

Every table begins with the same three columns: `ts` (the tick a row belongs to: microseconds, UTC, aligned to the
wall clock), `node` (identification code of the platform node, opaque text) and `host`. The columns of the entity
follow, which tell rows of one host and tick apart; they are never NULL. Every other value that nobody could read is
NULL.

A counter is raw and cumulative: take `rate(value, ts)` or `increase(value, ts)` of one entity, which know resets. A
gauge is a level at the tick, a state one of several names, a label something that hardly changes.

";

const ROLLUPS: &str = "\
## Minutes and hours

Of every table that moves there are two more, `<table>_1m` and `<table>_1h`, with one row for each entity and minute or
hour in which it was sampled; `ts` begins the minute or hour. They have these columns, in this order:

| Column | Type | Meaning |
|---|---|---|
| those of the entity | as in the table | as in the table |
| `revision` | int | Repetition of the window, from 0. Windows are summed up again when rows come late; queries show the newest only. |
| `samples` | int | Rows in the window. |
| `expected` | float | Rows there would be if none were missing: the window by the interval of the probe. NULL where nobody knows. |
| labels and states | as in the table | As in the last row of the window. Maps and bytes are left out, and labels called like one of the columns above. |
| `<gauge>_min`, `<gauge>_max`, `<gauge>_last` | as the gauge | Of the values that are known; NULL when none is. |
| `<gauge>_mean` | float | The same; every sample counts alike. |
| `<counter>_increase` | as the counter | Growth, resets included, from the last sample before the window to the last in it. The growth between two samples belongs to the window of the later one, so hours are sums of minutes. NULL when there is nothing to compare with. |
| `<counter>_last` | as the counter | Last known value. |
| `<gauge>_count`, `<counter>_count` | int | Samples in which the value was known. |

A table moves when its rows are samples and it has gauges or counters that are no maps. docs/rollups.md says how they
are made. These do:";

/// The whole page, as Markdown: a list of the tables, then one section for each.
pub fn page(catalogue: &Catalogue) -> String {
    let mut page = HEAD.to_owned();
    page.push_str("| Table | Sampled | Holds |\n|---|---|---|\n");
    let written = || catalogue.tables().filter(|table| table.derived.is_none());
    for table in written() {
        row(&mut page, &[format!("[`{0}`](#{0})", table.name), cadence(table.every), cell(&table.comment)]);
    }
    rollups(&mut page, catalogue);
    for table in written() {
        section(&mut page, table);
    }
    page
}

/// The tables that follow from others, by their rule.
fn rollups(page: &mut String, catalogue: &Catalogue) {
    let from: Vec<_> = catalogue.tables().filter(|table| table.moves()).map(|table| table.name.clone()).collect();
    let _ = write!(page, "\n{ROLLUPS}\n{}.\n", codes(&from));
}

fn section(page: &mut String, table: &Table) {
    let entity = if table.entity.is_empty() { "the host itself".to_owned() } else { codes(&table.entity) };
    let _ = write!(
        page,
        "\n## {}\n\n{}\n\nSampled: {}. Entity: {entity}. Schema version {}.\n\n",
        table.name,
        prose(&table.comment),
        cadence(table.every),
        table.version
    );
    if !table.prometheus_labels.is_empty() {
        let labels: Vec<_> =
            table.prometheus_labels.iter().map(|(label, column)| format!("`{label}` from `{column}`")).collect();
        let _ = writeln!(page, "Prometheus labels: {}.\n", labels.join(", "));
    }
    if !table.prometheus_except.is_empty() {
        let except: Vec<_> =
            table.prometheus_except.iter().map(|(column, value)| format!("`{column}` = `{value}`")).collect();
        let _ = writeln!(page, "Not shown to Prometheus: rows with {}.\n", except.join(", "));
    }
    for info in &table.prometheus_info {
        let labels = info.labels.iter().map(|(label, from)| match from {
            InfoLabel::Column(column) => format!("`{label}` from `{column}`"),
            InfoLabel::Text(text) => format!("`{label}` is `{text}`"),
        });
        let _ =
            writeln!(page, "Prometheus: `{}`, always 1, with {}.\n", info.name, labels.collect::<Vec<_>>().join(", "));
    }
    page.push_str(
        "| Column | Type | Unit | Kind | Meaning | Read from | Prometheus |\n|---|---|---|---|---|---|---|\n",
    );
    for column in &table.columns {
        row(page, &cells(column));
    }
}

fn cells(column: &Column) -> [String; 7] {
    let prometheus: Vec<_> = column.prometheus.iter().map(ToString::to_string).collect();
    [
        format!("`{}`", column.name),
        column.column_type.as_str().to_owned(),
        column.unit.clone(),
        column.kind.as_str().to_owned(),
        cell(&column.help),
        cell(&column.source),
        codes(&prometheus),
    ]
}

fn row(page: &mut String, cells: &[String]) {
    let _ = writeln!(page, "| {} |", cells.join(" | "));
}

fn codes(names: &[String]) -> String {
    names.iter().map(|n| format!("`{}`", n.replace('|', "\\|"))).collect::<Vec<_>>().join(", ")
}

/// How often a table's rows come.
fn cadence(every: Option<Duration>) -> String {
    match every.map(|e| e.as_millis()) {
        None => "as it happens".to_owned(),
        Some(millis) if millis % 1_000 == 0 => format!("every {} s", millis / 1_000),
        Some(millis) => format!("every {millis} ms"),
    }
}

/// Text for one cell: a `|` would end it, wherever it stands.
fn cell(text: &str) -> String {
    prose(text).replace('|', "\\|").split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Text as Markdown. `/proc/<pid>/stat` would be taken for HTML, except between backticks, where it is left alone.
fn prose(text: &str) -> String {
    text.split('`')
        .enumerate()
        .map(|(at, part)| if at % 2 == 0 { part.replace('<', "&lt;") } else { part.to_owned() })
        .collect::<Vec<_>>()
        .join("`")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SITE: &str = r#"
        table = "cooling"
        version = 3
        every = "250ms"
        comment = "Inlet and outlet <of> each rack's cooling."
        entity = ["rack"]
        prometheus_labels = { rack = "rack" }
        prometheus_except = { rack = "all" }
        [[prometheus_info]]
        name = "cooling_info"
        labels = { rack = "rack", maker = "=us" }
        [[column]]
        name = "rack"
        type = "text"
        kind = "label"
        help = "Rack: `a|b`, or <none>."
        [[column]]
        name = "inlet_celsius"
        type = "float"
        kind = "gauge"
        unit = "celsius"
        help = "Water going in."
        source = "controller <1>"
        prometheus = ["cooling_celsius{side=\"in\",kind=\"water\"}", "inlet_celsius"]
    "#;

    fn site_page() -> String {
        page(&Catalogue::with_texts(&[("cooling.toml", SITE)]).unwrap())
    }

    #[test]
    fn a_table_says_all_that_is_known_about_it() {
        let page = site_page();
        for line in [
            "| [`cooling`](#cooling) | every 250 ms | Inlet and outlet &lt;of> each rack's cooling. |",
            "## cooling",
            "Inlet and outlet &lt;of> each rack's cooling.",
            "Sampled: every 250 ms. Entity: `rack`. Schema version 3.",
            "Prometheus labels: `rack` from `rack`.",
            "Not shown to Prometheus: rows with `rack` = `all`.",
            "Prometheus: `cooling_info`, always 1, with `maker` is `us`, `rack` from `rack`.",
            r"| `rack` | text |  | label | Rack: `a\|b`, or &lt;none>. |  |  |",
            "| `inlet_celsius` | float | celsius | gauge | Water going in. | controller &lt;1> | \
             `cooling_celsius{side=\"in\",kind=\"water\"}`, `inlet_celsius` |",
        ] {
            assert!(page.lines().any(|l| l == line), "`{line}` is not in:\n{page}");
        }
    }

    #[test]
    fn every_table_and_column_is_there_and_every_row_has_its_cells() {
        let catalogue = Catalogue::built_in();
        let page = page(&catalogue);
        assert!(!page.contains("## cpu_1m") && page.contains("`cpu`, `demand`"), "minutes and hours stand there once");
        for table in catalogue.tables().filter(|table| table.derived.is_none()) {
            let section = page.split(&format!("\n## {}\n", table.name)).nth(1).expect("a section for each table");
            let section = section.split("\n## ").next().unwrap_or_default();
            let columns = section.lines().filter(|l| l.starts_with("| `")).count();
            assert_eq!(columns, table.columns.len(), "{}", table.name);
        }
        for line in page.lines().filter(|l| l.starts_with("| `") && !ROLLUPS.contains(l)) {
            let bars = line.matches('|').count() - line.matches("\\|").count();
            assert_eq!(bars, 8, "{line}");
        }
    }

    #[test]
    fn cadences_are_spelled_out() {
        assert_eq!(cadence(Some(Duration::from_secs(60))), "every 60 s");
        assert_eq!(cadence(None), "as it happens");
    }
}
