//! Bringing somebody else's batch into the catalogue's shape.
//!
//! A producer may know an older or a newer version of a table, or be a script. So:
//!
//! - columns are found by name, in any order; those left out are NULL;
//! - `ts`, `node`, `host` and the entity must be there, without NULLs;
//! - a column of another type is cast where nothing is lost, and "nothing" is checked value by value;
//! - an unknown column is left out, and its name given back to be counted.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, RecordBatch, new_null_array};
use arrow_cast::{CastOptions, can_cast_types, cast_with_options};
use arrow_ord::cmp::not_distinct;
use arrow_schema::{DataType, TimeUnit};

use crate::catalogue::Table;

/// A batch in the shape of its table.
#[derive(Debug)]
pub struct Conformed {
    /// Exactly the table's schema.
    pub batch: RecordBatch,
    /// Names of columns that the table does not have.
    pub unknown: Vec<String>,
}

/// Why a batch cannot be a table's rows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConformError {
    /// A column that every row needs is not there.
    #[error("column `{0}` is missing, and no row of this table can be without it")]
    Missing(String),
    /// A column that every row needs has NULLs.
    #[error("column `{column}` has {nulls} NULLs, and no row of this table can be without it")]
    Null {
        /// Its name.
        column: String,
        /// How many.
        nulls: usize,
    },
    /// A column's values do not survive the cast to the catalogue's type.
    #[error("column `{column}` is {found} and cannot become {wanted} without loss")]
    Lossy {
        /// Its name.
        column: String,
        /// The type that came.
        found: String,
        /// The type of the catalogue.
        wanted: String,
    },
    /// The same name twice.
    #[error("column `{0}` is there twice")]
    Twice(String),
    /// A time outside what can be stored or makes sense.
    #[error("`ts` holds times before 1970 or after 2200")]
    Time,
}

/// Times beyond this are nobody's sample: 2200-01-01, in microseconds.
const MAX_TS: i64 = 7_258_118_400_000_000;

/// Brings `batch` into the shape of `table`.
///
/// # Errors
/// When rows would be incomplete or values would change.
pub fn conform(batch: &RecordBatch, table: &Table) -> Result<Conformed, ConformError> {
    let schema = table.schema();
    if batch.schema_ref() == schema {
        check_times(batch.column(0))?;
        return Ok(Conformed { batch: batch.clone(), unknown: Vec::new() });
    }
    let found = batch.schema_ref();
    let mut unknown = Vec::new();
    for (at, field) in found.fields().iter().enumerate() {
        if found.fields()[..at].iter().any(|f| f.name() == field.name()) {
            return Err(ConformError::Twice(field.name().clone()));
        }
        if schema.field_with_name(field.name()).is_err() {
            unknown.push(field.name().clone());
        }
    }
    let mut columns: Vec<ArrayRef> = Vec::with_capacity(schema.fields().len());
    for field in schema.fields() {
        let name = field.name();
        let column = match batch.column_by_name(name) {
            Some(column) => lossless(name, column, field.data_type())?,
            None if field.is_nullable() => new_null_array(field.data_type(), batch.num_rows()),
            None => return Err(ConformError::Missing(name.clone())),
        };
        let nulls = column.null_count();
        if nulls > 0 && !field.is_nullable() {
            return Err(ConformError::Null { column: name.clone(), nulls });
        }
        columns.push(column);
    }
    check_times(&columns[0])?;
    let batch = RecordBatch::try_new(Arc::clone(schema), columns).map_err(|e| ConformError::Missing(e.to_string()))?;
    Ok(Conformed { batch, unknown })
}

fn check_times(ts: &ArrayRef) -> Result<(), ConformError> {
    use arrow_array::types::TimestampMicrosecondType;
    let ts = ts.as_primitive::<TimestampMicrosecondType>();
    if ts.values().iter().all(|t| (0..MAX_TS).contains(t)) { Ok(()) } else { Err(ConformError::Time) }
}

