//! How wide a bucket is, as people write it.
//!
//! PostgreSQL, TimescaleDB and Grafana all pass a width as text: `5 minutes`, `1h30m`, `60.000s`, `1 day`, `1 month`,
//! `00:05:00`. Months have no fixed length, so a width is either a whole number of months or a number of nanoseconds,
//! never both: a bucket of "1 month 1 day" would have no edges anyone could predict.

use datafusion::arrow::datatypes::IntervalMonthDayNano;
use datafusion::common::ScalarValue;

pub(super) const SECOND: i64 = 1_000_000_000;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;
pub(super) const DAY: i64 = 24 * HOUR;

/// Longer text is no width, and the bound keeps sums within their integers.
const LONGEST_TEXT: usize = 64;

/// The width of a bucket, always longer than zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Width {
    /// Whole calendar months.
    Months(i32),
    /// A fixed length in nanoseconds.
    Nanos(i64),
}

/// Why a width was refused, in words that say what to write instead.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum WidthError {
    #[error(
        "cannot read '{0}' as a width: write a number and a unit, such as '5 minutes', '60s', '1 day', '1 month' or \
         '00:05:00'"
    )]
    Unreadable(String),
    #[error("a width must be longer than zero, which '{0}' is not: write one such as '5 minutes'")]
    NotPositive(String),
    #[error(
        "'{0}' mixes months, which differ in length, with shorter units: write either, such as '1 month' or '30 days'"
    )]
    Mixed(String),
    #[error("'{0}' is longer than time lasts here: the longest width is 292 years")]
    TooLong(String),
}

impl Width {
    /// The width a literal stands for, or `None` for NULL.
    ///
    /// # Errors
    ///
    /// If the literal is neither text nor an interval, or not a width that time can be cut into.
    pub(super) fn of(literal: &ScalarValue) -> Result<Option<Self>, WidthError> {
        if literal.is_null() {
            return Ok(None);
        }
        let (months, nanos) = match literal {
            ScalarValue::IntervalMonthDayNano(Some(IntervalMonthDayNano { months, days, nanoseconds })) => {
                (i128::from(*months), i128::from(*days) * i128::from(DAY) + i128::from(*nanoseconds))
            }
            ScalarValue::IntervalDayTime(Some(interval)) => {
                let millis = i128::from(interval.milliseconds) * 1_000_000;
                (0, i128::from(interval.days) * i128::from(DAY) + millis)
            }
            ScalarValue::IntervalYearMonth(Some(months)) => (i128::from(*months), 0),
            other => match other.try_as_str().flatten() {
                Some(text) => return Self::parse(text).map(Some),
                None => return Err(WidthError::Unreadable(other.to_string())),
            },
        };
        Self::checked(months, nanos, || literal.to_string()).map(Some)
    }

    /// Reads a width as text: terms of a number and a unit, or hours and minutes with colons.
    ///
    /// # Errors
    ///
    /// If the text is no such thing, or says zero, less than zero, or months together with something shorter.
    pub(super) fn parse(text: &str) -> Result<Self, WidthError> {
        let (months, nanos) = sum_terms(text).ok_or_else(|| WidthError::Unreadable(text.to_owned()))?;
        Self::checked(months, nanos, || text.to_owned())
    }

    fn checked(months: i128, nanos: i128, shown: impl Fn() -> String) -> Result<Self, WidthError> {
        if months != 0 && nanos != 0 {
            return Err(WidthError::Mixed(shown()));
        }
        if months + nanos <= 0 {
            return Err(WidthError::NotPositive(shown()));
        }
        let width =
            if months == 0 { i64::try_from(nanos).map(Self::Nanos) } else { i32::try_from(months).map(Self::Months) };
        width.map_err(|_| WidthError::TooLong(shown()))
    }

    /// The same width as the interval literal that `date_bin` wants.
    pub(super) fn interval(self) -> ScalarValue {
        match self {
            Self::Months(months) => ScalarValue::new_interval_mdn(months, 0, 0),
            Self::Nanos(nanos) => ScalarValue::new_interval_mdn(0, 0, nanos),
        }
    }
}

