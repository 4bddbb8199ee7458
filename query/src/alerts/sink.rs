//! Where the rows of a rule with `sink = "alert"` go: incidents that changed are committed with the run, and then told.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::array::cast::AsArray;
use datafusion::arrow::datatypes::Int64Type;
use datafusion::common::ScalarValue;
use nodescope_model::catalogue::Table;

use super::incident::{About, Found, Incident, Incidents, Key, Patience};
use super::outlets::Outlets;
use super::record;
use super::summary::{Template, TextRows};
use crate::definition::{AlertHead, Definition};
use crate::engine::Engine;
use crate::own::OwnError;
use crate::schedule::run::Run;
use crate::schedule::sink::{Sink, SinkError};
use crate::schedule::windows::micros;

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
