//! Devices of the board that a guest gets: found by path, mapped where they are (IPA = PA), with
//! their own interrupts. A device is given only if it can be separated from every other holder.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use ballast_abi::device_tree::BALLOON_SPI;

use super::known::{has_board_power, is_board_power, may_do_dma};
use super::pinctrl::PinGroup;
use super::{GuestConfig, sharing};
use crate::addr::{PAGE_SIZE, Pa, PaRange};
use crate::board::{Board, Power, gic_node};
use crate::dt::{DeviceTree, Interrupt, InterruptKind, Node, Property};
use crate::limits::MAX_INTIDS;
use crate::machine::{SPI_BASE, UART_SPI};
use crate::quiesce::{Quiesce, procedure};
use crate::refusal::Refusal;

/// A device of the board in a guest's hands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Device {
    /// Path in the board's tree.
    pub path: String,
    /// Name of its node, with unit address.
    pub name: String,
    /// Registers.
    pub regions: Vec<PaRange>,
    /// Its SPIs.
    pub interrupts: Vec<Interrupt>,
    /// Frequencies of its clocks, in Hz, in the order of `clocks`.
    pub clocks_hz: Vec<u32>,
    /// Further properties for the guest's tree.
    pub properties: Vec<(String, Vec<u8>)>,
    /// Of a GPIO controller: the groups of pins that the guest's devices come out at.
    pub pin_groups: Vec<PinGroup>,
    /// It may read and write memory by itself.
    pub is_dma_master: bool,
    /// It acts on what others use, too.
    pub has_board_power: bool,
    /// How it is made to stop doing DMA, if that is known.
    pub quiesce: Option<Quiesce>,
}

impl Device {
    /// The whole pages that the registers touch: what is mapped.
    pub fn pages(&self) -> impl Iterator<Item = PaRange> {
        self.regions.iter().map(|region| pages(*region))
    }
}

pub(super) fn pages(range: PaRange) -> PaRange {
    let start = range.start.align_down(PAGE_SIZE);
    let end = range.end().align_up(PAGE_SIZE).unwrap_or(Pa(u64::MAX));
    PaRange {
        start,
        size: end.0.saturating_sub(start.0),
    }
}

/// Properties that are written anew for the guest, or lead to nodes it does not have.
fn is_copied(name: &str) -> bool {
    const REWRITTEN: [&str; 11] = [
        "reg",
        "interrupts",
        "interrupts-extended",
        "interrupt-parent",
        "phandle",
        "linux,phandle",
        "status",
        "clocks",
        "dmas",
        "dma-names",
        "name",
    ];
    const REFERENCES: [&str; 8] = [
        "iommus",
        "msi-parent",
        "gpios",
        "power-domains",
        "resets",
        "reset-names",
        "interconnects",
        "mboxes",
    ];
    let by_pattern = name.ends_with("-supply")
        || name.ends_with("-gpios")
        || name.starts_with("pinctrl-")
        || name.starts_with("assigned-clock");
    !(REWRITTEN.contains(&name) || REFERENCES.contains(&name) || by_pattern)
}

/// The devices `node` asks for, less those that cannot be given.
pub(super) fn read(node: Node<'_>, board: &Board, problems: &mut Vec<Refusal>) -> Vec<Device> {
    let Some(property) = node.property("devices") else {
        return Vec::new();
    };
    let paths = match property.strings() {
        Ok(paths) => paths,
        Err(refusal) => {
            problems.push(refusal);
            return Vec::new();
        }
    };
    let mut devices: Vec<Device> = Vec::new();
    for path in paths {
        let device = read_one(property, path, board).and_then(|device| {
            let twice = devices.iter().any(|other| other.path == device.path);
            if twice {
                Err(refuse(property, path, "is listed twice", "list it once"))
            } else {
                Ok(device)
            }
        });
        match device {
            Ok(device) => devices.push(device),
            Err(refusal) => problems.push(refusal),
        }
    }
    devices
}

fn refuse(
    property: Property<'_>,
    path: &str,
    problem: impl core::fmt::Display,
    fix: &str,
) -> Refusal {
    property
        .refuse()
        .value(format!("\"{path}\""))
        .problem(problem)
        .fix(fix)
}

