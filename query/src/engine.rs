//! The engine: DataFusion with our tables, our functions, and bounds on everything.
//!
//! There is one engine in a server and one context per session. What costs memory or disk is shared by all sessions:
//! the pool that queries draw from, the folder they spill to, the caches of what files say of themselves. What a
//! session sets for itself (its time zone) is in its own context.

use std::path::PathBuf;
use std::sync::Arc;

use datafusion::catalog::{CatalogProvider, MemoryCatalogProvider, MemorySchemaProvider, SchemaProvider};
use datafusion::common::{DataFusionError, Result};
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::{FairSpillPool, MemoryConsumer, MemoryPool, MemoryReservation};
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::prelude::{SessionConfig, SessionContext};
use nodescope_store::cut::Reader;
use url::Url;

use crate::compat::{PgCatalog, SessionFacts, Settings};
use crate::limits::{Admission, Limits};
use crate::metrics::QueryMetrics;
use crate::session::{DATABASE, SERVER_VERSION, SessionSettings};
use crate::table::{CutTable, STORE_URL};
use crate::views::{self, Views};
use crate::{functions, rewrite};

/// Functions that make values of any size out of a number, and that no question of ours needs.
const LEFT_OUT: [&str; 4] = ["array_repeat", "array_resize", "range", "generate_series"];

/// Where queries spill, and how much.
#[derive(Debug, Clone)]
pub struct Spill {
    /// The folder; `None` for the system's temporary one.
    pub folder: Option<PathBuf>,
    /// Bytes of all queries together.
    pub bytes: u64,
}

/// Plans and runs questions. Shared by all sessions.
#[derive(Debug)]
pub struct Engine {
    runtime: Arc<RuntimeEnv>,
    reader: Arc<Reader>,
    public: Arc<dyn SchemaProvider>,
    views: Views,
    system: PgCatalog,
    limits: Limits,
    admission: Arc<Admission>,
    metrics: QueryMetrics,
}

impl Engine {
    /// An engine over a store.
    ///
    /// # Errors
    /// When the folder to spill to cannot be used, the catalogue has a type that SQL has not, or a view cannot be
    /// planned over it; then the source is [`crate::definition::Mistakes`].
    pub fn new(reader: Reader, limits: Limits, spill: Spill) -> Result<Self> {
        let mode = match spill.folder {
            Some(folder) => DiskManagerMode::Directories(vec![folder]),
            None => DiskManagerMode::OsTmpDirectory,
        };
        let disk = DiskManagerBuilder::default().with_mode(mode).with_max_temp_directory_size(spill.bytes);
        let runtime = RuntimeEnvBuilder::new()
            .with_memory_pool(Arc::new(FairSpillPool::new(limits.memory_bytes)))
            .with_disk_manager_builder(disk)
            .build_arc()?;
        let url = Url::parse(STORE_URL).map_err(|e| DataFusionError::External(Box::new(e)))?;
        runtime.register_object_store(&url, Arc::clone(reader.store().objects()));
        let reader = Arc::new(reader);
        let catalogue = Arc::clone(reader.store().catalogue());
        let public = MemorySchemaProvider::new();
        for table in catalogue.tables() {
            let provider = CutTable::new(Arc::clone(table), Arc::clone(&reader));
            public.register_table(table.name.clone(), Arc::new(provider))?;
        }
        let public: Arc<dyn SchemaProvider> = Arc::new(public);
        let planning = context("UTC", &public, Arc::clone(&runtime))?;
        let views = Views::plan(&planning, public.as_ref(), views::BUILT_IN)
            .map_err(|mistakes| DataFusionError::External(Box::new(mistakes)))?;
        Ok(Self {
            runtime,
            reader,
            public,
            system: PgCatalog::new(&catalogue, views.views())?,
            views,
            admission: Arc::new(Admission::new(&limits)),
            limits,
            metrics: QueryMetrics::default(),
        })
    }

    /// A context with the session's settings.
    ///
    /// # Errors
    /// When DataFusion takes none of ours, short of a bug.
    pub fn session_context(&self, settings: &Arc<SessionSettings>) -> Result<SessionContext> {
        let context = context(settings.time_zone(), &self.public, self.runtime(&self.limits)?)?;
        self.views.install(&context);
        let facts = SessionFacts {
            user: settings.user.clone(),
            database: DATABASE.to_owned(),
            server_version: SERVER_VERSION,
            settings: Arc::clone(settings) as Arc<dyn Settings>,
        };
        self.system.install(&context, facts)?;
        Ok(context)
    }

