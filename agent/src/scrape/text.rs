//! The text that exporters answer with: Prometheus' text format 0.0.4 and OpenMetrics 1.0.
//!
//! ```text
//! # HELP gpu_power_watts Power drawn now.          nothing we keep
//! # TYPE gpu_power_watts gauge                     kind of the samples that follow
//! gpu_power_watts{gpu="0",name="A \"B\""} 71.5     name, labels, value
//! gpu_power_watts{gpu="1"} NaN 1700000000000       and when: milliseconds in 0.0.4, seconds in OpenMetrics
//! http_total{code="200"} 7 # {trace_id="x"} 1      an exemplar of OpenMetrics, skipped
//! # EOF                                            how OpenMetrics ends; without it the answer is cut short
//! ```
//!
//! Histograms and summaries are samples like the others (`_bucket`, `_sum`, `_count`, `quantile`). In label values `\\`,
//! `\"` and `\n` are escapes; that is the only reason to copy anything. A line is read in place and taken over as one
//! piece of text; its labels stay as they were written until somebody asks for them. A line that is wrong is counted and
//! skipped. The traps: exporters that write `#TYPE` without the space, label values with `}` or `,` in them (a command
//! line of a process), a comma after the last label, labels in another order than before, the same series twice.

use std::borrow::Cow;
use std::collections::HashSet;

/// Series of one answer beyond these are counted and not kept.
pub(crate) const MAX_SERIES: usize = 50_000;

/// Text of names and labels of one answer beyond this is not kept either.
const MAX_TEXT: usize = 16 << 20;

/// A longer name is wrong.
const MAX_NAME: usize = 512;

/// A sample with more labels is wrong.
const MAX_LABELS: usize = 64;

/// What is remembered of the first wrong line.
const MAX_SHOWN: usize = 120;

/// What a family of samples is said to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(missing_docs, reason = "they are the format's own words")]
pub(crate) enum Kind {
    /// The exporter does not say.
    #[default]
    Untold,
    Counter,
    Gauge,
    Histogram,
    GaugeHistogram,
    Summary,
    Info,
    StateSet,
}

impl Kind {
    fn parse(word: &str) -> Self {
        match word {
            "counter" => Self::Counter,
            "gauge" => Self::Gauge,
            "histogram" => Self::Histogram,
            "gaugehistogram" => Self::GaugeHistogram,
            "summary" => Self::Summary,
            "info" => Self::Info,
            "stateset" => Self::StateSet,
            _ => Self::Untold,
        }
    }

    /// The word in the column `type`; `None` where the exporter does not say.
    pub(crate) fn as_str(self) -> Option<&'static str> {
        match self {
            Self::Untold => None,
            Self::Counter => Some("counter"),
            Self::Gauge => Some("gauge"),
            Self::Histogram => Some("histogram"),
            Self::GaugeHistogram => Some("gaugehistogram"),
            Self::Summary => Some("summary"),
            Self::Info => Some("info"),
            Self::StateSet => Some("stateset"),
        }
    }
}

/// One line.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Line<'a> {
    /// Nothing, a comment, a help text.
    Empty,
    /// What samples of that name are.
    Type(&'a str, Kind),
    /// The end of OpenMetrics.
    Eof,
    /// A value.
    Sample {
        /// Name of the metric.
        name: &'a str,
        /// Its labels.
        labels: Labels<'a>,
        /// The number; may be NaN or infinite.
        value: f64,
        /// The time the exporter gives, as written.
        time: Option<f64>,
    },
}

/// Labels as they were written, without the braces. They were checked when the line was parsed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Labels<'a>(&'a str);

impl<'a> Labels<'a> {
    /// No labels.
    pub(crate) const NONE: Self = Self("");

    /// How long their text is.
    pub(crate) fn length(self) -> usize {
        self.0.len()
    }

