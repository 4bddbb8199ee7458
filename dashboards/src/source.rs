//! The source of a dashboard, as a person writes it.
//!
//! ```toml
//! [[row]]
//! title = { en = "CPU", zh = "处理器" }
//!
//! [[row.panel]]
//! title = { en = "CPU used", zh = "处理器使用率" }
//! description = { en = "What it shows. What is normal. What to do when it is not.", zh = "…" }
//! draw = "lines"                  # lines, stat, table, bars, timeline
//! unit = "percentunit"            # Grafana's name of it
//! min_interval_seconds = 5        # no narrower bucket: a rate needs two samples
//! sql = """SELECT … FROM cpu WHERE @here …"""
//! ```
//!
//! Every text that people read is there in both languages; the SQL is the same. Columns of a table get names with
//! `[row.panel.names]`, and lead to another dashboard with `[row.panel.links]`:
//!
//! ```toml
//! names = { host = { en = "Host", zh = "主机" } }
//! links = { host = { to = "host", pass = { node = "node", host = "host" } } }   # variable there = column here
//! ```
//!
//! `@name` in SQL stands for the text of that name under `[shorthand]`: the same condition in thirty queries is
//! written once.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;

/// A text in both languages.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Text {
    /// English.
    pub en: String,
    /// Chinese, as it is written in China.
    pub zh: String,
}

/// What a reader reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    /// English.
    English,
    /// Chinese.
    Chinese,
}

impl Language {
    /// Both.
    pub const ALL: [Self; 2] = [Self::English, Self::Chinese];

    /// Name of its folder below `grafana/`, and the tag of its dashboards.
    pub fn code(self) -> &'static str {
        match self {
            Self::English => "en",
            Self::Chinese => "zh",
        }
    }
}

impl Text {
    /// In that language.
    pub fn of(&self, language: Language) -> &str {
        match language {
            Language::English => &self.en,
            Language::Chinese => &self.zh,
        }
    }
}

/// One dashboard.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dashboard {
    /// Its name in files, links and addresses.
    pub name: String,
    /// Its name for people.
    pub title: Text,
    /// What it is for.
    pub description: Text,
    /// Words it is found by.
    pub tags: Vec<String>,
    /// How often Grafana asks again, as Grafana writes it.
    pub refresh: String,
    /// Where the time range begins, as Grafana writes it.
    pub from: String,
    /// Texts that `@name` stands for.
    #[serde(default)]
    shorthand: BTreeMap<String, String>,
    /// What the user chooses at the top.
    #[serde(default, rename = "variable")]
    pub variables: Vec<Variable>,
    /// The rows, from the top.
    #[serde(rename = "row")]
    pub rows: Vec<Row>,
}

/// A choice at the top of a dashboard: one value, or several, out of what a query answers.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Variable {
    /// `$name` in SQL.
    pub name: String,
    /// What the user sees.
    pub label: Text,
    /// What the choice means.
    pub description: Text,
    /// Whether several may be chosen, and all of them are to begin with. SQL then says `IN (${name:sqlstring})`.
    #[serde(default)]
    pub several: bool,
    /// The query, of one column.
    pub sql: String,
}

/// Panels under one heading.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// The heading.
    pub title: Text,
    /// The panels, from the left, wrapped at the screen's width.
    #[serde(rename = "panel")]
    pub panels: Vec<Panel>,
}

