//! A definition: one file that says what to ask, in SQL, and all that must be known of it beside.
//!
//! ```sql
//! /*
//! title = "Accelerator busy without a job"
//! every = "1m"                  # rules: windows end at multiples of it
//! window = "10m"                # how far a window reaches back; `every` without it
//! wait = "20s"                  # run so long after the window's end
//! restate = "1d"                # windows no older run again when rows arrive late; "0s": none does
//! sink = "alert"                # or "table:NAME", "webhook:NAME", "kafka:NAME"
//! [parameters]
//! busy_ratio = { value = 0.2, help = "From here on it is busy.", unit = "ratio" }   # $busy_ratio
//! [alert]
//! severity = "critical"
//! key = ["node", "host", "device"]
//! summary = "{host}: {device} is {busy:.0%} busy and nobody holds it"
//! */
//! SELECT … WHERE ts >= $from AND ts < $to
//! ```
//!
//! The head is TOML in the first comment; then follows one SELECT. The name of the file is the name of the thing.
//! Three folders hold such files: views (and functions, which are views with parameters), rules, and a site's own
//! rules. All are read here, and every mistake in a file is told at once, with its place.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;
use std::time::Duration;

use datafusion::arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};
use nodescope_model::catalogue::{ColumnType, timestamp_type};
use nodescope_service::errors::chain;
use nodescope_service::settings::parse_duration;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::alerts::summary::Template;
use crate::limits::Limits;
use crate::statement::{self, Command};

/// Placeholders that every rule may use: begin (inclusive) and end (exclusive) of the window.
pub const WINDOW: [&str; 2] = ["from", "to"];

/// How long after the end of its window a rule runs, unless its head says.
const WAIT: Duration = Duration::from_secs(20);

/// How old a window may be that runs again for late rows, of a rule that fills a table and does not say.
const RESTATE: Duration = Duration::from_secs(86_400);

/// What a file is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A view, or a table function when it has parameters.
    View,
    /// Something that runs on the schedule.
    Rule,
}

/// One file, read.
#[derive(Debug, Clone, PartialEq)]
pub struct Definition {
    /// Name of the view, the function or the rule.
    pub name: String,
    /// What it is, in a few words.
    pub title: String,
    /// The operator's question, the answer's shape, its freshness. Empty when it says nothing.
    pub question: String,
    /// Grid of the windows: they end at multiples of it since 1970. Zero for views.
    pub every: Duration,
    /// Length of a window.
    pub window: Duration,
    /// How long after a window's end it runs.
    pub wait: Duration,
    /// Windows that ended no longer ago run again when rows arrive late. Zero: none does.
    pub restate: Duration,
    /// Where the rows of a rule go; `None` for views.
    pub sink: Option<SinkName>,
    /// What its SQL may be told, in the order of the head.
    pub parameters: Vec<Parameter>,
    /// What makes an incident of its rows.
    pub alert: Option<AlertHead>,
    /// A sentence for each column of the answer, in the order of the head.
    pub columns: Vec<(String, String)>,
    /// The SELECT.
    pub sql: String,
    /// First sixteen digits of the SHA-256 of the file.
    pub hash: String,
}

/// Where rows go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SinkName {
    /// Incidents in the table `alert`, and on to whoever is to be told.
    Alert,
    /// A table of the catalogue.
    Table(String),
    /// A webhook of the settings.
    Webhook(String),
    /// A topic on Kafka.
    Kafka(String),
}

impl fmt::Display for SinkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Alert => f.write_str("alert"),
            Self::Table(name) => write!(f, "table:{name}"),
            Self::Webhook(name) => write!(f, "webhook:{name}"),
            Self::Kafka(name) => write!(f, "kafka:{name}"),
        }
    }
}

impl std::str::FromStr for SinkName {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once(':') {
            None if text == "alert" => Ok(Self::Alert),
            Some(("table", name)) if !name.is_empty() => Ok(Self::Table(name.to_owned())),
            Some(("webhook", name)) if !name.is_empty() => Ok(Self::Webhook(name.to_owned())),
            Some(("kafka", name)) if !name.is_empty() => Ok(Self::Kafka(name.to_owned())),
            _ => Err("`alert`, `table:NAME`, `webhook:NAME` or `kafka:NAME`"),
        }
    }
}

