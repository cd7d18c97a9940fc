//! `ballastctl`: the monitor's commands from inside a Linux guest that has the right to them.
//!
//! The words are the monitor's and so are the answers: lines of `key=value`, or JSON of the same. It needs the
//! balloon module, which makes `/dev/ballast-control`, and no right but to open that.

mod commands;
mod control;
mod record;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

use control::Control;

/// Ask the hypervisor what it does, and tell it what to do.
#[derive(Parser)]
#[command(name = "ballastctl", version)]
struct Arguments {
    /// Answer in JSON: one object a line, numbers as numbers
    #[arg(long, global = true)]
    json: bool,
    /// The device of the balloon module
    #[arg(
        long,
        global = true,
        value_name = "PATH",
        default_value = "/dev/ballast-control"
    )]
    device: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// The host and every guest, one line each
    Status,
    /// Set how much memory a guest shall have
    Mem {
        /// Number or name
        guest: String,
        /// MiB
        mib: u64,
        /// Wait until the guest has it
        #[arg(long)]
        wait: bool,
        /// Seconds to wait at most
        #[arg(long, default_value_t = 60, requires = "wait")]
        timeout: u64,
    },
    /// Set who decides what guests have: manual, auto, or external (a control guest)
    Policy {
        /// manual, auto or external
        mode: String,
    },
    /// Moves under way, one line each
    Transfers,
    /// Start a stopped guest
    Start {
        /// Number or name
        guest: String,
    },
    /// Stop a guest at once
    Stop {
        /// Number or name
        guest: String,
    },
    /// Start a guest anew with pristine images
    Reset {
        /// Number or name
        guest: String,
    },
    /// Exits, interrupts, transfers and console of a guest
    Stats {
        /// Number or name
        guest: String,
    },
    /// What happened since the board started
    Log,
    /// What happens, as it happens
    Events {
        /// Begin with what is still known of the past
        #[arg(long)]
        all: bool,
    },
    /// The guests' memory as it moves; ends with Ctrl-C
    Top {
        /// Seconds between two looks
        #[arg(long, default_value_t = 1.0, value_name = "SECONDS")]
        interval: f64,
        /// Looks before it ends
        #[arg(long)]
        count: Option<u64>,
    },
    /// Completion for a shell, to be sourced
    Completion {
        /// Which shell
        shell: Shell,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("ballastctl: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Whether the hypervisor did what it was asked.
fn run(arguments: &Arguments) -> Result<bool> {
    if let Command::Completion { shell } = &arguments.command {
        let mut command = Arguments::command();
        clap_complete::generate(*shell, &mut command, "ballastctl", &mut std::io::stdout());
        return Ok(true);
    }
    let mut control = Control::open(&arguments.device)?;
    let json = arguments.json;
    let mut say = |line: &str| commands::say(&mut control, line, json);
    match &arguments.command {
        Command::Status => say("status"),
        Command::Policy { mode } => say(&format!("policy {mode}")),
        Command::Transfers => say("transfers"),
        Command::Start { guest } => say(&format!("start {guest}")),
        Command::Stop { guest } => say(&format!("stop {guest}")),
        Command::Reset { guest } => say(&format!("reset {guest}")),
        Command::Stats { guest } => say(&format!("stats {guest}")),
        Command::Log => say("log"),
        Command::Mem {
            guest,
            mib,
            wait,
            timeout,
        } => {
            let done = say(&format!("mem {guest} {mib}"))?;
            if done && *wait {
                commands::wait_for_memory(&mut control, guest, *mib, *timeout, json)
            } else {
                Ok(done)
            }
        }
        Command::Events { all } => commands::follow(&mut control, *all, json),
        Command::Top { interval, count } => commands::top(&mut control, *interval, *count),
        Command::Completion { .. } => Ok(true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_make_sense() {
        Arguments::command().debug_assert();
    }
}
