//! Pages and interrupts of devices with several holders: who gets what of them, and what cannot be
//! divided. Holders are the guests and Ballast itself, with its console.
//!
//! Done when every guest's devices are known. Registers are divided byte by byte as the board's tree
//! says; blocks whose registers are shared bit by bit are known one by one (GPIO, AUX), and what is
//! neither is refused.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::devices::{self, Device};
use super::known::may_do_dma;
use super::{GuestConfig, pins, separable};
use crate::addr::{Ipa, IpaRange, PAGE_SIZE, Pa, PaRange};
use crate::board::{Board, subtract};
use crate::dt::{DeviceTree, Node};
use crate::mediate::line::LIMIT_US;
use crate::mediate::{Page, Part, What};
use crate::refusal::Refusal;
use crate::sort;

/// The clock and interrupt switch of mini-UART, SPI1 and SPI2 (BCM2711 ARM Peripherals 2.1.1).
const AUX: &str = "brcm,bcm2835-aux";
/// Bytes of registers of each of the three, which follow the switch in its page.
const AUX_BLOCK_BYTES: u64 = 0x40;

pub(super) type Guests<'t> = [(GuestConfig, Node<'t>)];

/// Divides what is shared and refuses what cannot be.
pub(super) fn divide(
    guests: &mut Guests<'_>,
    tree: &DeviceTree<'_>,
    board: &Board,
    problems: &mut Vec<Refusal>,
) {
    let gpio = pins::find(tree);
    let gpio_path = gpio.as_ref().map(|gpio| &*gpio.path);
    let aux = tree.nodes().find(|node| node.is_compatible(AUX));
    let aux = aux.and_then(|node| node.regions().ok()?.first().copied());
    let before = problems.len();
    pins::divide(guests, gpio.as_ref(), board, problems);
    separable::check(guests, gpio_path, board, problems);
    if problems.len() > before {
        return;
    }
    let strangers = strangers(guests, tree);
    let candidates = candidates(guests, board, &strangers);
    for index in 0..guests.len() {
        let interrupts = shared_interrupts(guests, index, board);
        let mut trapped = Vec::new();
        for page in &candidates {
            if is_trapped(guests, index, *page, board, &strangers, gpio_path) {
                trapped.push(*page);
            }
        }
        let bits = aux.map_or(0, |switch| aux_bits(guests, index, switch, board));
        let Some((guest, _)) = guests.get_mut(index) else {
            continue;
        };
        guest.mediated.interrupts = interrupts;
        let has_switch = |switch: &PaRange| regions(guest).any(|region| region.overlaps(*switch));
        guest.mediated.aux = aux
            .filter(|switch| bits != 0 && !has_switch(switch))
            .map(|switch| (switch.start, bits));
        let parts_of = |page: &PaRange| {
            let mut parts = parts(guest, *page, gpio_path);
            if let Some(part) = aux.and_then(|switch| part(switch, *page, What::Aux(bits))) {
                parts.retain(|other| other.first > part.last);
                parts.push(part);
            }
            parts.extend(console_part(guest, *page, board));
            sort::by_key(&mut parts, |part| part.first);
            Page {
                start: page.start,
                parts,
            }
        };
        guest.mediated.pages = trapped.iter().map(parts_of).collect();
        narrow_console(guest, board);
    }
}

/// What a guest has mapped of its devices: whole pages, sorted and disjoint, less what is trapped or
/// emulated there.
#[must_use]
pub fn device_pages(guest: &GuestConfig) -> Vec<PaRange> {
    let all: Vec<PaRange> = guest.devices.iter().flat_map(Device::pages).collect();
    let fixed = guest.machine.fixed().into_iter().map(|(range, _)| {
        devices::pages(PaRange {
            start: Pa(range.start.0),
            size: range.size,
        })
    });
    let mapped = subtract(&all, &fixed.collect::<Vec<_>>());
    without_trapped(guest, &mapped)
}

/// `pages` less those that are trapped for the guest.
pub(super) fn without_trapped(guest: &GuestConfig, pages: &[PaRange]) -> Vec<PaRange> {
    let trapped = guest.mediated.pages.iter().map(|page| PaRange {
        start: page.start,
        size: PAGE_SIZE,
    });
    subtract(pages, &trapped.collect::<Vec<_>>())
}

/// Registers that a guest holds.
fn regions(guest: &GuestConfig) -> impl Iterator<Item = PaRange> {
    guest
        .devices
        .iter()
        .flat_map(|device| device.regions.iter().copied())
}

