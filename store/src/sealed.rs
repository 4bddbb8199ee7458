//! Sealed tables: one Delta table per catalogue table, used as a transaction log.
//!
//! Delta gives what is hard to get right: one atomic commit of files and positions, a conflict check between writers,
//! a file list with statistics, and a format that Spark, Trino, DuckDB and pandas read. We keep our own rows' order
//! and make our own scan.
//!
//! Each commit of new rows carries, per partition, a `txn` action: the *watermark*, the offset up to which this table
//! is sealed. Rows and watermark become visible together, which is what makes a consistent cut possible.
//!
//! Two rules come from reading the library. It accepts a `txn` that goes backwards if its snapshot is fresh, so the
//! watermark is compared on the very snapshot the commit is built on. And a commit whose answer was lost fails when
//! tried again, so after any failure the watermark is read anew: it says whether the commit took place.

use std::collections::HashMap;
use std::sync::Arc;

use deltalake::kernel::transaction::{CommitBuilder, CommitProperties};
use deltalake::kernel::{Action, Add, DataType, MapType, Remove, StructField, Transaction};
use deltalake::logstore::{LogStoreRef, StorageConfig, default_logstore};
use deltalake::protocol::{DeltaOperation, SaveMode};
use deltalake::table::state::DeltaTableState;
use deltalake::{DeltaTable, DeltaTableError};
use nodescope_model::catalogue::{ColumnType, Table};
use object_store::prefix::PrefixStore;
use object_store::{PutMode, PutOptions, path::Path};
use url::Url;

use crate::layout::{self, PartitionId};
use crate::parquet_file::{EncodedFile, FileStatistics};
use crate::{Store, StoreError};

/// One file of a sealed table.
#[derive(Debug, Clone)]
pub struct SealedFile {
    /// Name in the store.
    pub path: Path,
    /// Name in the Delta log, relative to the table.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// What the log says about its rows.
    pub facts: FileStatistics,
}

/// A table's move forward in one partition: sealed up to `from` before, up to `to` after.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advance {
    /// The partition.
    pub partition: PartitionId,
    /// Watermark before; `None` when it had none.
    pub from: Option<u64>,
    /// Watermark after.
    pub to: u64,
}

/// One sealed table, at one version of its log.
pub struct SealedTable {
    store: Store,
    table: Arc<Table>,
    log: LogStoreRef,
    state: DeltaTableState,
    /// Watermarks read so far, at this version.
    watermarks: HashMap<PartitionId, Option<u64>>,
}

impl std::fmt::Debug for SealedTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SealedTable").field("table", &self.table.name).field("version", &self.version()).finish()
    }
}

/// Commits that are read one by one to follow the watermarks; beyond that the log is replayed.
const FOLLOWED_COMMITS: u64 = 64;

/// The one kind of action we read ourselves, of a line of a commit.
#[derive(serde::Deserialize)]
struct CommitLine {
    txn: Option<Txn>,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Txn {
    app_id: String,
    version: i64,
}

fn delta(table: &str, action: &'static str) -> impl Fn(DeltaTableError) -> StoreError + use<> {
    let table = table.to_owned();
    move |source| StoreError::Delta { table: table.clone(), action, source: Box::new(source) }
}

fn log_store(store: &Store, table: &str) -> LogStoreRef {
    let folder = layout::sealed(table);
    let url = Url::parse(&format!("nodescope:///{folder}/")).expect("table names are letters, digits and _");
    let root = store.objects().clone();
    default_logstore(Arc::new(PrefixStore::new(root.clone(), folder)), root, &url, &StorageConfig::default())
}

fn delta_type(column_type: ColumnType) -> DataType {
    match column_type {
        ColumnType::Int => DataType::LONG,
        ColumnType::Float => DataType::DOUBLE,
        ColumnType::Text => DataType::STRING,
        ColumnType::Bool => DataType::BOOLEAN,
        ColumnType::Timestamp => DataType::TIMESTAMP,
        ColumnType::Bytes => DataType::BINARY,
        ColumnType::IntMap => MapType::new(DataType::STRING, DataType::LONG, true).into(),
        ColumnType::TextMap => MapType::new(DataType::STRING, DataType::STRING, true).into(),
    }
}

/// The table's columns as Delta fields. All may be NULL there: what must not be is checked when rows are taken.
fn delta_fields(table: &Table) -> Vec<StructField> {
    let common = [("ts", ColumnType::Timestamp), ("node", ColumnType::Text), ("host", ColumnType::Text)];
    common
        .into_iter()
        .chain(table.columns.iter().map(|c| (c.name.as_str(), c.column_type)))
        .map(|(name, column_type)| StructField::nullable(name, delta_type(column_type)))
        .collect()
}

impl SealedTable {
    /// Opens a table; `None` when nothing has been sealed into it yet.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub async fn open(store: &Store, table: &Arc<Table>) -> Result<Option<Self>, StoreError> {
        let log = log_store(store, &table.name);
        let exists = log.is_delta_table_location().await.map_err(delta(&table.name, "look for the log"))?;
        if !exists {
            return Ok(None);
        }
        let state = DeltaTableState::try_new(&*log, None).await.map_err(delta(&table.name, "read the log"))?;
        Ok(Some(Self { store: store.clone(), table: table.clone(), log, state, watermarks: HashMap::new() }))
    }

