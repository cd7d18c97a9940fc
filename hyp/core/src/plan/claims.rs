//! Which RAM is whose where it matters: guests whose RAM lies at the board's addresses claim theirs.
//!
//! A claim is up to the guest's maximum, so that it can get each frame back that it gave away; two
//! claims never overlap. Others may have what is claimed and not in use.

use alloc::format;
use alloc::vec::Vec;

use crate::addr::{BLOCK_SIZE, Ipa, IpaRange, MIB, PaRange};
use crate::board::subtract;
use crate::config::GuestConfig;
use crate::limits::MAX_RAM_RANGES;
use crate::machine::{IPA_LIMIT, RAM_BASE};
use crate::refusal::Refusal;

/// The RAM of each guest; empty where it was refused.
pub(super) fn ram(
    guests: &[GuestConfig],
    free: &[PaRange],
    problems: &mut Vec<Refusal>,
) -> Vec<Vec<IpaRange>> {
    let mut claimed: Vec<PaRange> = Vec::new();
    let mut claims = Vec::with_capacity(guests.len());
    for guest in guests {
        let bytes = guest.memory.max_bytes;
        if !guest.is_identity() {
            claims.push(alloc::vec![IpaRange {
                start: RAM_BASE,
                size: bytes,
            }]);
            continue;
        }
        let fixed = guest.machine.fixed();
        let mut taken = claimed.clone();
        taken.extend(fixed.iter().map(|(range, _)| physical(*range)));
        taken.push(PaRange {
            start: crate::addr::Pa(IPA_LIMIT.0),
            size: u64::MAX.saturating_sub(IPA_LIMIT.0),
        });
        let claim = take(whole_blocks(&subtract(free, &taken)), bytes);
        match claim {
            Ok(ranges) => {
                claimed.extend(ranges.iter().copied().map(physical));
                claims.push(ranges);
            }
            Err(available) => {
                problems.push(refuse(guest, guests, available));
                claims.push(Vec::new());
            }
        }
    }
    claims
}

fn physical(range: IpaRange) -> PaRange {
    PaRange {
        start: crate::addr::Pa(range.start.0),
        size: range.size,
    }
}

/// The whole 2 MiB blocks of `free`, as guest addresses.
fn whole_blocks(free: &[PaRange]) -> Vec<IpaRange> {
    let blocks = free.iter().filter_map(|range| {
        let start = range.start.align_up(BLOCK_SIZE)?;
        let end = range.end().align_down(BLOCK_SIZE);
        let size = end.0.checked_sub(start.0).filter(|size| *size != 0)?;
        let start = Ipa(start.0);
        Some(IpaRange { start, size })
    });
    blocks.collect()
}

/// The lowest `bytes` of `pieces` in at most [`MAX_RAM_RANGES`] of them: low memory first, since some
/// devices reach no other. Else how many bytes there are.
fn take(mut pieces: Vec<IpaRange>, bytes: u64) -> Result<Vec<IpaRange>, u64> {
    loop {
        let taken = super::backed_ram(&pieces, bytes);
        let sum = taken
            .iter()
            .fold(0, |sum: u64, range| sum.saturating_add(range.size));
        if sum < bytes {
            return Err(sum);
        }
        if taken.len() <= MAX_RAM_RANGES {
            return Ok(taken);
        }
        // Too many: do without the smallest of those taken.
        let smallest = pieces
            .iter()
            .take(taken.len())
            .min_by_key(|range| range.size);
        let start = smallest.map(|range| range.start);
        pieces.retain(|range| Some(range.start) != start);
    }
}

fn refuse(guest: &GuestConfig, guests: &[GuestConfig], available: u64) -> Refusal {
    let others: Vec<&str> = guests
        .iter()
        .filter(|other| other.is_identity() && other.number != guest.number)
        .map(|other| other.name.as_str())
        .collect();
    let beside = match others.as_slice() {
        [] => format!("in up to {MAX_RAM_RANGES} pieces"),
        names => format!("that {} does not claim", names.join(" or ")),
    };
    let value = format!("<{}>", guest.memory.max_bytes / MIB);
    let problem = format!(
        "is more than the {} MiB of the board's memory {beside}, and this guest has its memory where the board has it",
        available / MIB
    );
    Refusal::new(&guest.node)
        .property("memory-max-mib")
        .value(value)
        .problem(problem)
        .fix("lower memory-max-mib, of others that claim memory too")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, size: u64) -> IpaRange {
        IpaRange {
            start: Ipa(start * MIB),
            size: size * MIB,
        }
    }

    #[test]
    fn low_memory_first() {
        let pieces = vec![range(2, 6), range(16, 100), range(4096, 1000)];
        assert_eq!(take(pieces.clone(), 4 * MIB), Ok(vec![range(2, 4)]));
        let expected = vec![range(2, 6), range(16, 100), range(4096, 2)];
        assert_eq!(take(pieces.clone(), 108 * MIB), Ok(expected));
        assert_eq!(take(pieces, 1108 * MIB), Err(1106 * MIB));
    }

    #[test]
    fn at_most_eight_pieces() {
        let mut pieces: Vec<_> = (0..12).map(|n| range(n * 16, 2 + 2 * (n % 3))).collect();
        pieces.push(range(1024, 100));
        let taken = take(pieces.clone(), 60 * MIB).unwrap();
        assert!(taken.len() <= MAX_RAM_RANGES);
        assert_eq!(taken.iter().map(|range| range.size).sum::<u64>(), 60 * MIB);
        assert!(taken.is_sorted_by_key(|range| range.start));
        pieces.pop();
        assert!(take(pieces, 48 * MIB).is_err());
    }
}
