//! The QEMU command line of a board, and the device tree that QEMU makes for it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::paths;
use crate::process::Program;

const QEMU: &str = "qemu-system-aarch64";

/// A QEMU `virt` board with the virtualization extensions.
#[derive(Clone, Debug)]
pub struct Board {
    /// GIC architecture version, 2 or 3.
    pub gic: u8,
    /// Physical cores.
    pub cores: u8,
    /// RAM in MiB.
    pub ram_mib: u32,
    /// Further QEMU arguments, which win over the defaults.
    pub extra: Vec<String>,
}

/// What the boot loader would have loaded.
#[derive(Clone, Debug)]
pub struct Boot {
    /// The arm64 Image entered at EL2.
    pub kernel: PathBuf,
    /// The board's tree with the partitions merged in.
    pub dtb: PathBuf,
    /// The boot archive.
    pub initrd: PathBuf,
}

/// Where the board's first UART goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Serial {
    /// The terminal, with QEMU's monitor behind Ctrl-A.
    Terminal,
    /// Plain standard input and output, for a program to drive.
    Pipe,
}

impl Board {
    /// The arguments that define the machine, the extra ones last.
    ///
    /// QEMU itself lets later `-M`, `-cpu`, `-m` and `-smp` win; options that add up are left out here when the
    /// extra arguments bring their own.
    fn machine_arguments(&self, serial: Serial) -> Vec<String> {
        let gives = |options: &[&str]| {
            self.extra
                .iter()
                .any(|arg| options.contains(&arg.trim_start_matches('-')) && arg.starts_with('-'))
        };
        let mut arguments: Vec<String> = Vec::new();
        let mut add =
            |option: &str, value: &str| arguments.extend([option.to_owned(), value.to_owned()]);
        add(
            "-M",
            &format!("virt,virtualization=on,gic-version={}", self.gic),
        );
        add("-cpu", "cortex-a72");
        add("-smp", &self.cores.to_string());
        add("-m", &self.ram_mib.to_string());
        if !gives(&["nographic", "display"]) {
            add("-display", "none");
        }
        if !gives(&["nographic", "serial"]) {
            match serial {
                Serial::Terminal => add("-serial", "mon:stdio"),
                Serial::Pipe => {
                    add("-serial", "stdio");
                    add("-monitor", "none");
                }
            }
        }
        if !gives(&["nic", "net", "netdev"]) {
            add("-nic", "none");
        }
        arguments.extend(self.extra.iter().cloned());
        arguments
    }

    /// Writes the device tree that QEMU makes for exactly this machine.
    pub fn dump_dtb(&self, to: &Path) -> Result<()> {
        Program::new(QEMU)
            .args(self.machine_arguments(Serial::Pipe))
            .arg("-M")
            .arg(format!("dumpdtb={}", to.display()))
            .capture()
            .map(drop)
            .context("QEMU does not start with these arguments")
    }

    /// The complete command that boots `boot` on this board.
    pub fn command(&self, boot: &Boot, serial: Serial) -> Program {
        self.command_of(Program::new(QEMU), boot, serial)
    }

    /// The same for this QEMU.
    pub fn command_of(&self, qemu: Program, boot: &Boot, serial: Serial) -> Program {
        qemu.arg("-kernel")
            .arg(&boot.kernel)
            .arg("-dtb")
            .arg(&boot.dtb)
            .arg("-initrd")
            .arg(&boot.initrd)
            .args(self.machine_arguments(serial))
    }
}

/// Arguments that put a disk into the last virtio slot and a network card on QEMU's user network into the one
/// before: /virtio_mmio@a003e00 and /virtio_mmio@a003c00.
pub fn disk_and_network(image: &Path) -> Vec<String> {
    let drive = format!("file={},if=none,id=disk,format=raw", image.display());
    let arguments = [
        "-drive",
        &drive,
        "-device",
        "virtio-blk-device,drive=disk,bus=virtio-mmio-bus.31",
        "-netdev",
        "user,id=network",
        "-device",
        "virtio-net-device,netdev=network,bus=virtio-mmio-bus.30",
    ];
    arguments.map(str::to_owned).to_vec()
}

/// Compiles `partitions` (device-tree source, or an overlay that is compiled already) into `dir`.
pub fn compile_overlay(partitions: &Path, dir: &Path) -> Result<PathBuf> {
    let extension = partitions.extension().and_then(|e| e.to_str());
    if matches!(extension, Some("dtbo" | "dtb")) {
        return Ok(partitions.to_owned());
    }
    paths::read(partitions)?;
    let compiled = dir.join("partitions.dtbo");
    Program::new("dtc")
        .args(["-q", "-@", "-I", "dts", "-O", "dtb", "-o"])
        .args([&compiled, partitions])
        .capture()
        .with_context(|| format!("{} does not compile", partitions.display()))?;
    Ok(compiled)
}

/// Merges an overlay into a board's tree.
fn merge_overlay(board: &Path, overlay: &Path, merged: &Path) -> Result<()> {
    Program::new("fdtoverlay")
        .arg("-i")
        .arg(board)
        .arg("-o")
        .arg(merged)
        .arg(overlay)
        .capture()
        .map(drop)
        .with_context(|| {
            format!(
                "{} does not fit onto the board's device tree",
                overlay.display()
            )
        })
}

/// Writes the tree of `board` with the overlay `partitions` merged in, into `dir`.
pub fn board_with_partitions(board: &Board, partitions: &Path, dir: &Path) -> Result<PathBuf> {
    let (base, merged) = (dir.join("board.dtb"), dir.join("merged.dtb"));
    let overlay = compile_overlay(partitions, dir)?;
    board.dump_dtb(&base)?;
    merge_overlay(&base, &overlay, &merged)?;
    Ok(merged)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn board(extra: &[&str]) -> Vec<String> {
        let extra = extra.iter().map(|s| (*s).to_owned()).collect();
        Board {
            gic: 3,
            cores: 2,
            ram_mib: 512,
            extra,
        }
        .machine_arguments(Serial::Terminal)
    }

    #[test]
    fn extra_arguments_come_last_and_replace_what_would_add_up() {
        let arguments = board(&["-cpu", "max", "-nic", "user", "-serial", "null"]);
        assert_eq!(arguments.iter().filter(|a| *a == "-nic").count(), 1);
        assert_eq!(arguments.iter().filter(|a| *a == "-serial").count(), 1);
        let cpus: Vec<_> = arguments
            .iter()
            .enumerate()
            .filter(|(_, a)| *a == "-cpu")
            .map(|(i, _)| i)
            .collect();
        assert_eq!(arguments[cpus[cpus.len() - 1] + 1], "max");
    }

    #[test]
    fn the_default_machine_has_el2_and_no_network() {
        let line = board(&[]).join(" ");
        assert!(
            line.contains("virt,virtualization=on,gic-version=3") && line.contains("-nic none"),
            "{line}"
        );
    }
}
