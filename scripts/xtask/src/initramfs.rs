//! The initramfs of a Linux test guest: busybox, an init that ends in a shell, and the files a test adds.

use anyhow::Result;

use crate::archive::Cpio;
use crate::paths;
use crate::setup;

/// Mounts the usual file systems, loads the balloon module if it is there and leaves a shell on the console.
const INIT: &str = include_str!("initramfs/init.sh");

/// A file for the guest.
pub struct File<'a> {
    /// Its path without the leading slash; its folder must be one of the standard ones.
    pub path: &'a str,
    /// Its permissions, nine bits.
    pub permissions: u32,
    /// Its content.
    pub data: &'a [u8],
}

/// Makes an initramfs with `files` in it.
pub fn build(files: &[File<'_>]) -> Result<Vec<u8>> {
    let mut cpio = Cpio::default();
    for dir in ["bin", "sbin", "dev", "proc", "sys", "tmp", "lib"] {
        cpio.directory(dir)?;
    }
    // The kernel opens this before any file system is mounted; without it init has no standard output.
    cpio.character_device("dev/console", 5, 1)?;
    cpio.file("bin/busybox", 0o755, &paths::read(&setup::busybox()?)?)?;
    cpio.file("init", 0o755, INIT.as_bytes())?;
    for file in files {
        cpio.file(file.path, file.permissions, file.data)?;
    }
    cpio.finish()
}
