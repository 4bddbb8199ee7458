//! What an alert says: a template in the rule's head, filled in from a row of its SQL.
//!
//! `{column}` is the column's value. After a colon stands how a number is to look:
//!
//! | | | |
//! |---|---|---|
//! | `{busy:.0%}` | a ratio in percent, with so many decimals | `93%` |
//! | `{hours:.1f}` or `{hours:.1}` | so many decimals | `4.2` |
//! | `{free:bytes}` | bytes | `1.5 GiB` |
//! | `{silent:duration}` | seconds | `2h 5m` |
//!
//! `{{` and `}}` are braces. A value that is not known is the word `unknown`.

use std::collections::BTreeMap;
use std::fmt;

use datafusion::arrow::array::cast::AsArray;
use datafusion::arrow::array::{Array, ArrayRef, RecordBatch};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Float64Type, Schema};
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};

/// A value longer than this is cut: what arrives in a pager is read by people.
pub(crate) const LONGEST: usize = 400;

/// A template, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Value(String, Format),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Plain,
    Decimals(usize),
    Percent(usize),
    Bytes,
    Duration,
}

/// What is wrong with a template.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// A brace that opens and does not close, or the other way round.
    #[error("a brace is alone; a brace as such is written twice")]
    Brace,
    /// It says the same of everything.
    #[error("it names no column, as in {{host}}: every alert would say the same")]
    NoColumn,
    /// The SQL has no such column.
    #[error("the SQL gives no column `{0}`")]
    Unknown(String),
    /// Nothing we know stands after the colon.
    #[error("`{0}` is no format: .1%, .1f, bytes or duration")]
    Format(String),
    /// A format for numbers on something else.
    #[error("`{0}` is no number")]
    NoNumber(String),
}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        let (mut parts, mut plain) = (Vec::new(), String::new());
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            plain.push_str(&rest[..at]);
            let (brace, after) = rest[at..].split_at(1);
            if let Some(more) = after.strip_prefix(brace) {
                plain.push_str(brace);
                rest = more;
                continue;
            }
            if brace == "}" {
                return Err(TemplateError::Brace);
            }
            let (inside, more) = after.split_once('}').ok_or(TemplateError::Brace)?;
            let (name, format) = inside.split_once(':').unwrap_or((inside, ""));
            if name.is_empty() || name.contains('{') {
                return Err(TemplateError::Brace);
            }
            if !plain.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut plain)));
            }
            parts.push(Part::Value(name.to_owned(), format.parse()?));
            rest = more;
        }
        plain.push_str(rest);
        if !plain.is_empty() {
            parts.push(Part::Text(plain));
        }
        let template = Self { parts };
        if template.columns().next().is_none() { Err(TemplateError::NoColumn) } else { Ok(template) }
    }

    /// The columns it names.
    pub fn columns(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            Part::Value(name, _) => Some(name.as_str()),
            Part::Text(_) => None,
        })
    }

    /// Everything that does not fit the columns of an answer.
    pub fn check(&self, schema: &Schema) -> Vec<TemplateError> {
        let mut wrong = Vec::new();
        for part in &self.parts {
            let Part::Value(name, format) = part else { continue };
            match schema.field_with_name(name) {
                Err(_) => wrong.push(TemplateError::Unknown(name.clone())),
                Ok(field) if *format != Format::Plain && !field.data_type().is_numeric() => {
                    wrong.push(TemplateError::NoNumber(name.clone()));
                }
                Ok(_) => {}
            }
        }
        wrong
    }

    /// The sentence for a row.
    pub fn fill(&self, rows: &TextRows, row: usize) -> String {
        let mut text = String::new();
        for part in &self.parts {
            match part {
                Part::Text(plain) => text.push_str(plain),
                Part::Value(name, format) => {
                    let value = match format {
                        Format::Plain => rows.text(name, row),
                        _ => rows.number(name, row).map(|number| format.show(number)),
                    };
                    text.push_str(&value.unwrap_or_else(|| "unknown".to_owned()));
                }
            }
        }
        text
    }
}

impl std::str::FromStr for Format {
    type Err = TemplateError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || TemplateError::Format(text.to_owned());
        match text {
            "" => return Ok(Self::Plain),
            "bytes" => return Ok(Self::Bytes),
            "duration" => return Ok(Self::Duration),
            "%" => return Ok(Self::Percent(0)),
            _ => {}
        }
        let rest = text.strip_prefix('.').ok_or_else(wrong)?;
        let (digits, percent) = match rest.strip_suffix('%') {
            Some(digits) => (digits, true),
            None => (rest.strip_suffix('f').unwrap_or(rest), false),
        };
        let decimals = digits.parse().ok().filter(|n| *n <= 9).ok_or_else(wrong)?;
        Ok(if percent { Self::Percent(decimals) } else { Self::Decimals(decimals) })
    }
}

impl Format {
    fn show(self, number: f64) -> String {
        match self {
            Self::Plain => number.to_string(),
            Self::Decimals(decimals) => format!("{number:.decimals$}"),
            Self::Percent(decimals) => format!("{:.decimals$}%", number * 100.0),
            Self::Bytes => bytes(number),
            Self::Duration => duration(number),
        }
    }
}

fn bytes(number: f64) -> String {
    let mut value = number;
    for unit in ["B", "KiB", "MiB", "GiB", "TiB", "PiB"] {
        if value.abs() < 1024.0 {
            let decimals = usize::from(unit != "B");
            return format!("{value:.decimals$} {unit}");
        }
        value /= 1024.0;
    }
    format!("{value:.1} EiB")
}

