//! Maps on the wire: PostgreSQL has none, so a map is sent as the text of a JSON object, which every client can read.
//!
//! In SQL it stays a map: `other_counters['rx_icrc_encapsulated']` takes one value out of it.

use std::fmt::Write;
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, MapArray, StringBuilder};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::DataType;
use datafusion::arrow::error::ArrowError;

/// Each map as the text of a JSON object. Numbers and booleans stay such, everything else is text.
///
/// # Errors
/// When the values are of a type that has no text (a list, say).
pub(super) fn as_json(map: &MapArray) -> Result<ArrayRef, ArrowError> {
    let keys = cast(map.keys(), &DataType::Utf8)?;
    let keys = keys.as_string::<i32>();
    let is_bare = map.values().data_type().is_numeric() || *map.values().data_type() == DataType::Boolean;
    let values = cast(map.values(), &DataType::Utf8)?;
    let values = values.as_string::<i32>();
    let mut out = StringBuilder::with_capacity(map.len(), 64 * map.len());
    let offsets = map.value_offsets();
    for (row, bounds) in offsets.windows(2).enumerate() {
        if map.is_null(row) {
            out.append_null();
            continue;
        }
        // Writing into a builder cannot fail.
        let _ = out.write_char('{');
        let (first, end) = (bounds[0], bounds[1]);
        for at in first..end {
            if at > first {
                let _ = out.write_char(',');
            }
            let at = usize::try_from(at).unwrap_or_default();
            let value = values.is_valid(at).then(|| values.value(at));
            let _ = write!(out, "{}:", quoted(keys.value(at)));
            let _ = match value {
                None => out.write_str("null"),
                // JSON knows no infinity and no NaN.
                Some(value) if is_bare && !value.contains(['n', 'N', 'i', 'I']) => out.write_str(value),
                Some(value) => out.write_str(&quoted(value)),
            };
        }
        let _ = out.write_char('}');
        out.append_value("");
    }
    Ok(Arc::new(out.finish()))
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
pub(super) mod tests {
    use datafusion::arrow::array::{Float64Builder, Int64Builder, MapBuilder};

    use super::*;

    /// A map from text to integers.
    pub(crate) fn map(rows: &[Option<&[(&str, i64)]>]) -> MapArray {
        let mut builder = MapBuilder::new(None, StringBuilder::new(), Int64Builder::new());
        for row in rows {
            for (key, value) in row.unwrap_or_default() {
                builder.keys().append_value(key);
                builder.values().append_value(*value);
            }
            builder.append(row.is_some()).expect("pairs");
        }
        builder.finish()
    }

    #[test]
    fn a_map_becomes_an_object() {
        let maps = map(&[Some(&[("a", 1), ("b", -2)]), Some(&[]), None, Some(&[("\n", i64::MAX)])]);
        let sliced = maps.slice(1, 3);
        let texts = |map: &MapArray| -> Vec<Option<String>> {
            as_json(map).expect("text").as_string::<i32>().iter().map(|t| t.map(str::to_owned)).collect()
        };
        let text = |t: &str| Some(t.to_owned());
        assert_eq!(texts(&maps), [text(r#"{"a":1,"b":-2}"#), text("{}"), None, text(r#"{"\n":9223372036854775807}"#)]);
        assert_eq!(texts(&sliced), texts(&maps)[1..]);
        let mut builder = MapBuilder::new(None, StringBuilder::new(), Float64Builder::new());
        for (key, value) in [("x", 1.5), ("y", f64::NAN)] {
            builder.keys().append_value(key);
            builder.values().append_value(value);
        }
        builder.append(true).expect("pairs");
        assert_eq!(texts(&builder.finish()), [text(r#"{"x":1.5,"y":"NaN"}"#)]);
    }
}
