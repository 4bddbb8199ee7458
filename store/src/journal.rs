//! Journals: rows that programs of ours write, beside those that come from Kafka.
//!
//! What a schedule derives, what incidents there are, what a registry says: such rows have no broker before them. A
//! *journal* is a partition whose writer is a program of ours. Its topic begins with `journal.`, it has one partition,
//! and its offsets count appends. Everything else is as for Kafka's partitions: one append is one segment, which is
//! one conditional PUT, so all its tables are there or none; readers' cuts see it; upkeep notes, seals and deletes it.
//!
//! The same PUT is the fence. Of two programs that append to one journal, one finds the name taken, and must look at
//! what the other wrote ([`Journal::catch_up`]) before it decides anew.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arrow_array::RecordBatch;
use nodescope_model::catalogue::Table;

use crate::layout::PartitionId;
use crate::segment::{Draft, encode};
use crate::{Store, StoreError};

/// What the topics of all journals begin with. No topic of Kafka may.
pub const PREFIX: &str = "journal.";

/// The journal of everything that runs on a schedule.
pub const SCHEDULE: &str = "journal.schedule";

/// The journal of the registry.
pub const REGISTRY: &str = "journal.registry";

/// Pauses between two tries to reach a store that is away: the first, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// A journal, open for appending.
#[derive(Debug)]
pub struct Journal {
    store: Store,
    partition: PartitionId,
    next: u64,
    writer: String,
}

impl Journal {
    /// Opens a journal at its end. One that nobody has written to yet is empty.
    ///
    /// # Errors
    /// When the store fails or its newest segment is damaged.
    pub async fn open(store: &Store, topic: &str) -> Result<Self, StoreError> {
        let partition = PartitionId::new(topic, 0);
        let next = store.end_of(&partition).await?;
        Ok(Self { store: store.clone(), partition, next, writer: uuid::Uuid::now_v7().to_string() })
    }

    /// How many appends there have been, as far as is known: the offset of the next one.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// The journal's partition.
    pub fn partition(&self) -> &PartitionId {
        &self.partition
    }

    /// Appends rows, of all tables or of none. An `Ok` is durable. Rows are in the schemas of their tables; no rows at
    /// all are no append. A store that is away is asked again until it answers, for an append whose answer is lost may
    /// have taken place.
    ///
    /// # Errors
    /// `AlreadyWritten` when somebody else has appended: [`Self::catch_up`], and decide again. Anything else is no
    /// append, and will not become one.
    pub async fn append(&mut self, tables: Vec<(Arc<Table>, Vec<RecordBatch>)>) -> Result<(), StoreError> {
        let mut by_name: BTreeMap<String, (Arc<Table>, Vec<RecordBatch>)> = BTreeMap::new();
        for (table, batches) in tables {
            let rows = batches.into_iter().filter(|batch| batch.num_rows() > 0);
            by_name.entry(table.name.clone()).or_insert_with(|| (table, Vec::new())).1.extend(rows);
        }
        let tables: Vec<_> = by_name.into_values().filter(|(_, batches)| !batches.is_empty()).collect();
        if tables.is_empty() {
            return Ok(());
        }
        let draft = Draft {
            partition: self.partition.clone(),
            first: self.next,
            next: self.next + 1,
            writer: self.writer.clone(),
            written_us: now_us(),
            tables,
            taken: Vec::new(),
        };
        let (footer, bytes) = tokio::task::spawn_blocking(move || encode(draft))
            .await
            .map_err(|source| StoreError::rows("encode", "segment", source))??;
        let mut pause = PAUSES.0;
        while let Err(error) = self.store.put_segment(&footer, bytes.clone()).await {
            if !error.is_transient() {
                return Err(error);
            }
            tracing::warn!(segment = %footer.path(), %error, "cannot append to a journal; trying again");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSES.1);
        }
        self.next = footer.next;
        Ok(())
    }

    /// Moves on to the end, past what somebody else has appended.
    ///
    /// # Errors
    /// When the store fails or the newest segment is damaged.
    pub async fn catch_up(&mut self) -> Result<(), StoreError> {
        self.next = self.store.end_of(&self.partition).await?;
        Ok(())
    }
}