    /// Opens a table for writing: creates it if need be, and adds the columns the catalogue has gained.
    ///
    /// # Errors
    /// When the log cannot be read or written.
    pub async fn open_for_writing(store: &Store, table: &Arc<Table>) -> Result<Self, StoreError> {
        let name = &table.name;
        if let Some(mut open) = Self::open(store, table).await? {
            open.add_columns().await?;
            return Ok(open);
        }
        let log = log_store(store, name);
        DeltaTable::new(log.clone())
            .create()
            .with_table_name(name)
            .with_comment(&table.comment)
            .with_columns(delta_fields(table))
            .with_save_mode(SaveMode::Ignore)
            .with_configuration([
                // A minute per commit makes a day of log; removed files are forgotten once they are deleted.
                ("delta.logRetentionDuration", Some("interval 2 days")),
                ("delta.deletedFileRetentionDuration", Some("interval 1 days")),
                ("delta.checkpointInterval", Some("100")),
            ])
            .await
            .map_err(delta(name, "create the table"))?;
        Self::open(store, table).await?.ok_or_else(|| StoreError::Damaged {
            path: layout::sealed(name).to_string(),
            what: "the table was created and is not there".into(),
        })
    }

    async fn add_columns(&mut self) -> Result<(), StoreError> {
        let known = self.state.schema();
        let new: Vec<StructField> =
            delta_fields(&self.table).into_iter().filter(|f| known.field(f.name()).is_none()).collect();
        if new.is_empty() {
            return Ok(());
        }
        let mut table = DeltaTable::new(self.log.clone());
        let failed = delta(&self.table.name, "add columns");
        table.load().await.map_err(&failed)?;
        table.add_columns().with_fields(new).await.map_err(&failed)?;
        self.refresh().await.map(|_| ())
    }

    /// The catalogue's table.
    pub fn table(&self) -> &Arc<Table> {
        &self.table
    }

    /// Version of the log this is at.
    pub fn version(&self) -> u64 {
        self.state.version()
    }

