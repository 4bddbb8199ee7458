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
pub mod check;
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
pub mod pace;
pub mod privileges;
pub mod probe;
pub mod probes;
pub mod publisher;
pub mod reload;
pub mod scrape;
pub mod settings;
mod sockets;
pub mod spool;
mod state_file;
pub mod ticker;

use std::sync::Arc;

use nodescope_model::catalogue::Catalogue;
use nodescope_service::http::Health;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

pub use installation::{Installation, InstallationError};
pub use publisher::PublisherError;
pub use reload::Reload;
pub use settings::AgentSettings;

use crate::exposition::Exposition;
use crate::metrics::AgentMetrics;
use crate::own_cost::OwnCost;
use crate::pace::{Governor, Pace};
use crate::probe::Probe;
use crate::publisher::{Publisher, PublisherOptions};
use crate::reload::ReloadFacts;
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

/// Runs an agent until told to stop, with other settings whenever `reload` has some.
///
/// # Errors
/// When it cannot start. Once it runs, nothing ends it but being told.
pub async fn run(
    settings: AgentSettings,
    mut reload: Reload,
    catalogue: Arc<Catalogue>,
    health: Health,
    shutdown: CancellationToken,
) -> Result<(), AgentError> {
    let installation = Installation::begin(&settings.data_dir, &settings.probes.root)?;
    tracing::info!(agent = installation.agent, boot = installation.boot, host = settings.host, "the agent begins");
    let exposition = Arc::new(Exposition::new());
    health.add_metrics({
        let exposition = exposition.clone();
        Arc::new(move |text| {
            exposition.render(text);
            exposition::render_time(text);
        })
    });
    let metrics = health.register(AgentMetrics::register);
    let mut agent = Agent { installation, catalogue, health, metrics, exposition, reload: reload.facts() };
    let mut settings = settings;
    let mut running = Running::begin(&agent, &settings)?;
    loop {
        let mut new = tokio::select! {
            () = shutdown.cancelled() => break,
            new = reload.next() => new,
        };
        if new.data_dir != settings.data_dir || new.metrics_address != settings.metrics_address {
            tracing::warn!("agent.data_dir and agent.metrics_address change with the next start");
            (new.data_dir, new.metrics_address) = (settings.data_dir.clone(), settings.metrics_address);
            // It lies below the former.
            new.probes.allocation.state.clone_from(&settings.probes.allocation.state);
        }
        running.end().await;
        agent.begin_again(&settings);
        running = match Running::begin(&agent, &new) {
            Ok(running) => {
                settings = new;
                reload.in_force();
                running
            }
            Err(error) => {
                reload.refused(&nodescope_service::errors::chain(&error));
                // The one that failed may have given numbers to records.
                agent.begin_again(&settings);
                Running::begin(&agent, &settings)?
            }
        };
    }
    running.end().await;
    Ok(())
}

/// What stays the same while settings change.
struct Agent {
    installation: Installation,
    catalogue: Arc<Catalogue>,
    health: Health,
    metrics: AgentMetrics,
    exposition: Arc<Exposition>,
    reload: Arc<Mutex<ReloadFacts>>,
}

impl Agent {
    /// Records of the next run are numbered anew: it is another boot of the same installation.
    fn begin_again(&mut self, settings: &AgentSettings) {
        if let Err(error) = self.installation.begin_again(&settings.data_dir) {
            tracing::error!(error = nodescope_service::errors::chain(&error), "the next run's number cannot be kept");
        }
    }
}

/// Probes and a publisher at work.
struct Running {
    publisher: Arc<Publisher>,
    ticking: tokio::task::JoinHandle<()>,
    stop: CancellationToken,
}

impl Running {
    fn begin(agent: &Agent, settings: &AgentSettings) -> Result<Self, AgentError> {
        let options = PublisherOptions {
            kafka: settings.kafka.clone(),
            agent: agent.installation.agent.clone(),
            boot: agent.installation.boot,
            node: settings.node.clone(),
            host: settings.host.clone(),
            spool: settings.data_dir.join("spool"),
            limits: settings.spool,
            backlog_rate: settings.backlog_rate,
            backlog_jitter: settings.backlog_jitter,
        };
        let stop = CancellationToken::new();
        let publisher = Arc::new(Publisher::start(
            options,
            &agent.catalogue,
            &agent.health,
            agent.metrics.clone(),
            &CancellationToken::new(),
        )?);
        let ticker = Self::ticker(agent, settings, &publisher).inspect_err(|_| {
            // Two of them must never be at work on one spool.
            publisher.finish();
        })?;
        let ticking = tokio::spawn(ticker.run(stop.clone()));
        Ok(Self { publisher, ticking, stop })
    }

    /// All probes, with what they sample on its way to the publisher.
    fn ticker(agent: &Agent, settings: &AgentSettings, publisher: &Arc<Publisher>) -> Result<Ticker, TickerError> {
        // Probes' threads may outlive the ticker for as long as their hosts' files make them wait.
        let sink: Sink = {
            let publisher = Arc::downgrade(publisher);
            let exposition = agent.exposition.clone();
            // A probe may fill further tables beside its own.
            let without = settings.without.clone();
            Arc::new(move |table, batch| {
                if without.contains(&table.name) {
                    return;
                }
                if let Some(publisher) = publisher.upgrade() {
                    exposition.update(table, &batch);
                    publisher.offer(table, &batch);
                }
            })
        };
        let place = Place { node: settings.node.clone(), host: settings.host.clone() };
        let pace = Pace::default();
        let mut ticker = Ticker::new(settings.interval, pace.clone());
        let mut facts = Vec::new();
        // Only the agent that owns the folder remembers there: `--once` must not read past what it has still to report.
        let mut options = settings.probes.clone();
        options.login.state = Some(settings.data_dir.clone());
        options.config_change.state = Some(settings.data_dir.clone());
        for probe in probes::all(&options) {
            if settings.without.iter().any(|without| without == probe.table()) {
                continue;
            }
            let of_probe = ProbeFacts::new(probe.table(), ticker.interval_of(&agent.catalogue, probe.as_ref())?);
            facts.push(of_probe.clone());
            ticker.add(probe, of_probe, &agent.catalogue, &place, &sink)?;
        }
        let own: Box<dyn Probe> = Box::new(OwnCost::new(
            facts,
            Some(publisher.shared_facts()),
            Governor::new(settings.cpu_budget, pace),
            agent.reload.clone(),
        ));
        let of_own = ProbeFacts::new(own.table(), ticker.interval_of(&agent.catalogue, own.as_ref())?);
        ticker.add(own, of_own, &agent.catalogue, &place, &sink)?;
        Ok(ticker)
    }

    /// Ends the probes, and the publisher with what it has.
    async fn end(self) {
        self.stop.cancel();
        let publisher = self.publisher;
        if let Err(error) = self.ticking.await {
            tracing::error!(%error, "the ticker ended badly");
        }
        if let Err(error) = tokio::task::spawn_blocking(move || publisher.finish()).await {
            tracing::error!(%error, "the publisher ended badly");
        }
    }
}
