//! What a collector tells of itself at `/metrics`.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

/// Columns are named in metrics only so many times: names come from strangers.
const MOST_UNKNOWN_COLUMNS: usize = 200;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfTable {
    table: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct UnknownColumn {
    table: String,
    column: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfPartition {
    partition: i32,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Step {
    step: &'static str,
}

/// Handles, cheap to clone.
#[derive(Debug, Clone)]
pub struct CollectorMetrics {
    /// Messages read from Kafka.
    pub records: Counter,
    /// Their bytes.
    pub record_bytes: Counter,
    rows: Family<OfTable, Counter>,
    dropped: Family<Reason, Counter>,
    set_aside: Family<Reason, Counter>,
    unknown_columns: Family<UnknownColumn, Counter>,
    /// Offsets the broker had forgotten before they were read.
    pub lost_offsets: Counter,
    lag: Family<OfPartition, Gauge>,
    /// Bytes gathered and not yet durable.
    pub buffered_bytes: Gauge,
    /// Segments written.
    pub segments: Counter,
    /// Their bytes.
    pub segment_bytes: Counter,
    /// Tries that failed.
    pub segment_retries: Counter,
    /// From the end of gathering to durable.
    pub segment_seconds: Histogram,
    /// From the oldest row's `ts` to durable, per segment.
    pub durable_after_seconds: Histogram,
    /// Rows sealed.
    pub sealed_rows: Counter,
    /// Bytes of sealed files.
    pub sealed_bytes: Counter,
    /// Length of a round of sealing.
    pub seal_seconds: Histogram,
    /// Small files merged.
    pub merged_files: Counter,
    /// Files deleted after their grace time.
    pub deleted_files: Counter,
    upkeep_failures: Family<Step, Counter>,
    /// (agent, boot) pairs known.
    pub agent_runs: Gauge,
    /// Records that agents have numbered and not (yet) delivered.
    pub missing_records: Gauge,
}

impl CollectorMetrics {
    /// Makes and registers them.
    pub fn register(registry: &mut Registry) -> Self {
        let seconds = || Histogram::new(exponential_buckets(0.001, 2.0, 16));
        let metrics = Self {
            records: Counter::default(),
            record_bytes: Counter::default(),
            rows: Family::default(),
            dropped: Family::default(),
            set_aside: Family::default(),
            unknown_columns: Family::default(),
            lost_offsets: Counter::default(),
            lag: Family::default(),
            buffered_bytes: Gauge::default(),
            segments: Counter::default(),
            segment_bytes: Counter::default(),
            segment_retries: Counter::default(),
            segment_seconds: seconds(),
            durable_after_seconds: seconds(),
            sealed_rows: Counter::default(),
            sealed_bytes: Counter::default(),
            seal_seconds: seconds(),
            merged_files: Counter::default(),
            deleted_files: Counter::default(),
            upkeep_failures: Family::default(),
            agent_runs: Gauge::default(),
            missing_records: Gauge::default(),
        };
        let r = registry.sub_registry_with_prefix("nodescope_collector");
        r.register("records", "Messages read from Kafka", metrics.records.clone());
        r.register_with_unit("records", "Their size", Unit::Bytes, metrics.record_bytes.clone());
        r.register("rows", "Rows taken, by table", metrics.rows.clone());
        r.register("dropped_records", "Messages dropped because they had been taken before", metrics.dropped.clone());
        r.register("quarantined_records", "Messages set aside in quarantine", metrics.set_aside.clone());
        r.register(
            "unknown_columns",
            "Columns left out because the table has none of that name",
            metrics.unknown_columns.clone(),
        );
        r.register(
            "lost_offsets",
            "Offsets the broker had forgotten before they were read",
            metrics.lost_offsets.clone(),
        );
        r.register("lag_records", "Messages on Kafka that are not yet durable in the store", metrics.lag.clone());
        r.register_with_unit("buffered", "Gathered and not yet durable", Unit::Bytes, metrics.buffered_bytes.clone());
        r.register("segments", "Hot segments written", metrics.segments.clone());
        r.register_with_unit("segments", "Their size", Unit::Bytes, metrics.segment_bytes.clone());
        r.register("segment_retries", "Tries to write a segment that failed", metrics.segment_retries.clone());
        r.register_with_unit(
            "segment_write",
            "From the end of gathering to durable",
            Unit::Seconds,
            metrics.segment_seconds.clone(),
        );
        r.register_with_unit(
            "durable_after",
            "From a segment's oldest row's tick to durable",
            Unit::Seconds,
            metrics.durable_after_seconds.clone(),
        );
        r.register("sealed_rows", "Rows sealed", metrics.sealed_rows.clone());
        r.register_with_unit("sealed", "Size of sealed files", Unit::Bytes, metrics.sealed_bytes.clone());
        r.register_with_unit("seal", "Length of a round of sealing", Unit::Seconds, metrics.seal_seconds.clone());
        r.register("merged_files", "Small sealed files merged", metrics.merged_files.clone());
        r.register("deleted_files", "Files deleted after their grace time", metrics.deleted_files.clone());
        r.register(
            "upkeep_failures",
            "Steps of upkeep that failed and will be tried again",
            metrics.upkeep_failures.clone(),
        );
        r.register("agent_runs", "Runs of agents known", metrics.agent_runs.clone());
        r.register(
            "missing_records",
            "Records that agents have numbered and not delivered",
            metrics.missing_records.clone(),
        );
        metrics
    }

    /// Counts rows taken.
    pub fn took(&self, table: &str, rows: usize) {
        self.rows.get_or_create(&OfTable { table: table.to_owned() }).inc_by(rows as u64);
    }

    /// Counts a message dropped.
    pub fn dropped(&self, reason: &'static str) {
        self.dropped.get_or_create(&Reason { reason }).inc();
    }

    /// Counts a message set aside.
    pub fn set_aside(&self, reason: &'static str) {
        self.set_aside.get_or_create(&Reason { reason }).inc();
    }

    /// Counts a column left out. Beyond a number of names, as `other`.
    pub fn unknown_column(&self, table: &str, column: &str, known: &mut std::collections::HashSet<String>) {
        let name = format!("{table}.{column}");
        let column = if known.contains(&name) {
            column
        } else if known.len() < MOST_UNKNOWN_COLUMNS && column.len() <= 63 {
            tracing::warn!(table, column, "a column that the table does not have is left out");
            known.insert(name);
            column
        } else {
            "other"
        };
        self.unknown_columns.get_or_create(&UnknownColumn { table: table.to_owned(), column: column.to_owned() }).inc();
    }

    /// Sets a partition's lag.
    pub fn set_lag(&self, partition: i32, records: i64) {
        self.lag.get_or_create(&OfPartition { partition }).set(records);
    }

    /// Counts a step of upkeep that failed.
    pub fn upkeep_failed(&self, step: &'static str) {
        self.upkeep_failures.get_or_create(&Step { step }).inc();
    }
}
