//! Making the pool from the board's memory map. Before any guest exists, so errors are refusals.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

use super::list::{List, ListId, NONE};
use super::moving::Waiting;
use super::split::run_mask;
use super::{
    BLOCK_PAGES, Block, Counts, GuestId, GuestSet, Kind, MAX_KEPT, MAX_REGIONS, NO_GUEST, Pool,
    Region, frame_in_block, map_word_mut,
};
use crate::addr::{BLOCK_SIZE, GIB, PAGE_SIZE, PAGES_PER_BLOCK, Pa, PaRange};
use crate::limits::MAX_GUESTS;
use crate::sort;

/// What the frames hold that nobody has owned since power-on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BootFrames {
    /// Nothing of anybody's: given to their first owner as they are.
    Fresh,
    /// To be scrubbed like any other (`scrub-at-boot`).
    Scrub,
}

/// Why the board's memory cannot be managed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PoolError {
    /// More separate regions than [`MAX_REGIONS`].
    TooManyRegions,
    /// Two RAM ranges overlap.
    Overlap(PaRange, PaRange),
    /// 2^27 frames (512 GiB) or more.
    TooLarge,
    /// No whole page of RAM.
    Empty,
}

impl fmt::Display for PoolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooManyRegions => {
                write!(f, "RAM lies in more than {MAX_REGIONS} separate regions")
            }
            Self::Overlap(a, b) => write!(f, "RAM at {} and at {} overlap", a.start, b.start),
            Self::TooLarge => write!(f, "more than 512 GiB of RAM"),
            Self::Empty => write!(f, "no RAM"),
        }
    }
}

impl Pool {
    /// The pool over `ram`, less what Ballast has `held` back for itself (image, heap, boot archive,
    /// firmware's reservations). RAM is taken by whole pages; what is held, by every page it
    /// touches. Blocks come out of the pool ascending.
    ///
    /// Costs a few instructions a block when the allocator's `alloc_zeroed` is cheap (the shell's
    /// uses DC ZVA): the per-frame storage starts as zeros and is not touched.
    ///
    /// # Errors
    /// See [`PoolError`].
    pub fn new(ram: &[PaRange], held: &[PaRange], frames: BootFrames) -> Result<Self, PoolError> {
        let ranges = sorted(ram)?;
        let (regions, blocks) = regions(&ranges)?;
        let count = blocks as usize;
        let free = |number: u32| Block {
            prev: number.wrapping_sub(1),
            next: number + 1,
            ..Block::free_whole(frames == BootFrames::Scrub)
        };
        let mut descriptors: Box<[Block]> = (0..blocks).map(free).collect();
        if let Some(last) = descriptors.last_mut() {
            last.next = NONE;
        }
        let pages = blocks * u32::from(BLOCK_PAGES);
        let all = List {
            head: 0,
            tail: blocks - 1,
        };
        let (lists, zero, dirty) = match frames {
            BootFrames::Fresh => ([all, List::EMPTY, List::EMPTY, List::EMPTY], pages, 0),
            BootFrames::Scrub => ([List::EMPTY, all, List::EMPTY, List::EMPTY], 0, pages),
        };
        let total = ranges
            .iter()
            .map(|range| (range.size / PAGE_SIZE) as u32)
            .sum();
        let mut pool = Self {
            regions,
            blocks: descriptors,
            maps: zeroed_maps(count),
            words: vec![0; count * PAGES_PER_BLOCK].into_boxed_slice(),
            lists,
            queues: [List::EMPTY; MAX_GUESTS],
            strays: [List::EMPTY; MAX_GUESTS],
            #[cfg(test)]
            looks: [0; 3],
            places: [Default::default(); MAX_GUESTS],
            waiting: [Waiting::default(); MAX_GUESTS],
            ready: GuestSet::EMPTY,
            stalled: GuestSet::EMPTY,
            scattered: GuestSet::EMPTY,
            gather_again: GuestSet::EMPTY,
            fixed: GuestSet::EMPTY,
            counts: Counts {
                total,
                zero,
                dirty,
                ..Counts::default()
            },
            claimed: 0,
            scrubbing: 0,
            wanting: GuestSet::EMPTY,
            untold_pages: 0,
            tell_at_once: false,
            kept: Vec::with_capacity(MAX_KEPT),
        };
        pool.carve_holes(&ranges);
        for range in held {
            pool.carve(*range);
        }
        Ok(pool)
    }

    /// Whether [`Pool::new`] can manage `ram`, for those who have to know before there is memory for it.
    ///
    /// # Errors
    /// See [`PoolError`].
    pub fn check(ram: &[PaRange]) -> Result<(), PoolError> {
        regions(&sorted(ram)?).map(|_| ())
    }

    /// Takes what lies in the regions' blocks and is no RAM out of the pool.
    fn carve_holes(&mut self, ranges: &[PaRange]) {
        let mut end = Pa(0);
        for range in ranges {
            self.carve(PaRange {
                start: end,
                size: range.start.0 - end.0,
            });
            end = range.end();
        }
        self.carve(PaRange {
            start: end,
            size: u64::MAX - end.0,
        });
    }

    /// Gives the free frames that touch `range` to the hypervisor.
    fn carve(&mut self, range: PaRange) {
        if range.size == 0 {
            return;
        }
        let start = range.start.align_down(PAGE_SIZE).0;
        let end = range
            .end()
            .align_up(PAGE_SIZE)
            .map_or(u64::MAX, |end| end.0);
        for number in 0..self.regions.len() {
            let Some(&region) = self.regions.get(number) else {
                return;
            };
            let first = Pa::from_block(region.first).0;
            let last = Pa::from_block(region.first + u64::from(region.blocks)).0;
            let (mut at, end) = (start.max(first), end.min(last));
            while at < end {
                let next = end.min((at & !(BLOCK_SIZE - 1)) + BLOCK_SIZE);
                self.carve_in_block(Pa(at), ((next - at) / PAGE_SIZE) as u16);
                at = next;
            }
        }
    }

