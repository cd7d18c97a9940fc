//! What Linux guests start with: busybox, an init that ends in a shell, and the files a test adds; or an init that
//! goes on to a root filesystem on an SD card, and that root filesystem.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::archive::Cpio;
use crate::modules::Module;
use crate::paths;
use crate::setup;

/// Mounts the usual file systems, loads the balloon module if it is there and leaves a shell on the console.
const INIT: &str = include_str!("initramfs/init.sh");

/// Loads modules, mounts the root filesystem and switches to it.
const SWITCH: &str = include_str!("initramfs/switch.sh");
/// The init of that root filesystem.
const ROOT_INIT: &str = include_str!("initramfs/root-init.sh");
/// Uses a pin of a Raspberry Pi 4 and tries at the others.
pub const PINS: &str = include_str!("initramfs/pins.sh");
const FOLDERS: &[&str] = &["bin", "sbin", "dev", "proc", "sys", "tmp", "lib"];

/// A file for the guest.
pub struct File<'a> {
    /// Its path without the leading slash; its folder must be one of the standard ones.
    pub path: &'a str,
    /// Its permissions, nine bits.
    pub permissions: u32,
    /// Its content.
    pub data: &'a [u8],
}

/// Makes an initramfs with `files` in it, and with the modules that it loads, in this order, for `swap=MIB`.
pub fn build(files: &[File<'_>], swap: &[Module]) -> Result<Vec<u8>> {
    let mut cpio = with_busybox(INIT)?;
    modules(&mut cpio, swap)?;
    for file in files {
        cpio.file(file.path, file.permissions, file.data)?;
    }
    cpio.finish()
}

/// Makes an initramfs that loads `drivers` in this order, and `balloon`, and switches to the root on an SD card.
pub fn build_switching(drivers: &[Module], balloon: &[u8]) -> Result<Vec<u8>> {
    let mut cpio = with_busybox(SWITCH)?;
    modules(&mut cpio, drivers)?;
    cpio.file("lib/ballast_balloon.ko", 0o644, balloon)?;
    cpio.finish()
}

/// Adds modules, and `lib/order`, which names them in the order in which they load.
fn modules(cpio: &mut Cpio, modules: &[Module]) -> Result<()> {
    let mut order = String::new();
    for module in modules {
        cpio.file(&format!("lib/{}.ko", module.name), 0o644, &module.data)?;
        order += &module.name;
        order += "\n";
    }
    cpio.file("lib/order", 0o644, order.as_bytes())
}

fn with_busybox(init: &str) -> Result<Cpio> {
    let mut cpio = Cpio::default();
    for dir in FOLDERS {
        cpio.directory(dir)?;
    }
    // The kernel opens this before any file system is mounted; without it init has no standard output.
    cpio.character_device("dev/console", 5, 1)?;
    cpio.file("bin/busybox", 0o755, &paths::read(&setup::busybox()?)?)?;
    cpio.file("init", 0o755, init.as_bytes())?;
    Ok(cpio)
}

/// Lays out the folder of a root filesystem for [`build_switching`], with `files` (path and content) in it.
pub fn root_folder(files: &[(String, Vec<u8>)]) -> Result<PathBuf> {
    let root = paths::target().join("ballast/root");
    let _ = fs::remove_dir_all(&root);
    for dir in FOLDERS.iter().chain(&["root", "etc"]) {
        fs::create_dir_all(root.join(dir)).with_context(|| format!("in {}", root.display()))?;
    }
    let busybox = paths::read(&setup::busybox()?)?;
    let own: [(&str, &[u8]); 2] = [
        ("bin/busybox", &busybox),
        ("sbin/init", ROOT_INIT.as_bytes()),
    ];
    let files = files.iter().map(|(path, data)| (&**path, &**data));
    for (path, data) in own.into_iter().chain(files) {
        let path = root.join(path);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).with_context(|| format!("{}", folder.display()))?;
        }
        paths::write(&path, data)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    }
    Ok(root)
}
