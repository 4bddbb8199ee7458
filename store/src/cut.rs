//! The cut: every row of a table once, wherever it is at this moment.
//!
//! Rows are in hot segments first and in sealed files later, and for a while in both. A cut takes one version of the
//! sealed table, with that version's watermarks, and then every hot segment at or beyond them. Because rows and
//! watermarks change in the same commit, no row is in the cut twice and none is missing, whatever sealing does.
//!
//! The order matters: first the sealed version, then the segments. A version read too early only means that more is
//! read from segments, which stay for the grace time; a version read too late could leave a gap.
//!
//! Reading is cheap because almost nothing is asked twice: footers never change, so they are kept; the name of the
//! next segment is known, so whether there is more is one request per partition; decoded rows are kept up to a limit.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow_array::RecordBatch;
use futures::{StreamExt, TryStreamExt};
use nodescope_model::catalogue::Table;
use object_store::path::Path;
use parking_lot::Mutex;

use crate::layout::PartitionId;
use crate::sealed::{SealedFile, SealedTable};
use crate::segment::{Footer, Part};
use crate::{Store, StoreError};

/// How long a sealed version may be used before a newer one is looked for. Much shorter than the grace time.
const SEALED_EVERY: Duration = Duration::from_secs(1);

/// How often new partitions are looked for.
const PARTITIONS_EVERY: Duration = Duration::from_secs(2);

/// A partition not followed for this long is listed anew: its next segment may have come and gone.
const FOLLOW_FOR: Duration = Duration::from_secs(30);

/// Two queries this close together share one look at the store.
const SHARED: Duration = Duration::from_millis(5);

/// Requests under way at once.
const PARALLEL: usize = 16;

/// One table's rows at one moment.
#[derive(Debug, Clone)]
pub struct Cut {
    /// The table.
    pub table: Arc<Table>,
    /// Sealed files.
    pub files: Arc<[SealedFile]>,
    /// Parts of hot segments, in order of partition and offset.
    pub hot: Vec<HotPart>,
}

/// One table's rows in one hot segment.
#[derive(Debug, Clone)]
pub struct HotPart {
    /// The segment.
    pub segment: Arc<Footer>,
    at: usize,
}

impl HotPart {
    /// What the footer says of these rows.
    pub fn part(&self) -> &Part {
        &self.segment.parts[self.at]
    }
}

/// How far somebody has seen, by partition: the next offset not seen.
pub type Positions = BTreeMap<PartitionId, u64>;

/// What has come since somebody last looked.
#[derive(Debug, Default)]
pub struct News {
    /// New segments, those of a partition in order.
    pub segments: Vec<Arc<Footer>>,
    /// Partitions of which segments have come and gone unseen: sealed since, and deleted.
    pub missed: Vec<PartitionId>,
}

/// Makes cuts of one store. Shared by all queries of a server.
#[derive(Debug)]
pub struct Reader {
    store: Store,
    state: tokio::sync::Mutex<State>,
    cache: Mutex<Cache>,
}

#[derive(Debug, Default)]
struct State {
    partitions: BTreeMap<PartitionId, Followed>,
    partitions_listed: Option<Instant>,
    followed: Option<Instant>,
    sealed: HashMap<String, View>,
}

#[derive(Debug)]
struct Followed {
    segments: VecDeque<Arc<Footer>>,
    next: u64,
}

impl Followed {
    fn push(&mut self, mut footer: Footer) {
        // What was taken is the collector's business, and is most of a footer where agents are many.
        footer.taken = Vec::new();
        self.next = footer.next;
        self.segments.push_back(Arc::new(footer));
    }
}

#[derive(Debug)]
struct View {
    /// `None` while nothing has been sealed into the table.
    sealed: Option<SealedTable>,
    files: Arc<[SealedFile]>,
    looked: Instant,
}

impl Reader {
    /// A reader that keeps up to `cache_bytes` of decoded hot rows.
    pub fn new(store: Store, cache_bytes: usize) -> Self {
        Self { store, state: tokio::sync::Mutex::default(), cache: Mutex::new(Cache::new(cache_bytes)) }
    }

