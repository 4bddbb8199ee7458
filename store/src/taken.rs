//! Which records have been taken of a partition, and up to which offset.
//!
//! An agent sends a record until the broker has acknowledged it, so the same record may lie on Kafka twice, days
//! apart. The collector takes it once: for every (agent, boot) it keeps the set of sequence numbers taken. Each
//! segment's footer says what that segment added; from time to time the whole set is written down as a *note*, so that
//! older segments may go. A restart reads the newest note and the footers after it, and has both the set and the
//! position to resume from.

use std::collections::HashMap;

use futures::TryStreamExt;
use nodescope_model::identity::RecordId;
use nodescope_model::seqs::Seqs;
use object_store::{ObjectStoreExt, PutMode, PutOptions};
use serde::{Deserialize, Serialize};

use crate::layout::{self, PartitionId};
use crate::segment::{Footer, Taken};
use crate::{Store, StoreError};

/// Notes kept of each partition. The newest is enough; the one before it is for a reader that is reading now.
const NOTES_KEPT: usize = 2;

/// The set of records taken of one partition.
#[derive(Debug, Clone, Default)]
pub struct TakenSet {
    by_run: HashMap<String, HashMap<u64, Seqs>>,
}

impl TakenSet {
    /// Notes a record. Returns whether it is new.
    pub fn insert(&mut self, id: &RecordId) -> bool {
        // Looked up by reference first: nearly every record is of a run already known.
        match self.by_run.get_mut(&id.agent).and_then(|boots| boots.get_mut(&id.boot)) {
            Some(seqs) => seqs.insert(id.seq),
            None => self.by_run.entry(id.agent.clone()).or_default().entry(id.boot).or_default().insert(id.seq),
        }
    }

    /// Whether the record has been taken.
    pub fn contains(&self, id: &RecordId) -> bool {
        self.by_run.get(&id.agent).and_then(|boots| boots.get(&id.boot)).is_some_and(|seqs| seqs.contains(id.seq))
    }

    /// Adds what a segment added.
    pub fn extend(&mut self, taken: &[Taken]) {
        for Taken { agent, boot, seqs } in taken {
            self.by_run.entry(agent.clone()).or_default().entry(*boot).or_default().extend(seqs);
        }
    }

    /// How many (agent, boot) there are.
    pub fn runs(&self) -> usize {
        self.by_run.values().map(HashMap::len).sum()
    }

    /// How many records the agents have numbered and not delivered, nor (yet) declared lost.
    pub fn missing(&self) -> u64 {
        self.by_run.values().flat_map(HashMap::values).map(Seqs::missing).sum()
    }

    /// The set as it is written down, in order.
    pub fn to_list(&self) -> Vec<Taken> {
        let mut list: Vec<Taken> = self
            .by_run
            .iter()
            .flat_map(|(agent, boots)| {
                boots.iter().map(|(boot, seqs)| Taken { agent: agent.clone(), boot: *boot, seqs: seqs.clone() })
            })
            .collect();
        list.sort_by(|a, b| (&a.agent, a.boot).cmp(&(&b.agent, b.boot)));
        list
    }
}

/// The set, written down.
#[derive(Debug, Serialize, Deserialize)]
struct Note {
    next: u64,
    taken: Vec<Taken>,
}

/// What the store knows of a partition.
#[derive(Debug, Default)]
pub struct Recovered {
    /// The offset to read next; `None` when nothing of this partition has ever been taken.
    pub next: Option<u64>,
    /// The records taken.
    pub taken: TakenSet,
    /// All segments there are, in order.
    pub segments: Vec<Footer>,
    /// Offset of the newest note.
    pub noted: Option<u64>,
}

impl Store {
    /// Reads back what has been taken of a partition.
    ///
    /// # Errors
    /// When the store fails, a segment is damaged, or segments do not follow each other.
    pub async fn recover(&self, partition: &PartitionId) -> Result<Recovered, StoreError> {
        let note = self.newest_note(partition).await?;
        let noted = note.as_ref().map(|n| n.next);
        let mut recovered = Recovered { next: noted, noted, ..Recovered::default() };
        if let Some(note) = note {
            recovered.taken.extend(&note.taken);
        }
        let firsts = self.list_segments(partition, 0).await?;
        let mut expected: Option<u64> = None;
        for footer in self.footers(partition, &firsts).await? {
            if let Some(expected) = expected
                && footer.first != expected
            {
                return Err(StoreError::Hole { partition: partition.to_string(), expected, found: footer.first });
            }
            if noted.is_none_or(|noted| footer.first >= noted) {
                recovered.taken.extend(&footer.taken);
            }
            expected = Some(footer.next);
            recovered.segments.push(footer);
        }
        // The note may be newer than every segment (all deleted), never older than their end.
        recovered.next = recovered.next.max(expected);
        if let (Some(first), Some(noted)) = (recovered.segments.first(), noted)
            && first.first > noted
        {
            return Err(StoreError::Hole { partition: partition.to_string(), expected: noted, found: first.first });
        }
        Ok(recovered)
    }