/// A value that the SQL calls `$name`.
#[derive(Debug, Clone, PartialEq)]
pub struct Parameter {
    /// Its name.
    pub name: String,
    /// Type of its values: `Int64`, `Float64`, `Utf8`, `Boolean`, or a timestamp.
    pub data_type: DataType,
    /// The value if none is given; NULL of the type for one that may be left out. `None`: one must be given.
    pub value: Option<ScalarValue>,
    /// A sentence.
    pub help: String,
    /// Its unit; empty for none.
    pub unit: String,
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Worth knowing.
    Info,
    /// Somebody should look at it today.
    Warning,
    /// Somebody should look at it now.
    Critical,
}

impl Severity {
    /// The word in files and rows.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

impl std::str::FromStr for Severity {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::Info, Self::Warning, Self::Critical]
            .into_iter()
            .find(|severity| severity.as_str() == text)
            .ok_or("`critical`, `warning` or `info`")
    }
}

/// What makes incidents of a rule's rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AlertHead {
    /// How bad it is.
    pub severity: Severity,
    /// How long it must hold before it is raised.
    pub hold: Duration,
    /// How long it must not have held before it is over.
    pub resolve_after: Duration,
    /// Columns that tell one incident from another.
    pub key: Vec<String>,
    /// What to say, with `{column}`.
    pub summary: String,
    /// ATT&CK techniques.
    pub techniques: Vec<String>,
    /// In words, what keeps it from crying wolf.
    pub guard: String,
    /// Rules whose incidents are the cause of this one's: while one fires that has the same values in the columns that
    /// both keys have, this one's are noted and not told.
    pub inhibited_by: Vec<String>,
}

/// One thing that is wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// The file.
    pub file: String,
    /// The key of the head; empty for the file as a whole.
    pub key: String,
    /// What is wrong.
    pub what: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, key, what } = self;
        if key.is_empty() { write!(f, "{file}: {what}") } else { write!(f, "{file}: {key}: {what}") }
    }
}

/// Everything that is wrong, one line each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mistakes(pub Vec<Mistake>);

impl Mistakes {
    /// Whether something is wrong with the file of the definition of that name.
    pub fn concern(&self, name: &str) -> bool {
        self.0.iter().any(|mistake| Path::new(&mistake.file).file_stem().is_some_and(|stem| stem == name))
    }

