//! One value of a field, read from a file's cell and written into one.
//!
//! An empty cell, an empty text and JSON's `null` are one and the same: nothing. Codes and names are texts, also where
//! they look like numbers (`0310101` is not 310101), so JSON must quote them. A time says its zone, because a registry
//! outlives the machine it was written on.

use std::fmt;

use chrono::{DateTime, SecondsFormat, Utc};
use nodescope_model::catalogue::ColumnType;
use serde_json::Value as Json;

use crate::kinds::Field;

/// Longest text of one cell, in bytes.
const MAX_TEXT: usize = 4_096;

/// Times before this, in microseconds: 2200-01-01, as the store takes them.
pub(crate) const MAX_TIME: i64 = 7_258_118_400_000_000;

/// A value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Nothing.
    Null,
    /// A whole number.
    Int(i64),
    /// A number; neither infinite nor "not a number".
    Float(f64),
    /// A text; never empty.
    Text(String),
    /// Yes or no.
    Bool(bool),
    /// Microseconds since 1970, UTC.
    Time(i64),
}

/// A cell of a file.
#[derive(Debug, Clone, PartialEq)]
pub enum Cell {
    /// Of a CSV file.
    Text(String),
    /// Of a JSON file.
    Json(Json),
}

impl Value {
    /// Whether it is nothing.
    pub fn is_null(&self) -> bool {
        *self == Self::Null
    }

    /// The text, if it is one.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The time, if it is one.
    pub fn as_time(&self) -> Option<i64> {
        match self {
            Self::Time(time) => Some(*time),
            _ => None,
        }
    }

    /// Reads a cell.
    ///
    /// # Errors
    /// What is wrong with it, to stand after the field's name.
    pub fn read(cell: &Cell, field: &Field) -> Result<Self, String> {
        let value = match cell {
            Cell::Text(text) => from_text(text, field.column_type)?,
            Cell::Json(json) => from_json(json, field.column_type)?,
        };
        match &value {
            Self::Text(word) if !field.words.is_empty() && !field.words.contains(&word.as_str()) => {
                let meant = crate::kinds::nearest(word, field.words.iter().copied());
                let hint = meant.map(|word| format!("; did you mean `{word}`?")).unwrap_or_default();
                Err(format!("`{word}` is none of {}{hint}", field.words.join(", ")))
            }
            #[allow(clippy::cast_precision_loss, reason = "it is compared with 0 and 1")]
            Self::Int(_) | Self::Float(_) => {
                let number = if let Self::Int(number) = value { number as f64 } else { value.as_float() };
                match field.range {
                    Some((least, most)) if number < least || number > most => Err(if most == 1.0 {
                        format!("{value} is not between 0 and 1")
                    } else {
                        format!("{value} is less than 0")
                    }),
                    _ => Ok(value),
                }
            }
            _ => Ok(value),
        }
    }

    fn as_float(&self) -> f64 {
        if let Self::Float(number) = self { *number } else { 0.0 }
    }

    /// As JSON.
    pub fn to_json(&self) -> Json {
        match self {
            Self::Null => Json::Null,
            Self::Int(number) => Json::from(*number),
            Self::Float(number) => Json::from(*number),
            Self::Text(text) => Json::from(text.as_str()),
            Self::Bool(yes) => Json::from(*yes),
            Self::Time(_) => Json::from(self.to_string()),
        }
    }
}

/// As it stands in a CSV file.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => Ok(()),
            Self::Int(number) => write!(f, "{number}"),
            Self::Float(number) => write!(f, "{number}"),
            Self::Text(text) => f.write_str(text),
            Self::Bool(yes) => write!(f, "{yes}"),
            Self::Time(micros) => f.write_str(&show_time(*micros)),
        }
    }
}

