//! From dirty to zero: free frames that a core claims, scrubs outside of the pool's lock, and puts back.
//!
//! While they are on their way they are free and in nobody's list. So no guest can be given them, and two cores never
//! scrub the same.

use crate::addr::{PAGE_SIZE, Pa};
use crate::balloon::hw::Hardware;
use crate::frames::list::ListId;
use crate::frames::{BLOCK_PAGES, Block, Kind, Pool};

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
pub struct ZeroRun {
    run: DirtyRun,
    /// Pages from the first on; the others are dirty still.
    pages: u16,
}

impl ZeroRun {
    /// Pages scrubbed.
    #[must_use]
    pub const fn pages(&self) -> u16 {
        self.pages
    }
}

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
        ZeroRun {
            pages: self.pages,
            run: self,
        }
    }

    /// The same, but ends after a page if an interrupt waits for this core.
    pub fn scrub_watching(self, hw: &mut impl Hardware) -> ZeroRun {
        let pages = hw.scrub_watching(self.pa, self.pages).min(self.pages);
        ZeroRun { pages, run: self }
    }
}

impl Pool {
    /// Claims up to `most` frames of a whole dirty block. What an earlier claim scrubbed of it is not
    /// scrubbed again.
    pub fn claim_dirty_block(&mut self, most: u16) -> Option<DirtyRun> {
        let block = self.head(ListId::Dirty)?;
        self.claim_dirty_part(block, most)
    }

    /// The same for the block at `pa`, if it is whole and dirty.
    pub(crate) fn claim_dirty_block_at(&mut self, pa: Pa, most: u16) -> Option<DirtyRun> {
        let block = self.block_at(pa).filter(|_| self.is_dirty_block(pa))?;
        self.claim_dirty_part(block, most)
    }

    fn claim_dirty_part(&mut self, block: u32, most: u16) -> Option<DirtyRun> {
        let dirty = self.update(block, |block| {
            block.kind = Kind::Claimed;
            block.dirty
        })?;
        self.claimed += u32::from(BLOCK_PAGES);
        self.scrubbing += u32::from(BLOCK_PAGES);
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

    /// Puts scrubbed frames back, and what of the run was not.
    pub fn put_zero(&mut self, zero: ZeroRun) {
        let ZeroRun { run, pages } = zero;
        let DirtyRun {
            block: index,
            first,
            ..
        } = run;
        let Some(Block {
            kind: Kind::Claimed,
            ..
        }) = self.blocks.get(index as usize)
        else {
            self.put_scrubbed_frames(index, first, [pages, run.pages - pages]);
            return;
        };
        self.update(index, |block| {
            block.kind = Kind::Free;
            block.dirty -= pages;
        });
        self.claimed -= u32::from(BLOCK_PAGES);
        self.scrubbing -= u32::from(BLOCK_PAGES);
        self.counts.dirty -= u32::from(pages);
        self.counts.zero += u32::from(pages);
    }
}
