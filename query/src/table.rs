//! A table as of one moment: what is sealed and what is hot, each row once.
//!
//! Planning a query takes a cut (see [`nodescope_store::cut`]): the files of one sealed version, and every segment
//! beyond it. What cannot hold a row of interest is left out at once, by the times and hosts that the log and the
//! footers give. Files are then read by DataFusion's own Parquet reader, which prunes further by row group and page;
//! segments are read one after the other as the query asks for more, so a large backlog of hot rows costs time, not
//! memory.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::array::{ArrayRef, BooleanArray, StringArray, TimestampMicrosecondArray, UInt64Array};
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::config::TableParquetOptions;
use datafusion::common::pruning::PruningStatistics;
use datafusion::common::{Column, DFSchema, DataFusionError, Result, ScalarValue};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::parquet::CachedParquetFileReaderFactory;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_optimizer::pruning::PruningPredicateBuilder;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::filter::FilterExecBuilder;
use datafusion::physical_plan::union::UnionExec;
use datafusion::physical_plan::{ExecutionPlan, collect};
use nodescope_model::catalogue::{ColumnType, REVISION, Table};
use nodescope_store::cut::{Cut, HotPart, Reader};
use nodescope_store::sealed::SealedFile;

use crate::hot::{self, HotExec};
use crate::revisions;

/// Under this URL the store's objects are known to DataFusion.
pub(crate) const STORE_URL: &str = "nodescope://store/";

/// Bytes of a Parquet file's end that are read at once: the footer of a file of ours fits.
const FOOTER_HINT: usize = 64 * 1024;

/// A table of the catalogue, read from the store.
#[derive(Debug)]
pub struct CutTable {
    table: Arc<Table>,
    reader: Arc<Reader>,
    revisions: revisions::Known,
}

impl CutTable {
    /// The table as SQL sees it.
    pub fn new(table: Arc<Table>, reader: Arc<Reader>) -> Self {
        Self { table, reader, revisions: revisions::Known::default() }
    }

    /// Name of the table.
    pub fn name(&self) -> &str {
        &self.table.name
    }

    /// Files as DataFusion wants them, in groups that are read side by side.
    fn files(
        &self,
        state: &dyn Session,
        files: &[&SealedFile],
        projection: Option<&Vec<usize>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let groups = state.config().target_partitions().clamp(1, files.len().max(1));
        let mut grouped: Vec<Vec<PartitionedFile>> = vec![Vec::new(); groups];
        for (at, file) in files.iter().enumerate() {
            let statistics = hot::about(file.facts.num_records, self.table.schema());
            let meta = object_store::ObjectMeta {
                location: file.path.clone(),
                // A file is never overwritten, so its name alone tells whether what is cached of it is still right.
                last_modified: Default::default(),
                size: file.size,
                e_tag: None,
                version: None,
            };
            grouped[at % groups].push(PartitionedFile::new_from_meta(meta).with_statistics(Arc::new(statistics)));
        }
        let runtime = state.runtime_env();
        let url = ObjectStoreUrl::parse(STORE_URL)?;
        let cache = runtime.cache_manager.get_file_metadata_cache();
        let readers = CachedParquetFileReaderFactory::new(runtime.object_store(&url)?, cache);
        let options = TableParquetOptions {
            global: state.config_options().execution.parquet.clone(),
            ..TableParquetOptions::default()
        };
        let source = ParquetSource::new(Arc::clone(self.table.schema()))
            .with_table_parquet_options(options)
            .with_metadata_size_hint(FOOTER_HINT)
            .with_parquet_file_reader_factory(Arc::new(readers));
        let rows = files.iter().map(|file| file.facts.num_records).sum();
        let mut config = FileScanConfigBuilder::new(url, Arc::new(source))
            .with_statistics(hot::about(rows, self.table.schema()))
            .with_projection_indices(projection.cloned())?;
        for group in grouped {
            config = config.with_file_group(FileGroup::new(group));
        }
        Ok(DataSourceExec::from_data_source(config.build()))
    }

    /// Files and segments as one.
    fn union(
        &self,
        state: &dyn Session,
        files: &[&SealedFile],
        hot: Vec<HotPart>,
        projection: Option<&Vec<usize>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let mut inputs = Vec::with_capacity(2);
        if !files.is_empty() {
            inputs.push(self.files(state, files, projection)?);
        }
        if !hot.is_empty() {
            let streams = state.config().target_partitions();
            inputs.push(Arc::new(HotExec::new(&self.table, &self.reader, hot, streams, projection)?));
        }
        if inputs.is_empty() {
            let schema = datafusion::common::project_schema(self.table.schema(), projection)?;
            return Ok(Arc::new(EmptyExec::new(schema)));
        }
        UnionExec::try_new(inputs)
    }

