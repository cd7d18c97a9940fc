//! QEMU's Raspberry Pi 4 (`-M raspi4b`): its command line, and what it lacks.
//!
//! [`ADJUSTMENTS`] is the one place where the tree that the firmware would hand over is changed because the machine
//! is QEMU's. Everything else is the card's own.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::card::BootPartition;
use super::firmware::{self, Loaded};
use super::tree::Tree;
use crate::paths;
use crate::process::Program;
use crate::qemu::Serial;
use crate::setup::Qemu;

const MIB: u64 = 1 << 20;
/// What QEMU's machine keeps for a VideoCore that it does not have.
const VIDEOCORE: u64 = 64 * MIB;
/// Where QEMU puts the tree when it loads no initrd itself.
const TREE_AT: u64 = 128 * MIB;

/// Further differences that are not changes to the tree: what, and why.
pub const DIFFERENCES: &[(&str, &str)] = &[
    (
        "the VideoCore keeps 64 MiB of RAM instead of 76, and the tree lies at 0x8000000",
        "both are QEMU's to choose",
    ),
    (
        "PCIe (with USB), Ethernet, random numbers and the thermal sensor are disabled",
        "QEMU has none of them and disables their nodes itself",
    ),
    (
        "the SD card is at 0xfe300000 and not at emmc2",
        "QEMU's card slot is wired to the older controller",
    ),
];

/// A change to the board's tree for QEMU's sake.
pub struct Adjustment {
    /// What is changed.
    pub what: &'static str,
    /// What of QEMU makes it necessary.
    pub why: &'static str,
    apply: fn(&mut Tree) -> Result<()>,
}

/// Every change, in order.
pub const ADJUSTMENTS: &[Adjustment] = &[
    Adjustment {
        what: "devices of the display and camera path are disabled",
        why: "QEMU has none of them, and Linux's drivers abort on their absent registers",
        apply: disable_absent,
    },
    Adjustment {
        what: "the SD and SDIO controllers' regulators and power sequence are removed",
        why: "they are behind the firmware's GPIO expander, whose calls fail in QEMU",
        apply: remove_regulators,
    },
    Adjustment {
        what: "RAM from 1 GiB on is in a node ram@40000000",
        why: "QEMU replaces every node called memory by one for the first GiB alone",
        apply: rename_memory,
    },
    Adjustment {
        what: "the console is the PL011 (serial0, ttyAMA0)",
        why: "QEMU's mini-UART is the second serial port and incomplete",
        apply: console_on_pl011,
    },
];

/// Whether a node is one that QEMU's machine does not have.
fn is_absent(path: &str) -> bool {
    let Some(name) = path.rsplit('/').next() else {
        return false;
    };
    let soc = [
        "interrupt-controller@7ef00100",
        "hdmi@",
        "i2c@7ef",
        "clock@7ef",
        "hvs@",
        "pixelvalve@",
        "txp@",
    ];
    let more = ["vec@", "dsi@", "csi@"];
    (path.starts_with("/soc/") && soc.iter().chain(&more).any(|start| name.starts_with(start)))
        || path == "/scb/gpu@7ec00000"
}

fn disable_absent(tree: &mut Tree) -> Result<()> {
    tree.root.walk(&mut |path, node| {
        if is_absent(path) {
            node.set_string("status", "disabled");
        }
    });
    Ok(())
}

fn remove_regulators(tree: &mut Tree) -> Result<()> {
    tree.root.walk(&mut |path, node| match path {
        "/emmc2bus/mmc@7e340000" => {
            node.remove("vqmmc-supply");
            node.remove("vmmc-supply");
        }
        "/soc/mmc@7e300000" => {
            node.remove("mmc-pwrseq");
        }
        _ => {}
    });
    Ok(())
}

/// Bytes of a `reg` entry below the board's root: two address cells and one of size.
const REG_ENTRY: usize = 12;

fn rename_memory(tree: &mut Tree) -> Result<()> {
    let memory = tree.node("/memory@0")?;
    let reg = memory.get("reg").unwrap_or_default().to_vec();
    let (low, high) = reg
        .split_at_checked(REG_ENTRY)
        .context("memory has no range")?;
    memory.set("reg", low);
    if !high.is_empty() {
        let node = tree.root.child("ram@40000000");
        node.set_string("device_type", "memory");
        node.set("reg", high);
    }
    Ok(())
}

fn console_on_pl011(tree: &mut Tree) -> Result<()> {
    let chosen = tree.root.child("chosen");
    chosen.set_string("stdout-path", "serial0:115200n8");
    let line = chosen.string("bootargs").map(str::to_owned);
    if let Some(line) = line {
        chosen.set_string(
            "bootargs",
            &line.replace("console=ttyS0", "console=ttyAMA0"),
        );
    }
    Ok(())
}

/// QEMU's Raspberry Pi 4 as it is started.
#[derive(Clone, Debug)]
pub struct Raspi4b {
    /// RAM in MiB: 1024 or 2048.
    pub ram_mib: u32,
    /// Further QEMU arguments, which win over the defaults.
    pub extra: Vec<String>,
}

/// The files that QEMU is started with.
#[derive(Clone, Debug)]
pub struct Boot {
    /// The arm64 Image entered at EL2.
    pub kernel: PathBuf,
    /// The tree, adjusted.
    pub dtb: PathBuf,
    /// The initramfs and where it is loaded.
    pub initramfs: Option<(PathBuf, u64)>,
    /// The card in the slot.
    pub card: Option<PathBuf>,
}