/// One unit's size: its months, or its nanoseconds.
enum Unit {
    Months(i64),
    Nanos(i64),
}

fn unit(name: &str) -> Option<Unit> {
    Some(match name.to_lowercase().as_str() {
        "ns" | "nanosecond" | "nanoseconds" => Unit::Nanos(1),
        "us" | "µs" | "usec" | "usecs" | "microsecond" | "microseconds" => Unit::Nanos(1_000),
        "ms" | "msec" | "msecs" | "millisecond" | "milliseconds" => Unit::Nanos(1_000_000),
        "s" | "sec" | "secs" | "second" | "seconds" => Unit::Nanos(SECOND),
        "m" | "min" | "mins" | "minute" | "minutes" => Unit::Nanos(MINUTE),
        "h" | "hr" | "hrs" | "hour" | "hours" => Unit::Nanos(HOUR),
        "d" | "day" | "days" => Unit::Nanos(DAY),
        "w" | "week" | "weeks" => Unit::Nanos(7 * DAY),
        "mon" | "mons" | "month" | "months" => Unit::Months(1),
        "y" | "yr" | "yrs" | "year" | "years" => Unit::Months(12),
        _ => return None,
    })
}

/// Months and nanoseconds that the terms of `text` add up to.
fn sum_terms(text: &str) -> Option<(i128, i128)> {
    let mut rest = text.trim();
    if rest.is_empty() || rest.len() > LONGEST_TEXT {
        return None;
    }
    let (mut months, mut nanos) = (0_i128, 0_i128);
    while !rest.is_empty() {
        let (sign, after) = match rest.strip_prefix('-') {
            Some(after) => (-1, after),
            None => (1, rest.strip_prefix('+').unwrap_or(rest)),
        };
        let (number, after) = split_while(after, |c| c.is_ascii_digit() || c == '.' || c == ':');
        if number.contains(':') {
            nanos = nanos.checked_add(sign * clock(number)?)?;
            rest = after.trim_start();
            continue;
        }
        let (name, after) = split_while(after.trim_start(), char::is_alphabetic);
        match unit(name)? {
            Unit::Months(size) => months = months.checked_add(sign * scaled(number, size)?)?,
            Unit::Nanos(size) => nanos = nanos.checked_add(sign * scaled(number, size)?)?,
        }
        rest = after.trim_start();
    }
    Some((months, nanos))
}

/// The longest beginning of `text` whose characters all pass `keep`, and what follows it.
fn split_while(text: &str, keep: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(|c: char| !keep(c)).unwrap_or(text.len()))
}

/// `HH:MM` or `HH:MM:SS[.fraction]` in nanoseconds.
fn clock(text: &str) -> Option<i128> {
    let parts: Vec<&str> = text.split(':').collect();
    let (hours, minutes, seconds) = match parts.as_slice() {
        [hours, minutes] => (hours, minutes, &"0"),
        [hours, minutes, seconds] => (hours, minutes, seconds),
        _ => return None,
    };
    if hours.contains('.') || minutes.contains('.') {
        return None;
    }
    scaled(hours, HOUR)?.checked_add(scaled(minutes, MINUTE)?)?.checked_add(scaled(seconds, SECOND)?)
}

