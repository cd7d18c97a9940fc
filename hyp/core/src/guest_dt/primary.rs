//! The device tree of a primary guest: the board's own, less what Ballast keeps or other guests hold.
//!
//! Nodes are copied as they are, with their phandles, so that what refers to them still does. A device that
//! the guest has not got stays in the tree as disabled, for the same reason. What describes the machine
//! itself (memory, CPUs, PSCI, the interrupt controller, the console, `/chosen`) is written anew.

mod console;
mod memory;

use alloc::vec::Vec;

use super::{GuestMachine, UART_CLOCK_PHANDLE};
use crate::addr::IpaRange;
use crate::board::{Console, gic_node};
use crate::config::{Device, is_board_power, is_no_device, is_pmu};
use crate::dt::{DeviceTree, Node, Property, Writer};
use crate::machine::GICR_STRIDE;
use crate::watchdog::Kind;

/// The board as its own tree describes it.
#[derive(Clone, Copy)]
pub struct BoardTree<'a> {
    /// The tree, partitions merged in.
    pub tree: &'a DeviceTree<'a>,
    /// The console, in whose place the guest has an emulated PL011.
    pub console: Option<&'a Console>,
}

/// More bytes than the guest's tree will have: the board's and what is added.
#[must_use]
pub fn most_bytes(tree: &DeviceTree<'_>) -> usize {
    /// Boot balloons, PSCI, the balloon's node, shared memory, the command line.
    const ADDED: usize = 12 << 10;
    /// Tokens, offsets, alignment of a node or property.
    const EACH: usize = 16;
    tree.nodes().fold(ADDED, |sum, node| {
        let properties = node.properties().fold(0_usize, |sum, property| {
            let bytes = property.value.len().saturating_add(property.name.len());
            sum.saturating_add(bytes).saturating_add(EACH)
        });
        let sum = sum.saturating_add(node.name().len());
        sum.saturating_add(EACH).saturating_add(properties)
    })
}

/// Writes the tree.
pub(super) fn write<'n>(fdt: &mut Writer<'n>, machine: &GuestMachine<'n>, board: BoardTree<'n>) {
    let root = board.tree.root();
    let mut copy = Copy {
        machine,
        gic: gic_node(board.tree).ok(),
        console: board.console,
        devices: machine.devices.iter().peekable(),
        free_phandle: free_phandle(board.tree),
        cells: (
            root.u32("#address-cells").ok().flatten().unwrap_or(2),
            root.u32("#size-cells").ok().flatten().unwrap_or(1),
        ),
    };
    for property in root.properties() {
        fdt.bytes(property.name, property.value);
    }
    copy.chosen(fdt, root.child("chosen"));
    copy.memory(fdt);
    copy.reserved(fdt, root.child("reserved-memory"));
    copy.cpus(fdt, root.child("cpus"));
    psci(fdt, root.child("psci"));
    for child in root.children() {
        copy.node(fdt, child);
    }
    copy.balloon(fdt);
    copy.uart_apart(fdt);
    super::watchdog(fdt, machine.machine, |range| copy.reg(&[range]));
    copy.channels(fdt);
}

/// The first phandle that no node has, nor any after it.
fn free_phandle(tree: &DeviceTree<'_>) -> u32 {
    let phandles = tree.nodes().filter_map(|node| node.u32("phandle").ok()?);
    phandles
        .max()
        .unwrap_or(0)
        .max(UART_CLOCK_PHANDLE)
        .saturating_add(1)
}

struct Copy<'c, 'n> {
    machine: &'c GuestMachine<'n>,
    gic: Option<Node<'n>>,
    console: Option<&'n Console>,
    /// The guest's, in the order of the tree.
    devices: core::iter::Peekable<core::slice::Iter<'n, Device>>,
    /// The first phandle that no node has, nor any after it: a clock's, then the boot balloons'.
    free_phandle: u32,
    /// `#address-cells` and `#size-cells` of the root.
    cells: (u32, u32),
}

