//! What a peer's probes have shown since the last tick.
//!
//! A probe belongs to the window in which it is *finished*: answered, refused, or given up after a second. So sent is
//! always received and lost together, and no probe is counted twice or left out.

use std::net::IpAddr;
use std::time::Duration;

use nodescope_model::rows::Row;

/// Times kept of one window. More come only if nobody collects; then the count goes on, and the times are of the first.
const MAX_TIMES: usize = 1_000;

/// Length of an error's text.
const MAX_ERROR: usize = 200;

/// One peer's window.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Window {
    /// Where the peer is now.
    pub(super) address: Option<IpAddr>,
    received: u64,
    lost: u64,
    times: Vec<f64>,
    error: Option<String>,
}

impl Window {
    /// A probe came back.
    pub(super) fn received(&mut self, time: Duration) {
        self.received += 1;
        if self.times.len() < MAX_TIMES {
            self.times.push(time.as_secs_f64());
        }
    }

    /// A probe did not.
    pub(super) fn lost(&mut self, why: &str) {
        self.lost += 1;
        self.failed(why);
    }

    /// Nothing could be sent.
    pub(super) fn failed(&mut self, why: &str) {
        self.error = Some(why.chars().take(MAX_ERROR).collect());
    }

    /// Takes the window; the next begins.
    pub(super) fn take(&mut self) -> Self {
        let address = self.address;
        std::mem::replace(self, Self { address, ..Self::default() })
    }

    /// Fills the columns of a peer.
    #[allow(clippy::cast_precision_loss)] // Thousands.
    pub(super) fn fill(&self, row: &mut Row<'_>) {
        let sent = self.received + self.lost;
        let ratio = (sent > 0).then(|| self.lost as f64 / sent as f64);
        let address = self.address.map(|address| address.to_string());
        let times = Times::of(&self.times);
        row.text("address", address.as_deref())
            .text("error", self.error.as_deref())
            .count("sent", sent)
            .count("received", self.received)
            .count("lost", self.lost)
            .float("loss_ratio", ratio)
            .float("rtt_min_seconds", times.map(|times| times.min))
            .float("rtt_mean_seconds", times.map(|times| times.mean))
            .float("rtt_max_seconds", times.map(|times| times.max))
            .float("rtt_p99_seconds", times.map(|times| times.p99))
            .float("jitter_seconds", times.and_then(|times| times.jitter));
    }
}

/// Statistics of a window's times, seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Times {
    min: f64,
    mean: f64,
    max: f64,
    p99: f64,
    jitter: Option<f64>,
}

impl Times {
    /// `None` without any. The times are in the order they came in.
    #[allow(clippy::cast_precision_loss)] // Thousands.
    fn of(times: &[f64]) -> Option<Self> {
        let differences = times.windows(2).map(|pair| match pair {
            [before, after] => (after - before).abs(),
            _ => 0.0,
        });
        let jitter = (times.len() > 1).then(|| differences.sum::<f64>() / (times.len() - 1) as f64);
        let mut sorted = times.to_vec();
        sorted.sort_by(f64::total_cmp);
        // The smallest that 99 of 100 do not exceed.
        let rank = (sorted.len() * 99).div_ceil(100);
        Some(Self {
            min: *sorted.first()?,
            mean: times.iter().sum::<f64>() / times.len() as f64,
            max: *sorted.last()?,
            p99: *sorted.get(rank.checked_sub(1)?)?,
            jitter,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_summed_up() {
        assert_eq!(Times::of(&[]), None);
        let one = Times::of(&[0.5]).unwrap();
        assert_eq!((one.min, one.mean, one.max, one.p99, one.jitter), (0.5, 0.5, 0.5, 0.5, None));
        let some = Times::of(&[1.0, 3.0, 2.0, 2.0]).unwrap();
        assert_eq!((some.min, some.mean, some.max, some.p99), (1.0, 2.0, 3.0, 3.0));
        assert_eq!(some.jitter, Some(1.0), "(2 + 1 + 0) / 3");
        let hundred: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(Times::of(&hundred).unwrap().p99, 99.0);
    }

    #[test]
    fn a_window_ends_when_it_is_taken() {
        let address = Some("10.0.0.1".parse().unwrap());
        let mut window = Window { address, ..Window::default() };
        for _ in 0..MAX_TIMES + 5 {
            window.received(Duration::from_millis(1));
        }
        window.lost(&"x".repeat(500));
        let taken = window.take();
        assert_eq!((taken.received, taken.lost, taken.times.len()), (MAX_TIMES as u64 + 5, 1, MAX_TIMES));
        assert_eq!(taken.error.unwrap().len(), MAX_ERROR);
        assert_eq!(window, Window { address, ..Window::default() });
    }
}
