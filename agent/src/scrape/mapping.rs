//! A mapping: which metrics of an exporter are which columns of our tables.
//!
//! ```toml
//! exporter = "dcgm"                                # the file's name without .toml
//! match = ["DCGM_FI_*"]                            # an answer with such a metric is this exporter's
//! ignore = ["DCGM_EXP_*"]                          # metrics that are not wanted at all
//! prefixes = ["", "x_"]                            # names may have one of these before them
//!
//! [[table]]
//! name = "accelerator"
//!
//! [table.columns]                                  # columns from labels: the first text whose labels are all there
//! device = ["{UUID}/{GPU_I_ID}", "{UUID}"]
//! vendor = "nvidia"
//!
//! [[table.metric]]
//! name = ["DCGM_FI_DEV_FB_USED"]                   # the first of these names that is there
//! column = "memory_used_bytes"
//! unit = "MiB"                                     # converted to the column's unit
//! null_if = [9223372036854775794]                  # numbers that mean "not known"
//! ```
//!
//! In a text, `{label?}` adds nothing and must be there all the same. Further keys of a metric: `sum` (several metrics, all of which must be there, in place of `name`), `where` (labels a
//! sample must have), `combine` (`first`, `sum`, `max`, `min`: what several samples of one row make), `min` and `max` (in
//! the column's unit; outside is NULL), `values` (numbers to words), `text` (a text from labels; the number is not used).
//! Where a column is named twice, the first metric with a value goes. Without `min` and `max`, what cannot be is NULL: a
//! ratio above 1, anything negative but a temperature.
//!
//! A mapping is checked whole against the catalogue, and all mistakes are told at once with their lines.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use nodescope_model::catalogue::{Catalogue, Column, ColumnType, Kind};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::text::{Exposition, Labels, Sample};
use crate::accelerators::VendorId;

/// The tables that mappings may fill.
pub(crate) const FILLED: [&str; 2] = ["accelerator", "accelerator_process"];

/// Rows of one table out of one answer.
const MAX_ROWS: usize = 4_096;

/// A longer text of a label is cut.
const MAX_TEXT: usize = 1_024;

/// Units that a metric may be in: the word, the catalogue's unit, and the factor to it.
const UNITS: &[(&str, &str, f64)] = &[
    ("1", "1", 1.0),
    ("ratio", "ratio", 1.0),
    ("percent", "ratio", 0.01),
    ("bytes", "bytes", 1.0),
    ("kB", "bytes", 1e3),
    ("MB", "bytes", 1e6),
    ("GB", "bytes", 1e9),
    ("KiB", "bytes", 1024.0),
    ("MiB", "bytes", 1_048_576.0),
    ("GiB", "bytes", 1_073_741_824.0),
    ("bytes_per_second", "bytes_per_second", 1.0),
    ("kB/s", "bytes_per_second", 1e3),
    ("MB/s", "bytes_per_second", 1e6),
    ("MB/ms", "bytes_per_second", 1e9),
    ("GB/s", "bytes_per_second", 1e9),
    ("KiB/s", "bytes_per_second", 1024.0),
    ("MiB/s", "bytes_per_second", 1_048_576.0),
    ("GiB/s", "bytes_per_second", 1_073_741_824.0),
    ("bits_per_second", "bits_per_second", 1.0),
    ("Mbit/s", "bits_per_second", 1e6),
    ("Gbit/s", "bits_per_second", 1e9),
    ("watts", "watts", 1.0),
    ("mW", "watts", 1e-3),
    ("uW", "watts", 1e-6),
    ("joules", "joules", 1.0),
    ("mJ", "joules", 1e-3),
    ("uJ", "joules", 1e-6),
    ("kWh", "joules", 3.6e6),
    ("celsius", "celsius", 1.0),
    ("millicelsius", "celsius", 1e-3),
    ("hertz", "hertz", 1.0),
    ("kHz", "hertz", 1e3),
    ("MHz", "hertz", 1e6),
    ("GHz", "hertz", 1e9),
    ("seconds", "seconds", 1.0),
    ("ms", "seconds", 1e-3),
    ("us", "seconds", 1e-6),
    ("ns", "seconds", 1e-9),
    ("volts", "volts", 1.0),
    ("mV", "volts", 1e-3),
    ("amperes", "amperes", 1.0),
    ("mA", "amperes", 1e-3),
];

