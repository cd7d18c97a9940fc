//! Frames on their way from one owner to the next, as types: what a guest gave up is *unmapped*,
//! then *unreachable* once no TLB can hold it, then free and dirty; a dirty run is *scrubbed* before
//! it is zero; a frame taken from the pool is *zeroed* before it is mapped. Only the code that did a
//! step makes the next type, so "reused before the TLB was invalidated" does not compile.
//!
//! None of these steps is done under the pool's lock, which is why they have types.

use spin::mutex::TicketMutex;

use super::list::ListId;
use super::split::Taken;
use super::{BLOCK_PAGES, Block, GuestId, Kind, Pool};
use crate::addr::{BLOCK_SIZE, PAGE_SIZE, Pa};
use crate::balloon::hw::Hardware;

/// Runs an [`Unmapped`] batch can hold.
pub const BATCH_RUNS: usize = 512;

/// Runs given back for one holding of the pool's lock.
const RUNS_PER_LOCK: usize = 32;

/// Pages that no translation table of their guest maps any more; TLBs still may.
#[must_use = "these pages are owned by nobody until the batch is invalidated and freed"]
pub struct Unmapped<'a> {
    guest: GuestId,
    runs: &'a mut [u64; BATCH_RUNS],
    len: usize,
    /// The last word is a run or table, not the bits of a group.
    last_is_run: bool,
}

/// Pages that nothing can reach: not mapped, and not in any TLB.
#[must_use = "these pages are owned by nobody until they are freed"]
pub struct Unreachable<'a> {
    guest: GuestId,
    runs: &'a [u64],
}

/// What a word of the batch says, in bits 11:10. Its PA is in 63:12.
mod kind {
    pub const MASK: u64 = 3 << 10;
    /// Pages of a split block, as many as bits 9:0 say.
    pub const RUN: u64 = 0;
    /// Those of 64 pages whose bits are set in the next word.
    pub const GROUP: u64 = 1 << 10;
    /// A level-3 table.
    pub const TABLE: u64 = 2 << 10;
    /// A whole block.
    pub const BLOCK: u64 = 3 << 10;
}

/// The pages of a run.
const PAGES_MASK: u64 = 0x3ff;

impl<'a> Unmapped<'a> {
    /// An empty batch for pages of `guest`, over storage whose content does not matter.
    pub fn new(guest: GuestId, storage: &'a mut [u64; BATCH_RUNS]) -> Self {
        Self {
            guest,
            runs: storage,
            len: 0,
            last_is_run: false,
        }
    }

    /// Whether nothing is in the batch.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many runs more fit.
    #[must_use]
    pub const fn room(&self) -> usize {
        BATCH_RUNS - self.len
    }

    /// Adds pages that were mapped until now, within one 2 MiB block. The batch must not be full.
    #[inline]
    pub(crate) fn push(&mut self, pa: Pa, pages: u16) {
        if self.last_is_run
            && !pa.is_aligned(BLOCK_SIZE)
            && let Some(last) = self
                .len
                .checked_sub(1)
                .and_then(|last| self.runs.get_mut(last))
            && *last & kind::MASK == kind::RUN
            && (*last & !0xfff) + (*last & PAGES_MASK) * PAGE_SIZE == pa.0
        {
            *last += u64::from(pages);
            return;
        }
        self.push_raw(pa.0 | u64::from(pages));
    }

    /// Adds a whole block.
    #[inline]
    pub(crate) fn push_block(&mut self, pa: Pa) {
        self.push_raw(pa.0 | kind::BLOCK);
    }

    /// Adds those of the 64 pages from `pa` on whose bits are set; `pa` is aligned to 64 pages, and all
    /// are frames at home. Takes two places.
    pub(crate) fn push_group(&mut self, pa: Pa, bits: u64) {
        self.push_raw(pa.0 | kind::GROUP);
        self.push_raw(bits);
        // Bits must not be taken for a run that the next one continues.
        self.last_is_run = false;
    }

    /// Adds a level-3 table that no level-2 entry points to any more. The batch must not be full.
    pub(crate) fn push_table(&mut self, pa: Pa) {
        self.push_raw(pa.0 | kind::TABLE);
    }

    #[inline]
    fn push_raw(&mut self, run: u64) {
        debug_assert_ne!(self.room(), 0);
        if let Some(slot) = self.runs.get_mut(self.len) {
            *slot = run;
            self.len += 1;
            self.last_is_run = true;
        }
    }

    /// Invalidates the guest's translations on all cores, once for all the pages. The batch is empty
    /// afterwards.
    pub fn invalidate(&mut self, hw: &mut impl Hardware) -> Unreachable<'_> {
        hw.invalidate_guest();
        let len = core::mem::take(&mut self.len);
        Unreachable {
            guest: self.guest,
            runs: self.runs.get(..len).unwrap_or(&[]),
        }
    }
}

