//! The physical board as the firmware's device tree describes it: the only source of board facts.
//!
//! Runs before any guest exists, so every error stops the boot, naming the node.

mod memory;
#[cfg(test)]
mod tests;

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use crate::addr::PaRange;
use crate::dt::{DeviceTree, Interrupt, InterruptKind, Node};
use crate::limits::MAX_CORES;
use crate::refusal::Refusal;

pub use memory::subtract;

/// Everything Ballast needs to know of the board.
#[derive(Clone, Debug)]
pub struct Board {
    /// `model` of the root.
    pub model: String,
    /// RAM, sorted, disjoint, whole pages.
    pub ram: Vec<PaRange>,
    /// RAM that firmware keeps (`/memreserve/`, `/reserved-memory`), sorted, disjoint, whole pages.
    pub reserved: Vec<PaRange>,
    /// Usable cores in tree order, at most [`MAX_CORES`]; `cores[0]` need not be the one that boots.
    pub cores: Vec<Core>,
    /// Cores of the tree beyond [`MAX_CORES`], which stay off.
    pub unused_cores: usize,
    /// Firmware's PSCI, if the tree says how to call it.
    pub psci: Option<Psci>,
    /// The interrupt controller.
    pub gic: Gic,
    /// The console, if `stdout-path` leads to a PL011 or the board has one.
    pub console: Option<Console>,
    /// The generic timer's interrupts.
    pub timer: Timer,
    /// The initramfs, which is the boot archive. May end in padding.
    pub initrd: Option<PaRange>,
}

/// A physical core.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Core {
    /// Affinity as in MPIDR_EL1: Aff3 in 39:32, Aff2..Aff0 in 23:0.
    pub mpidr: u64,
    /// How it is started.
    pub enable: EnableMethod,
    /// First `compatible`, such as `arm,cortex-a72`.
    pub compatible: String,
}

/// How a secondary core is started (arm64 `enable-method`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EnableMethod {
    /// CPU_ON of firmware's PSCI.
    Psci,
    /// Write the entry address to this physical address, then SEV.
    SpinTable(u64),
}

/// How firmware's PSCI is called.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Psci {
    /// `method`: true for SMC, false for HVC, which from EL2 reaches nobody.
    pub smc: bool,
    /// Function identifier of CPU_ON.
    pub cpu_on: u32,
    /// Whether the standard function identifiers of PSCI 0.2 and later hold (DEN0022).
    pub standard: bool,
}

/// The interrupt controller's register blocks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Gic {
    /// GICv2 with the virtualization extensions (IHI 0048B.b).
    V2 {
        /// Distributor.
        gicd: PaRange,
        /// Physical CPU interface.
        gicc: PaRange,
        /// Virtual interface control.
        gich: PaRange,
        /// Virtual CPU interface, mapped to guests at their GICC address.
        gicv: PaRange,
        /// INTID of the maintenance interrupt.
        maintenance: u32,
    },
    /// GICv3 or later, affinity routing, system registers (IHI 0069).
    V3 {
        /// Distributor.
        gicd: PaRange,
        /// Regions of redistributors.
        redistributors: Vec<PaRange>,
        /// Bytes from one redistributor to the next: 0x2_0000 unless the tree says otherwise.
        stride: u64,
        /// INTID of the maintenance interrupt.
        maintenance: u32,
    },
}

impl Gic {
    /// 2 or 3.
    #[must_use]
    pub const fn version(&self) -> u8 {
        match self {
            Self::V2 { .. } => 2,
            Self::V3 { .. } => 3,
        }
    }

    /// Every register block.
    #[must_use]
    pub fn blocks(&self) -> Vec<PaRange> {
        match self {
            Self::V2 {
                gicd,
                gicc,
                gich,
                gicv,
                ..
            } => alloc::vec![*gicd, *gicc, *gich, *gicv],
            Self::V3 {
                gicd,
                redistributors,
                ..
            } => core::iter::once(*gicd)
                .chain(redistributors.iter().copied())
                .collect(),
        }
    }
}

/// The console UART, a PL011.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Console {
    /// Path of its node.
    pub path: String,
    /// Registers.
    pub registers: PaRange,
    /// INTID of its interrupt, if it is wired.
    pub intid: Option<u32>,
    /// UARTCLK in Hz, if the tree says.
    pub clock_hz: Option<u32>,
}

/// INTIDs of the generic timer (Arm ARM DDI 0487, D12.2; usual values in brackets).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timer {
    /// EL1 physical, non-secure (30).
    pub el1_physical: u32,
    /// EL1 virtual (27).
    pub el1_virtual: u32,
    /// EL2 physical (26).
    pub el2_physical: u32,
}

