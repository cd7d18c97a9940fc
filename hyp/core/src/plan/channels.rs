//! Memory that guests share: where it is on the board, where in the guests, and with which interrupt.
//!
//! It is taken out of the board's RAM before the guests' own is, in one piece and at the top of RAM, where no DMA master
//! of the board has special claims. Less than 2 MiB comes out of a block that cannot be a guest's as a whole, if there is
//! one: it then costs the guests nothing.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use ballast_abi::device_tree::CHANNEL_SPI;

use crate::addr::{BLOCK_SIZE, Ipa, IpaRange, Pa, PaRange};
use crate::board::subtract;
use crate::config::{Access, ChannelConfig, Device, GuestConfig, channel_alignment};
use crate::machine::{IPA_LIMIT, RAM_BASE, SHARED, SPI_BASE};
use crate::refusal::Refusal;

/// Memory that two guests share, placed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ChannelPlan {
    /// Where it is: Ballast's own, and zeroed before the guests start.
    pub pa: PaRange,
    /// The two guests' sides.
    pub ends: [ChannelEnd; 2],
}

/// A channel as one guest has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ChannelEnd {
    /// Index of the guest.
    pub guest: usize,
    /// The channel's number, for the calls.
    pub number: u32,
    /// The channel's name.
    pub label: String,
    /// Where the guest has the memory.
    pub ipa: IpaRange,
    /// Where it is on the board.
    pub pa: Pa,
    /// The doorbell's SPI.
    pub spi: u32,
    /// What the guest may do with the memory.
    pub access: Access,
}

/// Places `channels` and takes their memory out of `free`, which is sorted. Leaves out those that are refused.
pub(super) fn place(
    guests: &[GuestConfig],
    channels: &[ChannelConfig],
    free: &mut Vec<PaRange>,
    problems: &mut Vec<Refusal>,
) -> Vec<ChannelPlan> {
    let mut plans: Vec<ChannelPlan> = Vec::new();
    for (number, channel) in (0..).zip(channels) {
        match place_one(guests, number, channel, &plans, free) {
            Ok(plan) => plans.push(plan),
            Err(refusal) => problems.push(refusal),
        }
    }
    plans
}

fn place_one(
    guests: &[GuestConfig],
    number: u32,
    channel: &ChannelConfig,
    others: &[ChannelPlan],
    free: &mut Vec<PaRange>,
) -> Result<ChannelPlan, Refusal> {
    let holders = channel.ends.map(|(wanted, access)| {
        let index = guests.iter().position(|guest| guest.number == wanted);
        index.and_then(|index| Some((index, guests.get(index)?, access)))
    });
    // The configuration was checked: both are there.
    let [Some(one), Some(two)] = holders else {
        return Err(Refusal::new(&channel.node).problem("names a guest that there is not"));
    };
    let spi = CHANNEL_SPI.saturating_add(number);
    for (_, guest, _) in [one, two] {
        let intid = spi.saturating_add(SPI_BASE);
        let taken = |device: &&Device| device.interrupts.iter().any(|line| line.intid == intid);
        if let Some(device) = guest.devices.iter().find(taken) {
            let problem = format!(
                "is channel {number}, whose interrupt {intid} {} has from {}",
                guest.name, device.path
            );
            let fix = "rename it, which changes its number, or remove the device";
            return Err(Refusal::new(&channel.node).problem(problem).fix(fix));
        }
    }
    let holders = [one, two];
    // A guest that has its RAM where the board has it has this there too.
    let identity = holders.into_iter().map(|(_, guest, _)| guest);
    let identity: Vec<&GuestConfig> = identity.filter(|guest| guest.is_identity()).collect();
    let avoided: Vec<PaRange> = identity
        .iter()
        .flat_map(|guest| occupied(guest))
        .map(|(range, _)| PaRange {
            start: Pa(range.start.0),
            size: range.size,
        })
        .chain([between(Pa(IPA_LIMIT.0), Pa(u64::MAX))])
        .collect();
    let pa = find(&subtract(free, &avoided), channel.bytes).ok_or_else(|| {
        Refusal::new(&channel.node)
            .property("size")
            .value(format!("<{:#x}>", channel.bytes))
            .problem("is more than the board has in one piece")
            .fix("lower it")
    })?;
    let chosen = address(channel, &holders.map(|(_, guest, _)| guest), others)?;
    *free = subtract(free, &[pa]);
    let end = |(index, guest, access): (usize, &GuestConfig, Access)| ChannelEnd {
        guest: index,
        number,
        label: channel.name.clone(),
        ipa: IpaRange {
            start: if guest.is_identity() {
                Ipa(pa.start.0)
            } else {
                chosen
            },
            size: channel.bytes,
        },
        pa: pa.start,
        spi,
        access,
    };
    Ok(ChannelPlan {
        pa,
        ends: holders.map(end),
    })
}

