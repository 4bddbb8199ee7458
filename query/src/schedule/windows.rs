//! Which windows of event time there are, and which are due.
//!
//! A rule's windows end at multiples of its `every` since 1970 and reach back by its `window`, so the same windows come
//! out whoever reckons, and whenever. All that must be remembered of a rule is the end of its last window: the next
//! ends at the next multiple. That leaves none out and takes none twice, wherever a restart falls.
//!
//! Everything here is reckoning in microseconds, without a clock.

use std::time::Duration;

use crate::definition::Definition;

/// A stretch of event time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Window {
    /// Begin, inclusive, microseconds since 1970.
    pub starts_us: i64,
    /// End, exclusive.
    pub ends_us: i64,
}

/// The windows of one rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grid {
    every_us: i64,
    window_us: i64,
    wait_us: i64,
}

impl Grid {
    /// The windows of a rule.
    pub fn of(rule: &Definition) -> Self {
        Self::new(rule.every, rule.window, rule.wait)
    }

    /// Windows of that length, one for each multiple of `every`, due `wait` after their end.
    pub fn new(every: Duration, window: Duration, wait: Duration) -> Self {
        Self { every_us: micros(every).max(1), window_us: micros(window), wait_us: micros(wait) }
    }

    /// The window that ends there.
    pub fn ending(&self, ends_us: i64) -> Window {
        Window { starts_us: ends_us.saturating_sub(self.window_us), ends_us }
    }

    /// The last end of a window at or before that time.
    pub fn last_end(&self, us: i64) -> i64 {
        us.div_euclid(self.every_us).saturating_mul(self.every_us)
    }

    /// The window after the one that ended there. If the grid has changed since, the first of the new grid that ends
    /// later.
    pub fn after(&self, ended_us: i64) -> Window {
        self.ending(self.last_end(ended_us).saturating_add(self.every_us))
    }

    /// When a window is due.
    pub fn due_us(&self, window: Window) -> i64 {
        window.ends_us.saturating_add(self.wait_us)
    }

    /// The next window that is due after the one that ended there, if one is.
    pub fn due(&self, ended_us: i64, now_us: i64) -> Option<Window> {
        let next = self.after(ended_us);
        (self.due_us(next) <= now_us).then_some(next)
    }

    /// How long ago the next window was due; 0 when it is not yet.
    pub fn behind_us(&self, ended_us: i64, now_us: i64) -> i64 {
        now_us.saturating_sub(self.due_us(self.after(ended_us))).max(0)
    }

    /// Whether two times of one bin of the grid may be in different windows.
    pub fn splits_bins(&self) -> bool {
        self.window_us % self.every_us != 0
    }

    /// Ends of the windows that hold a time, the oldest first: several where windows overlap, none where they leave
    /// gaps.
    pub fn ends_around(&self, us: i64) -> impl Iterator<Item = i64> + use<> {
        let (every, last) = (self.every_us, us.saturating_add(self.window_us));
        let first = self.last_end(us).saturating_add(every);
        std::iter::successors(Some(first), move |end| end.checked_add(every)).take_while(move |end| *end <= last)
    }
}

/// A length of time in microseconds.
pub(crate) fn micros(length: Duration) -> i64 {
    i64::try_from(length.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn windows_end_at_multiples_and_are_due_later() {
        let grid = Grid::new(seconds(60), seconds(600), seconds(20));
        let window = grid.after(1_234_000_000);
        assert_eq!((window.starts_us, window.ends_us), (660_000_000, 1_260_000_000));
        assert_eq!(grid.due(1_200_000_000, 1_279_999_999), None);
        assert_eq!(grid.due(1_200_000_000, 1_280_000_000), Some(window));
        assert_eq!(grid.behind_us(1_200_000_000, 1_279_000_000), 0);
        assert_eq!(grid.behind_us(1_200_000_000, 1_285_000_000), 5_000_000);
    }

    #[test]
    fn a_time_is_in_every_window_that_holds_it() {
        let ends = |every, window, us| {
            Grid::new(seconds(every), seconds(window), seconds(0)).ends_around(us).collect::<Vec<_>>()
        };
        assert_eq!(ends(60, 60, 59_999_999), [60_000_000]);
        assert_eq!(ends(60, 60, 60_000_000), [120_000_000]);
        assert_eq!(ends(60, 180, 60_000_000), [120_000_000, 180_000_000, 240_000_000]);
        // Windows shorter than their distance leave gaps.
        assert!(ends(60, 10, 0).is_empty());
        assert_eq!(ends(60, 10, 55_000_000), [60_000_000]);
    }

    proptest! {
        /// Whatever the clock does and wherever restarts fall, each window of the grid comes once, in order.
        #[test]
        fn no_window_is_left_out_or_comes_twice(
            every in 1u64..5_000,
            wait in 0u64..5_000,
            begin in 0i64..10_000_000_000,
            steps in prop::collection::vec((0i64..20_000_000_000, any::<bool>()), 1..40),
        ) {
            let grid = Grid::new(seconds(every), seconds(every), seconds(wait));
            let every = i64::try_from(every).unwrap() * 1_000_000;
            let first = grid.last_end(begin);
            let (mut now, mut ended, mut written, mut ran) = (begin, first, first, Vec::new());
            for (step, restarts) in steps {
                now += step;
                while let Some(window) = grid.due(ended, now) {
                    prop_assert!(window.ends_us + i64::try_from(wait).unwrap() * 1_000_000 <= now);
                    ran.push(window);
                    ended = window.ends_us;
                    // What is written down is what ran; a restart knows nothing else.
                    written = ended;
                    if ran.len() > 500 {
                        return Ok(());
                    }
                }
                if restarts {
                    ended = written;
                }
            }
            for (at, window) in ran.iter().enumerate() {
                prop_assert_eq!(window.ends_us, first + every * (i64::try_from(at).unwrap() + 1));
                prop_assert_eq!(window.starts_us, window.ends_us - every);
            }
            // None that is due is left.
            prop_assert!(grid.due_us(grid.after(ended)) > now);
        }

        #[test]
        fn the_windows_around_a_time_are_those_that_hold_it(every in 1u64..100, window in 1u64..500, us in 0i64..1_000_000_000) {
            let grid = Grid::new(seconds(every), seconds(window), seconds(0));
            let found: Vec<i64> = grid.ends_around(us).collect();
            let step = i64::try_from(every).unwrap() * 1_000_000;
            let held: Vec<i64> = (0..=(us + 500_000_000) / step + 1)
                .map(|n| n * step)
                .filter(|end| { let w = grid.ending(*end); w.starts_us <= us && us < w.ends_us })
                .collect();
            prop_assert_eq!(found, held);
        }
    }
}
