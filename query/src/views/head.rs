//! The head of a view's file: what it answers, in TOML, in the first comment.

use std::collections::BTreeMap;

use serde::Deserialize;
use toml::Spanned;

/// A file taken apart.
#[derive(Debug, Clone)]
pub(crate) struct Definition {
    pub name: String,
    pub head: Head,
    pub sql: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Head {
    pub title: String,
    pub question: String,
    #[serde(default)]
    pub answer: String,
    #[serde(default)]
    pub freshness: String,
    #[serde(default)]
    parameters: BTreeMap<String, Spanned<Parameter>>,
    #[serde(default)]
    pub columns: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Parameter {
    /// `int`, `float`, `text`, `bool` or `timestamp`; that of the value where it is left out.
    #[serde(rename = "type")]
    pub data_type: Option<String>,
    pub value: Option<toml::Value>,
    pub help: String,
    #[serde(default)]
    pub unit: Option<String>,
}

impl Head {
    /// The parameters in the order of the file.
    pub(crate) fn parameters(&self) -> Vec<(&str, &Parameter)> {
        let mut sorted: Vec<_> = self.parameters.iter().collect();
        sorted.sort_by_key(|(_, parameter)| parameter.span().start);
        sorted.into_iter().map(|(name, parameter)| (name.as_str(), parameter.get_ref())).collect()
    }
}

/// Takes a file apart.
pub(crate) fn parse(name: &str, text: &str) -> Result<Definition, String> {
    let rest = text.trim_start().strip_prefix("/*").ok_or("begins with no comment that holds its head")?;
    let (head, sql) = rest.split_once("*/").ok_or("the comment with its head has no end")?;
    let head: Head = toml::from_str(head).map_err(|e| format!("head: {}", e.to_string().trim_end()))?;
    Ok(Definition { name: name.to_owned(), head, sql: sql.trim().trim_end_matches(';').to_owned() })
}
