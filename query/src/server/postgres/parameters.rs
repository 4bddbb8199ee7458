//! Parameters: the values that a client binds to `$1`, `$2` and so on.
//!
//! A parameter has two types. One is PostgreSQL's: the client may name it, and if it does not, it follows from the
//! place where the parameter stands, as in `ts > $1`. It says how the bytes are to be read. The other is Arrow's: what
//! the engine wants to compare with. So a value is read by the first and cast to the second. A value that does not
//! fit is an error; it is never rounded into another one and never becomes NULL.

use std::collections::HashMap;

use arrow_pg::datatypes::into_pg_type;
use bytes::Bytes;
use datafusion::arrow::datatypes::{DataType, IntervalUnit, TimeUnit};
use datafusion::common::ScalarValue;
use pgwire::api::Type;

use super::errors::Failure;

/// Most parameters of one statement; their number is sent in two bytes.
const MOST_PARAMETERS: usize = 65_535;
/// From PostgreSQL's epoch, 2000-01-01, back to that of Unix, in microseconds and in days.
const EPOCH_MICROSECONDS: i64 = 946_684_800_000_000;
const EPOCH_DAYS: i32 = 10_957;

/// The two types of a parameter.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ParameterType {
    /// How its bytes are read.
    pub postgres: Type,
    /// What the engine wants; `None` if any type will do.
    pub engine: Option<DataType>,
}

impl ParameterType {
    /// A NULL of this parameter's type, to plan with while the value is not known.
    pub(super) fn null(&self) -> Result<ScalarValue, Failure> {
        let data_type = self.engine.clone().or_else(|| natural(&self.postgres, "UTC")).unwrap_or(DataType::Utf8);
        Ok(ScalarValue::try_from(&data_type)?)
    }
}

/// The types of a statement's parameters, from those that the client names and those that the plan infers.
///
/// # Errors
/// When a parameter is not called `$` and a number.
pub(super) fn types(
    named: &[u32],
    inferred: &HashMap<String, Option<DataType>>,
) -> Result<Vec<ParameterType>, Failure> {
    let mut by_index: HashMap<usize, &DataType> = HashMap::new();
    let mut count = named.len();
    for (name, data_type) in inferred {
        let index = name.strip_prefix('$').and_then(|digits| digits.parse::<usize>().ok());
        let Some(index) = index.filter(|index| (1..=MOST_PARAMETERS).contains(index)) else {
            return Err(Failure::new("42P02", format!("there is no parameter {name}"))
                .hint("Parameters are called $1, $2 and so on."));
        };
        count = count.max(index);
        if let Some(data_type) = data_type
            && *data_type != DataType::Null
        {
            by_index.insert(index, data_type);
        }
    }
    (1..=count)
        .map(|index| {
            let engine = by_index.get(&index).map(|data_type| (*data_type).clone());
            let postgres = match named.get(index - 1).copied().and_then(Type::from_oid) {
                Some(Type::UNKNOWN) | None => match &engine {
                    Some(data_type) => into_pg_type(data_type).unwrap_or(Type::TEXT),
                    None => Type::TEXT,
                },
                Some(named) => named,
            };
            Ok(ParameterType { postgres, engine })
        })
        .collect()
}