/// A name, or the beginning of names with a star after it.
#[derive(Debug, Clone)]
struct Pattern {
    text: String,
    is_prefix: bool,
}

impl Pattern {
    fn new(text: &str) -> Self {
        match text.strip_suffix('*') {
            Some(prefix) => Self { text: prefix.to_owned(), is_prefix: true },
            None => Self { text: text.to_owned(), is_prefix: false },
        }
    }

    fn fits(&self, name: &str) -> bool {
        if self.is_prefix { name.starts_with(&self.text) } else { name == self.text }
    }
}

/// A text with labels in it.
#[derive(Debug, Clone)]
struct Template(Vec<Piece>);

#[derive(Debug, Clone)]
enum Piece {
    Text(String),
    Label(String),
    /// A label that must be there and adds nothing.
    Needed(String),
}

impl Template {
    fn parse(text: &str) -> Result<Self, &'static str> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            let (label, after) = after.split_once('}').ok_or("a `}` is missing")?;
            let (label, is_needed) = label.strip_suffix('?').map_or((label, false), |label| (label, true));
            let is_name = label.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
                && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
            if !is_name {
                return Err("between { and } stands the name of a label");
            }
            if !before.is_empty() {
                pieces.push(Piece::Text(before.to_owned()));
            }
            let label = label.to_owned();
            pieces.push(if is_needed { Piece::Needed(label) } else { Piece::Label(label) });
            rest = after;
        }
        if !rest.is_empty() {
            pieces.push(Piece::Text(rest.to_owned()));
        }
        if pieces.is_empty() { Err("it is empty") } else { Ok(Self(pieces)) }
    }

    /// The text, if all its labels are there.
    fn fill(&self, labels: Labels<'_>) -> Option<String> {
        let mut out = String::new();
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => out.push_str(text),
                Piece::Label(label) => out.push_str(&labels.get(label)?),
                Piece::Needed(label) => drop(labels.get(label)?),
            }
        }
        if out.len() > MAX_TEXT {
            let end = (0..=MAX_TEXT).rev().find(|at| out.is_char_boundary(*at)).unwrap_or(0);
            out.truncate(end);
        }
        Some(out)
    }

    fn fill_first(templates: &[Self], labels: Labels<'_>) -> Option<String> {
        templates.iter().find_map(|template| template.fill(labels))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Combine {
    First,
    Sum,
    Max,
    Min,
}

/// Where one metric's value goes.
#[derive(Debug)]
struct Metric {
    filters: Vec<(String, Vec<String>)>,
    combine: Combine,
    factor: f64,
    null_if: Vec<f64>,
    range: (f64, f64),
    values: Vec<(f64, String)>,
    text: Option<Template>,
    /// Its parts among those of a row: one, or as many as are summed.
    parts: std::ops::Range<usize>,
}

/// What fills a column.
#[derive(Debug)]
enum Origin {
    Labels(Vec<Template>),
    Metric(usize),
}

#[derive(Debug)]
struct Output {
    column: Arc<str>,
    column_type: ColumnType,
    is_entity: bool,
    /// In the order in which they are tried.
    origins: Vec<Origin>,
}

#[derive(Debug)]
struct TableMapping {
    /// Its number among [`FILLED`].
    table: usize,
    outputs: Vec<Output>,
    metrics: Vec<Metric>,
    parts: usize,
}

/// What a sample of one name is used for.
#[derive(Debug, Clone, Copy)]
struct Use {
    table: usize,
    metric: usize,
    part: usize,
    /// Among the names of that part.
    rank: usize,
}

/// One mapping, checked.
#[derive(Debug)]
pub(crate) struct Mapping {
    /// Its name.
    pub(crate) exporter: String,
    recognise: Vec<Pattern>,
    ignore: Vec<Pattern>,
    tables: Vec<TableMapping>,
    uses: HashMap<String, Vec<Use>>,
}

/// A value of a row.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Cell {
    /// For an `int` column.
    Int(i64),
    /// For a `float` column.
    Float(f64),
    /// For a `text` column.
    Text(String),
    /// For a `bool` column.
    Bool(bool),
}

