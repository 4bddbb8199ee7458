//! Samples one server and sends the rows to Kafka.
//!
//! The way of a row, and the rooms in its order:
//!
//! 1. [`ticker`] says when; each probe has a thread, so that one that hangs costs only itself.
//! 2. [`probes`] and [`accelerators`] read the host, below a [`host_root`]; [`own_cost`] reads the agent.
//! 3. [`exposition`] shows the newest values to Prometheus.
//! 4. [`publisher`] encodes rows and gives each record its number, as the run that [`installation`] began.
//! 5. [`spool`] keeps records on disk until the broker has acknowledged them.
//!
//! **Invariants.** Nothing here links DataFusion, Delta or the embedded broker: an agent is installed on every server.
//! No driver, mount or broker that hangs holds up another probe. What was not read is NULL, never zero.

mod abi;
pub mod accelerators;
mod allocations;
pub mod attribution;
pub mod cli;
mod dbus;
mod executables;
pub mod exposition;
mod glob;
pub mod host_root;
pub mod installation;
mod journal;
mod kernel_log;
pub mod metrics;
mod netlink;
pub mod once;
pub mod own_cost;
pub mod probe;
pub mod probes;
pub mod publisher;
pub mod scrape;
pub mod settings;
mod sockets;
pub mod spool;
mod state_file;
pub mod ticker;

use std::sync::Arc;

use nodescope_model::catalogue::Catalogue;
use nodescope_service::http::Health;
use tokio_util::sync::CancellationToken;

pub use installation::{Installation, InstallationError};
pub use publisher::PublisherError;
pub use settings::AgentSettings;

use crate::exposition::Exposition;
use crate::metrics::AgentMetrics;
use crate::own_cost::OwnCost;
use crate::probe::Probe;
use crate::publisher::{Publisher, PublisherOptions};
use crate::ticker::{Place, ProbeFacts, Sink, Ticker, TickerError};

/// Why an agent does not start.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// Its folder.
    #[error(transparent)]
    Installation(#[from] InstallationError),
    /// Its way to Kafka.
    #[error(transparent)]
    Publisher(#[from] PublisherError),
    /// Its probes.
    #[error(transparent)]
    Ticker(#[from] TickerError),
}

/// Runs an agent until told to stop.
///
/// # Errors
/// When it cannot start. Once it runs, nothing ends it but being told.
pub async fn run(
    mut settings: AgentSettings,
    catalogue: Arc<Catalogue>,
    health: Health,
    shutdown: CancellationToken,
) -> Result<(), AgentError> {
    let installation = Installation::begin(&settings.data_dir, &settings.probes.root)?;
    // Only the agent that owns the folder remembers there: `--once` must not read past what it has still to report.
    settings.probes.login.state = Some(settings.data_dir.clone());
    settings.probes.config_change.state = Some(settings.data_dir.clone());
    tracing::info!(agent = installation.agent, boot = installation.boot, host = settings.host, "the agent begins");
    let metrics = health.register(AgentMetrics::register);
    let exposition = Arc::new(Exposition::new());
    health.add_metrics({
        let exposition = exposition.clone();
        Arc::new(move |text| exposition.render(text))
    });
    let options = PublisherOptions {
        kafka: settings.kafka.clone(),
        agent: installation.agent.clone(),
        boot: installation.boot,
        node: settings.node.clone(),
        host: settings.host.clone(),
        spool: settings.data_dir.join("spool"),
        limits: settings.spool,
        backlog_rate: settings.backlog_rate,
        backlog_jitter: settings.backlog_jitter,
    };
    let publisher = Arc::new(Publisher::start(options, &catalogue, &health, metrics, &CancellationToken::new())?);
    // Probes' threads may outlive the ticker for as long as their hosts' files make them wait.
    let sink: Sink = {
        let publisher = Arc::downgrade(&publisher);
        Arc::new(move |table, batch| {
            exposition.update(table, &batch);
            if let Some(publisher) = publisher.upgrade() {
                publisher.offer(table, batch);
            }
        })
    };
    let place = Place { node: settings.node, host: settings.host };
    let mut ticker = Ticker::new(settings.interval);
    let mut facts = Vec::new();
    let probes = probes::all(&settings.probes).into_iter().filter(|p| !settings.without.iter().any(|w| w == p.table()));
    for probe in probes {
        let of_probe = ProbeFacts::new(probe.table(), ticker.interval_of(&catalogue, probe.as_ref())?);
        facts.push(of_probe.clone());
        ticker.add(probe, of_probe, &catalogue, &place, &sink)?;
    }
    let own: Box<dyn Probe> = Box::new(OwnCost::new(facts, Some(publisher.shared_facts())));
    let of_own = ProbeFacts::new(own.table(), ticker.interval_of(&catalogue, own.as_ref())?);
    ticker.add(own, of_own, &catalogue, &place, &sink)?;
    ticker.run(shutdown).await;
    let ended = tokio::task::spawn_blocking(move || publisher.finish());
    if let Err(error) = ended.await {
        tracing::error!(%error, "the publisher ended badly");
    }
    Ok(())
}
