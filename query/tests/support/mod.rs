//! An engine over an empty store in memory.
#![allow(unreachable_pub, reason = "a module of tests")]

use std::sync::Arc;

use nodescope_model::catalogue::Catalogue;
use nodescope_query::engine::{Engine, Spill};
use nodescope_query::limits::Limits;
use nodescope_store::Store;
use nodescope_store::cut::Reader;

/// The engine. Its tables are those of the catalogue, without rows.
#[allow(clippy::unused_async, reason = "engines of other tests fill their store first")]
pub async fn engine(limits: Limits) -> Arc<Engine> {
    let objects = Arc::new(object_store::memory::InMemory::new());
    let store = Store::new(objects, Arc::new(Catalogue::built_in()), "memory:");
    let spill = Spill { folder: None, bytes: 1 << 30 };
    Arc::new(Engine::new(Reader::new(store, 1 << 20), limits, spill).expect("an engine"))
}
