//! Background work on the store: sealing, noting, compaction, retention, deletion.
//!
//! One task, one step after the other, each of which can be repeated. A step that fails is tried again at the next
//! round; nothing waits for it but more hot segments, which readers read as well.
//!
//! Journals (rows that programs of ours write themselves) have no collector of their own: the one that reads partition
//! 0 of its topic looks after those it finds in the store.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nodescope_service::errors::chain;
use nodescope_store::layout::PartitionId;
use nodescope_store::seal::Sealer;
use nodescope_store::sealed::SealedTable;
use nodescope_store::{Store, StoreError, compaction, journal, retention};
use object_store::path::Path;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::ledger::Ledger;
use crate::metrics::CollectorMetrics;
use crate::settings::UpkeepSettings;

/// Merges of one table in one round at the most, so that sealing is never far behind.
const MOST_MERGES: usize = 4;

/// How often retention and sweeping look at the tables.
const EXPIRE_EVERY: Duration = Duration::from_secs(600);

/// Works until told to stop.
pub async fn run(
    settings: UpkeepSettings,
    store: Store,
    ledger: Arc<Ledger>,
    metrics: CollectorMetrics,
    shutdown: CancellationToken,
) {
    let mut upkeep = Upkeep {
        sealer: Sealer::new(store.clone()),
        store,
        ledger,
        metrics,
        settings,
        sealed_since: HashMap::new(),
        swept: HashSet::new(),
        expired: None,
    };
    let mut rounds = tokio::time::interval(upkeep.settings.seal_every.max(Duration::from_millis(10)));
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    rounds.tick().await;
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = rounds.tick() => {}
        }
        // A round is left in the middle only by the end of the process, which every step survives.
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = upkeep.round() => {}
        }
    }
}

struct Upkeep {
    settings: UpkeepSettings,
    store: Store,
    ledger: Arc<Ledger>,
    metrics: CollectorMetrics,
    sealer: Sealer,
    /// When a segment was first seen sealed, by partition and first offset.
    sealed_since: HashMap<(PartitionId, u64), Instant>,
    swept: HashSet<Path>,
    expired: Option<Instant>,
}

impl Upkeep {
    async fn round(&mut self) {
        if self.settings.journals {
            let result = self.follow_journals().await;
            self.report("follow", result);
        }
        let result = self.seal().await;
        self.report("seal", result);
        let result = self.note().await;
        self.report("note", result);
        let result = self.delete_segments().await;
        self.report("delete", result);
        let result = self.compact().await;
        self.report("compact", result);
        if self.expired.is_none_or(|at| at.elapsed() >= EXPIRE_EVERY.min(self.settings.grace)) {
            let result = self.expire().await;
            self.report("expire", result);
            self.expired = Some(Instant::now());
        }
    }

    fn report(&self, step: &'static str, result: Result<(), StoreError>) {
        if let Err(error) = result {
            self.metrics.upkeep_failed(step);
            tracing::warn!(step, error = %chain(&error), "upkeep will try again");
        }
    }

    /// Takes the segments that journals have gained into the ledger, as if they were ours.
    async fn follow_journals(&mut self) -> Result<(), StoreError> {
        let found = self.store.list_partitions().await?;
        for partition in found.into_keys().filter(|p| p.topic.starts_with(journal::PREFIX)) {
            let Some(mut next) = self.ledger.next(&partition) else {
                let recovered = self.store.recover(&partition).await?;
                self.ledger.begin(partition, &recovered);
                continue;
            };
            while let Some(footer) = self.store.footer(&partition.segment(next)).await? {
                next = footer.next;
                self.ledger.add(footer);
            }
        }
        Ok(())
    }

    async fn seal(&mut self) -> Result<(), StoreError> {
        let began = Instant::now();
        let done = self.sealer.seal(&self.ledger.segments()).await?;
        self.metrics.seal_seconds.observe(began.elapsed().as_secs_f64());
        self.metrics.sealed_rows.inc_by(done.rows);
        self.metrics.sealed_bytes.inc_by(done.bytes);
        tracing::debug!(commits = done.commits, rows = done.rows, bytes = done.bytes, "sealed");
        Ok(())
    }

    async fn note(&mut self) -> Result<(), StoreError> {
        for note in self.ledger.to_note() {
            self.store.note_taken(&note.partition, note.next, &note.taken).await?;
            self.ledger.noted(&note.partition, note.next);
        }
        let (runs, missing) = self.ledger.runs_and_missing();
        self.metrics.agent_runs.set(i64::try_from(runs).unwrap_or(i64::MAX));
        self.metrics.missing_records.set(i64::try_from(missing).unwrap_or(i64::MAX));
        Ok(())
    }

    /// Deletes segments that are sealed and noted, the oldest first, after the grace time.
    async fn delete_segments(&mut self) -> Result<(), StoreError> {
        let now = Instant::now();
        for (partition, segments) in self.ledger.noted_segments() {
            // Oldest first, so that what remains follows without a hole, whenever this is interrupted.
            let mut may_go = true;
            for segment in segments {
                if !self.sealer.is_sealed(&segment).await? {
                    break;
                }
                let key = (partition.clone(), segment.first);
                let since = *self.sealed_since.entry(key.clone()).or_insert(now);
                may_go &= now.duration_since(since) >= self.settings.grace;
                if may_go {
                    retention::delete(&self.store, &[segment.path()]).await?;
                    self.ledger.forget(&partition, segment.next);
                    self.sealed_since.remove(&key);
                    self.metrics.deleted_files.inc();
                }
            }
        }
        Ok(())
    }

