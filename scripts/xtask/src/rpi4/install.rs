//! `cargo xtask install`: Ballast on a card that has a 64-bit Raspberry Pi OS already.
//!
//! Its own files go into a folder of their own and one overlay; `config.txt` gets one marked block at its end. The
//! card's kernel and initramfs go into the boot archive, its command line and overlays serve the guest unchanged.
//! New files are written first and `config.txt` is replaced last, by renaming: whenever power fails, the card boots
//! either as before or with Ballast. Removing goes the other way round.

mod block;

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use super::card::Files;
use super::config_txt::ConfigTxt;
use super::image;
use crate::archive::{self, Image};
use crate::artefacts;
use crate::check;
use crate::paths;
use crate::qemu;
use crate::setup::{self, Consent, Need};

/// The folder of Ballast's own files.
const FOLDER: &str = "ballast";
/// Written first and removed last: says whose folder this is.
const NOTE: &str = "ballast/README.txt";
const NOTE_TEXT: &str = "Files of Ballast, put here by `cargo xtask install`. Take them away with\n\
                         `cargo xtask install --boot DIR --remove`, or delete the block between the two Ballast\n\
                         marks in config.txt, this folder, and overlays/ballast.dtbo.\n";
const HYPERVISOR: &str = "ballast/ballast.img";
const ARCHIVE: &str = "ballast/ballast.cpio";
const OVERLAY: &str = "overlays/ballast.dtbo";
const CONFIG: &str = "config.txt";
const NEW_CONFIG: &str = "config.new";
/// What a boot partition of a 64-bit system for this board cannot be without.
const EXPECTED: &[&str] = &[
    CONFIG,
    "start4.elf",
    "fixup4.dat",
    "bcm2711-rpi-4-b.dtb",
    "overlays",
];

/// The images of the card, under the names that partitions use.
const CARD_KERNEL: &str = "card-kernel";
const CARD_INITRAMFS: &str = "card-initramfs";

/// Arguments of `cargo xtask install`.
#[derive(clap::Args)]
pub struct Args {
    /// The mounted boot partition of the card
    #[arg(long, value_name = "DIR")]
    boot: PathBuf,
    /// Take Ballast off the card again
    #[arg(long)]
    remove: bool,
    /// The partitions, which may use the images card-kernel and card-initramfs
    /// (default: boards/rpi4/raspberry-pi-os.dtso)
    #[arg(long, value_name = "FILE", conflicts_with = "remove")]
    partitions: Option<PathBuf>,
    /// A further guest image for the boot archive (repeat for each)
    #[arg(long = "image", value_name = "NAME=PATH", conflicts_with = "remove")]
    images: Vec<Image>,
    /// RAM of the board in MiB that the partitions are checked for
    #[arg(long, default_value_t = 2048, value_name = "MIB", value_parser = clap::value_parser!(u32).range(1024..=8192))]
    ram: u32,
    /// Install even if the check refuses the partitions
    #[arg(long)]
    no_check: bool,
}

