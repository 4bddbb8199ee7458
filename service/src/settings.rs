//! Settings: one TOML file, overridden by environment, overridden by flags.
//!
//! Each part of the program reads what it needs by key, with a default and a sentence that explains it. That one call
//! is the definition: from it come the value, the message when it is wrong, and the page `docs/configuration.md`.
//! Mistakes do not stop the reading. They are collected, and [`Settings::finish`] gives all of them, with those keys
//! that nobody asked for, before anything is opened or bound.
//!
//! `section.key` in the file is `NODESCOPE_SECTION_KEY` in the environment.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

/// All values found, what was asked for so far, and what was wrong.
#[derive(Debug, Default)]
pub struct Settings {
    values: BTreeMap<String, Value>,
    described: Vec<Described>,
    mistakes: Vec<String>,
}

#[derive(Debug, Clone)]
struct Value {
    text: String,
    /// Where it was found, for messages.
    origin: String,
    used: bool,
}

/// One setting, for the documentation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    /// `section.key`.
    pub key: String,
    /// As it would be written; empty when there is none.
    pub default: String,
    /// A sentence.
    pub help: &'static str,
}

/// Everything that is wrong with the settings, one line each.
#[derive(Debug, PartialEq, Eq)]
pub struct SettingsErrors(pub Vec<String>);

impl fmt::Display for SettingsErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.join("\n"))
    }
}

impl std::error::Error for SettingsErrors {}

impl Settings {
    /// Reads the file (if there is one) and the environment.
    pub fn load(file: Option<&Path>, environment: impl Iterator<Item = (String, String)>) -> Self {
        let mut settings = Self::default();
        if let Some(path) = file {
            settings.add_file(path);
        }
        for (name, text) in environment {
            if let Some(key) = key_of_variable(&name) {
                settings.insert(key, text, format!("environment variable {name}"));
            }
        }
        settings
    }

    /// Sets a value from the command line; it wins over file and environment.
    #[allow(clippy::needless_pass_by_value, reason = "it is what the command line gave")]
    pub fn flag(&mut self, key: &str, value: Option<impl ToString>) {
        if let Some(value) = value {
            self.insert(key.to_owned(), value.to_string(), "the command line".to_owned());
        }
    }

    /// Sets a value unless somebody has set it.
    #[allow(clippy::needless_pass_by_value, reason = "mostly texts, as they are written")]
    pub fn preset(&mut self, key: &str, value: impl ToString) {
        if !self.values.contains_key(key) {
            self.insert(key.to_owned(), value.to_string(), "this command".to_owned());
        }
    }

    fn insert(&mut self, key: String, text: String, origin: String) {
        self.values.insert(key, Value { text, origin, used: false });
    }

