//! What a schedule tells of itself at `/metrics`.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfRule {
    rule: String,
}

/// Handles, cheap to clone.
#[derive(Debug, Clone)]
pub struct ScheduleMetrics {
    windows: Family<OfRule, Counter>,
    failed: Family<OfRule, Counter>,
    given_up: Family<OfRule, Counter>,
    late: Family<OfRule, Counter>,
    too_late: Family<OfRule, Counter>,
    rows: Family<OfRule, Counter>,
    behind: Family<OfRule, Gauge>,
    waiting: Family<OfRule, Gauge>,
    /// Time from the begin of a run to its end.
    pub run_seconds: Histogram,
    /// Time of a commit of one or more runs.
    pub commit_seconds: Histogram,
}

impl ScheduleMetrics {
    /// Makes and registers them.
    pub fn register(registry: &mut Registry) -> Self {
        let seconds = || Histogram::new(exponential_buckets(0.001, 2.0, 17));
        let metrics = Self {
            windows: Family::default(),
            failed: Family::default(),
            given_up: Family::default(),
            late: Family::default(),
            too_late: Family::default(),
            rows: Family::default(),
            behind: Family::default(),
            waiting: Family::default(),
            run_seconds: seconds(),
            commit_seconds: seconds(),
        };
        let r = registry.sub_registry_with_prefix("nodescope_schedule");
        r.register("windows", "Windows that have run, repetitions included", metrics.windows.clone());
        r.register("failures", "Runs that failed and are tried again", metrics.failed.clone());
        r.register("given_up", "Windows passed over because they failed for too long", metrics.given_up.clone());
        r.register("late_windows", "Windows marked to run again because rows came late", metrics.late.clone());
        r.register("too_late_parts", "Parts with rows of windows too old to run again", metrics.too_late.clone());
        r.register("rows", "Rows that runs brought", metrics.rows.clone());
        r.register_with_unit("behind", "Time since the next window was due", Unit::Seconds, metrics.behind.clone());
        r.register("late_windows_waiting", "Windows that wait to run again", metrics.waiting.clone());
        r.register_with_unit("run", "From the begin of a run to its end", Unit::Seconds, metrics.run_seconds.clone());
        r.register_with_unit("commit", "Length of a commit of runs", Unit::Seconds, metrics.commit_seconds.clone());
        metrics
    }

    /// Counts a window that has run.
    pub fn ran(&self, rule: &str, rows: u64) {
        self.windows.get_or_create(&of(rule)).inc();
        self.rows.get_or_create(&of(rule)).inc_by(rows);
    }

    /// Counts a run that failed.
    pub fn failed(&self, rule: &str) {
        self.failed.get_or_create(&of(rule)).inc();
    }

    /// Counts a window that is passed over.
    pub fn given_up(&self, rule: &str) {
        self.given_up.get_or_create(&of(rule)).inc();
    }

    /// Counts windows marked to run again.
    pub fn late(&self, rule: &str, windows: u64) {
        self.late.get_or_create(&of(rule)).inc_by(windows);
    }

    /// Counts rows whose windows are too old.
    pub fn too_late(&self, rule: &str) {
        self.too_late.get_or_create(&of(rule)).inc();
    }

    /// Says how far a rule is behind, and how many windows wait to run again.
    pub fn stands(&self, rule: &str, behind_us: i64, waiting: usize) {
        self.behind.get_or_create(&of(rule)).set(behind_us / 1_000_000);
        self.waiting.get_or_create(&of(rule)).set(i64::try_from(waiting).unwrap_or(i64::MAX));
    }
}

fn of(rule: &str) -> OfRule {
    OfRule { rule: rule.to_owned() }
}