    /// Notes one.
    pub fn add(&mut self, file: &str, key: &str, what: impl fmt::Display) {
        self.0.push(Mistake { file: file.to_owned(), key: key.to_owned(), what: what.to_string() });
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.0.iter().map(Mistake::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}

impl std::error::Error for Mistakes {}

impl Definition {
    /// Reads a file's text. `file` is its path or name; what stands before `.sql` in it is the definition's name.
    ///
    /// # Errors
    /// Every mistake in the file.
    pub fn parse(file: &str, text: &str, purpose: Purpose) -> Result<Self, Mistakes> {
        let mut mistakes = Mistakes::default();
        let definition = read(file, text, purpose, &mut mistakes);
        match definition {
            Some(definition) if mistakes.0.is_empty() => Ok(definition),
            _ => Err(mistakes),
        }
    }

    /// The parameter of that name.
    pub fn parameter(&self, name: &str) -> Option<&Parameter> {
        self.parameters.iter().find(|parameter| parameter.name == name)
    }

    /// Gives a parameter another value, as somebody wrote it.
    ///
    /// # Errors
    /// When there is no such parameter, or the text is no value of its type.
    pub fn set_parameter(&mut self, name: &str, text: &str) -> Result<(), String> {
        let Some(parameter) = self.parameters.iter_mut().find(|p| p.name == name) else {
            return Err(format!("{} has no parameter `{name}`", self.name));
        };
        let value = ScalarValue::try_from_string(text.to_owned(), &parameter.data_type)
            .map_err(|_| format!("`{text}` is not a value of {name}, which is {}", type_name(&parameter.data_type)))?;
        parameter.value = Some(value);
        Ok(())
    }

    /// The values of the parameters that have one, by name.
    pub fn values(&self) -> Vec<(String, ScalarValue)> {
        self.parameters.iter().filter_map(|p| Some((p.name.clone(), p.value.clone()?))).collect()
    }
}

/// Reads every `*.sql` of a folder, in order of name: those that are right, and every mistake in all others.
pub fn read_folder(folder: &Path, purpose: Purpose) -> (Vec<Definition>, Mistakes) {
    let mut mistakes = Mistakes::default();
    let shown = folder.display().to_string();
    let mut paths = Vec::new();
    match std::fs::read_dir(folder) {
        Ok(entries) => {
            for entry in entries {
                match entry {
                    Ok(entry) => paths.push(entry.path()),
                    Err(error) => mistakes.add(&shown, "", format!("cannot be listed: {error}")),
                }
            }
        }
        Err(error) => mistakes.add(&shown, "", format!("cannot be listed: {error}")),
    }
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "sql"));
    paths.sort();
    let mut definitions = Vec::new();
    for path in paths {
        let file = path.display().to_string();
        match std::fs::read_to_string(&path) {
            Ok(text) => match Definition::parse(&file, &text, purpose) {
                Ok(definition) => definitions.push(definition),
                Err(more) => mistakes.0.extend(more.0),
            },
            Err(error) => mistakes.add(&file, "", format!("cannot be read: {error}")),
        }
    }
    (definitions, mistakes)
}

/// The placeholders of a text, without their `$`.
pub fn placeholders(sql: &str) -> BTreeSet<String> {
    let tokens = Tokenizer::new(&PostgreSqlDialect {}, sql).tokenize().unwrap_or_default();
    let names = tokens.into_iter().filter_map(|token| match token {
        Token::Placeholder(name) => Some(name.trim_start_matches('$').to_owned()),
        _ => None,
    });
    names.collect()
}

/// Bounds on the text of a definition. They are those of the server's own files, some of which are long because tables
/// are wide.
pub(crate) fn text_limits() -> Limits {
    Limits { max_statement_bytes: 8 << 20, max_statement_operators: 100_000, ..Limits::default() }
}

/// Head and SELECT of a file; nothing when there is no head.
fn split(text: &str) -> Option<(&str, &str)> {
    text.trim_start().strip_prefix("/*")?.split_once("*/")
}

fn read(file: &str, text: &str, purpose: Purpose, mistakes: &mut Mistakes) -> Option<Definition> {
    let name = Path::new(file).file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    if !is_name(&name) {
        mistakes.add(
            file,
            "",
            "the file's name becomes the definition's: a small letter, then at most 62 of a-z, 0-9, _",
        );
    }
    let Some((head, sql)) = split(text) else {
        mistakes.add(file, "", "it must begin with a head: TOML between /* and */");
        return None;
    };
    let sql = sql.trim().trim_end_matches(';').trim_end();
    match statement::parse(sql, &text_limits()).as_deref() {
        Ok([Command::Query(_)]) => {}
        Ok(_) => mistakes.add(file, "", "after the head there must be one SELECT, and nothing else"),
        Err(error) => mistakes.add(file, "", chain(error)),
    }
    let table = match DeTable::parse(head) {
        Ok(table) => table.into_inner(),
        Err(error) => {
            let line = error.span().and_then(|at| head.get(..at.start)).map_or(0, |b| b.matches('\n').count()) + 1;
            mistakes.add(file, "", format!("line {line}: the head is not TOML: {}", error.message().trim_end()));
            return None;
        }
    };
    let mut head = Section::new(file, "", &table);
    let title = head.text("title", mistakes);
    if title.is_none() {
        head.mistake("title", "is missing: what it is, in a few words", mistakes);
    }
    let question = head.text("question", mistakes).unwrap_or_default();
    let parameters = parameters(file, head.section("parameters", mistakes), mistakes);
    let columns = columns(file, head.section("columns", mistakes), mistakes);
    let mut definition = Definition {
        name,
        title: title.unwrap_or_default(),
        question,
        every: Duration::ZERO,
        window: Duration::ZERO,
        wait: Duration::ZERO,
        restate: Duration::ZERO,
        sink: None,
        parameters,
        alert: None,
        columns,
        sql: sql.to_owned(),
        hash: hash(text),
    };
    if purpose == Purpose::Rule {
        schedule(&mut definition, &mut head, mistakes);
    }
    head.finish(mistakes);
    check_placeholders(file, &definition, purpose, mistakes);
    Some(definition)
}

