//! The Prometheus name of a column: `node_cpu_seconds_total{mode="user"}`.
//!
//! Behind the name there may be labels, and what stands behind the equals sign says where a label's value comes from:
//!
//! - `mode="user"`: this text. The empty text takes away a label that the table gives to all its metrics.
//! - `core=core_id`: the column `core_id` of the same row.
//! - `device=key`: the name of an entry, where the column is a map, or of a state, where it has `prometheus_states`.

/// The word that stands for an entry's name, or a state's.
const KEY: &str = "key";

/// A metric name with the labels that it has beside those of its table.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PrometheusName {
    /// Metric name.
    pub name: String,
    /// Labels that are always the same for this column, in the order written.
    pub labels: Vec<(String, String)>,
    /// Labels and the columns that they come from.
    pub columns: Vec<(String, String)>,
    /// The label that names the entry of a map, or the state.
    pub key: Option<String>,
}

impl PrometheusName {
    /// Parses `name` or `name{label="value",label=column,…}`. Values may not contain quotes, backslashes or commas:
    /// these are names that we write, not data.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not of the form name{{label=\"value\",label=column}}");
        let (name, rest) = match text.split_once('{') {
            Some((name, rest)) => (name, Some(rest.strip_suffix('}').ok_or_else(wrong)?)),
            None => (text, None),
        };
        if !is_metric_name(name) {
            return Err(format!("`{name}` is not a Prometheus metric name"));
        }
        let mut parsed = Self { name: name.to_owned(), ..Self::default() };
        for pair in rest.into_iter().flat_map(|r| r.split(',')).filter(|p| !p.is_empty()) {
            let (label, value) = pair.split_once('=').ok_or_else(wrong)?;
            if !is_label_name(label) || parsed.has(label) {
                return Err(wrong());
            }
            let label = label.to_owned();
            if let Some(quoted) = value.strip_prefix('"') {
                let value = quoted.strip_suffix('"').filter(|v| !v.contains(['"', '\\', '\n'])).ok_or_else(wrong)?;
                parsed.labels.push((label, value.to_owned()));
            } else if value == KEY && parsed.key.is_none() {
                parsed.key = Some(label);
            } else if is_label_name(value) && value != KEY {
                parsed.columns.push((label, value.to_owned()));
            } else {
                return Err(wrong());
            }
        }
        Ok(parsed)
    }

    fn has(&self, label: &str) -> bool {
        self.labels.iter().chain(&self.columns).any(|(l, _)| l == label) || self.key.as_deref() == Some(label)
    }
}

/// As in the catalogue's files.
impl std::fmt::Display for PrometheusName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let fixed = self.labels.iter().map(|(label, value)| format!("{label}=\"{value}\""));
        let columns = self.columns.iter().map(|(label, column)| format!("{label}={column}"));
        let key = self.key.iter().map(|label| format!("{label}={KEY}"));
        let labels: Vec<_> = fixed.chain(columns).chain(key).collect();
        if labels.is_empty() { f.write_str(&self.name) } else { write!(f, "{}{{{}}}", self.name, labels.join(",")) }
    }
}

/// A metric that tells in its labels what something is, and is always 1: `node_uname_info{release="6.1"} 1`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrometheusInfo {
    /// Metric name.
    pub name: String,
    /// One sentence; the table's comment where it is empty.
    pub help: String,
    /// Labels and where their values come from.
    pub labels: std::collections::BTreeMap<String, InfoLabel>,
}

/// Where the value of an info metric's label comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InfoLabel {
    /// This column.
    Column(String),
    /// It is always this text.
    Text(String),
}

impl InfoLabel {
    /// A column's name, or `=` and a text.
    pub(super) fn parse(text: &str) -> Self {
        match text.strip_prefix('=') {
            Some(text) => Self::Text(text.to_owned()),
            None => Self::Column(text.to_owned()),
        }
    }
}

pub(super) fn is_metric_name(name: &str) -> bool {
    is_name(name, |c| c == ':')
}

pub(super) fn is_label_name(name: &str) -> bool {
    is_name(name, |_| false)
}

fn is_name(name: &str, also: impl Fn(char) -> bool) -> bool {
    let mut chars = name.chars();
    chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_' || also(c))
        && chars.all(|c| c.is_ascii_alphanumeric() || c == '_' || also(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_carry_fixed_labels() {
        let name = PrometheusName::parse(r#"node_cpu_seconds_total{mode="user"}"#).unwrap();
        assert_eq!(name.name, "node_cpu_seconds_total");
        assert_eq!(name.labels, [("mode".to_owned(), "user".to_owned())]);
        assert!(PrometheusName::parse("node_load1").unwrap().labels.is_empty());
    }

    #[test]
    fn a_label_may_come_from_a_column_or_an_entry() {
        let text = r#"node_arp_entries{cpu="",core=core_id,device=key}"#;
        let name = PrometheusName::parse(text).unwrap();
        assert_eq!(name.labels, [("cpu".to_owned(), String::new())]);
        assert_eq!(name.columns, [("core".to_owned(), "core_id".to_owned())]);
        assert_eq!(name.key.as_deref(), Some("device"));
        assert_eq!(name.to_string(), text);
        assert_eq!(InfoLabel::parse("kernel"), InfoLabel::Column("kernel".to_owned()));
        assert_eq!(InfoLabel::parse("=Linux"), InfoLabel::Text("Linux".to_owned()));
    }

    #[test]
    fn what_is_not_a_name_is_refused() {
        for text in [
            "",
            "1x",
            "a b",
            "a{",
            "a{b}",
            "a{b=}",
            "a{b=1c}",
            "a{b=\"c}",
            "a{1=\"c\"}",
            "a{b=\"c\",b=d}",
            "a{b=key,c=key}",
        ] {
            assert!(PrometheusName::parse(text).is_err(), "{text}");
        }
    }
}
