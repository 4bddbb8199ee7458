//! The doors of the query server. Each speaks one protocol over the same engine, the same limits and the same
//! rules about what may be asked.

pub mod postgres;

use std::sync::Arc;

use datafusion::common::DataFusionError;
use nodescope_service::http::Health;
use nodescope_store::Store;
use nodescope_store::cut::Reader;
use thiserror::Error;

use self::postgres::{PostgresServer, PostgresServerError};
use crate::engine::Engine;
use crate::settings::QuerySettings;

/// Why a query server does not start.
#[derive(Debug, Error)]
pub enum QueryServerError {
    /// The engine cannot be made.
    #[error("the query engine cannot be set up")]
    Engine(#[source] DataFusionError),
    /// The door for SQL stays shut.
    #[error(transparent)]
    Postgres(#[from] PostgresServerError),
}

/// Makes an engine over the store.
///
/// # Errors
/// When a setting cannot be kept.
pub fn engine(settings: &QuerySettings, store: Store, health: &Health) -> Result<Arc<Engine>, QueryServerError> {
    let reader = Reader::new(store, settings.hot_cache_bytes);
    let engine =
        Engine::new(reader, settings.limits.clone(), settings.spill.clone()).map_err(QueryServerError::Engine)?;
    health.register(|registry| engine.metrics().register(registry.sub_registry_with_prefix("nodescope")));
    Ok(Arc::new(engine))
}

/// Makes an engine over the store, and opens its doors.
///
/// # Errors
/// When a setting cannot be kept or an address is taken.
pub async fn open(settings: QuerySettings, store: Store, health: &Health) -> Result<PostgresServer, QueryServerError> {
    let engine = engine(&settings, store, health)?;
    Ok(PostgresServer::bind(engine, settings.postgres).await?)
}