    /// The store it reads.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The table's rows as of now.
    ///
    /// # Errors
    /// When the store fails or something in it is damaged.
    pub async fn cut(&self, table: &Arc<Table>) -> Result<Cut, StoreError> {
        let mut state = self.state.lock().await;
        let state = &mut *state;
        let view = look_at_sealed(&self.store, &mut state.sealed, table).await?;
        let files = view.files.clone();
        self.follow(&mut state.partitions, &mut state.partitions_listed, &mut state.followed).await?;
        let view = state.sealed.get_mut(&table.name);
        let mut hot = Vec::new();
        let mut sealed = view.and_then(|v| v.sealed.as_mut());
        for (partition, followed) in &state.partitions {
            let watermark = match &mut sealed {
                Some(sealed) => sealed.watermark(partition).await?.unwrap_or(0),
                None => 0,
            };
            for segment in &followed.segments {
                if segment.first >= watermark
                    && let Ok(at) = segment.parts.binary_search_by(|p| p.table.as_str().cmp(&table.name))
                {
                    hot.push(HotPart { segment: segment.clone(), at });
                }
            }
        }
        Ok(Cut { table: table.clone(), files, hot })
    }

    /// Follows a partition that has no segments, from the offset at which its next begins: so that one is seen at once,
    /// and not when partitions are listed the next time. A partition that is followed already is left as it is.
    pub async fn expect(&self, partition: &PartitionId, next: u64) {
        let mut state = self.state.lock().await;
        let nothing = || Followed { segments: VecDeque::new(), next };
        state.partitions.entry(partition.clone()).or_insert_with(nothing);
    }

    /// Looks at the store anew: every cut taken after this holds all that was committed before it. A look of others a
    /// moment ago is not enough, and neither is a list of partitions that lacks one just made.
    ///
    /// # Errors
    /// When the store fails or something in it is damaged.
    pub async fn look_anew(&self) -> Result<(), StoreError> {
        let mut state = self.state.lock().await;
        let state = &mut *state;
        state.followed = None;
        self.follow(&mut state.partitions, &mut state.partitions_listed, &mut state.followed).await
    }

    /// The segments that came after `positions`, which move on past them. Every cut taken after this holds their rows.
    /// Empty positions are those of somebody who has never looked, and has missed nothing.
    ///
    /// # Errors
    /// When the store fails or something in it is damaged. The positions are then as they were.
    pub async fn news(&self, positions: &mut Positions) -> Result<News, StoreError> {
        let mut state = self.state.lock().await;
        let state = &mut *state;
        self.follow(&mut state.partitions, &mut state.partitions_listed, &mut state.followed).await?;
        let first_look = positions.is_empty();
        let mut news = News::default();
        for (partition, followed) in &state.partitions {
            let oldest = followed.segments.front().map_or(followed.next, |s| s.first);
            let seen = positions.entry(partition.clone()).or_insert(if first_look { oldest } else { 0 });
            if oldest > *seen {
                news.missed.push(partition.clone());
            }
            news.segments.extend(followed.segments.iter().filter(|s| s.first >= *seen).cloned());
            *seen = followed.next.max(*seen);
        }
        Ok(news)
    }

    /// Learns of new segments.
    async fn follow(
        &self,
        partitions: &mut BTreeMap<PartitionId, Followed>,
        listed: &mut Option<Instant>,
        followed: &mut Option<Instant>,
    ) -> Result<(), StoreError> {
        if followed.is_some_and(|at| at.elapsed() < SHARED) {
            return Ok(());
        }
        let behind = followed.is_none_or(|at| at.elapsed() > FOLLOW_FOR);
        if behind || listed.is_none_or(|at| at.elapsed() > PARTITIONS_EVERY) {
            let found = self.store.list_partitions().await?;
            for (partition, firsts) in found {
                let known = partitions.entry(partition.clone());
                let entry = known.or_insert_with(|| Followed {
                    segments: VecDeque::new(),
                    next: firsts.first().copied().unwrap_or(0),
                });
                let oldest = firsts.first().copied().unwrap_or(0);
                // What is deleted is sealed since long: nobody's cut needs its footer any more.
                while entry.segments.front().is_some_and(|s| s.first < oldest) {
                    entry.segments.pop_front();
                }
                if entry.segments.is_empty() {
                    entry.next = entry.next.max(oldest);
                }
                let new: Vec<u64> = firsts.into_iter().filter(|first| *first >= entry.next).collect();
                for footer in self.store.footers(&partition, &new).await? {
                    // A listing is no snapshot: it may show a segment and not the one before. The next look asks for
                    // that by its name.
                    if footer.first != entry.next && !entry.segments.is_empty() {
                        break;
                    }
                    entry.push(footer);
                }
            }
            *listed = Some(Instant::now());
        } else {
            let known: Vec<(PartitionId, u64)> = partitions.iter().map(|(p, f)| (p.clone(), f.next)).collect();
            let more: Vec<(PartitionId, Vec<Footer>)> = futures::stream::iter(known)
                .map(|(partition, next)| self.footers_from(partition, next))
                .buffer_unordered(PARALLEL)
                .try_collect()
                .await?;
            for (partition, footers) in more {
                let Some(known) = partitions.get_mut(&partition) else { continue };
                footers.into_iter().for_each(|footer| known.push(footer));
            }
        }
        *followed = Some(Instant::now());
        Ok(())
    }

