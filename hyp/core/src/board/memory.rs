//! RAM of the board and who holds some of it already.

use alloc::vec::Vec;

use super::{Core, EnableMethod};
use crate::addr::{PAGE_SIZE, Pa, PaRange};
use crate::dt::{DeviceTree, Node};
use crate::refusal::Refusal;
use crate::sort;

/// Addresses beyond 48 bits exist on no supported core.
pub(crate) const PA_LIMIT: u64 = 1 << 48;

/// Sorts and merges ranges that touch or overlap.
fn normalise(mut ranges: Vec<PaRange>) -> Vec<PaRange> {
    ranges.retain(|range| range.size != 0);
    sort::by_key(&mut ranges, |range| range.start);
    let mut merged: Vec<PaRange> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match merged.last_mut() {
            Some(last) if range.start <= last.end() => {
                last.size = last.end().max(range.end()).0.saturating_sub(last.start.0);
            }
            _ => merged.push(range),
        }
    }
    merged
}

/// The whole pages that `range` contains.
fn inner_pages(range: PaRange) -> Option<PaRange> {
    let start = range.start.align_up(PAGE_SIZE)?;
    let end = range.end().align_down(PAGE_SIZE);
    let size = end.0.checked_sub(start.0).filter(|size| *size != 0)?;
    Some(PaRange { start, size })
}

/// The whole pages that `range` touches.
fn outer_pages(range: PaRange) -> Option<PaRange> {
    let start = range.start.align_down(PAGE_SIZE);
    let end = range
        .end()
        .align_up(PAGE_SIZE)
        .unwrap_or(Pa(u64::MAX).align_down(PAGE_SIZE));
    let size = end.0.checked_sub(start.0).filter(|size| *size != 0)?;
    Some(PaRange { start, size })
}

/// What of `from` is in none of `without`, rounded to whole pages: a page that is partly taken is
/// gone. Sorted and disjoint.
#[must_use]
pub fn subtract(from: &[PaRange], without: &[PaRange]) -> Vec<PaRange> {
    let without = normalise(
        without
            .iter()
            .filter_map(|range| outer_pages(*range))
            .collect(),
    );
    let mut left = Vec::new();
    for range in normalise(
        from.iter()
            .filter_map(|range| inner_pages(*range))
            .collect(),
    ) {
        let mut start = range.start;
        for hole in without.iter().filter(|hole| hole.overlaps(range)) {
            if hole.start > start {
                left.push(PaRange {
                    start,
                    size: hole.start.0.saturating_sub(start.0),
                });
            }
            start = start.max(hole.end());
        }
        if start < range.end() {
            left.push(PaRange {
                start,
                size: range.end().0.saturating_sub(start.0),
            });
        }
    }
    left
}

fn is_memory(node: &Node<'_>) -> bool {
    (node.is_memory() || node.base_name() == "memory") && node.is_enabled()
}

/// RAM: every range of every memory node below the root.
pub(super) fn ram(tree: &DeviceTree<'_>) -> Result<Vec<PaRange>, Refusal> {
    let mut ranges = Vec::new();
    for node in tree.root().children().filter(is_memory) {
        for range in node.regions()? {
            if range.end().0 > PA_LIMIT {
                return Err(node
                    .require("reg")?
                    .refuse()
                    .problem("lies beyond 48 bits of physical address"));
            }
            ranges.extend(inner_pages(range));
        }
    }
    if ranges.is_empty() {
        return Err(Refusal::new("/memory").problem("is missing or has no range"));
    }
    Ok(normalise(ranges))
}

/// RAM that is not to be touched: `/memreserve/` and the children of `/reserved-memory` that have
/// an address. Those with a size alone ask an operating system to choose one; nothing is there yet.
/// And the words that cores of a spin table wait at, whether the tree reserves them or not.
pub(super) fn reserved(tree: &DeviceTree<'_>, cores: &[Core]) -> Result<Vec<PaRange>, Refusal> {
    let mut ranges: Vec<PaRange> = tree.reservations().to_vec();
    ranges.extend(cores.iter().filter_map(|core| match core.enable {
        EnableMethod::SpinTable(start) => Some(PaRange {
            start: Pa(start),
            size: 8,
        }),
        EnableMethod::Psci => None,
    }));
    if let Some(parent) = tree.root().child("reserved-memory") {
        for node in parent.children().filter(|node| node.is_enabled()) {
            ranges.extend(node.regions()?);
        }
    }
    Ok(normalise(
        ranges.into_iter().filter_map(outer_pages).collect(),
    ))
}

/// The initramfs that firmware loaded: `linux,initrd-start` to `linux,initrd-end` in `/chosen`.
pub(super) fn initrd(tree: &DeviceTree<'_>) -> Result<Option<PaRange>, Refusal> {
    let Some(chosen) = tree.root().child("chosen") else {
        return Ok(None);
    };
    let (Some(start), Some(end)) = (
        chosen.u64("linux,initrd-start")?,
        chosen.u64("linux,initrd-end")?,
    ) else {
        return Ok(None);
    };
    match end.checked_sub(start) {
        Some(0) => Ok(None),
        Some(size) => Ok(Some(PaRange {
            start: Pa(start),
            size,
        })),
        None => Err(chosen
            .require("linux,initrd-end")?
            .refuse()
            .problem("is before linux,initrd-start")),
    }
}