    /// Moves on to the newest version. Returns whether there was a newer one. May be dropped at any moment: then it
    /// has not moved.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub async fn refresh(&mut self) -> Result<bool, StoreError> {
        let mut state = self.state.clone();
        state.update(&*self.log, None).await.map_err(delta(&self.table.name, "read the log"))?;
        if state.version() == self.version() {
            return Ok(false);
        }
        let watermarks = self.followed(self.version(), state.version()).await.unwrap_or_default();
        // No waiting from here on: version and watermarks move together or not at all.
        self.watermarks = watermarks;
        self.state = state;
        Ok(true)
    }

    /// The watermarks read so far, brought from one version to another by the commits between them. `None` when that
    /// cannot be done (too many commits, or one that is gone into a checkpoint): they are then read anew when asked for.
    async fn followed(&self, from: u64, to: u64) -> Option<HashMap<PartitionId, Option<u64>>> {
        let mut watermarks = self.watermarks.clone();
        if watermarks.is_empty() {
            return Some(watermarks);
        }
        if to - from > FOLLOWED_COMMITS {
            return None;
        }
        let names: HashMap<String, PartitionId> = watermarks.keys().map(|p| (p.app_id(), p.clone())).collect();
        for version in from + 1..=to {
            let commit = self.log.read_commit_entry(version).await.ok()??;
            for line in commit.split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
                let action: CommitLine = serde_json::from_slice(line).ok()?;
                if let Some(txn) = action.txn
                    && let Some(partition) = names.get(&txn.app_id)
                {
                    watermarks.insert(partition.clone(), u64::try_from(txn.version).ok());
                }
            }
        }
        Some(watermarks)
    }

    /// The files of this version, by name.
    pub fn files(&self) -> Vec<SealedFile> {
        let folder = layout::sealed(&self.table.name);
        let mut files: Vec<SealedFile> = self
            .state
            .log_data()
            .iter()
            .map(|view| {
                let name = view.path().into_owned();
                let facts: FileStatistics =
                    view.stats().and_then(|s| serde_json::from_str(&s).ok()).unwrap_or_default();
                let size = u64::try_from(view.size()).unwrap_or(0);
                SealedFile { path: join(&folder, &name), name, size, facts }
            })
            .collect();
        files.sort_by(|a, b| a.name.cmp(&b.name));
        files
    }

    /// Offset up to which this version holds that partition's rows; `None` when it holds none.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub async fn watermark(&mut self, partition: &PartitionId) -> Result<Option<u64>, StoreError> {
        if let Some(known) = self.watermarks.get(partition) {
            return Ok(*known);
        }
        let version = self
            .state
            .transaction_version(&*self.log, partition.app_id())
            .await
            .map_err(delta(&self.table.name, "read the watermark"))?;
        let watermark = version.and_then(|v| u64::try_from(v).ok());
        self.watermarks.insert(partition.clone(), watermark);
        Ok(watermark)
    }

    /// Commits new files and the watermarks that go with them, in one step.
    ///
    /// # Errors
    /// `SealedElsewhere` when a watermark is not where the caller thinks. After any other error the commit may or may
    /// not have taken place: refresh and look at the watermark.
    pub async fn append(&mut self, files: Vec<EncodedFile>, advances: &[Advance]) -> Result<(), StoreError> {
        for advance in advances {
            let found = self.watermark(&advance.partition).await?;
            if found != advance.from {
                return Err(StoreError::SealedElsewhere {
                    table: self.table.name.clone(),
                    partition: advance.partition.to_string(),
                    expected: advance.from.unwrap_or(0),
                    found: found.unwrap_or(0),
                });
            }
        }
        let mut actions = Vec::with_capacity(files.len());
        for file in files {
            actions.push(Action::Add(self.put_file(file, true).await?));
        }
        let transactions: Vec<Transaction> = advances
            .iter()
            .map(|a| Transaction::new(a.partition.app_id(), i64::try_from(a.to).unwrap_or(i64::MAX)))
            .collect();
        let operation = DeltaOperation::Write { mode: SaveMode::Append, partition_by: None, predicate: None };
        self.commit(actions, transactions, operation).await?;
        self.watermarks.extend(advances.iter().map(|a| (a.partition.clone(), Some(a.to))));
        Ok(())
    }

    /// Replaces files by others that hold the same rows.
    ///
    /// # Errors
    /// When the store fails, or a file was removed by somebody else meanwhile.
    pub async fn replace(&mut self, old: &[SealedFile], new: Vec<EncodedFile>) -> Result<(), StoreError> {
        let mut actions: Vec<Action> = old.iter().map(|f| Action::Remove(remove(f, false))).collect();
        for file in new {
            actions.push(Action::Add(self.put_file(file, false).await?));
        }
        let operation = DeltaOperation::Optimize { predicate: None, target_size: 0 };
        self.commit(actions, vec![self.turn()], operation).await
    }

    /// Removes files, rows and all.
    ///
    /// # Errors
    /// When the store fails, or a file was removed by somebody else meanwhile.
    pub async fn remove(&mut self, old: &[SealedFile]) -> Result<(), StoreError> {
        let actions = old.iter().map(|f| Action::Remove(remove(f, true))).collect();
        self.commit(actions, vec![self.turn()], DeltaOperation::Delete { predicate: None }).await
    }

    /// Whoever replaces or removes files takes a turn. Delta's own conflict check looks away when files are replaced by
    /// others with the same rows, so that two who merge the same files would double them; it does see two turns.
    fn turn(&self) -> Transaction {
        Transaction::new("nodescope/files", i64::try_from(self.version()).unwrap_or(i64::MAX).saturating_add(1))
    }

    async fn put_file(&self, file: EncodedFile, data_change: bool) -> Result<Add, StoreError> {
        let name = format!("{}.parquet", uuid::Uuid::now_v7());
        let path = join(&layout::sealed(&self.table.name), &name);
        let size = i64::try_from(file.bytes.len()).map_err(|e| StoreError::rows("write", &self.table.name, e))?;
        let stats = serde_json::to_string(&file.facts).map_err(|e| StoreError::rows("write", &self.table.name, e))?;
        self.store
            .objects()
            .put_opts(&path, file.bytes.into(), PutOptions::from(PutMode::Create))
            .await
            .map_err(|e| StoreError::objects("write", &path, e))?;
        Ok(Add {
            path: name,
            size,
            modification_time: chrono::Utc::now().timestamp_millis(),
            data_change,
            stats: Some(stats),
            ..Add::default()
        })
    }

    async fn commit(
        &mut self,
        actions: Vec<Action>,
        transactions: Vec<Transaction>,
        operation: DeltaOperation,
    ) -> Result<(), StoreError> {
        let properties = CommitProperties::default().with_application_transactions(transactions);
        let finalized = CommitBuilder::from(properties)
            .with_actions(actions)
            .build(Some(self.state.snapshot()), self.log.clone(), operation)
            .await
            .map_err(delta(&self.table.name, "commit"))?;
        let state = finalized.snapshot();
        let watermarks = self.followed(self.version(), state.version()).await.unwrap_or_default();
        self.watermarks = watermarks;
        self.state = state;
        Ok(())
    }

    /// Files that were removed from the table at least `age` ago, by path, and may be deleted.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub async fn removed_before(&self, age: chrono::TimeDelta) -> Result<Vec<Path>, StoreError> {
        use futures::TryStreamExt;
        let limit = (chrono::Utc::now() - age).timestamp_millis();
        let folder = layout::sealed(&self.table.name);
        let mut removed = Vec::new();
        let mut tombstones = self.state.all_tombstones(&*self.log);
        while let Some(view) = tombstones.try_next().await.map_err(delta(&self.table.name, "read removed files"))? {
            if view.deletion_timestamp().is_some_and(|t| t <= limit) {
                removed.push(join(&folder, &view.path()));
            }
        }
        Ok(removed)
    }
}

