//! `cargo xtask image`: a complete SD card.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use ballast_core::plan::Report;

use super::card::{self, Files};
use super::firmware::{self, Loaded};
use super::root;
use crate::archive::{self, Image};
use crate::artefacts;
use crate::check;
use crate::example::{Chosen, Source};
use crate::paths;
use crate::qemu;
use crate::run::BoardName;
use crate::setup::{self, Consent, Need};

/// The board's folder in `boards/`.
pub const BOARD: &str = "rpi4";
/// Names on the card; boards/rpi4/config.txt has them too.
const HYPERVISOR: &str = "ballast.img";
const ARCHIVE: &str = "ballast.cpio";
const OVERLAY: &str = "overlays/ballast.dtbo";
const MIB: u64 = 1 << 20;

/// Arguments of `cargo xtask image`.
#[derive(clap::Args)]
pub struct Args {
    /// The board
    #[arg(long, value_enum, default_value = "rpi4")]
    board: BoardName,
    #[command(flatten)]
    source: Source,
    /// A root filesystem for the card's second partition: a folder, or an image of a file system
    #[arg(long, value_name = "DIR|IMAGE")]
    root: Option<PathBuf>,
    /// RAM of the board in MiB that the partitions are checked for
    #[arg(long, default_value_t = 2048, value_name = "MIB", value_parser = clap::value_parser!(u32).range(1024..=8192))]
    ram: u32,
    /// Make the card that tests and measures the board it is in (docs/hardware.md)
    #[arg(long, conflicts_with_all = ["partitions", "example", "images", "root"])]
    self_test: bool,
    /// Write the card even if the check refuses the partitions
    #[arg(long)]
    no_check: bool,
    /// The card image to write
    #[arg(long, value_name = "IMG")]
    out: PathBuf,
}

/// The example that `--self-test` makes a card of.
pub const SELF_TEST: &str = "self-test";

/// An example of the board by its name.
pub fn example(name: &str) -> Source {
    Source {
        example: Some(name.to_owned()),
        ..Source::default()
    }
}

/// `cargo xtask image`.
pub fn run(args: &Args, consent: Consent) -> Result<ExitCode> {
    if args.board != BoardName::Rpi4 {
        anyhow::bail!("only a Raspberry Pi boots from a card: give --board rpi4");
    }
    let chosen = if args.self_test {
        example(SELF_TEST).choose(BOARD, consent)?
    } else {
        args.source.choose(BOARD, consent)?
    };
    let ram = u64::from(args.ram) * MIB;
    let root = args.root.clone().or_else(|| chosen.root.clone());
    let checked = (!args.no_check).then_some(ram);
    write(&args.out, &chosen, root.as_deref(), checked, consent)?;
    println!(
        "{}: {} MiB, for `dd` or Raspberry Pi Imager (docs/rpi4.md)",
        args.out.display(),
        args.out.metadata()?.len() / MIB
    );
    Ok(ExitCode::SUCCESS)
}

/// Writes a card to `out`, once the partitions are found good for a board with `check_ram` bytes.
pub fn write(
    out: &Path,
    chosen: &Chosen,
    root: Option<&Path>,
    check_ram: Option<u64>,
    consent: Consent,
) -> Result<()> {
    setup::ensure(
        &[Need::BareMetalTarget, Need::DeviceTree, Need::RaspberryPi],
        consent,
    )?;
    let dir = paths::made("ballast/image")?;
    let mut files = boot_files(
        &chosen.partitions,
        &chosen.images,
        &artefacts::hypervisor()?,
        &dir,
    )?;
    if let Some(ram) = check_ram {
        check::demand_none(judge(&reader(&files), true, ram, &dir)?)?;
    }
    let firmware = setup::raspberry_pi_firmware()?;
    for (name, path) in [
        ("start4.elf", &firmware.start4),
        ("fixup4.dat", &firmware.fixup4),
        ("LICENCE.firmware", &firmware.licence),
    ] {
        files.insert(name.to_owned(), paths::read(path)?);
    }
    let root = match root {
        Some(path) => {
            setup::ensure(&[Need::RootFilesystem], consent)?;
            Some(root::image_of(path, &dir)?)
        }
        None => None,
    };
    card::write(out, &files, root.as_deref())
}

/// Everything of the boot partition but the firmware.
pub fn boot_files(
    partitions: &Path,
    images: &[Image],
    hypervisor: &Path,
    dir: &Path,
) -> Result<Files> {
    let overlay = qemu::compile_overlay(partitions, dir)?;
    let config = paths::root().join("boards").join(BOARD).join("config.txt");
    Ok(Files::from([
        (
            "bcm2711-rpi-4-b.dtb".to_owned(),
            paths::read(&setup::raspberry_pi_device_tree()?)?,
        ),
        (HYPERVISOR.to_owned(), paths::read(hypervisor)?),
        (ARCHIVE.to_owned(), archive::boot_archive(images)?),
        (OVERLAY.to_owned(), paths::read(&overlay)?),
        ("config.txt".to_owned(), paths::read(&config)?),
    ]))
}

/// Reads a file of a boot partition that is not on a card yet.
pub fn reader(files: &Files) -> impl Fn(&str) -> Result<Vec<u8>> {
    |path| {
        files
            .get(path)
            .cloned()
            .with_context(|| format!("no file {path}"))
    }
}

/// What Ballast would say at boot of a boot partition's files on a board with `ram` bytes; `with_images` judges the
/// archive too.
pub fn judge(
    file: &dyn Fn(&str) -> Result<Vec<u8>>,
    with_images: bool,
    ram: u64,
    dir: &Path,
) -> Result<Report> {
    judge_loaded(
        &firmware::load(file, ram, firmware::VIDEOCORE, dir)?,
        with_images,
    )
}

/// What Ballast would say of what the firmware loaded.
pub fn judge_loaded(loaded: &Loaded, with_images: bool) -> Result<Report> {
    let tree = loaded.tree.write();
    let archive = loaded.initramfs.as_ref();
    let image = check::held_range(loaded.kernel_at, loaded.kernel.len() as u64);
    let mut held = vec![image, check::held_range(loaded.tree_at, tree.len() as u64)];
    held.extend(archive.map(|(data, at)| check::held_range(*at, data.len() as u64)));
    let archive = archive
        .map(|(data, _)| data.as_slice())
        .filter(|_| with_images);
    Ok(check::judge_tree(&tree, archive, image, held))
}
