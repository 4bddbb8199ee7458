//! The registry as files that can be imported again.
//!
//! What stands at a moment is written with the `valid_from` it has; a history is written whole, revocations among it.
//! Importing a history into an empty registry makes one that says the same at all times. What stands at a moment does
//! too, for that moment, unless it names a node that did not stand then: such a file is refused where the node is
//! unknown.

use serde_json::{Map, Value as Json};

use crate::RegistryError;
use crate::entries::{Known, Registry};
use crate::kinds::{Field, Kind, Kinds, Role};
use crate::value::Value;

/// What is taken out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// What stands at that time.
    At(i64),
    /// Every entry that was not corrected.
    History,
}

/// Entries of a kind: key, `valid_from`, `valid_to`, and what they say.
pub fn entries(registry: &Registry, kind: usize, what: What) -> Vec<(&[String], i64, Option<i64>, &Known)> {
    let histories = registry.of(kind);
    match what {
        What::At(time) => {
            histories.standing(time).map(|(key, (from, to), known)| (key.as_slice(), from, to, known)).collect()
        }
        What::History => histories
            .iter()
            .flat_map(|(key, history)| {
                let ends = history.keys().skip(1).copied().map(Some).chain([None]);
                history.iter().zip(ends).map(|((from, known), to)| (key.as_slice(), *from, to, known))
            })
            .collect(),
    }
}

/// Fields that a file of that content has.
fn fields(kind: &Kind, what: What) -> impl Iterator<Item = &Field> {
    kind.fields.iter().filter(move |field| what == What::History || field.role != Role::Revoked)
}

fn value(field: &Field, key: &[String], from: i64, known: &Known) -> Value {
    match field.role {
        Role::Key(at) => match key[at].as_str() {
            "" => Value::Null,
            text => Value::Text(text.to_owned()),
        },
        Role::ValidFrom => Value::Time(from),
        Role::Revoked if known.revoked => Value::Bool(true),
        Role::Revoked => Value::Null,
        Role::Value(_) if known.revoked => Value::Null,
        Role::Value(at) => known.values[at].clone(),
    }
}

/// One kind as CSV, with a header.
///
/// # Errors
/// Short of memory, none.
pub fn csv(kinds: &Kinds, registry: &Registry, kind: usize, what: What) -> Result<String, RegistryError> {
    let of = &kinds.all()[kind];
    let failed = |source: Box<dyn std::error::Error + Send + Sync>| RegistryError::Form { form: "CSV", source };
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(fields(of, what).map(|field| field.name.as_str())).map_err(|e| failed(e.into()))?;
    for (key, from, _, known) in entries(registry, kind, what) {
        let row = fields(of, what).map(|field| value(field, key, from, known).to_string());
        writer.write_record(row).map_err(|e| failed(e.into()))?;
    }
    let bytes = writer.into_inner().map_err(|e| failed(e.to_string().into()))?;
    String::from_utf8(bytes).map_err(|e| failed(e.into()))
}

/// One kind as an array of objects, or all as an object of such arrays. What is nothing is left out.
///
/// # Errors
/// Short of memory, none.
pub fn json(kinds: &Kinds, registry: &Registry, kind: Option<usize>, what: What) -> Result<String, RegistryError> {
    let array = |at: usize| {
        let of = &kinds.all()[at];
        let rows = entries(registry, at, what).into_iter().map(|(key, from, _, known)| {
            let cells = fields(of, what).map(|field| (field.name.clone(), value(field, key, from, known).to_json()));
            Json::Object(cells.filter(|(_, value)| !value.is_null()).collect::<Map<_, _>>())
        });
        Json::Array(rows.collect())
    };
    let whole = match kind {
        Some(kind) => array(kind),
        None => {
            let all = kinds.all().iter().enumerate().map(|(at, kind)| (kind.name.to_owned(), array(at)));
            Json::Object(all.collect())
        }
    };
    let mut text = serde_json::to_string_pretty(&whole)
        .map_err(|source| RegistryError::Form { form: "JSON", source: Box::new(source) })?;
    text.push('\n');
    Ok(text)
}