/// Devices that nobody holds and that may do DMA: no neighbour may reach them.
fn strangers(guests: &Guests<'_>, tree: &DeviceTree<'_>) -> Vec<PaRange> {
    let may_meet = |guest: &GuestConfig| !guest.dma_trusted && !guest.devices.is_empty();
    if !guests.iter().any(|(guest, _)| may_meet(guest)) {
        return Vec::new();
    }
    let held = |node: &Node<'_>| {
        let path = node.path();
        let mut devices = guests.iter().flat_map(|(guest, _)| &guest.devices);
        devices.any(|device| device.path == path)
    };
    tree.nodes()
        .filter(|node| node.property("reg").is_some() && node.is_enabled() && may_do_dma(*node))
        .filter(|node| !held(node))
        .flat_map(|node| node.regions().unwrap_or_default())
        .filter(|region| region.size != 0)
        .collect()
}

/// Pages in which a device begins or ends: no other can have two holders.
fn candidates(guests: &Guests<'_>, board: &Board, strangers: &[PaRange]) -> Vec<PaRange> {
    let console = board.console.iter().map(|console| console.registers);
    let mut pages: Vec<PaRange> = guests
        .iter()
        .flat_map(|(guest, _)| regions(guest))
        .chain(console)
        .chain(strangers.iter().copied())
        .flat_map(|region| {
            let last = Pa(region.end().0.saturating_sub(1));
            [region.start, last].map(|at| PaRange {
                start: at.align_down(PAGE_SIZE),
                size: PAGE_SIZE,
            })
        })
        .collect();
    sort::by_key(&mut pages, |page| page.start);
    pages.dedup();
    pages
}

/// Whether guest `index` has something in `page` and others, too.
fn is_trapped(
    guests: &Guests<'_>,
    index: usize,
    page: PaRange,
    board: &Board,
    strangers: &[PaRange],
    gpio_path: Option<&str>,
) -> bool {
    let has = |guest: &GuestConfig| regions(guest).any(|region| region.overlaps(page));
    let Some((guest, _)) = guests.get(index).filter(|(guest, _)| has(guest)) else {
        return false;
    };
    let mut others = guests.iter().enumerate();
    let is_others = others.any(|(other, (guest, _))| other != index && has(guest));
    let is_own = board
        .console
        .as_ref()
        .is_some_and(|console| console.registers.overlaps(page));
    let is_stranger = !guest.dma_trusted && strangers.iter().any(|region| region.overlaps(page));
    let is_split = guest.mediated.gpio.pins() != 0
        && guest.devices.iter().any(|device| {
            gpio_path == Some(&*device.path) && device.pages().any(|own| own.overlaps(page))
        });
    is_others || is_own || is_stranger || is_split
}

/// The offsets of `region` in `page`; `None` if it lies outside.
fn part(region: PaRange, page: PaRange, what: What) -> Option<Part> {
    let offset = |at: u64| u16::try_from(at.saturating_sub(page.start.0).min(PAGE_SIZE - 1)).ok();
    if !region.overlaps(page) || region.size == 0 {
        return None;
    }
    Some(Part {
        first: offset(region.start.0)?,
        last: offset(region.end().0.saturating_sub(1))?,
        what,
    })
}

/// What the guest's own devices have in `page`.
fn parts(guest: &GuestConfig, page: PaRange, gpio_path: Option<&str>) -> Vec<Part> {
    let mut parts = Vec::new();
    for device in &guest.devices {
        let is_gpio = guest.mediated.gpio.pins() != 0 && gpio_path == Some(&*device.path);
        let what = if is_gpio { What::Gpio } else { What::Device };
        let inside = device.regions.iter();
        parts.extend(inside.filter_map(|region| part(*region, page, what)));
    }
    parts
}

/// The bits of the AUX switch, its registers at `switch`, that are guest `index`'s: those of the blocks it
/// has, and if it has the switch itself those that nobody else has.
fn aux_bits(guests: &Guests<'_>, index: usize, switch: PaRange, board: &Board) -> u8 {
    let console = board.console.as_ref().map(|console| console.registers);
    let mut bits = 0_u8;
    for block in 0..3_u8 {
        let offset = AUX_BLOCK_BYTES.saturating_mul(u64::from(block).saturating_add(1));
        let registers = PaRange {
            start: Pa(switch.start.0.saturating_add(offset)),
            size: AUX_BLOCK_BYTES,
        };
        let has = |guest: &GuestConfig| regions(guest).any(|region| region.overlaps(registers));
        let has_switch = |guest: &GuestConfig| regions(guest).any(|region| region.overlaps(switch));
        let is_own = console.is_some_and(|console| console.overlaps(registers));
        let holder = guests.iter().position(|(guest, _)| has(guest));
        let holder = holder.or_else(|| guests.iter().position(|(guest, _)| has_switch(guest)));
        if holder == Some(index) && !is_own {
            bits |= 1_u8.wrapping_shl(u32::from(block));
        }
    }
    bits
}

