//! Rows that come late, and the windows that must run again for them.
//!
//! Every segment that comes is looked at, of Kafka's partitions and of journals alike: its footer says which tables it
//! holds and from when to when their rows are. Nearly all rows are newer than any window that has run, and that is the
//! end of it. Of a part that reaches behind, the column `ts` is read, and each window is *marked* that has run, holds
//! one of its times, and is no older than its rule restates.
//!
//! A marked window runs again when its rows seem to have come: some seconds after the last, a minute after the first at
//! the latest.
//!
//! **What a restart knows.** Marks are in memory. What is written down, with the runs, is how far segments have been
//! looked at and everything they called for has been done ([`Marks::settled`]). A restart looks again from there, so a
//! mark that was lost is made again; a window may run once too often, never once too little.
//!
//! **What has come and gone.** Segments are deleted some time after they are sealed. Whoever did not look for longer
//! than that cannot know which windows they concerned: then all that may still be restated are marked.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use datafusion::arrow::array::cast::AsArray;
use datafusion::arrow::datatypes::TimestampMicrosecondType;
use nodescope_store::cut::Positions;
use nodescope_store::layout::PartitionId;
use nodescope_store::segment::{Footer, Part};
use nodescope_store::{Store, StoreError};

use super::windows::Grid;

/// A window runs again so long after its last late row, microseconds.
const QUIET_US: i64 = 10_000_000;

/// A window runs again at the latest so long after its first late row, microseconds.
const LONGEST_US: i64 = 60_000_000;

/// The positions before one look at the store.
#[derive(Debug)]
pub(crate) struct Look {
    number: u64,
    before: Positions,
}

impl Look {
    pub(crate) fn new(number: u64, before: Positions) -> Arc<Self> {
        Arc::new(Self { number, before })
    }
}

/// Why and since when a window is to run again.
#[derive(Debug, Clone)]
pub(crate) struct Mark {
    /// The look that found the first late row.
    look: Arc<Look>,
    first_us: i64,
    last_us: i64,
    /// It runs again at this moment.
    running: bool,
    /// The look that found the first row that may be too late for that run, and when.
    again: Option<(Arc<Look>, i64)>,
    /// Not before.
    not_before_us: i64,
    /// Times it has failed.
    failed: u32,
}

impl Mark {
    fn new(look: Arc<Look>, first_us: i64, last_us: i64) -> Self {
        Self { look, first_us, last_us, running: false, again: None, not_before_us: 0, failed: 0 }
    }

    fn is_ripe(&self, now_us: i64) -> bool {
        let seems_whole = now_us - self.last_us >= QUIET_US || now_us - self.first_us >= LONGEST_US;
        seems_whole && !self.running && now_us >= self.not_before_us
    }
}

/// The windows of one rule that are to run again, by their end.
#[derive(Debug, Default)]
pub(crate) struct Marks(BTreeMap<i64, Mark>);

impl Marks {
    /// Marks a window. Returns whether it was not marked before.
    pub(crate) fn add(&mut self, ends_us: i64, look: &Arc<Look>, now_us: i64) -> bool {
        match self.0.get_mut(&ends_us) {
            Some(mark) => {
                mark.last_us = now_us;
                if mark.running && mark.again.is_none() {
                    mark.again = Some((Arc::clone(look), now_us));
                }
                false
            }
            None => {
                self.0.insert(ends_us, Mark::new(Arc::clone(look), now_us, now_us));
                true
            }
        }
    }

    /// The oldest window that is ripe.
    pub(crate) fn ripe(&self, now_us: i64) -> Option<i64> {
        self.0.iter().find(|(_, mark)| mark.is_ripe(now_us)).map(|(ends_us, _)| *ends_us)
    }

    /// The window now runs.
    pub(crate) fn begin(&mut self, ends_us: i64) {
        if let Some(mark) = self.0.get_mut(&ends_us) {
            mark.running = true;
        }
    }

    /// The window has run again. What came meanwhile marks it anew.
    pub(crate) fn done(&mut self, ends_us: i64) {
        if let Some(mark) = self.0.remove(&ends_us)
            && let Some((look, first_us)) = mark.again
        {
            self.0.insert(ends_us, Mark::new(look, first_us, mark.last_us));
        }
    }

    /// The window's run failed, and is tried again after a pause that the number of failures gives.
    pub(crate) fn failed(&mut self, ends_us: i64, now_us: i64, pause_us: impl Fn(u32) -> i64) {
        if let Some(mark) = self.0.get_mut(&ends_us) {
            mark.running = false;
            mark.again = None;
            mark.failed += 1;
            mark.not_before_us = now_us + pause_us(mark.failed);
        }
    }

