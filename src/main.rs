//! `nodescope`: the one command a person types. It wires agent, broker, collector and query together, and holds no
//! logic of its own beyond that.
//!
//! - [`up`]: everything in one process, on loopback, with the embedded [`broker`].
//! - [`parts`]: the same parts one by one, as a larger installation runs them.
//! - [`registry`]: what things are.
//! - [`schedule`]: rules, on a schedule; [`rules`]: which there are, and how good they are.
//! - [`sql`], [`check`], [`bench`]: asking, examining, measuring.
//! - [`simulate`]: a fleet to try it on.

mod bench;
mod broker;
mod check;
mod parts;
mod registry;
mod rules;
mod schedule;
mod score;
mod settings;
mod simulate;
mod sql;
mod up;

use std::io::{ErrorKind, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use nodescope_agent::cli::AgentArgs;
use nodescope_service::errors::chain;

/// Telemetry of computing-power nodes: from every server to SQL, each row once.
///
/// Begin with `nodescope up`: it samples this machine, keeps what it sees, and answers SQL about it within seconds.
/// Then ask: `nodescope sql "select * from memory order by ts desc limit 5"`, or with psql on port 15432.
#[derive(Debug, Parser)]
#[command(name = "nodescope", version, propagate_version = true)]
struct Command {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    Up(up::UpArgs),
    Agent(AgentArgs),
    /// Reads Kafka, and writes every record into the store, once.
    Collector(parts::PartArgs),
    /// Answers SQL over the store, by the PostgreSQL protocol.
    Query(parts::PartArgs),
    /// Runs rules (rollups, detections, reports) over the store, each window of time once.
    Schedule(parts::PartArgs),
    Broker(parts::BrokerArgs),
    Rules(rules::RulesArgs),
    Sql(sql::SqlArgs),
    Registry(registry::RegistryArgs),
    Check(check::CheckArgs),
    Simulate(simulate::SimulateArgs),
    Bench(bench::BenchArgs),
}

/// What all commands that read a configuration have in common.
#[derive(Debug, Clone, clap::Args)]
struct ConfigArgs {
    /// Configuration file (TOML). Every setting can also be given as a variable: NODESCOPE_KAFKA_BROKERS for
    /// kafka.brokers.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

fn main() -> ExitCode {
    let result = match Command::parse().what {
        What::Agent(args) => return nodescope_agent::cli::main(&args),
        What::Up(args) => up::main(&args),
        What::Collector(args) => parts::collector(&args),
        What::Query(args) => parts::query(&args),
        What::Schedule(args) => schedule::main(&args),
        What::Broker(args) => parts::broker(&args),
        What::Rules(args) => rules::main(&args),
        What::Sql(args) => sql::main(&args),
        What::Registry(args) => registry::main(&args),
        What::Check(args) => check::main(&args),
        What::Simulate(args) => simulate::main(&args),
        What::Bench(args) => bench::main(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            complain(&message);
            ExitCode::FAILURE
        }
    }
}

#[allow(clippy::print_stderr, reason = "the last word of a program that failed")]
fn complain(message: &str) {
    eprintln!("{message}");
}

/// Writes a line for the person who typed the command. Ends the program when it cannot be written: who read it is gone,
/// as `head` is after its lines.
fn say(line: &str) {
    if let Err(error) = writeln!(std::io::stdout().lock(), "{line}") {
        if error.kind() != ErrorKind::BrokenPipe {
            complain(&format!("nothing can be written: {error}"));
        }
        std::process::exit(1);
    }
}

/// Runs a future on a runtime with all threads.
fn block_on<T>(future: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("the runtime cannot start: {error}"))?
        .block_on(future)
}
