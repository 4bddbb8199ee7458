//! The budget: an agent that costs more than it may samples less often.
//!
//! What the agent costs depends on the machine: on one with ten thousand processes or a hundred interfaces each sample
//! is dearer. The operator says how much of one core it may use. Above that, averaged over half a minute, the intervals
//! of all probes are stretched, step by step, and drawn together again once it has been well below for a while. What
//! stretches is said in the table `agent` and in the log; the rows that come still lie on the ticks they would lie on.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// By what intervals are multiplied. With them all intervals still meet on the minute.
const STEPS: [u32; 6] = [1, 2, 5, 10, 30, 60];

/// Time over which the cost is averaged before intervals are stretched.
const JUDGE_AFTER: Duration = Duration::from_secs(30);

/// Time below half of the budget before they are drawn together again.
const RELAX_AFTER: Duration = Duration::from_secs(300);

/// The factor, shared with the ticker.
#[derive(Debug, Clone)]
pub struct Pace(Arc<AtomicU32>);

impl Default for Pace {
    fn default() -> Self {
        Self(Arc::new(AtomicU32::new(1)))
    }
}

impl Pace {
    /// By what intervals are multiplied now.
    pub fn factor(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }

    fn set(&self, factor: u32) {
        self.0.store(factor, Ordering::Relaxed);
    }
}

/// Sets the pace by what the agent has used.
#[derive(Debug)]
pub struct Governor {
    budget: f64,
    pace: Pace,
    /// When the stretch of time that is judged began, and what had been used by then.
    since: Option<(Instant, Duration)>,
    /// Since when it has been well below.
    below: Option<Instant>,
}

impl Governor {
    /// One that allows so much of one core. 0 allows everything.
    pub fn new(budget: f64, pace: Pace) -> Self {
        Self { budget, pace, since: None, below: None }
    }

    /// What it allows; `None` for everything.
    pub fn budget(&self) -> Option<f64> {
        (self.budget > 0.0).then_some(self.budget)
    }

    /// The factor now.
    pub fn factor(&self) -> u32 {
        self.pace.factor()
    }

    /// Judges what has been used up to now, in all.
    pub fn judge(&mut self, now: Instant, used: Duration) {
        let Some(budget) = self.budget() else { return };
        let (began, used_then) = *self.since.get_or_insert((now, used));
        let elapsed = now.saturating_duration_since(began);
        if elapsed < JUDGE_AFTER {
            return;
        }
        self.since = Some((now, used));
        let share = used.saturating_sub(used_then).as_secs_f64() / elapsed.as_secs_f64();
        let factor = self.pace.factor();
        let at = STEPS.iter().position(|step| *step >= factor).unwrap_or(0);
        if share > budget {
            self.below = None;
            if let Some(next) = STEPS.get(at + 1) {
                tracing::warn!(share, budget, factor = next, "the agent costs more than it may: it samples less often");
                self.pace.set(*next);
            }
        } else if share < budget / 2.0 && at > 0 {
            let below = *self.below.get_or_insert(began);
            if now.saturating_duration_since(below) >= RELAX_AFTER {
                self.below = None;
                let previous = STEPS.get(at - 1).copied().unwrap_or(1);
                tracing::info!(share, budget, factor = previous, "the agent samples more often again");
                self.pace.set(previous);
            }
        } else {
            self.below = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The factor after each ten seconds at that share of a core.
    fn factors(governor: &mut Governor, clock: &mut (Instant, Duration), share: f64, tens: u32) -> Vec<u32> {
        (0..tens)
            .map(|_| {
                clock.0 += Duration::from_secs(10);
                clock.1 += Duration::from_secs(10).mul_f64(share);
                governor.judge(clock.0, clock.1);
                governor.factor()
            })
            .collect()
    }

    #[test]
    fn intervals_are_stretched_step_by_step_and_drawn_together_slowly() {
        let mut governor = Governor::new(0.02, Pace::default());
        let mut clock = (Instant::now(), Duration::ZERO);
        governor.judge(clock.0, clock.1);
        assert_eq!(factors(&mut governor, &mut clock, 0.05, 9), [1, 1, 2, 2, 2, 5, 5, 5, 10]);
        // Within the budget, and not by much: it stays.
        assert_eq!(factors(&mut governor, &mut clock, 0.015, 90).last(), Some(&10));
        let relaxed = factors(&mut governor, &mut clock, 0.001, 90);
        assert_eq!(relaxed[27], 10);
        assert_eq!(relaxed.last(), Some(&1));
        // It goes no further than to the last step.
        assert_eq!(factors(&mut governor, &mut clock, 0.5, 90).last(), Some(&60));
    }

    #[test]
    fn without_a_budget_there_is_nothing_to_judge() {
        let mut governor = Governor::new(0.0, Pace::default());
        let mut clock = (Instant::now(), Duration::ZERO);
        assert_eq!(factors(&mut governor, &mut clock, 3.0, 20).last(), Some(&1));
        assert_eq!(governor.budget(), None);
    }
}