/// The two largest units that are not zero: more digits than that nobody reads.
fn duration(seconds: f64) -> String {
    if !seconds.is_finite() {
        return "unknown".to_owned();
    }
    if seconds.abs() < 1.0 {
        return format!("{:.0}ms", seconds * 1000.0);
    }
    let sign = if seconds < 0.0 { "-" } else { "" };
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "finite and positive")]
    let mut left = seconds.abs().round() as u64;
    let mut parts = Vec::new();
    for (unit, length) in [("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)] {
        let count = left / length;
        left %= length;
        if count > 0 {
            parts.push(format!("{count}{unit}"));
        } else if !parts.is_empty() {
            break;
        }
        if parts.len() == 2 {
            break;
        }
    }
    format!("{sign}{}", parts.join(" "))
}

/// The rows of an answer, each column as text and, where it is one, as number.
#[derive(Debug)]
pub struct TextRows {
    columns: BTreeMap<String, (ArrayRef, Option<ArrayRef>)>,
    rows: usize,
}

impl TextRows {
    /// Reads a batch.
    pub fn of(batch: &RecordBatch) -> Self {
        let mut columns = BTreeMap::new();
        for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
            let number = field.data_type().is_numeric().then(|| cast(column, &DataType::Float64).ok()).flatten();
            columns.insert(field.name().clone(), (std::sync::Arc::clone(column), number));
        }
        Self { columns, rows: batch.num_rows() }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.rows
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// A value as text; `None` for NULL.
    pub fn text(&self, column: &str, row: usize) -> Option<String> {
        let (values, _) = self.columns.get(column)?;
        show(values, row)
    }

    fn number(&self, column: &str, row: usize) -> Option<f64> {
        let numbers = self.columns.get(column)?.1.as_ref()?.as_primitive_opt::<Float64Type>()?;
        (row < numbers.len() && numbers.is_valid(row)).then(|| numbers.value(row))
    }

    /// A row as JSON: numbers as numbers, everything else as text.
    pub fn json(&self, row: usize) -> serde_json::Value {
        let value = |name: &str| {
            let number = self.number(name, row).and_then(serde_json::Number::from_f64);
            let text = self.text(name, row);
            // Whole numbers beyond what a float can hold keep their digits.
            match (text.as_deref().and_then(|text| text.parse::<i64>().ok()), number) {
                (Some(whole), Some(_)) => whole.into(),
                (_, Some(number)) => number.into(),
                (_, None) => text.map_or(serde_json::Value::Null, Into::into),
            }
        };
        serde_json::Value::Object(self.columns.keys().map(|name| (name.clone(), value(name))).collect())
    }

    /// All values of a row that are known, by column.
    pub fn row(&self, row: usize) -> BTreeMap<String, String> {
        self.columns.keys().filter_map(|name| Some((name.clone(), self.text(name, row)?))).collect()
    }
}

fn show(values: &ArrayRef, row: usize) -> Option<String> {
    if row >= values.len() || values.is_null(row) {
        return None;
    }
    let options = FormatOptions::default();
    let mut text = ArrayFormatter::try_new(values, &options).ok()?.value(row).try_to_string().ok()?;
    if let Some((cut, _)) = text.char_indices().nth(LONGEST) {
        text.truncate(cut);
        text.push('…');
    }
    Some(text)
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in &self.parts {
            match part {
                Part::Text(plain) => f.write_str(plain)?,
                Part::Value(name, _) => write!(f, "{{{name}}}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datafusion::arrow::array::{Float64Array, Int64Array, StringArray};

    use super::*;

    fn rows() -> RecordBatch {
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("host", Arc::new(StringArray::from(vec![Some("a"), None]))),
            ("busy", Arc::new(Float64Array::from(vec![Some(0.934), None]))),
            ("free", Arc::new(Int64Array::from(vec![1_610_612_736, 5]))),
            ("silent", Arc::new(Int64Array::from(vec![7_512, 86_400]))),
        ];
        RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, c)| (n, c, true))).unwrap()
    }

    fn say(template: &str, row: usize) -> String {
        Template::parse(template).unwrap().fill(&TextRows::of(&rows()), row)
    }

    #[test]
    fn values_look_as_they_are_asked_to() {
        assert_eq!(say("{host}: {busy:.0%} ({busy:.1f}, {busy:.2}) {{x}}", 0), "a: 93% (0.9, 0.93) {x}");
        assert_eq!(say("{free:bytes} {silent:duration}", 0), "1.5 GiB 2h 5m");
        assert_eq!(say("{free:bytes} {silent:duration} {silent}", 1), "5 B 1d 86400");
        assert_eq!(say("{host} {busy:.0%}", 1), "unknown unknown");
        assert_eq!((duration(0.25), duration(59.6), duration(90_061.0)), ("250ms".into(), "1m".into(), "1d 1h".into()));
    }

    #[test]
    fn what_is_wrong_is_told() {
        for text in ["{host", "host}", "{}", "a {:bytes}", "{a{b}}"] {
            assert_eq!(Template::parse(text), Err(TemplateError::Brace), "{text}");
        }
        assert_eq!(Template::parse("something is wrong"), Err(TemplateError::NoColumn));
        assert_eq!(Template::parse("{host:big}"), Err(TemplateError::Format("big".into())));
        let template = Template::parse("{host:.1f} {busy:.1%} {nobody}").unwrap();
        assert_eq!(
            template.check(&rows().schema()),
            [TemplateError::NoNumber("host".into()), TemplateError::Unknown("nobody".into())]
        );
    }

    #[test]
    fn a_long_value_is_cut() {
        let long = "ü".repeat(5_000);
        let column: ArrayRef = Arc::new(StringArray::from(vec![long]));
        let rows = TextRows::of(&RecordBatch::try_from_iter([("x", column)]).unwrap());
        assert_eq!(rows.text("x", 0).unwrap().chars().count(), LONGEST + 1);
    }
}
