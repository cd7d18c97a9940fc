//! `cargo xtask run`: boots partitions on a board in QEMU, with the console on this terminal.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::archive::{self, Image};
use crate::artefacts;
use crate::check;
use crate::example::Source;
use crate::paths;
use crate::qemu::{self, Board, Boot, Serial};
use crate::rpi4;
use crate::setup::{self, Consent, Need};

/// Boards that QEMU can be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum BoardName {
    /// QEMU's `virt` machine.
    QemuVirt,
    /// The Raspberry Pi 4, as which QEMU stands in.
    Rpi4,
}

impl BoardName {
    /// Its folder in `boards/`.
    pub fn folder(self) -> &'static str {
        match self {
            BoardName::QemuVirt => "qemu-virt",
            BoardName::Rpi4 => rpi4::image::BOARD,
        }
    }
}

/// The board and what is on it, as `run` and `check` take it.
#[derive(clap::Args)]
pub struct BoardArgs {
    /// The board
    #[arg(long, value_enum, default_value = "qemu-virt")]
    pub board: BoardName,
    /// GIC architecture version (the Raspberry Pi has its own)
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(2..=3))]
    pub gic: u8,
    /// Physical cores (the Raspberry Pi has its own)
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=8))]
    pub cores: u8,
    /// RAM of the board in MiB
    #[arg(long, default_value_t = 2048, value_name = "MIB")]
    pub ram: u32,
}

impl BoardArgs {
    /// QEMU's `virt` machine with further QEMU arguments.
    pub fn board(&self, extra: Vec<String>) -> Board {
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
    #[command(flatten)]
    source: Source,
    /// Raspberry Pi: boot this card (default: one made of the partitions and images)
    #[arg(long, value_name = "IMG", conflicts_with_all = ["partitions", "images", "example"])]
    card: Option<PathBuf>,
    /// A root filesystem: on the second partition of a Raspberry Pi's card that is made, else on a virtio disk in
    /// the last slot (/virtio_mmio@a003e00), with a network card before it
    #[arg(long, value_name = "DIR|IMAGE", conflicts_with = "card")]
    root: Option<PathBuf>,
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
    if args.board.board == BoardName::Rpi4 {
        let request = rpi4::run::Request {
            card: args.card.as_deref(),
            source: &args.source,
            root: args.root.as_deref(),
            ram_mib: args.board.ram,
            print: args.print,
            no_check: args.no_check,
            extra: args.extra.clone(),
        };
        return rpi4::run::run(&request, consent);
    }
    if args.card.is_some() {
        bail!("--card is for --board rpi4: QEMU's virt machine boots without a medium");
    }
    setup::ensure(
        &[Need::BareMetalTarget, Need::Qemu, Need::DeviceTree],
        consent,
    )?;
    let hypervisor = artefacts::hypervisor()?;
    let chosen = args.source.choose(args.board.board.folder(), consent)?;
    let images = &chosen.images;
    let dir = paths::made("ballast/run")?;
    let mut extra = Vec::new();
    if let Some(root) = args.root.as_ref().or(chosen.root.as_ref()) {
        setup::ensure(&[Need::RootFilesystem], consent)?;
        extra = qemu::disk_and_network(&rpi4::root::image_of(root, &dir)?);
    }
    extra.extend(args.extra.iter().cloned());
    let board = args.board.board(extra);
    let boot = prepare(&board, &chosen.partitions, images, hypervisor, &dir)?;
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
