//! Split blocks: frames with an owner each.

use super::list::ListId;
use super::{BLOCK_PAGES, GuestId, Pool, frame_in_block, map_word, map_word_mut, word, word_index};
use crate::addr::{BLOCK_SIZE, Ipa, PAGE_SIZE, Pa};

/// A frame just taken from the pool.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Taken {
    pub pa: Pa,
    pub dirty: bool,
}

impl Pool {
    /// Takes the home frames `first..first + pages` (within 64 frames) of the split block at `pa`,
    /// if all are free. Returns which of them are dirty.
    #[inline]
    pub(crate) fn take_home_run(
        &mut self,
        pa: Pa,
        first: u16,
        pages: u16,
        guest: GuestId,
    ) -> Option<u64> {
        let index = self.block_at(pa).filter(|index| !self.is_moving(*index))?;
        self.take_run(index, first, pages, guest)
    }

    /// The same, whatever is under way with the block.
    #[inline]
    pub(super) fn take_run(
        &mut self,
        index: u32,
        first: u16,
        pages: u16,
        guest: GuestId,
    ) -> Option<u64> {
        let [free, dirty] = self.maps.get_mut(index as usize)?;
        let (free, dirty) = (map_word_mut(free, first), map_word_mut(dirty, first));
        let mask = run_mask(first, pages);
        if *free & mask != mask {
            return None;
        }
        let taken_dirty = *dirty & mask;
        *free &= !mask;
        *dirty &= !mask;
        self.count_taken(index, pages, taken_dirty.count_ones() as u16, guest);
        // Words of free frames are HOME already.
        Some(taken_dirty >> (first & 63))
    }

    /// Which of the 64 frames from `pa` on, aligned to as many, are free.
    #[inline]
    pub(crate) fn home_group(&self, pa: Pa) -> u64 {
        let index = self.block_at(pa).filter(|index| !self.is_moving(*index));
        let maps = index.and_then(|index| self.maps(index));
        maps.map_or(0, |maps| map_word(maps.free, frame_in_block(pa)))
    }

    /// Takes those of the 64 frames from `pa` on whose bits are set, `pages` of them and all free, for the pages
    /// they are home to. Returns which of them are dirty.
    #[inline]
    pub(crate) fn take_home_group(&mut self, pa: Pa, bits: u64, pages: u16, guest: GuestId) -> u64 {
        let Some(index) = self.block_at(pa) else {
            return 0;
        };
        let Some([free, dirty]) = self.maps.get_mut(index as usize) else {
            return 0;
        };
        let frame = frame_in_block(pa);
        let (free, dirty) = (map_word_mut(free, frame), map_word_mut(dirty, frame));
        debug_assert_eq!(*free & bits, bits);
        let taken_dirty = *dirty & bits;
        *free &= !bits;
        *dirty &= !bits;
        let dirty_pages = if taken_dirty == 0 {
            0
        } else {
            taken_dirty.count_ones() as u16
        };
        self.count_taken(index, pages, dirty_pages, guest);
        taken_dirty
    }

    /// Takes those of the 64 frames from `pa` on whose bits are set back from `guest`. They are at home.
    pub(super) fn give_group(&mut self, pa: Pa, bits: u64, guest: GuestId) {
        let Some(index) = self.block_at(pa) else {
            return;
        };
        let frame = frame_in_block(pa);
        if let Some([free, dirty]) = self.maps.get_mut(index as usize) {
            debug_assert_eq!(map_word(free, frame) & bits, 0);
            *map_word_mut(free, frame) |= bits;
            *map_word_mut(dirty, frame) |= bits;
        }
        let pages = bits.count_ones() as u16;
        self.count_given(u32::from(pages), guest);
        self.more_free(index, pages, pages);
    }

    /// Whether the frames `first..first + pages` (within 64 frames) of the split block at `pa` are free.
    pub(crate) fn is_run_free(&self, pa: Pa, first: u16, pages: u16) -> bool {
        let mask = run_mask(first, pages);
        pages == 0
            || self
                .block_at(pa)
                .filter(|index| !self.is_moving(*index))
                .and_then(|index| self.maps(index))
                .is_some_and(|maps| map_word(maps.free, first) & mask == mask)
    }

