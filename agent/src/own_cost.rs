//! `agent`: what the agent itself does and costs, per probe and as a whole.
//!
//! An agent that costs more than it tells is worse than none, so this is a probe like the others.

use std::collections::BTreeMap;
use std::sync::Arc;

use nodescope_model::rows::Rows;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::time::ClockId;

use crate::accelerators;
use crate::attribution::parse_stat;
use crate::pace::Governor;
use crate::probe::{Probe, ProbeError, Tick};
use crate::publisher::PublisherFacts;
use crate::reload::ReloadFacts;
use crate::ticker::{OWN, ProbeFacts, cpu_time};

/// Fills the table `agent`.
pub struct OwnCost {
    probes: Vec<Arc<ProbeFacts>>,
    publisher: Option<Arc<Mutex<PublisherFacts>>>,
    governor: Governor,
    reload: Arc<Mutex<ReloadFacts>>,
    workers: Workers,
}

impl OwnCost {
    /// A probe of these probes, and of the publisher if there is one. It tells the governor what all of it costs.
    pub fn new(
        probes: Vec<Arc<ProbeFacts>>,
        publisher: Option<Arc<Mutex<PublisherFacts>>>,
        governor: Governor,
        reload: Arc<Mutex<ReloadFacts>>,
    ) -> Self {
        Self { probes, publisher, governor, reload, workers: Workers::default() }
    }
}

impl Probe for OwnCost {
    fn table(&self) -> &'static str {
        OWN
    }

    fn sample(&mut self, _: &Tick, rows: &mut Rows) -> Result<(), ProbeError> {
        for probe in &self.probes {
            let count = probe.count();
            let succeeded = count.last_spent.map(|_| count.last_error.is_none());
            let stuck = count.busy_since.map(|since| since.elapsed()).filter(|busy| *busy > probe.every);
            let error = match stuck {
                Some(busy) => Some(format!("no answer for {} s", busy.as_secs())),
                None => count.last_error,
            };
            rows.begin()
                .text("probe", probe.name)
                .count("samples", count.samples)
                .count("rows_sampled", count.rows)
                .count("errors", count.errors)
                .count("timeouts", count.timeouts)
                .count("skipped", count.skipped)
                .float("duration_seconds", count.spent.as_secs_f64())
                .float("cpu_seconds", count.cpu.as_secs_f64())
                .float("last_duration_seconds", count.last_spent.map(|d| d.as_secs_f64()))
                .bool("succeeded", succeeded.map(|well| well && stuck.is_none()))
                .text("last_error", error.as_deref())
                .float("interval_seconds", (probe.every * self.governor.factor()).as_secs_f64());
        }
        let used = cpu_time(ClockId::ProcessCPUTime);
        self.workers.read();
        let workers = &self.workers;
        let has_workers = workers.count > 0 || !workers.cpu.is_zero();
        self.governor.judge(Instant::now(), used + workers.cpu);
        let reload = self.reload.lock().clone();
        let mut row = rows.begin();
        row.text("probe", "all")
            .text("version", env!("CARGO_PKG_VERSION"))
            .float("cpu_seconds", used.as_secs_f64())
            .count("resident_bytes", resident_bytes("self"))
            .int("clock_offset_microseconds", crate::abi::clock::offset_us())
            .count("workers", workers.count)
            .float("workers_cpu_seconds", has_workers.then_some(workers.cpu.as_secs_f64()))
            .count("workers_resident_bytes", (workers.count > 0).then_some(workers.resident_bytes))
            .float("cpu_budget_ratio", self.governor.budget())
            .count("stretch", u64::from(self.governor.factor()))
            .text("config_hash", reload.hash.as_deref())
            .count("config_loads", reload.loaded)
            .count("config_refusals", reload.refused)
            .text("config_error", reload.error.as_deref());
        if let Some(facts) = self.publisher.as_ref().map(|p| *p.lock()) {
            row.count("spool_bytes", facts.spool.bytes)
                .count("spool_records", facts.spool.records)
                .float("spool_oldest_seconds", facts.spool.oldest.map(|age| age.as_secs_f64()))
                .count("records_sent", facts.sent)
                .count("records_acknowledged", facts.acknowledged)
                .count("records_retried", facts.retried)
                .count("records_lost", facts.lost);
        }
        Ok(())
    }
}

/// What the workers that talk to accelerators' drivers cost.
#[derive(Debug, Default)]
struct Workers {
    count: u64,
    /// Of those that have ended, too: it never goes back.
    cpu: Duration,
    resident_bytes: u64,
    /// What each had used when last seen.
    known: BTreeMap<u32, Duration>,
}

impl Workers {
    fn read(&mut self) {
        (self.count, self.resident_bytes) = (0, 0);
        let ticks_per_second = rustix::param::clock_ticks_per_second().max(1);
        let mut used = BTreeMap::new();
        for pid in accelerators::workers() {
            let Ok(stat) = std::fs::read(format!("/proc/{pid}/stat")) else { continue };
            let Some(stat) = parse_stat(&stat) else { continue };
            self.count += 1;
            used.insert(pid, Duration::from_millis(stat.cpu_ticks.saturating_mul(1000) / ticks_per_second));
            self.resident_bytes += resident_bytes(&pid.to_string()).unwrap_or(0);
        }
        self.add(used);
    }

    /// Takes in what those that run have used so far.
    fn add(&mut self, used: BTreeMap<u32, Duration>) {
        for (pid, now) in &used {
            // Less than before is another process of the same number.
            let before = self.known.get(pid).filter(|before| *before <= now).copied().unwrap_or_default();
            self.cpu += *now - before;
        }
        self.known = used;
    }
}

/// Main memory a process holds. As this process sees it, so below the real `/proc`, whatever the host's root is.
fn resident_bytes(process: &str) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{process}/statm")).ok()?;
    let pages: u64 = text.split(' ').nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::pace::Pace;
    use crate::probes::testing::{floats, ints, sample_once, texts};

    fn own(facts: Vec<Arc<ProbeFacts>>) -> OwnCost {
        OwnCost::new(facts, Some(Arc::default()), Governor::new(0.02, Pace::default()), Arc::default())
    }

    #[test]
    fn what_workers_cost_never_goes_back() {
        let mut workers = Workers::default();
        let seconds = Duration::from_secs;
        let cpu: Vec<u64> = [&[(1, 100), (2, 5)][..], &[(2, 6)], &[(3, 1), (2, 6)], &[], &[(3, 0)]]
            .into_iter()
            .map(|used| {
                workers.add(used.iter().map(|(pid, used)| (*pid, seconds(*used))).collect());
                workers.cpu.as_secs()
            })
            .collect();
        assert_eq!(cpu, [105, 106, 107, 107, 107]);
    }

    #[test]
    fn every_probe_has_a_row_and_the_whole_has_one() {
        let facts =
            vec![ProbeFacts::new("cpu", Duration::from_secs(1)), ProbeFacts::new("disk", Duration::from_secs(10))];
        let batch = sample_once(&mut own(facts));
        assert_eq!(texts(&batch, "probe"), [Some("cpu"), Some("disk"), Some("all")]);
        assert_eq!(ints(&batch, "samples"), [Some(0), Some(0), None]);
        assert_eq!(floats(&batch, "interval_seconds"), [Some(1.0), Some(10.0), None]);
        assert!(ints(&batch, "resident_bytes")[2].is_some_and(|bytes| bytes > 100_000));
        assert!(floats(&batch, "cpu_seconds")[2].is_some_and(|seconds| seconds > 0.0));
        assert_eq!(floats(&batch, "spool_oldest_seconds"), [None, None, None]);
    }
}
