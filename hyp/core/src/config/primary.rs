//! A primary guest's devices: everything on the board that neither Ballast keeps nor another guest was
//! given. Where they are and with their interrupts, as the board's tree says.

use alloc::string::ToString;
use alloc::vec::Vec;

use super::devices::pages;
use super::known::{has_board_power, is_board_power, may_do_dma};
use super::reader::Reader;
use super::{Device, GuestConfig};
use crate::addr::{Ipa, IpaRange, PAGE_SIZE, PaRange};
use crate::board::{Board, Gic, Uart, gic_node};
use crate::dt::{DeviceTree, Interrupt, InterruptKind, Node};
use crate::limits::{MAX_INTIDS, MAX_VCPUS};
use crate::machine::{GICC, GICR_STRIDE, IPA_LIMIT, Machine, SPI_BASE, UART};
use crate::quiesce::procedure;
use crate::refusal::Refusal;
use crate::sort;
use crate::vgic::IntId;
use crate::watchdog::Kind;

/// Where the emulated PL011 is if the board's console is another UART, in whose place it has no room: the
/// last page of the guest's address space.
const APART: IpaRange = IpaRange {
    start: Ipa(IPA_LIMIT.0 - PAGE_SIZE),
    size: PAGE_SIZE,
};

/// Fills in what `primary;` means: the machine's map and the devices.
pub(super) fn complete(
    guests: &mut [(GuestConfig, Node<'_>)],
    board: &Board,
    problems: &mut Vec<Refusal>,
) {
    let mut primaries = guests.iter().filter(|(guest, _)| guest.primary);
    let (Some((first, _)), second) = (primaries.next(), primaries.next()) else {
        return;
    };
    if let Some((second, node)) = second {
        let problem = alloc::format!(
            "is also said of {}, and the board's devices go to one guest",
            first.node
        );
        problems.push(
            node.refuse()
                .property("primary")
                .problem(problem)
                .fix(alloc::format!(
                    "remove it from {}, which may be given devices by path",
                    second.node
                )),
        );
        return;
    }
    let number = first.number;
    let others: Vec<Device> = guests
        .iter()
        .filter(|(guest, _)| !guest.primary)
        .flat_map(|(guest, _)| guest.devices.iter().cloned())
        .collect();
    let Some((guest, node)) = guests.iter_mut().find(|(guest, _)| guest.number == number) else {
        return;
    };
    if let Some(property) = node.property("devices") {
        let problem = "is not needed: a primary guest has every device that no other guest has";
        problems.push(property.refuse().problem(problem).fix("remove it"));
    }
    let Ok(gic) = gic_node(node.tree()) else {
        return;
    };
    guest.machine = Machine {
        watchdog: guest
            .machine
            .watchdog
            .map(|generic| watchdog(node.tree(), generic)),
        ..machine(board)
    };
    let mut gatherer = Gatherer {
        board,
        gic,
        withheld: read_withhold(*node, problems),
        machine: &guest.machine,
        others: &others,
        found: Vec::new(),
        spis: [false; MAX_INTIDS],
    };
    gatherer.below(node.tree().root());
    let Gatherer {
        found, mut spis, ..
    } = gatherer;
    guest.devices = found;
    check_trust(guest, *node, problems);
    guest.machine.balloon_intid = free_intid(guest.machine.balloon_intid, &mut spis);
    if guest.machine.uart == APART {
        guest.machine.uart_intid = free_intid(guest.machine.uart_intid, &mut spis);
    }
}

/// Where a primary guest has its interrupt controller and its console: at the board's addresses.
fn machine(board: &Board) -> Machine {
    let here = |range: PaRange, size| IpaRange {
        start: Ipa(range.start.0),
        size,
    };
    let mut machine = Machine::VIRT;
    let none = IpaRange::default();
    match &board.gic {
        Gic::V2 { gicd, gicc, .. } => {
            machine.gicd = here(*gicd, PAGE_SIZE);
            machine.gicc = here(*gicc, GICC.size);
            machine.gicr = none;
        }
        Gic::V3 {
            gicd,
            redistributors,
            ..
        } => {
            let vcpus = u64::try_from(MAX_VCPUS).unwrap_or(0);
            machine.gicd = here(*gicd, machine.gicd.size);
            machine.gicc = none;
            machine.gicr = redistributors.first().map_or(none, |first| {
                here(*first, GICR_STRIDE.saturating_mul(vcpus).min(first.size))
            });
        }
    }
    if let Some(console) = &board.console {
        if console.uart != Uart::Pl011 {
            machine.uart = APART;
            return machine;
        }
        machine.uart = here(pages(console.registers), UART.size);
        if let Some(intid) = console.intid.and_then(|intid| u8::try_from(intid).ok()) {
            machine.uart_intid = IntId(intid);
        }
    }
    machine
}

/// A primary guest's watchdog: in the place of the board's power management block if that has one, which its
/// kernel has a driver for, else `generic`.
fn watchdog(tree: &DeviceTree<'_>, generic: (Kind, IpaRange)) -> (Kind, IpaRange) {
    let is_pm = |node: &Node<'_>| node.is_enabled() && is_board_power(*node);
    let registers = tree.nodes().find(is_pm).and_then(|node| {
        let regions = node.regions().ok()?;
        regions.first().map(|region| region.start)
    });
    match registers.filter(|start| start.is_aligned(PAGE_SIZE)) {
        None => generic,
        Some(start) => {
            let range = IpaRange {
                start: Ipa(start.0),
                size: Kind::Pm.bytes(),
            };
            (Kind::Pm, range)
        }
    }
}

/// The usual interrupt if nothing else has it, else the highest that nothing has. It is taken then.
fn free_intid(usual: IntId, taken: &mut [bool; MAX_INTIDS]) -> IntId {
    let is_free = |id: &u8| taken.get(usize::from(*id)) == Some(&false);
    let first = u8::try_from(SPI_BASE).unwrap_or(u8::MAX);
    let mut candidates = core::iter::once(usual.0).chain((first..=u8::MAX).rev());
    let free = candidates.find(is_free).map_or(usual, IntId);
    if let Some(slot) = taken.get_mut(usize::from(free.0)) {
        *slot = true;
    }
    free
}

struct Gatherer<'a, 't> {
    board: &'a Board,
    gic: Node<'t>,
    machine: &'a Machine,
    /// What other guests hold.
    others: &'a [Device],
    /// Paths of what it shall not have though nobody else does.
    withheld: Vec<&'t str>,
    found: Vec<Device>,
    /// Interrupts that the board's tree names, whoever has them.
    spis: [bool; MAX_INTIDS],
}

impl<'t> Gatherer<'_, 't> {
    /// Everything in use below `bus` that a guest can have.
    fn below(&mut self, bus: Node<'t>) {
        for node in bus.children().filter(|node| node.is_enabled()) {
            if node == self.gic || is_no_device(node) || is_pmu(node) {
                continue;
            }
            let device = read(node, self.gic);
            for interrupt in &device.interrupts {
                let slot = usize::try_from(interrupt.intid)
                    .ok()
                    .and_then(|intid| self.spis.get_mut(intid));
                if let Some(slot) = slot {
                    *slot = true;
                }
            }
            if self.is_withheld(node, &device) {
                continue;
            }
            if !(device.regions.is_empty() && device.interrupts.is_empty()) {
                self.found.push(device);
            }
            self.below(node);
        }
    }

    fn is_withheld(&self, node: Node<'_>, device: &Device) -> bool {
        let beyond = device
            .regions
            .iter()
            .any(|region| region.end().0 > IPA_LIMIT.0);
        let pages: Vec<PaRange> = device.pages().collect();
        let mut own = self
            .board
            .ram
            .iter()
            .copied()
            .chain(self.board.gic.blocks());
        // The console's page and interrupt can be divided, its registers cannot.
        let console = self.board.console.as_ref();
        let mut fixed = self.machine.fixed();
        fixed.retain(|(range, _)| *range != self.machine.uart || console.is_none());
        let is_own = own.any(|range| pages.iter().any(|page| page.overlaps(range)))
            || fixed.iter().any(|(range, _)| {
                let touches =
                    |page: &PaRange| page.start.0 < range.end().0 && range.start.0 < page.end().0;
                pages.iter().any(touches)
            });
        let is_console = console.is_some_and(|console| {
            let mut regions = device.regions.iter();
            regions.any(|region| region.overlaps(console.registers))
        });
        let unfit = device.interrupts.iter().any(|interrupt| {
            let is_edge_of_console =
                !interrupt.level && console.and_then(|c| c.intid) == Some(interrupt.intid);
            interrupt.kind == InterruptKind::Spi
                && (is_edge_of_console
                    || usize::try_from(interrupt.intid).is_ok_and(|intid| intid >= MAX_INTIDS))
        });
        is_board_power(node)
            || is_powered_by_board_power(node)
            || self.withheld.iter().any(|path| *path == device.path)
            || is_console
            || beyond
            || is_own
            || unfit
            || self.others.iter().any(|other| shares(device, other))
    }
}

/// `withhold`: paths of devices.
fn read_withhold<'t>(node: Node<'t>, problems: &mut Vec<Refusal>) -> Vec<&'t str> {
    let Some(property) = node.property("withhold") else {
        return Vec::new();
    };
    let paths = property.strings().unwrap_or_else(|refusal| {
        problems.push(refusal);
        Vec::new()
    });
    for path in &paths {
        let found = node.tree().find(path).filter(|_| path.starts_with('/'));
        if found.is_none() {
            let refusal = property.refuse().value(alloc::format!("\"{path}\""));
            let fix = "give the full path of a device in the board's device tree";
            problems.push(refusal.problem("is no node of the board").fix(fix));
        }
    }
    paths
}

