//! Rows that were written again: of each window only the newest are shown.
//!
//! A table that is *revised* holds windows of time, and all rows of a window have its begin for `ts`. When rows come
//! late, a window is reckoned anew and written beside the old one with a higher `revision`. Nothing is deleted; a
//! reader leaves out what is superseded.
//!
//! Nearly every window is written once. So the first question is whether anything was written again at all, and the
//! log's statistics and the hot rows at hand answer it without reading: then a revised table costs what any other
//! does. Otherwise the times and revisions of those files are read that hold any, once for each file, for files never
//! change; and a filter compares every row with the newest revision of its time.
//!
//! What is newest is decided by all rows of the cut, whatever else a query asks of them: a host that is no longer in
//! the newest revision of a window is not in the window.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use datafusion::arrow::array::{BooleanArray, RecordBatch, cast::AsArray};
use datafusion::arrow::datatypes::{DataType, Int64Type, TimestampMicrosecondType};
use datafusion::common::{DataFusionError, Result};
use datafusion::logical_expr::{ColumnarValue, Expr, Volatility, create_udf, ident};
use nodescope_model::catalogue::{REVISION, timestamp_type};
use nodescope_store::sealed::SealedFile;
use object_store::path::Path;
use parking_lot::Mutex;

/// Newest revision above 0, by time.
pub(crate) type Newest = BTreeMap<i64, i64>;

/// What has been read of files, until they leave the table.
#[derive(Debug, Default)]
pub(crate) struct Known(Mutex<HashMap<Path, Arc<Newest>>>);

impl Known {
    /// What is known of a file, or nothing yet.
    pub(crate) fn of(&self, file: &SealedFile) -> Option<Arc<Newest>> {
        self.0.lock().get(&file.path).cloned()
    }

    /// Remembers a file, and forgets all that are not among those of now.
    pub(crate) fn note(&self, file: &SealedFile, newest: &Arc<Newest>, now: &[SealedFile]) {
        let mut known = self.0.lock();
        if known.len() > now.len() {
            known.retain(|path, _| now.iter().any(|file| file.path == *path));
        }
        known.insert(file.path.clone(), Arc::clone(newest));
    }
}

/// Whether the log says that nothing in a file was written again. One that it says nothing of may hold anything.
pub(crate) fn is_first(file: &SealedFile) -> bool {
    file.facts.max_values.get(REVISION).and_then(serde_json::Value::as_i64) == Some(0)
}

/// Adds the revisions of rows.
///
/// # Errors
/// When the rows have no time or no revision.
pub(crate) fn add(newest: &mut Newest, rows: &RecordBatch) -> Result<()> {
    let missing = || DataFusionError::Internal("rows of a revised table without time or revision".to_owned());
    let times = rows.column_by_name("ts").ok_or_else(missing)?;
    let revisions = rows.column_by_name(REVISION).ok_or_else(missing)?;
    let times = times.as_primitive_opt::<TimestampMicrosecondType>().ok_or_else(missing)?;
    let revisions = revisions.as_primitive_opt::<Int64Type>().ok_or_else(missing)?;
    let mut before = None;
    for (time, revision) in times.values().iter().zip(revisions.iter()) {
        let Some(revision) = revision.filter(|revision| *revision > 0) else { continue };
        if before == Some((*time, revision)) {
            continue;
        }
        before = Some((*time, revision));
        newest.entry(*time).and_modify(|known| *known = revision.max(*known)).or_insert(revision);
    }
    Ok(())
}

/// Adds the revisions of another part.
pub(crate) fn merge(newest: &mut Newest, other: &Newest) {
    for (time, revision) in other {
        newest.entry(*time).and_modify(|known| *known = (*revision).max(*known)).or_insert(*revision);
    }
}

/// True for rows of the newest revision of their time.
pub(crate) fn is_newest(newest: Newest) -> Expr {
    let newest: HashMap<i64, i64> = newest.into_iter().collect();
    let compare = move |columns: &[ColumnarValue]| -> Result<ColumnarValue> {
        let arrays = ColumnarValue::values_to_arrays(columns)?;
        let [times, revisions] = arrays.as_slice() else {
            return Err(DataFusionError::Internal("a revision is compared by its time".to_owned()));
        };
        let times = times.as_primitive::<TimestampMicrosecondType>().values();
        let revisions = revisions.as_primitive::<Int64Type>();
        let mut before = (None, 0);
        let shown: BooleanArray = times
            .iter()
            .zip(revisions.iter())
            .map(|(time, revision)| {
                if before.0 != Some(*time) {
                    before = (Some(*time), newest.get(time).copied().unwrap_or(0));
                }
                Some(revision.unwrap_or(0) == before.1)
            })
            .collect();
        Ok(ColumnarValue::Array(Arc::new(shown)))
    };
    let types = vec![timestamp_type(), DataType::Int64];
    let function = create_udf("is_newest", types, DataType::Boolean, Volatility::Immutable, Arc::new(compare));
    function.call(vec![ident("ts"), ident(REVISION)])
}