/// A row that a mapping has made.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct MappedRow {
    /// Its table's number among [`FILLED`].
    pub(crate) table: usize,
    /// What tells it apart from others of its table.
    pub(crate) key: String,
    /// Whose card, if it is one of the vendors we read ourselves.
    pub(crate) vendor: Option<VendorId>,
    /// Its columns; what is not here is NULL.
    pub(crate) cells: Vec<(Arc<str>, Cell)>,
}

/// A row that is being made.
struct Making {
    texts: Vec<Option<Cell>>,
    parts: Vec<Part>,
}

#[derive(Debug, Clone, Default)]
struct Part {
    rank: usize,
    value: Option<f64>,
    text: Option<String>,
}

/// What mappings made of an answer.
#[derive(Debug, Default)]
pub(crate) struct Mapped {
    /// The rows.
    pub(crate) rows: Vec<MappedRow>,
    /// For every sample, whether it need not go into `sample`: it is in a row, or not wanted.
    pub(crate) used: Vec<bool>,
    /// Mappings that know this exporter, and how many rows each made.
    pub(crate) recognised: Vec<(String, usize)>,
    /// Rows beyond what is kept.
    pub(crate) beyond: u64,
}

/// Puts an answer into rows.
pub(crate) fn apply(mappings: &[Arc<Mapping>], exposition: &Exposition) -> Mapped {
    let mut mapped = Mapped { used: vec![false; exposition.len()], ..Mapped::default() };
    let mut names: Vec<&str> = exposition.samples().map(|sample| sample.name).collect();
    names.dedup();
    for mapping in mappings {
        if names.iter().any(|name| mapping.recognise.iter().any(|pattern| pattern.fits(name))) {
            let before = mapped.rows.len();
            mapping.apply(exposition, &mut mapped);
            mapped.recognised.push((mapping.exporter.clone(), mapped.rows.len() - before));
        }
    }
    mapped
}

impl Mapping {
    fn apply(&self, exposition: &Exposition, mapped: &mut Mapped) {
        let mut making: Vec<(HashMap<String, usize>, Vec<(String, Making)>)> =
            self.tables.iter().map(|_| Default::default()).collect();
        for (at, sample) in exposition.samples().enumerate() {
            let mut is_used = self.ignore.iter().any(|pattern| pattern.fits(sample.name));
            for used in self.uses.get(sample.name).into_iter().flatten() {
                if let (Some(table), Some((index, rows))) = (self.tables.get(used.table), making.get_mut(used.table)) {
                    is_used |= table.take(used, &sample, index, rows, &mut mapped.beyond);
                }
            }
            if let Some(slot) = mapped.used.get_mut(at) {
                *slot |= is_used;
            }
        }
        for (table, (_, rows)) in self.tables.iter().zip(making) {
            mapped.rows.extend(rows.into_iter().map(|(key, making)| table.finish(key, making)));
        }
    }
}

impl TableMapping {
    /// Takes a sample into its row. Whether it belongs into one.
    fn take(
        &self,
        used: &Use,
        sample: &Sample<'_>,
        index: &mut HashMap<String, usize>,
        rows: &mut Vec<(String, Making)>,
        beyond: &mut u64,
    ) -> bool {
        let Some(metric) = self.metrics.get(used.metric) else { return false };
        let fits = metric.filters.iter().all(|(label, wanted)| {
            let value = sample.labels.get(label).unwrap_or_default();
            wanted.iter().any(|wanted| *wanted == value)
        });
        let Some(key) = fits.then(|| self.key(sample.labels)).flatten() else { return false };
        let at = match index.get(&key) {
            Some(at) => *at,
            None if rows.len() >= MAX_ROWS => {
                *beyond += 1;
                return true;
            }
            None => {
                let making = Making { texts: vec![None; self.outputs.len()], parts: vec![Part::default(); self.parts] };
                rows.push((key.clone(), making));
                index.insert(key, rows.len() - 1);
                rows.len() - 1
            }
        };
        let Some((_, row)) = rows.get_mut(at) else { return false };
        for (output, text) in self.outputs.iter().zip(&mut row.texts) {
            if text.is_none() {
                *text = output.labelled(sample.labels);
            }
        }
        if let Some(part) = row.parts.get_mut(metric.parts.start + used.part) {
            metric.take(used.rank, sample, part);
        }
        true
    }