/// Only a primary guest has devices that it did not ask for.
pub(super) fn check_withhold(reader: &mut Reader<'_, '_>, is_primary: bool) {
    if let Some(property) = reader.node.property("withhold").filter(|_| !is_primary) {
        let problem = "is for a primary guest; others have only what devices names";
        reader.refuse(property, problem, "remove it");
    }
}

/// Whether a device gets its power from the block that stays Ballast's: nobody could turn it on.
fn is_powered_by_board_power(node: Node<'_>) -> bool {
    let cells = node
        .property("power-domains")
        .map(|domains| domains.cells());
    let Some(Ok(mut cells)) = cells else {
        return false;
    };
    let provider = cells
        .next()
        .and_then(|phandle| node.tree().by_phandle(phandle));
    provider.is_some_and(is_board_power)
}

/// Whether two devices cannot be divided: see [`super::separable`].
fn shares(device: &Device, other: &Device) -> bool {
    let overlaps = |region: &PaRange| other.regions.iter().any(|taken| taken.overlaps(*region));
    device.path == other.path
        || device.regions.iter().any(overlaps)
        || device.interrupts.iter().any(|one| {
            let same = |two: &Interrupt| two.intid == one.intid && !(one.level && two.level);
            other.interrupts.iter().any(same)
        })
}