    /// Forgets windows that ended before: they are too old to be restated. Returns how many.
    pub(crate) fn forget_before(&mut self, ends_us: i64) -> usize {
        let before = self.0.len();
        if self.0.first_key_value().is_none_or(|(oldest, _)| *oldest >= ends_us) {
            return 0;
        }
        self.0.retain(|ends, mark| *ends >= ends_us || mark.running);
        before - self.0.len()
    }

    /// Forgets a window whose first run has failed: it is still to come.
    pub(crate) fn forget(&mut self, ends_us: i64) {
        self.0.remove(&ends_us);
    }

    /// How many windows are marked.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    fn oldest_look(&self) -> Option<&Arc<Look>> {
        self.0.values().map(|mark| &mark.look).min_by_key(|look| look.number)
    }

    /// How far everything has been looked at and done, given how far it has been looked at.
    pub(crate) fn settled<'a>(all: impl Iterator<Item = &'a Self>, looked: &'a Positions) -> &'a Positions {
        all.filter_map(Self::oldest_look).min_by_key(|look| look.number).map_or(looked, |look| &look.before)
    }
}

/// What late rows are looked for: a rule's windows up to the last that has begun.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Concern {
    /// The rule's windows.
    pub(crate) grid: Grid,
    /// End of the last window that has begun to run.
    pub(crate) begun_us: i64,
    /// Windows that ended before this are too old to run again.
    pub(crate) oldest_us: i64,
}

impl Concern {
    /// Ends of the windows that have begun and hold one of these times; and whether some were too old.
    fn windows(&self, times: impl Iterator<Item = i64>) -> (BTreeSet<i64>, bool) {
        let (mut ends, mut too_old, mut last) = (BTreeSet::new(), false, None);
        for us in times.filter(|us| *us < self.begun_us) {
            // Rows of one tick follow each other: the same windows.
            let bin = self.grid.last_end(us);
            if last == Some(bin) && !self.grid.splits_bins() {
                continue;
            }
            last = Some(bin);
            for end in self.grid.ends_around(us).take_while(|end| *end <= self.begun_us) {
                if end >= self.oldest_us {
                    ends.insert(end);
                } else {
                    too_old = true;
                }
            }
        }
        (ends, too_old)
    }

    /// All windows that may still be restated.
    pub(crate) fn all(&self) -> impl Iterator<Item = i64> + use<> {
        let (grid, begun) = (self.grid, self.begun_us);
        let first = grid.after(self.oldest_us.saturating_sub(1)).ends_us;
        std::iter::successors(Some(first), move |end| Some(grid.after(*end).ends_us))
            .take_while(move |end| *end <= begun)
    }

    /// Windows that the part's rows came too late for. Reads the part only if it reaches behind.
    pub(crate) async fn of_part(
        concerns: &[Self],
        store: &Store,
        segment: &Footer,
        part: &Part,
    ) -> Result<Vec<(BTreeSet<i64>, bool)>, StoreError> {
        if concerns.iter().all(|concern| part.ts.0 >= concern.begun_us) {
            return Ok(vec![(BTreeSet::new(), false); concerns.len()]);
        }
        let times: Vec<i64> = match store.read_part(&segment.path(), part).await {
            Ok(batch) => {
                match batch.column_by_name("ts").and_then(|ts| ts.as_primitive_opt::<TimestampMicrosecondType>()) {
                    Some(ts) => ts.values().to_vec(),
                    None => Vec::new(),
                }
            }
            Err(error) if error.is_transient() => return Err(error),
            // Deleted since its footer was read, or damaged. Its range is known still: every second of it may have rows.
            Err(_) => (part.ts.0..=part.ts.1).step_by(1_000_000).take(1_000_000).chain([part.ts.1]).collect(),
        };
        Ok(concerns.iter().map(|concern| concern.windows(times.iter().copied())).collect())
    }
}

/// Positions as they are written down.
pub(crate) fn to_json(positions: &Positions) -> String {
    let by_name: BTreeMap<String, u64> = positions.iter().map(|(p, next)| (p.to_string(), *next)).collect();
    serde_json::Value::from_iter(by_name).to_string()
}

