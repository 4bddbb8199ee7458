//! How good rules are: what they find in a replay whose attacks are known.
//!
//! A replay is a store with rows of a time in which everything that was an attack has a label: which rule should say
//! so, of what, from when to when. Every rule is asked for every window of that time, as the schedule would ask it.
//! Rows of one key in windows that follow each other, up to the rule's `resolve_after`, are one incident. Then:
//!
//! - a label is *found* when an incident of its rule names its node, host and device while it lasts, or up to
//!   [`AFTERWARDS`] later, for rules look back;
//! - an incident is *right* when a label of its rule is found by it, *beside* when it names the host of another rule's
//!   attack in its time (a miner is busy without a job, too), and else *wrong*;
//! - recall is found by labels, precision right by right and wrong.
//!
//! What is of a whole node has no host, neither in a label nor in an incident: so an attack on a node excuses nothing
//! that is said of its hosts.

pub mod page;

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::DateTime;
use datafusion::arrow::array::{AsArray, RecordBatch};
use datafusion::arrow::datatypes::Int64Type;
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::common::{DataFusionError, ScalarValue};
use serde::{Deserialize, Serialize};

use crate::definition::{AlertHead, Definition};
use crate::engine::Engine;
use crate::own::OwnError;
use crate::schedule::run::Run;
use crate::schedule::windows::{Grid, Window};

/// How long after the end of an attack it may still be told, microseconds. The longest look-back of what is told late
/// is an hour.
pub const AFTERWARDS: i64 = 3_600_000_000;

/// An attack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    /// The rule that should say so.
    pub rule: String,
    /// The node.
    pub node: String,
    /// The host; empty for the node as a whole.
    pub host: String,
    /// The device; empty for the host as a whole.
    pub device: String,
    /// When it begins, microseconds since 1970.
    pub begin_us: i64,
    /// When it is over.
    pub end_us: i64,
}

/// Why labels cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LabelError {
    /// It is not CSV with the columns there must be.
    #[error("labels are CSV with the header rule,node,host,device,begin,end")]
    Csv(#[from] csv::Error),
    /// A time is none.
    #[error("line {line}: `{text}` is not a time such as 2026-03-02T12:00:00Z")]
    Time {
        /// Which line, the header being 1.
        line: usize,
        /// What stands there.
        text: String,
    },
}

/// Reads labels.
///
/// # Errors
/// When the text is not CSV with the columns there must be, or a time is none.
pub fn labels(text: &str) -> Result<Vec<Label>, LabelError> {
    #[derive(Deserialize)]
    struct Line {
        rule: String,
        node: String,
        host: String,
        device: String,
        begin: String,
        end: String,
    }
    let time = |line: usize, text: &str| {
        DateTime::parse_from_rfc3339(text)
            .map(|time| time.timestamp_micros())
            .map_err(|_| LabelError::Time { line, text: text.to_owned() })
    };
    let mut labels = Vec::new();
    for (at, line) in csv::Reader::from_reader(text.as_bytes()).deserialize::<Line>().enumerate() {
        let Line { rule, node, host, device, begin, end } = line?;
        let (begin_us, end_us) = (time(at + 2, &begin)?, time(at + 2, &end)?);
        labels.push(Label { rule, node, host, device, begin_us, end_us });
    }
    Ok(labels)
}

/// Rows of one key in windows that follow each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incident {
    /// Values of the key.
    pub key: Vec<String>,
    /// Name and value of every column of the row that showed it first.
    pub found: Vec<(String, String)>,
    /// Begin of the first window.
    pub begin_us: i64,
    /// End of the last.
    pub end_us: i64,
    /// End of the first window: when it could be told.
    pub told_us: i64,
}