fn from_text(text: &str, column_type: ColumnType) -> Result<Value, String> {
    if text.is_empty() {
        return Ok(Value::Null);
    }
    if column_type == ColumnType::Text {
        return a_text(text);
    }
    let text = text.trim();
    match column_type {
        ColumnType::Int => text.parse().map(Value::Int).map_err(|_| format!("`{text}` is not a whole number")),
        ColumnType::Float => match text.parse() {
            Ok(number) if f64::is_finite(number) => Ok(Value::Float(number)),
            _ => Err(format!("`{text}` is not a number")),
        },
        ColumnType::Bool => text.parse().map(Value::Bool).map_err(|_| format!("`{text}` is neither true nor false")),
        ColumnType::Timestamp => parse_time(text).map(Value::Time),
        _ => Err("a file cannot hold values of this type".to_owned()),
    }
}

#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "what is lost is looked for")]
fn from_json(json: &Json, column_type: ColumnType) -> Result<Value, String> {
    let wanted = match (json, column_type) {
        (Json::Null, _) => return Ok(Value::Null),
        (Json::String(text), ColumnType::Text | ColumnType::Timestamp) => return from_text(text, column_type),
        (Json::Bool(yes), ColumnType::Bool) => return Ok(Value::Bool(*yes)),
        (Json::Number(number), ColumnType::Int) => {
            let whole = number.as_i64().or_else(|| {
                // 8.0 is eight. Beyond 2^53 a float no longer says which number is meant.
                let float = number.as_f64().filter(|f| f.fract() == 0.0 && f.abs() < 9_007_199_254_740_992.0)?;
                Some(float as i64)
            });
            return whole.map(Value::Int).ok_or_else(|| format!("{number} is not a whole number"));
        }
        (Json::Number(number), ColumnType::Float) => {
            let float = number.as_f64().filter(|f| f.is_finite());
            return float.map(Value::Float).ok_or_else(|| format!("{number} is not a number"));
        }
        (_, ColumnType::Int) => "a whole number, without quotes",
        (_, ColumnType::Float) => "a number, without quotes",
        (_, ColumnType::Bool) => "true or false, without quotes",
        (_, ColumnType::Timestamp) => "a time in quotes, as in \"2026-01-01T00:00:00+08:00\"",
        (Json::Number(_), _) => "a text: write it in quotes, codes and names are no numbers",
        _ => "a text in quotes",
    };
    let found: String = json.to_string().chars().take(40).collect();
    Err(format!("{found} is not {wanted}"))
}

fn a_text(text: &str) -> Result<Value, String> {
    let shown = || text.chars().take(40).collect::<String>();
    if text.trim() != text {
        return Err(format!("`{}` begins or ends with white space", shown()));
    }
    if text.len() > MAX_TEXT {
        return Err(format!("`{}…` is longer than {MAX_TEXT} bytes", shown()));
    }
    if text.chars().any(|c| c.is_control() && c != '\n' && c != '\t') {
        return Err(format!("{:?} holds a control character", shown()));
    }
    Ok(Value::Text(text.to_owned()))
}