/// `cargo xtask install`.
pub fn run(args: &Args, consent: Consent) -> Result<ExitCode> {
    if args.remove {
        if remove(&args.boot)? {
            println!("{}: as it was before Ballast", args.boot.display());
        } else {
            println!("{}: nothing of Ballast is there", args.boot.display());
        }
        return Ok(ExitCode::SUCCESS);
    }
    setup::ensure(&[Need::BareMetalTarget, Need::DeviceTree], consent)?;
    let default = paths::root().join("boards/rpi4/raspberry-pi-os.dtso");
    let partitions = args.partitions.clone().unwrap_or(default);
    let mut images = args.images.clone();
    if args.partitions.is_none() && images.iter().all(|image| image.name != "bare-metal") {
        images.push(Image::new("bare-metal", artefacts::bare_metal_guest()?));
    }
    let request = Request {
        partitions: &partitions,
        images: &images,
        hypervisor: &artefacts::hypervisor()?,
        check_ram: (!args.no_check).then_some(u64::from(args.ram) << 20),
    };
    match install(&args.boot, &request)? {
        Outcome::Installed => println!(
            "{}: the card boots Ballast now; --remove undoes it",
            args.boot.display()
        ),
        Outcome::AlreadyThere => {
            println!("{}: exactly this is installed already", args.boot.display())
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What to install.
pub struct Request<'a> {
    /// The overlay.
    pub partitions: &'a Path,
    /// Images beside the card's own.
    pub images: &'a [Image],
    /// Ballast's image.
    pub hypervisor: &'a Path,
    /// RAM of the board, in bytes, to check the partitions for.
    pub check_ram: Option<u64>,
}

/// What [`install`] found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The card is changed.
    Installed,
    /// It had exactly this already.
    AlreadyThere,
}

/// Puts Ballast onto the boot partition at `boot`.
///
/// # Errors
/// It is no such partition, other things of Ballast are on it, the partitions would be refused, or it cannot be
/// written; nothing has changed on it then.
pub fn install(boot: &Path, request: &Request<'_>) -> Result<Outcome> {
    demand_boot_partition(boot)?;
    let old = paths::read(&boot.join(CONFIG))?;
    let installed = block::find(&old)?;
    let before = block::without(&old)?;
    let images = card_images(boot, &before, request.images)?;

    let work = tempfile::tempdir().context("cannot make a temporary folder")?;
    let overlay = qemu::compile_overlay(request.partitions, work.path())?;
    let files = Files::from([
        (HYPERVISOR.to_owned(), paths::read(request.hypervisor)?),
        (ARCHIVE.to_owned(), archive::boot_archive(&images)?),
        (OVERLAY.to_owned(), paths::read(&overlay)?),
    ]);
    let new = block::with(&before);
    if installed.is_some() {
        let same =
            |path: &String, data: &Vec<u8>| fs::read(boot.join(path)).is_ok_and(|d| d == *data);
        if old == new && files.iter().all(|(path, data)| same(path, data)) {
            return Ok(Outcome::AlreadyThere);
        }
        bail!(
            "{} has a Ballast already, of another version or with other partitions: take it away first with --remove",
            boot.display()
        );
    }
    demand_own_places(boot)?;
    if let Some(ram) = request.check_ram {
        let read = |path: &str| match (path, files.get(path)) {
            (CONFIG, _) => Ok(new.clone()),
            (_, Some(data)) => Ok(data.clone()),
            (_, None) => paths::read(&boot.join(path)),
        };
        check::demand_none(image::judge(&read, true, ram, work.path())?)?;
    }
    if let Err(error) = write_files(boot, &files).and_then(|()| replace_config(boot, &new)) {
        // The old config.txt is in place and names none of the new files.
        let _ = remove_files(boot);
        return Err(error.context("nothing is installed"));
    }
    Ok(Outcome::Installed)
}

/// Takes Ballast off the boot partition at `boot`; whether there was anything of it.
pub fn remove(boot: &Path) -> Result<bool> {
    let config = boot.join(CONFIG);
    if !config.is_file() {
        bail!(
            "{} is no boot partition: it has no {CONFIG}",
            boot.display()
        );
    }
    let old = paths::read(&config)?;
    let installed = block::find(&old)?.is_some();
    if installed {
        replace_config(boot, &block::without(&old)?)?;
    }
    // What an installation that was cut off has left goes too.
    let left = boot.join(NOTE).is_file();
    if installed || left {
        remove_files(boot)?;
    }
    Ok(installed || left)
}

fn demand_boot_partition(boot: &Path) -> Result<()> {
    if !boot.is_dir() {
        bail!(
            "{} is no folder: mount the card's boot partition and name where",
            boot.display()
        );
    }
    let missing: Vec<&str> = EXPECTED
        .iter()
        .copied()
        .filter(|name| !boot.join(name).exists())
        .collect();
    if !missing.is_empty() {
        bail!(
            "{} is no boot partition of a Raspberry Pi 4: it has no {}",
            boot.display(),
            missing.join(", ")
        );
    }
    Ok(())
}

/// Ballast's places must be free, or hold what an earlier installation of it has left.
fn demand_own_places(boot: &Path) -> Result<()> {
    let ours = boot.join(NOTE).is_file();
    for path in [FOLDER, OVERLAY] {
        if !ours && boot.join(path).exists() {
            bail!(
                "{} is there and not Ballast's: move it away first",
                boot.join(path).display()
            );
        }
    }
    Ok(())
}

/// The card's kernel and initramfs by their names in the archive, and the others.
fn card_images(boot: &Path, config: &[u8], others: &[Image]) -> Result<Vec<Image>> {
    let config = ConfigTxt::parse(&String::from_utf8_lossy(config))?;
    if !config.arm_64bit {
        bail!("the card's config.txt says arm_64bit=0: Ballast needs a 64-bit system");
    }
    if !config.os_prefix.is_empty() {
        bail!(
            "the card's config.txt says os_prefix={}, which would hold for Ballast's files too: take it out",
            config.os_prefix
        );
    }
    let kernel = boot.join(&config.kernel);
    if !kernel.is_file() {
        bail!(
            "{} is no boot partition of a 64-bit system: it has no {}",
            boot.display(),
            config.kernel
        );
    }
    let mut images = vec![Image::new(CARD_KERNEL, kernel)];
    if let Some(initramfs) = config.initramfs_for(|name| boot.join(name).is_file()) {
        images.push(Image::new(CARD_INITRAMFS, boot.join(initramfs)));
    }
    images.extend(others.iter().cloned());
    Ok(images)
}

fn write_files(boot: &Path, files: &Files) -> Result<()> {
    let folder = boot.join(FOLDER);
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    write_through(&boot.join(NOTE), NOTE_TEXT.as_bytes())?;
    for (path, data) in files {
        write_through(&boot.join(path), data)?;
    }
    Ok(())
}

/// Replaces config.txt at once: it is the old one or the new one whenever power fails.
fn replace_config(boot: &Path, text: &[u8]) -> Result<()> {
    let new = boot.join(NEW_CONFIG);
    write_through(&new, text)?;
    fs::rename(&new, boot.join(CONFIG)).context("cannot replace config.txt")?;
    sync_folder(boot)
}

fn remove_files(boot: &Path) -> Result<()> {
    for path in [NEW_CONFIG, OVERLAY, HYPERVISOR, ARCHIVE, NOTE] {
        let path = boot.join(path);
        if path.is_file() {
            fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    let folder = boot.join(FOLDER);
    if folder.is_dir() && fs::remove_dir(&folder).is_err() {
        eprintln!("note: {} has other files and stays", folder.display());
    }
    sync_folder(boot)
}

/// Writes a file and waits until it is on the medium.
fn write_through(path: &Path, data: &[u8]) -> Result<()> {
    let write = || -> std::io::Result<()> {
        let mut file = File::create(path)?;
        file.write_all(data)?;
        file.sync_all()
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

fn sync_folder(dir: &Path) -> Result<()> {
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .with_context(|| format!("cannot write {} through", dir.display()))
}

#[cfg(test)]
mod tests;
