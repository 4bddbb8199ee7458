//! Sealing: moving rows from hot segments into sealed tables.
//!
//! For each table, the rows of all segments beyond its watermarks are sorted into one file, and that file and the new
//! watermarks are committed together. Nothing is deleted here: a reader that looked a moment ago still finds the
//! segments (see [`crate::retention`]).
//!
//! Every step can be repeated. What to seal is worked out from the watermarks each time, so a commit whose answer was
//! lost is not made twice, and a crash in the middle leaves at most a file that no log names.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::RecordBatch;
use futures::{StreamExt, TryStreamExt};
use nodescope_model::catalogue::Table;

use crate::layout::PartitionId;
use crate::sealed::{Advance, SealedTable};
use crate::segment::Footer;
use crate::{Store, StoreError, parquet_file};

/// Rows sealed in one commit at the most, which bounds the memory that sealing takes.
const MAX_ROWS: u64 = 2_000_000;

/// Segments read at once.
const PARALLEL: usize = 8;

/// What a round of sealing did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sealed {
    /// Commits made.
    pub commits: u64,
    /// Rows moved.
    pub rows: u64,
    /// Bytes of the files written.
    pub bytes: u64,
}

/// Seals tables of one store. Keeps them open.
#[derive(Debug)]
pub struct Sealer {
    store: Store,
    tables: BTreeMap<String, SealedTable>,
    /// Sealed tables that exist have been looked for.
    looked: bool,
}

/// Rows gathered for one commit.
#[derive(Default)]
struct Gathered {
    segments: Vec<Arc<Footer>>,
    rows: u64,
    advances: BTreeMap<PartitionId, Advance>,
}

impl Sealer {
    /// No table open yet.
    pub fn new(store: Store) -> Self {
        Self { store, tables: BTreeMap::new(), looked: false }
    }

    /// Seals whatever of `segments` is not sealed yet. They may be of several partitions; those of one partition
    /// must be in order and without holes.
    ///
    /// # Errors
    /// The first failure, after all tables have been tried. What was committed stays, and the next round goes on.
    pub async fn seal(&mut self, segments: &[Arc<Footer>]) -> Result<Sealed, StoreError> {
        let mut done = Sealed::default();
        let names: std::collections::BTreeSet<&str> =
            segments.iter().flat_map(|s| s.parts.iter().map(|p| p.table.as_str())).collect();
        let mut first = Ok(());
        for name in names {
            if self.store.catalogue().get(name).is_none() {
                tracing::warn!(table = name, "rows of a table that the catalogue no longer has stay in hot segments");
                continue;
            }
            if let Err(error) = self.seal_table(name, segments, &mut done).await {
                // Whatever we thought of this table may be wrong now. The others do not suffer for it.
                self.tables.remove(name);
                first = first.and(Err(error));
            }
        }
        first.map(|()| done)
    }

    async fn seal_table(&mut self, name: &str, segments: &[Arc<Footer>], done: &mut Sealed) -> Result<(), StoreError> {
        let store = self.store.clone();
        let sealed = self.open(name).await?;
        let mut gathered = Gathered::default();
        for segment in segments {
            let Some(part) = segment.part(name) else { continue };
            let from = match gathered.advances.get(&segment.partition) {
                Some(advance) => Some(advance.to),
                None => sealed.watermark(&segment.partition).await?,
            };
            if from.is_some_and(|watermark| segment.first < watermark) {
                continue;
            }
            gathered.rows += part.rows;
            gathered.segments.push(segment.clone());
            gathered
                .advances
                .entry(segment.partition.clone())
                .and_modify(|a| a.to = segment.next)
                .or_insert_with(|| Advance { partition: segment.partition.clone(), from, to: segment.next });
            if gathered.rows >= MAX_ROWS {
                commit(&store, sealed, std::mem::take(&mut gathered), done).await?;
            }
        }
        if gathered.rows > 0 {
            commit(&store, sealed, gathered, done).await?;
        }
        Ok(())
    }

