//! Hot rows as a plan: segments, read one after the other as the query asks for more, and how many rows they are.
//!
//! DataFusion's own plan for streams does not say how much will come, and a join that does not know which side is the
//! smaller builds its table of the first: of a month of samples, perhaps, to look up what is registered.

use std::fmt;
use std::sync::Arc;

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::stats::Precision;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DataFusionError, Result, Statistics};
use datafusion::execution::TaskContext;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::execution_plan::ReplaceChildrenOptions;
use datafusion::physical_plan::metrics::MetricsSet;
use datafusion::physical_plan::statistics::StatisticsArgs;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, SendableRecordBatchStream,
};
use futures::{StreamExt, TryStreamExt};
use nodescope_model::catalogue::Table;
use nodescope_store::cut::{HotPart, Reader};

/// Segments read ahead of the query.
const READ_AHEAD: usize = 4;

/// So many rows of a table, or about as many.
pub(crate) fn about(rows: u64, schema: &SchemaRef) -> Statistics {
    let num_rows = usize::try_from(rows).map_or(Precision::Absent, Precision::Inexact);
    Statistics { num_rows, ..Statistics::new_unknown(schema) }
}

/// Rows of hot segments.
#[derive(Debug)]
pub(crate) struct HotExec {
    streams: StreamingTableExec,
    rows: u64,
}

impl HotExec {
    /// Reads these parts in so many streams.
    pub(crate) fn new(
        table: &Arc<Table>,
        reader: &Arc<Reader>,
        parts: Vec<HotPart>,
        streams: usize,
        projection: Option<&Vec<usize>>,
    ) -> Result<Self> {
        let rows = parts.iter().map(|part| part.part().rows).sum();
        let streams = streams.clamp(1, parts.len().max(1));
        let mut dealt: Vec<Vec<HotPart>> = vec![Vec::new(); streams];
        for (at, part) in parts.into_iter().enumerate() {
            dealt[at % streams].push(part);
        }
        let streams = dealt
            .into_iter()
            .map(|parts| {
                let (table, reader) = (Arc::clone(table), Arc::clone(reader));
                Arc::new(HotStream { table, reader, parts }) as Arc<dyn PartitionStream>
            })
            .collect();
        let schema = Arc::clone(table.schema());
        Ok(Self { streams: StreamingTableExec::try_new(schema, streams, projection, [], false, None)?, rows })
    }
}

impl DisplayAs for HotExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HotExec: streams={}, rows={}", self.streams.partitions().len(), self.rows)
    }
}

impl ExecutionPlan for HotExec {
    fn name(&self) -> &'static str {
        "HotExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.streams.properties()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        _: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn with_new_children(self: Arc<Self>, _: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        self.streams.execute(partition, context)
    }

    fn metrics(&self) -> Option<MetricsSet> {
        self.streams.metrics()
    }

    fn statistics_from_inputs(&self, _: &[Arc<Statistics>], _: &StatisticsArgs) -> Result<Arc<Statistics>> {
        Ok(Arc::new(about(self.rows, &self.schema())))
    }
}

/// Segments, read one after the other.
struct HotStream {
    table: Arc<Table>,
    reader: Arc<Reader>,
    parts: Vec<HotPart>,
}

impl fmt::Debug for HotStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HotStream").field("table", &self.table.name).field("segments", &self.parts.len()).finish()
    }
}

impl PartitionStream for HotStream {
    fn schema(&self) -> &SchemaRef {
        self.table.schema()
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let (table, reader) = (Arc::clone(&self.table), Arc::clone(&self.reader));
        let batches = futures::stream::iter(self.parts.clone())
            .map(move |part| {
                let (table, reader) = (Arc::clone(&table), Arc::clone(&reader));
                async move { reader.read(&table, &part).await }
            })
            .buffered(READ_AHEAD)
            .map_err(|e| DataFusionError::External(Box::new(e)));
        Box::pin(RecordBatchStreamAdapter::new(Arc::clone(self.table.schema()), batches))
    }
}
