//! The parts one by one: collector, query server, and the embedded broker alone. (The schedule: [`crate::schedule`].)

use std::net::SocketAddr;
use std::path::PathBuf;

use nodescope_collector::CollectorSettings;
use nodescope_query::settings::QuerySettings;
use nodescope_service::http::{Health, HttpServer};
use nodescope_service::kafka::KafkaSettings;
use nodescope_service::settings::Settings;
use nodescope_service::stop;
use nodescope_store::location::Location;
use tokio_util::sync::CancellationToken;

use crate::broker::{BrokerOptions, BrokerTopic, EmbeddedBroker};
use crate::settings::{Common, finish, load};
use crate::{ConfigArgs, block_on, chain, say};

/// Flags of `collector`, `query` and `schedule`.
#[derive(Debug, clap::Args)]
pub(crate) struct PartArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Kafka's addresses, with commas between them.
    #[arg(long, value_name = "HOST:PORT")]
    brokers: Option<String>,
    /// The store: a folder, or s3://bucket/prefix.
    #[arg(long, value_name = "URL")]
    store: Option<String>,
}

impl PartArgs {
    /// The configuration. One file serves all parts: sections of other parts are not looked at, because what they name
    /// may be on other machines.
    pub(crate) fn load(&self) -> Settings {
        let mut settings = load(self.config.config.as_deref());
        settings.flag("kafka.brokers", self.brokers.as_ref());
        settings.flag("store.url", self.store.as_ref());
        settings
    }
}

/// A token that is cancelled when the process is asked to stop.
pub(crate) fn until_asked() -> CancellationToken {
    let shutdown = CancellationToken::new();
    tokio::spawn({
        let shutdown = shutdown.clone();
        async move {
            stop::asked().await;
            tracing::info!("asked to stop");
            shutdown.cancel();
        }
    });
    shutdown
}

pub(crate) async fn serve_health(
    address: SocketAddr,
    purpose: &'static str,
    shutdown: &CancellationToken,
) -> Result<Health, String> {
    let health = Health::default();
    let server = HttpServer::bind(address, purpose).await.map_err(|e| chain(&e))?;
    tracing::info!(address = %server.local_addr(), "health and metrics");
    tokio::spawn(server.serve(health.router(), shutdown.clone()));
    Ok(health)
}

/// Runs a collector.
pub(crate) fn collector(args: &PartArgs) -> Result<(), String> {
    let mut settings = args.load();
    let common = Common::read(&mut settings);
    let collector = CollectorSettings::read(&mut settings, &common.catalogue);
    settings.tolerate(&["agent", "query", "schedule", "alerts"]);
    finish(settings)?;
    common.logs.start();
    block_on(async move {
        let store = common.open_store()?;
        let shutdown = until_asked();
        let health = serve_health(collector.metrics_address, "metrics (collector.metrics_address)", &shutdown).await?;
        tracing::info!(store = store.name(), brokers = collector.kafka.brokers, "the collector begins");
        nodescope_collector::run(collector, store, health, shutdown).await.map_err(|e| chain(&e))
    })
}

/// Runs a query server.
pub(crate) fn query(args: &PartArgs) -> Result<(), String> {
    let mut settings = args.load();
    let common = Common::read(&mut settings);
    let query = QuerySettings::read(&mut settings);
    settings.tolerate(&["agent", "collector", "kafka", "schedule", "alerts"]);
    finish(settings)?;
    common.logs.start();
    block_on(async move {
        let store = common.open_store()?;
        let shutdown = until_asked();
        let health = serve_health(query.http_address, "metrics (query.http_address)", &shutdown).await?;
        let name = store.name().to_owned();
        let server = nodescope_query::server::open(query, store, &health).await.map_err(|e| chain(&e))?;
        say(&format!("the query server listens on {}", server.local_addr()));
        tracing::info!(store = name, "the query server begins");
        server.serve(shutdown).await;
        Ok(())
    })
}

/// The embedded broker alone: for a small site whose agents are on other machines than its collector, and for tests.
///
/// It knows neither users nor TLS: keep it on loopback or on a network of its own. Larger sites run Apache Kafka.
#[derive(Debug, clap::Args)]
pub(crate) struct BrokerArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Folder of its log.
    #[arg(long, value_name = "FOLDER")]
    data: PathBuf,
    /// Address to listen on.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:19092")]
    address: SocketAddr,
    /// The collector's store: no record gets an offset below where the store stands, even when a power cut has made the
    /// broker forget its last records.
    #[arg(long, value_name = "URL")]
    store: Option<Location>,
    /// Host name that clients are told to connect to; the address without it.
    #[arg(long, value_name = "NAME")]
    advertised_host: Option<String>,
}

/// Runs the embedded broker.
pub(crate) fn broker(args: &BrokerArgs) -> Result<(), String> {
    let mut settings = load(args.config.config.as_deref());
    // It answers one request at a time: more partitions would bring no speed.
    settings.preset("kafka.partitions", "1");
    let common = Common::read(&mut settings);
    let kafka = KafkaSettings::read(&mut settings);
    settings.tolerate(&["agent", "collector", "query", "schedule", "alerts"]);
    finish(settings)?;
    common.logs.start();
    let store = args.store.as_ref().map(|s| s.open(common.catalogue.clone())).transpose().map_err(|e| chain(&e))?;
    let mut options = BrokerOptions {
        address: args.address,
        advertised_host: args.advertised_host.clone(),
        data_dir: args.data.clone(),
        cluster_id: "nodescope".to_owned(),
        topics: vec![BrokerTopic {
            name: kafka.topic,
            partitions: kafka.partitions,
            retention: kafka.retention,
            next_offsets: Vec::new(),
        }],
    };
    block_on(async move {
        if let Some(store) = &store {
            for topic in &mut options.topics {
                topic.next_offsets = crate::up::positions(store, &topic.name).await?;
            }
        }
        let broker = EmbeddedBroker::start(options, until_asked()).await.map_err(|e| chain(&e))?;
        say(&format!("the broker listens on {}", broker.address()));
        broker.stopped().await.map_err(|e| chain(&e))
    })
}