    /// Whether the frame at `pa` is being scrubbed at this moment, so that it will soon be free.
    pub(crate) fn is_claimed(&self, pa: Pa) -> bool {
        let word = self
            .block_at(pa)
            .and_then(|index| self.words.get(word_index(index, frame_in_block(pa))));
        word == Some(&word::CLAIMED)
    }

    /// Takes any frame as memory of `guest` at `ipa`: out of a split block if there is one with a
    /// free frame, else a whole block is opened.
    pub(crate) fn take_any(&mut self, guest: GuestId, ipa: Ipa) -> Option<Taken> {
        let (index, frame) = self.find_any(guest)?;
        let dirty = self.take_frame(index, frame);
        self.set_word(index, frame, word::memory(guest, ipa.page() as u32));
        self.count_guest(guest, 1);
        Some(Taken {
            pa: self.frame_pa(index, frame),
            dirty,
        })
    }

    /// Takes one frame of a split block back; the caller counts it. A block all of whose frames are free
    /// becomes whole again.
    #[inline]
    pub(super) fn give_frame(&mut self, pa: Pa) {
        let Some(index) = self.block_at(pa) else {
            return;
        };
        let frame = frame_in_block(pa);
        self.set_word(index, frame, word::HOME);
        if let Some([free, dirty]) = self.maps.get_mut(index as usize) {
            let bit = 1 << (frame & 63);
            debug_assert_eq!(map_word(free, frame) & bit, 0);
            *map_word_mut(free, frame) |= bit;
            *map_word_mut(dirty, frame) |= bit;
        }
        self.more_free(index, 1, 1);
    }

    /// Counts frames that `guest` gave back.
    pub(super) fn count_given(&mut self, frames: u32, guest: GuestId) {
        self.counts.dirty += frames;
        self.uncount_guest(guest, frames);
    }

    #[inline]
    fn count_taken(&mut self, index: u32, pages: u16, dirty_pages: u16, guest: GuestId) {
        self.less_free(index, pages, dirty_pages);
        self.counts.dirty -= u32::from(dirty_pages);
        self.counts.zero -= u32::from(pages - dirty_pages);
        self.count_guest(guest, u32::from(pages));
    }

    /// Puts frames that were claimed for scrubbing back: from `first` on so many zero ones, and behind them so
    /// many that are dirty still.
    pub(super) fn put_scrubbed_frames(&mut self, index: u32, first: u16, [zero, dirty]: [u16; 2]) {
        let pages = zero + dirty;
        if let Some([free_map, dirty_map]) = self.maps.get_mut(index as usize) {
            *map_word_mut(free_map, first) |= run_mask(first, pages);
            if dirty != 0 {
                *map_word_mut(dirty_map, first) |= run_mask(first + zero, dirty);
            }
        }
        for frame in first..first + pages {
            self.set_word(index, frame, word::HOME);
        }
        self.counts.dirty -= u32::from(zero);
        self.counts.zero += u32::from(zero);
        self.claimed -= u32::from(pages);
        self.scrubbing -= u32::from(pages);
        self.more_free(index, pages, dirty);
    }

    /// Some frames of a split block are no longer free. It changes its list only when the last free or
    /// the last dirty one goes.
    #[inline]
    fn less_free(&mut self, index: u32, pages: u16, dirty_pages: u16) {
        let Some(block) = self.blocks.get_mut(index as usize) else {
            return;
        };
        if !block.moving.is_none() {
            self.claimed -= u32::from(pages);
        }
        if block.free == pages || (block.dirty == dirty_pages && dirty_pages != 0) {
            self.update(index, |block| {
                block.free -= pages;
                block.dirty -= dirty_pages;
            });
        } else {
            block.free -= pages;
            block.dirty -= dirty_pages;
        }
    }

    /// Some frames of a split block are free now. It changes its list only with the first free or dirty
    /// one, and becomes whole with the last.
    #[inline]
    fn more_free(&mut self, index: u32, pages: u16, dirty_pages: u16) {
        let Some(block) = self.blocks.get_mut(index as usize) else {
            return;
        };
        if !block.moving.is_none() {
            self.claimed += u32::from(pages);
        }
        let is_first = block.free == 0 || (block.dirty == 0 && dirty_pages != 0);
        if !is_first && block.free + pages != BLOCK_PAGES {
            block.free += pages;
            block.dirty += dirty_pages;
            return;
        }
        self.update(index, |block| {
            block.free += pages;
            block.dirty += dirty_pages;
        });
        if self
            .blocks
            .get(index as usize)
            .is_some_and(|block| block.free == BLOCK_PAGES)
        {
            self.close_free_block(index);
        }
    }

