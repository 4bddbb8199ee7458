//! Dashboards as code.
//!
//! A dashboard is written by hand as TOML (`host.toml`): what each panel shows, why anybody should look at it, in
//! which unit, and the SQL that fetches it. Grafana's own JSON, several times as long and full of what never differs
//! from panel to panel, is made from that ([`grafana_json`]) and kept beside it, so that Grafana needs no build step.
//! A test fails when the two have come apart.
//!
//! Tests also run every query. They can, because [`Window::expand`] replaces macros and variables as Grafana does.

mod grafana;
mod macros;
mod source;

pub use grafana::grafana_json;
pub use macros::{MacroError, Window};
pub use source::{Dashboard, Draw, Format, Panel, Row, Threshold, Variable};

/// The source of the dashboard *Host*.
const HOST: &str = include_str!("../host.toml");

/// The dashboard *Host*.
///
/// # Panics
/// Never in a released build: a test reads the source.
pub fn host() -> Dashboard {
    Dashboard::parse(HOST).expect("host.toml is tested")
}

/// Every panel of every dashboard, in the order in which they are seen.
pub fn panels() -> Vec<Panel> {
    host().rows.into_iter().flat_map(|row| row.panels).collect()
}
