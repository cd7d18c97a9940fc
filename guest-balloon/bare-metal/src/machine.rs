//! What the device tree says about this machine.
//!
//! The tree comes from Ballast or QEMU, so it is read with the plain parser; anything missing that a
//! test needs is said by that test.

use core::fmt::Write;
use core::ops::Range;

use ballast_abi::channel::MAX_CHANNELS;
use ballast_abi::device_tree;
use fdt::{Fdt, node::FdtNode};
use heapless::{String, Vec};

/// The interrupt controller found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GicKind {
    /// GICv2: distributor and CPU interface.
    V2 {
        /// Address of the distributor.
        distributor: u64,
        /// Address of the CPU interface.
        cpu: u64,
    },
    /// GICv3: distributor and redistributor region.
    V3 {
        /// Address of the distributor.
        distributor: u64,
        /// The redistributors.
        redistributors: (u64, u64),
    },
}

/// The balloon node.
#[derive(Clone, Debug)]
pub struct Balloon {
    /// INTID of its interrupt.
    pub interrupt: u32,
    /// What the guest's maximum has and the guest has not at boot: the first such region.
    pub boot_region: Option<Range<u64>>,
}

/// A channel to another guest.
#[derive(Clone, Debug)]
pub struct Shared {
    /// Its name.
    pub label: String<32>,
    /// Its number, for the calls.
    pub number: u32,
    /// The memory.
    pub memory: Range<u64>,
    /// INTID of the doorbell.
    pub interrupt: u32,
    /// This guest cannot write the memory.
    pub read_only: bool,
}

/// The machine.
#[derive(Clone, Debug)]
pub struct Machine {
    /// RAM up to the guest's maximum.
    pub ram: Vec<Range<u64>, 8>,
    /// Parts of it that are not ours to allocate: the DTB, `/memreserve/`, reserved memory.
    pub reserved: Vec<Range<u64>, 16>,
    /// MPIDR affinity of each core, boot core first.
    pub cpus: Vec<u64, 8>,
    /// Interrupt controller.
    pub gic: GicKind,
    /// The PL011.
    pub uart: u64,
    /// Whether PSCI is called by SMC.
    pub psci_by_smc: bool,
    /// Ballast's node, if this is a guest of Ballast.
    pub balloon: Option<Balloon>,
    /// Channels to other guests.
    pub channels: Vec<Shared, MAX_CHANNELS>,
    /// Where the device tree lies.
    pub dtb: u64,
    /// `/chosen/bootargs`.
    pub bootargs: String<512>,
}

impl Machine {
    /// Reads the tree that lies at `dtb`; the error says what is missing.
    pub fn read(fdt: &Fdt, dtb: u64) -> Result<Self, &'static str> {
        let mut machine = Self {
            ram: Vec::new(),
            reserved: Vec::new(),
            cpus: Vec::new(),
            gic: gic(fdt)?,
            uart: compatible(fdt, &["arm,pl011"])
                .and_then(|n| reg(n, 0))
                .ok_or("no arm,pl011")?
                .start,
            psci_by_smc: fdt
                .find_node("/psci")
                .and_then(|psci| psci.property("method"))
                .is_some_and(|method| method.as_str() == Some("smc")),
            balloon: None,
            channels: fdt.all_nodes().filter_map(shared).collect(),
            dtb,
            bootargs: String::new(),
        };
        for node in fdt
            .all_nodes()
            .filter(|n| property_is(*n, "device_type", "memory"))
        {
            for region in node.reg().into_iter().flatten() {
                let start = region.starting_address as u64;
                let _ = machine
                    .ram
                    .push(start..start + region.size.unwrap_or(0) as u64);
            }
        }
        let _ = machine.reserved.push(dtb..dtb + fdt.total_size() as u64);
        for reservation in fdt.memory_reservations() {
            let start = reservation.address() as u64;
            let _ = machine
                .reserved
                .push(start..start + reservation.size() as u64);
        }
        for node in fdt
            .find_node("/reserved-memory")
            .into_iter()
            .flat_map(FdtNode::children)
        {
            for region in node.reg().into_iter().flatten() {
                let start = region.starting_address as u64;
                let _ = machine
                    .reserved
                    .push(start..start + region.size.unwrap_or(0) as u64);
            }
        }
        for cpu in fdt
            .find_node("/cpus")
            .into_iter()
            .flat_map(FdtNode::children)
        {
            if let Some(mpidr) = cpu
                .property("reg")
                .filter(|_| property_is(cpu, "device_type", "cpu"))
            {
                let _ = machine.cpus.push(big_endian(mpidr.value));
            }
        }
        if let Some(args) = fdt
            .find_node("/chosen")
            .and_then(|c| c.property("bootargs"))
            .and_then(|p| p.as_str())
        {
            // Longer arguments are cut off.
            let _ = machine.bootargs.write_str(args.get(..512).unwrap_or(args));
        }
        machine.balloon = balloon(fdt);
        Ok(machine)
    }

    /// The value of `key=value` in the boot arguments.
    pub fn arg(&self, key: &str) -> Option<&str> {
        self.bootargs
            .split_ascii_whitespace()
            .find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
    }

    /// The same as a number.
    pub fn arg_number(&self, key: &str) -> Option<u64> {
        self.arg(key)?.parse().ok()
    }
}