impl<'n> Copy<'_, 'n> {
    /// A node of the board and everything below it.
    fn node(&mut self, fdt: &mut Writer<'n>, node: Node<'n>) {
        if is_no_device(node) && !is_name_table(node) {
            return;
        }
        if Some(node) == self.gic {
            return gic(fdt, node, self.machine);
        }
        if is_name_table(node) && node.name() == "aliases" {
            return self.aliases(fdt, node);
        }
        if self
            .console_in_place()
            .is_some_and(|console| node.path() == console.path)
        {
            return self.uart(fdt, node);
        }
        if let Some((Kind::Pm, range)) = self.machine.machine.watchdog
            && is_board_power(node)
            && node
                .regions()
                .is_ok_and(|all| all.first().is_some_and(|one| one.start.0 == range.start.0))
        {
            return pm_watchdog(fdt, node);
        }
        let own = self.own(node);
        let withheld = own.is_none() && !self.is_no_device(node);
        let added = own.map_or(&[][..], |device| &device.properties);
        fdt.node(node.name(), |fdt| {
            for property in node.properties() {
                let is_replaced = added.iter().any(|(name, _)| name == property.name);
                if !(withheld && property.name == "status" || is_replaced) {
                    fdt.bytes(property.name, property.value);
                }
            }
            for (name, value) in added {
                fdt.bytes(name, value);
            }
            if withheld {
                fdt.text("status", "disabled");
            }
            for child in node.children() {
                self.node(fdt, child);
            }
        });
    }

    /// The guest's device that this is.
    fn own(&mut self, node: Node<'_>) -> Option<&'n Device> {
        let is_here = |device: &&Device| device.name == node.name() && device.path == node.path();
        self.devices.next_if(|device| is_here(device))
    }

    /// Whether this is none that a guest could have.
    fn is_no_device(&self, node: Node<'_>) -> bool {
        // What the guest could have had was gathered by the same rule: registers or a wired interrupt.
        let has_registers = node
            .regions()
            .is_ok_and(|regions| regions.iter().any(|region| region.size != 0));
        let interrupts = self.gic.and_then(|gic| node.interrupts(gic).ok());
        let has_spi = interrupts.is_some_and(|all| {
            all.iter()
                .any(|interrupt| interrupt.kind == crate::dt::InterruptKind::Spi)
        });
        !(has_registers || has_spi || is_pmu(node))
    }

    /// Numbers of the root's children: addresses and sizes.
    fn reg(&self, ranges: &[IpaRange]) -> Vec<u32> {
        let (address, size) = self.cells;
        let mut words = Vec::new();
        for range in ranges {
            push(&mut words, range.start.0, address);
            push(&mut words, range.size, size);
        }
        words
    }

    /// Without children, which describe firmware's frame buffer, in memory that is not the guest's.
    fn chosen(&self, fdt: &mut Writer<'n>, chosen: Option<Node<'n>>) {
        let is_kept = |property: &Property<'_>| {
            let name = property.name;
            !(name == "bootargs"
                || name.starts_with("linux,")
                || matches!(name, "stdout-path" | "linux,stdout-path" | "stdin-path"))
        };
        fdt.node("chosen", |fdt| {
            for property in chosen
                .iter()
                .flat_map(|node| node.properties())
                .filter(is_kept)
            {
                fdt.bytes(property.name, property.value);
            }
            let board = chosen.and_then(|node| node.str("bootargs").ok().flatten());
            let own = Some(self.machine.bootargs).filter(|own| !own.is_empty());
            if let Some(line) = own.or(board) {
                match self.console_names() {
                    Some(names) => fdt.text("bootargs", &names.rename(line)),
                    None => fdt.text("bootargs", line),
                }
            }
            super::ramdisk(fdt, self.machine);
            if let Some(path) = self.console_path() {
                fdt.text("stdout-path", &path);
            }
        });
    }

    fn channels(&self, fdt: &mut Writer<'n>) {
        let gic = self.gic.and_then(|gic| gic.u32("phandle").ok()?);
        for end in self.machine.channels {
            super::channel(fdt, end, &self.reg(&[end.ipa]), gic);
        }
    }

    /// As many CPUs as the guest may have, numbered as its vCPUs, each like the board's.
    fn cpus(&self, fdt: &mut Writer<'n>, cpus: Option<Node<'n>>) {
        let Some(cpus) = cpus else { return };
        let width = cpus.u32("#address-cells").ok().flatten().unwrap_or(1);
        let is_core = |node: &Node<'_>| node.base_name() == "cpu";
        let cores: Vec<_> = cpus
            .children()
            .filter(|node| is_core(node) && node.is_enabled())
            .collect();
        fdt.node("cpus", |fdt| {
            for property in cpus.properties().filter(|one| one.name != "enable-method") {
                fdt.bytes(property.name, property.value);
            }
            for number in 0..self.machine.cpus {
                let index = usize::try_from(number).unwrap_or(usize::MAX);
                let Some(core) = cores.get(index).or(cores.last()) else {
                    break;
                };
                fdt.node_at("cpu", number.into(), |fdt| {
                    let mut reg = Vec::new();
                    push(&mut reg, number.into(), width);
                    fdt.cells("reg", &reg);
                    fdt.text("enable-method", "psci");
                    for property in core.properties() {
                        let is_copy = index >= cores.len();
                        if !(is_of_power(property.name) || is_copy && property.name == "phandle") {
                            fdt.bytes(property.name, property.value);
                        }
                    }
                    for child in core.children() {
                        verbatim(fdt, child);
                    }
                });
            }
            for node in cpus.children().filter(|node| !is_core(node)) {
                if !matches!(node.name(), "cpu-map" | "idle-states") {
                    verbatim(fdt, node);
                }
            }
        });
    }
}

