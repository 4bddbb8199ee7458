//! Putting segments.
//!
//! A partition has at most one segment on its way, so that segments follow each other; while it is under way, the next
//! one gathers. A store that is away is asked again until it answers, with growing pauses: the rows are safe on Kafka,
//! and the buffer's limit stops the reading.

use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use nodescope_service::errors::chain;
use nodescope_store::segment::{Draft, Footer, encode};
use nodescope_store::{Store, StoreError};
use tokio::runtime::Handle;

use crate::metrics::CollectorMetrics;

/// Longest pause between two tries.
const MOST_PAUSE: Duration = Duration::from_secs(5);

/// A segment that is durable, or never will be.
pub type Written = Result<Footer, StoreError>;

/// Puts segments, and reports each when it is durable.
#[derive(Clone)]
pub struct Writer {
    store: Store,
    runtime: Handle,
    report: Sender<Written>,
    metrics: CollectorMetrics,
}

impl Writer {
    /// A writer that reports to `report`.
    pub fn new(store: Store, runtime: Handle, report: Sender<Written>, metrics: CollectorMetrics) -> Self {
        Self { store, runtime, report, metrics }
    }

    /// Begins to write a segment. Returns at once.
    pub fn write(&self, draft: Draft) {
        let this = self.clone();
        self.runtime.spawn(async move {
            let written = this.put(draft).await;
            // Nobody listens any more when the collector is stopping; the next one recovers from the store.
            let _ = this.report.send(written);
        });
    }

    async fn put(&self, draft: Draft) -> Written {
        let began = Instant::now();
        let (footer, bytes) = tokio::task::spawn_blocking(move || encode(draft)).await.map_err(|source| {
            StoreError::Rows { table: "segment".into(), action: "encode", source: source.into() }
        })??;
        let mut pause = Duration::from_millis(50);
        loop {
            match self.store.put_segment(&footer, bytes.clone()).await {
                Ok(_) => break,
                Err(error) if error.is_transient() => {
                    self.metrics.segment_retries.inc();
                    tracing::warn!(segment = %footer.path(), error = %chain(&error), "cannot write a segment; trying again");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(MOST_PAUSE);
                }
                Err(error) => return Err(error),
            }
        }
        self.metrics.segments.inc();
        self.metrics.segment_bytes.inc_by(bytes.len() as u64);
        self.metrics.segment_seconds.observe(began.elapsed().as_secs_f64());
        Ok(footer)
    }
}
