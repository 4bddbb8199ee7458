//! What Grafana's PostgreSQL data source makes of a query before it sends it.
//!
//! Two programs work on the text, one after the other, and so do we. The browser replaces variables: `$host`,
//! `${host:sqlstring}`, and the bucket width `$__interval`. Then Grafana's server replaces macros: `$__timeFilter(ts)`
//! and the like. It does so without understanding SQL, so the arguments of a macro end at the first `)`.
//!
//! We do it with `timescaledb: true`, as our data source is provisioned: time is grouped by `time_bucket`.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Why a query could not be expanded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MacroError {
    /// Grafana has no such macro.
    #[error("there is no macro `${0}`")]
    Unknown(String),
    /// A macro needs more than it was given.
    #[error("macro `${0}` needs more arguments")]
    Arguments(String),
    /// A width of a bucket that is none.
    #[error("`{0}` is not an interval")]
    Interval(String),
    /// A way of writing a variable that our dashboards do not use.
    #[error("variable format `{0}` is neither `sqlstring` nor `raw`")]
    Format(String),
}

/// What a panel is asked for: a time range, a bucket width, and what the user chose at the top.
#[derive(Debug, Clone)]
pub struct Window {
    /// Begin of the range.
    pub from: SystemTime,
    /// End of the range.
    pub to: SystemTime,
    /// Width of a bucket, which Grafana takes from the range, the screen's width and the panel.
    pub interval: Duration,
    /// Values of each variable: several where several may be chosen.
    pub variables: BTreeMap<String, Vec<String>>,
}

impl Window {
    /// The query as the server would get it.
    ///
    /// # Errors
    /// When Grafana would refuse it too, or our dashboards should not say it.
    pub fn expand(&self, sql: &str) -> Result<String, MacroError> {
        let sql = self.replace_variables(sql)?;
        let mut out = String::with_capacity(sql.len());
        let mut rest = sql.as_str();
        while let Some(at) = rest.find('$') {
            out.push_str(&rest[..at]);
            rest = &rest[at + 1..];
            let name = word(rest);
            let called = rest[name.len()..].strip_prefix('(').and_then(|arguments| arguments.split_once(')'));
            match called {
                Some((arguments, after)) if !name.is_empty() => {
                    let arguments: Vec<&str> = arguments.split(',').map(|a| a.trim_matches(' ')).collect();
                    out.push_str(&self.call(name, &arguments, after.starts_with(','))?);
                    rest = after;
                }
                _ => out.push('$'),
            }
        }
        out.push_str(rest);
        Ok(out)
    }

    fn replace_variables(&self, sql: &str) -> Result<String, MacroError> {
        let mut out = String::with_capacity(sql.len());
        let mut rest = sql;
        while let Some(at) = rest.find('$') {
            out.push_str(&rest[..at]);
            rest = &rest[at + 1..];
            let braced = rest.strip_prefix('{').and_then(|r| r.split_once('}'));
            let (name, format, after) = match braced {
                Some((inside, after)) => {
                    let (name, format) = inside.split_once(':').unwrap_or((inside, ""));
                    (name, format, after)
                }
                None => (word(rest), "", &rest[word(rest).len()..]),
            };
            if let Some(value) = self.variable(name) {
                out.push_str(&formatted(&value, format)?);
                rest = after;
            } else {
                out.push('$');
            }
        }
        out.push_str(rest);
        Ok(out)
    }

    fn variable(&self, name: &str) -> Option<Vec<String>> {
        match name {
            "__interval" => Some(vec![interval_text(self.interval)]),
            "__interval_ms" => Some(vec![self.interval.as_millis().to_string()]),
            _ => self.variables.get(name).cloned(),
        }
    }

