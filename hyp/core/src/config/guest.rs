//! One guest's node.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use super::names::{self, Known};
use super::{CpuConfig, GuestConfig, MemoryConfig, devices};
use crate::addr::{Ipa, IpaRange, MIB, PAGE_SIZE};
use crate::board::Board;
use crate::dt::{Node, Property};
use crate::image::DTB_SLOT_BYTES;
use crate::limits::{MAX_GUESTS, MAX_VCPUS};
use crate::machine::{FIXED, IPA_LIMIT, RAM_BASE};
use crate::refusal::Refusal;

const GUEST_COMPATIBLE: &str = "ballast,guest";
/// Longest guest name; it is printed before each line of the shared console.
const MAX_NAME_BYTES: usize = 31;
/// Longest command line: Linux's COMMAND_LINE_SIZE on arm64, with the NUL.
const MAX_BOOTARGS_BYTES: usize = 2048;
const DEFAULT_SHARES: u32 = 100;
const MAX_SHARES: u32 = 10_000;
/// Memory is configured in whole 2 MiB blocks.
const BLOCK_MIB: u32 = 2;
const SMALLEST_MIB: u32 = 4;

const PROPERTIES: [Known; 28] = [
    Known::now("compatible"),
    Known::now("reg"),
    Known::now("kernel"),
    Known::now("ramdisk"),
    Known::now("bootargs"),
    Known::now("memory-mib"),
    Known::now("memory-min-mib"),
    Known::now("memory-max-mib"),
    Known::now("cpus"),
    Known::now("cpus-min"),
    Known::now("cpus-max"),
    Known::now("cpu-list"),
    Known::now("shares"),
    Known::now("devices"),
    Known::now("load-address"),
    Known::now("entry"),
    Known::now("dtb-address"),
    Known::now("extra-ram"),
    Known::now("raz-windows"),
    Known::now("realtime"),
    Known::later("dma"),
    Known::later("board"),
    Known::later("primary"),
    Known::later("control"),
    Known::later("housekeeping"),
    Known::later("scrub-when-idle"),
    Known::later("harden"),
    Known::later("user-balloon"),
];

/// Reads properties of one guest, collecting what is wrong.
struct Reader<'t, 'p> {
    node: Node<'t>,
    problems: &'p mut Vec<Refusal>,
}

impl<'t> Reader<'t, '_> {
    /// `value`, or its refusal recorded.
    fn keep<T>(&mut self, value: Result<T, Refusal>) -> Option<T> {
        value.map_err(|refusal| self.problems.push(refusal)).ok()
    }

    fn refuse(
        &mut self,
        property: Property<'t>,
        problem: impl core::fmt::Display,
        fix: impl core::fmt::Display,
    ) {
        self.problems
            .push(property.refuse().problem(problem).fix(fix));
    }

    fn number(&mut self, name: &str) -> Option<u32> {
        let value = self.node.u32(name);
        self.keep(value).flatten()
    }

    fn string(&mut self, name: &str) -> Option<&'t str> {
        let value = self.node.str(name);
        self.keep(value).flatten()
    }

    /// A property without value.
    fn flag(&mut self, name: &str) -> bool {
        let Some(property) = self.node.property(name) else {
            return false;
        };
        if !property.value.is_empty() {
            self.refuse(
                property,
                "has a value",
                format!("write {name}; to turn it on, or leave it out"),
            );
        }
        true
    }

    /// An address, page aligned or not.
    fn address(&mut self, name: &str) -> Option<Ipa> {
        let property = self.node.property(name)?;
        let value = property.as_u64();
        let address = self.keep(value).map(Ipa)?;
        if address >= IPA_LIMIT {
            self.refuse(
                property,
                "is beyond the guest's address space",
                format!("choose one below {IPA_LIMIT}"),
            );
        }
        Some(address)
    }

    /// Pairs of address and size, two cells each, whole pages.
    fn ranges(&mut self, name: &str) -> Vec<IpaRange> {
        let Some(property) = self.node.property(name) else {
            return Vec::new();
        };
        let cells = property.cells();
        let Some(cells) = self.keep(cells) else {
            return Vec::new();
        };
        let cells: Vec<u64> = cells.map(u64::from).collect();
        let (quads, rest) = cells.as_chunks::<4>();
        if !rest.is_empty() || quads.is_empty() {
            let fix = "write an address and a size of two cells each, as in <0x0 0x80000000 0x0 0x100000>";
            self.refuse(property, "is not made of address and size pairs", fix);
            return Vec::new();
        }
        let join = |high: u64, low: u64| (high << 32) | low;
        let pair = |[a, b, c, d]: &[u64; 4]| IpaRange {
            start: Ipa(join(*a, *b)),
            size: join(*c, *d),
        };
        let ranges: Vec<IpaRange> = quads.iter().map(pair).collect();
        for range in &ranges {
            let whole = range.start.is_aligned(PAGE_SIZE) && Ipa(range.size).is_aligned(PAGE_SIZE);
            let inside = range
                .start
                .checked_add(range.size)
                .is_some_and(|end| end <= IPA_LIMIT);
            if !whole || range.size == 0 || !inside {
                let problem = format!(
                    "has a range ({}, {:#x} bytes) that is not of whole pages below {IPA_LIMIT}",
                    range.start, range.size
                );
                self.refuse(property, problem, "use multiples of 0x1000");
            }
        }
        ranges
    }
}

