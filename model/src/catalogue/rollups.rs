//! Minutes and hours: the tables `<table>_1m` and `<table>_1h` that follow from every table that moves.
//!
//! Nobody writes these down. A table *moves* when its rows are samples (not events) and it has a gauge or a counter of
//! type int or float. Its file may say `rollup = false` where a coarser table would say nothing (what is built in does
//! not move) or would hardly be smaller (processes come and go with names of their own).
//!
//! A row stands for one entity and one window, and `ts` is the window's start:
//!
//! | Columns | What |
//! |---|---|
//! | those of the entity | as in the table |
//! | `revision` | which repetition of the window it is from; queries show the newest only |
//! | `samples`, `expected` | rows there were, and rows there would be at the probe's interval |
//! | labels and states | as in the last row of the window |
//! | `<gauge>_min`, `_max`, `_mean`, `_last`, `_count` | of the values that are known; `_count` says how many |
//! | `<counter>_increase`, `_last`, `_count` | growth, resets included, from the last sample before the window on |
//!
//! The growth from one sample to the next belongs to the window of the later one, so hours are sums of minutes.
//! Maps and bytes are left out, and labels called like one of the columns above (`disk.revision`).

use std::collections::BTreeSet;
use std::time::Duration;

use super::check::{MAX_COLUMNS, MAX_NAME};
use super::{Column, ColumnType, Kind, Table};

/// Name of the column that tells repetitions of a window apart.
pub const REVISION: &str = "revision";

/// Columns of every rollup's own. A label of the same name is left out.
const OWN: [&str; 3] = [REVISION, "samples", "expected"];

/// Length of a rollup's windows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Grain {
    /// One minute.
    Minute,
    /// One hour.
    Hour,
}

impl Grain {
    /// All, the finest first.
    pub const ALL: [Self; 2] = [Self::Minute, Self::Hour];

    /// How long a window is.
    pub fn length(self) -> Duration {
        match self {
            Self::Minute => Duration::from_secs(60),
            Self::Hour => Duration::from_secs(3_600),
        }
    }

    /// End of the table's name.
    pub fn suffix(self) -> &'static str {
        match self {
            Self::Minute => "_1m",
            Self::Hour => "_1h",
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Minute => "minute",
            Self::Hour => "hour",
        }
    }
}

/// What a table was made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Derived {
    /// Name of the table whose samples it sums up.
    pub from: String,
    /// Length of its windows.
    pub grain: Grain,
}

impl Column {
    /// Whether minutes and hours have columns for its values.
    pub fn is_folded(&self) -> bool {
        matches!(self.kind, Kind::Gauge | Kind::Counter)
            && matches!(self.column_type, ColumnType::Int | ColumnType::Float)
    }

    /// Whether minutes and hours keep its last value as it is.
    pub fn is_kept(&self) -> bool {
        matches!(self.kind, Kind::Label | Kind::State)
            && matches!(
                self.column_type,
                ColumnType::Int | ColumnType::Float | ColumnType::Text | ColumnType::Bool | ColumnType::Timestamp
            )
    }
}

impl Table {
    /// Whether minutes and hours are made of it.
    pub fn moves(&self) -> bool {
        self.rollup && !self.events && !self.revised && self.columns.iter().any(Column::is_folded)
    }

    /// Its columns of values, in order: those for which minutes and hours have columns.
    pub fn folded(&self) -> impl Iterator<Item = &Column> {
        self.columns.iter().filter(|c| c.is_folded())
    }

    /// Its labels and states beside the entity, in order, of which minutes and hours keep the last.
    pub fn kept(&self) -> impl Iterator<Item = &Column> {
        let is_taken = |c: &Column| self.entity.contains(&c.name) || OWN.contains(&c.name.as_str());
        self.columns.iter().filter(move |c| c.is_kept() && !is_taken(c))
    }
}

