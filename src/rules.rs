//! `nodescope rules`: what to do with rules beside running them on the schedule.

use clap::Subcommand;

use crate::score::{self, ScoreArgs};

/// Looks at rules.
#[derive(Debug, clap::Args)]
pub(crate) struct RulesArgs {
    #[command(subcommand)]
    what: RulesCommand,
}

#[derive(Debug, Subcommand)]
enum RulesCommand {
    Score(ScoreArgs),
}

/// Runs the command.
pub(crate) fn main(args: &RulesArgs) -> Result<(), String> {
    match &args.what {
        RulesCommand::Score(args) => score::main(args),
    }
}