    /// `followed` tells that a comma comes right after it: Grafana then takes `$__timeGroup` for the alias too.
    fn call(&self, name: &str, arguments: &[&str], followed: bool) -> Result<String, MacroError> {
        let argument = |at: usize| match arguments.get(at) {
            Some(argument) => Ok(*argument),
            None => Err(MacroError::Arguments(name.to_owned())),
        };
        let group = || -> Result<String, MacroError> {
            Ok(format!("time_bucket('{:.3}s',{})", seconds(argument(1)?)?, argument(0)?))
        };
        let epoch_group = || -> Result<String, MacroError> {
            let width = seconds(argument(1)?)?;
            Ok(format!("floor(({})/{width})*{width}", argument(0)?))
        };
        let (from, to) = (rfc3339(self.from), rfc3339(self.to));
        match name {
            "__time" => Ok(format!("{} AS \"time\"", argument(0)?)),
            "__timeEpoch" => Ok(format!("extract(epoch from {}) as \"time\"", argument(0)?)),
            "__timeFilter" => Ok(format!("{} BETWEEN '{from}' AND '{to}'", argument(0)?)),
            "__timeFrom" => Ok(format!("'{from}'")),
            "__timeTo" => Ok(format!("'{to}'")),
            "__timeGroup" if !followed => group(),
            "__timeGroup" | "__timeGroupAlias" => Ok(format!("{} AS \"time\"", group()?)),
            "__unixEpochFilter" => {
                let (column, from, to) = (argument(0)?, since_epoch(self.from), since_epoch(self.to));
                Ok(format!("{column} >= {} AND {column} <= {}", from.as_secs(), to.as_secs()))
            }
            "__unixEpochNanoFilter" => {
                let (column, from, to) = (argument(0)?, since_epoch(self.from), since_epoch(self.to));
                Ok(format!("{column} >= {} AND {column} <= {}", from.as_nanos(), to.as_nanos()))
            }
            "__unixEpochNanoFrom" => Ok(since_epoch(self.from).as_nanos().to_string()),
            "__unixEpochNanoTo" => Ok(since_epoch(self.to).as_nanos().to_string()),
            "__unixEpochGroup" => epoch_group(),
            "__unixEpochGroupAlias" => Ok(format!("{} AS \"time\"", epoch_group()?)),
            _ => Err(MacroError::Unknown(name.to_owned())),
        }
    }
}

/// The letters, digits and underscores that the text begins with.
fn word(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len());
    &text[..end]
}

fn formatted(values: &[String], format: &str) -> Result<String, MacroError> {
    let doubled = values.iter().map(|value| value.replace('\'', "''"));
    match format {
        "sqlstring" => Ok(doubled.map(|value| format!("'{value}'")).collect::<Vec<_>>().join(",")),
        "" => Ok(doubled.collect::<Vec<_>>().join(",")),
        "raw" => Ok(values.join(",")),
        _ => Err(MacroError::Format(format.to_owned())),
    }
}

/// As Grafana writes a width: the largest unit of which it is a whole number.
fn interval_text(interval: Duration) -> String {
    let millis = interval.as_millis();
    for (unit, length) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)] {
        if millis > 0 && millis.is_multiple_of(length) {
            return format!("{}{unit}", millis / length);
        }
    }
    format!("{millis}ms")
}

/// The width that an argument names, in seconds: `5m`, or `'5m'`.
fn seconds(text: &str) -> Result<f64, MacroError> {
    let wrong = || MacroError::Interval(text.to_owned());
    let bare = text.trim_matches('\'');
    let digits = bare.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = bare.split_at(digits);
    let number: u32 = number.parse().map_err(|_| wrong())?;
    let length = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3_600.0,
        "d" => 86_400.0,
        "w" => 604_800.0,
        _ => return Err(wrong()),
    };
    Ok(f64::from(number) * length)
}