    /// Writes the set down as it was when `next` was the next offset, and removes older notes.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn note_taken(&self, partition: &PartitionId, next: u64, taken: &TakenSet) -> Result<(), StoreError> {
        let path = partition.taken_at(next);
        let note = Note { next, taken: taken.to_list() };
        let json = serde_json::to_vec(&note).map_err(|e| StoreError::rows("describe", "taken", e))?;
        match self.objects().put_opts(&path, json.into(), PutOptions::from(PutMode::Create)).await {
            Ok(_) | Err(object_store::Error::AlreadyExists { .. }) => {}
            Err(source) => return Err(StoreError::objects("write", &path, source)),
        }
        let offsets = self.notes(partition).await?;
        for offset in offsets.iter().rev().skip(NOTES_KEPT) {
            let path = partition.taken_at(*offset);
            match self.objects().delete(&path).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                Err(source) => return Err(StoreError::objects("delete", &path, source)),
            }
        }
        Ok(())
    }

    /// Offset of the newest note of a partition.
    pub(crate) async fn last_note(&self, partition: &PartitionId) -> Result<Option<u64>, StoreError> {
        Ok(self.notes(partition).await?.pop())
    }

    /// Offsets of the notes there are, in order.
    async fn notes(&self, partition: &PartitionId) -> Result<Vec<u64>, StoreError> {
        let folder = partition.taken();
        let listed: Vec<_> = self
            .objects()
            .list(Some(&folder))
            .try_collect()
            .await
            .map_err(|e| StoreError::objects("list", &folder, e))?;
        let mut offsets: Vec<u64> = listed
            .iter()
            .filter_map(|m| layout::parse_taken(&m.location))
            .filter(|(p, _)| p == partition)
            .map(|(_, o)| o)
            .collect();
        offsets.sort_unstable();
        Ok(offsets)
    }

    async fn newest_note(&self, partition: &PartitionId) -> Result<Option<Note>, StoreError> {
        let Some(newest) = self.notes(partition).await?.pop() else { return Ok(None) };
        let path = partition.taken_at(newest);
        let failed = |source| StoreError::objects("read", &path, source);
        let bytes = self.objects().get(&path).await.map_err(failed)?.bytes().await.map_err(failed)?;
        let note: Note = serde_json::from_slice(&bytes)
            .map_err(|e| StoreError::Damaged { path: path.to_string(), what: e.to_string() })?;
        Ok(Some(note))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use nodescope_model::catalogue::Catalogue;

    use super::*;
    use crate::segment::{self, tests::draft};

    fn id(seq: u64) -> RecordId {
        RecordId { agent: "a".into(), boot: 1, seq }
    }

    async fn store_with(ranges: &[(u64, u64)]) -> Store {
        let store =
            Store::new(Arc::new(object_store::memory::InMemory::new()), Arc::new(Catalogue::built_in()), "test");
        for (first, next) in ranges {
            let (footer, bytes) = segment::encode(draft(store.catalogue(), *first, *next, &["a"])).unwrap();
            store.put_segment(&footer, bytes).await.unwrap();
        }
        store
    }

    #[tokio::test]
    async fn a_restart_knows_position_and_records_from_segments_alone() {
        let store = store_with(&[(0, 5), (5, 9)]).await;
        let partition = PartitionId::new("t", 0);
        let mut recovered = store.recover(&partition).await.unwrap();
        assert_eq!(recovered.next, Some(9));
        assert!(!recovered.taken.insert(&id(8)));
        assert!(recovered.taken.insert(&id(9)));
        let fresh = store.recover(&PartitionId::new("t", 1)).await.unwrap();
        assert_eq!((fresh.next, fresh.taken.runs()), (None, 0));
    }

    #[tokio::test]
    async fn a_note_replaces_the_segments_before_it() {
        let store = store_with(&[(0, 5), (5, 9)]).await;
        let partition = PartitionId::new("t", 0);
        let recovered = store.recover(&partition).await.unwrap();
        store.note_taken(&partition, 9, &recovered.taken).await.unwrap();
        for first in [0, 5] {
            store.objects().delete(&partition.segment(first)).await.unwrap();
        }
        let mut recovered = store.recover(&partition).await.unwrap();
        assert_eq!((recovered.next, recovered.noted), (Some(9), Some(9)));
        assert!(!recovered.taken.insert(&id(0)));
        assert!(!recovered.taken.insert(&id(8)));
    }

    #[tokio::test]
    async fn a_hole_is_refused() {
        let partition = PartitionId::new("t", 0);
        let store = store_with(&[(0, 5), (6, 9)]).await;
        assert!(matches!(store.recover(&partition).await, Err(StoreError::Hole { expected: 5, found: 6, .. })));
    }

    #[tokio::test]
    async fn old_notes_go() {
        let store = store_with(&[]).await;
        let partition = PartitionId::new("t", 0);
        for next in 1..6 {
            store.note_taken(&partition, next, &TakenSet::default()).await.unwrap();
        }
        assert_eq!(store.notes(&partition).await.unwrap(), [4, 5]);
    }
}