    /// The footers of a partition's segments from `next` on.
    async fn footers_from(
        &self,
        partition: PartitionId,
        mut next: u64,
    ) -> Result<(PartitionId, Vec<Footer>), StoreError> {
        let mut more = Vec::new();
        while let Some(footer) = self.store.footer(&partition.segment(next)).await? {
            next = footer.next;
            more.push(footer);
        }
        Ok((partition, more))
    }

    /// The rows of a part, in the schema of the table as it is now.
    ///
    /// # Errors
    /// When the store fails or the segment is damaged.
    pub async fn read(&self, table: &Table, hot: &HotPart) -> Result<RecordBatch, StoreError> {
        let key = (hot.segment.partition.clone(), hot.segment.first, hot.at);
        if let Some(batch) = self.cache.lock().get(&key) {
            return Ok(batch);
        }
        let batch = self.store.read_part(&hot.segment.path(), hot.part()).await?;
        let batch = nodescope_model::conform::conform(&batch, table)
            .map_err(|e| StoreError::rows("conform", &table.name, e))?
            .batch;
        self.cache.lock().put(key, batch.clone());
        Ok(batch)
    }

    /// Name of the object with these rows, for messages.
    pub fn path(&self, hot: &HotPart) -> Path {
        hot.segment.path()
    }
}

async fn look_at_sealed<'a>(
    store: &Store,
    sealed: &'a mut HashMap<String, View>,
    table: &Arc<Table>,
) -> Result<&'a View, StoreError> {
    use std::collections::hash_map::Entry;
    let now = Instant::now();
    match sealed.entry(table.name.clone()) {
        Entry::Vacant(place) => {
            let open = SealedTable::open(store, table).await?;
            let files = open.as_ref().map(SealedTable::files).unwrap_or_default().into();
            Ok(place.insert(View { sealed: open, files, looked: now }))
        }
        Entry::Occupied(entry) => {
            let view = entry.into_mut();
            if now.duration_since(view.looked) < SEALED_EVERY {
                return Ok(view);
            }
            let changed = match &mut view.sealed {
                Some(open) => open.refresh().await?,
                None => {
                    view.sealed = SealedTable::open(store, table).await?;
                    view.sealed.is_some()
                }
            };
            if changed {
                view.files = view.sealed.as_ref().map(SealedTable::files).unwrap_or_default().into();
            }
            view.looked = now;
            Ok(view)
        }
    }
}

type CacheKey = (PartitionId, u64, usize);

/// Decoded parts, the oldest leaving first. Parts age out by themselves when they are sealed, so that the order of
/// arrival is a good enough guess at what is wanted again.
#[derive(Debug)]
struct Cache {
    parts: HashMap<CacheKey, RecordBatch>,
    order: VecDeque<CacheKey>,
    bytes: usize,
    limit: usize,
}

impl Cache {
    fn new(limit: usize) -> Self {
        Self { parts: HashMap::new(), order: VecDeque::new(), bytes: 0, limit }
    }

    fn get(&self, key: &CacheKey) -> Option<RecordBatch> {
        self.parts.get(key).cloned()
    }

    fn put(&mut self, key: CacheKey, batch: RecordBatch) {
        let size = batch.get_array_memory_size();
        if size > self.limit || self.parts.contains_key(&key) {
            return;
        }
        while self.bytes + size > self.limit
            && let Some(oldest) = self.order.pop_front()
        {
            if let Some(gone) = self.parts.remove(&oldest) {
                self.bytes -= gone.get_array_memory_size();
            }
        }
        self.bytes += size;
        self.order.push_back(key.clone());
        self.parts.insert(key, batch);
    }
}

#[cfg(test)]
mod tests {
    use object_store::ObjectStoreExt;

    use super::*;
    use crate::seal::Sealer;
    use crate::sealed::tests::memory_store;
    use crate::segment::{self, tests::draft};

    async fn put(store: &Store, first: u64, next: u64) -> Arc<Footer> {
        let (footer, bytes) = segment::encode(draft(store.catalogue(), first, next, &["a"])).unwrap();
        store.put_segment(&footer, bytes).await.unwrap();
        Arc::new(footer)
    }

