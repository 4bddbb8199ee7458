//! A rule over time that has passed: what it would have said. Nothing is written and nobody is told.

use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use nodescope_service::errors::chain;

use super::incident::{Incident, Incidents};
use super::sink::{Maker, incidents};
use crate::definition::Definition;
use crate::engine::Engine;
use crate::own::OwnError;
use crate::schedule::run::Run;
use crate::schedule::sink::SinkError;
use crate::schedule::windows::{Grid, Window};

/// Why a rule cannot be replayed.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// A window has no answer.
    #[error("the window that ends at {}", super::outlets::time(*ends_us))]
    Window {
        /// Which.
        ends_us: i64,
        /// Why.
        #[source]
        source: OwnError,
    },
    /// The head makes no incidents.
    #[error(transparent)]
    Head(#[from] SinkError),
}

/// A rule that is run window by window.
#[derive(Debug)]
pub struct Replay {
    rule: Arc<Definition>,
    grid: Grid,
    next: Window,
    until_us: i64,
    alert: Option<(Maker, Incidents)>,
}

/// What one window brought.
#[derive(Debug)]
pub struct Replayed {
    /// Which.
    pub window: Window,
    /// Rows found.
    pub rows: Vec<RecordBatch>,
    /// Incidents that changed; none for rules that make no alerts.
    pub changed: Vec<Incident>,
}

impl Replay {
    /// Of the windows that end after `from_us` and not after `until_us`, beginning without incidents.
    ///
    /// # Errors
    /// When the head makes no incidents.
    pub fn new(rule: Arc<Definition>, from_us: i64, until_us: i64) -> Result<Self, ReplayError> {
        let grid = Grid::of(&rule);
        let alert = match &rule.alert {
            Some(head) => Some((Maker::new(head)?, incidents(&rule, head, i64::MIN, Vec::new()))),
            None => None,
        };
        Ok(Self { next: grid.after(from_us), grid, until_us, alert, rule })
    }

    /// Runs the next window; `None` after the last.
    ///
    /// # Errors
    /// When its SQL fails. The window may be tried again.
    pub async fn next(&mut self, engine: &Engine) -> Result<Option<Replayed>, ReplayError> {
        let window = self.next;
        if window.ends_us > self.until_us {
            return Ok(None);
        }
        let run = Run { rule: Arc::clone(&self.rule), window, revision: 0, began_us: window.ends_us };
        let rows = run.ask(engine).await.map_err(|source| ReplayError::Window { ends_us: window.ends_us, source })?;
        let changed = match &mut self.alert {
            Some((maker, incidents)) => incidents.run(window.ends_us, 0, maker.found(&rows)),
            None => Vec::new(),
        };
        self.next = self.grid.after(window.ends_us);
        Ok(Some(Replayed { window, rows, changed }))
    }

    /// Runs all windows, and gives every incident as it stood in the end, in the order of their beginnings.
    ///
    /// # Errors
    /// When a window fails.
    pub async fn incidents(mut self, engine: &Engine) -> Result<Vec<Incident>, ReplayError> {
        let mut by_id = std::collections::BTreeMap::new();
        while let Some(replayed) = self.next(engine).await? {
            for incident in replayed.changed {
                by_id.insert(incident.id.clone(), incident);
            }
        }
        let mut incidents: Vec<Incident> = by_id.into_values().collect();
        incidents.sort_by(|a, b| (a.began_us, &a.id).cmp(&(b.began_us, &b.id)));
        Ok(incidents)
    }
}

impl ReplayError {
    /// With its causes.
    pub fn text(&self) -> String {
        chain(self)
    }
}
