//! Putting segments under their names, and finding them again.
//!
//! The name of a segment is its first offset, and it is created, never overwritten. That one PUT is the commit, and
//! the fence: of two collectors that believe they own a partition, the second finds the name taken.
//!
//! Because each segment begins where the last one ended, the next name is known before it exists. A reader that has
//! followed a partition so far needs no listing to see whether there is more: it asks for that name.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use object_store::{GetOptions, GetRange, ObjectStoreExt, PutMode, PutOptions, path::Path};

use crate::layout::{self, PartitionId};
use crate::segment::{self, Footer};
use crate::{Store, StoreError};

/// How much of a segment's end is asked for at first: enough for nearly every footer.
const TAIL: u64 = 64 * 1024;

/// Requests under way at once when many footers are read.
const PARALLEL: usize = 16;

/// What became of a PUT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// It is there now.
    Written,
    /// It was there already, and it was ours: an earlier try had succeeded without our hearing of it.
    WasOurs,
}

impl Store {
    /// Puts a segment under its name. An `Ok` is durable.
    ///
    /// # Errors
    /// `AlreadyWritten` when another collector was first; `Objects` when the store failed, and then the segment may or
    /// may not be there: call again with the same segment.
    pub async fn put_segment(&self, footer: &Footer, bytes: Bytes) -> Result<Put, StoreError> {
        let path = footer.path();
        match self.objects().put_opts(&path, bytes.into(), PutOptions::from(PutMode::Create)).await {
            Ok(_) => Ok(Put::Written),
            Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => {
                match self.footer(&path).await? {
                    Some(there) if there.writer == footer.writer && there == *footer => Ok(Put::WasOurs),
                    _ => Err(StoreError::AlreadyWritten { path: path.to_string() }),
                }
            }
            Err(source) => Err(StoreError::objects("write", &path, source)),
        }
    }

    /// Reads the footer of the segment of that name; `None` if there is none.
    ///
    /// # Errors
    /// When the store fails or the segment is damaged.
    pub async fn footer(&self, path: &Path) -> Result<Option<Footer>, StoreError> {
        let Some(tail) = self.tail(path, TAIL).await? else { return Ok(None) };
        let trailer = &tail[tail.len().saturating_sub(segment::TRAILER)..];
        let needed = segment::footer_length(path, trailer)? + segment::TRAILER;
        let tail = if needed > tail.len() { self.tail(path, needed as u64).await?.unwrap_or(tail) } else { tail };
        segment::read_footer(path, &tail).map(Some)
    }