/// Reads the values that are bound. Texts of times without a zone are taken in `zone`.
///
/// # Errors
/// When the numbers of values or formats do not fit, or a value cannot be read as its type.
pub(super) fn values(
    types: &[ParameterType],
    formats: &[i16],
    values: &[Option<Bytes>],
    zone: &str,
) -> Result<Vec<ScalarValue>, Failure> {
    if values.len() != types.len() {
        let message = format!("{} parameters are bound and the statement has {}", values.len(), types.len());
        return Err(Failure::new("08P01", message));
    }
    if formats.len() > 1 && formats.len() != values.len() {
        let message = format!("{} formats are given for {} parameters", formats.len(), values.len());
        return Err(Failure::new("08P01", message));
    }
    values
        .iter()
        .zip(types)
        .enumerate()
        .map(|(index, (value, parameter))| {
            let format = formats.get(index).or(formats.first()).copied().unwrap_or(0);
            let Some(value) = value else { return parameter.null() };
            let read = match format {
                0 => text(value, &parameter.postgres, zone),
                1 => binary(value, &parameter.postgres),
                other => Err(Failure::new("08P01", format!("there is no format {other}"))),
            };
            read.and_then(|read| match &parameter.engine {
                Some(wanted) if read.data_type() != *wanted => Ok(read.cast_to(wanted)?),
                _ => Ok(read),
            })
            .map_err(|failure| {
                let message = format!("parameter ${}: {}", index + 1, failure.message);
                let code = if failure.code == "XX000" || failure.code == "22000" { "22P02" } else { failure.code };
                Failure { code, message, ..failure }
            })
        })
        .collect()
}

/// The type of the engine that comes nearest to one of PostgreSQL's.
fn natural(postgres: &Type, zone: &str) -> Option<DataType> {
    Some(match *postgres {
        Type::BOOL => DataType::Boolean,
        Type::INT2 => DataType::Int16,
        Type::INT4 => DataType::Int32,
        Type::INT8 | Type::OID => DataType::Int64,
        Type::FLOAT4 => DataType::Float32,
        Type::FLOAT8 => DataType::Float64,
        // Without a number of digits there is only one type that takes them all.
        Type::NUMERIC => DataType::Float64,
        Type::TEXT
        | Type::VARCHAR
        | Type::BPCHAR
        | Type::NAME
        | Type::CHAR
        | Type::UNKNOWN
        | Type::JSON
        | Type::JSONB
        | Type::UUID => DataType::Utf8,
        Type::BYTEA => DataType::Binary,
        Type::DATE => DataType::Date32,
        Type::TIME => DataType::Time64(TimeUnit::Microsecond),
        Type::TIMESTAMP => DataType::Timestamp(TimeUnit::Microsecond, None),
        Type::TIMESTAMPTZ => DataType::Timestamp(TimeUnit::Microsecond, Some(zone.into())),
        Type::INTERVAL => DataType::Interval(IntervalUnit::MonthDayNano),
        _ => return None,
    })
}

fn unsupported(postgres: &Type) -> Failure {
    Failure::new("0A000", format!("parameters of type {} are not supported", postgres.name()))
        .hint("Bind single values, for instance as IN ($1, $2), or bind text and cast it.")
}

fn malformed(postgres: &Type) -> Failure {
    Failure::new("22P03", format!("the bytes are not a {}", postgres.name()))
}

fn text(value: &[u8], postgres: &Type, zone: &str) -> Result<ScalarValue, Failure> {
    let text = std::str::from_utf8(value).map_err(|_| Failure::new("22021", "text is not valid UTF-8"))?;
    if *postgres == Type::BYTEA {
        return bytea(text).map(|bytes| ScalarValue::Binary(Some(bytes))).ok_or_else(|| malformed(postgres));
    }
    let wanted = natural(postgres, zone).ok_or_else(|| unsupported(postgres))?;
    // A number keeps all its digits until the engine says how many it wants.
    if wanted == DataType::Utf8 || *postgres == Type::NUMERIC {
        return Ok(ScalarValue::Utf8(Some(text.to_owned())));
    }
    Ok(ScalarValue::Utf8(Some(text.trim().to_owned())).cast_to(&wanted)?)
}