/// Asks a rule for every window that ends in `(from_us, to_us]`, and puts together what is one incident.
///
/// # Errors
/// When its SQL fails, or has no such columns as its key says.
pub async fn replay(
    engine: &Engine,
    rule: &Arc<Definition>,
    from_us: i64,
    to_us: i64,
) -> Result<Vec<Incident>, OwnError> {
    let Some(alert) = &rule.alert else { return Ok(Vec::new()) };
    let grid = Grid::of(rule);
    let mut incidents = Incidents::new(alert);
    let mut window = grid.after(from_us);
    while window.ends_us <= to_us {
        let run = Run { rule: Arc::clone(rule), window, revision: 0, began_us: grid.due_us(window) };
        for batch in run.ask(engine).await? {
            incidents.take(window, &batch).map_err(OwnError::Run)?;
        }
        window = grid.after(window.ends_us);
    }
    Ok(incidents.all)
}

/// Incidents of one rule, while its windows are asked one after the other.
struct Incidents<'r> {
    alert: &'r AlertHead,
    all: Vec<Incident>,
    newest: BTreeMap<Vec<String>, usize>,
}

impl<'r> Incidents<'r> {
    fn new(alert: &'r AlertHead) -> Self {
        Self { alert, all: Vec::new(), newest: BTreeMap::new() }
    }

    fn take(&mut self, window: Window, batch: &RecordBatch) -> Result<(), DataFusionError> {
        let options = FormatOptions::default().with_null("");
        let schema = batch.schema();
        let columns = batch
            .columns()
            .iter()
            .map(|column| ArrayFormatter::try_new(column.as_ref(), &options))
            .collect::<Result<Vec<_>, _>>()?;
        let patience = i64::try_from(self.alert.resolve_after.as_micros()).unwrap_or(i64::MAX);
        for row in 0..batch.num_rows() {
            let found: Vec<(String, String)> = schema
                .fields()
                .iter()
                .zip(&columns)
                .map(|(field, column)| (field.name().clone(), column.value(row).to_string()))
                .collect();
            let of = |name: &String| found.iter().find(|(column, _)| column == name).map(|(_, value)| value.clone());
            let key: Vec<String> = self.alert.key.iter().map(|name| of(name).unwrap_or_default()).collect();
            let known = self.newest.get(&key).and_then(|at| self.all.get_mut(*at));
            match known {
                Some(incident) if window.ends_us.saturating_sub(incident.end_us) <= patience => {
                    incident.end_us = window.ends_us;
                }
                _ => {
                    self.newest.insert(key.clone(), self.all.len());
                    let (begin_us, end_us) = (window.starts_us, window.ends_us);
                    self.all.push(Incident { key, found, begin_us, end_us, told_us: end_us });
                }
            }
        }
        Ok(())
    }
}

impl Incident {
    fn value(&self, column: &str) -> &str {
        self.found.iter().find(|(name, _)| name == column).map_or("", |(_, value)| value)
    }

    /// Whether some value names a host: as a whole, or as a word of it.
    fn mentions(&self, name: &str) -> bool {
        let is_end =
            |letter: Option<char>| letter.is_none_or(|l| !l.is_alphanumeric() && !matches!(l, '-' | '_' | '.'));
        self.found.iter().any(|(_, value)| {
            value.match_indices(name).any(|(at, _)| {
                is_end(value[..at].chars().next_back()) && is_end(value[at + name.len()..].chars().next())
            })
        })
    }

    /// Whether it is of the same host (or node, where both are of a whole node), at the same time.
    fn is_near(&self, label: &Label, alert: &AlertHead) -> bool {
        let in_time = self.begin_us < label.end_us.saturating_add(AFTERWARDS) && self.end_us > label.begin_us;
        let by_host = alert.key.iter().any(|column| column == "host");
        let host = self.value("host");
        let same_host = if label.host.is_empty() {
            host.is_empty()
        } else {
            host == label.host || (!by_host && self.mentions(&label.host))
        };
        let same_node = label.node.is_empty()
            || self.value("node").is_empty()
            || self.value("node") == label.node
            || (!by_host && self.mentions(&label.node));
        in_time && same_host && same_node
    }

