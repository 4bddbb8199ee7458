//! One run: a rule, one window of event time, and how often that window has run before.

use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::common::ScalarValue;
use nodescope_model::catalogue::Table;
use nodescope_model::rows::{Rows, Stamp};

use super::windows::Window;
use crate::definition::{Definition, SinkName};
use crate::engine::Engine;
use crate::own::OwnError;

/// A rule and a window of it.
#[derive(Debug, Clone)]
pub struct Run {
    /// The rule.
    pub rule: Arc<Definition>,
    /// The window.
    pub window: Window,
    /// 0 for the window's first run, 1 and more when late rows made it run again.
    pub revision: i64,
    /// When it began, microseconds since 1970. Rows that a sink makes of this run bear times of it or of the window,
    /// never of a later clock, so that a run that is made again makes the same.
    pub began_us: i64,
}

impl Run {
    /// The values of the rule's SQL: its parameters, and `$from` and `$to`.
    pub fn values(&self) -> Vec<(String, ScalarValue)> {
        let mut values = self.rule.values();
        let time = |us| ScalarValue::TimestampMicrosecond(Some(us), Some("UTC".into()));
        values.push(("from".to_owned(), time(self.window.starts_us)));
        values.push(("to".to_owned(), time(self.window.ends_us)));
        values
    }

    /// Asks what the rule asks of this window.
    ///
    /// # Errors
    /// When the SQL cannot be planned any more, fails, takes too long or finds too much.
    pub async fn ask(&self, engine: &Engine) -> Result<Vec<RecordBatch>, OwnError> {
        engine.own(&self.rule.sql, &self.values()).await?.collect().await
    }
}

/// How a run ended.
#[derive(Debug, Clone)]
pub(crate) struct Ended {
    /// `done`, `failed`, or `begun` where nothing ran.
    pub(crate) state: &'static str,
    /// Why it failed; `None` when it did not.
    pub(crate) error: Option<String>,
    /// Rows found; `None` when there is nothing to count.
    pub(crate) rows: Option<u64>,
    /// When, microseconds since 1970.
    pub(crate) ended_us: i64,
}

/// The row of `schedule_run` that is committed with what a run brought.
pub(crate) fn row(table: &Arc<Table>, node: &str, run: &Run, ended: &Ended, positions: Option<&str>) -> RecordBatch {
    #[allow(clippy::cast_precision_loss, reason = "seconds")]
    let seconds = |us: i64| us as f64 / 1e6;
    let mut rows = Rows::new(table);
    rows.begin()
        .text("rule", run.rule.name.as_str())
        .int("window_microseconds", run.window.ends_us)
        .int("revision", run.revision)
        .timestamp("window_starts", run.window.starts_us)
        .timestamp("window_ends", run.window.ends_us)
        .text("sink", run.rule.sink.as_ref().map(SinkName::to_string).as_deref())
        .text("state", ended.state)
        .text("error", ended.error.as_deref())
        .count("rows", ended.rows)
        .float("duration_seconds", seconds(ended.ended_us - run.began_us).max(0.0))
        .float("delay_seconds", seconds(run.began_us - run.window.ends_us))
        .text("definition", run.rule.hash.as_str())
        .text("positions", positions);
    rows.finish(&Stamp { ts_micros: ended.ended_us, node, host: "" })
}
