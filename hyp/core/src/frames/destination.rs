//! Blocks that take in what moves out of wanted ones: see [`moving`](super::moving).

use super::list::ListId;
use super::moving::Moving;
use super::split::run_mask;
use super::{BLOCK_PAGES, Block, GuestId, Kind, Pool, frame_in_block};
use crate::addr::Pa;

impl Pool {
    /// A whole free block for the 2 MiB of `guest` at `ipa_block` to move to, with its frame number `table`
    /// as their level-3 table, whose address it returns: unclaimed if possible, and dirty rather than
    /// zero, as all of it is written anyway.
    pub(crate) fn open_destination(
        &mut self,
        guest: GuestId,
        ipa_block: u32,
        table: u16,
    ) -> Option<Pa> {
        let index = self.whole_block([ListId::Dirty, ListId::Zero], guest)?;
        self.open_free_block(index, Some((guest, ipa_block)));
        self.update(index, |block| block.moving = Moving::DESTINATION);
        self.claimed += u32::from(BLOCK_PAGES);
        self.take_as_table(index, table, guest, ipa_block);
        Some(self.frame_pa(index, table))
    }

    /// The whole block at `pa` is mapped page by page from now on.
    pub(crate) fn split_wanted(&mut self, pa: Pa) {
        if let Some(index) = self.block_at(pa) {
            self.update(index, |block| {
                debug_assert_eq!(block.kind, Kind::Guest);
                block.kind = Kind::Split;
                (block.free, block.dirty) = (0, 0);
            });
        }
    }

    /// Takes the frames `first..first + pages` (within 16) of the destination in which `table` lies, if they are
    /// all free, for the pages they are home to. As many are leaving other frames from now on, which is what
    /// [`Pool::give_moved`] ends.
    pub(crate) fn take_in(&mut self, table: Pa, first: u16, pages: u16, guest: GuestId) -> bool {
        let Some(index) = self.block_at(table) else {
            return false;
        };
        let is_kept = self.blocks.get(index as usize).is_some_and(|block| {
            (block.moving.is_destination() || block.moving.is_gathering()) && block.guest == guest.0
        });
        let is_taken = is_kept && self.take_run(index, first, pages, guest).is_some();
        if is_taken {
            self.set_beside(guest, pages.into());
        }
        is_taken
    }

    /// Takes back a frame whose content has moved.
    pub(crate) fn give_moved(&mut self, from: Pa, guest: GuestId) {
        self.end_beside(guest, 1);
        self.give_frame(from);
        self.count_given(1, guest);
    }

    /// The same for `pages` frames from `from` on (within 64 frames) that were at home.
    pub(crate) fn give_moved_home(&mut self, from: Pa, pages: u16, guest: GuestId) {
        self.end_beside(guest, pages.into());
        self.give_group(from, run_mask(frame_in_block(from), pages), guest);
    }

    /// Takes back the frame of a level-3 table that has moved. What else is at home in its block stays.
    pub(crate) fn give_moved_table(&mut self, from: Pa, guest: GuestId) {
        self.uncount_table(guest);
        self.give_frame(from);
        self.counts.dirty += 1;
    }

    /// The block of `table` takes nothing in any more. If it is wanted itself, its holder is to move on.
    pub(crate) fn close_destination(&mut self, table: Pa) -> Option<GuestId> {
        let index = self.block_at(table)?;
        let &Block { moving, free, .. } = self.blocks.get(index as usize)?;
        if !moving.is_destination() {
            return None;
        }
        if moving.is_wanted() {
            return self.queue(index);
        }
        self.claimed -= u32::from(free);
        self.update(index, |block| block.moving = Moving::NONE);
        None
    }

    /// Whether a destination that has become whole in the hands of its guest is wanted: whose it then is.
    pub(super) fn end_of_destination(&mut self, index: u32) {
        let moving = self.blocks.get(index as usize).map(|block| block.moving);
        if moving.is_some_and(Moving::is_wanted) {
            self.queue(index);
        } else {
            self.update(index, |block| block.moving = Moving::NONE);
        }
    }
}
