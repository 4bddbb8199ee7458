//! The source of a dashboard, as a person writes it.
//!
//! ```toml
//! [[row]]
//! title = "CPU"
//!
//! [[row.panel]]
//! title = "CPU used"
//! description = "What it shows. What is normal. What to do when it is not."
//! draw = "lines"                  # lines, stat, table
//! unit = "percentunit"            # Grafana's name of it
//! min_interval_seconds = 5        # no narrower bucket: a rate needs two samples
//! sql = """SELECT … FROM cpu WHERE @here …"""
//! ```
//!
//! `@name` in SQL stands for the text of that name under `[shorthand]`: the same condition in thirty queries is
//! written once.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;

/// One dashboard.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dashboard {
    /// Its address in Grafana.
    pub uid: String,
    /// Its name.
    pub title: String,
    /// What it is for.
    pub description: String,
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

/// A choice at the top of a dashboard: one value out of what a query answers.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Variable {
    /// `$name` in SQL.
    pub name: String,
    /// What the user sees.
    pub label: String,
    /// What the choice means.
    pub description: String,
    /// The query, of one column.
    pub sql: String,
}

/// Panels under one heading.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// The heading.
    pub title: String,
    /// The panels, from the left, wrapped at the screen's width.
    #[serde(rename = "panel")]
    pub panels: Vec<Panel>,
}

/// One picture, and the query behind it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Panel {
    /// Its heading.
    pub title: String,
    /// What it shows, what is normal, what to do when it is not.
    pub description: String,
    /// How it is drawn.
    pub draw: Draw,
    /// Grafana's name of the unit. Tables give units by column instead.
    #[serde(default)]
    pub unit: String,
    /// Units of single columns, by their names in the answer.
    #[serde(default)]
    pub units: BTreeMap<String, String>,
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
            Draw::Lines | Draw::Stat => Format::TimeSeries,
            Draw::Table => Format::Table,
        }
    }

    /// The bucket Grafana asks for, where the width of the screen would allow `interval`.
    pub fn interval(&self, interval: Duration) -> Duration {
        interval.max(Duration::from_secs(self.min_interval_seconds))
    }
}

impl Dashboard {
    /// Reads a source, and replaces shorthand.
    ///
    /// # Errors
    /// When the text is not TOML of this form. Where in it, is part of the error.
    pub fn parse(text: &str) -> Result<Self, toml::de::Error> {
        let mut dashboard: Self = toml::from_str(text)?;
        for panel in dashboard.rows.iter_mut().flat_map(|row| &mut row.panels) {
            panel.sql = written_out(&panel.sql, &dashboard.shorthand);
        }
        for variable in &mut dashboard.variables {
            variable.sql = written_out(&variable.sql, &dashboard.shorthand);
        }
        Ok(dashboard)
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
        uid = "x"
        title = "X"
        description = "For tests."
        tags = []
        refresh = "10s"
        from = "now-5m"
        [shorthand]
        here = "host = ${host:sqlstring}"
        here_too = "1 = 1"
        [[row]]
        title = "R"
        [[row.panel]]
        title = "P"
        description = "Of no use."
        draw = "lines"
        min_interval_seconds = 5
        sql = """
        SELECT 1 WHERE @here AND @here_too
        """
    "#;

    #[test]
    fn shorthand_is_written_out() {
        let dashboard = Dashboard::parse(SOURCE).unwrap();
        let panel = &dashboard.rows[0].panels[0];
        assert_eq!(panel.sql, "SELECT 1 WHERE host = ${host:sqlstring} AND 1 = 1");
        assert_eq!((panel.width, panel.height), (12, 8));
        assert_eq!(panel.format(), Format::TimeSeries);
    }

    #[test]
    fn a_panel_asks_for_no_narrower_bucket_than_makes_sense() {
        let panel = &Dashboard::parse(SOURCE).unwrap().rows[0].panels[0];
        assert_eq!(panel.interval(Duration::from_millis(200)), Duration::from_secs(5));
        assert_eq!(panel.interval(Duration::from_secs(60)), Duration::from_secs(60));
    }

    #[test]
    fn a_key_nobody_knows_is_a_mistake() {
        assert!(Dashboard::parse(&SOURCE.replace("draw =", "colour = 1\ndraw =")).is_err());
        assert!(Dashboard::parse(&SOURCE.replace("\"lines\"", "\"pie\"")).is_err());
    }
}