/// The table of that grain, or what stands in its way.
pub(super) fn derive(table: &Table, grain: Grain) -> Result<Table, String> {
    let name = format!("{}{}", table.name, grain.suffix());
    let columns = columns(table);
    let mut seen: BTreeSet<&str> = super::COMMON_COLUMNS.into();
    for column in &columns {
        if column.name.len() > MAX_NAME {
            return Err(format!("`{}` would be too long a name for `{name}`; {HELP}", column.name));
        }
        if !seen.insert(&column.name) {
            return Err(format!("`{name}` would have two columns `{}`; {HELP}", column.name));
        }
    }
    if name.len() > MAX_NAME || columns.len() > MAX_COLUMNS {
        return Err(format!("`{name}` would have too long a name or more than {MAX_COLUMNS} columns; {HELP}"));
    }
    let schema = Table::make_schema(&table.entity, &columns);
    Ok(Table {
        version: table.version,
        every: None,
        comment: format!(
            "`{}` by the {}, one row for each entity that was sampled. `ts` begins it.",
            table.name,
            grain.word()
        ),
        entity: table.entity.clone(),
        columns,
        prometheus_labels: Default::default(),
        prometheus_except: Default::default(),
        events: false,
        prometheus_info: Vec::new(),
        rollup: false,
        rollup_expects: Default::default(),
        revised: true,
        own: true,
        derived: Some(Derived { from: table.name.clone(), grain }),
        built_in: table.built_in,
        name,
        schema,
    })
}

const HELP: &str = "choose another name, or write rollup = false";

fn columns(table: &Table) -> Vec<Column> {
    let entity = table.columns.iter().filter(|c| table.entity.contains(&c.name)).map(plain);
    let mut columns: Vec<Column> = entity.collect();
    columns.push(of(
        "",
        Kind::Label,
        ColumnType::Int,
        REVISION,
        "Repetition of the window, from 0; the newest is shown.".into(),
    ));
    columns.push(of("1", Kind::Gauge, ColumnType::Int, "samples", "Rows in the window.".into()));
    columns.push(of(
        "1",
        Kind::Gauge,
        ColumnType::Float,
        "expected",
        "Rows there would be if none were missing; NULL where nobody knows how often they come.".into(),
    ));
    columns.extend(table.kept().map(plain));
    for column in table.folded() {
        let mut add = |suffix: &str, column_type, unit: &str, what: &str| {
            let name = format!("{}_{suffix}", column.name);
            columns.push(of(unit, Kind::Gauge, column_type, &name, format!("{what}: {}", column.help)));
        };
        let own = column.column_type;
        if column.kind == Kind::Counter {
            add("increase", own, &column.unit, "Growth");
        } else {
            add("min", own, &column.unit, "Smallest");
            add("max", own, &column.unit, "Largest");
            add("mean", ColumnType::Float, &column.unit, "Mean of the samples");
        }
        add("last", own, &column.unit, "Last known");
        let name = format!("{}_count", column.name);
        columns.push(of(
            "1",
            Kind::Gauge,
            ColumnType::Int,
            &name,
            format!("Samples in which `{}` was known.", column.name),
        ));
    }
    columns
}

/// The column without what only the agent needs.
fn plain(column: &Column) -> Column {
    of(&column.unit, column.kind, column.column_type, &column.name, column.help.clone())
}

