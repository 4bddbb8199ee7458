//! `nodescope up`: everything in one process, on loopback.
//!
//! It is the same code path as in a larger installation: the agent sends to a broker over a socket, the collector reads
//! from there, and SQL comes in by its port. Only the broker is embedded, and the store is a folder.

use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nodescope_query::server::postgres::PostgresServer;
use nodescope_service::http::{Health, HttpServer};
use nodescope_service::stop;
use nodescope_store::Store;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::broker::{BrokerOptions, BrokerTopic, EmbeddedBroker};
use crate::settings::{AllSettings, load};
use crate::{ConfigArgs, block_on, chain, say, schedule};

/// How often the status line is written anew.
const STATUS_EVERY: Duration = Duration::from_secs(1);

/// Runs everything on this machine: agent, broker, collector and query server, on loopback.
///
/// What it has seen is kept, and still there at the next start. Stop it with Ctrl-C.
#[derive(Debug, clap::Args)]
pub(crate) struct UpArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Folder of everything that is kept.
    #[arg(long, value_name = "FOLDER")]
    data: Option<PathBuf>,
    /// Address of the embedded broker.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:19092")]
    broker: SocketAddr,
    /// Address of the PostgreSQL protocol.
    #[arg(long, value_name = "ADDRESS")]
    postgres: Option<SocketAddr>,
    /// Address of health and metrics.
    #[arg(long, value_name = "ADDRESS")]
    http: Option<SocketAddr>,
    /// Address of the agent's Prometheus endpoint.
    #[arg(long, value_name = "ADDRESS")]
    metrics: Option<SocketAddr>,
    /// Also shows a fleet that does not exist: 24 hosts in three regions, with a past of 30 days. It is kept like
    /// everything else: use a folder of its own for it.
    #[arg(long, value_name = "SIZE", num_args = 0..=1, require_equals = true, default_missing_value = "small")]
    simulate: Option<Size>,
}

/// Size of the fleet that is simulated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Size {
    /// 12 hosts.
    Tiny,
    /// 24 hosts.
    Small,
    /// 96 hosts: the history takes a minute or two.
    Medium,
}

impl Size {
    /// Hosts of the fleet.
    pub(crate) fn hosts(self) -> usize {
        match self {
            Self::Tiny => 12,
            Self::Small => 24,
            Self::Medium => 96,
        }
    }
}

/// Runs the command.
pub(crate) fn main(args: &UpArgs) -> Result<(), String> {
    let data = args.data.clone().unwrap_or_else(default_folder);
    let mut settings = load(args.config.config.as_deref());
    settings.flag("query.postgres_address", args.postgres);
    settings.flag("query.http_address", args.http);
    settings.flag("agent.metrics_address", args.metrics);
    settings.flag("kafka.brokers", Some(args.broker));
    settings.flag("kafka.security", Some("plaintext"));
    // The embedded broker answers one request at a time: more partitions would bring more files, not more speed.
    settings.preset("kafka.partitions", "1");
    settings.preset("store.url", data.join("store").display());
    settings.preset("agent.data_dir", data.join("agent").display());
    settings.preset("log.filter", "warn");
    let mut settings = AllSettings::read(settings)?;
    settings.collector.kafka.replication = 1;
    settings.common.logs.start();
    std::fs::create_dir_all(&data)
        .map_err(|error| format!("cannot use {}: {error}; name another folder with --data", data.display()))?;
    block_on(run(settings, args.broker, data, args.simulate))
}

/// The platform's data folder: the user's own, or the system's for root.
pub(crate) fn default_folder() -> PathBuf {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if rustix::process::geteuid().is_root() {
        return PathBuf::from("/var/lib/nodescope");
    }
    set("XDG_DATA_HOME")
        .or_else(|| set("HOME").map(|home| home.join(".local/share")))
        .unwrap_or_else(std::env::temp_dir)
        .join("nodescope")
}