    fn is_of(&self, label: &Label, alert: &AlertHead) -> bool {
        self.is_near(label, alert) && (label.device.is_empty() || self.mentions(&label.device))
    }
}

/// How rules did, as `rules/scores.toml` keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Kept {
    /// Against attacks.
    pub attacks: Option<Measured>,
    /// On a benign day.
    pub benign: Option<Measured>,
}

/// How rules did in one replay.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Measured {
    /// What was replayed, in the words of who did it: what cannot be counted, as the seed.
    pub replay: String,
    /// From when to when, RFC 3339.
    pub begin: String,
    /// See `begin`.
    pub end: String,
    /// Hosts that had rows in that time.
    pub hosts: i64,
    /// Accelerators that had.
    pub accelerators: i64,
    /// How each rule did, by name.
    #[serde(default, rename = "score")]
    pub scores: Vec<Score>,
}

/// Whether a rule is a detection: D1 to D20 of the programme, and what may follow.
pub fn is_detection(rule: &Definition) -> bool {
    let number = rule.name.strip_prefix('d').and_then(|rest| rest.split_once('_')).map_or("", |(number, _)| number);
    rule.alert.is_some() && number.len() == 2 && number.bytes().all(|letter| letter.is_ascii_digit())
}

/// Hosts and accelerators that have rows in a time, by their hours.
///
/// # Errors
/// When the engine fails.
pub async fn size(engine: &Engine, from_us: i64, to_us: i64) -> Result<(i64, i64), OwnError> {
    let sql = "SELECT (SELECT count(*) FROM (SELECT DISTINCT node, host FROM system_1h \
               WHERE ts >= $from AND ts < $to)) AS hosts, \
               (SELECT count(*) FROM (SELECT DISTINCT device FROM accelerator_1h \
               WHERE ts >= $from AND ts < $to)) AS accelerators";
    let time = |us| ScalarValue::TimestampMicrosecond(Some(us), Some("UTC".into()));
    let values = [("from".to_owned(), time(from_us)), ("to".to_owned(), time(to_us))];
    let rows = engine.own(sql, &values).await?.collect().await?;
    let of = |column: usize| {
        let batch = rows.iter().find(|batch| batch.num_rows() > 0)?;
        batch.column(column).as_primitive_opt::<Int64Type>().map(|counts| counts.value(0))
    };
    Ok((of(0).unwrap_or(0), of(1).unwrap_or(0)))
}

/// How a rule did.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Score {
    /// The rule.
    pub rule: String,
    /// Attacks that it should have found.
    pub labels: usize,
    /// Attacks that it found.
    pub found: usize,
    /// Incidents that were attacks of its own.
    pub right: usize,
    /// Incidents at the time and place of another rule's attack.
    pub beside: usize,
    /// Incidents that were nothing.
    pub wrong: usize,
    /// Longest time from the begin of an attack until it could be told, microseconds.
    pub slowest_us: i64,
}

impl Score {
    /// Attacks found, of those there were; `None` when there were none.
    pub fn recall(&self) -> Option<f64> {
        ratio(self.found, self.labels)
    }

    /// Incidents that were attacks, of all; `None` when there were none.
    pub fn precision(&self) -> Option<f64> {
        ratio(self.right, self.right + self.wrong)
    }
}

#[allow(clippy::cast_precision_loss, reason = "counts of incidents")]
fn ratio(part: usize, whole: usize) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