    async fn compact(&mut self) -> Result<(), StoreError> {
        let (store, metrics) = (self.store.clone(), self.metrics.clone());
        let mut first = Ok(());
        for table in self.sealer.tables().await? {
            // One table that cannot be merged does not hold up the others.
            first = first.and(merge(&store, &metrics, table).await);
        }
        first
    }

    async fn expire(&mut self) -> Result<(), StoreError> {
        let now_us = crate::consumer::now_us();
        let mut first = Ok(());
        for table in self.sealer.tables().await? {
            let age = self.settings.retention_of(&table.table().name);
            let done =
                expire(&self.store, &self.metrics, table, age, self.settings.grace, now_us, &mut self.swept).await;
            first = first.and(done);
        }
        first
    }
}

async fn merge(store: &Store, metrics: &CollectorMetrics, table: &mut SealedTable) -> Result<(), StoreError> {
    // Somebody else may have merged, and our own last commit may have taken place although it did not say so.
    table.refresh().await?;
    for _ in 0..MOST_MERGES {
        let merged = compaction::compact(store, table).await?;
        if merged == 0 {
            break;
        }
        metrics.merged_files.inc_by(merged as u64);
    }
    Ok(())
}

async fn expire(
    store: &Store,
    metrics: &CollectorMetrics,
    table: &mut SealedTable,
    age: Duration,
    grace: Duration,
    now_us: i64,
    swept: &mut HashSet<Path>,
) -> Result<(), StoreError> {
    table.refresh().await?;
    let expired = retention::expire(table, age, now_us).await?;
    if expired > 0 {
        tracing::info!(table = table.table().name, files = expired, "rows are past their age limit");
    }
    let deleted = retention::sweep(store, table, grace, swept).await?;
    metrics.deleted_files.inc_by(deleted as u64);
    Ok(())
}

#[cfg(test)]
mod tests {
    use nodescope_model::catalogue::Catalogue;
    use nodescope_model::rows::{Rows, Stamp};
    use nodescope_store::cut::Reader;
    use nodescope_store::journal::Journal;
    use prometheus_client::registry::Registry;

    use super::*;

    fn upkeep(store: &Store, journals: bool) -> Upkeep {
        let day = Duration::from_secs(86_400);
        Upkeep {
            settings: UpkeepSettings {
                seal_every: Duration::from_secs(1),
                grace: Duration::ZERO,
                retention: 36_500 * day,
                retention_of: std::collections::BTreeMap::new(),
                journals,
            },
            store: store.clone(),
            ledger: Arc::new(Ledger::default()),
            metrics: CollectorMetrics::register(&mut Registry::default()),
            sealer: Sealer::new(store.clone()),
            sealed_since: HashMap::new(),
            swept: HashSet::new(),
            expired: None,
        }
    }

    async fn append(journal: &mut Journal, store: &Store, second: i64) {
        let table = store.catalogue().get("memory").unwrap();
        let mut rows = Rows::new(table);
        rows.begin().int("total_bytes", second);
        let batch = rows.finish(&Stamp { ts_micros: second * 1_000_000, node: "n", host: "h" });
        journal.append(vec![(table.clone(), vec![batch])]).await.unwrap();
    }

    /// Rows of `memory` that are sealed, and that are hot.
    async fn rows(store: &Store) -> (u64, u64) {
        let table = store.catalogue().get("memory").unwrap();
        let cut = Reader::new(store.clone(), 0).cut(table).await.unwrap();
        (cut.files.iter().map(|f| f.facts.num_records).sum(), cut.hot.iter().map(|h| h.part().rows).sum())
    }

    #[tokio::test]
    async fn journals_are_sealed_and_their_segments_go() {
        let memory = Arc::new(object_store::memory::InMemory::new());
        let store = Store::new(memory, Arc::new(Catalogue::built_in()), "test");
        let mut journal = Journal::open(&store, journal::SCHEDULE).await.unwrap();
        append(&mut journal, &store, 0).await;
        append(&mut journal, &store, 1).await;
        // A collector of other partitions leaves them alone.
        upkeep(&store, false).round().await;
        assert_eq!(rows(&store).await, (0, 2));

        let mut upkeep = upkeep(&store, true);
        upkeep.round().await;
        assert_eq!(rows(&store).await, (2, 0));
        assert!(store.list_partitions().await.unwrap().is_empty(), "nothing is left hot");
        // What follows is found by its name; and after a restart of everybody nothing is lost or twice.
        append(&mut journal, &store, 2).await;
        assert_eq!(rows(&store).await, (2, 1));
        upkeep.round().await;
        let mut journal = Journal::open(&store, journal::SCHEDULE).await.unwrap();
        assert_eq!(journal.next(), 3);
        append(&mut journal, &store, 3).await;
        self::upkeep(&store, true).round().await;
        assert_eq!(rows(&store).await, (4, 0));
    }
}