/// Casts, and casts back to see that every value is still the same.
fn lossless(name: &str, column: &ArrayRef, wanted: &DataType) -> Result<ArrayRef, ConformError> {
    let found = column.data_type();
    if found == wanted {
        return Ok(column.clone());
    }
    let lossy =
        || ConformError::Lossy { column: name.to_owned(), found: found.to_string(), wanted: wanted.to_string() };
    if !is_meant(found, wanted) || !can_cast_types(found, wanted) {
        return Err(lossy());
    }
    let strict = CastOptions { safe: false, ..CastOptions::default() };
    let cast = cast_with_options(column, wanted, &strict).map_err(|_| lossy())?;
    if matches!(found, DataType::Dictionary(..) | DataType::Null) || is_same_text(found, wanted) {
        return Ok(cast);
    }
    if let (Some(before), Some(after)) = (column.as_map_opt(), cast.as_map_opt()) {
        lossless(name, before.values(), after.values().data_type())?;
        return Ok(cast);
    }
    let back = cast_with_options(&cast, found, &strict).map_err(|_| lossy())?;
    let same = not_distinct(column, &back).map_err(|_| lossy())?;
    if same.true_count() == column.len() { Ok(cast) } else { Err(lossy()) }
}

/// Casts that a producer can have meant. Text that happens to hold digits is not a number, and a number is no point
/// in time: guessing would hide mistakes.
fn is_meant(found: &DataType, wanted: &DataType) -> bool {
    let found = match found {
        DataType::Dictionary(_, value) => value,
        other => other,
    };
    match wanted {
        DataType::Int64 | DataType::Float64 => {
            found.is_integer()
                || matches!(found, DataType::Float16 | DataType::Float32 | DataType::Float64 | DataType::Null)
        }
        // A time without a zone is taken as UTC, as the documentation for producers says.
        DataType::Timestamp(TimeUnit::Microsecond, _) => matches!(found, DataType::Timestamp(_, _) | DataType::Null),
        DataType::Utf8 => matches!(found, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Null),
        DataType::Binary => {
            matches!(found, DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::Null)
        }
        DataType::Boolean => matches!(found, DataType::Boolean | DataType::Null),
        // Every program names the parts of a map otherwise; what counts is what they are.
        DataType::Map(wanted, _) => match found {
            DataType::Map(found, _) => match (found.data_type(), wanted.data_type()) {
                (DataType::Struct(found), DataType::Struct(wanted)) => {
                    found.len() == 2 && found.iter().zip(wanted).all(|(f, w)| is_meant(f.data_type(), w.data_type()))
                }
                _ => false,
            },
            other => *other == DataType::Null,
        },
        _ => false,
    }
}

fn is_same_text(found: &DataType, wanted: &DataType) -> bool {
    matches!(wanted, DataType::Utf8 | DataType::Binary) && !found.is_nested()
}

#[cfg(test)]
mod tests {
    use arrow_array::types::{Float64Type, Int64Type};
    use arrow_array::{
        BooleanArray, Float32Array, Float64Array, Int32Array, Int64Array, LargeStringArray, StringArray,
        TimestampMicrosecondArray, TimestampNanosecondArray, UInt64Array,
    };

    use super::*;
    use crate::catalogue::Catalogue;

    const TABLE: &str = r#"
        table = "thing"
        comment = "A table."
        entity = ["part"]
        [[column]]
        name = "part"
        type = "text"
        kind = "label"
        help = "Part."
        [[column]]
        name = "count"
        type = "int"
        kind = "counter"
        unit = "1"
        help = "Count."
        [[column]]
        name = "level_ratio"
        type = "float"
        kind = "gauge"
        unit = "ratio"
        help = "Level."
    "#;

