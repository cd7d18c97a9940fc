//! What a Raspberry Pi 4's firmware does between power-on and the first instruction of the kernel: reads
//! `config.txt`, loads the files it names, merges overlays into the board's tree and writes into it what it knows.
//!
//! QEMU has no VideoCore and so no firmware; this stands in for it.

use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, bail};
use flate2::read::MultiGzDecoder;

use super::config_txt::ConfigTxt;
use super::tree::Tree;
use crate::archive;
use crate::paths;
use crate::process::Program;

const MIB: u64 = 1 << 20;
/// The board's tree unless config.txt asks for another.
const DEVICE_TREE: &str = "bcm2711-rpi-4-b.dtb";
/// Kernels without a text offset go here (`kernel_address` for 64-bit kernels since the firmware of 2020).
const KERNEL_AT: u64 = 0x20_0000;
/// The firmware puts the initramfs as high as it can, and the tree above it.
const INITRAMFS_END: u64 = 0x2eff_0000;
const TREE_AT: u64 = INITRAMFS_END;
/// Peripherals and what the VideoCore sees as its own begin here in the first 4 GiB.
const PERIPHERALS: u64 = 0xfc00_0000;
/// RAM above this is not shared with the VideoCore.
const SHARED_END: u64 = 1 << 30;
/// The spin tables and the code in which the secondary cores wait.
const SPIN_TABLE: (u64, u64) = (0, 0x1000);

/// What of RAM the VideoCore keeps at the top of the first GiB, in bytes, as `gpu_mem` is by default.
pub const VIDEOCORE: u64 = 76 * MIB;

/// What lies in memory when the kernel is entered.
pub struct Loaded {
    /// The kernel, unpacked.
    pub kernel: Vec<u8>,
    /// Where it is.
    pub kernel_at: u64,
    /// The initramfs and where it is.
    pub initramfs: Option<(Vec<u8>, u64)>,
    /// The board's tree as the kernel finds it.
    pub tree: Tree,
    /// Where that is.
    pub tree_at: u64,
    /// What the firmware would have put into its log.
    pub log: Vec<String>,
}

/// RAM that the firmware leaves to the kernel on a board with `ram` bytes: start and size of each range.
pub fn memory(ram: u64, videocore: u64) -> Vec<(u64, u64)> {
    let mut ranges = vec![(0, ram.min(SHARED_END) - videocore)];
    let below = ram.min(PERIPHERALS);
    if below > SHARED_END {
        ranges.push((SHARED_END, below - SHARED_END));
    }
    let mut start = 4 << 30;
    while start < ram {
        // Sizes are one cell in the board's tree.
        let size = (ram - start).min(2 << 30);
        ranges.push((start, size));
        start += size;
    }
    ranges
}

/// Does it: `file` reads the boot partition, `ram` and `videocore` are in bytes, `dir` is for the overlays.
pub fn load(
    file: &dyn Fn(&str) -> Result<Vec<u8>>,
    ram: u64,
    videocore: u64,
    dir: &Path,
) -> Result<Loaded> {
    let text = String::from_utf8(file("config.txt")?).context("config.txt")?;
    let config = ConfigTxt::parse(&text)?;
    if !config.arm_64bit {
        bail!("config.txt starts the kernel in 32-bit state: it needs arm_64bit=1");
    }
    let named = |name: &str| file(&format!("{}{name}", config.os_prefix));
    let mut log = Vec::new();

    let kernel = unpacked(named(&config.kernel)?, &config.kernel)?;
    let kernel_at =
        kernel_address(&kernel).with_context(|| format!("{} is no arm64 Image", config.kernel))?;
    log.push(format!(
        "kernel {} ({} bytes) at {kernel_at:#x}",
        config.kernel,
        kernel.len()
    ));

    let initramfs = match config.initramfs_for(|name| named(name).is_ok()) {
        Some(name) => {
            let data = named(&name)?;
            let at = INITRAMFS_END
                .checked_sub(data.len() as u64)
                .context("the initramfs is larger than the memory that the firmware has for it")?
                & !0xfff;
            log.push(format!(
                "initramfs {name} ({} bytes) at {at:#x}",
                data.len()
            ));
            Some((data, at))
        }
        None => None,
    };

    let name = config.device_tree.as_deref().unwrap_or(DEVICE_TREE);
    let mut merged = named(name)?;
    log.push(format!("device tree {name}"));
    for overlay in &config.overlays {
        let path = format!("overlays/{}.dtbo", overlay.name);
        // As the firmware does: what does not fit is logged and left out.
        match named(&path).and_then(|data| merge(&merged, &data, dir)) {
            Ok(with) => {
                merged = with;
                log.push(format!("overlay {path}"));
                if !overlay.parameters.is_empty() {
                    log.push(format!(
                        "overlay {path}: its parameters are not emulated: {}",
                        overlay.parameters.join(" ")
                    ));
                }
            }
            Err(error) => log.push(format!("overlay {path} left out: {error:#}")),
        }
    }

    let mut tree = Tree::read(&merged)?;
    let bootargs = named(&config.cmdline).unwrap_or_default();
    let bootargs = String::from_utf8(bootargs).context("the command line")?;
    // The UART on the header, which without an overlay is the mini-UART.
    let bootargs = bootargs.replace("console=serial0", "console=ttyS0");
    describe(
        &mut tree,
        &memory(ram, videocore),
        bootargs.trim(),
        initramfs
            .as_ref()
            .map(|(data, at)| (*at, *at + data.len() as u64)),
    );
    Ok(Loaded {
        kernel,
        kernel_at,
        initramfs,
        tree,
        tree_at: TREE_AT,
        log,
    })
}