/// The keys of rules.
fn schedule(definition: &mut Definition, head: &mut Section<'_>, mistakes: &mut Mistakes) {
    match head.duration("every", mistakes) {
        Some(every) if every >= Duration::from_secs(1) => definition.every = every,
        Some(_) => head.mistake("every", "at least 1s", mistakes),
        None => head.missing("every", "how often it runs, as in \"1m\"", mistakes),
    }
    definition.window = head.duration("window", mistakes).unwrap_or(definition.every);
    if definition.window.is_zero() && !definition.every.is_zero() {
        head.mistake("window", "at least 1ms", mistakes);
    }
    definition.wait = head.duration("wait", mistakes).unwrap_or(WAIT);
    let sink = head.text("sink", mistakes);
    match sink.as_deref().map(str::parse::<SinkName>) {
        Some(Ok(sink)) => definition.sink = Some(sink),
        Some(Err(wanted)) => head.mistake("sink", wanted, mistakes),
        None => head.missing("sink", "where its rows go", mistakes),
    }
    let restate = head.duration("restate", mistakes);
    let fills = matches!(definition.sink, Some(SinkName::Table(_)));
    definition.restate = restate.unwrap_or(if fills { RESTATE } else { Duration::ZERO });
    let alert = head.section("alert", mistakes);
    match (alert, &definition.sink) {
        (Some(alert), Some(SinkName::Alert) | None) => {
            definition.alert = Some(alert_head(alert, 2 * definition.every, mistakes));
        }
        (Some(_), Some(_)) => head.mistake("alert", "is for sink = \"alert\" alone", mistakes),
        (None, Some(SinkName::Alert)) => head.missing("alert", "what makes an incident of its rows", mistakes),
        (None, _) => {}
    }
}

fn alert_head(mut section: Section<'_>, resolve_after: Duration, mistakes: &mut Mistakes) -> AlertHead {
    let severity = match section.text("severity", mistakes).as_deref().map(str::parse) {
        Some(Ok(severity)) => severity,
        Some(Err(wanted)) => {
            section.mistake("severity", wanted, mistakes);
            Severity::Info
        }
        None => {
            section.missing("severity", "`critical`, `warning` or `info`", mistakes);
            Severity::Info
        }
    };
    let hold = section.duration("for", mistakes).unwrap_or_default();
    let resolve_after = section.duration("resolve_after", mistakes).unwrap_or(resolve_after);
    let key = section.texts("key", mistakes).unwrap_or_default();
    if key.is_empty() {
        section.missing("key", "columns that tell one incident from another", mistakes);
    }
    let summary = section.text("summary", mistakes).unwrap_or_default();
    if summary.is_empty() {
        section.missing("summary", "what to say, with {column}", mistakes);
    }
    let techniques = section.texts("techniques", mistakes).unwrap_or_default();
    let guard = section.text("guard", mistakes).unwrap_or_default();
    let inhibited_by = section.texts("inhibited_by", mistakes).unwrap_or_default();
    if !summary.is_empty()
        && let Err(wrong) = Template::parse(&summary)
    {
        section.mistake("summary", wrong, mistakes);
    }
    section.finish(mistakes);
    AlertHead { severity, hold, resolve_after, key, summary, techniques, guard, inhibited_by }
}

fn columns(file: &str, section: Option<Section<'_>>, mistakes: &mut Mistakes) -> Vec<(String, String)> {
    let Some(section) = section else { return Vec::new() };
    let mut columns = Vec::new();
    for (name, value) in section.in_order() {
        match value.get_ref().as_str() {
            Some(help) => columns.push((name.to_owned(), help.to_owned())),
            None => mistakes.add(file, &format!("columns.{name}"), "a sentence"),
        }
    }
    columns
}

