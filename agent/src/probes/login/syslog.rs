//! Lines of `auth.log` and `secure`: when, by whom, what.
//!
//! rsyslog writes one of two forms. The old one (`Nov 25 07:47:01 host sshd[812]: …`) has neither year nor zone: the
//! year is the one that puts the line nearest before now, the zone is this host's. The newer (`2025-11-25T07:47:01.5+08:00
//! host sshd[812]: …`, the default of Debian 12 and Ubuntu 24.04) says all.

use chrono::{DateTime, Datelike, NaiveDate, NaiveDateTime, TimeDelta};

/// One line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Line<'a> {
    /// Microseconds since 1970; `None` when the line does not say.
    pub(super) at: Option<i64>,
    pub(super) identifier: &'a str,
    pub(super) pid: Option<i64>,
    pub(super) text: &'a str,
}

/// Takes a line apart. `local` makes a time of this host's clock a point in time.
pub(super) fn parse<'a>(line: &'a str, now: i64, local: impl Fn(NaiveDateTime) -> Option<i64>) -> Option<Line<'a>> {
    let (first, rest) = line.split_once(' ')?;
    let (at, rest) = if first.len() > 16 {
        (DateTime::parse_from_rfc3339(first).ok()?.timestamp_micros(), rest)
    } else {
        let time = line.get(..15)?;
        let rest = line.get(15..)?.strip_prefix(' ')?;
        (local(old_time(time, now)?)?, rest)
    };
    let (_host, rest) = rest.split_once(' ')?;
    let (tag, text) = rest.split_once(": ")?;
    let (identifier, pid) = match tag.split_once('[') {
        Some((identifier, pid)) => (identifier, pid.strip_suffix(']').and_then(|pid| pid.parse().ok())),
        None => (tag, None),
    };
    Some(Line { at: Some(at), identifier, pid, text })
}

/// `Nov 25 07:47:01`, with the year that puts it before now: a day is left for clocks that differ.
fn old_time(text: &str, now: i64) -> Option<NaiveDateTime> {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let mut words = text.split_ascii_whitespace();
    let month = words.next()?;
    let month = u32::try_from(MONTHS.iter().position(|m| *m == month)?).ok()? + 1;
    let day = words.next()?.parse().ok()?;
    let mut clock = words.next()?.split(':').map(|part| part.parse::<u32>().ok());
    let (hour, minute, second) = (clock.next()??, clock.next()??, clock.next()??);
    let now = DateTime::from_timestamp_micros(now)?.naive_utc();
    let in_year = |year| NaiveDate::from_ymd_opt(year, month, day)?.and_hms_opt(hour, minute, second.min(59));
    let limit = now.checked_add_signed(TimeDelta::days(1))?;
    in_year(now.year() + 1)
        .filter(|time| *time <= limit)
        .or_else(|| in_year(now.year()).filter(|time| *time <= limit))
        .or_else(|| in_year(now.year() - 1))
}

/// This host's clock.
pub(super) fn local(time: NaiveDateTime) -> Option<i64> {
    time.and_local_timezone(chrono::Local).earliest().map(|time| time.timestamp_micros())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::probes::testing::garbage;

    fn utc(time: NaiveDateTime) -> Option<i64> {
        Some(time.and_utc().timestamp_micros())
    }

    /// 2026-01-01T00:00:10Z.
    const NEW_YEAR: i64 = 1_767_225_610_000_000;

    #[test]
    fn both_forms_are_read() {
        let line = parse("Dec 31 23:59:59 busy sshd[812]: Accepted x", NEW_YEAR, utc).unwrap();
        assert_eq!(line.at, Some(NEW_YEAR - 11_000_000));
        assert_eq!((line.identifier, line.pid, line.text), ("sshd", Some(812), "Accepted x"));
        let line = parse("Jan  1 00:00:05 busy sudo:    alice : TTY=x", NEW_YEAR, utc).unwrap();
        assert_eq!((line.at, line.identifier, line.text), (Some(NEW_YEAR - 5_000_000), "sudo", "   alice : TTY=x"));
        let line = parse("2026-01-01T08:00:10.000001+08:00 busy gdm-password]: pam_unix(x): y", NEW_YEAR, utc).unwrap();
        assert_eq!((line.at, line.identifier), (Some(NEW_YEAR + 1), "gdm-password]"));
    }

    #[test]
    fn what_is_no_line_is_none() {
        for line in [
            "",
            "x",
            "Foo 31 23:59:59 busy sshd: x",
            "Feb 30 00:00:00 h sshd: x",
            "2026 h sshd: x",
            "Dec 31 23:59:5é h s: x",
        ] {
            assert_eq!(parse(line, NEW_YEAR, utc), None, "{line}");
        }
    }

    proptest! {
        #[test]
        fn any_line_can_be_read(text in garbage(), now in any::<i64>()) {
            parse(&text, now, utc);
            parse(&format!("Dec 31 23:59:59 {text}"), now, utc);
        }
    }
}