/// One picture, and the query behind it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Panel {
    /// Its heading.
    pub title: Text,
    /// What it shows, what is normal, what to do when it is not.
    pub description: Text,
    /// How it is drawn.
    pub draw: Draw,
    /// Grafana's name of the unit. Tables give units by column instead.
    #[serde(default)]
    pub unit: String,
    /// Units of single columns, by their names in the answer.
    #[serde(default)]
    pub units: BTreeMap<String, String>,
    /// What columns of the answer are called.
    #[serde(default)]
    pub names: BTreeMap<String, Text>,
    /// Where cells of a column lead.
    #[serde(default)]
    pub links: BTreeMap<String, Link>,
    /// Width, of the screen's 24.
    #[serde(default = "half")]
    pub width: u32,
    /// Height, in Grafana's steps.
    #[serde(default = "eight")]
    pub height: u32,
    /// The narrowest bucket that makes sense for the table's cadence, seconds.
    #[serde(default = "one")]
    pub min_interval_seconds: u64,
    /// Whether the series add up to something.
    #[serde(default)]
    pub stacked: bool,
    /// Lower end of the axis.
    pub min: Option<f64>,
    /// Upper end of the axis.
    pub max: Option<f64>,
    /// From which values on another colour tells that something is wrong.
    #[serde(default)]
    pub thresholds: Vec<Threshold>,
    /// `table` or `table.column`: without rows there, or values, there is nothing to see, because not every machine
    /// has what the panel is about.
    pub needs: Option<String>,
    /// Whether nothing to see is good news: a list of what is wrong.
    #[serde(default)]
    pub empty_is_well: bool,
    /// The query, with Grafana's macros and variables in it. Shorthand is already replaced.
    pub sql: String,
}

/// How a panel is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Draw {
    /// Lines over time.
    Lines,
    /// The newest value as a number, with the way it came as a shade behind it.
    Stat,
    /// Rows and columns.
    Table,
    /// A bar for each row: the first column of text names it, the columns of numbers are its length.
    Bars,
    /// A band for each series, coloured by its value: what many did over a time, at one look.
    Timeline,
}

/// Where a cell leads: to a dashboard of ours, with some of its row's values chosen there.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Link {
    /// Name of the dashboard.
    pub to: String,
    /// Variable there, and the column here whose value it gets.
    pub pass: BTreeMap<String, String>,
}

/// What Grafana does with the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A column `time`, columns of text that name a series, columns of numbers.
    TimeSeries,
    /// As it is.
    Table,
}

impl Format {
    /// Grafana's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TimeSeries => "time_series",
            Self::Table => "table",
        }
    }
}

/// From `at` on, `colour`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Threshold {
    /// The value, in the panel's unit.
    pub at: f64,
    /// Grafana's name of a colour.
    pub colour: String,
}

impl Panel {
    /// What Grafana does with the answer.
    pub fn format(&self) -> Format {
        match self.draw {
            Draw::Lines | Draw::Stat | Draw::Timeline => Format::TimeSeries,
            Draw::Table | Draw::Bars => Format::Table,
        }
    }

    /// The bucket Grafana asks for, where the width of the screen would allow `interval`.
    pub fn interval(&self, interval: Duration) -> Duration {
        interval.max(Duration::from_secs(self.min_interval_seconds))
    }
}

impl Dashboard {
    /// Reads a source, replaces shorthand, and calls columns as `words` do.
    ///
    /// # Errors
    /// When the text is not TOML of this form. Where in it, is part of the error.
    pub fn parse(text: &str, words: &Words) -> Result<Self, toml::de::Error> {
        let mut dashboard: Self = toml::from_str(text)?;
        for panel in dashboard.rows.iter_mut().flat_map(|row| &mut row.panels) {
            panel.sql = written_out(&panel.sql, &dashboard.shorthand);
            if panel.format() == Format::Table {
                words.name(panel);
            }
        }
        for variable in &mut dashboard.variables {
            variable.sql = written_out(&variable.sql, &dashboard.shorthand);
        }
        Ok(dashboard)
    }
}

/// What columns are called in tables of all dashboards, and their units: `sources/words.toml`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(transparent)]
pub struct Words(BTreeMap<String, Word>);

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Word {
    en: String,
    zh: String,
    #[serde(default)]
    unit: String,
}

impl Words {
    /// Reads them.
    ///
    /// # Errors
    /// When the text is not TOML of this form.
    pub fn parse(text: &str) -> Result<Self, toml::de::Error> {
        toml::from_str(text)
    }

