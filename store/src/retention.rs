//! What may go, and when.
//!
//! - Rows older than their table's age limit: whole sealed files leave the table, by the times in their statistics.
//! - Sealed files that left a table (merged or expired): deleted after the grace time.
//! - Hot segments: deleted after the grace time once all their rows are sealed and the records they took are noted.
//!
//! The grace time is longer than any query may run, so no reader loses a file it has begun to read.

use std::collections::HashSet;
use std::time::Duration;

use object_store::ObjectStoreExt;
use object_store::path::Path;

use crate::sealed::{SealedFile, SealedTable};
use crate::{Store, StoreError};

/// Removes files from the table whose newest row is older than `age`. Returns how many.
///
/// # Errors
/// When the log cannot be written.
pub async fn expire(sealed: &mut SealedTable, age: Duration, now_us: i64) -> Result<usize, StoreError> {
    let limit = now_us.saturating_sub(i64::try_from(age.as_micros()).unwrap_or(i64::MAX));
    let old: Vec<SealedFile> =
        sealed.files().into_iter().filter(|f| f.facts.ts_range().is_some_and(|(_, newest)| newest < limit)).collect();
    if !old.is_empty() {
        sealed.remove(&old).await?;
    }
    Ok(old.len())
}

/// Deletes files that left their table at least `grace` ago. `deleted` remembers what is gone already: the log goes on
/// naming it for a while. Returns how many were deleted.
///
/// # Errors
/// When the store fails.
pub async fn sweep(
    store: &Store,
    sealed: &SealedTable,
    grace: Duration,
    deleted: &mut HashSet<Path>,
) -> Result<usize, StoreError> {
    let grace = chrono::TimeDelta::from_std(grace).unwrap_or(chrono::TimeDelta::MAX);
    let waiting: Vec<Path> =
        sealed.removed_before(grace).await?.into_iter().filter(|path| !deleted.contains(path)).collect();
    let count = waiting.len();
    delete(store, &waiting).await?;
    deleted.extend(waiting);
    Ok(count)
}

/// Deletes objects, in order. One that is gone already is as good.
///
/// # Errors
/// When the store fails.
pub async fn delete(store: &Store, paths: &[Path]) -> Result<(), StoreError> {
    for path in paths {
        match store.objects().delete(path).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
            Err(source) => return Err(StoreError::objects("delete", path, source)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::seal::Sealer;
    use crate::sealed::tests::memory_store;
    use crate::segment::{self, tests::draft};

    #[tokio::test]
    async fn old_files_leave_the_table_and_then_the_store() {
        let store = memory_store();
        let mut sealer = Sealer::new(store.clone());
        // Times follow offsets: seconds 0 to 4, and 1,000 to 1,004.
        for first in [0, 1_000] {
            let mut draft = draft(store.catalogue(), first, first + 5, &["a"]);
            draft.partition.partition = i32::try_from(first).unwrap();
            let (footer, bytes) = segment::encode(draft).unwrap();
            store.put_segment(&footer, bytes).await.unwrap();
            sealer.seal(&[Arc::new(footer)]).await.unwrap();
        }
        let table = sealer.tables().await.unwrap().next().unwrap();
        let old = table.files().into_iter().find(|f| f.facts.ts_range().is_some_and(|(min, _)| min == 0)).unwrap();
        assert_eq!(expire(table, Duration::from_secs(500), 1_010_000_000).await.unwrap(), 1);
        assert_eq!(expire(table, Duration::from_secs(500), 1_010_000_000).await.unwrap(), 0);
        assert_eq!(table.files().len(), 1);

        let mut deleted = HashSet::new();
        assert_eq!(sweep(&store, table, Duration::from_secs(60), &mut deleted).await.unwrap(), 0);
        assert!(store.objects().head(&old.path).await.is_ok(), "a reader may be reading it");
        assert_eq!(sweep(&store, table, Duration::ZERO, &mut deleted).await.unwrap(), 1);
        assert!(store.objects().head(&old.path).await.is_err());
        assert_eq!(sweep(&store, table, Duration::ZERO, &mut deleted).await.unwrap(), 0);
    }
}
