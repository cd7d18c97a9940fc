//! The physical board as the firmware's device tree describes it: the only source of board facts.
//!
//! Runs before any guest exists, so every error stops the boot, naming the node.

mod console;
mod gic;
mod memory;
mod power;
#[cfg(test)]
mod tests;

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use crate::addr::PaRange;
use crate::dt::{DeviceTree, Node};
use crate::limits::MAX_CORES;
use crate::refusal::Refusal;

pub use console::{Console, Pin, Pins, Uart, find_console, last_resort_console};
pub use gic::gic_node;
pub(crate) use memory::PA_LIMIT;
pub use memory::subtract;
pub use power::{Power, find_power};

/// Everything Ballast needs to know of the board.
#[derive(Clone, Debug)]
pub struct Board {
    /// `model` of the root.
    pub model: String,
    /// RAM, sorted, disjoint, whole pages.
    pub ram: Vec<PaRange>,
    /// RAM that firmware keeps (`/memreserve/`, `/reserved-memory`, spin tables), sorted, disjoint, whole pages.
    pub reserved: Vec<PaRange>,
    /// Usable cores in tree order, at most [`MAX_CORES`]; `cores[0]` need not be the one that boots.
    pub cores: Vec<Core>,
    /// Cores of the tree beyond [`MAX_CORES`], which stay off.
    pub unused_cores: usize,
    /// Firmware's PSCI, if the tree says how to call it.
    pub psci: Option<Psci>,
    /// The interrupt controller.
    pub gic: Gic,
    /// The console, if `stdout-path` leads to a UART that Ballast drives or the board has one.
    pub console: Option<Console>,
    /// How it is turned off and reset, if it can be.
    pub power: Option<Power>,
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
        Self::with(tree, find_console(tree), find_power(tree))
    }

    /// The same where console and power have been found already.
    ///
    /// # Errors
    /// As [`Board::from_dt`].
    pub fn with(
        tree: &DeviceTree<'_>,
        console: Option<Console>,
        power: Option<Power>,
    ) -> Result<Self, Refusal> {
        let root = tree.root();
        let gic_node = gic_node(tree)?;
        let (cores, unused_cores) = read_cores(tree)?;
        Ok(Self {
            model: root
                .str("model")
                .ok()
                .flatten()
                .unwrap_or("unknown board")
                .to_string(),
            ram: memory::ram(tree)?,
            reserved: memory::reserved(tree, &cores)?,
            cores,
            unused_cores,
            psci: read_psci(tree)?,
            gic: gic::read_gic(gic_node)?,
            console,
            power,
            timer: gic::read_timer(tree, gic_node)?,
            initrd: memory::initrd(tree)?,
        })
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
            Some("spin-table") => EnableMethod::SpinTable(release_address(node)?),
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

/// Where a core of a spin table waits: eight bytes, naturally aligned (Linux arm64 `booting.rst`).
fn release_address(core: Node<'_>) -> Result<u64, Refusal> {
    let property = core.require("cpu-release-addr")?;
    let address = property.as_u64()?;
    if address.is_multiple_of(8) && address < PA_LIMIT {
        return Ok(address);
    }
    let problem = "is no physical address of eight aligned bytes";
    Err(property.refuse().problem(problem))
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