    /// Takes a run of dirty free frames out of the free ones, at most `most` (up to 64).
    pub(super) fn claim_dirty_frames(&mut self, most: u16) -> Option<(u32, u16, u16)> {
        let index = self.head(ListId::SplitDirty)?;
        let [free, dirty] = self.maps.get_mut(index as usize)?;
        let mut base = 0;
        for (free, dirty) in free.iter_mut().zip(dirty) {
            if *dirty != 0 {
                let start = dirty.trailing_zeros();
                let pages = (*dirty >> start).trailing_ones().min(u32::from(most)) as u16;
                let first = base + start as u16;
                let mask = run_mask(first, pages);
                *free &= !mask;
                *dirty &= !mask;
                self.less_free(index, pages, pages);
                for frame in first..first + pages {
                    self.set_word(index, frame, word::CLAIMED);
                }
                self.claimed += u32::from(pages);
                self.scrubbing += u32::from(pages);
                return Some((index, first, pages));
            }
            base += 64;
        }
        None
    }

    /// A free frame: of a split block and zero if possible, a whole block being opened last.
    pub(super) fn find_any(&mut self, guest: GuestId) -> Option<(u32, u16)> {
        let head = |list| self.head(list).filter(|index| self.may_give(*index, guest));
        let index = match head(ListId::SplitZero).or_else(|| head(ListId::SplitDirty)) {
            Some(index) => index,
            None => {
                let index = self.whole_block([ListId::Zero, ListId::Dirty], guest)?;
                self.open_free_block(index, None);
                index
            }
        };
        let maps = self.maps(index)?;
        let (mut base, mut any) = (0, None);
        for (free, dirty) in maps.free.iter().zip(maps.dirty) {
            let clean = free & !dirty;
            if clean != 0 {
                return Some((index, base + clean.trailing_zeros() as u16));
            }
            if *free != 0 && any.is_none() {
                any = Some((index, base + free.trailing_zeros() as u16));
            }
            base += 64;
        }
        any
    }

    /// Takes one free frame of a split block out of the free ones; returns whether it is dirty. The
    /// caller counts it for its new owner.
    pub(super) fn take_frame(&mut self, index: u32, frame: u16) -> bool {
        let Some([free, dirty]) = self.maps.get_mut(index as usize) else {
            return true;
        };
        let mask = run_mask(frame, 1);
        let is_dirty = map_word(dirty, frame) & mask != 0;
        debug_assert_ne!(map_word(free, frame) & mask, 0);
        *map_word_mut(free, frame) &= !mask;
        *map_word_mut(dirty, frame) &= !mask;
        self.less_free(index, 1, u16::from(is_dirty));
        self.counts.dirty -= u32::from(is_dirty);
        self.counts.zero -= u32::from(!is_dirty);
        is_dirty
    }

    pub(super) fn set_word(&mut self, index: u32, frame: u16, value: u32) {
        if let Some(word) = self.words.get_mut(word_index(index, frame)) {
            *word = value;
        }
    }

    pub(super) fn frame_pa(&self, index: u32, frame: u16) -> Pa {
        Pa(self.block_pa(index).0 + u64::from(frame) * PAGE_SIZE)
    }
}

/// Bits of the frames `first..first + pages` in their bitmap word, which they do not leave.
pub(super) const fn run_mask(first: u16, pages: u16) -> u64 {
    (u64::MAX >> ((64 - pages as u32) & 63)) << (first & 63)
}

/// The frame of block `block_of` that is home to the page with number `page` in its 2 MiB.
#[must_use]
pub(crate) const fn home_frame(block_of: Pa, page: u16) -> Pa {
    Pa((block_of.0 & !(BLOCK_SIZE - 1)) | ((page & (BLOCK_PAGES - 1)) as u64 * PAGE_SIZE))
}