impl Board {
    /// Reads the board out of `tree`.
    ///
    /// # Errors
    /// The first thing without which Ballast cannot run there.
    pub fn from_dt(tree: &DeviceTree<'_>) -> Result<Self, Refusal> {
        let root = tree.root();
        let gic_node = find_gic(tree)?;
        let (cores, unused_cores) = read_cores(tree)?;
        Ok(Self {
            model: root
                .str("model")
                .ok()
                .flatten()
                .unwrap_or("unknown board")
                .to_string(),
            ram: memory::ram(tree)?,
            reserved: memory::reserved(tree)?,
            cores,
            unused_cores,
            psci: read_psci(tree)?,
            gic: read_gic(gic_node)?,
            console: find_console(tree),
            timer: read_timer(tree, gic_node)?,
            initrd: memory::initrd(tree)?,
        })
    }

    /// The node of the GIC that [`Board::gic`] describes.
    ///
    /// # Errors
    /// There is none that Ballast drives.
    pub fn gic_node<'t>(tree: &'t DeviceTree<'t>) -> Result<Node<'t>, Refusal> {
        find_gic(tree)
    }
}

const GIC_V2: [&str; 5] = [
    "arm,gic-400",
    "arm,cortex-a15-gic",
    "arm,cortex-a7-gic",
    "arm,cortex-a9-gic",
    "arm,eb11mp-gic",
];

fn find_gic<'t>(tree: &'t DeviceTree<'t>) -> Result<Node<'t>, Refusal> {
    let known = |node: &Node<'_>| {
        node.is_compatible("arm,gic-v3") || GIC_V2.iter().any(|name| node.is_compatible(name))
    };
    let found = tree
        .nodes()
        .find(|node| node.property("interrupt-controller").is_some() && known(node));
    found.ok_or_else(|| {
        let problem = "has no interrupt controller that is a GICv2 or a GICv3";
        Refusal::new("device tree")
            .problem(problem)
            .fix("use a board with one of these")
    })
}

fn read_gic(node: Node<'_>) -> Result<Gic, Refusal> {
    let regions = node.regions()?;
    let maintenance = node.interrupts(node.interrupt_parent().unwrap_or(node))?;
    let maintenance = maintenance
        .first()
        .filter(|interrupt| interrupt.kind == InterruptKind::Ppi);
    let maintenance = maintenance
        .map(|interrupt| interrupt.intid)
        .ok_or_else(|| {
            let problem = "has no maintenance interrupt, so no virtualization extensions";
            node.refuse()
                .property("interrupts")
                .problem(problem)
                .fix("on QEMU virt add virtualization=on to -M")
        })?;
    if node.is_compatible("arm,gic-v3") {
        let count =
            usize::try_from(node.u32("#redistributor-regions")?.unwrap_or(1)).unwrap_or(usize::MAX);
        let stride = node.u64("redistributor-stride")?.unwrap_or(0x2_0000);
        let (Some(gicd), Some(redistributors)) =
            (regions.first(), regions.get(1..count.saturating_add(1)))
        else {
            let problem = "lacks the distributor or a redistributor region";
            return Err(node.require("reg")?.refuse().problem(problem));
        };
        if redistributors.is_empty() || stride < 0x2_0000 || stride & 0xffff != 0 {
            let problem = "has no redistributor region, or a stride that is no multiple of 64 KiB from 128 KiB on";
            return Err(node.require("reg")?.refuse().problem(problem));
        }
        return Ok(Gic::V3 {
            gicd: *gicd,
            redistributors: redistributors.to_vec(),
            stride,
            maintenance,
        });
    }
    match regions.as_slice() {
        [gicd, gicc, gich, gicv, ..] => Ok(Gic::V2 {
            gicd: *gicd,
            gicc: *gicc,
            gich: *gich,
            gicv: *gicv,
            maintenance,
        }),
        _ => {
            let problem = "lacks the virtual interface: it must list GICD, GICC, GICH and GICV";
            Err(node
                .require("reg")?
                .refuse()
                .problem(problem)
                .fix("on QEMU virt add virtualization=on to -M"))
        }
    }
}

/// The affinity fields of MPIDR_EL1 (DDI 0487, D23.2.115).
const MPIDR_AFFINITY: u64 = 0xff_00ff_ffff;

