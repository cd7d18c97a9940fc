//! `cargo xtask`: the one tool of the project's host side.
//!
//! It sets up a machine, builds what runs on the board, and runs, demonstrates, tests and measures it in QEMU.
//! Every command does its own missing set-up first.

mod archive;
mod artefacts;
mod bench;
mod check;
mod console;
mod demo;
mod example;
mod experiment;
mod initramfs;
mod modules;
mod paths;
mod plot;
mod process;
mod qemu;
mod rpi4;
mod run;
mod setup;
mod simulate;
mod status;
mod suite;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::setup::{Consent, Need};

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    about = "Sets up, builds, runs and tests Ballast"
)]
struct Cli {
    /// Install missing host packages without asking (CI=true means the same)
    #[arg(long, global = true)]
    yes: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install what the other commands need: Rust targets, host packages, Debian's arm64 kernel
    Setup(setup::Args),
    /// Build the hypervisor's image and the bare-metal guest's
    Build {
        /// Also lay out Debian's kernel and a busybox initramfs as guest images
        #[arg(long)]
        linux: bool,
        /// The same with Debian's kernel of 16 KiB pages
        #[arg(long)]
        linux_16k: bool,
    },
    /// Build the balloon module for Linux
    Module {
        /// Kernel build tree (default: Debian's arm64 headers from the cache)
        #[arg(long, value_name = "DIR")]
        kdir: Option<PathBuf>,
    },
    /// Boot guests on a board in QEMU, with the console on this terminal
    Run(run::Args),
    /// Make an SD-card image
    Image(rpi4::image::Args),
    /// Add Ballast to a Raspberry Pi OS card, or take it off again
    Install(rpi4::install::Args),
    /// Judge partitions on this machine as they would be at boot
    Check(check::Args),
    /// Move memory between two running Linux guests, and show it
    Demo(demo::Args),
    /// Measure what Ballast costs, in instructions
    Bench(bench::Args),
    /// Run the resource scheduler against simulated guests, and plot what it does
    Simulate(simulate::Args),
    /// Run loads from a file on a board in QEMU, in several ways, and compare
    Experiment(experiment::Args),
    /// Run every test: on the host, then in QEMU
    Test(suite::Args),
}

fn main() -> ExitCode {
    match dispatch(Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(cli: Cli) -> Result<ExitCode> {
    let consent = Consent::new(cli.yes);
    match cli.command {
        Command::Setup(args) => setup::run(&args, consent)?,
        Command::Build { linux, linux_16k } => {
            setup::ensure(&[Need::BareMetalTarget], consent)?;
            let mut made = vec![artefacts::hypervisor()?, artefacts::bare_metal_guest()?];
            if linux {
                let guest = artefacts::linux_guest(consent)?;
                made.extend([guest.kernel, guest.initrd]);
            }
            if linux_16k {
                let guest = artefacts::linux_16k_guest(consent)?;
                made.extend([guest.kernel, guest.initrd]);
            }
            for path in made {
                println!("{}", path.display());
            }
        }
        Command::Module { kdir } => {
            println!("{}", artefacts::module(kdir.as_deref(), consent)?.display());
        }
        Command::Run(args) => return run::run(&args, consent),
        Command::Image(args) => return rpi4::image::run(&args, consent),
        Command::Install(args) => return rpi4::install::run(&args, consent),
        Command::Check(args) => return check::run(&args, consent),
        Command::Demo(args) => return demo::run(&args, consent),
        Command::Bench(args) => return bench::run(&args, consent),
        Command::Simulate(args) => simulate::run(&args)?,
        Command::Experiment(args) => experiment::run(&args, consent)?,
        Command::Test(args) => return suite::run(&args, consent),
    }
    Ok(ExitCode::SUCCESS)
}