    /// What tells rows apart; `None` where a label is missing that would.
    fn key(&self, labels: Labels<'_>) -> Option<String> {
        let mut key = String::new();
        for output in self.outputs.iter().filter(|output| output.is_entity) {
            match output.labelled(labels)? {
                Cell::Text(text) => key.push_str(&text),
                Cell::Int(number) => key.push_str(&number.to_string()),
                Cell::Float(_) | Cell::Bool(_) => return None,
            }
            key.push('\u{1f}');
        }
        Some(key)
    }

    fn finish(&self, key: String, making: Making) -> MappedRow {
        let mut row = MappedRow { table: self.table, key, vendor: None, cells: Vec::new() };
        for (output, labelled) in self.outputs.iter().zip(making.texts) {
            let cell = labelled.or_else(|| {
                output.origins.iter().find_map(|origin| match origin {
                    Origin::Labels(_) => None,
                    Origin::Metric(at) => self.metrics.get(*at)?.cell(output.column_type, &making.parts),
                })
            });
            let Some(cell) = cell else { continue };
            if let (Cell::Text(text), "vendor") = (&cell, &*output.column) {
                row.vendor = VendorId::parse(text);
            }
            row.cells.push((output.column.clone(), cell));
        }
        row
    }
}

impl Output {
    fn labelled(&self, labels: Labels<'_>) -> Option<Cell> {
        let templates = self.origins.iter().find_map(|origin| match origin {
            Origin::Labels(templates) => Some(templates),
            Origin::Metric(_) => None,
        })?;
        let text = Template::fill_first(templates, labels)?;
        match self.column_type {
            ColumnType::Text if &*self.column == "pci_bdf" => Some(Cell::Text(sysfs_address(&text))),
            ColumnType::Text => Some(Cell::Text(text)),
            ColumnType::Int => text.trim().parse().ok().map(Cell::Int),
            _ => None,
        }
    }
}

/// A PCI address as sysfs writes it. Exporters write the domain with eight digits, or leave it out, or use capitals.
fn sysfs_address(text: &str) -> String {
    let text = text.trim().to_ascii_lowercase();
    match text.split(':').collect::<Vec<_>>()[..] {
        [bus, device] => format!("0000:{bus}:{device}"),
        [domain, bus, device] => match u32::from_str_radix(domain, 16) {
            Ok(domain) => format!("{domain:04x}:{bus}:{device}"),
            Err(_) => text,
        },
        _ => text,
    }
}

impl Metric {
    fn take(&self, rank: usize, sample: &Sample<'_>, part: &mut Part) {
        let is_first = part.value.is_none() && part.text.is_none();
        if !is_first && rank > part.rank {
            return;
        }
        if let Some(template) = &self.text {
            if let Some(text) = template.fill(sample.labels)
                && (is_first || rank < part.rank)
            {
                *part = Part { rank, value: None, text: Some(text) };
            }
            return;
        }
        let Some(value) = self.convert(sample.value) else { return };
        let value = match (part.value, self.combine) {
            (Some(before), _) if rank == part.rank => match self.combine {
                Combine::First => before,
                Combine::Sum => before + value,
                Combine::Max => before.max(value),
                Combine::Min => before.min(value),
            },
            _ => value,
        };
        *part = Part { rank, value: Some(value), text: None };
    }

    /// In the column's unit; `None` for what is not known.
    fn convert(&self, raw: f64) -> Option<f64> {
        let is_null = !raw.is_finite() || self.null_if.contains(&raw);
        if !self.values.is_empty() {
            return (!is_null).then_some(raw);
        }
        let value = raw * self.factor;
        (!is_null && value >= self.range.0 && value <= self.range.1).then_some(value)
    }

