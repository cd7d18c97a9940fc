//! The balloon as a program, for a Linux whose kernel takes no module.
//!
//! It is the same driver core as the module's. Its hypercalls are messages on a serial line ([`line`]), its pages
//! are files of a hugetlbfs ([`pool`]), and its CPUs those of sysfs ([`cpus`]). At rest it sleeps in `poll` until
//! Ballast sends an event, or the kernel says that tasks wait for memory ([`pressure`]) or that there is none
//! ([`canary`]).
//!
//! It keeps nothing in itself: killed at any time, it finds everything again when it starts anew, by QUERY and from
//! the names of its files.

mod canary;
mod cpus;
mod front;
mod line;
mod memory;
mod pool;
mod pressure;
mod queue;
mod run;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

/// Give memory to the hypervisor and take it back as it asks
#[derive(Parser)]
#[command(name = "ballast-user-balloon", version)]
struct Arguments {
    /// The UART that `user-balloon;` gives the guest
    #[arg(long, value_name = "PATH", default_value = "/dev/ttyAMA1")]
    device: PathBuf,
    /// Where the memory is kept: a hugetlbfs with 2 MiB pages is mounted here if there is none
    #[arg(long, value_name = "DIR", default_value = "/run/ballast-balloon")]
    pool: PathBuf,
    /// Available memory that is left to this system, in MiB; a sixteenth of it, and at least 16, if not given
    #[arg(long, value_name = "MIB")]
    floor_mib: Option<u64>,
    /// Take back all that the hypervisor grants, and leave
    #[arg(long)]
    drain: bool,
    /// What the program starts itself as, to learn when memory has run out
    #[arg(hide = true, value_parser = [canary::ARGUMENT])]
    role: Option<String>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = if arguments.role.is_some() {
        canary::sing()
    } else {
        run::run(&arguments)
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ballast-user-balloon: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_arguments_make_sense() {
        Arguments::command().debug_assert();
    }
}
