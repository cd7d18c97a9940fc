//! Level-3 tables of RAM: frames of the guest that they map for, and what makes and ends a home.

use super::list::ListId;
use super::split::run_mask;
use super::{BLOCK_PAGES, Block, GuestId, Kind, NO_GUEST, Pool, frame_in_block, word, word_index};
use crate::addr::Pa;

impl Pool {
    /// Splits the block of `table`, which its guest has whole. That frame becomes the level-3 table; all others stay what they are, the guest's memory.
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
        if self.is_moving(index) {
            self.end_of_destination(index);
        }
        if let Some(guest) = guest.and_then(|guest| GuestId::new(usize::from(guest))) {
            self.count_guest(guest, 1);
            self.uncount_table(guest);
        }
    }

    /// Opens a whole free block as the home of `guest`'s 2 MiB at `ipa_block`, with its frame number
    /// `table` as the level-3 table. Returns the table's address.
    pub(crate) fn take_home(&mut self, guest: GuestId, ipa_block: u32, table: u16) -> Option<Pa> {
        let index = self.whole_block([ListId::Zero, ListId::Dirty], guest)?;
        self.open_free_block(index, Some((guest, ipa_block)));
        self.take_as_table(index, table, guest, ipa_block);
        Some(self.frame_pa(index, table))
    }

    pub(super) fn take_as_table(&mut self, index: u32, frame: u16, guest: GuestId, ipa_block: u32) {
        self.take_frame(index, frame);
        self.mark_table(index, frame, guest, ipa_block);
    }

    /// Takes any frame as a level-3 table.
    pub(crate) fn take_table(&mut self, guest: GuestId, ipa_block: u32) -> Option<Pa> {
        let (index, frame) = self.find_any(guest)?;
        self.take_as_table(index, frame, guest, ipa_block);
        Some(self.frame_pa(index, frame))
    }

    /// Where the table at `table` could move: the highest free frame of its block that is not among
    /// `pages` from frame `first` on (within 64 frames).
    pub(crate) fn find_table_place(&self, table: Pa, first: u16, pages: u16) -> Option<Pa> {
        let index = self
            .block_at(table)
            .filter(|index| !self.is_moving(*index))?;
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

    /// Takes the level-3 table at `pa` back from `guest`. If the table was at home, its block is
    /// nobody's home any more: all of its pages are gone.
    pub(super) fn give_table(&mut self, pa: Pa, guest: GuestId) {
        self.end_home(pa);
        self.uncount_table(guest);
        self.count_guest(guest, 1);
        self.give_frame(pa);
        self.count_given(1, guest);
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
            self.end_gathering(index);
        }
    }

    fn mark_table(&mut self, index: u32, frame: u16, guest: GuestId, ipa_block: u32) {
        self.set_word(index, frame, word::table(guest, ipa_block << 9));
        if let Some(count) = self.counts.tables.get_mut(guest.index()) {
            *count += 1;
        }
    }

    pub(super) fn uncount_table(&mut self, guest: GuestId) {
        if let Some(count) = self.counts.tables.get_mut(guest.index()) {
            *count -= 1;
        }
    }
}