    /// Names the columns that a panel's query mentions, where the panel does not do so itself.
    fn name(&self, panel: &mut Panel) {
        // What stands in quotes is a name that the panel gives itself, or a text.
        let bare: String = panel.sql.split(['"', '\'']).step_by(2).collect::<Vec<_>>().join(" ");
        for mentioned in bare.split(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
            let Some(word) = self.0.get(mentioned) else { continue };
            let text = Text { en: word.en.clone(), zh: word.zh.clone() };
            panel.names.entry(mentioned.to_owned()).or_insert(text);
            if !word.unit.is_empty() {
                panel.units.entry(mentioned.to_owned()).or_insert_with(|| word.unit.clone());
            }
        }
    }
}

/// Replaces every `@name`, longest names first, so that `@here` does not spoil `@here_and_now`.
fn written_out(sql: &str, shorthand: &BTreeMap<String, String>) -> String {
    let mut names: Vec<_> = shorthand.iter().collect();
    names.sort_by_key(|(name, _)| std::cmp::Reverse(name.len()));
    names.iter().fold(sql.trim().to_owned(), |sql, (name, text)| sql.replace(&format!("@{name}"), text))
}

fn half() -> u32 {
    12
}

fn eight() -> u32 {
    8
}

fn one() -> u64 {
    1
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = r#"
        name = "x"
        title = { en = "X", zh = "某" }
        description = { en = "For tests.", zh = "测试用。" }
        tags = []
        refresh = "10s"
        from = "now-5m"
        [shorthand]
        here = "host = ${host:sqlstring}"
        here_too = "1 = 1"
        [[row]]
        title = { en = "R", zh = "行" }
        [[row.panel]]
        title = { en = "P", zh = "图" }
        description = { en = "Of no use.", zh = "无用。" }
        draw = "lines"
        min_interval_seconds = 5
        sql = """
        SELECT 1 WHERE @here AND @here_too
        """
    "#;

    #[test]
    fn shorthand_is_written_out() {
        let dashboard = Dashboard::parse(SOURCE, &Words::default()).unwrap();
        let panel = &dashboard.rows[0].panels[0];
        assert_eq!(panel.sql, "SELECT 1 WHERE host = ${host:sqlstring} AND 1 = 1");
        assert_eq!((panel.width, panel.height), (12, 8));
        assert_eq!(panel.format(), Format::TimeSeries);
    }

    #[test]
    fn columns_of_tables_are_called_as_everywhere_else_if_not_said_otherwise() {
        let words = r#"
            host = { en = "Host", zh = "主机" }
            age_seconds = { en = "Age", zh = "时长", unit = "s" }
            rack = { en = "Rack", zh = "机架" }
        "#;
        let source = SOURCE
            .replace("draw = \"lines\"", "draw = \"table\"\nnames = { host = { en = \"Server\", zh = \"服务器\" } }")
            .replace("SELECT 1", "SELECT host, age_seconds");
        let panel = &Dashboard::parse(&source, &Words::parse(words).unwrap()).unwrap().rows[0].panels[0];
        assert_eq!(panel.names["host"].en, "Server");
        assert_eq!(panel.names["age_seconds"].zh, "时长");
        assert_eq!(panel.units["age_seconds"], "s");
        assert!(!panel.names.contains_key("rack"));
    }

    #[test]
    fn a_panel_asks_for_no_narrower_bucket_than_makes_sense() {
        let panel = &Dashboard::parse(SOURCE, &Words::default()).unwrap().rows[0].panels[0];
        assert_eq!(panel.interval(Duration::from_millis(200)), Duration::from_secs(5));
        assert_eq!(panel.interval(Duration::from_secs(60)), Duration::from_secs(60));
    }

    #[test]
    fn a_key_nobody_knows_is_a_mistake() {
        assert!(Dashboard::parse(&SOURCE.replace("draw =", "colour = 1\ndraw ="), &Words::default()).is_err());
        assert!(Dashboard::parse(&SOURCE.replace("\"lines\"", "\"pie\""), &Words::default()).is_err());
    }
}