    fn with(columns: Vec<(&str, ArrayRef)>) -> Result<Conformed, ConformError> {
        let catalogue = Catalogue::with_texts(&[("thing.toml", TABLE)]).unwrap();
        let ts: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![1, 2]).with_timezone("UTC"));
        let two = |a: &str| Arc::new(StringArray::from(vec![a, a])) as ArrayRef;
        let mut all = vec![("part", two("p")), ("host", two("h")), ("ts", ts), ("node", two("n"))];
        for (name, column) in columns {
            match all.iter_mut().find(|(n, _)| *n == name) {
                Some(entry) => entry.1 = column,
                None => all.push((name, column)),
            }
        }
        all.retain(|(_, c)| c.len() == 2);
        conform(&RecordBatch::try_from_iter(all).unwrap(), catalogue.get("thing").unwrap())
    }

    fn nothing() -> ArrayRef {
        Arc::new(Int64Array::from(Vec::<i64>::new()))
    }

    #[test]
    fn columns_left_out_are_null_and_unknown_ones_are_named() {
        let done = with(vec![("colour", Arc::new(Int64Array::from(vec![1, 2])))]).unwrap();
        assert_eq!(done.unknown, ["colour"]);
        assert_eq!(done.batch.column_by_name("count").unwrap().null_count(), 2);
        assert_eq!(done.batch.schema().fields().len(), 6);
    }

    #[test]
    fn what_every_row_needs_must_be_there() {
        assert_eq!(with(vec![("part", nothing())]).unwrap_err(), ConformError::Missing("part".into()));
        let nulls: ArrayRef = Arc::new(StringArray::from(vec![Some("h"), None]));
        assert_eq!(with(vec![("host", nulls)]).unwrap_err(), ConformError::Null { column: "host".into(), nulls: 1 });
    }

    #[test]
    fn casts_that_lose_nothing_are_made() {
        let done = with(vec![
            ("part", Arc::new(LargeStringArray::from(vec!["x", "y"])) as ArrayRef),
            ("count", Arc::new(Int32Array::from(vec![Some(7), None]))),
            ("level_ratio", Arc::new(Float32Array::from(vec![0.5, f32::NAN]))),
            ("ts", Arc::new(TimestampNanosecondArray::from(vec![5_000, 6_000]).with_timezone("UTC"))),
        ])
        .unwrap();
        let column = |name: &str| done.batch.column_by_name(name).unwrap().clone();
        assert_eq!(column("part").as_string::<i32>().value(1), "y");
        assert_eq!(column("count").as_primitive::<Int64Type>().iter().collect::<Vec<_>>(), [Some(7), None]);
        assert_eq!(column("level_ratio").as_primitive::<Float64Type>().value(0), 0.5);
    }

    #[test]
    fn casts_that_lose_something_are_refused() {
        let lossy: Vec<(&str, ArrayRef)> = vec![
            ("count", Arc::new(Float64Array::from(vec![1.0, 1.5]))),
            ("count", Arc::new(UInt64Array::from(vec![1, u64::MAX]))),
            ("count", Arc::new(StringArray::from(vec!["1", "2"]))),
            ("count", Arc::new(BooleanArray::from(vec![true, false]))),
            ("level_ratio", Arc::new(Int64Array::from(vec![1, (1 << 53) + 1]))),
            ("ts", Arc::new(TimestampNanosecondArray::from(vec![5_000, 6_001]).with_timezone("UTC"))),
            ("ts", Arc::new(Int64Array::from(vec![5, 6]))),
        ];
        for (name, column) in lossy {
            let shown = format!("{name} {:?}", column.data_type());
            assert!(matches!(with(vec![(name, column)]), Err(ConformError::Lossy { .. })), "{shown}");
        }
    }

    #[test]
    fn times_that_are_nobodys_are_refused() {
        for bad in [-1, MAX_TS] {
            let ts: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![1, bad]).with_timezone("UTC"));
            assert_eq!(with(vec![("ts", ts)]).unwrap_err(), ConformError::Time);
        }
    }
}
