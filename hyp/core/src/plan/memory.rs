//! Memory of the partitions against memory of the board.

use alloc::format;
use alloc::vec::Vec;

use crate::addr::{BLOCK_SIZE, MIB, PaRange};
use crate::board::{Board, subtract};
use crate::config::GuestConfig;
use crate::refusal::Refusal;

/// RAM that neither firmware nor Ballast nor the boot archive holds.
pub(super) fn free(board: &Board, held: &[PaRange]) -> Vec<PaRange> {
    let taken: Vec<PaRange> = board
        .reserved
        .iter()
        .chain(held)
        .chain(&board.initrd)
        .copied()
        .collect();
    subtract(&board.ram, &taken)
}

/// What guests can have of `free`: whole 2 MiB blocks, as the frame table gives them.
pub(super) fn guest_bytes(free: &[PaRange]) -> u64 {
    free.iter().fold(0, |sum: u64, range| {
        let start = range.start.align_up(BLOCK_SIZE).unwrap_or(range.end());
        let end = range.end().align_down(BLOCK_SIZE);
        sum.saturating_add(end.0.saturating_sub(start.0))
    })
}

/// What the guest's `extra-ram` costs: each bank a block of its own for each 2 MiB of the guest's
/// address space that it touches.
pub(super) fn bank_bytes(guest: &GuestConfig) -> u64 {
    guest.extra_ram.iter().fold(0, |sum: u64, bank| {
        let start = bank.start.align_down(BLOCK_SIZE);
        let end = bank.end().align_up(BLOCK_SIZE).unwrap_or(bank.end());
        sum.saturating_add(end.0.saturating_sub(start.0))
    })
}

/// The sum of what guests boot with, banks included, fits into what is left. So then does the sum of
/// their minimums.
pub(super) fn admit(guests: &[GuestConfig], free: &[PaRange], problems: &mut Vec<Refusal>) {
    let sum =
        |bytes: fn(&GuestConfig) -> u64| guests.iter().map(bytes).fold(0_u64, u64::saturating_add);
    let available = guest_bytes(free);
    let boot = sum(|guest| guest.memory.boot_bytes);
    let banks = sum(bank_bytes);
    let wanted = boot.saturating_add(banks);
    if wanted <= available {
        return;
    }
    let each: Vec<_> = guests
        .iter()
        .map(|guest| {
            let boot = guest.memory.boot_bytes / MIB;
            match bank_bytes(guest) / MIB {
                0 => format!("{} {boot}", guest.name),
                banks => format!("{} {boot} + {banks} of extra-ram", guest.name),
            }
        })
        .collect();
    let problem = format!(
        "guests ask for {} MiB ({}), the board has {} MiB for them",
        wanted / MIB,
        each.join(", "),
        available / MIB
    );
    let over = wanted.saturating_sub(available) / MIB;
    let (property, fix) = if boot > available {
        (
            "memory-mib",
            format!("lower memory-mib by {over} MiB in all; memory-max-mib may stay"),
        )
    } else {
        (
            "extra-ram",
            format!(
                "lower extra-ram, which counts in whole 2 MiB, or memory-mib by {over} MiB in all"
            ),
        )
    };
    problems.push(
        Refusal::new("/ballast")
            .property(property)
            .problem(problem)
            .fix(fix),
    );
}

/// Maximums that no guest can reach: the page structs they cost, the CPUs that never come.
pub(super) fn warnings(board: &Board, guests: &[GuestConfig], free: &[PaRange]) -> Vec<Refusal> {
    let mib = guest_bytes(free) / MIB;
    let cores = u64::try_from(board.cores.len()).unwrap_or(u64::MAX);
    let maximums = guests.iter().flat_map(|guest| {
        [
            (
                guest,
                "memory-max-mib",
                guest.memory.max_bytes / MIB,
                mib,
                "MiB",
            ),
            (guest, "cpus-max", u64::from(guest.cpus.max), cores, "cores"),
        ]
    });
    let above = maximums.filter(|(_, _, value, has, _)| value > has);
    let warn = |(guest, name, value, has, unit): (&GuestConfig, &str, u64, u64, &str)| {
        let refusal = Refusal::new(&guest.node)
            .property(name)
            .value(format!("<{value}>"));
        let problem = format!("is above the {has} {unit} that the board has for all guests");
        refusal.problem(problem).fix("lower it")
    };
    above.map(warn).collect()
}

/// Linux takes a page struct (64 bytes) for each page of its maximum out of the memory that it starts with,
/// and needs about 64 MiB beside: with less it dies before its first line of output.
pub(super) fn check_linux(config: &GuestConfig) -> Result<(), Refusal> {
    const BASE_MIB: u64 = 64;
    const PAGES_PER_STRUCT_PAGE: u64 = 64;
    let max_mib = config.memory.max_bytes / MIB;
    let needed_mib = BASE_MIB.saturating_add(max_mib.div_ceil(PAGES_PER_STRUCT_PAGE));
    for (name, bytes) in [
        ("memory-mib", config.memory.boot_bytes),
        ("memory-min-mib", config.memory.min_bytes),
    ] {
        let mib = bytes / MIB;
        if mib < needed_mib {
            let problem = format!(
                "is too little for Linux with memory-max-mib = <{max_mib}>: it needs 64 + {max_mib}/64 = {needed_mib} MiB"
            );
            let up = needed_mib.next_multiple_of(2);
            let fix = format!("write {name} = <{up}> or more, or lower memory-max-mib");
            return Err(Refusal::new(&config.node)
                .property(name)
                .value(format!("<{mib}>"))
                .problem(problem)
                .fix(fix));
        }
    }
    Ok(())
}
