//! Where rows of rules go that somebody is to be told of: `sink = "alert"`, and reports to a webhook or a topic.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::array::cast::AsArray;
use datafusion::arrow::datatypes::Int64Type;
use datafusion::common::ScalarValue;
use nodescope_model::catalogue::Table;
use serde_json::json;

use super::incident::{About, Found, Incident, Incidents, Key, Patience};
use super::outlets::{Message, Outlets};
use super::record;
use super::summary::{Template, TextRows};
use crate::definition::{AlertHead, Definition};
use crate::engine::Engine;
use crate::own::OwnError;
use crate::schedule::run::Run;
use crate::schedule::sink::{Sink, SinkError};
use crate::schedule::windows::{Grid, micros};

/// Rows of one report that are told. Who wants more reads a table.
const MOST_ROWS: usize = 1_000;

/// Reports that have not been told are made anew this long after their run, in microseconds.
const OWED_FOR_US: i64 = 86_400_000_000;

/// Incidents of one rule.
#[derive(Debug)]
pub struct AlertSink {
    table: Arc<Table>,
    node: String,
    maker: Maker,
    incidents: Incidents,
    changed: Vec<Incident>,
    outlets: Outlets,
}

/// Makes of rows what incidents are made of.
#[derive(Debug, Clone)]
pub struct Maker {
    key: Vec<String>,
    template: Template,
}

impl Maker {
    /// By the head of a rule.
    ///
    /// # Errors
    /// When its template is none.
    pub fn new(head: &AlertHead) -> Result<Self, SinkError> {
        let template = Template::parse(&head.summary).map_err(|e| other("the summary is no template", e))?;
        Ok(Self { key: head.key.clone(), template })
    }

    /// What was found, by key. Of several rows with one key the first is taken, in the order of their texts.
    pub fn found(&self, rows: &[RecordBatch]) -> BTreeMap<Key, Found> {
        let mut found: BTreeMap<Key, Found> = BTreeMap::new();
        for batch in rows {
            let rows = TextRows::of(batch);
            for row in 0..rows.len() {
                let value = |column: &String| (column.clone(), rows.text(column, row).unwrap_or_default());
                let key = self.key.iter().map(value).collect();
                let new = Found { columns: rows.row(row), summary: self.template.fill(&rows, row) };
                match found.get_mut(&key) {
                    Some(old) if old.columns <= new.columns => {}
                    Some(old) => *old = new,
                    None => {
                        found.insert(key, new);
                    }
                }
            }
        }
        found
    }
}

/// No incidents yet of a rule whose last window ended there.
pub fn incidents(rule: &Definition, head: &AlertHead, newest_us: i64, rows: Vec<Incident>) -> Incidents {
    let about = About {
        rule: rule.name.clone(),
        title: rule.title.clone(),
        severity: head.severity.as_str().to_owned(),
        techniques: head.techniques.join(","),
    };
    let patience = Patience {
        every_us: micros(rule.every),
        hold_us: micros(head.hold),
        resolve_after_us: micros(head.resolve_after),
        restate_us: micros(rule.restate),
    };
    Incidents::restore(Arc::new(about), patience, newest_us, rows)
}

impl AlertSink {
    /// The sink of a rule, with the incidents that the store knows.
    ///
    /// # Errors
    /// When the rule makes no alerts, or the store cannot be asked.
    pub async fn open(
        rule: &Arc<Definition>,
        engine: &Engine,
        node: &str,
        outlets: &Outlets,
    ) -> Result<Self, SinkError> {
        let catalogue = engine.reader().store().catalogue();
        let table = catalogue.get("alert").ok_or_else(|| SinkError::NoTable("alert".to_owned()))?;
        let head = rule.alert.as_ref().ok_or_else(|| SinkError::Other("it has no [alert]".to_owned(), None))?;
        let newest_us = last_end(engine, &rule.name).await.map_err(unreadable)?;
        // Before the first run nothing has ended: a time must still be one that the engine can write.
        let since = newest_us.saturating_sub(micros(rule.restate)).max(0);
        let rows = record::read(engine, Some(&rule.name), since).await.map_err(unreadable)?;
        Ok(Self {
            table: Arc::clone(table),
            node: node.to_owned(),
            maker: Maker::new(head)?,
            incidents: incidents(rule, head, newest_us, rows),
            changed: Vec::new(),
            outlets: outlets.clone(),
        })
    }
}

#[async_trait]
impl Sink for AlertSink {
    fn take(&mut self, run: &Run, rows: &[RecordBatch]) -> Result<Vec<(Arc<Table>, RecordBatch)>, SinkError> {
        let found = self.maker.found(rows);
        self.changed = self.incidents.run(run.window.ends_us, run.revision, found);
        let batches = record::rows(&self.table, &self.node, run, &self.changed);
        Ok(batches.into_iter().map(|batch| (Arc::clone(&self.table), batch)).collect())
    }

    async fn committed(&mut self, _run: &Run) {
        self.outlets.changed(std::mem::take(&mut self.changed)).await;
    }
}

/// Rows of one rule, told as they are to one outlet.
#[derive(Debug)]
pub struct ReportSink {
    outlet: String,
    report: Option<Message>,
    outlets: Outlets,
}