    /// The shared runtime, or one like it whose queries may take only so much of the common memory.
    fn runtime(&self, limits: &Limits) -> Result<Arc<RuntimeEnv>> {
        match limits.query_memory_bytes {
            None => Ok(Arc::clone(&self.runtime)),
            Some(most) => RuntimeEnvBuilder::from_runtime_env(&self.runtime)
                .with_memory_pool(Arc::new(Share {
                    whole: Arc::clone(&self.runtime.memory_pool),
                    own: FairSpillPool::new(most),
                }))
                .build_arc(),
        }
    }

    /// What reads the store.
    pub fn reader(&self) -> &Arc<Reader> {
        &self.reader
    }

    /// The bounds kept.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The gate before execution.
    pub fn admission(&self) -> &Arc<Admission> {
        &self.admission
    }

    /// What there is to tell of the queries.
    pub fn metrics(&self) -> &QueryMetrics {
        &self.metrics
    }
}

/// A context that knows our tables and functions, and nothing of a session but its time zone.
fn context(time_zone: &str, public: &Arc<dyn SchemaProvider>, runtime: Arc<RuntimeEnv>) -> Result<SessionContext> {
    let mut config = SessionConfig::new()
        .with_default_catalog_and_schema(DATABASE, "public")
        .with_create_default_catalog_and_schema(false)
        .with_information_schema(false);
    let options = config.options_mut();
    options.execution.time_zone = Some(time_zone.to_owned());
    options.sql_parser.dialect = datafusion::common::config::Dialect::PostgreSQL;
    let context = SessionContext::new_with_config_rt(config, runtime);
    let catalog = MemoryCatalogProvider::new();
    catalog.register_schema("public", Arc::clone(public))?;
    context.register_catalog(DATABASE, Arc::new(catalog));
    for name in LEFT_OUT {
        context.deregister_udf(name);
    }
    functions::install(&context);
    functions::bound(&context)?;
    rewrite::install(&context)?;
    Ok(context)
}

/// A session's share of the common memory: what it takes counts in both books.
#[derive(Debug)]
struct Share {
    whole: Arc<dyn MemoryPool>,
    own: FairSpillPool,
}

impl std::fmt::Display for Share {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "share({})", self.own)
    }
}

impl MemoryPool for Share {
    fn name(&self) -> &str {
        "share"
    }

    fn register(&self, consumer: &MemoryConsumer) {
        self.own.register(consumer);
        self.whole.register(consumer);
    }

    fn unregister(&self, consumer: &MemoryConsumer) {
        self.own.unregister(consumer);
        self.whole.unregister(consumer);
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        self.own.grow(reservation, additional);
        self.whole.grow(reservation, additional);
    }

    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        self.own.shrink(reservation, shrink);
        self.whole.shrink(reservation, shrink);
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> Result<()> {
        self.own.try_grow(reservation, additional)?;
        self.whole.try_grow(reservation, additional).inspect_err(|_| self.own.shrink(reservation, additional))
    }

    fn reserved(&self) -> usize {
        self.own.reserved()
    }
}

impl Settings for SessionSettings {
    fn get(&self, name: &str) -> Option<String> {
        self.get(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_bounded_by_itself_and_by_the_whole() {
        let whole: Arc<dyn MemoryPool> = Arc::new(FairSpillPool::new(100));
        let share: Arc<dyn MemoryPool> = Arc::new(Share { whole: Arc::clone(&whole), own: FairSpillPool::new(60) });
        let other: Arc<dyn MemoryPool> = Arc::new(Share { whole: Arc::clone(&whole), own: FairSpillPool::new(60) });
        let ours = MemoryConsumer::new("ours").register(&share);
        let theirs = MemoryConsumer::new("theirs").register(&other);
        ours.try_grow(61).unwrap_err();
        ours.try_grow(60).unwrap();
        theirs.try_grow(50).unwrap_err();
        assert_eq!((whole.reserved(), other.reserved()), (60, 0));
        theirs.try_grow(40).unwrap();
        drop(ours);
        theirs.try_grow(20).unwrap();
        assert_eq!(whole.reserved(), 60);
    }
}