    /// Name and value of each, in the order written.
    pub(crate) fn iter(self) -> impl Iterator<Item = (&'a str, Cow<'a, str>)> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let (name, value, after) = next_label(rest).ok().flatten()?;
            rest = after;
            Some((name, unescape(value)))
        })
    }

    /// The value of that label; `None` where there is none or it is empty, which means the same.
    pub(crate) fn get(self, wanted: &str) -> Option<Cow<'a, str>> {
        self.iter().find(|(name, _)| *name == wanted).map(|(_, value)| value).filter(|value| !value.is_empty())
    }

    /// Those with a value: a label without one is the same as none.
    pub(crate) fn filled(self) -> impl Iterator<Item = (&'a str, Cow<'a, str>)> {
        self.iter().filter(|(_, value)| !value.is_empty())
    }

    /// A number that is the same for the same labels in any order.
    pub(crate) fn hash(self) -> i64 {
        let mut pairs: Vec<(&str, Cow<'_, str>)> = self.filled().collect();
        pairs.sort_unstable();
        let mut hash = Fnv::default();
        for (name, value) in &pairs {
            hash.add(name.as_bytes());
            hash.add(&[0xff]);
            hash.add(value.as_bytes());
            hash.add(&[0xfe]);
        }
        i64::from_ne_bytes(hash.0.to_ne_bytes())
    }
}

/// FNV-1a, 64 bits: short, without a key, the same for ever. Its bytes that separate are none of UTF-8's.
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}

/// Why a line was not understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Wrong {
    #[error("it does not begin with the name of a metric")]
    Name,
    #[error("its labels are not name=\"value\" with commas between, in braces")]
    Labels,
    #[error("a label is there twice, or there are too many")]
    TooManyLabels,
    #[error("it has no number after name and labels")]
    Value,
    #[error("there is something after value and time")]
    Rest,
    #[error("it is too long, or not text")]
    NoText,
}

/// Understands one line.
pub(crate) fn parse_line(line: &str) -> Result<Line<'_>, Wrong> {
    let line = line.trim_matches(is_blank);
    if line.is_empty() {
        return Ok(Line::Empty);
    }
    if let Some(comment) = line.strip_prefix('#') {
        let mut words = comment.split(is_blank).filter(|word| !word.is_empty());
        return Ok(match (words.next(), words.next(), words.next(), words.next()) {
            (Some("EOF"), None, ..) => Line::Eof,
            (Some("TYPE"), Some(name), Some(kind), None) => Line::Type(name, Kind::parse(kind)),
            _ => Line::Empty,
        });
    }
    let end = line.find(|c: char| !is_name_part(c)).unwrap_or(line.len());
    let (name, rest) = line.split_at_checked(end).ok_or(Wrong::Name)?;
    if name.is_empty() || name.len() > MAX_NAME || name.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(Wrong::Name);
    }
    let rest = rest.trim_start_matches(is_blank);
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(rest) => split_labels(rest)?,
        None => ("", rest),
    };
    let mut words = rest.split(is_blank).filter(|word| !word.is_empty());
    let value = words.next().and_then(parse_number).ok_or(Wrong::Value)?;
    let time = match words.next() {
        None | Some("#") => return Ok(Line::Sample { name, labels: Labels(labels), value, time: None }),
        Some(word) => parse_number(word).ok_or(Wrong::Rest)?,
    };
    match words.next() {
        None | Some("#") => Ok(Line::Sample { name, labels: Labels(labels), value, time: Some(time) }),
        Some(_) => Err(Wrong::Rest),
    }
}

fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n')
}

fn is_name_part(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == ':'
}

/// What Go's ParseFloat takes and the format allows: decimal numbers, `NaN`, `+Inf`, `-Inf`.
fn parse_number(word: &str) -> Option<f64> {
    word.parse().ok()
}

/// The text of the labels, and what comes after the closing brace. Each label is looked at.
fn split_labels(text: &str) -> Result<(&str, &str), Wrong> {
    let mut seen: Vec<&str> = Vec::new();
    let mut rest = text;
    while let Some((name, _, after)) = next_label(rest)? {
        if seen.len() >= MAX_LABELS || seen.contains(&name) {
            return Err(Wrong::TooManyLabels);
        }
        seen.push(name);
        rest = after;
    }
    let after = rest.trim_start_matches(is_blank);
    let labels = text.get(..text.len() - after.len()).ok_or(Wrong::Labels)?;
    Ok((labels.trim_end_matches(is_blank), after.strip_prefix('}').ok_or(Wrong::Labels)?))
}

