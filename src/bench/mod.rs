//! `nodescope bench`: what this machine can do, beside what it could do at best.
//!
//! [`measure`] drives the real parts (the agent's encoding, Kafka's client library, a broker, the collector, the query
//! server) with [`hosts`] that are simulated, and prints figures with the rate of a bare consumer beside them, which
//! does nothing but read. [`source`] sends known rows, for tests that kill.

mod hosts;
mod measure;
mod source;

use std::path::PathBuf;
use std::time::Duration;

use nodescope_service::settings::parse_duration;

use crate::ConfigArgs;

/// Measures the whole way of a row with simulated hosts.
///
/// Without --brokers it starts an embedded broker; data goes to a temporary folder that is deleted at the end. Run a
/// release build, and nothing beside it.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    what: Option<What>,
    #[command(flatten)]
    options: BenchOptions,
}

/// What is measured, and on what.
#[derive(Debug, Clone, clap::Args)]
struct BenchOptions {
    #[command(flatten)]
    config: ConfigArgs,
    /// Simulated hosts.
    #[arg(long, value_name = "N", default_value = "50")]
    hosts: usize,
    /// Length of the live part, in which every host is sampled once a second.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse_duration)]
    live: Duration,
    /// Ticks of every host in the other parts, which go as fast as they can.
    #[arg(long, value_name = "N", default_value = "60")]
    ticks: usize,
    /// Kafka's addresses, in place of an embedded broker. The topic is made anew under a name of its own.
    #[arg(long, value_name = "HOST:PORT")]
    brokers: Option<String>,
    /// Folder for the store and the embedded broker, in place of a temporary one.
    #[arg(long, value_name = "FOLDER")]
    data: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Sends rows that are known beforehand, through an agent's spool, until it is killed.
    #[command(hide = true)]
    Source(source::SourceArgs),
}

/// Runs the command.
pub(crate) fn main(args: &BenchArgs) -> Result<(), String> {
    match &args.what {
        Some(What::Source(args)) => source::main(args),
        None => measure::main(&args.options),
    }
}
