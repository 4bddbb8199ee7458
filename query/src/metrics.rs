//! What the query server says about itself.
//!
//! Five things decide whether a query server is well: how many statements end in which way, how long they
//! take, how many rows leave, how many run and are connected at this moment, and who was turned away and
//! why. Each is one metric; a statement is measured by a [`QueryTimer`] that counts it exactly once, even
//! when its connection goes away in the middle.

use std::time::Instant;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

type Label = [(&'static str, &'static str); 1];

/// How a statement ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Every row was sent.
    Completed,
    /// It failed, in planning or in execution.
    Failed,
    /// The client cancelled it, closed it early or went away.
    Cancelled,
    /// It took longer than it may.
    TimedOut,
    /// It was not allowed to run.
    Refused,
}

impl Outcome {
    /// The label under which it is counted.
    pub fn label(self) -> &'static str {
        match self {
            Outcome::Completed => "completed",
            Outcome::Failed => "failed",
            Outcome::Cancelled => "cancelled",
            Outcome::TimedOut => "timed_out",
            Outcome::Refused => "refused",
        }
    }
}

/// The metrics of one query server; clones count into the same numbers.
#[derive(Debug, Clone)]
pub struct QueryMetrics {
    queries: Family<Label, Counter>,
    seconds: Histogram,
    rows: Counter,
    running: Gauge,
    connections: Gauge,
    refused: Family<Label, Counter>,
    auth_failures: Counter,
}

impl Default for QueryMetrics {
    fn default() -> Self {
        QueryMetrics {
            queries: Family::default(),
            // 1 ms to about 65 s: from a cached answer to the longest default timeout.
            seconds: Histogram::new(exponential_buckets(0.001, 2.0, 17)),
            rows: Counter::default(),
            running: Gauge::default(),
            connections: Gauge::default(),
            refused: Family::default(),
            auth_failures: Counter::default(),
        }
    }
}

impl QueryMetrics {
    /// Puts the metrics into `registry`, each with the sentence that explains it.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("query_statements", "Statements by how they ended", self.queries.clone());
        registry.register(
            "query_seconds",
            "Time from a statement's arrival to its last row, in seconds",
            self.seconds.clone(),
        );
        registry.register("query_rows", "Rows sent to clients", self.rows.clone());
        registry.register("query_running", "Statements that run now", self.running.clone());
        registry.register("query_connections", "Sessions that are open now", self.connections.clone());
        registry.register("query_connections_refused", "Connections turned away, by reason", self.refused.clone());
        registry.register("query_auth_failures", "Failed attempts to log in", self.auth_failures.clone());
    }

    /// Starts to measure a statement.
    pub fn start(&self) -> QueryTimer {
        self.running.inc();
        QueryTimer { metrics: self.clone(), started: Instant::now(), outcome: None, rows: 0 }
    }

    /// Counts a session for as long as the answer lives.
    pub fn connected(&self) -> ConnectionCount {
        self.connections.inc();
        ConnectionCount(self.connections.clone())
    }

    /// Counts a connection that was turned away.
    pub fn refuse(&self, reason: &'static str) {
        self.refused.get_or_create(&[("reason", reason)]).inc();
    }

    /// Counts a failed attempt to log in.
    pub fn auth_failed(&self) {
        self.auth_failures.inc();
    }

    /// Connections turned away for `reason` so far.
    pub fn refused(&self, reason: &'static str) -> u64 {
        self.refused.get_or_create(&[("reason", reason)]).get()
    }

    /// Statements that ended in `outcome` so far.
    pub fn ended(&self, outcome: Outcome) -> u64 {
        self.queries.get_or_create(&[("outcome", outcome.label())]).get()
    }

    /// Statements that run now.
    pub fn running(&self) -> i64 {
        self.running.get()
    }

    /// Sessions that are open now.
    pub fn connections(&self) -> i64 {
        self.connections.get()
    }
}

/// One open session.
#[derive(Debug)]
pub struct ConnectionCount(Gauge);

impl Drop for ConnectionCount {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// One statement under measurement. Dropped without a word about its end, it counts as cancelled.
#[derive(Debug)]
pub struct QueryTimer {
    metrics: QueryMetrics,
    started: Instant,
    outcome: Option<Outcome>,
    rows: u64,
}

impl QueryTimer {
    /// Counts rows as they are sent.
    pub fn add_rows(&mut self, rows: u64) {
        self.rows += rows;
    }

    /// Rows sent so far.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Says how the statement ended and counts it.
    pub fn finish(mut self, outcome: Outcome) {
        self.outcome = Some(outcome);
    }
}

impl Drop for QueryTimer {
    fn drop(&mut self) {
        let outcome = self.outcome.unwrap_or(Outcome::Cancelled);
        self.metrics.running.dec();
        self.metrics.queries.get_or_create(&[("outcome", outcome.label())]).inc();
        self.metrics.seconds.observe(self.started.elapsed().as_secs_f64());
        self.metrics.rows.inc_by(self.rows);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_statement_is_counted_once_however_it_ends() {
        let metrics = QueryMetrics::default();
        let mut completed = metrics.start();
        completed.add_rows(3);
        let dropped = metrics.start();
        assert_eq!(metrics.running(), 2);
        completed.finish(Outcome::Completed);
        drop(dropped);
        assert_eq!(metrics.running(), 0);
        assert_eq!(metrics.ended(Outcome::Completed), 1);
        assert_eq!(metrics.ended(Outcome::Cancelled), 1);
        assert_eq!(metrics.rows.get(), 3);
    }

    #[test]
    fn the_exposition_names_every_metric() {
        let metrics = QueryMetrics::default();
        let connection = metrics.connected();
        metrics.refuse("handshake");
        metrics.auth_failed();
        metrics.start().finish(Outcome::TimedOut);
        let mut registry = Registry::default();
        metrics.register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).expect("encodes");
        for line in [
            "query_statements_total{outcome=\"timed_out\"} 1",
            "query_seconds_count 1",
            "query_rows_total 0",
            "query_running 0",
            "query_connections 1",
            "query_connections_refused_total{reason=\"handshake\"} 1",
            "query_auth_failures_total 1",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
        drop(connection);
        assert_eq!(metrics.connections(), 0);
    }
}