    fn cell(&self, column_type: ColumnType, parts: &[Part]) -> Option<Cell> {
        let parts = parts.get(self.parts.clone())?;
        if self.text.is_some() {
            return parts.first()?.text.clone().map(Cell::Text);
        }
        let value: f64 = parts.iter().map(|part| part.value).sum::<Option<f64>>()?;
        match column_type {
            ColumnType::Float => Some(Cell::Float(value)),
            #[allow(clippy::cast_possible_truncation, reason = "it was looked at")]
            ColumnType::Int => (value.abs() < 9.2e18).then(|| Cell::Int(value.round() as i64)),
            #[allow(clippy::float_cmp, reason = "states are small whole numbers")]
            ColumnType::Text => self.values.iter().find(|(n, _)| *n == value).map(|(_, word)| Cell::Text(word.clone())),
            ColumnType::Bool => match value {
                0.0 => Some(Cell::Bool(false)),
                1.0 => Some(Cell::Bool(true)),
                _ => None,
            },
            ColumnType::Timestamp | ColumnType::Bytes | ColumnType::IntMap | ColumnType::TextMap => None,
        }
    }
}

/// Reads a mapping. `file` is how mistakes name it, `name` what it must be called.
///
/// # Errors
/// All mistakes, one line each.
pub(crate) fn parse(file: &str, name: &str, text: &str, catalogue: &Catalogue) -> Result<Mapping, Vec<String>> {
    let mut reading = Reading { file, text, catalogue, mistakes: Vec::new() };
    let (document, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        reading.mistake(error.span().map_or(0, |span| span.start), error.message());
    }
    if !reading.mistakes.is_empty() {
        return Err(reading.mistakes);
    }
    let mapping = reading.mapping(name, document.get_ref());
    if reading.mistakes.is_empty() { Ok(mapping) } else { Err(reading.mistakes) }
}

struct Reading<'a> {
    file: &'a str,
    text: &'a str,
    catalogue: &'a Catalogue,
    mistakes: Vec<String>,
}