    /// Seconds (one per row) in a cut, sealed and hot, sorted.
    async fn seconds(reader: &Reader) -> Vec<i64> {
        use arrow_array::cast::AsArray;
        use arrow_array::types::Int64Type;
        let table = reader.store().catalogue().get("memory").unwrap().clone();
        let cut = reader.cut(&table).await.unwrap();
        let mut batches = Vec::new();
        for file in cut.files.iter() {
            let bytes = reader.store().objects().get(&file.path).await.unwrap().bytes().await.unwrap();
            batches.extend(crate::parquet_file::decode("x", &table, bytes).unwrap());
        }
        for hot in &cut.hot {
            batches.push(reader.read(&table, hot).await.unwrap());
        }
        let mut seconds: Vec<i64> = batches
            .iter()
            .flat_map(|b| b.column_by_name("total_bytes").unwrap().as_primitive::<Int64Type>().values().iter().copied())
            .collect();
        seconds.sort_unstable();
        seconds
    }

    fn reader(store: &Store) -> Reader {
        Reader::new(store.clone(), 1 << 20)
    }

    #[tokio::test]
    async fn each_row_is_there_once_before_during_and_after_sealing() {
        let store = memory_store();
        let reader = reader(&store);
        assert!(seconds(&reader).await.is_empty());
        let mut segments = vec![put(&store, 0, 3).await, put(&store, 3, 5).await];
        // A reader that has never looked, one that looked at an empty store: both see everything now.
        tokio::time::sleep(SHARED).await;
        reader.state.lock().await.partitions_listed = None;
        assert_eq!(seconds(&reader).await, [0, 1, 2, 3, 4]);

        let mut sealer = Sealer::new(store.clone());
        sealer.seal(&segments).await.unwrap();
        // Still at the old sealed version, it reads the segments.
        assert_eq!(seconds(&reader).await, [0, 1, 2, 3, 4]);
        // At the new one, the files.
        for view in reader.state.lock().await.sealed.values_mut() {
            view.looked -= 2 * SEALED_EVERY;
        }
        segments.push(put(&store, 5, 6).await);
        tokio::time::sleep(SHARED).await;
        assert_eq!(seconds(&reader).await, [0, 1, 2, 3, 4, 5]);
        let table = store.catalogue().get("memory").unwrap().clone();
        let cut = reader.cut(&table).await.unwrap();
        assert_eq!((cut.files.len(), cut.hot.len()), (1, 1));

        // The sealed segments go; nothing changes for readers old or new.
        for segment in &segments[..2] {
            store.objects().delete(&segment.path()).await.unwrap();
        }
        assert_eq!(seconds(&reader).await, [0, 1, 2, 3, 4, 5]);
        assert_eq!(seconds(&Reader::new(store.clone(), 0)).await, [0, 1, 2, 3, 4, 5]);
    }

    #[tokio::test]
    async fn whoever_looks_again_and_again_learns_of_each_segment_once() {
        let store = memory_store();
        let mut segments = vec![put(&store, 3, 5).await];
        let mut positions = Positions::new();
        let look = async |reader: &Reader, positions: &mut Positions| {
            tokio::time::sleep(SHARED).await;
            let news = reader.news(positions).await.unwrap();
            (news.segments.iter().map(|s| s.first).collect::<Vec<_>>(), news.missed.len())
        };
        let reader = self::reader(&store);
        assert_eq!(look(&reader, &mut positions).await, (vec![3], 0), "who never looked has missed nothing");
        assert_eq!(look(&reader, &mut positions).await, (vec![], 0));
        for next in [7, 9] {
            segments.push(put(&store, next - 2, next).await);
        }
        assert_eq!(look(&reader, &mut positions).await, (vec![5, 7], 0));
        // Another process goes on from there, and finds that a segment has gone which it never saw.
        segments.push(put(&store, 9, 10).await);
        put(&store, 10, 11).await;
        for segment in &segments {
            store.objects().delete(&segment.path()).await.unwrap();
        }
        let reader = self::reader(&store);
        assert_eq!(look(&reader, &mut positions).await, (vec![10], 1));
        assert_eq!(look(&reader, &mut positions).await, (vec![], 0));
    }

    #[test]
    fn the_cache_keeps_to_its_limit() {
        let store = memory_store();
        let (_, batch) = segment::tests::memory_rows(store.catalogue(), "h", 0, 100);
        let size = batch.get_array_memory_size();
        let mut cache = Cache::new(3 * size);
        for at in 0..10 {
            cache.put((PartitionId::new("t", 0), at, 0), batch.clone());
        }
        assert_eq!((cache.parts.len(), cache.bytes), (3, 3 * size));
        assert!(cache.get(&(PartitionId::new("t", 0), 9, 0)).is_some());
        assert!(cache.get(&(PartitionId::new("t", 0), 6, 0)).is_none());
    }
}