/// The bytes that `\x` and hexadecimal digits stand for.
fn bytea(text: &str) -> Option<Vec<u8>> {
    let digits = text.strip_prefix("\\x")?.as_bytes();
    if digits.len() % 2 != 0 {
        return None;
    }
    digits.chunks_exact(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

fn binary(value: &[u8], postgres: &Type) -> Result<ScalarValue, Failure> {
    let wrong = || malformed(postgres);
    Ok(match *postgres {
        Type::BOOL => match value {
            [byte] => ScalarValue::Boolean(Some(*byte != 0)),
            _ => return Err(wrong()),
        },
        Type::INT2 => ScalarValue::Int16(Some(i16::from_be_bytes(fixed(value).ok_or_else(wrong)?))),
        Type::INT4 => ScalarValue::Int32(Some(i32::from_be_bytes(fixed(value).ok_or_else(wrong)?))),
        Type::INT8 => ScalarValue::Int64(Some(i64::from_be_bytes(fixed(value).ok_or_else(wrong)?))),
        Type::OID => ScalarValue::Int64(Some(i64::from(u32::from_be_bytes(fixed(value).ok_or_else(wrong)?)))),
        Type::FLOAT4 => ScalarValue::Float32(Some(f32::from_be_bytes(fixed(value).ok_or_else(wrong)?))),
        Type::FLOAT8 => ScalarValue::Float64(Some(f64::from_be_bytes(fixed(value).ok_or_else(wrong)?))),
        Type::NUMERIC => ScalarValue::Utf8(Some(numeric(value).ok_or_else(wrong)?)),
        Type::TEXT | Type::VARCHAR | Type::BPCHAR | Type::NAME | Type::CHAR | Type::UNKNOWN | Type::JSON => {
            let text =
                String::from_utf8(value.to_vec()).map_err(|_| Failure::new("22021", "text is not valid UTF-8"))?;
            ScalarValue::Utf8(Some(text))
        }
        Type::JSONB => match value.split_first() {
            Some((1, text)) => ScalarValue::Utf8(Some(String::from_utf8(text.to_vec()).map_err(|_| wrong())?)),
            _ => return Err(wrong()),
        },
        Type::UUID => {
            let [a, b, c, d, e, f, g, h, rest @ ..] = fixed::<16>(value).ok_or_else(wrong)?;
            let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
            let (i, j) = rest.split_at(2);
            let parts = [hex(&[a, b, c, d]), hex(&[e, f]), hex(&[g, h]), hex(i), hex(j)];
            ScalarValue::Utf8(Some(parts.join("-")))
        }
        Type::BYTEA => ScalarValue::Binary(Some(value.to_vec())),
        Type::DATE => {
            let days = i32::from_be_bytes(fixed(value).ok_or_else(wrong)?);
            ScalarValue::Date32(Some(days.checked_add(EPOCH_DAYS).ok_or_else(wrong)?))
        }
        Type::TIME => ScalarValue::Time64Microsecond(Some(i64::from_be_bytes(fixed(value).ok_or_else(wrong)?))),
        Type::TIMESTAMP => ScalarValue::TimestampMicrosecond(Some(microseconds(value).ok_or_else(wrong)?), None),
        Type::TIMESTAMPTZ => {
            ScalarValue::TimestampMicrosecond(Some(microseconds(value).ok_or_else(wrong)?), Some("UTC".into()))
        }
        Type::INTERVAL => {
            let whole: [u8; 16] = fixed(value).ok_or_else(wrong)?;
            let (time, date) = whole.split_at(8);
            let (days, months) = date.split_at(4);
            let nanoseconds = i64::from_be_bytes(fixed(time).ok_or_else(wrong)?).checked_mul(1_000);
            ScalarValue::new_interval_mdn(
                i32::from_be_bytes(fixed(months).ok_or_else(wrong)?),
                i32::from_be_bytes(fixed(days).ok_or_else(wrong)?),
                nanoseconds.ok_or_else(wrong)?,
            )
        }
        _ => return Err(unsupported(postgres)),
    })
}

fn fixed<const N: usize>(value: &[u8]) -> Option<[u8; N]> {
    value.try_into().ok()
}

fn microseconds(value: &[u8]) -> Option<i64> {
    i64::from_be_bytes(fixed(value)?).checked_add(EPOCH_MICROSECONDS)
}

/// A binary `numeric` as text: groups of four decimal digits, the weight of the first group, a sign, and the number
/// of digits after the point.
fn numeric(value: &[u8]) -> Option<String> {
    let (head, groups) = value.split_first_chunk::<8>()?;
    let [a, b, c, d, e, f, g, h] = *head;
    let count = usize::from(u16::from_be_bytes([a, b]));
    let weight = i32::from(i16::from_be_bytes([c, d]));
    let sign = match u16::from_be_bytes([e, f]) {
        0x0000 => "",
        0x4000 => "-",
        0xC000 => return Some("NaN".to_owned()),
        _ => return None,
    };
    let scale = usize::from(u16::from_be_bytes([g, h]));
    if groups.len() != 2 * count {
        return None;
    }
    let group = |position: i32| -> Option<u16> {
        let Ok(index) = usize::try_from(position) else { return Some(0) };
        let Some(pair) = groups.get(2 * index..2 * index + 2) else { return Some(0) };
        let digits = u16::from_be_bytes([pair[0], pair[1]]);
        (digits < 10_000).then_some(digits)
    };
    let mut whole = String::new();
    for position in 0..=weight {
        whole.push_str(&format!("{:04}", group(position)?));
    }
    let whole = whole.trim_start_matches('0');
    let mut fraction = String::new();
    let mut position = weight + 1;
    while fraction.len() < scale {
        fraction.push_str(&format!("{:04}", group(position)?));
        position += 1;
    }
    fraction.truncate(scale);
    let whole = if whole.is_empty() { "0" } else { whole };
    Some(if scale == 0 { format!("{sign}{whole}") } else { format!("{sign}{whole}.{fraction}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameter(postgres: &Type, engine: Option<DataType>) -> ParameterType {
        ParameterType { postgres: postgres.clone(), engine }
    }

    fn read(postgres: &Type, engine: Option<DataType>, format: i16, bytes: &[u8]) -> Result<ScalarValue, Failure> {
        let bytes = Bytes::copy_from_slice(bytes);
        let mut values = values(&[parameter(postgres, engine)], &[format], &[Some(bytes)], "Europe/Berlin")?;
        Ok(values.remove(0))
    }

    #[test]
    fn values_are_read_by_their_postgresql_type_and_cast_to_the_engines() {
        let instant = 1_700_000_000_000_000;
        let utc = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        let ts = ScalarValue::TimestampMicrosecond(Some(instant), Some("UTC".into()));
        let binary = (instant - EPOCH_MICROSECONDS).to_be_bytes();
        for (postgres, engine, format, bytes, expected) in [
            (&Type::INT4, None, 0, &b"42"[..], ScalarValue::Int32(Some(42))),
            (&Type::INT4, Some(DataType::Int64), 1, &42i32.to_be_bytes()[..], ScalarValue::Int64(Some(42))),
            (&Type::FLOAT8, None, 1, &1.5f64.to_be_bytes()[..], ScalarValue::Float64(Some(1.5))),
            (&Type::BOOL, None, 0, b"t", ScalarValue::Boolean(Some(true))),
            (&Type::BOOL, None, 1, &[0], ScalarValue::Boolean(Some(false))),
            (&Type::TEXT, None, 1, "ü".as_bytes(), ScalarValue::Utf8(Some("ü".to_owned()))),
            (&Type::TEXT, Some(DataType::Utf8View), 0, b"a", ScalarValue::Utf8View(Some("a".to_owned()))),
            (&Type::BYTEA, None, 0, b"\\x00ff", ScalarValue::Binary(Some(vec![0, 255]))),
            (&Type::TIMESTAMPTZ, Some(utc.clone()), 1, &binary[..], ts.clone()),
            (&Type::TIMESTAMPTZ, Some(utc.clone()), 0, b"2023-11-14 23:13:20", ts.clone()),
            (&Type::TIMESTAMPTZ, Some(utc.clone()), 0, b"2023-11-14T22:13:20Z", ts.clone()),
            (&Type::TEXT, Some(utc.clone()), 0, b"2023-11-14T22:13:20Z", ts.clone()),
            (&Type::DATE, None, 1, &0i32.to_be_bytes()[..], ScalarValue::Date32(Some(EPOCH_DAYS))),
            (&Type::NUMERIC, Some(DataType::Float64), 0, b"2.5", ScalarValue::Float64(Some(2.5))),
        ] {
            let found = read(postgres, engine, format, bytes);
            assert_eq!(found.as_ref(), Ok(&expected), "{postgres} {format} {bytes:?}");
        }
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        for (postgres, engine, format, bytes, code) in [
            (&Type::INT4, None, 0, &b"4x"[..], "22P02"),
            (&Type::INT4, None, 1, b"123", "22P03"),
            (&Type::INT8, Some(DataType::Int16), 0, b"70000", "22P02"),
            (&Type::TEXT, None, 0, b"\xff", "22021"),
            (&Type::INT4_ARRAY, None, 0, b"{1}", "0A000"),
            (&Type::TIMESTAMPTZ, None, 1, &i64::MAX.to_be_bytes()[..], "22P03"),
            (&Type::INT4, None, 7, b"1", "08P01"),
        ] {
            let failure = read(postgres, engine, format, bytes).expect_err("refused");
            assert_eq!(failure.code, code, "{postgres} {bytes:?}: {failure:?}");
            assert!(failure.message.starts_with("parameter $1"), "{failure:?}");
        }
        assert_eq!(values(&[], &[], &[None], "UTC").expect_err("too many").code, "08P01");
        let two = [parameter(&Type::INT4, None), parameter(&Type::INT4, None)];
        assert_eq!(values(&two, &[0, 0, 0], &[None, None], "UTC").expect_err("formats").code, "08P01");
    }

    #[test]
    fn a_null_has_the_type_of_its_place() {
        let places = [parameter(&Type::TEXT, Some(DataType::Int64)), parameter(&Type::FLOAT4, None)];
        let nulls = values(&places, &[], &[None, None], "UTC").expect("nulls");
        assert_eq!(nulls, [ScalarValue::Int64(None), ScalarValue::Float32(None)]);
    }

    #[test]
    fn types_come_from_the_client_or_from_the_plan() {
        let inferred = HashMap::from([
            ("$1".to_owned(), Some(DataType::Int64)),
            ("$2".to_owned(), Some(DataType::Float64)),
            ("$4".to_owned(), None),
        ]);
        let found = types(&[0, Type::INT4.oid()], &inferred).expect("types");
        let postgres: Vec<&Type> = found.iter().map(|parameter| &parameter.postgres).collect();
        assert_eq!(postgres, [&Type::INT8, &Type::INT4, &Type::TEXT, &Type::TEXT]);
        assert_eq!(found[1].engine, Some(DataType::Float64));
        for name in ["$0", "$host", "$99999"] {
            let inferred = HashMap::from([(name.to_owned(), None)]);
            assert_eq!(types(&[], &inferred).expect_err(name).code, "42P02");
        }
    }

    #[test]
    fn binary_numbers_keep_their_digits() {
        fn encoded(weight: i16, sign: u16, scale: u16, groups: &[u16]) -> Vec<u8> {
            let count = u16::try_from(groups.len()).expect("few");
            let head = [count.to_be_bytes(), weight.to_be_bytes(), sign.to_be_bytes(), scale.to_be_bytes()];
            head.into_iter().chain(groups.iter().map(|group| group.to_be_bytes())).flatten().collect()
        }
        for (bytes, text) in [
            (encoded(0, 0, 0, &[]), Some("0")),
            (encoded(0, 0, 0, &[7]), Some("7")),
            (encoded(1, 0x4000, 2, &[12, 3456, 7800]), Some("-123456.78")),
            (encoded(-1, 0, 4, &[1]), Some("0.0001")),
            (encoded(-2, 0, 6, &[5]), Some("0.000000")),
            (encoded(2, 0, 0, &[1]), Some("100000000")),
            (encoded(0, 0xC000, 0, &[]), Some("NaN")),
            (encoded(0, 0, 0, &[10_000]), None),
            (vec![0; 7], None),
        ] {
            assert_eq!(numeric(&bytes).as_deref(), text, "{bytes:?}");
        }
    }
}
