//! What has run, read back from the store.
//!
//! A run and its row of `schedule_run` are one append, so what is there is done and what is not is not. Of each rule
//! one number is enough: the end of its last window that is done. Beside it stand the revisions of windows that ran
//! again, and how far late rows have been looked for.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use datafusion::arrow::array::{Array, RecordBatch, cast::AsArray};
use datafusion::arrow::datatypes::Int64Type;
use datafusion::common::ScalarValue;
use nodescope_store::cut::Positions;

use super::late;
use super::windows::micros;
use crate::engine::Engine;
use crate::own::OwnError;

/// Nearly every rule has run in this time. Only those that have not are looked for further back.
const RECENT: Duration = Duration::from_secs(8 * 86_400);

/// Where a schedule goes on.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Progress {
    /// End of the last window that is done, by rule, microseconds since 1970.
    pub ended_us: BTreeMap<String, i64>,
    /// End of the window before the first, by rule: nothing older has ever run. Not known of rules that are old.
    pub first_us: BTreeMap<String, i64>,
    /// Revision of windows that have run again and may do so once more, by rule and end.
    pub revisions: HashMap<(String, i64), i64>,
    /// How far late rows have been looked for. Empty when nobody has ever looked.
    pub settled: Positions,
}

impl Progress {
    /// Reads it back for these rules. Revisions are those of windows no older than `restate`.
    ///
    /// # Errors
    /// When the store cannot be asked.
    pub async fn read(
        engine: &Engine,
        rules: &BTreeSet<&str>,
        restate: Duration,
        now_us: i64,
    ) -> Result<Self, OwnError> {
        let mut progress = Self::default();
        let recent = now_us.saturating_sub(micros(RECENT));
        progress.ends(engine, recent).await?;
        if rules.iter().any(|rule| !progress.ended_us.contains_key(*rule)) {
            progress.ends(engine, 0).await?;
        }
        let oldest = now_us.saturating_sub(micros(restate));
        for batch in ask(
            engine,
            "SELECT rule, window_microseconds, max(revision) AS revision FROM schedule_run \
             WHERE state = 'done' AND revision > 0 AND ts >= $since AND window_microseconds >= $oldest GROUP BY 1, 2",
            &[("since", time(oldest)), ("oldest", ScalarValue::from(oldest))],
        )
        .await?
        {
            let (names, ends, revisions) = (texts(&batch, 0), numbers(&batch, 1), numbers(&batch, 2));
            for ((rule, end), revision) in names.into_iter().zip(ends).zip(revisions) {
                progress.revisions.insert((rule, end), revision);
            }
        }
        let newest =
            "SELECT positions FROM schedule_run WHERE positions IS NOT NULL AND ts >= $since ORDER BY ts DESC LIMIT 1";
        for since in [recent, 0] {
            let batches = ask(engine, newest, &[("since", time(since))]).await?;
            if let Some(text) = batches.first().and_then(|batch| texts(batch, 0).into_iter().next()) {
                progress.settled = late::from_json(&text);
                break;
            }
        }
        Ok(progress)
    }

    async fn ends(&mut self, engine: &Engine, since_us: i64) -> Result<(), OwnError> {
        for (states, ends) in [("'done', 'begun'", &mut self.ended_us), ("'begun'", &mut self.first_us)] {
            let sql = format!(
                "SELECT rule, max(window_microseconds) AS ended FROM schedule_run \
                 WHERE state IN ({states}) AND ts >= $since GROUP BY 1"
            );
            for batch in ask(engine, &sql, &[("since", time(since_us))]).await? {
                ends.extend(texts(&batch, 0).into_iter().zip(numbers(&batch, 1)));
            }
        }
        Ok(())
    }
}

fn time(us: i64) -> ScalarValue {
    ScalarValue::TimestampMicrosecond(Some(us), Some("UTC".into()))
}

async fn ask(engine: &Engine, sql: &str, values: &[(&str, ScalarValue)]) -> Result<Vec<RecordBatch>, OwnError> {
    let values: Vec<_> = values.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    engine.own(sql, &values).await?.collect().await
}

fn texts(batch: &RecordBatch, column: usize) -> Vec<String> {
    use datafusion::arrow::compute::cast;
    use datafusion::arrow::datatypes::DataType;
    let Ok(column) = cast(batch.column(column), &DataType::Utf8) else { return Vec::new() };
    let column = column.as_string::<i32>();
    (0..column.len()).map(|at| column.value(at).to_owned()).collect()
}

fn numbers(batch: &RecordBatch, column: usize) -> Vec<i64> {
    batch.column(column).as_primitive_opt::<Int64Type>().map(|c| c.values().to_vec()).unwrap_or_default()
}