/// The decimal `number` times `size`, if that is a whole number.
fn scaled(number: &str, size: i64) -> Option<i128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.len() > 19 || fraction.len() > 18 {
        return None;
    }
    let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
    let parts = 10_i128.pow(u32::try_from(fraction.len()).ok()?);
    let product = digits.checked_mul(i128::from(size))?;
    (product % parts == 0).then_some(product / parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widths_as_people_write_them() {
        let cases = [
            ("5 minutes", Width::Nanos(5 * MINUTE)),
            ("60.000s", Width::Nanos(MINUTE)),
            ("0.5s", Width::Nanos(SECOND / 2)),
            (".25 s", Width::Nanos(SECOND / 4)),
            ("250ms", Width::Nanos(SECOND / 4)),
            ("10 µs", Width::Nanos(10_000)),
            ("1 ns", Width::Nanos(1)),
            ("1 hour", Width::Nanos(HOUR)),
            ("1h30m", Width::Nanos(HOUR + 30 * MINUTE)),
            ("1 hour 30 minutes", Width::Nanos(HOUR + 30 * MINUTE)),
            ("  +1 Day  ", Width::Nanos(DAY)),
            ("1d", Width::Nanos(DAY)),
            ("1 week", Width::Nanos(7 * DAY)),
            ("1 day -1 hour", Width::Nanos(23 * HOUR)),
            ("00:05:00", Width::Nanos(5 * MINUTE)),
            ("00:00:00.5", Width::Nanos(SECOND / 2)),
            ("1 day 06:00", Width::Nanos(30 * HOUR)),
            ("1 month", Width::Months(1)),
            ("3 mons", Width::Months(3)),
            ("0.5 years", Width::Months(6)),
            ("1 year 6 months", Width::Months(18)),
        ];
        for (text, width) in cases {
            assert_eq!(Width::parse(text), Ok(width), "for '{text}'");
        }
    }

    #[test]
    fn widths_that_are_refused() {
        let unreadable: fn(String) -> WidthError = WidthError::Unreadable;
        let cases: &[(&str, fn(String) -> WidthError)] = &[
            ("", unreadable),
            ("soon", unreadable),
            ("60", unreadable),
            ("minute", unreadable),
            ("5 fortnights", unreadable),
            ("1.2.3s", unreadable),
            ("1:2:3:4", unreadable),
            ("1.5:00", unreadable),
            ("0.1 ns", unreadable),
            ("0.5 months", unreadable),
            ("5 minutes, please", unreadable),
            ("99999999999999999999 s", unreadable),
            ("0s", WidthError::NotPositive),
            ("-5 minutes", WidthError::NotPositive),
            ("1 hour -1 hour", WidthError::NotPositive),
            ("-1 month", WidthError::NotPositive),
            ("1 month 1 day", WidthError::Mixed),
            ("1 year 00:00:01", WidthError::Mixed),
            ("300 weeks 1000000 days", WidthError::TooLong),
            ("9999999999 years", WidthError::TooLong),
        ];
        for (text, error) in cases {
            assert_eq!(Width::parse(text), Err(error((*text).to_owned())), "for '{text}'");
        }
        let long = "1 s ".repeat(100);
        assert_eq!(Width::parse(&long), Err(WidthError::Unreadable(long.clone())));
    }

    #[test]
    fn intervals_are_widths_too() {
        let of = |literal: ScalarValue| Width::of(&literal);
        assert_eq!(of(ScalarValue::new_interval_mdn(0, 1, SECOND)), Ok(Some(Width::Nanos(DAY + SECOND))));
        assert_eq!(of(ScalarValue::new_interval_mdn(2, 0, 0)), Ok(Some(Width::Months(2))));
        assert_eq!(of(ScalarValue::new_interval_dt(1, 500)), Ok(Some(Width::Nanos(DAY + SECOND / 2))));
        assert_eq!(of(ScalarValue::new_interval_ym(1, 2)), Ok(Some(Width::Months(14))));
        assert_eq!(of(ScalarValue::Utf8View(Some("1d".into()))), Ok(Some(Width::Nanos(DAY))));
        assert_eq!(of(ScalarValue::Utf8(None)), Ok(None));
        assert!(matches!(of(ScalarValue::new_interval_mdn(1, 1, 0)), Err(WidthError::Mixed(_))));
        assert!(matches!(of(ScalarValue::new_interval_mdn(0, 0, 0)), Err(WidthError::NotPositive(_))));
        assert!(matches!(of(ScalarValue::Int64(Some(60))), Err(WidthError::Unreadable(_))));
    }

    #[test]
    fn a_width_is_its_interval() {
        for width in [Width::Months(7), Width::Nanos(7 * DAY + 1)] {
            assert_eq!(Width::of(&width.interval()), Ok(Some(width)));
        }
    }
}
