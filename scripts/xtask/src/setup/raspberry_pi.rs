//! What a Raspberry Pi's boot medium needs from others: the VideoCore's firmware, and the board's device tree.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use super::apt::{self, PrivateApt};
use super::debian::{self, Flavour};
use crate::paths;

/// Where Debian's package has the firmware, and its licence.
const IN_PACKAGE: &[&str] = &[
    "usr/lib/raspi-firmware/start4.elf",
    "usr/lib/raspi-firmware/fixup4.dat",
    "usr/share/doc/raspi-firmware/copyright",
];

/// The firmware of a Raspberry Pi 4, in the cache.
pub struct Firmware {
    /// The program of the VideoCore.
    pub start4: PathBuf,
    /// Its table for the memory sizes.
    pub fixup4: PathBuf,
    /// What may be done with them: not free software, but freely redistributed for use on a Raspberry Pi.
    pub licence: PathBuf,
}

/// The firmware in the cache.
pub fn firmware() -> Result<Firmware> {
    let dir = folder()?;
    let file = |name: &str| {
        let path = dir.join(name);
        if !path.is_file() {
            bail!(
                "no Raspberry Pi firmware at {}: run `cargo xtask setup`",
                path.display()
            );
        }
        Ok(path)
    };
    Ok(Firmware {
        start4: file("start4.elf")?,
        fixup4: file("fixup4.dat")?,
        licence: file("copyright")?,
    })
}

/// The device tree of a Raspberry Pi 4 B, as Debian's kernel has it.
pub fn device_tree() -> Result<PathBuf> {
    let trees = debian::kernel(Flavour::Full)?.device_trees;
    let path = trees.join("broadcom/bcm2711-rpi-4-b.dtb");
    if !path.is_file() {
        bail!(
            "Debian's kernel has no device tree at {}: its layout has changed",
            path.display()
        );
    }
    Ok(path)
}

/// Fetches the firmware unless it is in the cache; with `refresh`, takes the archive's newest.
pub fn ensure(refresh: bool, mirror: Option<&str>) -> Result<()> {
    if !refresh && firmware().is_ok() {
        return Ok(());
    }
    let dir = folder()?;
    println!(
        "The Raspberry Pi's firmware (Debian's raspi-firmware; not free software, its licence lies beside it) is \
         unpacked into {}",
        dir.display()
    );
    fs::create_dir_all(&dir).with_context(|| format!("in {}", dir.display()))?;
    let apt = PrivateApt::open(mirror)?;
    let packages = [apt.show("raspi-firmware")?];
    let work = tempfile::Builder::new()
        .prefix(".unpack-")
        .tempdir_in(&dir)
        .context("cannot write to the cache")?;
    apt.download("the Raspberry Pi's firmware", &packages, work.path())?;
    let root = work.path().join("root");
    apt::unpack(work.path(), &root)?;
    for path in IN_PACKAGE {
        let from = root.join(path);
        let name = from.file_name().unwrap_or_default();
        fs::rename(&from, dir.join(name)).with_context(|| {
            format!("Debian's raspi-firmware has no {path}: its layout has changed")
        })?;
    }
    Ok(())
}

fn folder() -> Result<PathBuf> {
    Ok(paths::cache()?.join("raspi-firmware"))
}
