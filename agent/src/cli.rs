//! The command line of the agent, the same for `nodescope-agent` and `nodescope agent`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use nodescope_model::catalogue::Catalogue;
use nodescope_service::errors::chain;
use nodescope_service::http::{Health, HttpServer};
use nodescope_service::logs::LogSettings;
use nodescope_service::settings::{Settings, SettingsErrors};
use tokio_util::sync::CancellationToken;

use crate::accelerators::worker::{self, WorkerArgs};
use crate::check::check;
use crate::once::{OnceFormat, once};
use crate::reload::Reload;
use crate::settings::AgentSettings;

/// Samples this machine and sends the rows to Kafka.
///
/// Everything can be set in a file (--config), in the environment (NODESCOPE_AGENT_HOST for agent.host) or, the most
/// common things, here. `--once` shows what would be sent, and needs no broker.
#[derive(Debug, Clone, clap::Args)]
pub struct AgentArgs {
    /// Configuration file (TOML).
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Kafka's addresses, with commas between them.
    #[arg(long, global = true, value_name = "HOST:PORT")]
    pub brokers: Option<String>,
    /// Folder of the agent's identity and spool.
    #[arg(long, global = true, value_name = "FOLDER")]
    pub data: Option<PathBuf>,
    /// Where the host's file system is, for agents in a container.
    #[arg(long, global = true, value_name = "FOLDER")]
    pub root: Option<PathBuf>,
    /// Name of this host in every row.
    #[arg(long, global = true, value_name = "NAME")]
    pub host: Option<String>,
    /// Identification code of the platform node this machine belongs to.
    #[arg(long, global = true, value_name = "CODE")]
    pub node: Option<String>,
    /// Address of the Prometheus endpoint.
    #[arg(long, value_name = "ADDRESS")]
    pub metrics: Option<SocketAddr>,
    /// Sample once, print it, and end.
    #[arg(long)]
    pub once: bool,
    /// How --once prints.
    #[arg(long, value_enum, default_value = "table", requires = "once")]
    pub format: OnceFormat,
    #[command(subcommand)]
    what: Option<What>,
}

/// What else the agent's program does.
#[derive(Debug, Clone, clap::Subcommand)]
enum What {
    /// Tell what can be read on this machine, what cannot, and why; and try spool and broker.
    Check,
    /// The process in which a vendor's library runs. The agent starts it.
    #[command(hide = true)]
    AcceleratorWorker(WorkerArgs),
}

/// Runs what the arguments ask for.
pub fn main(args: &AgentArgs) -> ExitCode {
    match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            complain(&message);
            ExitCode::FAILURE
        }
    }
}

#[allow(clippy::print_stderr, reason = "the last word of a program that cannot start")]
fn complain(message: &str) {
    eprintln!("{message}");
}

fn run(args: &AgentArgs) -> Result<(), String> {
    if let Some(What::AcceleratorWorker(args)) = &args.what {
        crate::abi::memory::take_little();
        return worker::main(args).map_err(|error| format!("the agent cannot be answered: {error}"));
    }
    let catalogue = Arc::new(Catalogue::sampled());
    let (agent, logs) =
        read(args, &catalogue).map_err(|errors| format!("the configuration is not right:\n{errors}"))?;
    if matches!(args.what, Some(What::Check)) {
        return match check(&agent, &catalogue, &mut std::io::stdout().lock()) {
            Ok(true) => Ok(()),
            Ok(false) => Err("as it is set up here, the agent would not do its work".to_owned()),
            Err(error) => Err(error.to_string()),
        };
    }
    if args.once {
        return once(&agent, &catalogue, args.format, &mut std::io::stdout().lock()).map_err(|e| e.to_string());
    }
    logs.start();
    crate::abi::memory::take_little();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("the runtime cannot start: {error}"))?;
    runtime.block_on(serve(agent, args.clone(), catalogue))
}

/// The settings, as file, environment and command line say now.
fn read(args: &AgentArgs, catalogue: &Catalogue) -> Result<(AgentSettings, LogSettings), SettingsErrors> {
    let mut settings = Settings::load(args.config.as_deref(), std::env::vars());
    settings.flag("kafka.brokers", args.brokers.as_ref());
    settings.flag("agent.data_dir", args.data.as_ref().map(|p| p.display()));
    settings.flag("agent.root", args.root.as_ref().map(|p| p.display()));
    settings.flag("agent.host", args.host.as_ref());
    settings.flag("node.id", args.node.as_ref());
    settings.flag("agent.metrics_address", args.metrics);
    let logs = LogSettings::read(&mut settings);
    let agent = AgentSettings::read(&mut settings, catalogue);
    settings.tolerate(&["store", "collector", "query"]);
    settings.finish().map(|()| (agent, logs))
}

async fn serve(agent: AgentSettings, args: AgentArgs, catalogue: Arc<Catalogue>) -> Result<(), String> {
    let health = Health::default();
    let shutdown = CancellationToken::new();
    if let Some(address) = agent.metrics_address {
        let server = HttpServer::bind(address, "metrics (agent.metrics_address)").await.map_err(|e| chain(&e))?;
        tracing::info!(address = %server.local_addr(), "the Prometheus endpoint answers");
        tokio::spawn(server.serve(health.router(), shutdown.clone()));
    }
    tokio::spawn({
        let shutdown = shutdown.clone();
        async move {
            nodescope_service::stop::asked().await;
            shutdown.cancel();
        }
    });
    let reload = Reload::from(args.config.clone(), {
        let catalogue = catalogue.clone();
        Box::new(move || read(&args, &catalogue).map(|(agent, _)| agent).map_err(|errors| errors.to_string()))
    });
    crate::run(agent, reload, catalogue, health, shutdown).await.map_err(|e| chain(&e))
}