/// Where both guests have it: as configured, or the first free 2 MiB boundary of [`SHARED`]. The same for both, and
/// nobody else's shared memory either, so that an address says what is meant.
fn address(
    channel: &ChannelConfig,
    guests: &[&GuestConfig],
    others: &[ChannelPlan],
) -> Result<Ipa, Refusal> {
    let mut taken: Vec<(IpaRange, &str)> = Vec::new();
    for guest in guests.iter().filter(|guest| !guest.is_identity()) {
        taken.extend(occupied(guest));
        taken.push((ram(guest), "RAM up to memory-max-mib"));
    }
    let ends = others.iter().flat_map(|other| &other.ends);
    taken.extend(ends.map(|end| (end.ipa, "other shared memory")));
    let conflict = |start: Ipa| {
        let range = IpaRange {
            start,
            size: channel.bytes,
        };
        taken.iter().find(|(other, _)| other.overlaps(range))
    };
    if let Some(start) = channel.address {
        return match conflict(start) {
            None => Ok(start),
            Some((range, what)) => Err(Refusal::new(&channel.node)
                .property("address")
                .value(format!("<{start}>"))
                .problem(format!("lies on {what} ({}-{})", range.start, range.end()))
                .fix("choose another address, or leave it out")),
        };
    }
    let mut at = SHARED.start;
    // Each step leaves at least one range behind for good.
    while at
        .checked_add(channel.bytes)
        .is_some_and(|end| end <= SHARED.end())
    {
        let Some((range, _)) = conflict(at) else {
            return Ok(at);
        };
        let Some(next) = range.end().align_up(BLOCK_SIZE) else {
            break;
        };
        at = next;
    }
    let problem = format!(
        "finds no room at {}-{} in its guests",
        SHARED.start,
        SHARED.end()
    );
    Err(Refusal::new(&channel.node)
        .problem(problem)
        .fix("lower its size, or write address = <...>"))
}

fn ram(guest: &GuestConfig) -> IpaRange {
    IpaRange {
        start: RAM_BASE,
        size: guest.memory.max_bytes,
    }
}

/// What a guest has in its address space beside RAM.
fn occupied(guest: &GuestConfig) -> Vec<(IpaRange, &'static str)> {
    let extra = guest.extra_ram.iter().map(|range| (*range, "extra-ram"));
    let windows = guest.raz_windows.iter();
    let windows = windows.map(|range| (*range, "a window of raz-windows"));
    let pages = guest.devices.iter().flat_map(Device::pages);
    let devices = pages.map(|page| {
        let range = IpaRange {
            start: Ipa(page.start.0),
            size: page.size,
        };
        (range, "a device")
    });
    let mut all = guest.machine.fixed();
    all.extend(extra.chain(windows).chain(devices));
    all
}

/// The place for `bytes` of the sorted `free`.
fn find(free: &[PaRange], bytes: u64) -> Option<PaRange> {
    let in_part = || {
        let parts = free.iter().flat_map(|range| parts(*range));
        let part = parts
            .filter(|part| bytes < BLOCK_SIZE && part.size >= bytes)
            .min_by_key(|part| part.size)?;
        // The end that touches the block's rest, which somebody else has.
        Some(if part.start.is_aligned(BLOCK_SIZE) {
            part.end()
        } else {
            part.start.checked_add(bytes)?
        })
    };
    if let Some(end) = in_part() {
        return below(end, bytes);
    }
    let last = |range: &PaRange| {
        let start = below(range.end(), bytes)?
            .start
            .align_down(channel_alignment(bytes));
        (start >= range.start).then_some(PaRange { start, size: bytes })
    };
    free.iter().rev().find_map(last)
}

/// The parts of `range` that are no whole 2 MiB block.
fn parts(range: PaRange) -> impl Iterator<Item = PaRange> {
    let head = range
        .start
        .align_up(BLOCK_SIZE)
        .map_or(range.end(), |end| end.min(range.end()));
    let tail = range.end().align_down(BLOCK_SIZE).max(head);
    [between(range.start, head), between(tail, range.end())].into_iter()
}

fn below(end: Pa, bytes: u64) -> Option<PaRange> {
    let start = Pa(end.0.checked_sub(bytes)?);
    Some(PaRange { start, size: bytes })
}

const fn between(start: Pa, end: Pa) -> PaRange {
    PaRange {
        start,
        size: end.0.saturating_sub(start.0),
    }
}