    fn add_file(&mut self, path: &Path) {
        let shown = path.display();
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) => {
                self.mistakes.push(format!("{shown} cannot be read: {error}"));
                return;
            }
        };
        let table: toml::Table = match text.parse() {
            Ok(table) => table,
            Err(error) => {
                // The error's own text shows the line it is about, and in it may stand a secret.
                let before = error.span().and_then(|span| text.get(..span.start));
                let at =
                    before.map(|before| format!(", line {}", before.matches('\n').count() + 1)).unwrap_or_default();
                self.mistakes.push(format!("{shown} is not TOML{at}: {}", error.message().trim_end()));
                return;
            }
        };
        for (section, content) in table {
            let toml::Value::Table(content) = content else {
                self.mistakes.push(format!("{shown}: `{section}` stands outside of any [section]"));
                continue;
            };
            for (name, value) in content {
                let key = format!("{section}.{name}");
                match text_of(&value) {
                    Some(text) => self.insert(key, text, shown.to_string()),
                    None => self.mistakes.push(format!("{shown}: {key}: a table or a date is not expected here")),
                }
            }
        }
    }

    fn describe(&mut self, key: &str, default: &str, help: &'static str) {
        debug_assert!(key.contains('.'), "{key}: keys are section.key");
        if !self.described.iter().any(|d| d.key == key) {
            self.described.push(Described { key: key.to_owned(), default: default.to_owned(), help });
        }
    }

    /// A value that can be parsed from text, or nothing when it is absent or empty.
    pub fn optional<T: FromStr<Err: fmt::Display>>(&mut self, key: &str, help: &'static str) -> Option<T> {
        self.describe(key, "", help);
        self.parse(key, T::from_str)
    }

    /// A value that can be parsed from text. A wrong one is noted, and the default stands in for it.
    ///
    /// # Panics
    /// When the default itself is wrong: a mistake in the program.
    pub fn get<T: FromStr<Err: fmt::Display>>(&mut self, key: &str, default: &str, help: &'static str) -> T {
        self.describe(key, default, help);
        self.parse(key, T::from_str).unwrap_or_else(|| match default.parse() {
            Ok(value) => value,
            Err(error) => panic!("the default of {key} is wrong: {error}"),
        })
    }

    /// A length of time: `250ms`, `10s`, `5m`, `1h`, `30d`.
    ///
    /// # Panics
    /// When the default itself is wrong: a mistake in the program.
    pub fn duration(&mut self, key: &str, default: &str, help: &'static str) -> Duration {
        self.describe(key, default, help);
        self.parse(key, parse_duration)
            .unwrap_or_else(|| parse_duration(default).unwrap_or_else(|e| panic!("the default of {key}: {e}")))
    }

    /// A number of bytes: `512`, `64KiB`, `16MiB`, `2GiB`.
    ///
    /// # Panics
    /// When the default itself is wrong: a mistake in the program.
    pub fn bytes(&mut self, key: &str, default: &str, help: &'static str) -> u64 {
        self.describe(key, default, help);
        self.parse(key, parse_bytes)
            .unwrap_or_else(|| parse_bytes(default).unwrap_or_else(|e| panic!("the default of {key}: {e}")))
    }

    /// A list: an array in the file, or text with commas between the items.
    pub fn list(&mut self, key: &str, default: &str, help: &'static str) -> Vec<String> {
        let text: String = self.get(key, default, help);
        text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect()
    }

    fn parse<T, E: fmt::Display>(&mut self, key: &str, parse: impl FnOnce(&str) -> Result<T, E>) -> Option<T> {
        let value = self.values.get_mut(key)?;
        value.used = true;
        if value.text.is_empty() {
            return None;
        }
        match parse(&value.text) {
            Ok(parsed) => Some(parsed),
            Err(error) => {
                // A value may be a secret, so the message says where it stands and not what it is.
                self.mistakes.push(format!("{key} ({}): {error}", value.origin));
                None
            }
        }
    }

    /// Notes a mistake that takes more than one setting to see.
    pub fn mistake(&mut self, what: impl fmt::Display) {
        self.mistakes.push(what.to_string());
    }

    /// Leaves sections alone that are for other programs: one file can serve them all.
    pub fn tolerate(&mut self, sections: &[&str]) {
        for (key, value) in &mut self.values {
            value.used |= key.split_once('.').is_some_and(|(section, _)| sections.contains(&section));
        }
    }

    /// Whether nothing wrong has been found so far.
    pub fn is_right(&self) -> bool {
        self.mistakes.is_empty()
    }

    /// Everything that was asked for, in order.
    pub fn described(&self) -> &[Described] {
        &self.described
    }

    /// Ends the reading: all mistakes, and all keys that nobody asked for.
    ///
    /// # Errors
    /// When there are any.
    pub fn finish(mut self) -> Result<(), SettingsErrors> {
        let known: BTreeSet<&str> = self.described.iter().map(|d| d.key.as_str()).collect();
        for (key, value) in &self.values {
            if !value.used && !known.contains(key.as_str()) {
                let hint = nearest(key, &known).map(|k| format!("; did you mean `{k}`?")).unwrap_or_default();
                self.mistakes.push(format!("{key} ({}): there is no such setting{hint}", value.origin));
            }
        }
        if self.mistakes.is_empty() { Ok(()) } else { Err(SettingsErrors(self.mistakes)) }
    }
}

/// Sections that there are. A variable of another name is not ours to judge.
const SECTIONS: &[&str] = &["node", "log", "kafka", "agent", "store", "collector", "query", "schedule", "alerts"];

/// `NODESCOPE_KAFKA_BROKERS` → `kafka.brokers`.
fn key_of_variable(name: &str) -> Option<String> {
    let rest = name.strip_prefix("NODESCOPE_")?.to_ascii_lowercase();
    let (section, key) = rest.split_once('_')?;
    SECTIONS.contains(&section).then(|| format!("{section}.{key}"))
}

/// Whether the variable of that key is looked at.
pub fn is_reached_by_variable(key: &str) -> bool {
    key_of_variable(&variable_of_key(key)).as_deref() == Some(key)
}

/// `kafka.brokers` → `NODESCOPE_KAFKA_BROKERS`.
pub fn variable_of_key(key: &str) -> String {
    format!("NODESCOPE_{}", key.replace('.', "_").to_ascii_uppercase())
}

fn text_of(value: &toml::Value) -> Option<String> {
    Some(match value {
        toml::Value::String(text) => text.clone(),
        toml::Value::Integer(number) => number.to_string(),
        toml::Value::Float(number) => number.to_string(),
        toml::Value::Boolean(truth) => truth.to_string(),
        toml::Value::Array(items) => items.iter().map(text_of).collect::<Option<Vec<_>>>()?.join(","),
        toml::Value::Table(_) | toml::Value::Datetime(_) => return None,
    })
}

fn split_number(text: &str) -> Option<(u64, &str)> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    Some((number.parse().ok()?, unit.trim()))
}