    /// Whether every row of the segment is in a sealed table.
    ///
    /// # Errors
    /// When a log cannot be read.
    pub async fn is_sealed(&mut self, segment: &Footer) -> Result<bool, StoreError> {
        for part in &segment.parts {
            if self.store.catalogue().get(&part.table).is_none() {
                return Ok(false);
            }
            let watermark = self.open(&part.table).await?.watermark(&segment.partition).await?;
            if watermark.is_none_or(|w| w < segment.next) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The tables there are, for compaction and retention.
    ///
    /// # Errors
    /// When a log cannot be read.
    pub async fn tables(&mut self) -> Result<impl Iterator<Item = &mut SealedTable>, StoreError> {
        if !self.looked {
            let catalogue = self.store.catalogue().clone();
            for table in catalogue.tables() {
                if !self.tables.contains_key(&table.name) && SealedTable::open(&self.store, table).await?.is_some() {
                    self.open(&table.name).await?;
                }
            }
            self.looked = true;
        }
        Ok(self.tables.values_mut())
    }

    async fn open(&mut self, name: &str) -> Result<&mut SealedTable, StoreError> {
        use std::collections::btree_map::Entry;
        match self.tables.entry(name.to_owned()) {
            Entry::Occupied(open) => Ok(open.into_mut()),
            Entry::Vacant(place) => {
                let table = self.store.catalogue().get(name).ok_or_else(|| StoreError::Damaged {
                    path: crate::layout::sealed(name).to_string(),
                    what: "the catalogue has no such table".into(),
                })?;
                Ok(place.insert(SealedTable::open_for_writing(&self.store, table).await?))
            }
        }
    }
}

async fn commit(
    store: &Store,
    sealed: &mut SealedTable,
    gathered: Gathered,
    done: &mut Sealed,
) -> Result<(), StoreError> {
    let table = sealed.table().clone();
    let read = futures::stream::iter(gathered.segments)
        .map(|segment| {
            let (store, table) = (store.clone(), table.clone());
            async move { read(&store, &table, &segment).await }
        })
        .buffered(PARALLEL);
    let batches: Vec<RecordBatch> = read.try_filter_map(|batch| async move { Ok(batch) }).try_collect().await?;
    let file = parquet_file::sort_and_encode(table.clone(), batches).await?;
    let (rows, bytes) = (file.facts.num_records, file.bytes.len() as u64);
    let advances: Vec<Advance> = gathered.advances.into_values().collect();
    sealed.append(vec![file], &advances).await?;
    done.commits += 1;
    done.rows += rows;
    done.bytes += bytes;
    Ok(())
}

/// The table's rows in one segment, in the schema of the table as it is now.
async fn read(store: &Store, table: &Table, segment: &Footer) -> Result<Option<RecordBatch>, StoreError> {
    let Some(part) = segment.part(&table.name) else { return Ok(None) };
    let batch = store.read_part(&segment.path(), part).await?;
    let conformed = nodescope_model::conform::conform(&batch, table);
    conformed.map(|c| Some(c.batch)).map_err(|e| StoreError::rows("conform", &table.name, e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sealed::tests::memory_store;
    use crate::segment::{self, tests::draft};

    async fn put(store: &Store, first: u64, next: u64, hosts: &[&str]) -> Arc<Footer> {
        let (footer, bytes) = segment::encode(draft(store.catalogue(), first, next, hosts)).unwrap();
        store.put_segment(&footer, bytes).await.unwrap();
        Arc::new(footer)
    }

    #[tokio::test]
    async fn what_is_sealed_is_not_sealed_again() {
        let store = memory_store();
        let mut segments = vec![put(&store, 0, 5, &["a", "b"]).await, put(&store, 5, 6, &[]).await];
        let mut sealer = Sealer::new(store.clone());
        let done = sealer.seal(&segments).await.unwrap();
        assert_eq!((done.commits, done.rows), (1, 10));
        assert!(sealer.is_sealed(&segments[0]).await.unwrap());
        assert!(sealer.is_sealed(&segments[1]).await.unwrap(), "a segment without rows has nothing to seal");

        segments.push(put(&store, 6, 9, &["a"]).await);
        assert!(!sealer.is_sealed(&segments[2]).await.unwrap());
        // Another process, after a restart, is handed everything.
        let mut sealer = Sealer::new(store.clone());
        assert_eq!(sealer.seal(&segments).await.unwrap().rows, 3);
        assert_eq!(sealer.seal(&segments).await.unwrap(), Sealed::default());
        let files = sealer.tables().await.unwrap().next().unwrap().files();
        assert_eq!(files.iter().map(|f| f.facts.num_records).sum::<u64>(), 13);
    }
}
