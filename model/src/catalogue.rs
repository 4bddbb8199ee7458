//! The catalogue: one definition of every table and column.
//!
//! It is data. The built-in tables are the TOML files under `model/catalogue/`, compiled in; a site drops
//! files of the same form into `catalogue.d/`. Everything else that names a column is made from it: Arrow
//! schemas, SQL comments, the agent's Prometheus names, `docs/catalogue.md`, the checks on dashboards.
//!
//! Every table begins with the same three columns, which no file lists: `ts` (the aligned tick), `node`
//! (identification code of the platform node, opaque text) and `host`. Then the columns of the *entity*
//! (which CPU, which interface), then values.
//!
//! A file looks like this:
//!
//! ```toml
//! table = "memory"
//! version = 1
//! every = "1s"                    # how often the agent samples it; absent: somebody else fills it
//! comment = "Main memory and swap, as the kernel counts them."
//! entity = []                     # columns that tell rows of one host and tick apart
//! events = false                  # true: no row replaces an earlier one, none may be thinned out
//! rollup = true                   # false: no minutes and hours are made of it (see [`Grain`])
//! rollup_expects = {}             # { cpu = "all" }: only rows with this value come at every tick
//! revised = false                 # true: rows of one `ts` may be written again with a higher `revision`
//!
//! [[column]]
//! name = "available_bytes"        # the unit comes last
//! type = "int"                    # int, float, text, bool, timestamp, bytes, int_map, text_map
//! kind = "gauge"                  # label, counter, gauge, state
//! unit = "bytes"
//! help = "Memory a new process could still be given."
//! source = "/proc/meminfo: MemAvailable"
//! prometheus = "node_memory_MemAvailable_bytes"
//! ```
//!
//! # What Prometheus sees
//!
//! Every number can be scraped from the agent. A column without `prometheus` is called `nodescope_<table>_<column>`
//! there, labelled with the entity. These keys give it the names and labels that existing dashboards ask for:
//!
//! ```toml
//! prometheus_labels = { device = "interface" }   # label = column, for all columns that have `prometheus`
//! prometheus_except = { cpu = "all" }            # rows that are not shown: totals, which PromQL sums itself
//!
//! [[prometheus_info]]                            # a metric that is always 1 and tells what a row is
//! name = "node_uname_info"
//! help = "Labelled system information."          # without it the table's comment
//! labels = { release = "kernel", sysname = "=Linux" }  # label = column, or "=" and a text
//!
//! [[column]]
//! prometheus = 'node_cpu_seconds_total{mode="user"}'   # or several, in brackets
//! ```
//!
//! Within the braces, `mode="user"` is this text, and `mode=""` takes a label of `prometheus_labels` away;
//! `core=core_id` is the value of the column `core_id`; `device=key` is the name of an entry of a map.
//!
//! A column of type `int_map` becomes one series for each entry: `nodescope_<table>_<column>{key="<name>"}`, or with
//! a name of its own, which says what the label is: `prometheus = 'node_arp_entries{device=key}'`.
//!
//! A text that is one of few known states becomes one series for each, 1 for the state that is and 0 for the others:
//!
//! ```toml
//! type = "text"
//! kind = "state"
//! prometheus_states = ["active", "inactive", "failed"]
//! prometheus = "node_systemd_unit_state"         # label `state`; another one with {label=key}
//! ```
//!
//! A text that is none of them makes all of them 0. NULL makes no series.
//!
//! Mistakes are collected, all of them, with file, table and column, before anything starts.

mod check;
mod parse;
mod prometheus;
mod rollups;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};

pub use parse::CatalogueErrors;
pub use prometheus::{InfoLabel, PrometheusInfo, PrometheusName};
pub use rollups::{Derived, Grain, REVISION};

/// Columns that every table begins with, in this order.
pub const COMMON_COLUMNS: [&str; 3] = ["ts", "node", "host"];

/// Type of `ts` and of every other point in time: microseconds, UTC.
pub fn timestamp_type() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