impl ReportSink {
    /// The sink of a rule whose reports go to an outlet of that name. Reports of the last day that were committed and
    /// not told are made once more, and told.
    ///
    /// # Errors
    /// When there is no such outlet, or the store cannot be asked.
    pub async fn open(rule: &Arc<Definition>, engine: &Arc<Engine>, outlets: &Outlets) -> Result<Self, SinkError> {
        let name = rule.sink.as_ref().map(ToString::to_string).unwrap_or_default();
        if !outlets.has(&name) {
            return match &rule.sink {
                Some(sink) => Err(SinkError::NoOutlet(sink.clone())),
                None => Err(SinkError::Other(format!("{} is a view and has no sink", rule.name), None)),
            };
        }
        let owed = owed(engine, rule, &name).await.map_err(unreadable)?;
        let (outlet, teller, engine) = (name.clone(), outlets.clone(), Arc::clone(engine));
        if !owed.is_empty() {
            tokio::spawn(async move {
                for run in owed {
                    match run.ask(&engine).await {
                        Ok(rows) => teller.report(&outlet, &report(&run, &rows)),
                        Err(error) => tracing::warn!(rule = run.rule.name, %error, "a report cannot be made again"),
                    }
                }
            });
        }
        Ok(Self { outlet: name, report: None, outlets: outlets.clone() })
    }
}

#[async_trait]
impl Sink for ReportSink {
    fn take(&mut self, run: &Run, rows: &[RecordBatch]) -> Result<Vec<(Arc<Table>, RecordBatch)>, SinkError> {
        let is_empty = rows.iter().all(|batch| batch.num_rows() == 0);
        self.report = (!is_empty).then(|| report(run, rows));
        Ok(Vec::new())
    }

    async fn committed(&mut self, _run: &Run) {
        if let Some(report) = self.report.take() {
            self.outlets.report(&self.outlet, &report);
        }
    }
}

fn report(run: &Run, rows: &[RecordBatch]) -> Message {
    let mut told = Vec::new();
    let mut count = 0;
    for batch in rows {
        let rows = TextRows::of(batch);
        count += rows.len();
        told.extend((0..rows.len()).take(MOST_ROWS - told.len()).map(|row| rows.json(row)));
    }
    let about = report_name(&run.rule.name, run.window.ends_us, run.revision);
    let body = json!({
        "version": 1,
        "report": about,
        "rule": run.rule.name,
        "title": run.rule.title,
        "window_starts": super::outlets::time(run.window.starts_us),
        "window_ends": super::outlets::time(run.window.ends_us),
        "revision": run.revision,
        "rows": told,
        "left_out": count - told.len(),
    });
    Message::Report { about, body: Arc::new(body) }
}

fn report_name(rule: &str, ends_us: i64, revision: i64) -> String {
    format!("{rule}@{ends_us}.{revision}")
}

/// Runs of the last day that brought rows of which the outlet has not been told.
async fn owed(engine: &Engine, rule: &Arc<Definition>, outlet: &str) -> Result<Vec<Run>, OwnError> {
    let time = ScalarValue::TimestampMicrosecond(
        Some(crate::schedule::now_us().saturating_sub(OWED_FOR_US)),
        Some("UTC".into()),
    );
    let values = [
        ("rule".to_owned(), ScalarValue::from(rule.name.as_str())),
        ("outlet".to_owned(), ScalarValue::from(outlet)),
        ("since".to_owned(), time),
    ];
    let sql = "SELECT window_microseconds, revision, max(ts) AS ts FROM schedule_run r \
         WHERE rule = $rule AND state = 'done' AND \"rows\" > 0 AND ts > $since AND NOT EXISTS (\
         SELECT 1 FROM notification n WHERE n.outlet = $outlet AND n.about = \
         $rule || '@' || r.window_microseconds::varchar || '.' || r.revision::varchar) GROUP BY 1, 2 ORDER BY 1, 2";
    let grid = Grid::of(rule);
    let mut owed = Vec::new();
    for batch in engine.own(sql, &values).await?.collect().await? {
        let numbers = |at: usize| batch.column(at).as_primitive_opt::<Int64Type>();
        let (Some(ends), Some(revisions)) = (numbers(0), numbers(1)) else { continue };
        owed.extend(ends.values().iter().zip(revisions.values()).map(|(end, revision)| Run {
            rule: Arc::clone(rule),
            window: grid.ending(*end),
            revision: *revision,
            began_us: *end,
        }));
    }
    Ok(owed)
}

/// End of the last window of a rule that has run.
async fn last_end(engine: &Engine, rule: &str) -> Result<i64, OwnError> {
    let sql =
        "SELECT max(window_microseconds) AS ended FROM schedule_run WHERE rule = $rule AND state IN ('done', 'begun')";
    let values = [("rule".to_owned(), ScalarValue::from(rule))];
    let batches = engine.own(sql, &values).await?.collect().await?;
    let ended = batches.first().and_then(|batch| {
        let ends = batch.column(0).as_primitive_opt::<Int64Type>()?;
        ends.iter().next().flatten()
    });
    // Nothing has run: before all that could.
    Ok(ended.unwrap_or(0))
}

fn unreadable(error: OwnError) -> SinkError {
    other("its incidents cannot be read back", error)
}

fn other(what: &str, error: impl std::error::Error + Send + Sync + 'static) -> SinkError {
    SinkError::Other(what.to_owned(), Some(Box::new(error)))
}