impl Reading<'_> {
    fn mistake(&mut self, at: usize, what: impl std::fmt::Display) {
        let line = self.text.bytes().take(at).filter(|b| *b == b'\n').count() + 1;
        self.mistakes.push(format!("{}:{line}: {what}", self.file));
    }

    /// Keys that are not among those known.
    fn unknown(&mut self, table: &DeTable<'_>, known: &[&str]) {
        for key in table.keys() {
            if !known.contains(&key.get_ref().as_ref()) {
                self.mistake(key.span().start, format!("`{}`: there is only {}", key.get_ref(), known.join(", ")));
            }
        }
    }

    fn texts(&mut self, value: &Spanned<DeValue<'_>>) -> Vec<String> {
        let at = value.span().start;
        match value.get_ref() {
            DeValue::String(text) => vec![text.clone().into_owned()],
            DeValue::Array(items) => {
                let texts: Vec<String> = items
                    .iter()
                    .filter_map(|item| match item.get_ref() {
                        DeValue::String(text) => Some(text.clone().into_owned()),
                        _ => None,
                    })
                    .collect();
                if texts.len() < items.len() {
                    self.mistake(at, "all items of this list are texts");
                }
                texts
            }
            _ => {
                self.mistake(at, "a text, or a list of texts, is expected here");
                Vec::new()
            }
        }
    }

    fn text(&mut self, value: &Spanned<DeValue<'_>>) -> String {
        match value.get_ref() {
            DeValue::String(text) => text.clone().into_owned(),
            _ => {
                self.mistake(value.span().start, "a text is expected here");
                String::new()
            }
        }
    }

    fn number(&mut self, value: &Spanned<DeValue<'_>>) -> f64 {
        let number = match value.get_ref() {
            #[allow(
                clippy::cast_precision_loss,
                reason = "sentinels lose their last digits in an exporter's text as well"
            )]
            DeValue::Integer(number) => i128::from_str_radix(number.as_str(), number.radix()).ok().map(|n| n as f64),
            DeValue::Float(number) => number.as_str().parse().ok(),
            _ => None,
        };
        number.unwrap_or_else(|| {
            self.mistake(value.span().start, "a number is expected here");
            0.0
        })
    }

    fn numbers(&mut self, value: &Spanned<DeValue<'_>>) -> Vec<f64> {
        match value.get_ref() {
            DeValue::Array(items) => items.iter().map(|item| self.number(item)).collect(),
            _ => vec![self.number(value)],
        }
    }

    fn table<'d, 't>(&mut self, value: &'d Spanned<DeValue<'t>>) -> Option<&'d DeTable<'t>> {
        match value.get_ref() {
            DeValue::Table(table) => Some(table),
            _ => {
                self.mistake(value.span().start, "a table is expected here");
                None
            }
        }
    }

    /// The tables of `[[…]]`.
    fn tables<'d, 't>(&mut self, value: &'d Spanned<DeValue<'t>>) -> Vec<(usize, &'d DeTable<'t>)> {
        match value.get_ref() {
            DeValue::Array(items) => {
                items.iter().filter_map(|item| Some((item.span().start, self.table(item)?))).collect()
            }
            _ => {
                self.mistake(value.span().start, "write [[table]] and [[table.metric]]");
                Vec::new()
            }
        }
    }

    fn template(&mut self, at: usize, text: &str) -> Option<Template> {
        Template::parse(text).map_err(|why| self.mistake(at, format!("`{text}`: {why}"))).ok()
    }

    fn mapping(&mut self, name: &str, document: &DeTable<'_>) -> Mapping {
        self.unknown(document, &["exporter", "comment", "match", "ignore", "prefixes", "table"]);
        let exporter = document.get("exporter").map(|value| (value.span().start, self.text(value)));
        match &exporter {
            Some((_, exporter)) if exporter == name => {}
            Some((at, exporter)) => {
                self.mistake(*at, format!("exporter = \"{exporter}\": the file is called {name}.toml"));
            }
            None => self.mistake(0, format!("exporter = \"{name}\" is missing")),
        }
        if let Some(comment) = document.get("comment") {
            self.text(comment);
        }
        let patterns = |this: &mut Self, key: &str| -> Vec<Pattern> {
            document
                .get(key)
                .map(|value| this.texts(value))
                .unwrap_or_default()
                .iter()
                .map(|t| Pattern::new(t))
                .collect()
        };
        let recognise = patterns(self, "match");
        if recognise.is_empty() {
            self.mistake(0, "match: name the metrics by which this exporter is known");
        }
        let ignore = patterns(self, "ignore");
        let prefixes = document.get("prefixes").map_or_else(|| vec![String::new()], |prefixes| self.texts(prefixes));
        let mut mapping =
            Mapping { exporter: name.to_owned(), recognise, ignore, tables: Vec::new(), uses: HashMap::new() };
        if let Some(tables) = document.get("table") {
            for (at, table) in self.tables(tables) {
                self.table_mapping(at, table, &prefixes, &mut mapping);
            }
        }
        mapping
    }

    fn table_mapping(&mut self, at: usize, table: &DeTable<'_>, prefixes: &[String], mapping: &mut Mapping) {
        self.unknown(table, &["name", "columns", "metric"]);
        let name = table.get("name").map(|name| self.text(name)).unwrap_or_default();
        let Some(number) = FILLED.iter().position(|filled| *filled == name) else {
            return self.mistake(at, format!("name = \"{name}\": a mapping fills {}", FILLED.join(" or ")));
        };
        let Some(described) = self.catalogue.get(&name).cloned() else {
            return self.mistake(at, format!("the catalogue has no table {name}"));
        };
        let mut outputs: Vec<Output> = Vec::new();
        let columns = table.get("columns").and_then(|columns| self.table(columns));
        for (key, value) in columns.into_iter().flatten() {
            let (at, column) = (key.span().start, key.get_ref().as_ref());
            let Some(column) = described.column(column) else {
                self.mistake(at, format!("{name} has no column `{column}`"));
                continue;
            };
            if !matches!(column.column_type, ColumnType::Text | ColumnType::Int) {
                self.mistake(
                    at,
                    format!("`{}` is {}: labels fill text and int", column.name, column.column_type.as_str()),
                );
            }
            let texts = self.texts(value);
            let templates = texts.iter().filter_map(|text| self.template(value.span().start, text)).collect();
            output_of(&mut outputs, column, &described.entity).origins.push(Origin::Labels(templates));
        }
        for column in described.entity.iter().map(String::as_str).chain(["vendor"]) {
            if !outputs.iter().any(|output| &*output.column == column) {
                self.mistake(at, format!("[table.columns] has no `{column}`"));
            }
        }
        let mut made = TableMapping { table: number, outputs, metrics: Vec::new(), parts: 0 };
        let metrics = table.get("metric").map(|metrics| self.tables(metrics)).unwrap_or_default();
        for (at, metric) in metrics {
            self.metric(at, metric, &described, prefixes, &mut made, mapping);
        }
        mapping.tables.push(made);
    }

    fn metric(
        &mut self,
        at: usize,
        metric: &DeTable<'_>,
        table: &nodescope_model::catalogue::Table,
        prefixes: &[String],
        made: &mut TableMapping,
        mapping: &mut Mapping,
    ) {
        self.unknown(
            metric,
            &[
                "name", "sum", "column", "unit", "null_if", "min", "max", "where", "combine", "values", "text",
                "comment",
            ],
        );
        let parts: Vec<Vec<String>> = match (metric.get("name"), metric.get("sum")) {
            (Some(name), None) => vec![self.texts(name)],
            (None, Some(sum)) => self.texts(sum).into_iter().map(|name| vec![name]).collect(),
            _ => return self.mistake(at, "a metric has `name` or `sum`"),
        };
        if parts.is_empty() || parts.iter().any(Vec::is_empty) {
            self.mistake(at, "no metric is named");
        }
        let column_at = metric.get("column").map_or(at, |column| column.span().start);
        let name = metric.get("column").map(|column| self.text(column)).unwrap_or_default();
        let Some(column) = table.column(&name) else {
            return self.mistake(column_at, format!("{} has no column `{name}`", table.name));
        };
        if table.entity.contains(&column.name) {
            self.mistake(column_at, format!("`{name}` tells rows apart: it comes from labels, in [table.columns]"));
        }
        let (values, text) = self.words(at, metric, column);
        let factor = self.unit(at, metric, column);
        let number = |this: &mut Self, key: &str| metric.get(key).map(|value| this.number(value));
        let automatic = automatic_range(column);
        let range = (number(self, "min").unwrap_or(automatic.0), number(self, "max").unwrap_or(automatic.1));
        if range.0 > range.1 {
            self.mistake(at, format!("min {} is above max {}", range.0, range.1));
        }
        let null_if = metric.get("null_if").map(|value| self.numbers(value)).unwrap_or_default();
        let combine = match metric.get("combine").map(|value| (value.span().start, self.text(value))) {
            None => Combine::First,
            Some((at, word)) => match word.as_str() {
                "first" => Combine::First,
                "sum" => Combine::Sum,
                "max" => Combine::Max,
                "min" => Combine::Min,
                _ => {
                    self.mistake(at, format!("combine = \"{word}\": first, sum, max or min"));
                    Combine::First
                }
            },
        };
        let mut filters = Vec::new();
        for (label, wanted) in metric.get("where").and_then(|filters| self.table(filters)).into_iter().flatten() {
            filters.push((label.get_ref().clone().into_owned(), self.texts(wanted)));
        }
        let first = made.parts;
        made.parts += parts.len();
        let number = made.metrics.len();
        for (part, names) in parts.iter().enumerate() {
            for (rank, name) in names.iter().enumerate() {
                for prefix in prefixes {
                    let used = Use { table: mapping.tables.len(), metric: number, part, rank };
                    mapping.uses.entry(format!("{prefix}{name}")).or_default().push(used);
                }
            }
        }
        made.metrics.push(Metric { filters, combine, factor, null_if, range, values, text, parts: first..made.parts });
        output_of(&mut made.outputs, column, &table.entity).origins.push(Origin::Metric(number));
    }

    /// The words that stand for numbers, or the text from labels.
    fn words(&mut self, at: usize, metric: &DeTable<'_>, column: &Column) -> (Vec<(f64, String)>, Option<Template>) {
        let mut values = Vec::new();
        if let Some(value) = metric.get("values") {
            for (number, word) in self.table(value).into_iter().flatten() {
                let word = self.text(word);
                match number.get_ref().parse() {
                    Ok(number) => values.push((number, word)),
                    Err(_) => self.mistake(number.span().start, format!("`{}` is no number", number.get_ref())),
                }
            }
        }
        let text = metric.get("text").and_then(|value| {
            let text = self.text(value);
            self.template(value.span().start, &text)
        });
        let wants_words = column.column_type == ColumnType::Text;
        if wants_words != (metric.get("values").is_some() || metric.get("text").is_some()) {
            self.mistake(
                at,
                format!(
                    "`{}` is {}: it {} `values` or `text`",
                    column.name,
                    column.column_type.as_str(),
                    if wants_words { "needs" } else { "takes no" }
                ),
            );
        }
        (values, text)
    }

    /// The factor to the column's unit.
    fn unit(&mut self, at: usize, metric: &DeTable<'_>, column: &Column) -> f64 {
        let wanted = if column.unit.is_empty() { "1" } else { column.unit.as_str() };
        let given = metric.get("unit").map(|unit| (unit.span().start, self.text(unit)));
        if !matches!(column.column_type, ColumnType::Int | ColumnType::Float | ColumnType::Bool | ColumnType::Text) {
            self.mistake(at, format!("`{}` is {}, which a metric cannot be", column.name, column.column_type.as_str()));
        }
        let (at, word) = given.unwrap_or((at, "1".to_owned()));
        match UNITS.iter().find(|(unit, ..)| *unit == word) {
            Some((_, unit, factor)) if *unit == wanted => *factor,
            Some(_) => {
                let fitting: Vec<&str> =
                    UNITS.iter().filter(|(_, unit, _)| *unit == wanted).map(|(w, ..)| *w).collect();
                self.mistake(at, format!("unit = \"{word}\": `{}` takes {}", column.name, fitting.join(", ")));
                1.0
            }
            None => {
                let all: Vec<&str> = UNITS.iter().map(|(word, ..)| *word).collect();
                self.mistake(at, format!("unit = \"{word}\": the units are {}", all.join(", ")));
                1.0
            }
        }
    }
}

