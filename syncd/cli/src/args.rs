//! What may be typed. The doc comments are the help; `docs/user/cli.md` and the man pages are made from them.

use clap::{Parser, Subcommand};

use crate::command::{
    completions, conflicts, device, doctor, held, history, init, join, log, man, pause, relay, restore, rules,
    settings, status, wait, why,
};

/// Keep a person's home folder and desktop settings the same on all of their machines.
///
/// Every command talks to `syncd`, the daemon of this machine. Exit codes: 0 done, 1 could not be done, 2 wrong usage,
/// 3 the daemon is not running, 4 timed out, 70 a bug.
#[derive(Debug, Parser)]
#[command(name = "hearth", version, propagate_version = false, disable_help_subcommand = true)]
pub(crate) struct Arguments {
    /// Print the result as JSON, and ask nothing
    #[arg(long, global = true)]
    pub json: bool,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Init(init::Init),
    Join(join::Join),
    #[command(subcommand)]
    Device(device::Device),
    Status(status::Status),
    #[command(subcommand)]
    Relay(relay::Relay),
    Wait(wait::Wait),
    Pause(pause::Pause),
    Resume(pause::Resume),
    Log(log::Log),
    Why(why::Why),
    #[command(subcommand)]
    Rules(rules::Rules),
    History(history::History),
    Restore(restore::Restore),
    Conflicts(conflicts::Conflicts),
    Held(held::Held),
    #[command(subcommand)]
    Settings(settings::Settings),
    Doctor(doctor::Doctor),
    Completions(completions::Completions),
    Man(man::Man),
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_arguments_are_well_formed() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn json_may_stand_anywhere() {
        for line in ["--json device list", "device --json list", "device list --json"] {
            let arguments = Arguments::try_parse_from(["hearth"].into_iter().chain(line.split(' '))).expect("valid");
            assert!(arguments.json, "{line}");
        }
    }
}
