//! From Kafka to the store, each record once.
//!
//! The way of a record, and the files in its order:
//!
//! 1. [`consumer`] reads partitions from the position that the *store* knows, never the broker.
//! 2. [`decoder`] reads headers and rows, or says why they cannot be read.
//! 3. [`assembler`] drops what was taken before, and gathers rows until it is time for a segment.
//! 4. [`writer`] puts the segment; only then is anything told to the broker.
//! 5. [`ledger`] knows all segments that are durable and not yet gone.
//! 6. [`upkeep`] seals, compacts, expires and deletes, in the background.
//!
//! **Invariants.** No position advances before its rows are durable. Nothing that arrives can stop a partition: what
//! cannot be read becomes a row of `quarantine`. Nothing here knows SQL.

pub mod assembler;
pub mod consumer;
pub mod decoder;
pub mod ledger;
pub mod metrics;
pub mod settings;
pub mod upkeep;
pub mod writer;

use std::sync::Arc;

use nodescope_service::http::Health;
use nodescope_store::Store;
use tokio_util::sync::CancellationToken;

pub use consumer::CollectorError;
pub use settings::CollectorSettings;

use crate::ledger::Ledger;
use crate::metrics::CollectorMetrics;

/// Runs a collector until told to stop.
///
/// # Errors
/// When it can no longer do its work without risking rows: another collector writes the same partitions, or the store
/// holds something that should not be. Kafka or the store being away is no error: it waits, and says so.
pub async fn run(
    settings: CollectorSettings,
    store: Store,
    health: Health,
    shutdown: CancellationToken,
) -> Result<(), CollectorError> {
    let metrics = health.register(CollectorMetrics::register);
    let ledger = Arc::new(Ledger::default());
    // Whatever ends one half ends the other.
    let stop = shutdown.child_token();
    let ended = stop.clone().drop_guard();
    let upkeep = upkeep::run(settings.upkeep.clone(), store.clone(), ledger.clone(), metrics.clone(), stop.clone());
    let upkeep = tokio::spawn(async move {
        let _ended = ended;
        upkeep.await;
    });
    let result = consumer::run(settings, store, ledger, metrics, health, stop.clone()).await;
    stop.cancel();
    if let Err(error) = upkeep.await {
        return Err(CollectorError::Thread(format!("upkeep of the store: {error}")));
    }
    result
}