fn read_one(property: Property<'_>, path: &str, board: &Board) -> Result<Device, Refusal> {
    let tree = property.node.tree();
    let absolute = path.starts_with('/');
    let node = tree.find(path).filter(|_| absolute).ok_or_else(|| {
        refuse(
            property,
            path,
            "is no node of the board",
            "give the full path of a device in the board's device tree",
        )
    })?;
    if !node.is_enabled() {
        return Err(refuse(
            property,
            path,
            "is disabled on this board",
            "name another, or enable it there",
        ));
    }
    let wrap = |refusal: Refusal| {
        refuse(
            property,
            path,
            format!(
                "cannot be assigned: its {} {}",
                refusal.property, refusal.problem
            ),
            "name another device",
        )
    };
    let regions = node.regions().map_err(wrap)?;
    if regions.is_empty() || regions.iter().any(|region| region.size == 0) {
        return Err(refuse(
            property,
            path,
            "has no registers",
            "name a device with a reg property",
        ));
    }
    check_trust(property, path, node)?;
    let device = describe(node, gic_node(tree)?).map_err(wrap)?;
    check_against_ballast(property, path, &regions, &device.interrupts, board)?;
    Ok(device)
}

/// What the board's tree says of a device.
pub(super) fn describe(node: Node<'_>, gic: Node<'_>) -> Result<Device, Refusal> {
    let regions = node.regions()?;
    let interrupts = node.interrupts(gic)?;
    let copied = node
        .properties()
        .filter(|property| is_copied(property.name));
    let clocks_hz = clocks(node);
    let properties = copied
        .filter(|property| property.name != "clock-names" || !clocks_hz.is_empty())
        .map(|property| (property.name.to_string(), property.value.to_vec()));
    Ok(Device {
        path: node.path(),
        name: node.name().to_string(),
        regions,
        interrupts,
        properties: properties.collect(),
        pin_groups: Vec::new(),
        clocks_hz,
        is_dma_master: may_do_dma(node),
        has_board_power: has_board_power(node),
        quiesce: procedure(node),
    })
}

/// What reaches beyond the guest needs the configuration's word for it.
fn check_trust(property: Property<'_>, path: &str, node: Node<'_>) -> Result<(), Refusal> {
    let holder = property.node;
    if is_board_power(node) {
        let problem = "resets the board and turns it off, which is Ballast's";
        return Err(refuse(property, path, problem, "remove it"));
    }
    // Who tests the board asks where its pages are, and has nobody beside it.
    let is_test = holder.property("self-test").is_some();
    if may_do_dma(node) && holder.property("dma").is_none() && !is_test {
        let problem = "may do DMA, which reaches all memory of the board, as it has no IOMMU";
        let fix = "write dma = \"trusted\" if the guest is trusted with that, or name a device without DMA";
        return Err(refuse(property, path, problem, fix));
    }
    if has_board_power(node) && holder.property("board").is_none() {
        let problem = "has power over the whole board";
        let fix = "write board = \"trusted\" if the guest is trusted with that, or remove it";
        return Err(refuse(property, path, problem, fix));
    }
    Ok(())
}

/// The frequencies behind `clocks`, if all are known; else none, and the guest's driver goes without.
fn clocks(node: Node<'_>) -> Vec<u32> {
    let cells = node.property("clocks").map(|clocks| clocks.cells());
    let Some(Ok(mut cells)) = cells else {
        return Vec::new();
    };
    let mut clocks = Vec::new();
    while let Some(phandle) = cells.next() {
        let frequency = node.tree().by_phandle(phandle).and_then(|clock| {
            let width = clock.u32("#clock-cells").ok().flatten().unwrap_or(0);
            let which = (width != 0).then(|| cells.next()).flatten();
            // More than one cell is no clock of these.
            frequency(clock, which).filter(|_| width <= 1)
        });
        let Some(frequency) = frequency else {
            return Vec::new();
        };
        clocks.push(frequency);
    }
    clocks
}