/// The place of the console UART, for a guest that has its own emulated one there.
fn console_part(guest: &GuestConfig, page: PaRange, board: &Board) -> Option<Part> {
    let console = board.console.as_ref()?;
    let own = guest.machine.uart;
    (guest.primary && own.start.0 <= console.registers.start.0)
        .then(|| part(console.registers, page, What::Console))
        .flatten()
}

/// Where such a guest has trapped registers beside its console's, the console has its own and no whole page.
fn narrow_console(guest: &mut GuestConfig, board: &Board) {
    let mut parts = guest.mediated.pages.iter().flat_map(|page| &page.parts);
    if let Some(console) = &board.console
        && parts.any(|part| part.what == What::Console)
    {
        guest.machine.uart = IpaRange {
            start: Ipa(console.registers.start.0),
            size: console.registers.size,
        };
    }
}

/// INTIDs of guest `index` that others have, too.
fn shared_interrupts(guests: &Guests<'_>, index: usize, board: &Board) -> Vec<u32> {
    let Some((guest, _)) = guests.get(index) else {
        return Vec::new();
    };
    let console = board.console.as_ref().and_then(|console| console.intid);
    let shared = |intid: u32| {
        let mut others = guests.iter().enumerate();
        console == Some(intid)
            || others
                .any(|(other, (guest, _))| other != index && interrupts(guest).any(|i| i == intid))
    };
    let mut found: Vec<u32> = interrupts(guest).filter(|intid| shared(*intid)).collect();
    sort::by_key(&mut found, |item| *item);
    found.dedup();
    found
}

fn interrupts(guest: &GuestConfig) -> impl Iterator<Item = u32> {
    guest
        .devices
        .iter()
        .flat_map(|device| device.interrupts.iter().map(|interrupt| interrupt.intid))
}

/// What is trapped or shared, and what that costs: for the host's check.
pub(crate) fn notes(guests: &[GuestConfig], board: &Board) -> Vec<String> {
    let mut notes = Vec::new();
    let names = |holds: &dyn Fn(&GuestConfig) -> bool, is_own: bool| {
        let mut names: Vec<&str> = guests
            .iter()
            .filter(|guest| holds(guest))
            .map(|guest| &*guest.name)
            .collect();
        if is_own {
            names.push("Ballast");
        }
        names.join(", ")
    };
    let mut pages: Vec<Pa> = guests
        .iter()
        .flat_map(|guest| guest.mediated.pages.iter().map(|page| page.start))
        .collect();
    sort::by_key(&mut pages, |page| *page);
    pages.dedup();
    for start in pages {
        let page = PaRange {
            start,
            size: PAGE_SIZE,
        };
        let has = |guest: &GuestConfig| guest.mediated.pages.iter().any(|page| page.start == start);
        let mut consoles = board.console.iter().map(|console| console.registers);
        let holders = names(&has, consoles.any(|registers| registers.overlaps(page)));
        notes.push(format!(
            "the page at {start} is trapped for {holders}: each access costs some {TRAP_INSTRUCTIONS} instructions of Ballast"
        ));
    }
    let mut intids: Vec<u32> = guests
        .iter()
        .flat_map(|guest| guest.mediated.interrupts.iter().copied())
        .collect();
    sort::by_key(&mut intids, |intid| *intid);
    intids.dedup();
    for intid in intids {
        let has = |guest: &GuestConfig| guest.mediated.interrupts.contains(&intid);
        let console = board.console.as_ref().and_then(|console| console.intid);
        let holders = names(&has, console == Some(intid));
        notes.push(format!(
            "interrupt {intid} is shared by {holders}: it goes to each of them, and the next waits until all have \
             handled it, at most {LIMIT_US} us; one that does not end comes once in that time",
        ));
    }
    notes
}

/// Instructions that a trapped access takes in EL2, in round numbers (docs/bench.md).
const TRAP_INSTRUCTIONS: u32 = 250;

#[cfg(test)]
mod tests;