    /// The newest revisions above 0 of the times that a query asks for.
    async fn newest(&self, state: &dyn Session, cut: &Cut, filters: &[Expr]) -> Result<revisions::Newest> {
        let of_time: Vec<Expr> =
            filters.iter().filter(|f| f.column_refs().iter().all(|c| c.name == "ts")).cloned().collect();
        let wanted = wanted(state, &self.table, &of_time, &Spans::of(&cut.files, &cut.hot))?;
        let (of_files, of_hot) = wanted.split_at(cut.files.len());
        let mut newest = revisions::Newest::new();
        for (file, _) in cut.files.iter().zip(of_files).filter(|(file, w)| **w && !revisions::is_first(file)) {
            let known = match self.revisions.of(file) {
                Some(known) => known,
                None => {
                    let columns = ["ts", REVISION].map(|name| self.table.schema().index_of(name));
                    let columns: Vec<usize> = columns.into_iter().collect::<Result<_, _>>()?;
                    let plan = self.files(state, &[file], Some(&columns))?;
                    let mut of_file = revisions::Newest::new();
                    for batch in collect(plan, state.task_ctx()).await? {
                        revisions::add(&mut of_file, &batch)?;
                    }
                    let of_file = Arc::new(of_file);
                    self.revisions.note(file, &of_file, &cut.files);
                    of_file
                }
            };
            revisions::merge(&mut newest, &known);
        }
        for (part, _) in cut.hot.iter().zip(of_hot).filter(|(_, w)| **w) {
            let rows = self.reader.read(&self.table, part).await.map_err(|e| DataFusionError::External(Box::new(e)))?;
            revisions::add(&mut newest, &rows)?;
        }
        Ok(newest)
    }
}

#[async_trait]
impl TableProvider for CutTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(self.table.schema())
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        // They leave out files and segments; rows are left to DataFusion.
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        _limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let cut = self.reader.cut(&self.table).await.map_err(|e| DataFusionError::External(Box::new(e)))?;
        let wanted = wanted(state, &self.table, filters, &Spans::of(&cut.files, &cut.hot))?;
        let (of_files, of_hot) = wanted.split_at(cut.files.len());
        let files: Vec<&SealedFile> = cut.files.iter().zip(of_files).filter(|(_, w)| **w).map(|(f, _)| f).collect();
        let hot: Vec<HotPart> = cut.hot.iter().zip(of_hot).filter(|(_, w)| **w).map(|(h, _)| h.clone()).collect();
        if !self.table.revised {
            return self.union(state, &files, hot, projection);
        }
        let newest = self.newest(state, &cut, filters).await?;
        if newest.is_empty() {
            return self.union(state, &files, hot, projection);
        }
        // Time and revision are read for the filter, after all that is asked for.
        let schema = self.table.schema();
        let asked: Vec<usize> = projection.cloned().unwrap_or_else(|| (0..schema.fields().len()).collect());
        let mut read = asked.clone();
        for name in ["ts", REVISION] {
            let index = schema.index_of(name)?;
            if !read.contains(&index) {
                read.push(index);
            }
        }
        let plan = self.union(state, &files, hot, Some(&read))?;
        let of_plan = DFSchema::try_from(plan.schema())?;
        let filter = state.create_physical_expr(revisions::is_newest(newest), &of_plan)?;
        let filter = FilterExecBuilder::new(filter, plan).apply_projection(Some((0..asked.len()).collect()))?;
        Ok(Arc::new(filter.build()?))
    }
}

/// What is known of the rows of each file and segment without reading them.
struct Spans<'a> {
    ts: Vec<Option<(i64, i64)>>,
    host: Vec<Option<(&'a str, &'a str)>>,
    rows: Vec<u64>,
}

impl<'a> Spans<'a> {
    fn of(files: &'a [SealedFile], hot: &'a [HotPart]) -> Self {
        let mut spans = Self { ts: Vec::new(), host: Vec::new(), rows: Vec::new() };
        for file in files {
            spans.ts.push(file.facts.ts_range());
            spans.host.push(file.facts.host_range());
            spans.rows.push(file.facts.num_records);
        }
        for part in hot.iter().map(HotPart::part) {
            spans.ts.push(Some(part.ts));
            spans.host.push(Some((&part.host.0, &part.host.1)));
            spans.rows.push(part.rows);
        }
        spans
    }

    fn bounds(&self, column: &Column, least: bool) -> Option<ArrayRef> {
        let end = |(min, max): (i64, i64)| if least { min } else { max };
        match column.name.as_str() {
            "ts" => {
                let times: TimestampMicrosecondArray = self.ts.iter().map(|span| span.map(end)).collect();
                Some(Arc::new(times.with_data_type(ColumnType::Timestamp.data_type())))
            }
            "host" => {
                let hosts: StringArray =
                    self.host.iter().map(|span| span.map(|(min, max)| if least { min } else { max })).collect();
                Some(Arc::new(hosts))
            }
            _ => None,
        }
    }
}

impl PruningStatistics for Spans<'_> {
    fn min_values(&self, column: &Column) -> Option<ArrayRef> {
        self.bounds(column, true)
    }

    fn max_values(&self, column: &Column) -> Option<ArrayRef> {
        self.bounds(column, false)
    }

    fn num_containers(&self) -> usize {
        self.rows.len()
    }

    fn null_counts(&self, column: &Column) -> Option<ArrayRef> {
        // These two are never NULL.
        matches!(column.name.as_str(), "ts" | "host")
            .then(|| Arc::new(UInt64Array::from(vec![0; self.rows.len()])) as _)
    }

    fn row_counts(&self) -> Option<ArrayRef> {
        Some(Arc::new(UInt64Array::from(self.rows.clone())))
    }

    fn contained(&self, _: &Column, _: &std::collections::HashSet<ScalarValue>) -> Option<BooleanArray> {
        None
    }
}

/// Which files and segments may hold rows that pass the filters.
fn wanted(state: &dyn Session, table: &Table, filters: &[Expr], spans: &Spans<'_>) -> Result<Vec<bool>> {
    let Some(filter) = conjunction(filters.to_vec()) else { return Ok(vec![true; spans.rows.len()]) };
    let schema = DFSchema::try_from(Arc::clone(table.schema()))?;
    let filter = state.create_physical_expr(filter, &schema)?;
    PruningPredicateBuilder::new().with_file_schema(Arc::clone(table.schema())).try_build(filter)?.prune(spans)
}