/// `250ms`, `10s`, `5m`, `1h`, `30d`.
///
/// # Errors
/// What to write instead.
pub fn parse_duration(text: &str) -> Result<Duration, &'static str> {
    const WRONG: &str = "not a length of time; write a whole number with ms, s, m, h or d, as in 10s";
    let (number, unit) = split_number(text).ok_or(WRONG)?;
    let millis = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(WRONG),
    };
    number.checked_mul(millis).map(Duration::from_millis).ok_or(WRONG)
}

fn parse_bytes(text: &str) -> Result<u64, &'static str> {
    const WRONG: &str = "not a size; write a whole number with KiB, MiB, GiB or TiB, as in 64MiB";
    let (number, unit) = split_number(text).ok_or(WRONG)?;
    let shift = match unit {
        "" | "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        "TiB" => 40,
        _ => return Err(WRONG),
    };
    number.checked_mul(1 << shift).ok_or(WRONG)
}

/// The known key that is at most two letters away.
fn nearest<'a>(key: &str, known: &BTreeSet<&'a str>) -> Option<&'a str> {
    known.iter().map(|k| (distance(key, k), *k)).filter(|(d, _)| *d <= 2).min().map(|(_, k)| k)
}

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut before = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let substituted = before + usize::from(ca != *cb);
            before = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(file: &str, environment: &[(&str, &str)]) -> Settings {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("nodescope.toml");
        std::fs::write(&path, file).unwrap();
        Settings::load(Some(&path), environment.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())))
    }

    #[test]
    fn flags_win_over_environment_over_file_over_default() {
        let mut s = settings(
            "[kafka]\nbrokers = \"file\"\ntopic = \"file\"\nkept = 1",
            &[("NODESCOPE_KAFKA_BROKERS", "environment"), ("NODESCOPE_KAFKA_TOPIC", "environment")],
        );
        s.flag("kafka.brokers", Some("flag"));
        s.flag("kafka.topic", None::<String>);
        assert_eq!(s.get::<String>("kafka.brokers", "default", "."), "flag");
        assert_eq!(s.get::<String>("kafka.topic", "default", "."), "environment");
        assert_eq!(s.get::<u32>("kafka.kept", "7", "."), 1);
        assert_eq!(s.get::<u32>("kafka.other", "7", "."), 7);
        assert_eq!(s.optional::<String>("kafka.absent", "."), None);
        s.finish().unwrap();
    }

    #[test]
    fn units_and_lists_are_read() {
        let mut s = settings("[agent]\na = \"250ms\"\nb = \"2 h\"\nc = \"64MiB\"\nd = 512\ne = [\"x\", \"y\"]", &[]);
        assert_eq!(s.duration("agent.a", "1s", "."), Duration::from_millis(250));
        assert_eq!(s.duration("agent.b", "1s", "."), Duration::from_secs(7_200));
        assert_eq!(s.bytes("agent.c", "1", "."), 64 << 20);
        assert_eq!(s.bytes("agent.d", "1", "."), 512);
        assert_eq!(s.list("agent.e", "", "."), ["x", "y"]);
        s.finish().unwrap();
    }

    #[test]
    fn every_mistake_is_reported_and_no_value_is_repeated() {
        let mut s = settings(
            "stray = 1\n[kafka]\nbroker = \"x\"\nport = \"hunter2\"\n[agent]\nevery = \"soon\"",
            &[("NODESCOPE_AGENT_SIZE", "many"), ("NODESCOPE_TEST_X", "not ours"), ("PATH", "not ours")],
        );
        s.get::<String>("kafka.brokers", "", ".");
        s.get::<u16>("kafka.port", "1", ".");
        s.duration("agent.every", "1s", ".");
        s.bytes("agent.size", "1", ".");
        let errors = s.finish().unwrap_err();
        assert_eq!(errors.0.len(), 5, "{errors}");
        let text = errors.to_string();
        for part in ["stray", "did you mean `kafka.brokers`", "kafka.port", "agent.every", "NODESCOPE_AGENT_SIZE"] {
            assert!(text.contains(part), "`{part}` is not in:\n{text}");
        }
        assert!(!text.contains("hunter2"));
    }

    #[test]
    fn a_file_that_is_not_there_or_not_toml_is_a_mistake() {
        let s = Settings::load(Some(Path::new("/nonexistent/x.toml")), std::iter::empty());
        assert!(s.finish().unwrap_err().to_string().contains("/nonexistent/x.toml"));
        assert!(settings("= [", &[]).finish().is_err());
    }

    #[test]
    fn what_is_not_toml_is_told_by_its_line_and_not_shown() {
        for wrong in ["\"sasl.password=hunter2", "hunter2", "[\"a=hunter2\" \"b\"]", "\"hunter2\" # \n[kafka]"] {
            let text = settings(&format!("[kafka]\n\nproperties = {wrong}\n"), &[]).finish().unwrap_err().to_string();
            assert!(text.contains("is not TOML, line "), "{text}");
            assert!(!text.contains("hunter2"), "{text}");
        }
    }
}
