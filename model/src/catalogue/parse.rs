//! From TOML text to a [`Table`], collecting every mistake on the way.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;

use super::prometheus::{InfoLabel, PrometheusInfo, PrometheusName};
use super::{Column, ColumnType, Kind, Table, check};

/// Everything that is wrong with the catalogue files, one line each.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct CatalogueErrors {
    mistakes: Vec<String>,
}

impl CatalogueErrors {
    pub(super) fn add(&mut self, file: &str, what: impl fmt::Display) {
        self.mistakes.push(format!("{file}: {what}"));
    }

    pub(super) fn into_result<T>(self, value: T) -> Result<T, Self> {
        if self.mistakes.is_empty() { Ok(value) } else { Err(self) }
    }

    /// The mistakes, one sentence each, beginning with the file's name.
    pub fn mistakes(&self) -> &[String] {
        &self.mistakes
    }
}

impl fmt::Display for CatalogueErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.mistakes.join("\n"))
    }
}

impl std::error::Error for CatalogueErrors {}

/// The file as written. Every field is optional here, so that one file's mistakes can all be named.
#[derive(Deserialize)]
struct File {
    table: Option<String>,
    version: Option<u32>,
    every: Option<String>,
    comment: Option<String>,
    #[serde(default)]
    entity: Vec<String>,
    #[serde(default)]
    column: Vec<FileColumn>,
    #[serde(default)]
    prometheus_labels: BTreeMap<String, String>,
    #[serde(default)]
    prometheus_except: BTreeMap<String, String>,
    #[serde(default)]
    events: bool,
    #[serde(default)]
    prometheus_info: Vec<FileInfo>,
    rollup: Option<bool>,
    #[serde(default)]
    rollup_expects: BTreeMap<String, String>,
    #[serde(default)]
    revised: bool,
    #[serde(default)]
    own: bool,
    #[serde(flatten)]
    unknown: BTreeMap<String, toml::Value>,
}

#[derive(Deserialize)]
struct FileInfo {
    #[serde(default)]
    name: String,
    #[serde(default)]
    help: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(flatten)]
    unknown: BTreeMap<String, toml::Value>,
}

#[derive(Deserialize)]
struct FileColumn {
    #[serde(default)]
    name: String,
    #[serde(default, rename = "type")]
    column_type: String,
    #[serde(default)]
    kind: String,
    #[serde(default)]
    unit: String,
    #[serde(default)]
    help: String,
    #[serde(default)]
    source: String,
    #[serde(default)]
    prometheus: OneOrMore,
    #[serde(default)]
    prometheus_states: Vec<String>,
    #[serde(flatten)]
    unknown: BTreeMap<String, toml::Value>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

impl Default for OneOrMore {
    fn default() -> Self {
        Self::More(Vec::new())
    }
}

/// The text of every `*.toml` in the directory, in order of name.
pub(super) fn read_directory(directory: &Path, errors: &mut CatalogueErrors) -> Vec<(String, String)> {
    let shown = directory.display().to_string();
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) => {
            errors.add(&shown, format!("cannot be listed: {error}"));
            return Vec::new();
        }
    };
    let mut paths: Vec<_> = entries
        .filter_map(|e| e.map_err(|error| errors.add(&shown, error)).ok())
        .map(|e| e.path())
        .filter(|p| p.extension().is_some_and(|e| e == "toml"))
        .collect();
    paths.sort();
    let mut texts = Vec::new();
    for path in paths {
        let shown = path.display().to_string();
        match std::fs::read_to_string(&path) {
            Ok(text) => texts.push((shown, text)),
            Err(error) => errors.add(&shown, format!("cannot be read: {error}")),
        }
    }
    texts
}

