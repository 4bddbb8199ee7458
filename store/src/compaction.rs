//! Compaction: merging small sealed files into larger ones.
//!
//! Sealing writes a file per table and round; a day of that is a thousand files, and a query pays for each. So files
//! of about the same size are merged, eight at a time, until they are large: every row is rewritten about three times
//! in its life. What is of some size stays within its day, so that a question about a day reads that day, and retention
//! finds files that are old as a whole. A merge is one Delta commit that removes the old files and adds the new one, with `dataChange` false:
//! the rows are the same. Readers that hold the old version keep reading the old files until the grace time is over.

use object_store::ObjectStoreExt;

use crate::sealed::{SealedFile, SealedTable};
use crate::{Store, StoreError, parquet_file};

/// Files merged at a time.
const FAN_IN: usize = 8;

/// Rows of a merged file at the most, which bounds the memory that a merge takes.
const MAX_ROWS: u64 = 4_000_000;

/// A file this large is left alone.
const LARGE: u64 = 64 * 1024 * 1024;

/// A file smaller than this costs a query so little that it may hold rows of several days.
const SMALL: u64 = 1024 * 1024;

/// Microseconds of a day.
const DAY: i64 = 86_400_000_000;

/// Merges one group of files of the table, if there is one worth merging. Returns how many files it took.
///
/// # Errors
/// When the store fails. Nothing is lost: the old files stay until the commit.
pub async fn compact(store: &Store, sealed: &mut SealedTable) -> Result<usize, StoreError> {
    let Some(group) = choose(sealed.files()) else { return Ok(0) };
    let table = sealed.table().clone();
    let mut batches = Vec::new();
    for file in &group {
        let failed = |e| StoreError::objects("read", &file.path, e);
        let bytes = store.objects().get(&file.path).await.map_err(failed)?.bytes().await.map_err(failed)?;
        batches.extend(parquet_file::decode(file.path.as_ref(), &table, bytes)?);
    }
    let merged = parquet_file::sort_and_encode(table.clone(), batches).await?;
    let before: u64 = group.iter().map(|f| f.facts.num_records).sum();
    if merged.facts.num_records != before {
        return Err(StoreError::Damaged {
            path: crate::layout::sealed(&table.name).to_string(),
            what: format!("files to merge hold {} rows, their log says {before}", merged.facts.num_records),
        });
    }
    sealed.replace(&group, vec![merged]).await?;
    Ok(group.len())
}

/// The smallest files that together are a group: [`FAN_IN`] of one size class, and of one day unless they are small. Of a
/// day that is over two will do, for there will hardly be more.
fn choose(mut files: Vec<SealedFile>) -> Option<Vec<SealedFile>> {
    let day = |file: &SealedFile| file.facts.ts_range().map_or(0, |(oldest, _)| oldest.div_euclid(DAY));
    let today = files.iter().map(day).max()?;
    files.retain(|f| f.size < LARGE && f.facts.num_records > 0);
    // Size classes are powers of eight, so that a merged file is of the next class.
    let class = |file: &SealedFile| file.size.max(1).ilog2() / 3;
    let kind = |file: &SealedFile| (class(file), if file.size < SMALL { None } else { Some(day(file)) });
    files.sort_by_key(|f| (kind(f), f.facts.ts_range()));
    for group in files.chunk_by(|a, b| kind(a) == kind(b)) {
        let is_over = kind(&group[0]).1.is_some_and(|day| day < today);
        if group.len() < if is_over { 2 } else { FAN_IN } {
            continue;
        }
        let mut rows = 0;
        let chosen: Vec<SealedFile> = group
            .iter()
            .take(FAN_IN)
            .take_while(|f| {
                rows += f.facts.num_records;
                rows <= MAX_ROWS
            })
            .cloned()
            .collect();
        if chosen.len() > 1 {
            return Some(chosen);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::seal::Sealer;
    use crate::sealed::tests::memory_store;
    use crate::segment::{self, tests::draft};

    #[tokio::test]
    async fn eight_small_files_become_one_with_the_same_rows() {
        let store = memory_store();
        let mut sealer = Sealer::new(store.clone());
        for first in 0..FAN_IN as u64 {
            let (footer, bytes) = segment::encode(draft(store.catalogue(), first, first + 1, &["b", "a"])).unwrap();
            store.put_segment(&footer, bytes).await.unwrap();
            sealer.seal(&[Arc::new(footer)]).await.unwrap();
        }
        let table = sealer.tables().await.unwrap().next().unwrap();
        assert_eq!(table.files().len(), FAN_IN);
        assert_eq!(compact(&store, table).await.unwrap(), FAN_IN);
        assert_eq!(compact(&store, table).await.unwrap(), 0);
        let files = table.files();
        assert_eq!((files.len(), files[0].facts.num_records), (1, 2 * FAN_IN as u64));
    }

    /// Of so many bytes, with rows of an hour that begins so many days after 1970.
    fn file(size: u64, days: f64) -> SealedFile {
        let time = |day: f64| {
            let time = chrono::DateTime::from_timestamp_micros((day * DAY as f64) as i64).unwrap();
            serde_json::Map::from_iter([("ts".to_owned(), time.to_rfc3339().into())])
        };
        let (min_values, max_values) = (time(days), time(days + 1.0 / 24.0));
        let facts = parquet_file::FileStatistics { num_records: 1, min_values, max_values, ..Default::default() };
        SealedFile { path: "x".into(), name: "x".into(), size, facts }
    }

    #[test]
    fn large_files_are_left_alone() {
        assert!(choose(vec![file(LARGE, 0.0); 20]).is_none());
        assert!(choose(vec![file(100, 0.0); FAN_IN - 1]).is_none());
        assert_eq!(choose(vec![file(100, 0.0); 20]).unwrap().len(), FAN_IN);
    }

    #[test]
    fn what_is_of_some_size_stays_within_its_day() {
        let days = |files: Vec<SealedFile>| {
            let chosen = choose(files)?;
            Some(chosen.iter().map(|f| f.facts.ts_range().unwrap().0 / DAY).collect::<Vec<_>>())
        };
        let of = |size: u64, at: &[f64]| at.iter().map(|at| file(size, *at)).collect::<Vec<_>>();
        // Four of each of two days, and eight of one.
        let (two, one) = ([1.0, 1.1, 1.2, 1.3, 2.0, 2.1, 2.2, 2.3], [1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7]);
        assert_eq!(days(of(SMALL - 1, &two)).unwrap(), [1, 1, 1, 1, 2, 2, 2, 2]);
        assert_eq!(days(of(SMALL, &one)).unwrap(), [1; FAN_IN]);
        // The first day is over; of today's there will be more.
        assert_eq!(days(of(SMALL, &two)).unwrap(), [1; 4]);
        assert_eq!(days(of(SMALL, &two[3..])).as_deref(), None);
        assert_eq!(days(of(SMALL, &two[2..])).unwrap(), [1; 2]);
        // A late little file does not make a large one be written again.
        assert_eq!(days(vec![file(SMALL << 4, 1.0), file(100, 1.5), file(100, 2.0)]).as_deref(), None);
    }
}