/// What a clock runs at: fixed ones say so, of the BCM2711's those that its firmware sets at boot are known
/// (config.txt's `init_uart_clock` and `core_freq`, unless changed there).
fn frequency(clock: Node<'_>, which: Option<u32>) -> Option<u32> {
    /// Linux's `dt-bindings/clock/bcm2835.h`.
    const UART: u32 = 19;
    const VPU: u32 = 20;
    const UART_HZ: u32 = 48_000_000;
    const VPU_HZ: u32 = 500_000_000;
    if clock.is_compatible("fixed-clock") {
        return clock.u32("clock-frequency").ok().flatten();
    }
    if clock.is_compatible("brcm,bcm2711-cprman") {
        return match which? {
            UART => Some(UART_HZ),
            VPU => Some(VPU_HZ),
            _ => None,
        };
    }
    // The mini-UART's and the auxiliary SPIs' are gates of the VPU's.
    clock.is_compatible("brcm,bcm2835-aux").then_some(VPU_HZ)
}

/// What Ballast drives itself, or emulates under the same interrupt number, is not given away.
fn check_against_ballast(
    property: Property<'_>,
    path: &str,
    regions: &[PaRange],
    interrupts: &[Interrupt],
    board: &Board,
) -> Result<(), Refusal> {
    let fix = "remove it";
    if board
        .console
        .as_ref()
        .is_some_and(|console| console.path == path)
    {
        let problem = "is the console UART, which Ballast drives";
        return Err(refuse(property, path, problem, fix));
    }
    for region in regions {
        let page = pages(*region);
        if board.ram.iter().any(|ram| ram.overlaps(page)) {
            return Err(refuse(
                property,
                path,
                "is RAM",
                "use memory-mib or extra-ram",
            ));
        }
        if board.gic.blocks().iter().any(|block| block.overlaps(page)) {
            return Err(refuse(
                property,
                path,
                "is the interrupt controller, which Ballast drives",
                fix,
            ));
        }
        if let Some(Power::Pm(registers)) = board.power
            && pages(registers).overlaps(page)
        {
            let problem = "resets the board and turns it off, which is Ballast's";
            return Err(refuse(property, path, problem, fix));
        }
    }
    for interrupt in interrupts {
        let intid = interrupt.intid;
        if interrupt.kind == InterruptKind::Ppi {
            return Err(refuse(
                property,
                path,
                format!("has a private interrupt ({intid})"),
                "name a device with SPIs",
            ));
        }
        if usize::try_from(intid).is_ok_and(|intid| intid >= MAX_INTIDS) {
            let problem = format!(
                "has interrupt {intid}, beyond the {MAX_INTIDS} that a guest's interrupt controller has"
            );
            return Err(refuse(property, path, problem, fix));
        }
        let own = [UART_SPI, BALLOON_SPI].map(|spi| spi.saturating_add(SPI_BASE));
        if own.contains(&intid) {
            let problem =
                format!("has interrupt {intid}, which Ballast's own devices use in every guest");
            return Err(refuse(property, path, problem, fix));
        }
    }
    Ok(())
}

/// What else of the board is in a page that a guest gets with its device.
pub(crate) fn neighbours(guests: &[GuestConfig], tree: &DeviceTree<'_>) -> Vec<Refusal> {
    let mut warnings = Vec::new();
    for guest in guests {
        for device in &guest.devices {
            let pages: Vec<PaRange> = device.pages().collect();
            let mapped = sharing::without_trapped(guest, &pages);
            let shares = |node: &Node<'_>| {
                let held = guest.devices.iter().any(|other| other.path == node.path());
                let overlaps = |region: PaRange| mapped.iter().any(|page| page.overlaps(region));
                !held
                    && node.is_enabled()
                    && node
                        .regions()
                        .is_ok_and(|regions| regions.into_iter().any(overlaps))
            };
            if let Some(neighbour) = tree.nodes().find(shares) {
                let warning = Refusal::new(&guest.node)
                    .property("devices")
                    .value(format!("\"{}\"", device.path));
                let problem = format!(
                    "also gives access to {}, which is in the same 4 KiB page",
                    neighbour.path()
                );
                warnings.push(warning.problem(problem));
            }
        }
    }
    warnings
}