/// Type of a column's values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ColumnType {
    /// 64-bit signed integer: counts, bytes. (Signed, because neither Delta nor PostgreSQL knows another.)
    Int,
    /// 64-bit float.
    Float,
    /// UTF-8 text.
    Text,
    /// True or false.
    Bool,
    /// Microseconds since 1970, UTC.
    Timestamp,
    /// Bytes as they came.
    Bytes,
    /// Names with an integer each: values of which nobody knows the names beforehand.
    IntMap,
    /// Names with a text each.
    TextMap,
}

/// A map from text, with the field names that Delta and Parquet give theirs.
fn map_type(values: DataType) -> DataType {
    let entry = vec![Field::new("key", DataType::Utf8, false), Field::new("value", values, true)];
    DataType::Map(Arc::new(Field::new("key_value", DataType::Struct(entry.into()), false)), false)
}

impl ColumnType {
    /// The Arrow type.
    pub fn data_type(self) -> DataType {
        match self {
            Self::Int => DataType::Int64,
            Self::Float => DataType::Float64,
            Self::Text => DataType::Utf8,
            Self::Bool => DataType::Boolean,
            Self::Timestamp => timestamp_type(),
            Self::Bytes => DataType::Binary,
            Self::IntMap => map_type(DataType::Int64),
            Self::TextMap => map_type(DataType::Utf8),
        }
    }

    /// The word used in catalogue files.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Int => "int",
            Self::Float => "float",
            Self::Text => "text",
            Self::Bool => "bool",
            Self::Timestamp => "timestamp",
            Self::Bytes => "bytes",
            Self::IntMap => "int_map",
            Self::TextMap => "text_map",
        }
    }
}

/// What a column's values mean over time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Part of the entity, or a property of it that hardly changes (model, serial number).
    Label,
    /// Raw and cumulative since some start; never differenced in the agent. A smaller value than before is a reset.
    Counter,
    /// A level, as it was at the tick.
    Gauge,
    /// One of several named states.
    State,
}

impl Kind {
    /// The word used in catalogue files.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Label => "label",
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::State => "state",
        }
    }
}

/// One column of a table.
#[derive(Debug, Clone)]
pub struct Column {
    /// SQL name. Unit last.
    pub name: String,
    /// Type of the values.
    pub column_type: ColumnType,
    /// What they mean over time.
    pub kind: Kind,
    /// SI unit in full (`seconds`, `bytes`, `watts`), `1` for plain numbers, empty for text and states.
    pub unit: String,
    /// One sentence.
    pub help: String,
    /// Where the agent reads it.
    pub source: String,
    /// Names under which existing dashboards know it.
    pub prometheus: Vec<PrometheusName>,
    /// Values of a text that are shown as one series each.
    pub prometheus_states: Vec<String>,
}

/// One table.
#[derive(Debug)]
pub struct Table {
    /// SQL name, and the `table` header of its records.
    pub name: String,
    /// Grows when columns are added.
    pub version: u32,
    /// How often the agent samples it; `None` when it is not the agent's.
    pub every: Option<Duration>,
    /// One or two sentences.
    pub comment: String,
    /// Names of the columns that tell rows of one host and tick apart.
    pub entity: Vec<String>,
    /// Columns after the common three: those of the entity first.
    pub columns: Vec<Column>,
    /// Prometheus label → column it comes from.
    pub prometheus_labels: BTreeMap<String, String>,
    /// Rows with this value in this column are not shown to Prometheus (totals, which PromQL sums itself).
    pub prometheus_except: BTreeMap<String, String>,
    /// Whether each row tells something of its own: an agent short of room thins samples and never these.
    pub events: bool,
    /// Metrics that are always 1 and tell in their labels what a row is.
    pub prometheus_info: Vec<PrometheusInfo>,
    /// Whether minutes and hours may be made of it.
    pub rollup: bool,
    /// Column → value of the rows that come at every tick; the others come when they come.
    pub rollup_expects: BTreeMap<String, String>,
    /// Whether the rows of a `ts` may be written again, all of them, with a higher `revision`. Queries show the newest
    /// revision of each `ts` only.
    pub revised: bool,
    /// Whether our own programs alone write it: the schedule, the registry, the collector. Records from Kafka that name
    /// it are set aside, for whoever may send could approve himself or end an incident otherwise.
    pub own: bool,
    /// What it was made from; `None` for tables of a file.
    pub derived: Option<Derived>,
    /// Whether it is one of ours, or a site's.
    pub built_in: bool,
    schema: SchemaRef,
}