impl Unreachable<'_> {
    /// Gives the pages to the pool, dirty, in short sections.
    pub fn free(self, pool: &TicketMutex<Pool>) {
        let mut runs = self.runs.iter();
        while !runs.as_slice().is_empty() {
            let mut pool = pool.lock();
            let mut blocks = 0;
            for _ in 0..RUNS_PER_LOCK {
                let Some(&run) = runs.next() else { break };
                let pa = Pa(run & !0xfff);
                match run & kind::MASK {
                    kind::BLOCK => {
                        pool.give_block(pa, self.guest);
                        blocks += 1;
                    }
                    kind::GROUP => {
                        let bits = runs.next().copied().unwrap_or(0);
                        pool.give_group(pa, bits, self.guest);
                    }
                    kind::TABLE => pool.give_table(pa, self.guest),
                    _ => pool.give_run(pa, (run & PAGES_MASK) as u16, self.guest),
                }
            }
            pool.count_blocks_given(blocks, self.guest);
        }
    }
}

/// Dirty free frames that one core has claimed to scrub.
#[must_use = "claimed frames are lost to everybody until they are scrubbed and put back"]
#[derive(Debug)]
pub struct DirtyRun {
    block: u32,
    first: u16,
    pages: u16,
    pa: Pa,
}

/// Frames that were scrubbed.
#[must_use = "scrubbed frames are lost to everybody until they are put back"]
#[derive(Debug)]
pub struct ZeroRun(DirtyRun);

impl DirtyRun {
    /// Pages to scrub.
    #[must_use]
    pub const fn pages(&self) -> u16 {
        self.pages
    }

    /// Whether the frames are the last of their block.
    #[must_use]
    pub const fn ends_block(&self) -> bool {
        self.first + self.pages == BLOCK_PAGES
    }

    /// Zeroes the frames and cleans them to the point of coherency.
    pub fn scrub(self, hw: &mut impl Hardware) -> ZeroRun {
        hw.scrub(self.pa, usize::from(self.pages));
        ZeroRun(self)
    }
}

impl Pool {
    /// Claims up to `most` frames of a whole dirty block. What an earlier claim scrubbed of it is not
    /// scrubbed again.
    pub fn claim_dirty_block(&mut self, most: u16) -> Option<DirtyRun> {
        let block = self.head(ListId::Dirty)?;
        let dirty = self.update(block, |block| {
            block.kind = Kind::Claimed;
            block.dirty
        })?;
        self.claimed += u32::from(BLOCK_PAGES);
        let first = BLOCK_PAGES - dirty;
        let pa = Pa(self.block_pa(block).0 + u64::from(first) * PAGE_SIZE);
        Some(DirtyRun {
            block,
            first,
            pages: dirty.min(most),
            pa,
        })
    }

    /// Claims up to `most` dirty frames, of a whole block first.
    pub fn claim_dirty(&mut self, most: u16) -> Option<DirtyRun> {
        if let Some(run) = self.claim_dirty_block(most) {
            return Some(run);
        }
        let (block, first, pages) = self.claim_dirty_frames(most)?;
        let pa = Pa(self.block_pa(block).0 + u64::from(first) * PAGE_SIZE);
        Some(DirtyRun {
            block,
            first,
            pages,
            pa,
        })
    }

    /// Puts scrubbed frames back.
    pub fn put_zero(&mut self, run: ZeroRun) {
        let ZeroRun(DirtyRun {
            block: index,
            first,
            pages,
            ..
        }) = run;
        let Some(Block {
            kind: Kind::Claimed,
            ..
        }) = self.blocks.get(index as usize)
        else {
            self.put_zero_frames(index, first, pages);
            return;
        };
        self.update(index, |block| {
            block.kind = Kind::Free;
            block.dirty -= pages;
        });
        self.claimed -= u32::from(BLOCK_PAGES);
        self.counts.dirty -= u32::from(pages);
        self.counts.zero += u32::from(pages);
    }
}

/// Frames taken from the pool for a guest, which may still hold what their last owner left.
#[must_use = "claimed frames must be mapped"]
pub struct Claim {
    pa: Pa,
    /// Bit `i`: frame `i` is dirty.
    dirty: u64,
}

/// Frames taken from the pool that hold zeros (or what they held at power-on): ready to be mapped.
#[must_use = "claimed frames must be mapped"]
pub struct Zeroed {
    pa: Pa,
}

impl Claim {
    /// Frames from `pa` on, of which those with a bit in `dirty` are dirty.
    pub(crate) const fn run(pa: Pa, dirty: u64) -> Self {
        Self { pa, dirty }
    }

    pub(crate) const fn frame(taken: Taken) -> Self {
        Self {
            pa: taken.pa,
            dirty: taken.dirty as u64,
        }
    }

    /// Frames to scrub.
    #[must_use]
    pub const fn dirty_pages(&self) -> u32 {
        self.dirty.count_ones()
    }

    /// Scrubs what is dirty.
    #[inline]
    pub fn zero(self, hw: &mut impl Hardware) -> Zeroed {
        let mut dirty = self.dirty;
        while dirty != 0 {
            let first = dirty.trailing_zeros();
            let pages = (dirty >> first).trailing_ones();
            hw.scrub(Pa(self.pa.0 + u64::from(first) * PAGE_SIZE), pages as usize);
            dirty &= !((u64::MAX >> (64 - pages)) << first);
        }
        Zeroed { pa: self.pa }
    }
}

impl Zeroed {
    /// The first frame.
    #[must_use]
    pub const fn pa(&self) -> Pa {
        self.pa
    }
}