fn parameters(file: &str, section: Option<Section<'_>>, mistakes: &mut Mistakes) -> Vec<Parameter> {
    let Some(section) = section else { return Vec::new() };
    let mut parameters = Vec::new();
    for (name, value) in section.in_order() {
        let path = format!("parameters.{name}");
        if !is_name(name) {
            mistakes.add(file, &path, "a small letter, then at most 62 of a-z, 0-9, _");
        }
        match value.get_ref().as_table() {
            Some(table) => parameters.extend(parameter(name, Section::new(file, &path, table), mistakes)),
            None => mistakes.add(file, &path, "a table, as in { value = 0.2, help = \"…\", unit = \"ratio\" }"),
        }
    }
    parameters
}

fn parameter(name: &str, mut section: Section<'_>, mistakes: &mut Mistakes) -> Option<Parameter> {
    let value = match section.entries.remove("value").map(|value| scalar(value.get_ref())) {
        Some(None) => {
            section.mistake("value", "a number, a text, true, false or a time", mistakes);
            return None;
        }
        Some(Some(value)) => Some(value),
        None => None,
    };
    let optional = match section.entries.remove("optional").map(|value| value.get_ref().as_bool()) {
        None => false,
        Some(Some(optional)) => optional,
        Some(None) => {
            section.mistake("optional", "true or false", mistakes);
            false
        }
    };
    let given = match section.text("type", mistakes) {
        None => None,
        Some(word) => match type_named(&word) {
            Some(data_type) => Some(data_type),
            None => {
                section.mistake("type", "`int`, `float`, `text`, `bool` or `timestamp`", mistakes);
                return None;
            }
        },
    };
    let help = section.text("help", mistakes).unwrap_or_default();
    if help.is_empty() {
        section.missing("help", "a sentence", mistakes);
    }
    let unit = section.text("unit", mistakes).unwrap_or_default();
    let found = value.as_ref().map(ScalarValue::data_type);
    let Some(data_type) = given.or(found) else {
        section.missing("value", "or type = \"…\", for one that must be given", mistakes);
        return None;
    };
    let value = match value {
        Some(value) => match value.cast_to(&data_type) {
            Ok(value) => Some(value),
            Err(_) => {
                section.mistake("value", format!("is not {}", type_name(&data_type)), mistakes);
                return None;
            }
        },
        None if optional => ScalarValue::try_from(&data_type).ok(),
        None => None,
    };
    section.finish(mistakes);
    Some(Parameter { name: name.to_owned(), data_type, value, help, unit })
}

fn check_placeholders(file: &str, definition: &Definition, purpose: Purpose, mistakes: &mut Mistakes) {
    let used = placeholders(&definition.sql);
    let reserved = |name: &str| purpose == Purpose::Rule && WINDOW.contains(&name);
    for parameter in &definition.parameters {
        let key = format!("parameters.{}", parameter.name);
        if reserved(&parameter.name) {
            mistakes.add(file, &key, "is the name of the window's begin or end");
        } else if !used.contains(&parameter.name) {
            mistakes.add(file, &key, format!("the SQL does not use ${}", parameter.name));
        }
        if purpose == Purpose::Rule && parameter.value.is_none() {
            mistakes.add(file, &key, "a rule is given nothing: it needs a value");
        }
    }
    for name in used.iter().filter(|name| definition.parameter(name).is_none() && !reserved(name)) {
        mistakes.add(file, "", format!("the SQL uses ${name}, which is no parameter of the head"));
    }
    if purpose == Purpose::Rule && !used.iter().any(|name| reserved(name)) {
        mistakes.add(file, "", "the SQL uses neither $from nor $to: what it finds must depend on the window");
    }
    // Those that may be left out come last, so that what is given is never taken for another.
    let first = definition.parameters.iter().position(|p| p.value.is_some()).unwrap_or(definition.parameters.len());
    for late in definition.parameters.iter().skip(first).filter(|p| p.value.is_none()) {
        mistakes.add(file, &format!("parameters.{}", late.name), "must come before those that have a value");
    }
}