fn since_epoch(time: SystemTime) -> Duration {
    time.duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// RFC 3339 in UTC, with as many decimals as there are: `2024-02-29T12:00:00.25Z`.
fn rfc3339(time: SystemTime) -> String {
    let since = since_epoch(time);
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    let nanos = format!(".{:09}", since.subsec_nanos());
    let fraction = nanos.trim_end_matches('0').trim_end_matches('.');
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z")
}

/// Year, month and day of a day counted from 1970-01-01. Counting years from March puts the leap day at their end.
fn civil(days: u64) -> (u64, u64, u64) {
    const DAYS_OF_400_YEARS: u64 = 146_097;
    let days = days + 719_468; // from 0000-03-01
    let (era, day_of_era) = (days / DAYS_OF_400_YEARS, days % DAYS_OF_400_YEARS);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window() -> Window {
        Window {
            from: UNIX_EPOCH + Duration::from_millis(1_709_207_999_250),
            to: UNIX_EPOCH + Duration::from_secs(1_709_208_300),
            interval: Duration::from_secs(60),
            variables: [("host", vec!["o'hare"]), ("node", vec!["n"]), ("several", vec!["a", "b'c"])]
                .map(|(n, v)| (n.to_owned(), v.into_iter().map(str::to_owned).collect()))
                .into(),
        }
    }

    #[test]
    fn macros_become_what_grafana_makes_of_them() {
        for (sql, expanded) in [
            ("$__timeFilter(ts)", "ts BETWEEN '2024-02-29T11:59:59.25Z' AND '2024-02-29T12:05:00Z'"),
            ("$__timeFrom()", "'2024-02-29T11:59:59.25Z'"),
            ("$__timeTo()", "'2024-02-29T12:05:00Z'"),
            ("$__timeGroup(ts, '5m')", "time_bucket('300.000s',ts)"),
            ("$__timeGroup(ts,250ms)", "time_bucket('0.250s',ts)"),
            ("$__timeGroup(ts, 5m, NULL), x", "time_bucket('300.000s',ts) AS \"time\", x"),
            ("$__timeGroupAlias(ts, $__interval)", "time_bucket('60.000s',ts) AS \"time\""),
            ("GROUP BY $__timeGroup(ts,$__interval)", "GROUP BY time_bucket('60.000s',ts)"),
            ("$__time(ts)", "ts AS \"time\""),
            ("$__timeEpoch(ts)", "extract(epoch from ts) as \"time\""),
            ("$__unixEpochFilter(x)", "x >= 1709207999 AND x <= 1709208300"),
            ("$__unixEpochGroupAlias(x, 1h)", "floor((x)/3600)*3600 AS \"time\""),
            ("$__unixEpochNanoFrom()", "1709207999250000000"),
            ("$__interval_ms / 2", "60000 / 2"),
        ] {
            assert_eq!(window().expand(sql).as_deref(), Ok(expanded), "{sql}");
        }
    }

    #[test]
    fn variables_cannot_break_out_of_a_literal() {
        for (sql, expanded) in [
            ("host = '$host'", "host = 'o''hare'"),
            ("host = ${host:sqlstring}", "host = 'o''hare'"),
            ("${host:raw}", "o'hare"),
            ("node IN (${several:sqlstring})", "node IN ('a','b''c')"),
            ("'${node}'", "'n'"),
            ("$unknown ${unknown} $ $1 100$", "$unknown ${unknown} $ $1 100$"),
        ] {
            assert_eq!(window().expand(sql).as_deref(), Ok(expanded), "{sql}");
        }
    }

    #[test]
    fn what_grafana_refuses_is_refused() {
        for (sql, error) in [
            ("$__timeRound(ts)", MacroError::Unknown("__timeRound".into())),
            ("$__timeGroup(ts)", MacroError::Arguments("__timeGroup".into())),
            ("$__timeGroup(ts, soon)", MacroError::Interval("soon".into())),
            ("${host:pipe}", MacroError::Format("pipe".into())),
        ] {
            assert_eq!(window().expand(sql), Err(error), "{sql}");
        }
    }

    #[test]
    fn days_are_counted_right() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_735_689_599, "2024-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn widths_are_written_as_grafana_writes_them() {
        for (millis, text) in [(200, "200ms"), (1_000, "1s"), (90_000, "90s"), (60_000, "1m"), (7_200_000, "2h")] {
            assert_eq!(interval_text(Duration::from_millis(millis)), text);
        }
    }
}