async fn run(
    mut settings: AllSettings,
    broker_address: SocketAddr,
    data: PathBuf,
    simulate: Option<Size>,
) -> Result<(), String> {
    if settings.schedule.enabled {
        // Those that are built in are right, which a test sees to; planning them all would hold up the start.
        let mut own = settings.schedule.rules.clone();
        own.retain(|rule| settings.schedule.own.contains(&rule.name));
        let catalogue = settings.common.catalogue.clone();
        schedule::examine(own, &settings.query, catalogue).await.map_err(|e| wrong_rules(&e))?;
    }
    let store = settings.common.open_store()?;
    let fleet = match simulate {
        Some(size) => Some(crate::simulate::kept(&data, &store, size.hosts()).await?),
        None => None,
    };
    let health = Health::default();
    let http = HttpServer::bind(settings.query.http_address, "health (--http)").await.map_err(|e| chain(&e))?;
    let metrics = match settings.agent.metrics_address {
        Some(address) => Some(HttpServer::bind(address, "metrics (--metrics)").await.map_err(|e| chain(&e))?),
        None => None,
    };
    let mut shown = Shown {
        data,
        http: http.local_addr(),
        metrics: metrics.as_ref().map(HttpServer::local_addr),
        postgres: settings.query.postgres.address,
        broker: broker_address,
        tables: settings.common.catalogue.tables().filter(|table| table.derived.is_none()).count(),
    };
    // Each part has a token of its own, so that they stop in the order of the flow and nothing is cut off.
    let [stop_broker, stop_doors] = [CancellationToken::new(), CancellationToken::new()];
    let broker = EmbeddedBroker::start(
        BrokerOptions {
            address: broker_address,
            advertised_host: None,
            data_dir: shown.data.join("broker"),
            cluster_id: "nodescope".to_owned(),
            topics: vec![BrokerTopic {
                name: settings.collector.kafka.topic.clone(),
                partitions: settings.collector.kafka.partitions,
                retention: settings.collector.kafka.retention,
                next_offsets: positions(&store, &settings.collector.kafka.topic).await?,
            }],
        },
        stop_broker.clone(),
    )
    .await
    .map_err(|e| chain(&e))?;
    shown.broker = broker.address();
    health.add_metrics(broker.metrics());
    for kafka in [&mut settings.agent.kafka, &mut settings.collector.kafka, &mut settings.alerts.kafka] {
        kafka.brokers = broker.address().to_string();
    }
    let engine = nodescope_query::server::engine(&settings.query, store.clone(), &health).map_err(|e| chain(&e))?;
    let server = PostgresServer::bind(engine.clone(), settings.query.postgres).await.map_err(|e| chain(&e))?;
    shown.postgres = server.local_addr();
    tokio::spawn(http.serve(health.router(), stop_doors.clone()));
    if let Some(metrics) = metrics {
        tokio::spawn(metrics.serve(health.router(), stop_doors.clone()));
    }
    let mut doors = tokio::spawn(server.serve(stop_doors.clone()));
    let (stop_collector, stop_agent) = (CancellationToken::new(), CancellationToken::new());
    let mut collector = tokio::spawn(nodescope_collector::run(
        settings.collector,
        store.clone(),
        health.clone(),
        stop_collector.clone(),
    ));
    let kafka = settings.agent.kafka.clone();
    let mut agent = tokio::spawn(nodescope_agent::run(
        settings.agent,
        nodescope_agent::Reload::never(),
        settings.common.catalogue,
        health.clone(),
        stop_agent.clone(),
    ));
    let stop_schedule = CancellationToken::new();
    let mut schedule = settings.schedule.enabled.then(|| {
        let (health, stop) = (health.clone(), stop_schedule.clone());
        tokio::spawn(async move { schedule::run(settings.schedule, &settings.alerts, engine, &health, stop).await })
    });
    let mut simulated = tokio::spawn({
        let stop = stop_agent.clone();
        async move {
            match fleet {
                Some((fleet, from)) => crate::simulate::play(&fleet, from, &store, &kafka, &stop).await,
                // Nobody is simulated, and that goes on until it is stopped.
                None => {
                    stop.cancelled().await;
                    Ok(())
                }
            }
        }
    });
    shown.screen();
    let status = tokio::spawn(status_line(shown.postgres, stop_agent.clone()));

    let mut broker_ended = std::pin::pin!(broker.stopped());
    let broken = tokio::select! {
        () = stop::asked() => None,
        ended = &mut broker_ended => return Err(format!("the embedded broker ended: {ended:?}")),
        ended = &mut agent => Some(ended_early("the agent", ended)),
        ended = &mut collector => Some(ended_early("the collector", ended)),
        ended = when_there(&mut schedule) => Some(ended_early("the schedule", ended)),
        ended = &mut simulated => Some(ended_early("the simulation", ended)),
        ended = &mut doors => Some(format!("the query server ended by itself: {ended:?}")),
    };
    // In the order of the flow: what has been sampled still reaches the broker, and what the broker has stays there.
    stop_agent.cancel();
    let _ = status.await;
    if broken.is_none() {
        say("\nstopping");
        finish("the agent", agent).await;
        finish("the simulation", simulated).await;
        stop_collector.cancel();
        finish("the collector", collector).await;
        stop_schedule.cancel();
        if let Some(schedule) = schedule {
            finish("the schedule", schedule).await;
        }
    }
    stop_doors.cancel();
    stop_broker.cancel();
    broker_ended.await.map_err(|e| chain(&e))?;
    broken.map_or(Ok(()), Err)
}