/// Compares the incidents of a rule with the attacks there were.
pub fn score(rule: &Definition, incidents: &[Incident], labels: &[Label]) -> Score {
    let mut score = Score { rule: rule.name.clone(), ..Score::default() };
    let Some(alert) = &rule.alert else { return score };
    for label in labels.iter().filter(|label| label.rule == rule.name) {
        score.labels += 1;
        let first = incidents.iter().filter(|incident| incident.is_of(label, alert)).map(|i| i.told_us).min();
        if let Some(told) = first {
            score.found += 1;
            score.slowest_us = score.slowest_us.max(told.saturating_sub(label.begin_us));
        }
    }
    for incident in incidents {
        match verdict(rule, alert, incident, labels) {
            Verdict::Right => score.right += 1,
            Verdict::Beside => score.beside += 1,
            Verdict::Wrong => score.wrong += 1,
        }
    }
    score
}

/// Attacks that a rule should have found and did not.
pub fn missed<'l>(rule: &Definition, incidents: &[Incident], labels: &'l [Label]) -> Vec<&'l Label> {
    let Some(alert) = &rule.alert else { return Vec::new() };
    let is_missed = |label: &&Label| label.rule == rule.name && !incidents.iter().any(|i| i.is_of(label, alert));
    labels.iter().filter(is_missed).collect()
}

/// Whether an incident was nothing: neither an attack of its rule nor at the place and time of another's.
pub fn is_wrong(rule: &Definition, incident: &Incident, labels: &[Label]) -> bool {
    rule.alert.as_ref().is_some_and(|alert| verdict(rule, alert, incident, labels) == Verdict::Wrong)
}

#[derive(PartialEq, Eq)]
enum Verdict {
    Right,
    Beside,
    Wrong,
}

