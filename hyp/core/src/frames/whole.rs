//! Whole 2 MiB blocks: one descriptor each, whatever is done to them.

use super::list::{ListId, NONE};
use super::{BLOCK_PAGES, Block, GuestId, Kind, NO_GUEST, Pool};
use crate::addr::Pa;

impl Pool {
    /// Gives a whole zero block to `guest` for the 2 MiB at `ipa_block`; `None` if there is none.
    pub(crate) fn take_zero_block(&mut self, guest: GuestId, ipa_block: u32) -> Option<Pa> {
        let index = self.head(ListId::Zero)?;
        self.assign_zero(index, guest, ipa_block)
    }

    /// Whether some whole block waits to be scrubbed.
    pub(crate) fn has_dirty_block(&self) -> bool {
        self.head(ListId::Dirty).is_some()
    }

    /// Gives the free zero block at `pa` to `guest`.
    pub(crate) fn take_block_at(&mut self, pa: Pa, guest: GuestId, ipa_block: u32) -> Option<Pa> {
        let index = self.block_at(pa)?;
        let block = self.blocks.get(index as usize)?;
        if block.list() == Some(ListId::Zero) {
            self.assign_zero(index, guest, ipa_block)
        } else {
            None
        }
    }

    #[inline]
    fn assign_zero(&mut self, index: u32, guest: GuestId, ipa_block: u32) -> Option<Pa> {
        self.unlink(index, ListId::Zero);
        let block = self.blocks.get_mut(index as usize)?;
        block.kind = Kind::Guest;
        block.guest = guest.0;
        block.ipa_block = ipa_block;
        let pages = u32::from(BLOCK_PAGES);
        self.counts.zero -= pages;
        self.count_guest(guest, pages);
        Some(self.block_pa(index))
    }

    /// Notes that the whole block at `pa` is now mapped at `ipa_block` of its owner.
    pub(crate) fn move_block(&mut self, pa: Pa, ipa_block: u32) {
        if let Some(index) = self.block_at(pa)
            && let Some(block) = self.blocks.get_mut(index as usize)
        {
            debug_assert_eq!(block.kind, Kind::Guest);
            block.ipa_block = ipa_block;
        }
    }

    /// Takes the whole block at `pa` back from `guest`; the caller counts it.
    #[inline]
    pub(super) fn give_block(&mut self, pa: Pa, guest: GuestId) {
        let Some(index) = self.block_at(pa) else {
            return;
        };
        // What `update` would do, without asking where the block was and belongs.
        let next = self.head(ListId::Dirty).unwrap_or(NONE);
        let Some(block) = self.blocks.get_mut(index as usize) else {
            return;
        };
        debug_assert_eq!((block.kind, block.guest), (Kind::Guest, guest.0));
        block.kind = Kind::Free;
        block.guest = NO_GUEST;
        block.dirty = BLOCK_PAGES;
        (block.prev, block.next) = (NONE, next);
        if let Some(behind) = self.blocks.get_mut(next as usize) {
            behind.prev = index;
        } else {
            self.list_mut(ListId::Dirty).tail = index;
        }
        self.list_mut(ListId::Dirty).head = index;
    }

    pub(super) fn count_guest(&mut self, guest: GuestId, pages: u32) {
        if let Some(count) = self.counts.guests.get_mut(guest.index()) {
            *count += pages;
        }
    }

    pub(super) fn uncount_guest(&mut self, guest: GuestId, pages: u32) {
        if let Some(count) = self.counts.guests.get_mut(guest.index()) {
            *count -= pages;
        }
    }

    /// Makes a free block split, all of its frames free, home to `home` if that is given.
    pub(super) fn open_free_block(&mut self, index: u32, home: Option<(GuestId, u32)>) {
        let Some(&Block { kind, dirty, .. }) = self.blocks.get(index as usize) else {
            return;
        };
        debug_assert_eq!(kind, Kind::Free);
        let Some([free_map, dirty_map]) = self.maps.get_mut(index as usize) else {
            return;
        };
        *free_map = [u64::MAX; 8];
        let clean = BLOCK_PAGES - dirty;
        let mut first = 0;
        for word in dirty_map {
            // Frames `clean..` are dirty: of this word, those from bit `clean - first` on.
            *word = u64::MAX
                .checked_shl(u32::from(clean.saturating_sub(first)))
                .unwrap_or(0);
            first += 64;
        }
        self.update(index, |block| {
            block.kind = Kind::Split;
            block.free = BLOCK_PAGES;
            (block.guest, block.ipa_block) =
                home.map_or((NO_GUEST, 0), |(guest, ipa_block)| (guest.0, ipa_block));
        });
    }

    /// Makes a split block whose frames are all free a whole one again.
    pub(super) fn close_free_block(&mut self, index: u32) {
        let Some([free_map, dirty_map]) = self.maps.get_mut(index as usize) else {
            return;
        };
        let mut clean = 0;
        for word in dirty_map.iter() {
            clean += word.trailing_zeros() as u16;
            if *word != 0 {
                break;
            }
        }
        *free_map = [0; 8];
        *dirty_map = [0; 8];
        let dirty = BLOCK_PAGES - clean;
        let more = self.update(index, |block| {
            let more = dirty - block.dirty;
            *block = Block {
                prev: block.prev,
                next: block.next,
                dirty,
                ..Block::free_whole(false)
            };
            more
        });
        let more = u32::from(more.unwrap_or(0));
        self.counts.dirty += more;
        self.counts.zero -= more;
    }
}