impl Table {
    /// The Arrow schema: the common columns, then [`Table::columns`]. Only `ts`, `node`, `host` and the entity
    /// are never NULL.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The column of that name, if it is not a common one.
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|c| c.name == name)
    }

    /// The order sealed rows are kept in: node, host, entity, ts. Rows of one series lie together, which is what
    /// both compression and questions about one host want.
    pub fn sort_columns(&self) -> Vec<&str> {
        ["node", "host"].into_iter().chain(self.entity.iter().map(String::as_str)).chain(["ts"]).collect()
    }

    /// Sentence about a column, for `\d+` and the documentation, common columns included.
    pub fn column_comment(&self, name: &str) -> Option<String> {
        let text = match name {
            "ts" => "The tick this row belongs to: microseconds, UTC, aligned to the wall clock.".to_owned(),
            "node" => "Identification code of the platform node. Opaque text.".to_owned(),
            "host" => "Name of the host.".to_owned(),
            _ => {
                let c = self.column(name)?;
                if c.source.is_empty() { c.help.clone() } else { format!("{} [{}]", c.help, c.source) }
            }
        };
        Some(text)
    }

    fn make_schema(entity: &[String], columns: &[Column]) -> SchemaRef {
        let mut fields = vec![
            Field::new("ts", timestamp_type(), false),
            Field::new("node", DataType::Utf8, false),
            Field::new("host", DataType::Utf8, false),
        ];
        fields
            .extend(columns.iter().map(|c| Field::new(&c.name, c.column_type.data_type(), !entity.contains(&c.name))));
        Arc::new(Schema::new(fields))
    }
}

/// All tables, by name.
#[derive(Debug, Clone, Default)]
pub struct Catalogue {
    tables: BTreeMap<String, Arc<Table>>,
}

macro_rules! built_in {
    ($($name:literal),* $(,)?) => {
        &[$((concat!($name, ".toml"), include_str!(concat!("../catalogue/", $name, ".toml")))),*]
    };
}

/// The built-in files: name and text.
const BUILT_IN: &[(&str, &str)] = built_in![
    "host",
    "cpu",
    "memory",
    "numa",
    "edac",
    "system",
    "disk",
    "filesystem",
    "interface",
    "nic",
    "bond",
    "protocol",
    "rdma",
    "link",
    "accelerator",
    "accelerator_process",
    "accelerator_event",
    "allocation",
    "process",
    "container",
    "service",
    "sensor",
    "power",
    "listener",
    "connection",
    "login",
    "module",
    "executable",
    "config_change",
    "sample",
    "agent",
    "quarantine",
    "loss",
    "demand",
    "progress",
    "registry_node",
    "registry_resource",
    "registry_registration",
    "registry_peer",
    "registry_maintenance",
    "registry_approved",
    "registry_billed",
    "alert",
    "schedule_run",
    "availability_1m",
    "availability_1h",
    "notification",
];

impl Catalogue {
    /// The built-in tables alone.
    ///
    /// # Panics
    /// Never in a released build: a test reads every built-in file.
    pub fn built_in() -> Self {
        Self::load(None).expect("the built-in catalogue is tested")
    }

