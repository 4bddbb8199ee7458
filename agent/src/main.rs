//! `nodescope-agent`: the agent alone, small, because it is installed on every server.

use std::process::ExitCode;

use clap::Parser;
use nodescope_agent::cli::{self, AgentArgs};

#[derive(Debug, Parser)]
#[command(name = "nodescope-agent", version)]
struct Command {
    #[command(flatten)]
    args: AgentArgs,
}

fn main() -> ExitCode {
    cli::main(&Command::parse().args)
}
