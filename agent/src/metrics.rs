//! What an agent tells of itself at `/metrics`, beside the values it samples.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use crate::spool::SpoolFacts;

/// Handles, cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct AgentMetrics {
    /// Rows taken into the spool.
    pub rows: Counter,
    /// Rows dropped before the spool.
    pub rows_dropped: Counter,
    /// Records handed to the Kafka client.
    pub sent: Counter,
    /// Records acknowledged.
    pub acknowledged: Counter,
    /// Attempts that failed.
    pub retried: Counter,
    /// Records that left the spool unsent.
    pub records_lost: Counter,
    /// Times the spool could not be made durable.
    pub sync_failures: Counter,
    spool_bytes: Gauge,
    spool_records: Gauge,
    spool_oldest: Gauge,
    spool_damaged: Gauge,
    spool_refused: Gauge,
}

impl AgentMetrics {
    /// Makes and registers them.
    pub fn register(registry: &mut Registry) -> Self {
        let m = Self::default();
        // `nodescope_agent_…` without a further word is the table `agent`.
        let r = registry.sub_registry_with_prefix("nodescope_agent_publisher");
        r.register("rows", "Rows taken into the spool", m.rows.clone());
        r.register(
            "dropped_rows",
            "Rows dropped before the spool: it has not answered for a long time",
            m.rows_dropped.clone(),
        );
        r.register("sent_records", "Records handed to the Kafka client, each attempt counted", m.sent.clone());
        r.register("acknowledged_records", "Records the broker has acknowledged", m.acknowledged.clone());
        r.register("retried_records", "Attempts the broker did not acknowledge", m.retried.clone());
        r.register("lost_records", "Records that left the spool unsent", m.records_lost.clone());
        r.register("sync_failures", "Times the spool could not be made durable", m.sync_failures.clone());
        r.register_with_unit("spool", "Size of the spool on disk", Unit::Bytes, m.spool_bytes.clone());
        r.register("spool_records", "Records that wait for the broker's acknowledgement", m.spool_records.clone());
        r.register_with_unit(
            "spool_oldest",
            "Age of the oldest record that waits",
            Unit::Seconds,
            m.spool_oldest.clone(),
        );
        r.register(
            "spool_damaged",
            "Torn or damaged stretches of the spool cut off in this run",
            m.spool_damaged.clone(),
        );
        r.register("spool_refused", "Writes to the spool that the disk refused in this run", m.spool_refused.clone());
        m
    }

    /// Shows where the spool stands.
    pub fn show_spool(&self, facts: &SpoolFacts) {
        let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        self.spool_bytes.set(number(facts.bytes));
        self.spool_records.set(number(facts.records));
        self.spool_oldest.set(number(facts.oldest.map_or(0, |age| age.as_secs())));
        self.spool_damaged.set(number(facts.damaged));
        self.spool_refused.set(number(facts.refused));
    }
}
