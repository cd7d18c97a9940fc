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

use commands::Stream;
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
    /// Set how many cores a guest shall have
    Cpus {
        /// Number or name
        guest: String,
        /// Cores
        cpus: u32,
        /// Wait until the guest runs on them
        #[arg(long)]
        wait: bool,
        /// Seconds to wait at most
        #[arg(long, default_value_t = 60, requires = "wait")]
        timeout: u64,
    },
    /// Move memory and cores from guest to guest, all of it or nothing
    Move {
        /// Number or name of the guest that gives
        from: String,
        /// Number or name of the guest that gets
        to: String,
        /// MiB of memory, perhaps 0
        mib: u64,
        /// Cores
        #[arg(default_value_t = 0)]
        cpus: u32,
        /// Seconds after which it is done or undone
        #[arg(long, default_value_t = 30)]
        within: u32,
        /// Wait until it is
        #[arg(long)]
        wait: bool,
    },
    /// Set who decides what guests have: manual, auto, or external (a control guest)
    Policy {
        /// manual, auto or external
        mode: String,
    },
    /// What is on its way and the last moves, one line each
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
    Log {
        /// And what happens from now on, as it happens
        #[arg(long)]
        follow: bool,
    },
    /// Each transfer of memory with the times of its phases, as they end
    Events {
        /// Begin with those of the past that are still known
        #[arg(long)]
        all: bool,
        /// Transfers after which it ends
        #[arg(long)]
        count: Option<u64>,
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
        Command::Log { follow: false } => say("log"),
        Command::Log { follow: true } => {
            commands::follow(&mut control, Stream::LOG, true, None, json)
        }
        Command::Cpus {
            guest,
            cpus,
            wait,
            timeout,
        } => {
            let done = say(&format!("cpus {guest} {cpus}"))?;
            if done && *wait {
                commands::wait_for_cpus(&mut control, guest, *cpus, *timeout, json)
            } else {
                Ok(done)
            }
        }
        Command::Move {
            from,
            to,
            mib,
            cpus,
            within,
            wait,
        } => {
            let line = format!("move {from} {to} {mib} {cpus} {within}");
            if *wait {
                commands::see_through(&mut control, &line, *within, json)
            } else {
                say(&line)
            }
        }
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
        Command::Events { all, count } => {
            commands::follow(&mut control, Stream::EVENTS, *all, *count, json)
        }
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