fn verdict(rule: &Definition, alert: &AlertHead, incident: &Incident, labels: &[Label]) -> Verdict {
    if labels.iter().any(|label| label.rule == rule.name && incident.is_of(label, alert)) {
        Verdict::Right
    } else if labels.iter().any(|label| incident.is_near(label, alert)) {
        Verdict::Beside
    } else {
        Verdict::Wrong
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use datafusion::arrow::array::StringArray;
    use datafusion::arrow::datatypes::{DataType, Field, Schema};

    use super::*;
    use crate::definition::Purpose;

    const MINUTE: i64 = 60_000_000;

    fn rule(key: &str) -> Definition {
        let text = format!(
            "/*\ntitle = \"x\"\nevery = \"1m\"\nsink = \"alert\"\n[alert]\nseverity = \"info\"\nkey = [{key}]\n\
             summary = \"{{node}}\"\ntechniques = []\nresolve_after = \"3m\"\n*/\nSELECT 1 AS node WHERE $from < $to"
        );
        Definition::parse("rules/d99_x.sql", &text, Purpose::Rule).unwrap()
    }

    fn rows(node: &[&str], host: &[&str], device: &[&str]) -> RecordBatch {
        let fields = ["node", "host", "device"].map(|name| Field::new(name, DataType::Utf8, true));
        let columns = [node, host, device].map(|values| Arc::new(StringArray::from(values.to_vec())) as _);
        RecordBatch::try_new(Arc::new(Schema::new(fields.to_vec())), columns.to_vec()).unwrap()
    }

    fn incidents(rule: &Definition, minutes: &[(i64, RecordBatch)]) -> Vec<Incident> {
        let mut incidents = Incidents::new(rule.alert.as_ref().unwrap());
        for (minute, batch) in minutes {
            let window = Grid::of(rule).ending(minute * MINUTE);
            incidents.take(window, batch).unwrap();
        }
        incidents.all
    }

    fn label(rule: &str, host: &str, device: &str, from: i64, to: i64) -> Label {
        let text = |text: &str| text.to_owned();
        let (begin_us, end_us) = (from * MINUTE, to * MINUTE);
        Label { rule: text(rule), node: text("n"), host: text(host), device: text(device), begin_us, end_us }
    }

    #[test]
    fn rows_of_one_key_are_one_incident_until_it_is_resolved() {
        let rule = rule("\"node\", \"host\"");
        assert_eq!(rule.alert.as_ref().unwrap().resolve_after, Duration::from_secs(180));
        let row = |host| rows(&["n"], &[host], &["g"]);
        let all = incidents(&rule, &[(1, row("a")), (2, row("a")), (2, row("b")), (5, row("a")), (9, row("a"))]);
        let spans: Vec<_> = all.iter().map(|i| (i.key[1].as_str(), i.begin_us / MINUTE, i.end_us / MINUTE)).collect();
        assert_eq!(spans, [("a", 0, 5), ("b", 1, 2), ("a", 8, 9)]);
    }

    #[test]
    fn incidents_are_right_beside_or_wrong() {
        let rule = rule("\"node\", \"host\", \"device\"");
        let all = incidents(
            &rule,
            &[
                (10, rows(&["n", "n", "n"], &["a", "a", "b"], &["g1", "g2", "g1"])),
                (500, rows(&["n", "n"], &["a", "c"], &["g1", "g1"])),
            ],
        );
        let labels = [
            label("d99_x", "a", "g1", 5, 20),
            label("d99_x", "missed", "", 5, 20),
            label("d98_y", "c", "", 480, 510),
            label("d98_y", "b", "", 480, 510),
        ];
        let score = score(&rule, &all, &labels);
        assert_eq!((score.labels, score.found), (2, 1));
        assert_eq!((score.right, score.beside, score.wrong), (1, 2, 2), "{all:?}");
        assert_eq!((score.recall(), score.precision()), (Some(0.5), Some(1.0 / 3.0)));
        assert_eq!(score.slowest_us, 5 * MINUTE);
    }

    #[test]
    fn a_rule_that_is_silent_has_no_precision() {
        let score = score(&rule("\"node\""), &[], &[]);
        assert_eq!((score.recall(), score.precision()), (None, None));
    }

    #[test]
    fn what_is_of_a_node_is_found_by_any_name_in_it() {
        let rule = rule("\"node\"");
        let all = incidents(&rule, &[(10, rows(&["n"], &[""], &["n/host-1, n/host-12"]))]);
        let found = |host| score(&rule, &all, &[label("d99_x", host, "", 5, 20)]).found;
        assert_eq!((found("host-1"), found("host-12")), (1, 1));
        let all = incidents(&rule, &[(10, rows(&["m"], &["z"], &["n/host-1, n/host-12"]))]);
        let found = |host| score(&rule, &all, &[label("d99_x", host, "", 5, 20)]).found;
        assert_eq!((found("host-1"), found("host")), (1, 0), "a part of a name is another name");
    }

    #[test]
    fn an_attack_on_a_node_excuses_nothing_of_its_hosts() {
        let rule = rule("\"node\", \"host\"");
        let all = incidents(&rule, &[(10, rows(&["n", "n", "m"], &["", "a", ""], &["", "", ""]))]);
        let own = score(&rule, &all, &[label("d99_x", "", "", 5, 20)]);
        assert_eq!((own.found, own.right, own.beside, own.wrong), (1, 1, 0, 2));
        let other = score(&rule, &all, &[label("d98_y", "", "", 5, 20)]);
        assert_eq!((other.right, other.beside, other.wrong), (0, 1, 2));
        let host = score(&rule, &all, &[label("d98_y", "a", "", 5, 20)]);
        assert_eq!((host.right, host.beside, host.wrong), (0, 1, 2), "nor the reverse");
    }

    #[test]
    fn labels_are_csv() {
        let text = "rule,node,host,device,begin,end\nd01_x,n,h,,2026-03-02T12:00:00Z,2026-03-02T12:30:00Z\n";
        let read = labels(text).unwrap();
        assert_eq!((read[0].rule.as_str(), read[0].end_us - read[0].begin_us), ("d01_x", 30 * MINUTE));
        let error = labels(&text.replace("12:30", "half past")).unwrap_err();
        assert!(error.to_string().starts_with("line 2: `2026"), "{error}");
        assert!(labels("a,b\n1,2\n").is_err());
    }
}