/// What is wrong with rules, as `up` and `check` tell it.
pub(crate) fn wrong_rules(what: &str) -> String {
    format!("the rules are not right:\n{what}")
}

fn ended_early<E: std::error::Error>(what: &str, ended: Result<Result<(), E>, tokio::task::JoinError>) -> String {
    match ended {
        Ok(Ok(())) => format!("{what} ended by itself"),
        Ok(Err(error)) => format!("{what} ended: {}", chain(&error)),
        Err(error) => format!("{what} died: {error}"),
    }
}

/// Waits for a task that may not have been started; then for ever.
async fn when_there<T>(task: &mut Option<JoinHandle<T>>) -> Result<T, tokio::task::JoinError> {
    match task {
        Some(task) => task.await,
        None => std::future::pending().await,
    }
}

async fn finish<E: std::error::Error>(what: &str, task: JoinHandle<Result<(), E>>) {
    match task.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::error!(error = chain(&error), "{what} ended with an error"),
        Err(error) => tracing::error!(%error, "{what} died"),
    }
}

/// Where the store stands, by partition: the broker must not give out offsets below.
pub(crate) async fn positions(store: &Store, topic: &str) -> Result<Vec<(i32, i64)>, String> {
    let mut positions = Vec::new();
    for partition in store.list_partitions().await.map_err(|e| chain(&e))?.into_keys().filter(|p| p.topic == topic) {
        let recovered = store.recover(&partition).await.map_err(|e| chain(&e))?;
        if let Some(next) = recovered.next.and_then(|next| i64::try_from(next).ok()) {
            positions.push((partition.partition, next));
        }
    }
    Ok(positions)
}

/// What the screen tells.
struct Shown {
    data: PathBuf,
    broker: SocketAddr,
    postgres: SocketAddr,
    http: SocketAddr,
    metrics: Option<SocketAddr>,
    tables: usize,
}

impl Shown {
    fn screen(&self) {
        let Self { broker, postgres, http, tables, .. } = self;
        let metrics = self.metrics.map_or_else(|| "off".to_owned(), |address| format!("http://{address}/metrics"));
        let program = std::env::args().next().unwrap_or_else(|| "nodescope".to_owned());
        let url = if postgres.port() == 15432 { String::new() } else { format!(" --server {postgres}") };
        say(&format!(
            "Nodescope {} samples this machine every second.\n\n\
             \x20 SQL        psql -h {} -p {} nodescope     {tables} tables; \\d lists them\n\
             \x20 Kafka      {broker}\n\
             \x20 Prometheus {metrics}\n\
             \x20 Health     http://{http}/readyz\n\
             \x20 Data       {}\n\n\
             Try, in another terminal:\n\n\
             \x20 {program} sql{url} \"select ts, load1, procs_running from system order by ts desc limit 5\"\n\n\
             Ctrl-C stops it; what it has seen is kept.\n",
            env!("CARGO_PKG_VERSION"),
            postgres.ip(),
            postgres.port(),
            show(&self.data),
        ));
    }
}

fn show(path: &Path) -> String {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).display().to_string()
}

/// One line that says, once a second, how fresh the newest row is: asked by the same door as everybody else's questions.
async fn status_line(postgres: SocketAddr, stop: CancellationToken) {
    if !std::io::stderr().is_terminal() {
        return;
    }
    let began = Instant::now();
    let ask = "select count(*), extract(epoch from now() - max(ts)) from memory where ts > now() - interval '1 minute'";
    let mut every = tokio::time::interval(STATUS_EVERY);
    let mut client = None;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = every.tick() => {}
        }
        if client.is_none() {
            client = crate::sql::connect(&postgres.to_string()).await.ok();
        }
        let Some(open) = &client else { continue };
        let line = match open.simple_query(ask).await {
            Ok(answer) => match crate::sql::first_row(&answer) {
                Some(row) => match row.get(1).and_then(|age| age.parse::<f64>().ok()) {
                    Some(age) => format!("up {} s · newest row {age:.1} s old", began.elapsed().as_secs()),
                    None => format!("up {} s · no rows yet", began.elapsed().as_secs()),
                },
                None => continue,
            },
            Err(error) => {
                client = None;
                format!("up {} s · {error}", began.elapsed().as_secs())
            }
        };
        let mut err = std::io::stderr().lock();
        // A terminal that is gone is no reason to stop.
        let _ = write!(err, "\r\x1b[K{line}");
        let _ = err.flush();
    }
}