fn scalar(value: &DeValue<'_>) -> Option<ScalarValue> {
    Some(match value {
        DeValue::String(text) => ScalarValue::from(text.as_ref()),
        DeValue::Integer(number) => ScalarValue::from(i64::from_str_radix(number.as_str(), number.radix()).ok()?),
        DeValue::Float(number) => ScalarValue::from(number.as_str().parse::<f64>().ok()?),
        DeValue::Boolean(truth) => ScalarValue::from(*truth),
        DeValue::Datetime(time) => ScalarValue::from(time.to_string()).cast_to(&timestamp_type()).ok()?,
        DeValue::Array(_) | DeValue::Table(_) => return None,
    })
}

const TYPES: [ColumnType; 5] =
    [ColumnType::Int, ColumnType::Float, ColumnType::Text, ColumnType::Bool, ColumnType::Timestamp];

fn type_named(word: &str) -> Option<DataType> {
    TYPES.iter().find(|known| known.as_str() == word).map(|known| known.data_type())
}

/// The word for a type in heads.
pub(crate) fn type_name(data_type: &DataType) -> &'static str {
    TYPES.iter().find(|known| known.data_type() == *data_type).map_or("something else", |known| known.as_str())
}

/// Whether a text can be the name of something: as SQL writes it without quotes.
fn is_name(name: &str) -> bool {
    let letters = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    letters && name.len() <= 63 && name.bytes().next().is_some_and(|b| b.is_ascii_lowercase())
}

fn hash(text: &str) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
    digest.as_ref().iter().take(8).fold(String::with_capacity(16), |mut hex, byte| {
        let _ = fmt::Write::write_fmt(&mut hex, format_args!("{byte:02x}"));
        hex
    })
}

/// A table of the head, whose entries are taken out one by one; what remains at the end is unknown.
struct Section<'t> {
    file: &'t str,
    path: String,
    entries: BTreeMap<&'t str, &'t Spanned<DeValue<'t>>>,
    order: Vec<&'t str>,
}

impl<'t> Section<'t> {
    fn new(file: &'t str, path: &str, table: &'t DeTable<'t>) -> Self {
        let mut keys: Vec<_> = table.iter().map(|(key, _)| (key.span().start, key.get_ref().as_ref())).collect();
        keys.sort_unstable();
        Self {
            file,
            path: path.to_owned(),
            entries: table.iter().map(|(key, value)| (key.get_ref().as_ref(), value)).collect(),
            order: keys.into_iter().map(|(_, key)| key).collect(),
        }
    }

    /// All entries, as they stand in the file.
    fn in_order(&self) -> impl Iterator<Item = (&'t str, &'t Spanned<DeValue<'t>>)> {
        self.order.iter().filter_map(|key| Some((*key, *self.entries.get(key)?)))
    }

    fn key(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    fn mistake(&self, key: &str, what: impl fmt::Display, mistakes: &mut Mistakes) {
        mistakes.add(self.file, &self.key(key), what);
    }

    /// Notes that a key is missing, unless what stood there was a mistake already.
    fn missing(&self, key: &str, what: &str, mistakes: &mut Mistakes) {
        let path = self.key(key);
        if !mistakes.0.iter().any(|mistake| mistake.file == self.file && mistake.key == path) {
            mistakes.add(self.file, &path, format!("is missing: {what}"));
        }
    }

    fn text(&mut self, key: &str, mistakes: &mut Mistakes) -> Option<String> {
        let value = self.entries.remove(key)?;
        let text = value.get_ref().as_str().map(|text| text.trim().to_owned());
        if text.is_none() {
            self.mistake(key, "a text in quotes", mistakes);
        }
        text
    }

    fn texts(&mut self, key: &str, mistakes: &mut Mistakes) -> Option<Vec<String>> {
        let value = self.entries.remove(key)?;
        let texts = value.get_ref().as_array().and_then(|items| {
            items.iter().map(|item| item.get_ref().as_str().map(str::to_owned)).collect::<Option<Vec<_>>>()
        });
        if texts.is_none() {
            self.mistake(key, "a list of texts, as in [\"node\", \"host\"]", mistakes);
        }
        texts
    }

    fn duration(&mut self, key: &str, mistakes: &mut Mistakes) -> Option<Duration> {
        let text = self.text(key, mistakes)?;
        match parse_duration(&text) {
            Ok(length) => Some(length),
            Err(what) => {
                self.mistake(key, what, mistakes);
                None
            }
        }
    }

    fn section(&mut self, key: &str, mistakes: &mut Mistakes) -> Option<Section<'t>> {
        let value = self.entries.remove(key)?;
        match value.get_ref().as_table() {
            Some(table) => Some(Section::new(self.file, &self.key(key), table)),
            None => {
                self.mistake(key, format!("a table: [{}]", self.key(key)), mistakes);
                None
            }
        }
    }