/// Writes into the board's tree what only the firmware knows.
fn describe(tree: &mut Tree, ram: &[(u64, u64)], bootargs: &str, initramfs: Option<(u64, u64)>) {
    let cells = |value: u64| [(value >> 32) as u32, value as u32];
    tree.root
        .retain_children(|node| !node.name.starts_with("memory@"));
    let memory = tree.root.child("memory@0");
    memory.set_string("device_type", "memory");
    let reg: Vec<u32> = ram
        .iter()
        .flat_map(|(start, size)| [(start >> 32) as u32, *start as u32, *size as u32])
        .collect();
    memory.set_cells("reg", &reg);
    if !tree.reservations.contains(&SPIN_TABLE) {
        tree.reservations.push(SPIN_TABLE);
    }
    let chosen = tree.root.child("chosen");
    if !bootargs.is_empty() {
        chosen.set_string("bootargs", bootargs);
    }
    if let Some((start, end)) = initramfs {
        chosen.set_cells("linux,initrd-start", &cells(start));
        chosen.set_cells("linux,initrd-end", &cells(end));
    }
}

fn unpacked(data: Vec<u8>, name: &str) -> Result<Vec<u8>> {
    if !data.starts_with(&[0x1f, 0x8b]) {
        return Ok(data);
    }
    let mut plain = Vec::new();
    MultiGzDecoder::new(&data[..])
        .read_to_end(&mut plain)
        .with_context(|| format!("{name} is gzipped but does not unpack"))?;
    Ok(plain)
}

/// Where an arm64 Image goes: its text offset, and by default where the firmware puts kernels.
fn kernel_address(image: &[u8]) -> Option<u64> {
    if !archive::is_arm64_image(image) {
        return None;
    }
    let offset = u64::from_le_bytes(image.get(8..16)?.try_into().ok()?);
    Some(if offset == 0 { KERNEL_AT } else { offset })
}

/// Merges a compiled overlay into a compiled tree.
pub fn merge(base: &[u8], overlay: &[u8], dir: &Path) -> Result<Vec<u8>> {
    let files = ["base.dtb", "overlay.dtbo", "merged.dtb"].map(|name| dir.join(name));
    let [before, add, after] = &files;
    paths::write(before, base)?;
    paths::write(add, overlay)?;
    Program::new("fdtoverlay")
        .arg("-i")
        .arg(before)
        .arg("-o")
        .args([after, add])
        .capture()
        .context("it does not fit onto the board's device tree")?;
    paths::read(after)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ram_is_on_both_sides_of_the_peripherals() {
        let gib = 1 << 30;
        assert_eq!(memory(gib, VIDEOCORE), [(0, 0x3b40_0000)]);
        assert_eq!(memory(2 * gib, VIDEOCORE), [(0, 0x3b40_0000), (gib, gib)]);
        assert_eq!(memory(4 * gib, VIDEOCORE)[1], (gib, 0xbc00_0000));
        assert_eq!(
            memory(8 * gib, VIDEOCORE)[2..],
            [(4 * gib, 2 * gib), (6 * gib, 2 * gib)]
        );
    }

    #[test]
    fn the_firmware_writes_memory_and_initramfs() {
        let mut tree = Tree {
            root: super::super::tree::Node::new(""),
            reservations: Vec::new(),
        };
        tree.root.child("memory@0").set_cells("reg", &[0, 0, 0]);
        tree.root
            .child("chosen")
            .set_string("stdout-path", "serial1:115200n8");
        describe(
            &mut tree,
            &memory(2 << 30, VIDEOCORE),
            "a b",
            Some((0x1000, 0x2001)),
        );
        let reg = tree.node("/memory@0").unwrap().get("reg").unwrap().to_vec();
        assert_eq!(reg.len(), 2 * 12);
        assert_eq!(tree.reservations, [SPIN_TABLE]);
        let chosen = tree.node("/chosen").unwrap();
        assert_eq!(chosen.string("bootargs"), Some("a b"));
        assert_eq!(
            chosen.get("linux,initrd-end"),
            Some(&[0, 0, 0, 0, 0, 0, 0x20, 1][..])
        );
        assert_eq!(chosen.string("stdout-path"), Some("serial1:115200n8"));
    }

    #[test]
    fn an_image_goes_where_its_header_says() {
        let mut image = vec![0; 64];
        assert_eq!(kernel_address(&image), None);
        image[0x38..0x3c].copy_from_slice(b"ARM\x64");
        assert_eq!(kernel_address(&image), Some(KERNEL_AT));
        image[10] = 8;
        assert_eq!(kernel_address(&image), Some(0x8_0000));
    }
}