/// Reads the guest at `node`; `None` if it is too broken to be compared with others.
pub(super) fn parse(
    node: Node<'_>,
    board: &Board,
    problems: &mut Vec<Refusal>,
) -> Option<GuestConfig> {
    let mut reader = Reader { node, problems };
    if !node.is_compatible(GUEST_COMPATIBLE) {
        let refusal = node
            .property("compatible")
            .map_or_else(|| node.refuse().property("compatible"), |p| p.refuse());
        let problem = format!("does not name \"{GUEST_COMPATIBLE}\"");
        reader.problems.push(
            refusal
                .problem(problem)
                .fix(format!("write compatible = \"{GUEST_COMPATIBLE}\"")),
        );
        return None;
    }
    names::check(node, &PROPERTIES, reader.problems);
    for child in node.children() {
        reader.problems.push(
            child
                .refuse()
                .problem("a guest has no child nodes")
                .fix("remove it"),
        );
    }
    let number = read_number(&mut reader);
    let name = read_name(&mut reader);
    let kernel = read_kernel(&mut reader);
    let memory = read_memory(&mut reader);
    let cpus = read_cpus(&mut reader, board);
    let mut guest = GuestConfig {
        number: number.unwrap_or(0),
        name,
        node: node.path(),
        kernel: kernel.unwrap_or_default(),
        ramdisk: reader.string("ramdisk").map(ToString::to_string),
        bootargs: read_bootargs(&mut reader),
        memory: memory.unwrap_or(MemoryConfig {
            boot_bytes: 0,
            min_bytes: 0,
            max_bytes: 0,
        }),
        cpus: cpus.unwrap_or(CpuConfig {
            boot: 0,
            min: 0,
            max: 0,
            list: Vec::new(),
        }),
        shares: read_shares(&mut reader),
        devices: devices::read(node, board, reader.problems),
        load_address: reader.address("load-address"),
        entry: reader.address("entry"),
        dtb_address: reader.address("dtb-address"),
        extra_ram: reader.ranges("extra-ram"),
        raz_windows: reader.ranges("raz-windows"),
        realtime: reader.flag("realtime"),
    };
    check_addresses(&mut reader, &guest);
    if guest.realtime {
        check_realtime(&mut reader, &guest);
    }
    check_map(&mut reader, &guest);
    guest.devices.retain(|device| !device.regions.is_empty());
    (number.is_some()).then_some(guest)
}

fn read_number(reader: &mut Reader<'_, '_>) -> Option<u8> {
    let property = reader.node.require("reg").map_err(|refusal| {
        refusal.fix(format!(
            "write reg = <N>, N from 1 to {MAX_GUESTS}: the guest's number and place in the order"
        ))
    });
    let property = reader.keep(property)?;
    let value = property.as_u32();
    let value = reader.keep(value)?;
    let number = u8::try_from(value)
        .ok()
        .filter(|number| (1..=MAX_GUESTS).contains(&usize::from(*number)));
    if number.is_none() {
        reader.refuse(
            property,
            "is no guest number",
            format!("choose one from 1 to {MAX_GUESTS}"),
        );
    } else if reader
        .node
        .name()
        .split_once('@')
        .is_none_or(|(_, unit)| u32::from_str_radix(unit, 16) != Ok(value))
    {
        let fix = format!("call the node {}@{value}", reader.node.base_name());
        reader.refuse(
            property,
            format!("is not the unit address of {}", reader.node.name()),
            fix,
        );
    }
    number
}

fn read_name(reader: &mut Reader<'_, '_>) -> String {
    let name = reader.node.base_name();
    if name.len() > MAX_NAME_BYTES || !name.starts_with(|first: char| first.is_ascii_alphabetic()) {
        let problem =
            format!("is no guest name: a letter first, at most {MAX_NAME_BYTES} characters");
        reader
            .problems
            .push(reader.node.refuse().problem(problem).fix("rename it"));
    }
    name.to_string()
}