    fn carve_in_block(&mut self, pa: Pa, pages: u16) {
        let Some(index) = self.block_at(pa) else {
            return;
        };
        let Some(&Block { kind, dirty, .. }) = self.blocks.get(index as usize) else {
            return;
        };
        if kind == Kind::Free && pages == BLOCK_PAGES {
            self.update(index, |block| block.kind = Kind::Held);
            self.uncount(dirty, BLOCK_PAGES);
            return;
        }
        if kind == Kind::Free {
            self.open_free_block(index, None);
        }
        let Some([free, dirty]) = self.maps.get_mut(index as usize) else {
            return;
        };
        let (mut gone, mut gone_dirty) = (0, 0);
        let mut frame = frame_in_block(pa);
        let end = frame + pages;
        while frame < end {
            let next = end.min((frame | 63) + 1);
            let mask = run_mask(frame, next - frame);
            let (free, dirty) = (map_word_mut(free, frame), map_word_mut(dirty, frame));
            gone += (*free & mask).count_ones() as u16;
            gone_dirty += (*dirty & mask).count_ones() as u16;
            *free &= !mask;
            *dirty &= !mask;
            frame = next;
        }
        self.update(index, |block| {
            block.free -= gone;
            block.dirty -= gone_dirty;
        });
        self.uncount(gone_dirty, gone);
    }

    fn uncount(&mut self, dirty: u16, pages: u16) {
        self.counts.dirty -= u32::from(dirty);
        self.counts.zero -= u32::from(pages - dirty);
    }

    /// The first PA of a whole free 1 GiB that nobody claims, aligned to it: what one level-1 entry can map.
    pub(crate) fn find_free_gib(&self) -> Option<Pa> {
        self.regions.iter().find_map(|region| {
            let end = region.first + u64::from(region.blocks);
            let mut at = region.first.next_multiple_of(GIB_BLOCKS);
            while at + GIB_BLOCKS <= end {
                if self.is_gib_free(Pa::from_block(at), NO_GUEST) {
                    return Some(Pa::from_block(at));
                }
                at += GIB_BLOCKS;
            }
            None
        })
    }

    /// Whether the 1 GiB at `pa`, aligned to it, is free and zero and claimed by `guest`.
    pub(crate) fn is_free_gib(&self, pa: Pa, guest: GuestId) -> bool {
        self.is_gib_free(pa, guest.0)
    }

    fn is_gib_free(&self, pa: Pa, claimant: u8) -> bool {
        let last = Pa(pa.0 + GIB - BLOCK_SIZE);
        let (Some(first), Some(last)) = (self.block_at(pa), self.block_at(last)) else {
            return false;
        };
        let run = self.blocks.get(first as usize..=last as usize);
        u64::from(last - first) + 1 == GIB_BLOCKS
            && run.is_some_and(|run| {
                run.iter()
                    .all(|block| block.list() == Some(ListId::Zero) && block.claimant == claimant)
            })
    }
}

/// Blocks that one level-1 entry can map.
const GIB_BLOCKS: u64 = GIB / BLOCK_SIZE;

fn zeroed_maps(count: usize) -> Box<[super::MapWords]> {
    vec![[[0; 8]; 2]; count].into_boxed_slice()
}

/// The ranges by address, in whole pages, without empty ones.
fn sorted(ram: &[PaRange]) -> Result<heapless::Vec<PaRange, MAX_REGIONS>, PoolError> {
    let mut ranges = heapless::Vec::<PaRange, MAX_REGIONS>::new();
    for range in ram {
        let end = range.end().align_down(PAGE_SIZE);
        let Some(start) = range.start.align_up(PAGE_SIZE) else {
            continue;
        };
        if start < end {
            let whole = PaRange {
                start,
                size: end.0 - start.0,
            };
            ranges.push(whole).map_err(|_| PoolError::TooManyRegions)?;
        }
    }
    sort::by_key(&mut ranges, |range| range.start);
    for pair in ranges.windows(2) {
        if let [a, b] = pair
            && a.overlaps(*b)
        {
            return Err(PoolError::Overlap(*a, *b));
        }
    }
    Ok(ranges)
}

/// The runs of touching blocks that cover the sorted ranges, and how many blocks that is.
fn regions(ranges: &[PaRange]) -> Result<(heapless::Vec<Region, MAX_REGIONS>, u32), PoolError> {
    let mut regions = heapless::Vec::<Region, MAX_REGIONS>::new();
    let mut total = 0_u64;
    for range in ranges {
        let first = range.start.block();
        let end = range
            .end()
            .align_up(BLOCK_SIZE)
            .ok_or(PoolError::TooLarge)?
            .block();
        if end - first + total >= 1 << 18 {
            return Err(PoolError::TooLarge);
        }
        match regions.last_mut() {
            Some(last) if first <= last.first + u64::from(last.blocks) => {
                let more = end.saturating_sub(last.first + u64::from(last.blocks));
                last.blocks += more as u32;
                total += more;
            }
            _ => {
                let region = Region {
                    first,
                    blocks: (end - first) as u32,
                    base: total as u32,
                };
                regions
                    .push(region)
                    .map_err(|_| PoolError::TooManyRegions)?;
                total += end - first;
            }
        }
    }
    if total == 0 {
        Err(PoolError::Empty)
    } else {
        Ok((regions, total as u32))
    }
}
