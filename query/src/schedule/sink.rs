//! Where the rows of runs go.
//!
//! A sink turns the rows of one run into rows of the catalogue's tables. These are committed together with the note
//! that the run took place, in one append to the journal: what is noted is there, and what is there is noted. What is
//! to be told outside (Alertmanager, a webhook, a topic) is told after the commit, from what the commit holds.

use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::array::{Int64Array, RecordBatch};
use datafusion::arrow::datatypes::{DataType, Field, Schema};
use nodescope_model::catalogue::{Catalogue, Table};
use nodescope_model::conform::{ConformError, conform};

use super::run::Run;
use crate::alerts::Outlets;
use crate::alerts::report::ReportSink;
use crate::alerts::sink::AlertSink;
use crate::definition::{Definition, SinkName};
use crate::engine::Engine;

/// Column of a table that says which run of a window its rows are of. The schedule fills it in.
pub const REVISION: &str = "revision";

/// Where the rows of one rule go. There is one for each rule, and it sees the rule's runs one after the other.
#[async_trait]
pub trait Sink: Debug + Send {
    /// Turns the rows of one run into rows of catalogue tables, which are committed with the run. The batches have the
    /// schemas of their tables.
    ///
    /// # Errors
    /// When the rows are not what this sink takes. The sink is then as it was before, and the run is made again.
    fn take(&mut self, run: &Run, rows: &[RecordBatch]) -> Result<Vec<(Arc<Table>, RecordBatch)>, SinkError>;

    /// After the commit: tells outside what is to be told. It may take its time, but not for ever: the rule's next
    /// run waits for it.
    async fn committed(&mut self, run: &Run);
}

/// Why a sink did not take rows, or could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// The catalogue has no such table.
    #[error("there is no table `{0}`")]
    NoTable(String),
    /// This program has no such outlet.
    #[error("there is no outlet for sink = \"{0}\" here")]
    NoOutlet(SinkName),
    /// The SQL's rows are not rows of the table.
    #[error("its rows cannot be rows of `{table}`")]
    Shape {
        /// Name of the table.
        table: String,
        /// What does not fit.
        #[source]
        source: ConformError,
    },
    /// The SQL has a column that the table has not.
    #[error("`{table}` has no column `{column}`")]
    Column {
        /// Name of the table.
        table: String,
        /// Name of the column.
        column: String,
    },
    /// Anything else.
    #[error("{0}")]
    Other(String, #[source] Option<Box<dyn std::error::Error + Send + Sync>>),
}

/// Opens sinks.
#[derive(Debug, Clone)]
pub struct Sinks {
    /// The tables there are.
    pub catalogue: Arc<Catalogue>,
    /// Identification code of this node, for rows that are about no other.
    pub node: String,
    /// Who is told outside.
    pub outlets: Outlets,
}

impl Sinks {
    /// The sink of a rule, as it was when the store was last written to.
    ///
    /// # Errors
    /// When there is no such outlet, or its state cannot be read back.
    pub async fn open(&self, rule: &Arc<Definition>, engine: &Arc<Engine>) -> Result<Box<dyn Sink>, SinkError> {
        match &rule.sink {
            Some(SinkName::Table(name)) => Ok(Box::new(TableSink::new(&self.catalogue, name)?)),
            Some(SinkName::Alert) => Ok(Box::new(AlertSink::open(rule, engine, &self.node, &self.outlets).await?)),
            _ => Ok(Box::new(ReportSink::new(rule, &self.outlets)?)),
        }
    }
}

/// Rows go into a table of the catalogue as they are. Columns are found by name; what the SQL leaves out is NULL.
#[derive(Debug)]
pub struct TableSink {
    table: Arc<Table>,
}

impl TableSink {
    /// The sink that fills a table.
    ///
    /// # Errors
    /// When there is no such table.
    pub fn new(catalogue: &Catalogue, name: &str) -> Result<Self, SinkError> {
        let table = catalogue.get(name).ok_or_else(|| SinkError::NoTable(name.to_owned()))?;
        Ok(Self { table: Arc::clone(table) })
    }

    fn conform(&self, run: &Run, rows: &RecordBatch) -> Result<RecordBatch, SinkError> {
        let rows = if self.table.column(REVISION).is_some() { with_revision(rows, run.revision) } else { rows.clone() };
        let table = || self.table.name.clone();
        let conformed = conform(&rows, &self.table).map_err(|source| SinkError::Shape { table: table(), source })?;
        match conformed.unknown.into_iter().next() {
            Some(column) => Err(SinkError::Column { table: table(), column }),
            None => Ok(conformed.batch),
        }
    }
}

#[async_trait]
impl Sink for TableSink {
    fn take(&mut self, run: &Run, rows: &[RecordBatch]) -> Result<Vec<(Arc<Table>, RecordBatch)>, SinkError> {
        rows.iter().map(|batch| Ok((Arc::clone(&self.table), self.conform(run, batch)?))).collect()
    }

    async fn committed(&mut self, _run: &Run) {}
}

/// The rows with their revision, in place of any they bring.
fn with_revision(rows: &RecordBatch, revision: i64) -> RecordBatch {
    let (schema, columns, count) = rows.clone().into_parts();
    let (mut fields, mut kept) = (Vec::new(), Vec::new());
    for (field, column) in schema.fields().iter().zip(columns) {
        if field.name() != REVISION {
            fields.push(Arc::clone(field));
            kept.push(column);
        }
    }
    fields.push(Arc::new(Field::new(REVISION, DataType::Int64, false)));
    kept.push(Arc::new(Int64Array::from(vec![revision; count])));
    // Columns of one batch, and one more of their length: there is nothing to refuse.
    RecordBatch::try_new(Arc::new(Schema::new(fields)), kept).unwrap_or_else(|_| rows.clone())
}
