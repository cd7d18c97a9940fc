//! Split blocks: frames with an owner each, level-3 tables among them.

use super::list::ListId;
use super::{
    BLOCK_PAGES, Block, GuestId, Kind, NO_GUEST, Pool, frame_in_block, map_word, map_word_mut,
    word, word_index,
};
use crate::addr::{BLOCK_SIZE, Ipa, PAGE_SIZE, Pa};

/// A frame just taken from the pool.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Taken {
    pub pa: Pa,
    pub dirty: bool,
}

impl Pool {
    /// Splits the block at `pa`, which its guest has whole. The frame at `table` becomes the level-3
    /// table; all others stay what they are, the guest's memory.
    pub(crate) fn split_block(&mut self, table: Pa) {
        let Some(index) = self.block_at(table) else {
            return;
        };
        let home = self.update(index, |block| {
            debug_assert_eq!(block.kind, Kind::Guest);
            block.kind = Kind::Split;
            block.free = 0;
            block.dirty = 0;
            (block.guest, block.ipa_block)
        });
        if let Some((guest, ipa_block)) = home
            && let Some(guest) = GuestId::new(usize::from(guest))
        {
            self.uncount_guest(guest, 1);
            self.mark_table(index, frame_in_block(table), guest, ipa_block);
        }
    }

    /// Makes the block of `table`, the last frame of it that is not mapped at home, whole again.
    pub(crate) fn merge_block(&mut self, table: Pa) {
        let Some(index) = self.block_at(table) else {
            return;
        };
        self.set_word(index, frame_in_block(table), word::HOME);
        let guest = self.update(index, |block| {
            debug_assert_eq!((block.kind, block.free), (Kind::Split, 0));
            block.kind = Kind::Guest;
            block.guest
        });
        if let Some(guest) = guest.and_then(|guest| GuestId::new(usize::from(guest))) {
            self.count_guest(guest, 1);
            self.uncount_table(guest);
        }
    }

    /// Opens a whole free block as the home of `guest`'s 2 MiB at `ipa_block`, with its frame number
    /// `table` as the level-3 table. Returns the table's address.
    pub(crate) fn take_home(&mut self, guest: GuestId, ipa_block: u32, table: u16) -> Option<Pa> {
        let index = self
            .head(ListId::Zero)
            .or_else(|| self.head(ListId::Dirty))?;
        self.open_free_block(index, Some((guest, ipa_block)));
        self.take_frame(index, table);
        self.mark_table(index, table, guest, ipa_block);
        Some(self.frame_pa(index, table))
    }

    /// Takes any frame as a level-3 table.
    pub(crate) fn take_table(&mut self, guest: GuestId, ipa_block: u32) -> Option<Pa> {
        let (index, frame) = self.find_any()?;
        self.take_frame(index, frame);
        self.mark_table(index, frame, guest, ipa_block);
        Some(self.frame_pa(index, frame))
    }

    /// Where the table at `table` could move: the highest free frame of its block that is not among
    /// `pages` from frame `first` on (within 64 frames).
    pub(crate) fn find_table_place(&self, table: Pa, first: u16, pages: u16) -> Option<Pa> {
        let index = self.block_at(table)?;
        let maps = self.maps(index)?;
        let mut base = BLOCK_PAGES;
        for word in maps.free.iter().rev() {
            base -= 64;
            let mut free = *word;
            if base == first & !63 {
                free &= !run_mask(first, pages);
            }
            if free != 0 {
                return Some(self.frame_pa(index, base + 63 - free.leading_zeros() as u16));
            }
        }
        None
    }

