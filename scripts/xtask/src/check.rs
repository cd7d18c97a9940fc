//! `cargo xtask check`: the partitions judged on the host, by the code that judges them at boot.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use ballast_core::addr::{Pa, PaRange};
use ballast_core::dt::{DeviceTree, FirstLook};
use ballast_core::plan::{self, OwnMemory, Report};
use ballast_core::refusal::Refusal;

use crate::archive::{self, Image};
use crate::artefacts;
use crate::paths;
use crate::qemu::{self, Board};
use crate::rpi4;
use crate::run::{BoardArgs, BoardName};
use crate::setup::{self, Consent, Need};

/// Where RAM starts on QEMU's virt machine.
const RAM_BASE: u64 = 0x4000_0000;
/// QEMU puts an Image without a text offset this far into RAM.
const IMAGE_OFFSET: u64 = 2 << 20;
/// QEMU puts the initrd in the middle of RAM, but no further up than this, and the device tree behind it.
const INITRD_OFFSET_MAX: u64 = 128 << 20;

/// Arguments of `cargo xtask check`.
#[derive(clap::Args)]
pub struct Args {
    /// The partitions: a device-tree overlay, as source or compiled
    #[arg(value_name = "FILE")]
    partitions: PathBuf,
    /// A guest image in the boot archive, under the name that the partitions use (repeat for each)
    #[arg(long = "image", value_name = "NAME=PATH")]
    images: Vec<Image>,
    #[command(flatten)]
    board: BoardArgs,
}

/// `cargo xtask check`.
pub fn run(args: &Args, consent: Consent) -> Result<ExitCode> {
    let images = &args.images;
    let dir = paths::made("ballast/check")?;
    let report = match args.board.board {
        BoardName::QemuVirt => {
            setup::ensure(
                &[Need::BareMetalTarget, Need::Qemu, Need::DeviceTree],
                consent,
            )?;
            let board = args.board.board(Vec::new());
            let merged = qemu::board_with_partitions(&board, &args.partitions, &dir)?;
            judge(&board, &merged, images, &artefacts::hypervisor()?)?
        }
        BoardName::Rpi4 => {
            setup::ensure(
                &[Need::BareMetalTarget, Need::DeviceTree, Need::RaspberryPi],
                consent,
            )?;
            let hypervisor = artefacts::hypervisor()?;
            let files = rpi4::image::boot_files(&args.partitions, images, &hypervisor, &dir)?;
            rpi4::image::judge(
                &rpi4::image::reader(&files),
                !images.is_empty(),
                u64::from(args.board.ram) << 20,
                &dir,
            )?
        }
    };
    if images.is_empty() {
        eprintln!("note: without --image NAME=PATH the images themselves are not checked");
    }
    if refused(&report) {
        return Ok(ExitCode::FAILURE);
    }
    for note in &report.notes {
        println!("{note}");
    }
    println!("{}: nothing to refuse", args.partitions.display());
    Ok(ExitCode::SUCCESS)
}

/// Judges a merged tree of a QEMU virt board, together with the boot archive unless `images` is empty.
pub fn judge(board: &Board, merged: &Path, images: &[Image], hypervisor: &Path) -> Result<Report> {
    let archive = if images.is_empty() {
        None
    } else {
        Some(archive::boot_archive(images)?)
    };
    let tree = paths::read(merged)?;
    let image = paths::read(hypervisor)?;
    let ram = u64::from(board.ram_mib) << 20;
    let initrd = RAM_BASE + (ram / 2).min(INITRD_OFFSET_MAX);
    let archive_size = archive.as_ref().map_or(0, Vec::len) as u64;
    // What the loader and Ballast put into RAM before guests get theirs.
    let image = held_range(RAM_BASE + IMAGE_OFFSET, image.len() as u64);
    let held = vec![
        image,
        held_range(initrd, archive_size),
        held_range(
            (initrd + archive_size).next_multiple_of(2 << 20),
            2 * tree.len() as u64,
        ),
    ];
    Ok(judge_tree(&tree, archive.as_deref(), image, held))
}

/// Judges the tree of any board: `image` is where Ballast's image lies, `held` all that is taken, that included.
pub fn judge_tree(
    tree: &[u8],
    archive: Option<&[u8]>,
    image: PaRange,
    mut held: Vec<PaRange>,
) -> Report {
    if let Ok(look) = FirstLook::new(tree) {
        held.extend(look.place(look.heap_bytes(), image, &held));
    }
    let heap = own_memory(tree, image, &held);
    held.extend(heap.iter().flatten().map(|own| own.heap));
    let mut report = plan::check(tree, archive, &held);
    if let Some(Err(refusal)) = heap {
        report.refusals.push(refusal);
    }
    report
}

/// The heap that Ballast would take; `None` if the tree is none of a board, which the check says itself.
fn own_memory(tree: &[u8], image: PaRange, held: &[PaRange]) -> Option<Result<OwnMemory, Refusal>> {
    let tree = DeviceTree::new(tree).ok()?;
    let board = ballast_core::board::Board::from_dt(&tree).ok()?;
    Some(OwnMemory::plan(&board, &tree, image, held))
}

/// The whole pages that `size` bytes from `start` take.
pub fn held_range(start: u64, size: u64) -> PaRange {
    PaRange {
        start: Pa(start),
        size: size.next_multiple_of(4096),
    }
}

/// Says what a report found; whether there was a refusal among it.
pub fn refused(report: &Report) -> bool {
    for warning in &report.warnings {
        eprintln!("warning: {warning}");
    }
    for refusal in &report.refusals {
        eprintln!("refused: {refusal}");
    }
    !report.refusals.is_empty()
}

/// Like [`judge`], for callers that go on only with what would boot.
pub fn demand(board: &Board, merged: &Path, images: &[Image], hypervisor: &Path) -> Result<()> {
    demand_none(judge(board, merged, images, hypervisor).context("checking the partitions")?)
}

/// Fails if there is a refusal, after saying all that a report found.
pub fn demand_none(report: Report) -> Result<()> {
    if refused(&report) {
        bail!("these partitions would be refused at boot (--no-check goes on all the same)");
    }
    Ok(())
}
