//! Memory that must not move, against what nobody claims.
//!
//! Frames of a `realtime` guest and of banks of `extra-ram` never move, so none of them may be one that a guest with its
//! RAM at the board's addresses claims: it could not have it back. Others take what nobody claims, too, but
//! after these: see `boot_rank` of [`crate::balloon::GuestMemory`]. With `scrub-at-boot` each guest is built at its start,
//! whoever comes first, so there must be enough for all.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::memory::{bank_bytes, guest_bytes};
use crate::addr::{IpaRange, MIB, PaRange};
use crate::config::GuestConfig;
use crate::refusal::Refusal;

/// Refuses the guests for which there is too little; `ram` as [`super::claims::ram`] has given it.
pub(super) fn admit(
    guests: &[GuestConfig],
    free: &[PaRange],
    ram: &[Vec<IpaRange>],
    scrub_at_boot: bool,
    problems: &mut Vec<Refusal>,
) {
    let claimants: Vec<&str> = guests
        .iter()
        .filter(|guest| guest.is_identity())
        .map(|guest| guest.name.as_str())
        .collect();
    if claimants.is_empty() {
        // Then the sum decides.
        return;
    }
    let claimed = guests
        .iter()
        .zip(ram)
        .filter(|(guest, _)| guest.is_identity());
    let claimed = claimed.flat_map(|(_, ranges)| ranges);
    let claimed = claimed.fold(0_u64, |sum, range| sum.saturating_add(range.size));
    let mut left = guest_bytes(free).saturating_sub(claimed);
    if scrub_at_boot {
        let movable = guests
            .iter()
            .filter(|guest| !guest.is_identity() && !guest.realtime);
        left = movable.fold(left, |left, guest| {
            left.saturating_sub(guest.memory.boot_bytes)
        });
    }
    let fixed = guests.iter().map(|guest| {
        let is_fixed = guest.realtime && !guest.is_identity();
        let boot = if is_fixed { guest.memory.boot_bytes } else { 0 };
        (
            guest,
            [(boot, "memory-mib"), (bank_bytes(guest), "extra-ram")],
        )
    });
    for (guest, needs) in fixed {
        for (bytes, property) in needs {
            if let Some(rest) = left.checked_sub(bytes) {
                left = rest;
            } else {
                problems.push(refuse(
                    guest,
                    property,
                    bytes,
                    left,
                    &claimants,
                    scrub_at_boot,
                ));
            }
        }
    }
}

fn refuse(
    guest: &GuestConfig,
    property: &'static str,
    bytes: u64,
    left: u64,
    claimants: &[&str],
    scrub_at_boot: bool,
) -> Refusal {
    let names = claimants.join(" and ");
    let missing = bytes.saturating_sub(left).div_ceil(MIB);
    let (what, value) = if property == "extra-ram" {
        ("in whole 2 MiB, and its frames never move", String::new())
    } else {
        ("as its frames never move", format!("<{}>", bytes / MIB))
    };
    let scrub = if scrub_at_boot {
        " and that other guests do not take first, with scrub-at-boot"
    } else {
        ""
    };
    let refusal = Refusal::new(&guest.node).property(property);
    let refusal = if value.is_empty() {
        refusal
    } else {
        refusal.value(value)
    };
    refusal
        .problem(format!(
            "needs {} MiB that {names} cannot claim, {what}, and there are {} MiB that nobody claims{scrub}",
            bytes / MIB,
            left / MIB
        ))
        .fix(format!(
            "lower memory-max-mib of {names}, or {property} here, by {missing} MiB"
        ))
}