/// The next label: name, value with its escapes, and what comes after it and its comma. `None` at the closing brace, and
/// at the end of text.
fn next_label(text: &str) -> Result<Option<(&str, &str, &str)>, Wrong> {
    let text = text.trim_start_matches(is_blank);
    if text.is_empty() || text.starts_with('}') {
        return Ok(None);
    }
    let (name, rest) = text.split_once('=').ok_or(Wrong::Labels)?;
    let name = name.trim_end_matches(is_blank);
    let is_name = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    let rest = rest.trim_start_matches(is_blank).strip_prefix('"').ok_or(Wrong::Labels)?;
    let end = closing_quote(rest).ok_or(Wrong::Labels)?;
    let (value, rest) = rest.split_at_checked(end).ok_or(Wrong::Labels)?;
    let rest = rest.strip_prefix('"').ok_or(Wrong::Labels)?.trim_start_matches(is_blank);
    let rest = match rest.strip_prefix(',') {
        Some(rest) => rest,
        None if rest.is_empty() || rest.starts_with('}') => rest,
        None => return Err(Wrong::Labels),
    };
    if is_name { Ok(Some((name, value, rest))) } else { Err(Wrong::Labels) }
}

/// Where the value that begins here ends.
fn closing_quote(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.bytes().position(|byte| {
        let is_end = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        is_end
    })
}

/// A label's value as it is meant. A backslash before any other character stands for itself, as Prometheus has it.
fn unescape(value: &str) -> Cow<'_, str> {
    if !value.contains('\\') {
        return Cow::Borrowed(value);
    }
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('n') => out.push('\n'),
            Some(c @ ('\\' | '"')) => out.push(c),
            Some(other) => out.extend(['\\', other]),
            None => out.push('\\'),
        }
    }
    Cow::Owned(out)
}

/// Whether a sample of that name belongs to that family: it has its name, with an ending that the family's kind gives.
fn belongs(sample: &str, family: &str) -> bool {
    sample.strip_prefix(family).is_some_and(|ending| {
        matches!(ending, "" | "_total" | "_created" | "_bucket" | "_sum" | "_count" | "_info" | "_gsum" | "_gcount")
    })
}

/// A stretch of [`Exposition::text`].
#[derive(Debug, Clone, Copy)]
struct Span(u32, u32);

#[derive(Debug)]
struct Kept {
    name: Span,
    labels: Span,
    series: i64,
    value: f64,
    at_micros: Option<i64>,
    kind: Kind,
}

/// One sample of an answer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Sample<'a> {
    /// Name of the metric.
    pub(crate) name: &'a str,
    /// Its labels.
    pub(crate) labels: Labels<'a>,
    /// Tells series of one name apart.
    pub(crate) series: i64,
    /// The number; may be NaN or infinite.
    pub(crate) value: f64,
    /// When it was taken, if the exporter says.
    pub(crate) at_micros: Option<i64>,
    /// What it is said to be.
    pub(crate) kind: Kind,
}

/// Everything one answer said: samples without copies of their own, in the order they came.
#[derive(Debug, Default)]
pub(crate) struct Exposition {
    text: String,
    kept: Vec<Kept>,
    seen: HashSet<(i64, u32)>,
    family: String,
    family_kind: Kind,
    last_name: Option<Span>,
    /// Times are seconds, as in OpenMetrics, and not milliseconds.
    is_open_metrics: bool,
    /// Whether the end was said.
    pub(crate) has_eof: bool,
    /// Lines that were not understood.
    pub(crate) wrong: u64,
    /// The first of them, and why.
    pub(crate) first_wrong: Option<String>,
    /// Samples beyond what is kept.
    pub(crate) beyond: u64,
    /// Samples of a series that was there already.
    pub(crate) twice: u64,
}

impl Exposition {
    /// Nothing yet.
    pub(crate) fn new(is_open_metrics: bool) -> Self {
        Self { is_open_metrics, ..Self::default() }
    }