/// One table from one file, or nothing after naming what is wrong.
pub(super) fn table(file: &str, text: &str, built_in: bool, errors: &mut CatalogueErrors) -> Option<Table> {
    let parsed: File = match toml::from_str(text) {
        Ok(parsed) => parsed,
        Err(error) => {
            errors.add(file, error.to_string().trim_end());
            return None;
        }
    };
    let before = errors.mistakes.len();
    for key in parsed.unknown.keys() {
        errors.add(file, format!("unknown key `{key}`"));
    }
    let every = parsed.every.as_deref().and_then(|text| match duration(text) {
        Some(every) => Some(every),
        None => {
            errors.add(file, format!("every = \"{text}\": use a whole number with ms, s, m or h, as in \"10s\""));
            None
        }
    });
    let columns: Vec<Column> = parsed.column.into_iter().filter_map(|c| column(file, c, errors)).collect();
    let entity = parsed.entity;
    let prometheus_info = parsed.prometheus_info.into_iter().map(|i| info(file, i, errors)).collect();
    let schema = Table::make_schema(&entity, &columns);
    let table = Table {
        name: parsed.table.unwrap_or_default(),
        version: parsed.version.unwrap_or(1),
        every,
        comment: parsed.comment.unwrap_or_default(),
        entity,
        columns,
        prometheus_labels: parsed.prometheus_labels,
        prometheus_except: parsed.prometheus_except,
        events: parsed.events,
        prometheus_info,
        rollup: parsed.rollup.unwrap_or(true),
        rollup_expects: parsed.rollup_expects,
        revised: parsed.revised,
        own: parsed.own,
        derived: None,
        built_in,
        schema,
    };
    check::table(file, &table, errors);
    (errors.mistakes.len() == before).then_some(table)
}

fn column(file: &str, c: FileColumn, errors: &mut CatalogueErrors) -> Option<Column> {
    let place = format!("{file}: column `{}`", c.name);
    for key in c.unknown.keys() {
        errors.add(&place, format!("unknown key `{key}`"));
    }
    let column_type = match c.column_type.as_str() {
        "int" => Some(ColumnType::Int),
        "float" => Some(ColumnType::Float),
        "text" => Some(ColumnType::Text),
        "bool" => Some(ColumnType::Bool),
        "timestamp" => Some(ColumnType::Timestamp),
        "bytes" => Some(ColumnType::Bytes),
        "int_map" => Some(ColumnType::IntMap),
        "text_map" => Some(ColumnType::TextMap),
        other => {
            let types = "int, float, text, bool, timestamp, bytes, int_map, text_map";
            errors.add(&place, format!("type `{other}` is none of {types}"));
            None
        }
    };
    let kind = match c.kind.as_str() {
        "label" => Some(Kind::Label),
        "counter" => Some(Kind::Counter),
        "gauge" => Some(Kind::Gauge),
        "state" => Some(Kind::State),
        other => {
            errors.add(&place, format!("kind `{other}` is none of label, counter, gauge, state"));
            None
        }
    };
    let names = match c.prometheus {
        OneOrMore::One(name) => vec![name],
        OneOrMore::More(names) => names,
    };
    let prometheus =
        names.iter().filter_map(|n| PrometheusName::parse(n).map_err(|what| errors.add(&place, what)).ok()).collect();
    Some(Column {
        name: c.name,
        column_type: column_type?,
        kind: kind?,
        unit: c.unit,
        help: c.help,
        source: c.source,
        prometheus,
        prometheus_states: c.prometheus_states,
    })
}

fn info(file: &str, i: FileInfo, errors: &mut CatalogueErrors) -> PrometheusInfo {
    for key in i.unknown.keys() {
        errors.add(file, format!("prometheus_info `{}`: unknown key `{key}`", i.name));
    }
    let labels = i.labels.into_iter().map(|(label, from)| (label, InfoLabel::parse(&from))).collect();
    PrometheusInfo { name: i.name, help: i.help, labels }
}

/// `250ms`, `10s`, `5m`, `1h`.
fn duration(text: &str) -> Option<Duration> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    let millis = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    number.checked_mul(millis).filter(|ms| *ms > 0).map(Duration::from_millis)
}
