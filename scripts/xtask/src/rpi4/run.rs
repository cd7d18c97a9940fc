//! `cargo xtask run --board rpi4`: the card's own files on QEMU's Raspberry Pi 4.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};

use super::emulator::{self, ADJUSTMENTS, Boot, Raspi4b};
use super::image;
use crate::check;
use crate::example::Source;
use crate::paths;
use crate::qemu::Serial;
use crate::setup::{self, Consent, Need};

/// What to run, from the command line.
pub struct Request<'a> {
    /// A card to boot; without it one is made of `source`.
    pub card: Option<&'a Path>,
    /// Partitions and images of a card to make.
    pub source: &'a Source,
    /// The root filesystem of a card to make.
    pub root: Option<&'a Path>,
    /// RAM in MiB.
    pub ram_mib: u32,
    /// Whether to show the command only.
    pub print: bool,
    /// Whether to boot even what the check refuses.
    pub no_check: bool,
    /// QEMU's further arguments.
    pub extra: Vec<String>,
}

/// Boots it.
pub fn run(request: &Request<'_>, consent: Consent) -> Result<ExitCode> {
    setup::ensure(
        &[Need::BareMetalTarget, Need::DeviceTree, Need::QemuRaspi4b],
        consent,
    )?;
    let board = Raspi4b::new(request.ram_mib, request.extra.clone())?;
    let dir = paths::made("ballast/run-rpi4")?;
    let card = match request.card {
        Some(card) => card.to_owned(),
        None => {
            let chosen = request.source.choose(image::BOARD, consent)?;
            let root = request.root.map(Path::to_owned).or(chosen.root.clone());
            let card = dir.join("card.img");
            // Judged below, as QEMU's board.
            image::write(&card, &chosen, root.as_deref(), None, consent)?;
            card
        }
    };
    let boot = prepare(&board, &card, &dir, request.no_check)?;
    let command = board.command(&boot, Serial::Terminal)?;
    if request.print {
        println!("{}", command.line());
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!(
        "Ctrl-] then 1-9 focuses a guest, a shows all, m opens the monitor, ? helps. Ctrl-A x ends QEMU."
    );
    // From here on this process is QEMU: its exit status, its terminal handling, its signals.
    Err(command.into_command().exec()).context("cannot run qemu-system-aarch64")
}

/// Does the firmware's work with the card's files, and says what it did and what was adjusted for QEMU.
pub fn prepare(board: &Raspi4b, card: &Path, dir: &Path, no_check: bool) -> Result<Boot> {
    let (boot, loaded) = board.boot_card(card, dir)?;
    for line in &loaded.log {
        eprintln!("firmware: {line}");
    }
    for adjustment in ADJUSTMENTS {
        eprintln!("for QEMU: {} ({})", adjustment.what, adjustment.why);
    }
    for (what, why) in emulator::DIFFERENCES {
        eprintln!("for QEMU: {what} ({why})");
    }
    if !no_check {
        check::demand_none(image::judge_loaded(&loaded, true)?)?;
    }
    Ok(boot)
}