/// Parts of the tree that describe no device, or what every guest's tree has written anew.
pub(crate) fn is_no_device(node: Node<'_>) -> bool {
    let is_memory = node
        .property("device_type")
        .is_some_and(|kind| kind.value == b"memory\0");
    let is_top = node
        .parent()
        .is_some_and(|parent| parent.parent().is_none());
    is_memory
        || (is_top
            && matches!(
                node.base_name(),
                "ballast"
                    | "chosen"
                    | "cpus"
                    | "memory"
                    | "psci"
                    | "reserved-memory"
                    | "aliases"
                    | "__symbols__"
                    | "__overrides__"
                    | "__fixups__"
                    | "__local_fixups__"
            ))
}

/// Whether `node` is a performance monitor of the cores, which guests do not see.
pub(crate) fn is_pmu(node: Node<'_>) -> bool {
    let names = node
        .property("compatible")
        .map_or(&[][..], |names| names.value);
    let mut names = names.split(|byte| *byte == 0);
    names.any(|name| {
        name == b"arm,armv8-pmuv3" || (name.starts_with(b"arm,") && name.ends_with(b"-pmu"))
    })
}

/// Registers and interrupts of `node`. It has none of the one if its addresses are not the CPU's, as those
/// on an I2C bus, and none of the other if they go to another controller, whose own interrupt is its parent's.
fn read(node: Node<'_>, gic: Node<'_>) -> Device {
    let mut regions = node.regions().unwrap_or_default();
    regions.retain(|region| region.size != 0);
    let mut interrupts = node.interrupts(gic).unwrap_or_default();
    let is_pci = node
        .property("device_type")
        .is_some_and(|kind| kind.value == b"pci\0");
    if is_pci {
        regions.extend(node.windows().unwrap_or_default());
    }
    interrupts.extend(node.mapped_interrupts(gic));
    interrupts.retain(|interrupt: &Interrupt| interrupt.kind == InterruptKind::Spi);
    sort::by_key(&mut interrupts, |interrupt| interrupt.intid);
    interrupts.dedup_by_key(|interrupt| interrupt.intid);
    Device {
        pin_groups: Vec::new(),
        path: node.path(),
        name: node.name().to_string(),
        regions,
        interrupts,
        clocks_hz: Vec::new(),
        properties: Vec::new(),
        is_dma_master: may_do_dma(node),
        has_board_power: has_board_power(node),
        quiesce: procedure(node),
    }
}

/// The devices that nobody else has may reach all of memory and of the board.
fn check_trust(guest: &GuestConfig, node: Node<'_>, problems: &mut Vec<Refusal>) {
    let mut demand = |name: &str, what: &str, is: fn(&Device) -> bool| {
        let Some(device) = guest.devices.iter().find(|device| is(device)) else {
            return;
        };
        let problem = alloc::format!("is missing: {} {what}", device.path);
        let fix = alloc::format!("write {name} = \"trusted\" if this guest is trusted with that");
        problems.push(node.refuse().property(name).problem(problem).fix(fix));
    };
    if !guest.dma_trusted {
        let what = "may do DMA, which reaches all memory of the board, as it has no IOMMU";
        demand("dma", what, |device| device.is_dma_master);
    }
    if !guest.board_trusted {
        demand("board", "has power over the whole board", |device| {
            device.has_board_power
        });
    }
}
