//! `cargo xtask run`: boots partitions on a board in QEMU, with the console on this terminal.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::ValueEnum;

use crate::archive::{self, Image};
use crate::artefacts;
use crate::check;
use crate::paths;
use crate::qemu::{self, Board, Boot, Serial};
use crate::setup::{self, Consent, Need};

/// Boards that QEMU can be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum BoardName {
    /// QEMU's `virt` machine.
    QemuVirt,
}

/// The board and what is on it, as `run` and `check` take it.
#[derive(clap::Args)]
pub struct BoardArgs {
    /// The board
    #[arg(long, value_enum, default_value = "qemu-virt")]
    pub board: BoardName,
    /// GIC architecture version
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(2..=3))]
    pub gic: u8,
    /// Physical cores
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=8))]
    pub cores: u8,
    /// RAM of the board in MiB
    #[arg(long, default_value_t = 2048, value_name = "MIB")]
    pub ram: u32,
    /// A guest image in the boot archive, under the name that the partitions use (repeat for each)
    #[arg(long = "image", value_name = "NAME=PATH")]
    pub images: Vec<Image>,
}

impl BoardArgs {
    /// The board with further QEMU arguments.
    pub fn board(&self, extra: Vec<String>) -> Board {
        let BoardName::QemuVirt = self.board;
        Board {
            gic: self.gic,
            cores: self.cores,
            ram_mib: self.ram,
            extra,
        }
    }
}

/// Arguments of `cargo xtask run`.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    board: BoardArgs,
    /// The partitions: a device-tree overlay, as source or compiled
    #[arg(long, value_name = "FILE")]
    partitions: PathBuf,
    /// Show the complete QEMU command and do not run it
    #[arg(long)]
    print: bool,
    /// Boot even what the check refuses
    #[arg(long)]
    no_check: bool,
    /// Further arguments for QEMU, which win over the defaults
    #[arg(last = true, value_name = "QEMU ARGS")]
    extra: Vec<String>,
}

/// Everything that a run needs, in files below `dir`.
pub fn prepare(
    board: &Board,
    partitions: &Path,
    images: &[Image],
    hypervisor: PathBuf,
    dir: &Path,
) -> Result<Boot> {
    fs::create_dir_all(dir).with_context(|| format!("cannot make the folder {}", dir.display()))?;
    let dtb = qemu::board_with_partitions(board, partitions, dir)?;
    let initrd = dir.join("boot.cpio");
    paths::write(&initrd, archive::boot_archive(images)?)?;
    Ok(Boot {
        kernel: hypervisor,
        dtb,
        initrd,
    })
}

/// `cargo xtask run`.
pub fn run(args: &Args, consent: Consent) -> Result<ExitCode> {
    setup::ensure(
        &[Need::BareMetalTarget, Need::Qemu, Need::DeviceTree],
        consent,
    )?;
    let hypervisor = artefacts::hypervisor()?;
    let images = &args.board.images;
    let board = args.board.board(args.extra.clone());
    let boot = prepare(
        &board,
        &args.partitions,
        images,
        hypervisor,
        &paths::made("ballast/run")?,
    )?;
    if !args.no_check {
        check::demand(&board, &boot.dtb, images, &boot.kernel)?;
    }
    let command = board.command(&boot, Serial::Terminal);
    if args.print {
        println!("{}", command.line());
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!(
        "Ctrl-] then 1-9 focuses a guest, a shows all, m opens the monitor, ? helps. Ctrl-A x ends QEMU."
    );
    // From here on this process is QEMU: its exit status, its terminal handling, its signals.
    Err(command.into_command().exec()).context("cannot run qemu-system-aarch64")
}