fn read_kernel(reader: &mut Reader<'_, '_>) -> Option<String> {
    let property = reader.node.require("kernel");
    let property = property
        .map_err(|refusal| refusal.fix("write kernel = \"NAME\", a file in the boot archive"));
    let name = property.and_then(|property| property.as_str());
    reader.keep(name).map(ToString::to_string)
}

fn read_bootargs(reader: &mut Reader<'_, '_>) -> String {
    let Some(property) = reader.node.property("bootargs") else {
        return String::new();
    };
    if property.value.len() > MAX_BOOTARGS_BYTES {
        let problem = format!(
            "is longer than {} characters, which Linux cuts",
            MAX_BOOTARGS_BYTES.saturating_sub(1)
        );
        reader.refuse(property, problem, "shorten it");
    }
    // An empty command line is one.
    if property.value == [0] {
        return String::new();
    }
    reader.string("bootargs").unwrap_or_default().to_string()
}

fn read_shares(reader: &mut Reader<'_, '_>) -> u32 {
    let shares = reader.number("shares").unwrap_or(DEFAULT_SHARES);
    if let Some(property) = reader
        .node
        .property("shares")
        .filter(|_| !(1..=MAX_SHARES).contains(&shares))
    {
        reader.refuse(
            property,
            "is no weight",
            format!("choose one from 1 to {MAX_SHARES}"),
        );
    }
    shares
}

/// A size in MiB, in whole blocks.
fn read_mib(reader: &mut Reader<'_, '_>, name: &str) -> Option<u32> {
    let property = reader.node.property(name)?;
    let mib = property.as_u32();
    let mib = reader.keep(mib)?;
    if mib < SMALLEST_MIB || !mib.is_multiple_of(BLOCK_MIB) {
        let up = mib
            .max(SMALLEST_MIB)
            .checked_next_multiple_of(BLOCK_MIB)
            .unwrap_or(SMALLEST_MIB);
        reader.refuse(
            property,
            "is not a multiple of 2 MiB from 4 on",
            format!("write {name} = <{up}>"),
        );
        return None;
    }
    Some(mib)
}

fn read_memory(reader: &mut Reader<'_, '_>) -> Option<MemoryConfig> {
    let required = reader.node.require("memory-mib");
    let required = required
        .map_err(|refusal| refusal.fix("write memory-mib = <N>, the RAM to boot with, in MiB"));
    reader.keep(required)?;
    let boot = read_mib(reader, "memory-mib");
    let min = read_mib(reader, "memory-min-mib");
    let max = read_mib(reader, "memory-max-mib");
    let boot = boot?;
    let (min, max) = (min.unwrap_or(boot), max.unwrap_or(boot));
    if let Some(property) = reader
        .node
        .property("memory-min-mib")
        .filter(|_| min > boot)
    {
        reader.refuse(
            property,
            format!("is above memory-mib = <{boot}>"),
            format!("choose at most {boot}, or raise memory-mib"),
        );
    }
    if let Some(property) = reader
        .node
        .property("memory-max-mib")
        .filter(|_| max < boot)
    {
        reader.refuse(
            property,
            format!("is below memory-mib = <{boot}>"),
            format!("choose at least {boot}, or lower memory-mib"),
        );
    }
    let room = IPA_LIMIT.0.saturating_sub(RAM_BASE.0);
    if let Some(property) = reader
        .node
        .property("memory-max-mib")
        .or(reader.node.property("memory-mib"))
        && u64::from(max).saturating_mul(MIB) > room
    {
        reader.refuse(
            property,
            "is beyond the guest's address space",
            format!("choose at most {}", room >> 20),
        );
        return None;
    }
    let bytes = |mib: u32| u64::from(mib).saturating_mul(MIB);
    Some(MemoryConfig {
        boot_bytes: bytes(boot),
        min_bytes: bytes(min),
        max_bytes: bytes(max),
    })
}

fn read_cpus(reader: &mut Reader<'_, '_>, board: &Board) -> Option<CpuConfig> {
    let boot = reader.number("cpus").unwrap_or(1);
    let min = reader.number("cpus-min").unwrap_or(boot);
    let max = reader.number("cpus-max").unwrap_or(boot);
    let most = u32::try_from(MAX_VCPUS).unwrap_or(u32::MAX);
    for (name, value) in [("cpus", boot), ("cpus-min", min), ("cpus-max", max)] {
        if let Some(property) = reader
            .node
            .property(name)
            .filter(|_| !(1..=most).contains(&value))
        {
            reader.refuse(
                property,
                "is no number of CPUs a guest can have",
                format!("choose one from 1 to {most}"),
            );
        }
    }
    if let Some(property) = reader.node.property("cpus-min").filter(|_| min > boot) {
        reader.refuse(
            property,
            format!("is above cpus = <{boot}>"),
            format!("choose at most {boot}, or raise cpus"),
        );
    }
    if let Some(property) = reader.node.property("cpus-max").filter(|_| max < boot) {
        reader.refuse(
            property,
            format!("is below cpus = <{boot}>"),
            format!("choose at least {boot}, or lower cpus"),
        );
    }
    let list = read_cpu_list(reader, board, boot)?;
    Some(CpuConfig {
        boot,
        min,
        max,
        list,
    })
}

