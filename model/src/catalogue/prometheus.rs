//! The Prometheus name of a column: `node_cpu_seconds_total{mode="user"}`.

/// A metric name with labels that are always the same for this column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrometheusName {
    /// Metric name.
    pub name: String,
    /// Fixed labels, in the order written.
    pub labels: Vec<(String, String)>,
}

impl PrometheusName {
    /// Parses `name` or `name{label="value",…}`. Values may not contain quotes or backslashes: these are names
    /// that we write, not data.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not of the form name{{label=\"value\"}}");
        let (name, rest) = match text.split_once('{') {
            Some((name, rest)) => (name, Some(rest.strip_suffix('}').ok_or_else(wrong)?)),
            None => (text, None),
        };
        if !is_metric_name(name) {
            return Err(format!("`{name}` is not a Prometheus metric name"));
        }
        let mut labels = Vec::new();
        for pair in rest.into_iter().flat_map(|r| r.split(',')).filter(|p| !p.is_empty()) {
            let (label, value) = pair.split_once('=').ok_or_else(wrong)?;
            let value = value.strip_prefix('"').and_then(|v| v.strip_suffix('"')).ok_or_else(wrong)?;
            if !is_label_name(label) || value.contains(['"', '\\', '\n']) {
                return Err(wrong());
            }
            labels.push((label.to_owned(), value.to_owned()));
        }
        Ok(Self { name: name.to_owned(), labels })
    }
}

fn is_metric_name(name: &str) -> bool {
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
    fn what_is_not_a_name_is_refused() {
        for text in ["", "1x", "a b", "a{", "a{b}", "a{b=c}", "a{b=\"c}", "a{1=\"c\"}"] {
            assert!(PrometheusName::parse(text).is_err(), "{text}");
        }
    }
}