/// What a number of that column can be.
fn automatic_range(column: &Column) -> (f64, f64) {
    match column.unit.as_str() {
        // A little above, because exporters round.
        "ratio" => (0.0, 1.01),
        "celsius" | "" => (f64::NEG_INFINITY, f64::INFINITY),
        _ if column.kind == Kind::State => (f64::NEG_INFINITY, f64::INFINITY),
        _ => (0.0, f64::INFINITY),
    }
}

fn output_of<'o>(outputs: &'o mut Vec<Output>, column: &Column, entity: &[String]) -> &'o mut Output {
    let at = outputs.iter().position(|output| *output.column == *column.name).unwrap_or_else(|| {
        outputs.push(Output {
            column: column.name.as_str().into(),
            column_type: column.column_type,
            is_entity: entity.contains(&column.name),
            origins: Vec::new(),
        });
        outputs.len() - 1
    });
    &mut outputs[at]
}

macro_rules! built_in {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("../../mappings/", $name, ".toml")))),*]
    };
}

/// The mappings that are compiled in: name and text.
pub(crate) const BUILT_IN: &[(&str, &str)] = built_in![
    "amd",
    "ascend",
    "cambricon",
    "common",
    "dcgm",
    "enflame",
    "hygon",
    "iluvatar",
    "metax",
    "moore-threads",
];

/// The mappings that are compiled in, checked.
pub(crate) fn built_in(catalogue: &Catalogue) -> BTreeMap<String, Arc<Mapping>> {
    BUILT_IN
        .iter()
        .filter_map(|(name, text)| match parse(&format!("{name}.toml"), name, text, catalogue) {
            Ok(mapping) => Some(((*name).to_owned(), Arc::new(mapping))),
            Err(mistakes) => {
                // A test keeps this from happening with our own catalogue.
                debug_assert!(false, "{mistakes:?}");
                tracing::error!(mapping = name, mistakes = mistakes.join("; "), "a mapping of our own is wrong");
                None
            }
        })
        .collect()
}

#[cfg(test)]
mod tests;