fn read_cores(tree: &DeviceTree<'_>) -> Result<(Vec<Core>, usize), Refusal> {
    let cpus = tree
        .root()
        .child("cpus")
        .ok_or_else(|| Refusal::new("/cpus").problem("is missing"))?;
    let mut cores: Vec<Core> = Vec::new();
    let mut unused = 0_usize;
    for node in cpus.children().filter(|node| node.base_name() == "cpu") {
        // "disabled" cores may be startable, "fail" ones are not (DT specification 3.8.1); Ballast leaves both alone.
        if !node.is_enabled() {
            continue;
        }
        if cores.len() >= MAX_CORES {
            unused = unused.saturating_add(1);
            continue;
        }
        let mpidr = node
            .reg()?
            .first()
            .map(|range| range.start)
            .ok_or_else(|| {
                node.refuse()
                    .property("reg")
                    .problem("is missing, so the core's affinity is unknown")
            })?;
        if mpidr & !MPIDR_AFFINITY != 0 || cores.iter().any(|core| core.mpidr == mpidr) {
            return Err(node
                .require("reg")?
                .refuse()
                .problem("is no affinity of MPIDR_EL1, or another core's"));
        }
        let method = node.str("enable-method")?.or(cpus.str("enable-method")?);
        let enable = match method {
            Some("psci") => EnableMethod::Psci,
            Some("spin-table") => {
                EnableMethod::SpinTable(node.require("cpu-release-addr")?.as_u64()?)
            }
            // A board with one core needs no method.
            None => EnableMethod::Psci,
            Some(other) => {
                let problem = alloc::format!("is \"{other}\", which Ballast does not know");
                return Err(node
                    .refuse()
                    .property("enable-method")
                    .problem(problem)
                    .fix("use psci or spin-table"));
            }
        };
        let compatible = node
            .property("compatible")
            .and_then(|names| names.strings().ok());
        let compatible = compatible
            .and_then(|names| names.first().copied())
            .unwrap_or("arm,armv8")
            .to_string();
        cores.push(Core {
            mpidr,
            enable,
            compatible,
        });
    }
    if cores.is_empty() {
        return Err(cpus.refuse().problem("has no core that is in use"));
    }
    Ok((cores, unused))
}

fn read_psci(tree: &DeviceTree<'_>) -> Result<Option<Psci>, Refusal> {
    const CPU_ON_64: u32 = 0xc400_0003;
    let Some(node) = tree.root().child("psci") else {
        return Ok(None);
    };
    let smc = match node.str("method")? {
        Some("smc") => true,
        Some("hvc") => false,
        _ => {
            return Err(node
                .refuse()
                .property("method")
                .problem("is neither \"smc\" nor \"hvc\""));
        }
    };
    let standard = node.is_compatible("arm,psci-1.0") || node.is_compatible("arm,psci-0.2");
    let cpu_on = if standard {
        CPU_ON_64
    } else {
        node.require("cpu_on")?.as_u32()?
    };
    Ok(Some(Psci {
        smc,
        cpu_on,
        standard,
    }))
}

/// The console UART: a PL011 at `stdout-path`, else the first PL011 in use. Needs nothing else of
/// the board, so that a boot error can be printed.
#[must_use]
pub fn find_console(tree: &DeviceTree<'_>) -> Option<Console> {
    let is_uart = |node: &Node<'_>| node.is_compatible("arm,pl011") && node.is_enabled();
    let chosen = tree.root().child("chosen");
    let named = chosen.and_then(|chosen| chosen.str("stdout-path").ok().flatten());
    let node = named
        .and_then(|path| tree.find(path))
        .filter(is_uart)
        .or_else(|| tree.nodes().find(is_uart))?;
    let registers = *node.regions().ok()?.first()?;
    let intid = find_gic(tree)
        .ok()
        .and_then(|gic| node.interrupts(gic).ok());
    let intid = intid.and_then(|all| all.first().map(|interrupt| interrupt.intid));
    let clock = node
        .property("clocks")
        .and_then(|clocks| clocks.cells().ok()?.next());
    let clock_hz = clock.and_then(|phandle| {
        tree.by_phandle(phandle)?
            .u32("clock-frequency")
            .ok()
            .flatten()
    });
    Some(Console {
        path: node.path(),
        registers,
        intid,
        clock_hz,
    })
}

fn read_timer(tree: &DeviceTree<'_>, gic: Node<'_>) -> Result<Timer, Refusal> {
    let node = tree
        .nodes()
        .find(|node| node.is_compatible("arm,armv8-timer"));
    let node = node.ok_or_else(|| {
        Refusal::new("device tree").problem("has no node compatible with \"arm,armv8-timer\"")
    })?;
    // Secure, non-secure, virtual, hypervisor, in this order.
    match node.interrupts(gic)?.as_slice() {
        [_, physical, virt, hyp, ..] if [physical, virt, hyp].iter().all(|timer| is_ppi(timer)) => {
            Ok(Timer {
                el1_physical: physical.intid,
                el1_virtual: virt.intid,
                el2_physical: hyp.intid,
            })
        }
        _ => Err(node
            .refuse()
            .property("interrupts")
            .problem("does not list the four timers' PPIs")),
    }
}

fn is_ppi(interrupt: &Interrupt) -> bool {
    interrupt.kind == InterruptKind::Ppi
}