    /// How many samples are kept.
    pub(crate) fn len(&self) -> usize {
        self.kept.len()
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// The samples, in the order they came.
    pub(crate) fn samples(&self) -> impl Iterator<Item = Sample<'_>> {
        self.kept.iter().map(|kept| Sample {
            name: self.part(kept.name),
            labels: Labels(self.part(kept.labels)),
            series: kept.series,
            value: kept.value,
            at_micros: kept.at_micros,
            kind: kept.kind,
        })
    }

    fn part(&self, span: Span) -> &str {
        self.text.get(span.0 as usize..span.1 as usize).unwrap_or_default()
    }

    /// Takes a line as it came. `taken_at` is when samples without a time of their own were taken, if that is another
    /// time than now.
    pub(crate) fn add_line(&mut self, line: &[u8], taken_at: Option<i64>) {
        let Ok(line) = std::str::from_utf8(line) else { return self.add_wrong("", Wrong::NoText) };
        match parse_line(line) {
            Ok(Line::Empty) => {}
            Ok(Line::Eof) => self.has_eof = true,
            Ok(Line::Type(name, kind)) => {
                self.family.clear();
                self.family.push_str(name);
                self.family_kind = kind;
            }
            Ok(Line::Sample { name, labels, value, time }) => {
                let at = time.and_then(|time| micros(time, self.is_open_metrics)).or(taken_at);
                self.add_sample(name, labels, value, at);
            }
            Err(wrong) => self.add_wrong(line, wrong),
        }
    }

    /// Counts a line that could not be understood.
    pub(crate) fn add_wrong(&mut self, line: &str, wrong: Wrong) {
        self.wrong += 1;
        if self.first_wrong.is_none() {
            let shown: String = line.trim().chars().take(MAX_SHOWN).collect();
            self.first_wrong = Some(format!("`{shown}`: {wrong}"));
        }
    }

    fn add_sample(&mut self, name: &str, labels: Labels<'_>, value: f64, at_micros: Option<i64>) {
        if self.kept.len() >= MAX_SERIES || self.text.len() + name.len() + labels.0.len() > MAX_TEXT {
            self.beyond += 1;
            return;
        }
        // Samples of one name come together, so the name is taken over once.
        let name_span = match self.last_name {
            Some(span) if self.part(span) == name => span,
            _ => self.push(name),
        };
        self.last_name = Some(name_span);
        let series = labels.hash();
        let mut name_hash = Fnv::default();
        name_hash.add(name.as_bytes());
        #[allow(clippy::cast_possible_truncation, reason = "half of a hash is a hash")]
        if !self.seen.insert((series, name_hash.0 as u32)) {
            self.twice += 1;
            return;
        }
        let labels = self.push(labels.0);
        let kind = if belongs(name, &self.family) { self.family_kind } else { Kind::Untold };
        self.kept.push(Kept { name: name_span, labels, series, value, at_micros, kind });
    }

    fn push(&mut self, text: &str) -> Span {
        // MAX_TEXT is far below 2^32.
        let at = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
        let start = at(self.text.len());
        self.text.push_str(text);
        Span(start, at(self.text.len()))
    }
}

