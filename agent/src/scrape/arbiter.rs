//! Who fills the rows of a vendor's cards: our own reader, or an exporter.
//!
//! Both can see the same card, and a card has one row at a tick. So for each vendor one of the two is heard. The rule:
//! our own reader, as long as it reads; an exporter when our reader has given nothing for half a minute, or does not
//! run. A target named in `agent.scrape_prefer` turns it round: while it answers, our reader's rows of its vendor are
//! left out. Either steps in for the other when that one falls silent.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use crate::accelerators::VendorId;

/// Whoever has given nothing for so long does not read any more.
const FRESH_MICROS: i64 = 30_000_000;

const VENDORS: usize = VendorId::ALL.len();

/// A target asked more seldom than this counts as silent in between.
const MAX_PAUSE_MICROS: i64 = 3_600_000_000;

const NEVER: i64 = i64::MIN;

/// When whose rows were last heard of.
#[derive(Debug)]
pub(crate) struct Arbiter {
    own: [AtomicI64; VENDORS],
    /// Until when it is heard, but for the half minute.
    preferred: [AtomicI64; VENDORS],
    preferred_since: [AtomicI64; VENDORS],
}

/// The one of this process.
pub(crate) static ARBITER: Arbiter = Arbiter::new();

impl Arbiter {
    /// Nobody has been heard.
    pub(crate) const fn new() -> Self {
        Self {
            own: [const { AtomicI64::new(NEVER) }; VENDORS],
            preferred: [const { AtomicI64::new(NEVER) }; VENDORS],
            preferred_since: [const { AtomicI64::new(NEVER) }; VENDORS],
        }
    }

    /// Our own reader gives rows of that vendor's cards at that tick, or is about to for the first time.
    pub(crate) fn own_reads(&self, vendor: VendorId, ts_micros: i64) {
        set(&self.own, vendor, ts_micros);
    }

    /// Whether our own reader reads that vendor's cards.
    pub(crate) fn is_read(&self, vendor: VendorId, ts_micros: i64) -> bool {
        is_fresh(&self.own, vendor, ts_micros)
    }

    /// A target that goes before our own reader gave rows of that vendor's cards, and is asked so often.
    pub(crate) fn preferred_reads(&self, vendor: VendorId, ts_micros: i64, every: Duration) {
        // Whoever is asked seldom must not be thought silent in between.
        let pause = i64::try_from(every.as_micros()).unwrap_or(i64::MAX).min(MAX_PAUSE_MICROS);
        set(&self.preferred, vendor, ts_micros.saturating_add(2 * pause));
        set(&self.preferred_since, vendor, ts_micros);
    }

    /// Whether such a target reads that vendor's cards.
    pub(crate) fn is_scraped(&self, vendor: VendorId, ts_micros: i64) -> bool {
        let until = at(&self.preferred, vendor).map_or(NEVER, |time| time.load(Ordering::Relaxed));
        let since = at(&self.preferred_since, vendor).map_or(NEVER, |time| time.load(Ordering::Relaxed));
        until != NEVER && (since.saturating_sub(FRESH_MICROS)..=until.saturating_add(FRESH_MICROS)).contains(&ts_micros)
    }
}

fn at(times: &[AtomicI64; VENDORS], vendor: VendorId) -> Option<&AtomicI64> {
    VendorId::ALL.iter().position(|v| *v == vendor).and_then(|at| times.get(at))
}

fn set(times: &[AtomicI64; VENDORS], vendor: VendorId, ts_micros: i64) {
    if let Some(time) = at(times, vendor) {
        time.store(ts_micros, Ordering::Relaxed);
    }
}

/// A clock that was set back makes nothing fresh for ever.
fn is_fresh(times: &[AtomicI64; VENDORS], vendor: VendorId, ts_micros: i64) -> bool {
    at(times, vendor)
        .map(|time| time.load(Ordering::Relaxed))
        .is_some_and(|last| last != NEVER && last.saturating_sub(ts_micros).saturating_abs() <= FRESH_MICROS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_falls_silent_is_not_waited_for() {
        let arbiter = Arbiter::new();
        let second = 1_000_000;
        assert!(!arbiter.is_read(VendorId::Nvidia, 0));
        arbiter.own_reads(VendorId::Nvidia, 100 * second);
        assert!(arbiter.is_read(VendorId::Nvidia, 130 * second));
        assert!(arbiter.is_read(VendorId::Nvidia, 99 * second));
        assert!(!arbiter.is_read(VendorId::Nvidia, 131 * second));
        assert!(!arbiter.is_read(VendorId::Amd, 100 * second));
        assert!(!arbiter.is_read(VendorId::Nvidia, 0), "a clock that was set back");
        assert!(!arbiter.is_scraped(VendorId::Nvidia, 100 * second));
        arbiter.preferred_reads(VendorId::Iluvatar, 0, Duration::from_secs(60));
        assert!(arbiter.is_scraped(VendorId::Iluvatar, 0));
        assert!(arbiter.is_scraped(VendorId::Iluvatar, 150 * second));
        assert!(!arbiter.is_scraped(VendorId::Iluvatar, 151 * second));
        assert!(!arbiter.is_scraped(VendorId::Iluvatar, -31 * second));
    }
}
