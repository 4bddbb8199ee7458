//! The segments that are durable and not yet gone, and the records they took.
//!
//! The consumer adds a segment when it is durable; upkeep seals what is here, and takes out what it has deleted. The
//! set of taken records kept here is exactly that of the durable segments, which is what may be noted in the store.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use nodescope_store::layout::PartitionId;
use nodescope_store::segment::Footer;
use nodescope_store::taken::{Recovered, TakenSet};
use parking_lot::Mutex;

/// All partitions of this collector.
#[derive(Debug, Default)]
pub struct Ledger {
    partitions: Mutex<BTreeMap<PartitionId, Entry>>,
}

#[derive(Debug, Default)]
struct Entry {
    segments: VecDeque<Arc<Footer>>,
    taken: TakenSet,
    next: u64,
    noted: Option<u64>,
}

/// What there is to note of a partition.
#[derive(Debug)]
pub struct ToNote {
    /// The partition.
    pub partition: PartitionId,
    /// The offset after its last durable segment.
    pub next: u64,
    /// The records taken up to there.
    pub taken: TakenSet,
}

impl Ledger {
    /// Begins with what the store knows of a partition.
    pub fn begin(&self, partition: PartitionId, recovered: &Recovered) {
        let entry = Entry {
            segments: recovered
                .segments
                .iter()
                .map(|footer| Arc::new(Footer { taken: Vec::new(), ..footer.clone() }))
                .collect(),
            taken: recovered.taken.clone(),
            next: recovered.next.unwrap_or(0),
            noted: recovered.noted,
        };
        self.partitions.lock().insert(partition, entry);
    }

    /// Adds a durable segment.
    pub fn add(&self, mut footer: Footer) {
        let mut partitions = self.partitions.lock();
        let entry = partitions.entry(footer.partition.clone()).or_default();
        // Kept once, in the set: with many agents it is most of a footer.
        entry.taken.extend(&std::mem::take(&mut footer.taken));
        entry.next = footer.next;
        entry.segments.push_back(Arc::new(footer));
    }

    /// The offset after a partition's last durable segment; `None` when the partition is not known here.
    pub fn next(&self, partition: &PartitionId) -> Option<u64> {
        self.partitions.lock().get(partition).map(|e| e.next)
    }

    /// All segments, those of a partition in order.
    pub fn segments(&self) -> Vec<Arc<Footer>> {
        self.partitions.lock().values().flat_map(|e| e.segments.iter().cloned()).collect()
    }

    /// Partitions whose taken records have grown since they were last noted.
    pub fn to_note(&self) -> Vec<ToNote> {
        self.partitions
            .lock()
            .iter()
            .filter(|(_, e)| e.next > 0 && e.noted != Some(e.next))
            .map(|(partition, e)| ToNote { partition: partition.clone(), next: e.next, taken: e.taken.clone() })
            .collect()
    }

    /// Remembers that a note was written.
    pub fn noted(&self, partition: &PartitionId, next: u64) {
        if let Some(entry) = self.partitions.lock().get_mut(partition) {
            entry.noted = Some(next);
        }
    }

    /// The oldest segments of a partition whose taken records are in a note.
    pub fn noted_segments(&self) -> Vec<(PartitionId, Vec<Arc<Footer>>)> {
        self.partitions
            .lock()
            .iter()
            .filter_map(|(partition, e)| {
                let noted = e.noted?;
                let segments = e.segments.iter().take_while(|s| s.next <= noted).cloned().collect();
                Some((partition.clone(), segments))
            })
            .collect()
    }

    /// Forgets a partition's segments before `next`: they are deleted.
    pub fn forget(&self, partition: &PartitionId, next: u64) {
        if let Some(entry) = self.partitions.lock().get_mut(partition) {
            while entry.segments.front().is_some_and(|s| s.next <= next) {
                entry.segments.pop_front();
            }
        }
    }

    /// (agent, boot) pairs known, and records that agents have numbered and not delivered.
    pub fn runs_and_missing(&self) -> (usize, u64) {
        let partitions = self.partitions.lock();
        let runs = partitions.values().map(|e| e.taken.runs()).sum();
        let missing = partitions.values().map(|e| e.taken.missing()).sum();
        (runs, missing)
    }
}
