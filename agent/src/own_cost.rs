//! `agent`: what the agent itself does and costs, per probe and as a whole.
//!
//! An agent that costs more than it tells is worse than none, so this is a probe like the others.

use std::sync::Arc;

use nodescope_model::rows::Rows;
use parking_lot::Mutex;
use rustix::time::{ClockId, clock_gettime};

use crate::probe::{Probe, ProbeError, Tick};
use crate::publisher::PublisherFacts;
use crate::ticker::ProbeFacts;

/// Fills the table `agent`.
pub struct OwnCost {
    probes: Vec<Arc<ProbeFacts>>,
    publisher: Option<Arc<Mutex<PublisherFacts>>>,
}

impl OwnCost {
    /// A probe of these probes, and of the publisher if there is one.
    pub fn new(probes: Vec<Arc<ProbeFacts>>, publisher: Option<Arc<Mutex<PublisherFacts>>>) -> Self {
        Self { probes, publisher }
    }
}

impl Probe for OwnCost {
    fn table(&self) -> &'static str {
        "agent"
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
                .float("last_duration_seconds", count.last_spent.map(|d| d.as_secs_f64()))
                .bool("succeeded", succeeded.map(|well| well && stuck.is_none()))
                .text("last_error", error.as_deref());
        }
        let used = clock_gettime(ClockId::ProcessCPUTime);
        let mut row = rows.begin();
        #[allow(clippy::cast_precision_loss, reason = "2^53 seconds are enough")]
        row.text("probe", "all")
            .text("version", env!("CARGO_PKG_VERSION"))
            .float("cpu_seconds", used.tv_sec as f64 + used.tv_nsec as f64 / 1e9)
            .count("resident_bytes", resident_bytes());
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

/// Main memory this process holds. Of this process, so below the real `/proc`, whatever the host's root is.
fn resident_bytes() -> Option<u64> {
    let pages: u64 = std::fs::read_to_string("/proc/self/statm").ok()?.split(' ').nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::probes::testing::{floats, ints, sample_once, texts};

    #[test]
    fn every_probe_has_a_row_and_the_whole_has_one() {
        let facts =
            vec![ProbeFacts::new("cpu", Duration::from_secs(1)), ProbeFacts::new("disk", Duration::from_secs(1))];
        let batch = sample_once(&mut OwnCost::new(facts, Some(Arc::default())));
        assert_eq!(texts(&batch, "probe"), [Some("cpu"), Some("disk"), Some("all")]);
        assert_eq!(ints(&batch, "samples"), [Some(0), Some(0), None]);
        assert!(ints(&batch, "resident_bytes")[2].is_some_and(|bytes| bytes > 100_000));
        assert!(floats(&batch, "cpu_seconds")[2].is_some_and(|seconds| seconds > 0.0));
        assert_eq!(floats(&batch, "spool_oldest_seconds"), [None, None, None]);
    }
}