impl Raspi4b {
    /// Refuses RAM that QEMU's machine cannot have.
    pub fn new(ram_mib: u32, extra: Vec<String>) -> Result<Self> {
        if ![1024, 2048].contains(&ram_mib) {
            bail!(
                "QEMU's Raspberry Pi 4 has 2048 MiB, of which 1024 or all can be used: --ram {ram_mib} is neither"
            );
        }
        Ok(Self { ram_mib, extra })
    }

    /// Boots the card's own files, which are laid out in `dir` for QEMU; says on standard error what was done.
    pub fn boot_card(&self, card: &Path, dir: &Path) -> Result<(Boot, Loaded)> {
        let partition = BootPartition::open(card)?;
        let loaded = self.load(&|path| partition.read(path), dir)?;
        Ok((lay_out(&loaded, Some(card), dir)?, loaded))
    }

    /// What the firmware would load from `file`, with the tree adjusted for QEMU.
    pub fn load(&self, file: &dyn Fn(&str) -> Result<Vec<u8>>, dir: &Path) -> Result<Loaded> {
        let ram = u64::from(self.ram_mib) * MIB;
        let mut loaded = firmware::load(file, ram, VIDEOCORE, dir)?;
        for adjustment in ADJUSTMENTS {
            (adjustment.apply)(&mut loaded.tree).context(adjustment.what)?;
        }
        loaded.tree_at = TREE_AT;
        Ok(loaded)
    }

    /// The complete command that boots `boot`.
    pub fn command(&self, boot: &Boot, serial: Serial) -> Result<Program> {
        let gives = |options: &[&str]| {
            self.extra
                .iter()
                .any(|arg| options.contains(&arg.trim_start_matches('-')) && arg.starts_with('-'))
        };
        let mut qemu = Qemu::with_raspi4b()?
            .start()
            .args(["-M", "raspi4b", "-kernel"])
            .arg(&boot.kernel)
            .arg("-dtb")
            .arg(&boot.dtb);
        if let Some((path, at)) = &boot.initramfs {
            // By address, not by -initrd, which would put it lower than the firmware does.
            qemu = qemu.arg("-device").arg(format!(
                "loader,file={},addr={at:#x},force-raw=on",
                path.display()
            ));
        }
        if let Some(card) = &boot.card {
            qemu = qemu
                .arg("-drive")
                .arg(format!("file={},if=sd,format=raw", card.display()));
        }
        if !gives(&["nographic", "display"]) {
            qemu = qemu.args(["-display", "none"]);
        }
        if !gives(&["nographic", "serial"]) {
            qemu = match serial {
                Serial::Terminal => qemu.args(["-serial", "mon:stdio"]),
                Serial::Pipe => qemu.args(["-serial", "stdio", "-monitor", "none"]),
            };
        }
        if !gives(&["nic", "net", "netdev"]) {
            qemu = qemu.args(["-nic", "none"]);
        }
        Ok(qemu.args(&self.extra))
    }
}

/// Writes what QEMU loads into files.
pub fn lay_out(loaded: &Loaded, card: Option<&Path>, dir: &Path) -> Result<Boot> {
    let [kernel, dtb, initramfs] =
        ["kernel.img", "board.dtb", "initramfs"].map(|name| dir.join(name));
    paths::write(&kernel, &loaded.kernel)?;
    paths::write(&dtb, loaded.tree.write())?;
    let initramfs = match &loaded.initramfs {
        Some((data, at)) => {
            paths::write(&initramfs, data)?;
            Some((initramfs, *at))
        }
        None => None,
    };
    Ok(Boot {
        kernel,
        dtb,
        initramfs,
        card: card.map(Path::to_owned),
    })
}

#[cfg(test)]
mod tests {
    use super::super::tree::Node;
    use super::*;

    #[test]
    fn only_what_qemu_lacks_is_disabled() {
        assert!(is_absent("/soc/hdmi@7ef00700"));
        assert!(is_absent("/soc/i2c@7ef04500"));
        assert!(!is_absent("/soc/i2c@7e804000"));
        assert!(!is_absent("/soc/hdmi@7ef00700/port"));
        assert!(is_absent("/scb/gpu@7ec00000"));
    }

    #[test]
    fn memory_above_one_gib_is_kept_from_qemu() {
        let mut tree = Tree {
            root: Node::new(""),
            reservations: Vec::new(),
        };
        tree.root
            .child("memory@0")
            .set_cells("reg", &[0, 0, 0x3c00_0000, 0, 0x4000_0000, 0x4000_0000]);
        rename_memory(&mut tree).unwrap();
        assert_eq!(
            tree.node("/memory@0").unwrap().get("reg").unwrap().len(),
            REG_ENTRY
        );
        let high = tree.node("/ram@40000000").unwrap();
        assert_eq!(high.string("device_type"), Some("memory"));
        assert_eq!(high.get("reg").unwrap()[..8], [0, 0, 0, 0, 0x40, 0, 0, 0]);
    }

    #[test]
    fn extra_arguments_win() {
        let board = Raspi4b::new(2048, vec!["-serial".to_owned(), "null".to_owned()]).unwrap();
        assert!(Raspi4b::new(4096, Vec::new()).is_err());
        let boot = Boot {
            kernel: "k".into(),
            dtb: "d".into(),
            initramfs: Some(("i".into(), 0x2e00_0000)),
            card: Some("c.img".into()),
        };
        let Ok(command) = board.command(&boot, Serial::Terminal) else {
            return; // No QEMU with the machine here.
        };
        let line = command.line();
        assert!(
            !line.contains("mon:stdio") && line.ends_with("-serial null"),
            "{line}"
        );
        assert!(
            line.contains("addr=0x2e000000") && line.contains("if=sd"),
            "{line}"
        );
    }
}