/// Positions as they were written down; nothing of what cannot be read.
pub(crate) fn from_json(text: &str) -> Positions {
    let Ok(serde_json::Value::Object(entries)) = serde_json::from_str(text) else { return Positions::new() };
    let read = |(name, next): (String, serde_json::Value)| {
        let (topic, partition) = name.rsplit_once('/')?;
        Some((PartitionId::new(topic, partition.parse().ok()?), next.as_u64()?))
    };
    entries.into_iter().filter_map(read).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn look(number: u64) -> Arc<Look> {
        Look::new(number, Positions::from([(PartitionId::new("t", 0), number)]))
    }

    fn begin(marks: &mut Marks, now_us: i64) -> Option<i64> {
        let ends_us = marks.ripe(now_us)?;
        marks.begin(ends_us);
        Some(ends_us)
    }

    fn position(positions: &Positions) -> u64 {
        positions[&PartitionId::new("t", 0)]
    }

    #[test]
    fn exactly_the_windows_concerned_are_found() {
        let second = 1_000_000;
        let grid = Grid::new(Duration::from_secs(60), Duration::from_secs(120), Duration::ZERO);
        let concern = Concern { grid, begun_us: 600 * second, oldest_us: 120 * second };
        let windows = |times: &[i64]| {
            let (ends, too_old) = concern.windows(times.iter().map(|t| t * second));
            (ends.into_iter().map(|end| end / second).collect::<Vec<_>>(), too_old)
        };
        assert_eq!(windows(&[600, 700]), (vec![], false), "newer than all that has run");
        assert_eq!(windows(&[599]), (vec![600], false), "the other window that holds it has not begun");
        assert_eq!(windows(&[300, 301, 302, 90]), (vec![120, 180, 360, 420], false));
        assert_eq!(windows(&[30]), (vec![120], true), "that which ended at 60 is too old");
        assert_eq!(
            concern.all().map(|end| end / second).collect::<Vec<_>>(),
            (2..=10).map(|n| n * 60).collect::<Vec<_>>()
        );
    }

    #[test]
    fn a_window_runs_again_when_its_rows_seem_to_have_come() {
        let mut marks = Marks::default();
        assert!(marks.add(60, &look(1), 0));
        assert!(!marks.add(60, &look(2), QUIET_US - 1));
        assert_eq!(begin(&mut marks, QUIET_US), None, "rows still come");
        assert_eq!(begin(&mut marks, 2 * QUIET_US), Some(60));
        assert_eq!(begin(&mut marks, 2 * QUIET_US), None, "it runs");
        marks.done(60);
        assert_eq!(marks.len(), 0);
        // Rows that never end do not hold it up for ever.
        for at in 0..=LONGEST_US / 1_000_000 {
            marks.add(60, &look(3), at * 1_000_000);
        }
        assert_eq!(begin(&mut marks, LONGEST_US), Some(60));
        // What comes while it runs marks it anew.
        marks.add(60, &look(9), LONGEST_US);
        marks.done(60);
        assert_eq!(begin(&mut marks, LONGEST_US), None);
        assert_eq!(begin(&mut marks, LONGEST_US + QUIET_US), Some(60));
        marks.failed(60, 0, |times| i64::from(times) * 100_000_000_000);
        assert_eq!(begin(&mut marks, 99_999_999_999), None);
        assert_eq!(begin(&mut marks, 100_000_000_000), Some(60));
    }

    #[test]
    fn nothing_is_settled_that_a_mark_still_waits_for() {
        let looked = Positions::from([(PartitionId::new("t", 0), 100)]);
        let (mut one, mut two) = (Marks::default(), Marks::default());
        let settled = |one: &Marks, two: &Marks| position(Marks::settled([one, two].into_iter(), &looked));
        assert_eq!(settled(&one, &two), 100);
        one.add(60, &look(7), 0);
        two.add(60, &look(5), 0);
        assert_eq!(settled(&one, &two), 5);
        begin(&mut two, QUIET_US).unwrap();
        assert_eq!(settled(&one, &two), 5, "it runs, and may still fail");
        two.add(60, &look(8), QUIET_US);
        two.done(60);
        assert_eq!(settled(&one, &two), 7);
        one.forget(60);
        assert_eq!(settled(&one, &two), 8);
    }

    #[test]
    fn positions_come_back() {
        let positions = Positions::from([
            (PartitionId::new("telemetry.tenant", 3), 7),
            (PartitionId::new("journal.schedule", 0), 9),
        ]);
        assert_eq!(from_json(&to_json(&positions)), positions);
        assert!(from_json("").is_empty() && from_json("[1]").is_empty() && from_json("{\"x\": 1}").is_empty());
    }
}