    async fn tail(&self, path: &Path, length: u64) -> Result<Option<Bytes>, StoreError> {
        let options = GetOptions { range: Some(GetRange::Suffix(length)), ..GetOptions::default() };
        match self.objects().get_opts(path, options).await {
            Ok(result) => result.bytes().await.map(Some).map_err(|e| StoreError::objects("read", path, e)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(source) => Err(StoreError::objects("read", path, source)),
        }
    }

    /// First offsets of a partition's segments, from `from` on, in order.
    ///
    /// # Errors
    /// When the store cannot be listed.
    pub async fn list_segments(&self, partition: &PartitionId, from: u64) -> Result<Vec<u64>, StoreError> {
        let folder = partition.hot();
        let listed: Vec<_> = match from.checked_sub(1) {
            Some(before) => {
                self.objects().list_with_offset(Some(&folder), &partition.segment(before)).try_collect().await
            }
            None => self.objects().list(Some(&folder)).try_collect().await,
        }
        .map_err(|e| StoreError::objects("list", &folder, e))?;
        let mut firsts: Vec<u64> = listed
            .iter()
            .filter_map(|m| layout::parse_segment(&m.location))
            .filter(|(p, first)| p == partition && *first >= from)
            .map(|(_, first)| first)
            .collect();
        firsts.sort_unstable();
        Ok(firsts)
    }

    /// Partitions that have hot segments, with the first offsets of those.
    ///
    /// # Errors
    /// When the store cannot be listed.
    pub async fn list_partitions(&self) -> Result<BTreeMap<PartitionId, Vec<u64>>, StoreError> {
        let folder = Path::from(layout::HOT);
        let mut partitions: BTreeMap<PartitionId, Vec<u64>> = BTreeMap::new();
        let mut listed = self.objects().list(Some(&folder));
        while let Some(meta) = listed.try_next().await.map_err(|e| StoreError::objects("list", &folder, e))? {
            if let Some((partition, first)) = layout::parse_segment(&meta.location) {
                partitions.entry(partition).or_default().push(first);
            }
        }
        for firsts in partitions.values_mut() {
            firsts.sort_unstable();
        }
        Ok(partitions)
    }

    /// Reads many footers of a partition, in order. Ones that are gone meanwhile are left out.
    ///
    /// # Errors
    /// When the store fails or a segment is damaged.
    pub async fn footers(&self, partition: &PartitionId, firsts: &[u64]) -> Result<Vec<Footer>, StoreError> {
        let paths: Vec<Path> = firsts.iter().map(|first| partition.segment(*first)).collect();
        futures::stream::iter(paths)
            .map(|path| async move { self.footer(&path).await })
            .buffered(PARALLEL)
            .try_filter_map(|footer| async move { Ok(footer) })
            .try_collect()
            .await
    }

    /// The rows of one table in a segment.
    ///
    /// # Errors
    /// When the store fails or the segment is damaged. A segment that is gone is `Objects` with `NotFound`.
    pub async fn read_part(&self, path: &Path, part: &segment::Part) -> Result<arrow_array::RecordBatch, StoreError> {
        let range = part.offset..part.offset + part.length;
        let bytes = self.objects().get_range(path, range).await.map_err(|e| StoreError::objects("read", path, e))?;
        segment::read_part(path, part, &bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use nodescope_model::catalogue::Catalogue;

    use super::*;
    use crate::segment::tests::draft;

    fn store() -> Store {
        Store::new(Arc::new(object_store::memory::InMemory::new()), Arc::new(Catalogue::built_in()), "test")
    }

    #[tokio::test]
    async fn a_name_is_written_once_and_a_retry_of_ours_is_recognised() {
        let store = store();
        let (footer, bytes) = segment::encode(draft(store.catalogue(), 0, 5, &["a"])).unwrap();
        assert_eq!(store.put_segment(&footer, bytes.clone()).await.unwrap(), Put::Written);
        assert_eq!(store.put_segment(&footer, bytes).await.unwrap(), Put::WasOurs);
        let mut other = draft(store.catalogue(), 0, 3, &["a"]);
        other.writer = "somebody else".into();
        let (footer, bytes) = segment::encode(other).unwrap();
        let refused = store.put_segment(&footer, bytes).await.unwrap_err();
        assert!(matches!(refused, StoreError::AlreadyWritten { .. }), "{refused}");
    }

    #[tokio::test]
    async fn segments_are_found_in_order() {
        let store = store();
        for (first, next) in [(0, 5), (5, 7), (7, 120)] {
            let (footer, bytes) = segment::encode(draft(store.catalogue(), first, next, &["a"])).unwrap();
            store.put_segment(&footer, bytes).await.unwrap();
        }
        let partition = PartitionId::new("t", 0);
        assert_eq!(store.list_segments(&partition, 0).await.unwrap(), [0, 5, 7]);
        assert_eq!(store.list_segments(&partition, 5).await.unwrap(), [5, 7]);
        assert_eq!(store.list_partitions().await.unwrap()[&partition], [0, 5, 7]);
        let footers = store.footers(&partition, &[0, 5, 7, 120]).await.unwrap();
        assert_eq!(footers.iter().map(|f| f.next).collect::<Vec<_>>(), [5, 7, 120]);
        assert!(store.footer(&partition.segment(120)).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_footer_longer_than_the_first_guess_is_read_whole() {
        let store = store();
        let mut long = draft(store.catalogue(), 0, 5, &["a"]);
        long.taken = (0..3_000)
            .map(|n| segment::Taken { agent: format!("agent-{n:060}"), boot: 1, seqs: vec![(0, n)].into() })
            .collect();
        let (footer, bytes) = segment::encode(long).unwrap();
        store.put_segment(&footer, bytes).await.unwrap();
        assert_eq!(store.footer(&footer.path()).await.unwrap(), Some(footer));
    }
}
