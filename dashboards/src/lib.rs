//! Dashboards as code.
//!
//! A dashboard is written by hand as TOML (`sources/*.toml`): what each panel shows, why anybody should look at it, in
//! which unit, in English and in Chinese, and the SQL that fetches it. Grafana's own JSON, several times as long and full
//! of what never differs from panel to panel, is made from that ([`grafana_json`]), once for each language, and kept in
//! `grafana/`, so that Grafana needs no build step. A test fails when the two have come apart.
//!
//! Tests also run every query. They can, because [`Window::expand`] replaces macros and variables as Grafana does.

mod grafana;
mod macros;
mod source;

pub use grafana::{grafana_json, uid};
pub use macros::{MacroError, Window};
pub use source::{Dashboard, Draw, Format, Language, Link, Panel, Row, Text, Threshold, Variable, Words};

macro_rules! sources {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("../sources/", $name, ".toml")))),*]
    };
}

/// The sources, from the whole to its parts.
const SOURCES: &[(&str, &str)] = sources![
    "nation",
    "node",
    "host",
    "accelerator",
    "capacity",
    "network",
    "availability",
    "energy",
    "security",
    "pipeline",
];

/// All dashboards, from the whole to its parts.
///
/// # Panics
/// Never in a released build: a test reads the sources.
pub fn all() -> Vec<Dashboard> {
    let words = Words::parse(include_str!("../sources/words.toml")).expect("sources/words.toml is tested");
    let parsed = SOURCES.iter().map(|(name, text)| match Dashboard::parse(text, &words) {
        Ok(dashboard) => dashboard,
        Err(error) => panic!("sources/{name}.toml: {error}"),
    });
    parsed.collect()
}