    /// The built-in tables without minutes and hours: all that an agent needs, which neither samples nor shows those.
    ///
    /// # Panics
    /// Never in a released build: a test reads every built-in file.
    pub fn sampled() -> Self {
        let mut errors = CatalogueErrors::default();
        let mut catalogue = Self::default();
        for (file, text) in BUILT_IN {
            if let Some(table) = parse::table(file, text, true, &mut errors) {
                catalogue.tables.insert(table.name.clone(), Arc::new(table));
            }
        }
        errors.into_result(catalogue).expect("the built-in catalogue is tested")
    }

    /// The built-in tables and those of every `*.toml` in `directory`, in order of file name.
    ///
    /// # Errors
    /// Every mistake in every file, at once.
    pub fn load(directory: Option<&Path>) -> Result<Self, CatalogueErrors> {
        let mut errors = CatalogueErrors::default();
        let mut catalogue = Self::default();
        for (file, text) in BUILT_IN {
            catalogue.add(file, text, true, &mut errors);
        }
        if let Some(directory) = directory {
            for (file, text) in parse::read_directory(directory, &mut errors) {
                catalogue.add(&file, &text, false, &mut errors);
            }
        }
        errors.into_result(catalogue)
    }

    /// The built-in tables and those of the texts given, as (file name, text). For tests and tools.
    ///
    /// # Errors
    /// Every mistake in every text, at once.
    pub fn with_texts(texts: &[(&str, &str)]) -> Result<Self, CatalogueErrors> {
        let mut errors = CatalogueErrors::default();
        let mut catalogue = Self::load(None)?;
        for (file, text) in texts {
            catalogue.add(file, text, false, &mut errors);
        }
        errors.into_result(catalogue)
    }

    fn add(&mut self, file: &str, text: &str, built_in: bool, errors: &mut CatalogueErrors) {
        let Some(table) = parse::table(file, text, built_in, errors) else { return };
        let grains = if table.moves() { &Grain::ALL[..] } else { &[] };
        for grain in grains {
            match rollups::derive(&table, *grain) {
                Ok(derived) => self.insert(file, derived, errors),
                Err(what) => errors.add(file, what),
            }
        }
        self.insert(file, table, errors);
    }

    fn insert(&mut self, file: &str, table: Table, errors: &mut CatalogueErrors) {
        if let Some(other) = self.tables.get(&table.name) {
            let whose = if other.built_in { "a built-in table" } else { "another file's table" };
            errors.add(file, format!("table `{}` is the name of {whose}; choose another", table.name));
            return;
        }
        self.tables.insert(table.name.clone(), Arc::new(table));
    }

    /// The table of that name.
    pub fn get(&self, name: &str) -> Option<&Arc<Table>> {
        self.tables.get(name)
    }