    fn finish(self, mistakes: &mut Mistakes) {
        for (key, _) in self.in_order() {
            self.mistake(key, "there is no such key here", mistakes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: &str = r#"
/*
title = "Busy without a job"
every = "1m"
window = "10m"
sink = "alert"
[parameters]
busy_ratio = { value = 0.2, help = "From here on it is busy.", unit = "ratio" }
at_least = { value = 3, help = "Samples." }
[alert]
severity = "critical"
for = "30s"
key = ["node", "host"]
summary = "{host} is busy"
techniques = ["T1496.001", "T1496"]
*/
-- A comment of the SQL.
SELECT node, host, avg(load1) AS busy FROM system
WHERE ts >= $from AND ts < $to GROUP BY node, host
HAVING avg(load1) > $busy_ratio AND count(*) >= $at_least;
"#;

    fn mistakes(text: &str, purpose: Purpose) -> Vec<String> {
        match Definition::parse("rules/a_rule.sql", text, purpose) {
            Ok(definition) => panic!("read as {definition:?}"),
            Err(mistakes) => mistakes.0.iter().map(Mistake::to_string).collect(),
        }
    }

    #[test]
    fn a_rule_is_read() {
        let rule = Definition::parse("rules/a_rule.sql", RULE, Purpose::Rule).unwrap();
        assert_eq!((rule.name.as_str(), rule.title.as_str()), ("a_rule", "Busy without a job"));
        let seconds = [rule.every, rule.window, rule.wait, rule.restate].map(|length| length.as_secs());
        assert_eq!(seconds, [60, 600, 20, 0]);
        assert_eq!(rule.sink, Some(SinkName::Alert));
        assert_eq!(
            rule.values(),
            [("busy_ratio".to_owned(), ScalarValue::from(0.2)), ("at_least".to_owned(), ScalarValue::from(3_i64))]
        );
        let alert = rule.alert.as_ref().unwrap();
        assert_eq!(
            (alert.severity, alert.hold.as_secs(), alert.resolve_after.as_secs()),
            (Severity::Critical, 30, 120)
        );
        assert_eq!(alert.key, ["node", "host"]);
        assert!(rule.sql.starts_with("-- A comment") && !rule.sql.ends_with(';'));
        assert_eq!(rule.hash.len(), 16);
        let other = Definition::parse("rules/a_rule.sql", &RULE.replace("0.2", "0.3"), Purpose::Rule).unwrap();
        assert_ne!(rule.hash, other.hash);
    }

    #[test]
    fn a_function_keeps_the_order_of_its_parameters() {
        let text = r#"/*
title = "Hosts for a job"
question = "Who can host it?"
[parameters]
wanted = { type = "int", help = "Accelerators." }
at = { value = 2026-01-01T00:00:00Z, help = "When." }
after = { type = "text", optional = true, help = "Node asked from." }
[columns]
host = "Host."
free = "Free."
*/
SELECT host, $wanted AS free FROM system WHERE ts > $at OR host = $after"#;
        let view = Definition::parse("hosts_for.sql", text, Purpose::View).unwrap();
        let parameters: Vec<_> = view.parameters.iter().map(|p| (p.name.as_str(), p.value.is_some())).collect();
        assert_eq!(parameters, [("wanted", false), ("at", true), ("after", true)]);
        assert_eq!(view.parameter("at").unwrap().data_type, timestamp_type());
        assert_eq!(view.parameter("after").unwrap().value, Some(ScalarValue::Utf8(None)));
        assert_eq!(view.columns[0], ("host".to_owned(), "Host.".to_owned()));
        let refused = mistakes(text, Purpose::Rule);
        assert_eq!(refused.len(), 4, "every, sink, a value, $from: {refused:?}");
    }

    #[test]
    fn every_mistake_is_told_at_once_with_its_place() {
        let text = r#"/*
titel = "x"
every = "soon"
sink = "mail:x"
wait = 20
[parameters]
spare = { value = 1, help = "Nobody uses it." }
odd = { value = [1], help = "A list.", colour = "red" }
[alert]
severity = "bad"
key = "host"
*/
SELECT host, $missing FROM system; DELETE FROM system"#;
        let found = mistakes(text, Purpose::Rule);
        for wanted in [
            "cannot execute DELETE",
            "titel: there is no such key",
            "title: is missing",
            "every: not a length",
            "sink: `alert`",
            "wait: a text",
            "parameters.spare: the SQL does not use",
            "parameters.odd.value: a number",
            "alert.severity: `critical`",
            "alert.key: a list of texts",
            "alert.summary: is missing",
            "$missing, which is no parameter",
            "neither $from nor $to",
        ] {
            let times = found.iter().filter(|line| line.contains(wanted)).count();
            assert_eq!(times, 1, "{wanted} in {found:#?}");
        }
        assert!(found.iter().all(|line| line.starts_with("rules/a_rule.sql: ")), "{found:#?}");
    }

    #[test]
    fn what_is_no_definition_says_so() {
        assert!(mistakes("SELECT 1", Purpose::View)[0].contains("must begin with a head"));
        assert!(mistakes("/*\ntitle = \n*/ SELECT 1", Purpose::View)[0].contains("line 2: the head is not TOML"));
        assert!(mistakes("/* title = \"x\" */ SELEC 1", Purpose::View)[0].contains("could not be parsed"));
        assert!(mistakes("/* title = \"x\" */ SELECT 1; SELECT 2", Purpose::View)[0].contains("one SELECT"));
        assert!(Definition::parse("A-rule.sql", "/* title = \"x\" */ SELECT 1", Purpose::View).is_err());
    }

    #[test]
    fn a_parameter_is_set_by_its_text() {
        let mut rule = Definition::parse("rules/a_rule.sql", RULE, Purpose::Rule).unwrap();
        rule.set_parameter("busy_ratio", "0.5").unwrap();
        assert_eq!(rule.parameter("busy_ratio").unwrap().value, Some(ScalarValue::from(0.5)));
        assert!(rule.set_parameter("busy_ratio", "very").unwrap_err().contains("which is float"));
        assert!(rule.set_parameter("lazy_ratio", "1").is_err());
    }

    #[test]
    fn a_folder_is_read_whole() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("b.sql"), RULE).unwrap();
        std::fs::write(folder.path().join("a.sql"), RULE).unwrap();
        std::fs::write(folder.path().join("notes.txt"), "not ours").unwrap();
        let names = || {
            let (rules, mistakes) = read_folder(folder.path(), Purpose::Rule);
            (rules.into_iter().map(|rule| rule.name).collect::<Vec<_>>(), mistakes.0.len())
        };
        let right = vec!["a".to_owned(), "b".to_owned()];
        assert_eq!(names(), (right.clone(), 0));
        std::fs::write(folder.path().join("c.sql"), "nothing").unwrap();
        std::fs::write(folder.path().join("d.sql"), "nothing").unwrap();
        assert_eq!(names(), (right, 2), "what is right is there nevertheless");
        let (rules, mistakes) = read_folder(&folder.path().join("nowhere"), Purpose::Rule);
        assert!(rules.is_empty() && mistakes.concern("nowhere"), "{mistakes}");
    }
}