fn of(unit: &str, kind: Kind, column_type: ColumnType, name: &str, help: String) -> Column {
    Column {
        name: name.to_owned(),
        column_type,
        kind,
        unit: unit.to_owned(),
        help,
        source: String::new(),
        prometheus: Vec::new(),
        prometheus_states: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use crate::catalogue::Catalogue;

    use super::*;

    const SITE: &str = r#"
        table = "cooling"
        comment = "Cooling."
        entity = ["rack"]
        [[column]]
        name = "rack"
        type = "text"
        kind = "label"
        help = "Rack."
        [[column]]
        name = "inlet_celsius"
        type = "float"
        kind = "gauge"
        unit = "celsius"
        help = "Water going in."
        [[column]]
        name = "turns"
        type = "int"
        kind = "counter"
        unit = "1"
        help = "Turns of the pump."
        [[column]]
        name = "mode"
        type = "text"
        kind = "state"
        help = "Mode."
        [[column]]
        name = "parts"
        type = "int_map"
        kind = "gauge"
        unit = "1"
        help = "Parts."
    "#;

    #[test]
    fn a_sites_table_has_minutes_and_hours() {
        let catalogue = Catalogue::with_texts(&[("cooling.toml", SITE)]).unwrap_or_else(|e| panic!("{e}"));
        for name in ["cooling_1m", "cooling_1h"] {
            let table = catalogue.get(name).unwrap();
            let names: Vec<_> = table.schema().fields().iter().map(|f| f.name().as_str()).collect();
            assert_eq!(
                names,
                [
                    "ts",
                    "node",
                    "host",
                    "rack",
                    "revision",
                    "samples",
                    "expected",
                    "mode",
                    "inlet_celsius_min",
                    "inlet_celsius_max",
                    "inlet_celsius_mean",
                    "inlet_celsius_last",
                    "inlet_celsius_count",
                    "turns_increase",
                    "turns_last",
                    "turns_count"
                ]
            );
            assert!(table.revised && !table.built_in && table.every.is_none() && !table.moves());
            assert_eq!(table.sort_columns(), ["node", "host", "rack", "ts"]);
        }
        let minute = catalogue.get("cooling_1m").unwrap();
        assert_eq!(minute.column("turns_increase").unwrap().column_type, ColumnType::Int);
        assert_eq!(minute.column("inlet_celsius_mean").unwrap().unit, "celsius");
        assert_eq!(minute.derived, Some(Derived { from: "cooling".to_owned(), grain: Grain::Minute }));
    }

    #[test]
    fn names_that_cannot_be_are_mistakes() {
        let clash = SITE.replace("\"mode\"", "\"turns_last\"");
        let long = SITE.replace("\"turns\"", &format!("\"{}\"", "t".repeat(60)));
        for (text, part) in [(clash, "two columns `turns_last`"), (long, "too long")] {
            let message = Catalogue::with_texts(&[("cooling.toml", &text)]).unwrap_err().to_string();
            assert!(message.contains(part) && message.contains("rollup = false"), "{message}");
            let off = text.replace("comment = ", "rollup = false\ncomment = ");
            let catalogue = Catalogue::with_texts(&[("cooling.toml", &off)]).unwrap_or_else(|e| panic!("{e}"));
            assert!(catalogue.get("cooling_1m").is_none());
        }
        let own = SITE.replace("\"cooling\"", "\"cpu_1m\"");
        assert!(Catalogue::with_texts(&[("x.toml", &own)]).is_err(), "the name is taken");
    }

    #[test]
    fn tables_that_move_are_found_by_rule() {
        let catalogue = Catalogue::built_in();
        for name in [
            "accelerator",
            "agent",
            "bond",
            "container",
            "cpu",
            "demand",
            "disk",
            "edac",
            "filesystem",
            "interface",
            "link",
            "memory",
            "nic",
            "numa",
            "power",
            "progress",
            "protocol",
            "rdma",
            "sensor",
            "service",
            "system",
        ] {
            assert!(catalogue.get(&format!("{name}_1m")).is_some(), "{name}");
            assert!(catalogue.get(&format!("{name}_1h")).is_some(), "{name}");
        }
        let disk = catalogue.get("disk_1m").unwrap();
        assert_eq!(disk.columns.iter().filter(|c| c.name == REVISION).count(), 1, "the disk's own is left out");
        for name in ["process", "accelerator_process", "connection", "sample", "host", "allocation", "alert", "loss"] {
            assert!(catalogue.get(&format!("{name}_1m")).is_none(), "{name}");
        }
        let kept = catalogue.get("accelerator_1h").unwrap();
        for column in ["vendor", "model", "index", "partition_id", "parent", "driver_version", "throttle_reasons"] {
            assert!(kept.column(column).is_some(), "{column}");
        }
        assert_eq!(Catalogue::sampled().tables().filter(|t| t.derived.is_some()).count(), 0);
    }
}