/// The watchdog of the power management block, without the rest of it: power domains and resets, which have
/// registers of their own in the tree. References to them still lead somewhere.
fn pm_watchdog<'n>(fdt: &mut Writer<'n>, node: Node<'n>) {
    let cells = |name| {
        let parent = node.parent().and_then(|parent| parent.u32(name).ok());
        usize::try_from(parent.flatten().unwrap_or(1)).unwrap_or(1)
    };
    let entry = cells("#address-cells").saturating_add(cells("#size-cells"));
    let entry = entry.saturating_mul(size_of::<u32>());
    fdt.node(node.name(), |fdt| {
        fdt.text("compatible", "brcm,bcm2835-pm-wdt");
        for property in node.properties() {
            match property.name {
                "reg" => fdt.bytes("reg", property.value.get(..entry).unwrap_or(property.value)),
                "#power-domain-cells" | "#reset-cells" | "phandle" | "system-power-controller" => {
                    fdt.bytes(property.name, property.value);
                }
                _ => {}
            }
        }
    });
}

/// Everything below `node`, as it is.
fn verbatim<'n>(fdt: &mut Writer<'n>, node: Node<'n>) {
    fdt.node(node.name(), |fdt| {
        for property in node.properties() {
            fdt.bytes(property.name, property.value);
        }
        for child in node.children() {
            verbatim(fdt, child);
        }
    });
}

fn is_name_table(node: Node<'_>) -> bool {
    matches!(node.name(), "aliases" | "__symbols__")
}

/// Of a core: how firmware starts and stops it.
fn is_of_power(name: &str) -> bool {
    matches!(
        name,
        "reg"
            | "enable-method"
            | "cpu-release-addr"
            | "cpu-idle-states"
            | "power-domains"
            | "power-domain-names"
    )
}

fn psci<'n>(fdt: &mut Writer<'n>, board: Option<Node<'n>>) {
    fdt.node("psci", |fdt| {
        fdt.texts("compatible", &["arm,psci-1.0", "arm,psci-0.2"]);
        fdt.text("method", "hvc");
        let phandle = board.and_then(|node| node.property("phandle"));
        if let Some(phandle) = phandle {
            fdt.bytes("phandle", phandle.value);
        }
    });
}

/// The interrupt controller without what a guest's has not: the virtual interface, the maintenance
/// interrupt, message-signalled interrupts.
fn gic<'n>(fdt: &mut Writer<'n>, node: Node<'n>, machine: &GuestMachine<'_>) {
    let width = |name, default| {
        let parent = node.parent().and_then(|parent| parent.u32(name).ok());
        parent.flatten().unwrap_or(default)
    };
    let (address, size) = (width("#address-cells", 2), width("#size-cells", 1));
    let cpu_side = match machine.gic_version {
        2 => machine.machine.gicc.size,
        _ => GICR_STRIDE.saturating_mul(machine.cpus.into()),
    };
    let sizes = [machine.machine.gicd.size, cpu_side];
    let mut reg = Vec::new();
    let blocks = node.reg().unwrap_or_default();
    for (block, bytes) in blocks.iter().zip(sizes) {
        push(&mut reg, block.start, address);
        push(&mut reg, bytes, size);
    }
    fdt.node(node.name(), |fdt| {
        for property in node.properties() {
            let is_kept = !matches!(
                property.name,
                "reg"
                    | "interrupts"
                    | "interrupts-extended"
                    | "redistributor-stride"
                    | "#redistributor-regions"
                    | "msi-controller"
                    | "mbi-ranges"
                    | "mbi-alias"
            );
            if is_kept {
                fdt.bytes(property.name, property.value);
            }
        }
        fdt.cells("reg", &reg);
    });
}

/// `number` in so many cells.
#[expect(clippy::cast_possible_truncation, reason = "the halves of a number")]
fn push(words: &mut Vec<u32>, number: u64, cells: u32) {
    if cells > 1 {
        words.push((number >> 32) as u32);
    }
    if cells > 0 {
        words.push(number as u32);
    }
}
