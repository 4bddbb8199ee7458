//! An incident as a row of the table `alert`, and back.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::array::cast::AsArray;
use datafusion::arrow::array::{Array, ArrayRef, MapArray, RecordBatch};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Int64Type, TimestampMicrosecondType};
use datafusion::common::ScalarValue;
use nodescope_model::catalogue::Table;
use nodescope_model::rows::{Rows, Stamp};

use super::incident::{About, Incident};
use crate::engine::Engine;
use crate::own::OwnError;
use crate::schedule::run::Run;

/// The newest row of each incident that is open, or was over not long ago.
const NEWEST: &str = "SELECT a.rule, a.incident, a.sequence, a.state, a.severity, a.title, a.summary, a.techniques, \
     a.key, a.found, a.began, a.fired, a.lapsed, a.ended \
     FROM alert a JOIN (SELECT incident, max(sequence) AS sequence FROM alert GROUP BY incident) n \
     ON n.incident = a.incident AND n.sequence = a.sequence \
     WHERE a.state IN ('pending', 'firing') OR (a.state = 'resolved' AND (a.ended > $since OR a.ts > $since))";

/// Incidents that changed in a run, as rows. Those without a node are of this node.
pub(crate) fn rows(table: &Arc<Table>, node: &str, run: &Run, changed: &[Incident]) -> Vec<RecordBatch> {
    let mut by_place: BTreeMap<(&str, &str), Rows> = BTreeMap::new();
    for incident in changed {
        let place = |column: &str| incident.key.get(column).or_else(|| incident.found.get(column)).map(String::as_str);
        let at = (place("node").unwrap_or(node), place("host").unwrap_or_default());
        let rows = by_place.entry(at).or_insert_with(|| Rows::new(table));
        let mut row = rows.begin();
        row.text("rule", incident.about.rule.as_str())
            .text("incident", incident.id.as_str())
            .int("sequence", incident.sequence)
            .text("state", incident.state.as_str())
            .text("severity", incident.about.severity.as_str())
            .text("title", incident.about.title.as_str())
            .text("summary", incident.summary.as_str())
            .text_map("key", incident.key.iter().map(|(name, value)| (name.as_str(), value.as_str())))
            .text_map("found", incident.found.iter().map(|(name, value)| (name.as_str(), value.as_str())))
            .text("techniques", incident.about.techniques.as_str())
            .timestamp("began", incident.began_us)
            .timestamp("fired", incident.fired_us)
            .timestamp("lapsed", incident.lapsed_us)
            .timestamp("ended", incident.ended_us)
            .timestamp("window_starts", run.window.starts_us)
            .timestamp("window_ends", run.window.ends_us);
    }
    let stamped =
        |((node, host), mut rows): ((&str, &str), Rows)| rows.finish(&Stamp { ts_micros: run.began_us, node, host });
    by_place.into_iter().map(stamped).collect()
}

/// The incidents of all rules, or of one, that are open or ended after a time.
///
/// # Errors
/// When the store cannot be asked.
pub(crate) async fn read(engine: &Engine, rule: Option<&str>, since_us: i64) -> Result<Vec<Incident>, OwnError> {
    let time = ScalarValue::TimestampMicrosecond(Some(since_us), Some("UTC".into()));
    let mut values = vec![("since".to_owned(), time)];
    let mut sql = NEWEST.to_owned();
    if let Some(rule) = rule {
        sql = format!("SELECT * FROM ({sql}) newest WHERE rule = $rule");
        values.push(("rule".to_owned(), ScalarValue::from(rule)));
    }
    let batches = engine.own(&sql, &values).await?.collect().await?;
    Ok(batches.iter().flat_map(incidents).collect())
}

fn incidents(batch: &RecordBatch) -> Vec<Incident> {
    let text = |name: &str| batch.column_by_name(name).and_then(|column| cast(column, &DataType::Utf8).ok());
    let of = |column: &Option<ArrayRef>, row: usize| {
        column.as_ref().map(|c| c.as_string::<i32>().value(row).to_owned()).unwrap_or_default()
    };
    let (rule, id, state) = (text("rule"), text("incident"), text("state"));
    let (severity, title, summary) = (text("severity"), text("title"), text("summary"));
    let techniques = text("techniques");
    let number = |name: &str, row: usize| {
        let column = batch.column_by_name(name)?.as_primitive_opt::<Int64Type>()?;
        column.is_valid(row).then(|| column.value(row))
    };
    let time = |name: &str, row: usize| {
        let column = batch.column_by_name(name)?.as_primitive_opt::<TimestampMicrosecondType>()?;
        column.is_valid(row).then(|| column.value(row))
    };
    let map = |name: &str, row: usize| {
        batch.column_by_name(name).and_then(|column| column.as_any().downcast_ref::<MapArray>()).map(|c| pairs(c, row))
    };
    (0..batch.num_rows())
        .filter_map(|row| {
            Some(Incident {
                about: Arc::new(About {
                    rule: of(&rule, row),
                    title: of(&title, row),
                    severity: of(&severity, row),
                    techniques: of(&techniques, row),
                }),
                id: of(&id, row),
                sequence: number("sequence", row)?,
                state: of(&state, row).parse().ok()?,
                key: map("key", row)?,
                found: map("found", row).unwrap_or_default(),
                summary: of(&summary, row),
                began_us: time("began", row)?,
                fired_us: time("fired", row),
                lapsed_us: time("lapsed", row),
                ended_us: time("ended", row),
            })
        })
        .collect()
}

fn pairs(column: &MapArray, row: usize) -> BTreeMap<String, String> {
    if column.is_null(row) {
        return BTreeMap::new();
    }
    let entries = column.value(row);
    let texts = |at: usize| cast(entries.column(at), &DataType::Utf8).ok();
    let (Some(names), Some(values)) = (texts(0), texts(1)) else { return BTreeMap::new() };
    let (names, values) = (names.as_string::<i32>(), values.as_string::<i32>());
    (0..entries.len()).map(|at| (names.value(at).to_owned(), values.value(at).to_owned())).collect()
}