fn compatible<'b, 'a>(fdt: &'b Fdt<'a>, names: &[&str]) -> Option<FdtNode<'b, 'a>> {
    fdt.find_compatible(names)
}

fn property_is(node: FdtNode, name: &str, value: &str) -> bool {
    node.property(name).and_then(|p| p.as_str()) == Some(value)
}

fn reg(node: FdtNode, index: usize) -> Option<Range<u64>> {
    let region = node.reg()?.nth(index)?;
    let start = region.starting_address as u64;
    Some(start..start + region.size.unwrap_or(0) as u64)
}

/// The number in a property of up to two cells.
fn big_endian(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .take(8)
        .fold(0, |value, &byte| value << 8 | u64::from(byte))
}

fn gic(fdt: &Fdt) -> Result<GicKind, &'static str> {
    const NO_REG: &str = "interrupt controller without reg";
    if let Some(node) = compatible(fdt, &["arm,gic-v3"]) {
        let redistributors = reg(node, 1).ok_or(NO_REG)?;
        return Ok(GicKind::V3 {
            distributor: reg(node, 0).ok_or(NO_REG)?.start,
            redistributors: (redistributors.start, redistributors.end),
        });
    }
    let node = compatible(fdt, &["arm,cortex-a15-gic", "arm,gic-400", "arm,gic-v2"])
        .ok_or("no GICv2 or GICv3")?;
    Ok(GicKind::V2 {
        distributor: reg(node, 0).ok_or(NO_REG)?.start,
        cpu: reg(node, 1).ok_or(NO_REG)?.start,
    })
}

fn shared(node: FdtNode) -> Option<Shared> {
    let is_shared = |compatible: fdt::node::NodeProperty| {
        compatible.as_str() == Some(device_tree::CHANNEL_COMPATIBLE)
    };
    node.property("compatible").filter(|c| is_shared(*c))?;
    let spi = big_endian(node.property("interrupts")?.value.get(4..8)?) as u32;
    Some(Shared {
        label: node.property("label")?.as_str()?.try_into().ok()?,
        number: node.property(device_tree::CHANNEL_NUMBER)?.as_usize()? as u32,
        memory: reg(node, 0)?,
        interrupt: spi + 32,
        read_only: node.property(device_tree::CHANNEL_READ_ONLY).is_some(),
    })
}

fn balloon(fdt: &Fdt) -> Option<Balloon> {
    let node = compatible(fdt, &[ballast_abi::device_tree::COMPATIBLE])?;
    let interrupts = node.property("interrupts")?.value;
    // <type number flags>; type 0 is an SPI, which begin at INTID 32.
    let number = big_endian(interrupts.get(4..8)?) as u32;
    let is_ppi = big_endian(interrupts.get(..4)?) == 1;
    let boot_region = node
        .property("memory-region")
        .into_iter()
        .flat_map(|phandles| phandles.value.chunks_exact(4))
        .filter_map(|phandle| fdt.find_phandle(big_endian(phandle) as u32))
        .find_map(|region| reg(region, 0));
    Some(Balloon {
        interrupt: number + if is_ppi { 16 } else { 32 },
        boot_region,
    })
}