fn read_cpu_list(reader: &mut Reader<'_, '_>, board: &Board, boot: u32) -> Option<Vec<u32>> {
    let Some(property) = reader.node.property("cpu-list") else {
        return Some(Vec::new());
    };
    let cells = property.cells();
    let list: Vec<u32> = reader.keep(cells)?.collect();
    let cores = u32::try_from(board.cores.len()).unwrap_or(u32::MAX);
    if u32::try_from(list.len()) != Ok(boot) {
        reader.refuse(
            property,
            format!("does not list one core for each of cpus = <{boot}>"),
            format!("list {boot}"),
        );
    }
    if list.iter().any(|core| *core >= cores) {
        let last = cores.saturating_sub(1);
        reader.refuse(
            property,
            format!("names a core that the board does not have, it has {cores}"),
            format!("choose from 0 to {last}"),
        );
    }
    let twice = list
        .iter()
        .enumerate()
        .any(|(index, core)| list.iter().take(index).any(|other| other == core));
    if twice {
        reader.refuse(property, "names a core twice", "name each once");
    }
    Some(list)
}

fn check_addresses(reader: &mut Reader<'_, '_>, guest: &GuestConfig) {
    if guest.load_address.is_none()
        && let Some(property) = reader.node.property("entry")
    {
        reader.refuse(
            property,
            "needs load-address",
            "add load-address for a raw binary, or remove entry",
        );
    }
    if let (Some(property), Some(address)) = (reader.node.property("entry"), guest.entry)
        && !address.is_aligned(4)
    {
        reader.refuse(
            property,
            "is not aligned to an instruction",
            "use a multiple of 4",
        );
    }
    if let (Some(property), Some(address)) =
        (reader.node.property("dtb-address"), guest.dtb_address)
        && !address.is_aligned(8)
    {
        let problem = format!(
            "is not aligned to 8 bytes, for a device tree of up to {} KiB",
            DTB_SLOT_BYTES >> 10
        );
        reader.refuse(property, problem, "use a multiple of 8");
    }
}

/// A real-time guest's memory and cores never change, so a range of them is a contradiction.
fn check_realtime(reader: &mut Reader<'_, '_>, guest: &GuestConfig) {
    let MemoryConfig {
        boot_bytes,
        min_bytes,
        max_bytes,
    } = guest.memory;
    let CpuConfig { boot, min, max, .. } = guest.cpus;
    let changing = [
        ("memory-min-mib", min_bytes != boot_bytes),
        ("memory-max-mib", max_bytes != boot_bytes),
        ("cpus-min", min != boot),
        ("cpus-max", max != boot),
    ];
    for (name, differs) in changing {
        if let Some(property) = reader.node.property(name).filter(|_| differs) {
            reader.refuse(
                property,
                "contradicts realtime, which fixes memory and cores",
                "remove one of the two",
            );
        }
    }
}

/// Nothing in the guest's address space lies on something else.
fn check_map(reader: &mut Reader<'_, '_>, guest: &GuestConfig) {
    let ram = IpaRange {
        start: RAM_BASE,
        size: guest.memory.max_bytes,
    };
    let mut taken: Vec<(IpaRange, String)> = FIXED
        .iter()
        .map(|(range, what)| (*range, (*what).to_string()))
        .collect();
    taken.push((ram, "the guest's RAM up to memory-max-mib".to_string()));
    for (name, ranges) in [
        ("extra-ram", &guest.extra_ram),
        ("raz-windows", &guest.raz_windows),
    ] {
        for range in ranges {
            if let (Some(property), Some((_, what))) = (
                reader.node.property(name),
                taken.iter().find(|(other, _)| other.overlaps(*range)),
            ) {
                let problem = format!("lies on {what} ({}-{})", range.start, range.end());
                reader.refuse(property, problem, "choose another address");
            }
            taken.push((*range, format!("another range of {name}")));
        }
    }
    for device in &guest.devices {
        for page in device.pages() {
            let range = IpaRange {
                start: Ipa(page.start.0),
                size: page.size,
            };
            if let (Some(property), Some((_, what))) = (
                reader.node.property("devices"),
                taken.iter().find(|(other, _)| other.overlaps(range)),
            ) {
                let problem = format!(
                    "has {} at {}, which is {what} in the guest",
                    device.path, range.start
                );
                reader.refuse(
                    property,
                    problem,
                    "remove the device, or move what it lies on",
                );
            }
        }
    }
}
