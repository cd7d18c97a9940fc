//! One guest's node.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use super::names::{self, Known};
use super::reader::Reader;
use super::{CpuConfig, GuestConfig, MemoryConfig, amounts, devices, pins, primary, trust};
use crate::addr::{Ipa, IpaRange};
use crate::board::Board;
use crate::console::OWN_NAME;
use crate::dt::Node;
use crate::limits::MAX_GUESTS;
use crate::machine::{MESSAGES, Machine, RAM_BASE, WATCHDOG};
use crate::mediate::Mediated;
use crate::refusal::Refusal;
use crate::watchdog::Kind;

const GUEST_COMPATIBLE: &str = "ballast,guest";
/// Longest guest name; it is printed before each line of the shared console.
const MAX_NAME_BYTES: usize = 31;
/// What a node's name may have beside letters and digits (DT spec 0.4, 2.2.1).
const NAME_PUNCTUATION: &str = ",._+-";
/// Longest command line: Linux's COMMAND_LINE_SIZE on arm64, with the NUL.
const MAX_BOOTARGS_BYTES: usize = 2048;
const DEFAULT_SHARES: u32 = 100;
const MAX_SHARES: u32 = 10_000;

pub(super) const PROPERTIES: [Known; 34] = [
    Known::now("compatible"),
    Known::now("reg"),
    Known::now("status"),
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
    Known::now("gpios"),
    Known::now("load-address"),
    Known::now("entry"),
    Known::now("dtb-address"),
    Known::now("extra-ram"),
    Known::now("raz-windows"),
    Known::now("realtime"),
    Known::now("dma"),
    Known::now("board"),
    Known::now("on-reset"),
    Known::now("primary"),
    Known::now("control"),
    Known::now("self-test"),
    Known::now("harden"),
    Known::now("user-balloon"),
    Known::now("watchdog"),
    Known::now("withhold"),
    Known::later("housekeeping"),
    Known::now("scrub-when-idle"),
];

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
    let memory = amounts::read_memory(&mut reader);
    let cpus = amounts::read_cpus(&mut reader, board);
    let watchdog = reader.flag("watchdog");
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
        scrub_when_idle: reader.flag("scrub-when-idle"),
        control: reader.flag("control"),
        self_test: reader.flag("self-test"),
        harden: reader.flag("harden"),
        primary: reader.flag("primary"),
        dma_trusted: trust::is_trusted(&mut reader, "dma"),
        board_trusted: trust::is_trusted(&mut reader, "board"),
        on_reset: trust::read_on_reset(&mut reader),
        machine: Machine {
            watchdog: watchdog.then_some((Kind::Generic, WATCHDOG)),
            ..Machine::VIRT
        },
        mediated: Mediated {
            gpio: pins::read(node, reader.problems),
            ..Mediated::default()
        },
    };
    if reader.flag("user-balloon") {
        guest.machine.messages = MESSAGES;
        check_user_balloon(&mut reader, &guest);
    }
    check_addresses(&mut reader, &guest);
    trust::check(&mut reader, &guest, board);
    primary::check_withhold(&mut reader, guest.primary);
    if guest.realtime {
        amounts::check_realtime(&mut reader, &guest);
    }
    check_map(&mut reader, &guest, board);
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
    let problem = name_problem(name, "guest").or_else(|| {
        name.eq_ignore_ascii_case(OWN_NAME)
            .then(|| "has the name that Ballast's own lines carry on the console".to_string())
    });
    if let Some(problem) = problem {
        let refusal = reader.node.refuse().problem(problem);
        reader.problems.push(refusal.fix("rename it"));
    }
    name.to_string()
}

/// Why `name` cannot be the name of a `what`.
pub(super) fn name_problem(name: &str, what: &str) -> Option<String> {
    let is_letter =
        |character: char| character.is_ascii_alphanumeric() || NAME_PUNCTUATION.contains(character);
    let is_name = name.len() <= MAX_NAME_BYTES
        && name.starts_with(|first: char| first.is_ascii_alphabetic())
        && name.chars().all(is_letter);
    (!is_name).then(|| {
        format!(
            "is no {what} name: a letter first, at most {MAX_NAME_BYTES} letters, digits and {NAME_PUNCTUATION}"
        )
    })
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

/// A program without a kernel module gives what its kernel has, and takes back what it has given.
fn check_user_balloon(reader: &mut Reader<'_, '_>, guest: &GuestConfig) {
    let Some(property) = reader.node.property("user-balloon") else {
        return;
    };
    let memory = guest.memory;
    if guest.primary {
        let problem = "a primary guest has the board's UARTs and no other";
        reader.refuse(property, problem, "remove it, and use the kernel module");
    } else if memory.boot_bytes < memory.max_bytes {
        let problem = format!(
            "without a kernel module the guest can never use more than it boots with, which is less than its maximum of \
             {} MiB",
            memory.max_bytes >> 20
        );
        let fix = format!(
            "write memory-mib = <{0}>, or memory-max-mib = <{1}>",
            memory.max_bytes >> 20,
            memory.boot_bytes >> 20
        );
        reader.refuse(property, problem, fix);
    }
    let mut interrupts = guest.devices.iter().flat_map(|device| &device.interrupts);
    let own = u32::from(guest.machine.messages_intid.0);
    if interrupts.any(|interrupt| interrupt.intid == own) {
        let problem = format!("has interrupt {own}, which a device of the guest has");
        reader.refuse(property, problem, "remove one of the two");
    }
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
            guest.dtb_bytes() >> 10
        );
        reader.refuse(property, problem, "use a multiple of 8");
    }
}

/// Nothing in the guest's address space lies on something else.
fn check_map(reader: &mut Reader<'_, '_>, guest: &GuestConfig, board: &Board) {
    let ram = IpaRange {
        start: RAM_BASE,
        size: guest.memory.max_bytes,
    };
    let fixed = guest.machine.fixed().into_iter();
    let mut taken: Vec<(IpaRange, String)> = fixed
        .map(|(range, what)| (range, what.to_string()))
        .collect();
    if guest.is_identity() {
        let board = board.ram.iter().map(|range| IpaRange {
            start: Ipa(range.start.0),
            size: range.size,
        });
        taken.extend(board.map(|ram| (ram, "RAM of the board".to_string())));
    } else {
        taken.push((ram, "the guest's RAM up to memory-max-mib".to_string()));
    }
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
            taken.push((*range, format!("a range of {name}")));
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
                    "has {} at {}, where {what} is in the guest",
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