    /// Makes the free frame at `to` the table instead of that at `from`, which stays taken: it is
    /// its page's home frame and becomes memory of `guest`.
    pub(crate) fn move_table(&mut self, from: Pa, to: Pa, guest: GuestId) {
        let Some(index) = self.block_at(from) else {
            return;
        };
        let Some(&Block { ipa_block, .. }) = self.blocks.get(index as usize) else {
            return;
        };
        self.take_frame(index, frame_in_block(to));
        self.mark_table(index, frame_in_block(to), guest, ipa_block);
        self.set_word(index, frame_in_block(from), word::HOME);
        self.uncount_table(guest);
        self.count_guest(guest, 1);
    }

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
        let index = self.block_at(pa)?;
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
        let maps = self.block_at(pa).and_then(|index| self.maps(index));
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
        self.count_given(index, bits.count_ones() as u16, guest);
    }

    /// Whether the frames `first..first + pages` (within 64 frames) of the split block at `pa` are free.
    pub(crate) fn is_run_free(&self, pa: Pa, first: u16, pages: u16) -> bool {
        let mask = run_mask(first, pages);
        pages == 0
            || self
                .block_at(pa)
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
        let (index, frame) = self.find_any()?;
        let dirty = self.take_frame(index, frame);
        self.set_word(index, frame, word::memory(guest, ipa.page() as u32));
        self.count_guest(guest, 1);
        Some(Taken {
            pa: self.frame_pa(index, frame),
            dirty,
        })
    }

    /// Takes the level-3 table at `pa` back from `guest`. If the table was at home, its block is
    /// nobody's home any more: all of its pages are gone.
    pub(super) fn give_table(&mut self, pa: Pa, guest: GuestId) {
        self.end_home(pa);
        self.uncount_table(guest);
        self.count_guest(guest, 1);
        self.give_run(pa, 1, guest);
    }

    /// Takes `pages` frames from `pa` on, all of one split block, back from `guest`. A block all of
    /// whose frames are free becomes whole again.
    #[inline]
    pub(super) fn give_run(&mut self, pa: Pa, pages: u16, guest: GuestId) {
        let Some(index) = self.block_at(pa) else {
            return;
        };
        let first = frame_in_block(pa);
        if pages == 1 {
            self.set_word(index, first, word::HOME);
            if let Some([free, dirty]) = self.maps.get_mut(index as usize) {
                *map_word_mut(free, first) |= 1 << (first & 63);
                *map_word_mut(dirty, first) |= 1 << (first & 63);
            }
        } else {
            self.mark_free(index, first, pages);
        }
        self.count_given(index, pages, guest);
    }

    fn mark_free(&mut self, index: u32, first: u16, pages: u16) {
        if let Some(words) = self
            .words
            .get_mut(word_index(index, first)..word_index(index, first) + usize::from(pages))
        {
            words.fill(word::HOME);
        }
        if let Some([free, dirty]) = self.maps.get_mut(index as usize) {
            let (mut at, end) = (first, first + pages);
            while at < end {
                let next = end.min((at & !63) + 64);
                let mask = run_mask(at, next - at);
                debug_assert_eq!(*map_word_mut(free, at) & mask, 0);
                *map_word_mut(free, at) |= mask;
                *map_word_mut(dirty, at) |= mask;
                at = next;
            }
        }
    }

    #[inline]
    fn count_taken(&mut self, index: u32, pages: u16, dirty_pages: u16, guest: GuestId) {
        self.less_free(index, pages, dirty_pages);
        self.counts.dirty -= u32::from(dirty_pages);
        self.counts.zero -= u32::from(pages - dirty_pages);
        self.count_guest(guest, u32::from(pages));
    }

    #[inline]
    fn count_given(&mut self, index: u32, pages: u16, guest: GuestId) {
        self.uncount_guest(guest, u32::from(pages));
        self.counts.dirty += u32::from(pages);
        self.more_free(index, pages, pages);
    }

    fn end_home(&mut self, table: Pa) {
        let Some(index) = self.block_at(table) else {
            return;
        };
        let Some(&word) = self.words.get(word_index(index, frame_in_block(table))) else {
            return;
        };
        if let Some((guest, true)) = word::guest(word)
            && let Some(block) = self.blocks.get_mut(index as usize)
            && usize::from(block.guest) == guest
            && u64::from(block.ipa_block) == word::page(word) >> 9
        {
            block.guest = NO_GUEST;
        }
    }

    /// Puts frames that were claimed for scrubbing back, zero.
    pub(super) fn put_zero_frames(&mut self, index: u32, first: u16, pages: u16) {
        let mask = run_mask(first, pages);
        if let Some([free, _]) = self.maps.get_mut(index as usize) {
            *map_word_mut(free, first) |= mask;
        }
        for frame in first..first + pages {
            self.set_word(index, frame, word::HOME);
        }
        self.counts.dirty -= u32::from(pages);
        self.counts.zero += u32::from(pages);
        self.claimed -= u32::from(pages);
        self.more_free(index, pages, 0);
    }

    /// Some frames of a split block are no longer free. It changes its list only when the last free or
    /// the last dirty one goes.
    #[inline]
    fn less_free(&mut self, index: u32, pages: u16, dirty_pages: u16) {
        let Some(block) = self.blocks.get_mut(index as usize) else {
            return;
        };
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
        if block.free == 0 || (block.dirty == 0 && dirty_pages != 0) {
            self.update(index, |block| {
                block.free += pages;
                block.dirty += dirty_pages;
            });
        } else {
            block.free += pages;
            block.dirty += dirty_pages;
        }
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
                return Some((index, first, pages));
            }
            base += 64;
        }
        None
    }

    /// A free frame: of a split block and zero if possible, a whole block being opened last.
    fn find_any(&mut self) -> Option<(u32, u16)> {
        let index = match self
            .head(ListId::SplitZero)
            .or_else(|| self.head(ListId::SplitDirty))
        {
            Some(index) => index,
            None => {
                let index = self
                    .head(ListId::Zero)
                    .or_else(|| self.head(ListId::Dirty))?;
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
    fn take_frame(&mut self, index: u32, frame: u16) -> bool {
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

    fn mark_table(&mut self, index: u32, frame: u16, guest: GuestId, ipa_block: u32) {
        self.set_word(index, frame, word::table(guest, ipa_block << 9));
        if let Some(count) = self.counts.tables.get_mut(guest.index()) {
            *count += 1;
        }
    }

    fn uncount_table(&mut self, guest: GuestId) {
        if let Some(count) = self.counts.tables.get_mut(guest.index()) {
            *count -= 1;
        }
    }

    fn set_word(&mut self, index: u32, frame: u16, value: u32) {
        if let Some(word) = self.words.get_mut(word_index(index, frame)) {
            *word = value;
        }
    }

    fn frame_pa(&self, index: u32, frame: u16) -> Pa {
        Pa(self.block_pa(index).0 + u64::from(frame) * PAGE_SIZE)
    }
}

/// Bits of the frames `first..first + pages` in their bitmap word, which they do not leave.
const fn run_mask(first: u16, pages: u16) -> u64 {
    (u64::MAX >> ((64 - pages as u32) & 63)) << (first & 63)
}

/// The frame of block `block_of` that is home to the page with number `page` in its 2 MiB.
#[must_use]
pub(crate) const fn home_frame(block_of: Pa, page: u16) -> Pa {
    Pa((block_of.0 & !(BLOCK_SIZE - 1)) | ((page & (BLOCK_PAGES - 1)) as u64 * PAGE_SIZE))
}