/// An exporter's time in microseconds; `None` for what is no time.
fn micros(time: f64, is_seconds: bool) -> Option<i64> {
    let micros = time * if is_seconds { 1e6 } else { 1e3 };
    #[allow(clippy::cast_possible_truncation, reason = "it was looked at")]
    // The year 2286 is far enough.
    (micros.is_finite() && (0.0..1e16).contains(&micros)).then_some(micros as i64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::probes::testing::garbage;

    fn read(text: &str, is_open_metrics: bool) -> Exposition {
        let mut exposition = Exposition::new(is_open_metrics);
        for line in text.lines() {
            exposition.add_line(line.as_bytes(), None);
        }
        exposition
    }

    fn sample(line: &str) -> (String, Vec<(String, String)>, f64, Option<f64>) {
        match parse_line(line) {
            Ok(Line::Sample { name, labels, value, time }) => {
                let labels = labels.iter().map(|(n, v)| (n.to_owned(), v.into_owned())).collect();
                (name.to_owned(), labels, value, time)
            }
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn samples_come_in_many_forms() {
        let no: Vec<(String, String)> = Vec::new();
        let label = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
            pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect()
        };
        assert_eq!(sample("up 1"), ("up".to_owned(), no.clone(), 1.0, None));
        assert_eq!(sample("up{} 1 1700000000000"), ("up".to_owned(), no.clone(), 1.0, Some(1.7e12)));
        assert_eq!(
            sample("a:b_c\t { x = \"1\" , } \t -2.5e3\r"),
            ("a:b_c".to_owned(), label(&[("x", "1")]), -2500.0, None)
        );
        assert_eq!(
            sample(r#"p{c="gemm --i 2,3 {x=\"y\"} \\",d="",e="ü\n"} +Inf"#),
            (
                "p".to_owned(),
                label(&[("c", "gemm --i 2,3 {x=\"y\"} \\"), ("d", ""), ("e", "ü\n")]),
                f64::INFINITY,
                None
            )
        );
        assert!(sample("x NaN").2.is_nan());
        assert_eq!(sample(r#"x_total 7 1.5 # {trace="a b"} 0.67 1520879607.789"#).3, Some(1.5));
        assert_eq!(sample(r#"x_bucket{le="+Inf"} 7 # {} 1"#).2, 7.0);
        assert_eq!(sample(r#"x{a="\q"} 1"#).1, label(&[("a", "\\q")]));
    }

    #[test]
    fn what_is_wrong_is_said() {
        let cases = [
            ("{a=\"b\"} 1", Wrong::Name),
            ("1x 1", Wrong::Name),
            ("<html>", Wrong::Name),
            ("x", Wrong::Value),
            ("x{a=\"b\"}", Wrong::Value),
            ("x one", Wrong::Value),
            ("x 1 2 3", Wrong::Rest),
            ("x 1 soon", Wrong::Rest),
            ("x{a=b} 1", Wrong::Labels),
            ("x{a=\"b} 1", Wrong::Labels),
            ("x{a=\"b\" c=\"d\"} 1", Wrong::Labels),
            ("x{a=\"b\"", Wrong::Labels),
            ("x{1a=\"b\"} 1", Wrong::Labels),
            ("x{a=\"b\\\"} 1", Wrong::Labels),
            ("x{a=\"b\",a=\"c\"} 1", Wrong::TooManyLabels),
        ];
        for (line, wrong) in cases {
            assert_eq!(parse_line(line), Err(wrong), "{line}");
        }
        let many: String = (0..65).map(|n| format!("l{n}=\"\",")).collect();
        assert_eq!(parse_line(&format!("x{{{many}}} 1")), Err(Wrong::TooManyLabels));
    }

    #[test]
    fn comments_are_types_ends_or_nothing() {
        assert_eq!(parse_line("# TYPE a counter"), Ok(Line::Type("a", Kind::Counter)));
        assert_eq!(parse_line("#TYPE a gauge"), Ok(Line::Type("a", Kind::Gauge)));
        assert_eq!(parse_line("# TYPE a unknown"), Ok(Line::Type("a", Kind::Untold)));
        assert_eq!(parse_line("# EOF"), Ok(Line::Eof));
        for line in ["", "  ", "#", "# HELP a b c", "# UNIT a b", "# TYPE a", "# EOF of what"] {
            assert_eq!(parse_line(line), Ok(Line::Empty), "{line}");
        }
    }

    #[test]
    fn an_answer_is_kept_without_what_is_wrong_or_there_twice() {
        let text = "\
# HELP lat Latency.
# TYPE lat histogram
lat_bucket{le=\"1\"} 2
lat_bucket{le=\"+Inf\"} 3
lat_sum 4.5
lat_count 3
# TYPE temp gauge
temp{gpu=\"0\",name=\"a\"} 40 1700000000000
temp{name=\"a\",gpu=\"0\"} 41
temp{gpu=\"1\"} NaN
what is this
other 1
";
        let exposition = read(text, false);
        let samples: Vec<_> = exposition.samples().collect();
        assert_eq!(samples.len(), exposition.len());
        let kinds: Vec<_> = samples.iter().map(|s| (s.name, s.kind.as_str())).collect();
        assert_eq!(
            kinds,
            [
                ("lat_bucket", Some("histogram")),
                ("lat_bucket", Some("histogram")),
                ("lat_sum", Some("histogram")),
                ("lat_count", Some("histogram")),
                ("temp", Some("gauge")),
                ("temp", Some("gauge")),
                ("other", None),
            ]
        );
        assert_eq!((exposition.wrong, exposition.twice, exposition.beyond), (1, 1, 0));
        assert!(exposition.first_wrong.as_deref().is_some_and(|w| w.starts_with("`what is this`: ")));
        assert_eq!(samples[4].at_micros, Some(1_700_000_000_000_000));
        assert_eq!(samples[4].labels.get("name").as_deref(), Some("a"));
        assert_eq!(samples[4].labels.get("none"), None);
        assert_ne!(samples[4].series, samples[5].series);
        assert!(!exposition.has_eof);
    }

    #[test]
    fn open_metrics_counts_seconds_and_ends() {
        let exposition = read("# TYPE a counter\na_total 1 1700000000.5\na_created 5\n# EOF\n", true);
        let samples: Vec<_> = exposition.samples().collect();
        assert_eq!(samples[0].at_micros, Some(1_700_000_000_500_000));
        assert_eq!(samples[1].kind, Kind::Counter);
        assert!(exposition.has_eof);
        assert_eq!(micros(f64::NAN, true), None);
        assert_eq!(micros(-1.0, true), None);
        assert_eq!(micros(1e300, true), None);
    }

    #[test]
    fn the_number_of_a_series_stays() {
        // It is in tables that are kept for years: it must not change with a version of anything.
        let Ok(Line::Sample { labels, .. }) = parse_line("x{b=\"2\",a=\"1\"} 0") else { panic!() };
        let Ok(Line::Sample { labels: turned, .. }) = parse_line("x{a=\"1\",c=\"\",b=\"2\"} 0") else { panic!() };
        assert_eq!(labels.hash(), turned.hash());
        assert_eq!(Labels("").hash(), i64::from_ne_bytes(0xcbf2_9ce4_8422_2325_u64.to_ne_bytes()));
    }

    #[test]
    fn what_is_too_much_is_counted() {
        let mut exposition = Exposition::new(false);
        for n in 0..MAX_SERIES + 10 {
            exposition.add_line(format!("x{{n=\"{n}\"}} 1").as_bytes(), None);
        }
        assert_eq!((exposition.len(), exposition.beyond), (MAX_SERIES, 10));
        exposition.add_line(b"\xff\xfe 1", None);
        assert_eq!(exposition.wrong, 1);
    }

    proptest! {
        #[test]
        fn any_text_is_survived(line in garbage()) {
            let mut exposition = Exposition::new(true);
            exposition.add_line(line.as_bytes(), None);
            for sample in exposition.samples() {
                sample.labels.iter().count();
            }
        }

        #[test]
        fn nearly_right_lines_are_survived(line in "[a-z_:]{0,5}[{]?([a-z]{0,2}=?\"?[a-z\\\\\"},]{0,6}\"?,?){0,4}[}]? ?[0-9NaIinf.+-]{0,6}( [0-9#]{0,4}){0,3}") {
            if let Ok(Line::Sample { labels, .. }) = parse_line(&line) {
                labels.iter().count();
            }
        }

        #[test]
        fn any_bytes_are_survived(line in prop::collection::vec(any::<u8>(), 0..200)) {
            Exposition::new(false).add_line(&line, None);
        }

        #[test]
        fn labels_come_back(pairs in prop::collection::btree_map("[a-z_][a-z0-9_]{0,8}", any::<String>(), 0..6), value in any::<f64>()) {
            let escape = |v: &str| v.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let labels: Vec<String> = pairs.iter().map(|(n, v)| format!("{n}=\"{}\"", escape(v))).collect();
            let line = format!("x{{{}}} {value}", labels.join(","));
            let (_, read, read_value, _) = sample(&line);
            prop_assert_eq!(read, pairs.into_iter().collect::<Vec<_>>());
            prop_assert!(read_value == value || value.is_nan());
        }
    }
}