    /// All tables, by name.
    pub fn tables(&self) -> impl Iterator<Item = &Arc<Table>> {
        self.tables.values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SITE: &str = r#"
        table = "cooling"
        comment = "Inlet and outlet of each rack's cooling."
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
    "#;

    #[test]
    fn the_built_in_files_are_without_mistakes() {
        let catalogue = Catalogue::load(None).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(catalogue.tables().filter(|t| t.derived.is_none()).count(), BUILT_IN.len());
        assert_eq!(Catalogue::sampled().tables().count(), BUILT_IN.len());
    }

    #[test]
    fn a_site_adds_a_table_of_its_own() {
        let catalogue = Catalogue::with_texts(&[("cooling.toml", SITE)]).unwrap();
        let table = catalogue.get("cooling").unwrap();
        let names: Vec<_> = table.schema().fields().iter().map(|f| f.name().as_str()).collect();
        assert_eq!(names, ["ts", "node", "host", "rack", "inlet_celsius"]);
        assert!(!table.schema().field(3).is_nullable());
        assert!(table.schema().field(4).is_nullable());
        assert_eq!(table.sort_columns(), ["node", "host", "rack", "ts"]);
    }

    #[test]
    fn every_mistake_is_reported_at_once() {
        let text = r#"
            table = "Cooling!"
            entity = ["rack", "shelf"]
            colour = "blue"
            [[column]]
            name = "rack"
            type = "string"
            kind = "label"
            help = ""
            [[column]]
            name = "inlet"
            type = "float"
            kind = "gauge"
            unit = "celsius"
            help = "Water going in."
        "#;
        let message = Catalogue::with_texts(&[("x.toml", text)]).unwrap_err().to_string();
        for part in ["Cooling!", "shelf", "colour", "string", "comment", "inlet_celsius", "x.toml"] {
            assert!(message.contains(part), "`{part}` is not in:\n{message}");
        }
    }

    #[test]
    fn what_prometheus_sees_is_parsed_and_checked() {
        let text = r#"
            table = "unit"
            comment = "Units."
            entity = ["name"]
            [[prometheus_info]]
            name = "unit_info"
            help = "What a unit is."
            labels = { name = "name", maker = "=us", site = "host" }
            [[column]]
            name = "name"
            type = "text"
            kind = "label"
            help = "Which."
            [[column]]
            name = "mood"
            type = "text"
            kind = "state"
            help = "How it is."
            prometheus_states = ["good", "bad"]
            prometheus = "unit_mood{mood=key}"
            [[column]]
            name = "parts"
            type = "int_map"
            kind = "gauge"
            unit = "1"
            help = "Parts."
            prometheus = "unit_parts{part=key,unit=name}"
        "#;
        let catalogue = Catalogue::with_texts(&[("unit.toml", text)]).unwrap_or_else(|e| panic!("{e}"));
        let table = catalogue.get("unit").unwrap();
        assert_eq!(table.prometheus_info[0].labels["maker"], InfoLabel::Text("us".to_owned()));
        assert_eq!(table.column("mood").unwrap().prometheus_states, ["good", "bad"]);
        assert_eq!(table.column("parts").unwrap().prometheus[0].key.as_deref(), Some("part"));

        let wrong = [
            ("name = \"unit_info\"", "name = \"1x\"", "metric name"),
            ("site = \"host\"", "site = \"nowhere\"", "nowhere"),
            ("site = \"host\"", "site = \"parts\"", "parts"),
            ("site = \"host\"", "\"9\" = \"host\"", "label name"),
            ("help = \"What a unit is.\"", "colour = \"blue\"", "colour"),
            ("[\"good\", \"bad\"]", "[\"good\", \"good\"]", "twice"),
            ("prometheus_states = [\"good\", \"bad\"]", "", "key"),
            ("prometheus_states = [\"good\", \"bad\"]", "", "named states"),
            ("unit_parts{part=key,unit=name}", "unit_parts{unit=name}", "unit_parts{label=key}"),
            ("unit_parts{part=key,unit=name}", "unit_parts{part=key,unit=nowhere}", "nowhere"),
            ("help = \"Parts.\"", "help = \"Parts.\"\nprometheus_states = [\"a\"]", "kind state"),
        ];
        for (from, to, part) in wrong {
            let text = text.replace(from, to);
            let message = Catalogue::with_texts(&[("unit.toml", &text)]).unwrap_err().to_string();
            assert!(message.contains(part) && message.contains("unit.toml"), "`{part}` is not in:\n{message}");
        }
    }

    #[test]
    fn a_site_cannot_take_a_built_in_name() {
        let text = SITE.replace("\"cooling\"", "\"cpu\"");
        let message = Catalogue::with_texts(&[("cpu.toml", &text)]).unwrap_err().to_string();
        assert!(message.contains("built-in"), "{message}");
    }

    #[test]
    fn files_of_a_directory_are_read_and_its_absence_is_a_mistake() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("cooling.toml"), SITE).unwrap();
        std::fs::write(dir.path().join("notes.txt"), "not ours").unwrap();
        let catalogue = Catalogue::load(Some(dir.path())).unwrap();
        assert!(catalogue.get("cooling").is_some_and(|t| !t.built_in));
        assert!(Catalogue::load(Some(&dir.path().join("none"))).is_err());
    }
}