fn join(folder: &Path, name: &str) -> Path {
    name.split('/').fold(folder.clone(), deltalake::Path::join)
}

fn remove(file: &SealedFile, data_change: bool) -> Remove {
    Remove {
        path: file.name.clone(),
        data_change,
        deletion_timestamp: Some(chrono::Utc::now().timestamp_millis()),
        extended_file_metadata: Some(true),
        partition_values: Some(HashMap::new()),
        size: i64::try_from(file.size).ok(),
        ..Remove::default()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use nodescope_model::catalogue::Catalogue;

    use super::*;
    use crate::parquet_file;
    use crate::segment::tests::memory_rows;

    pub(crate) fn memory_store() -> Store {
        Store::new(Arc::new(object_store::memory::InMemory::new()), Arc::new(Catalogue::built_in()), "test")
    }

    fn file(store: &Store, from: i64, rows: i64) -> EncodedFile {
        let (table, batch) = memory_rows(store.catalogue(), "h", from, rows);
        parquet_file::encode(&table, &batch).unwrap()
    }

    fn advance(from: Option<u64>, to: u64) -> Advance {
        Advance { partition: PartitionId::new("t", 0), from, to }
    }

    #[tokio::test]
    async fn rows_and_watermark_arrive_together() {
        let store = memory_store();
        let table = store.catalogue().get("memory").unwrap().clone();
        assert!(SealedTable::open(&store, &table).await.unwrap().is_none());
        let mut writer = SealedTable::open_for_writing(&store, &table).await.unwrap();
        writer.append(vec![file(&store, 0, 5)], &[advance(None, 5)]).await.unwrap();
        writer.append(vec![file(&store, 5, 3)], &[advance(Some(5), 8)]).await.unwrap();

        let mut reader = SealedTable::open(&store, &table).await.unwrap().unwrap();
        let partition = PartitionId::new("t", 0);
        assert_eq!(reader.watermark(&partition).await.unwrap(), Some(8));
        assert_eq!(reader.watermark(&PartitionId::new("t", 1)).await.unwrap(), None);
        let files = reader.files();
        assert_eq!(files.iter().map(|f| f.facts.num_records).sum::<u64>(), 8);
        assert_eq!(files[0].facts.host_range(), Some(("h", "h")));
        assert!(files[0].facts.ts_range().is_some_and(|(_, max)| max >= 4_000_000));

        writer.append(vec![file(&store, 8, 1)], &[advance(Some(8), 9)]).await.unwrap();
        assert!(reader.refresh().await.unwrap());
        assert_eq!(reader.watermark(&partition).await.unwrap(), Some(9));
        assert!(!reader.refresh().await.unwrap());
    }

    #[tokio::test]
    async fn of_two_sealers_one_is_refused() {
        let store = memory_store();
        let table = store.catalogue().get("memory").unwrap().clone();
        let mut one = SealedTable::open_for_writing(&store, &table).await.unwrap();
        let mut two = SealedTable::open_for_writing(&store, &table).await.unwrap();
        one.append(vec![file(&store, 0, 5)], &[advance(None, 5)]).await.unwrap();
        // Two does not know yet: Delta's conflict check stops it.
        two.append(vec![file(&store, 0, 4)], &[advance(None, 4)]).await.unwrap_err();
        // Now it knows, and the watermark stops it.
        two.refresh().await.unwrap();
        let refused = two.append(vec![file(&store, 0, 4)], &[advance(None, 4)]).await.unwrap_err();
        assert!(matches!(refused, StoreError::SealedElsewhere { found: 5, .. }), "{refused}");
        assert_eq!(two.files().len(), 1);
    }

    #[tokio::test]
    async fn replaced_files_leave_the_table_and_wait_to_be_deleted() {
        let store = memory_store();
        let table = store.catalogue().get("memory").unwrap().clone();
        let mut writer = SealedTable::open_for_writing(&store, &table).await.unwrap();
        writer.append(vec![file(&store, 0, 5), file(&store, 5, 5)], &[advance(None, 10)]).await.unwrap();
        let old = writer.files();
        writer.replace(&old, vec![file(&store, 0, 10)]).await.unwrap();
        assert_eq!(writer.files().len(), 1);
        assert_eq!(writer.watermark(&PartitionId::new("t", 0)).await.unwrap(), Some(10));
        let waiting = writer.removed_before(chrono::TimeDelta::zero()).await.unwrap();
        assert_eq!(waiting.len(), 2);
        assert!(waiting.iter().all(|p| old.iter().any(|f| f.path == *p)));
        assert!(writer.removed_before(chrono::TimeDelta::hours(1)).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn of_two_who_merge_the_same_files_one_is_refused() {
        let store = memory_store();
        let table = store.catalogue().get("memory").unwrap().clone();
        let mut one = SealedTable::open_for_writing(&store, &table).await.unwrap();
        one.append(vec![file(&store, 0, 5), file(&store, 5, 5)], &[advance(None, 10)]).await.unwrap();
        let mut two = SealedTable::open_for_writing(&store, &table).await.unwrap();
        let old = one.files();
        one.replace(&old, vec![file(&store, 0, 10)]).await.unwrap();
        two.replace(&old, vec![file(&store, 0, 10)]).await.unwrap_err();
        two.refresh().await.unwrap();
        assert_eq!(two.files().iter().map(|f| f.facts.num_records).sum::<u64>(), 10);
        // Turns follow each other.
        let old = two.files();
        two.replace(&old, vec![file(&store, 0, 10)]).await.unwrap();
        let old = two.files();
        two.replace(&old, vec![file(&store, 0, 10)]).await.unwrap();
    }

    #[tokio::test]
    async fn a_table_gains_the_catalogue_s_new_columns() {
        let text = "table = \"grown\"\ncomment = \"A table.\"\n\
            [[column]]\nname = \"one\"\ntype = \"int\"\nkind = \"gauge\"\nunit = \"1\"\nhelp = \"First.\"\n";
        let more = format!("{text}[[column]]\nname = \"two\"\ntype = \"text\"\nkind = \"state\"\nhelp = \"Second.\"\n");
        let objects: Arc<dyn object_store::ObjectStore> = Arc::new(object_store::memory::InMemory::new());
        for text in [text, &more] {
            let catalogue = Arc::new(Catalogue::with_texts(&[("grown.toml", text)]).unwrap());
            let store = Store::new(objects.clone(), catalogue, "test");
            let table = store.catalogue().get("grown").unwrap().clone();
            let open = SealedTable::open_for_writing(&store, &table).await.unwrap();
            assert_eq!(open.state.schema().fields().count(), table.schema().fields().len());
        }
    }
}