/// Reads a point in time with its zone: microseconds since 1970.
///
/// # Errors
/// What is wrong with it.
pub fn parse_time(text: &str) -> Result<i64, String> {
    let read = DateTime::parse_from_rfc3339(text)
        .or_else(|_| DateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f%#z"))
        .or_else(|_| DateTime::parse_from_str(text, "%Y-%m-%dT%H:%M:%S%.f%#z"));
    let Ok(time) = read else {
        return Err(format!("`{text}` is not a time with its zone, as in 2026-01-01T00:00:00+08:00"));
    };
    let micros = time.timestamp_micros();
    if !(0..MAX_TIME).contains(&micros) {
        return Err(format!("`{text}` is not between 1970 and 2200"));
    }
    if time.timestamp_subsec_nanos() % 1_000 != 0 {
        return Err(format!("`{text}` is finer than microseconds, which is what is kept"));
    }
    Ok(micros)
}

/// A point in time as it stands in files: RFC 3339, UTC.
pub fn show_time(micros: i64) -> String {
    match DateTime::<Utc>::from_timestamp_micros(micros) {
        Some(time) => time.to_rfc3339_opts(SecondsFormat::AutoSi, true),
        None => micros.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use nodescope_model::catalogue::Catalogue;
    use serde_json::json;

    use super::*;
    use crate::kinds::Kinds;

    fn read(kind: &str, field: &str, cell: &Cell) -> Result<Value, String> {
        let kinds = Kinds::new(&Catalogue::built_in());
        let kind = &kinds.all()[kinds.position(kind).unwrap()];
        Value::read(cell, kind.field(field).unwrap())
    }

    fn text(kind: &str, field: &str, text: &str) -> Result<Value, String> {
        read(kind, field, &Cell::Text(text.to_owned()))
    }

    fn json(kind: &str, field: &str, json: Json) -> Result<Value, String> {
        read(kind, field, &Cell::Json(json))
    }

    #[test]
    fn values_come_back_as_they_were_written() {
        for (field, written) in [
            ("devices", "64"),
            ("device_flops", "989500000000000"),
            ("device_flops", "0.1"),
            ("vendor", "华为"),
            ("measured_at", "2026-01-01T00:00:00Z"),
            ("measured_at", "2026-01-01T00:00:00.000001Z"),
        ] {
            let value = text("resource", field, written).unwrap();
            assert_eq!(value.to_string(), written);
            assert_eq!(json("resource", field, value.to_json()), Ok(value));
        }
        assert_eq!(text("resource", "devices", "").unwrap(), Value::Null);
        assert_eq!(json("resource", "vendor", json!("")).unwrap(), Value::Null);
        assert_eq!(json("resource", "devices", json!(8.0)).unwrap(), Value::Int(8));
        assert_eq!(json("resource", "revoked", json!(true)).unwrap(), Value::Bool(true));
    }

    #[test]
    fn times_are_read_with_their_zone() {
        let eight = 1_767_196_800_000_000;
        for written in
            ["2026-01-01T00:00:00+08:00", "2025-12-31 16:00:00Z", "2026-01-01 00:00:00+08", "2025-12-31T16:00:00.000Z"]
        {
            assert_eq!(parse_time(written), Ok(eight), "{written}");
        }
        for (written, wrong) in [
            ("2026-01-01", "zone"),
            ("2026-01-01 00:00:00", "zone"),
            ("1969-12-31T00:00:00Z", "1970"),
            ("2200-01-01T00:00:00Z", "2200"),
            ("2026-01-01T00:00:00.0000001Z", "microseconds"),
        ] {
            assert!(parse_time(written).unwrap_err().contains(wrong), "{written}");
        }
    }

    #[test]
    fn what_is_no_value_is_refused_with_the_reason() {
        for (result, wrong) in [
            (text("resource", "devices", "8.5"), "whole"),
            (text("resource", "devices", "-1"), "less than 0"),
            (text("resource", "device_flops", "NaN"), "number"),
            (text("resource", "device_flops", "inf"), "number"),
            (text("resource", "revoked", "yes"), "true nor false"),
            (text("resource", "vendor", " nvidia"), "white space"),
            (text("resource", "vendor", "a\u{0}b"), "control"),
            (text("resource", "vendor", &"x".repeat(5_000)), "longer"),
            (text("resource", "precision", "FP16"), "did you mean `fp16`"),
            (text("peer", "loss_limit_ratio", "3"), "between 0 and 1"),
            (json("node", "node", json!(310_101)), "in quotes"),
            (json("resource", "devices", json!("8")), "without quotes"),
            (json("resource", "devices", json!(8.5)), "whole"),
            (json("resource", "vendor", json!(["a"])), "text"),
        ] {
            let message = result.unwrap_err();
            assert!(message.contains(wrong), "{message}");
        }
    }
}