impl Store {
    /// The offset after a partition's last segment; 0 when nothing was ever written. Notes know it when all segments
    /// are sealed and gone.
    async fn end_of(&self, partition: &PartitionId) -> Result<u64, StoreError> {
        let segments = self.list_segments(partition, 0).await?;
        let noted = self.last_note(partition).await?;
        let mut next = noted.into_iter().chain(segments.last().copied()).max().unwrap_or(0);
        // A listing may be old: whatever follows is found by its name.
        while let Some(footer) = self.footer(&partition.segment(next)).await? {
            next = footer.next;
        }
        Ok(next)
    }
}

fn now_us() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use object_store::ObjectStoreExt;

    use super::*;
    use crate::seal::Sealer;
    use crate::sealed::tests::memory_store;
    use crate::segment::tests::memory_rows;

    fn rows(store: &Store, from: i64, rows: i64) -> (Arc<Table>, Vec<RecordBatch>) {
        let (table, batch) = memory_rows(store.catalogue(), "a", from, rows);
        (table, vec![batch])
    }

    #[tokio::test]
    async fn an_append_is_one_segment_and_the_position_is_there_after_reopening() {
        let store = memory_store();
        let mut journal = Journal::open(&store, SCHEDULE).await.unwrap();
        assert_eq!(journal.next(), 0);
        // The same table twice is one part.
        journal.append(vec![rows(&store, 0, 2), rows(&store, 2, 1)]).await.unwrap();
        journal.append(vec![rows(&store, 3, 1)]).await.unwrap();
        journal.append(Vec::new()).await.unwrap();
        assert_eq!(journal.next(), 2);
        let footers = store.footers(journal.partition(), &[0, 1]).await.unwrap();
        assert_eq!(footers.iter().map(|f| f.part("memory").unwrap().rows).collect::<Vec<_>>(), [3, 1]);
        assert_eq!(Journal::open(&store, SCHEDULE).await.unwrap().next(), 2);
        assert_eq!(Journal::open(&store, REGISTRY).await.unwrap().next(), 0);
    }

    #[tokio::test]
    async fn the_position_outlives_the_segments() {
        let store = memory_store();
        let mut journal = Journal::open(&store, SCHEDULE).await.unwrap();
        for second in 0..3 {
            journal.append(vec![rows(&store, second, 1)]).await.unwrap();
        }
        let partition = journal.partition().clone();
        let recovered = store.recover(&partition).await.unwrap();
        let segments: Vec<_> = recovered.segments.into_iter().map(Arc::new).collect();
        Sealer::new(store.clone()).seal(&segments).await.unwrap();
        store.note_taken(&partition, 3, &recovered.taken).await.unwrap();
        for segment in &segments {
            store.objects().delete(&segment.path()).await.unwrap();
        }
        let mut journal = Journal::open(&store, SCHEDULE).await.unwrap();
        assert_eq!(journal.next(), 3);
        journal.append(vec![rows(&store, 3, 1)]).await.unwrap();
        assert_eq!(Journal::open(&store, SCHEDULE).await.unwrap().next(), 4);
        assert_eq!(store.recover(&partition).await.unwrap().next, Some(4));
    }

    #[tokio::test]
    async fn of_two_writers_the_second_is_told_and_catches_up() {
        let store = memory_store();
        let mut one = Journal::open(&store, REGISTRY).await.unwrap();
        let mut two = Journal::open(&store, REGISTRY).await.unwrap();
        one.append(vec![rows(&store, 0, 1)]).await.unwrap();
        one.append(vec![rows(&store, 1, 1)]).await.unwrap();
        let refused = two.append(vec![rows(&store, 9, 1)]).await.unwrap_err();
        assert!(matches!(refused, StoreError::AlreadyWritten { .. }), "{refused}");
        two.catch_up().await.unwrap();
        two.append(vec![rows(&store, 9, 1)]).await.unwrap();
        assert!(matches!(one.append(vec![rows(&store, 2, 1)]).await, Err(StoreError::AlreadyWritten { .. })));
        assert_eq!((one.next(), two.next()), (2, 3));
    }
}
