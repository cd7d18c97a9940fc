//! Whole 2 MiB blocks: one descriptor each, whatever is done to them.

use super::list::{ListId, NONE};
use super::moving::Moving;
use super::{BLOCK_PAGES, Block, GuestId, Kind, NO_GUEST, Pool, Region};
use crate::addr::{BLOCK_SHIFT, Pa};

/// Zero blocks on their way to a guest; see [`Pool::zero_blocks`]. What was taken is taken off the list and
/// counted when this is dropped, before anybody else can have the pool.
pub(crate) struct ZeroBlocks<'a> {
    pool: &'a mut Pool,
    guest: GuestId,
    /// The first that is left.
    head: u32,
    /// Blocks that are claimed are not for this guest, or there are others to be scrubbed first.
    unclaimed_only: bool,
    /// Where the last one was.
    region: Region,
    taken: u32,
}

impl ZeroBlocks<'_> {
    /// Gives the next one to the guest for the 2 MiB at `ipa_block`; `None` if there is none.
    #[inline]
    pub fn take(&mut self, ipa_block: u32) -> Option<Pa> {
        // No block has the number `NONE`.
        let index = self.head;
        let block = self.pool.blocks.get_mut(index as usize)?;
        if block.claimant != NO_GUEST && self.unclaimed_only {
            return None;
        }
        block.kind = Kind::Guest;
        block.guest = self.guest.0;
        block.ipa_block = ipa_block;
        self.head = block.next;
        self.taken += 1;
        if index.wrapping_sub(self.region.base) >= self.region.blocks {
            self.region = self.pool.region_of(index)?;
        }
        let offset = index.wrapping_sub(self.region.base);
        Some(Pa::from_block(self.region.first + u64::from(offset)))
    }
}

impl Drop for ZeroBlocks<'_> {
    #[inline]
    fn drop(&mut self) {
        if self.taken == 0 {
            return;
        }
        let pool = &mut *self.pool;
        if let Some(first) = pool.blocks.get_mut(self.head as usize) {
            first.prev = NONE;
        } else {
            pool.list_mut(ListId::Zero).tail = NONE;
        }
        pool.list_mut(ListId::Zero).head = self.head;
        let pages = self.taken * u32::from(BLOCK_PAGES);
        pool.counts.zero -= pages;
        pool.count_guest(self.guest, pages);
    }
}

impl Pool {
    /// Gives a whole zero block to `guest` for the 2 MiB at `ipa_block`; `None` if there is none.
    pub(crate) fn take_zero_block(&mut self, guest: GuestId, ipa_block: u32) -> Option<Pa> {
        self.zero_blocks(guest).take(ipa_block)
    }

    /// The same, one that nobody claims.
    pub(crate) fn take_unclaimed_block(&mut self, guest: GuestId, ipa_block: u32) -> Option<Pa> {
        let mut blocks = self.zero_blocks(guest);
        blocks.unclaimed_only = true;
        blocks.take(ipa_block)
    }

    /// Whether some whole block that may go to `guest` waits to be scrubbed.
    pub(crate) fn has_dirty_block(&self, guest: GuestId) -> bool {
        let head = self.head(ListId::Dirty);
        head.is_some_and(|index| self.may_give(index, guest))
    }

    /// Whether one that nobody claims does.
    #[inline]
    pub(crate) fn has_unclaimed_dirty(&self) -> bool {
        let head = self.list(ListId::Dirty).head;
        let block = self.blocks.get(head as usize);
        block.is_some_and(|block| block.claimant == NO_GUEST)
    }

    /// Whether the block at `pa` is a whole free one that waits to be scrubbed.
    pub(crate) fn is_dirty_block(&self, pa: Pa) -> bool {
        let block = self
            .block_at(pa)
            .and_then(|index| self.blocks.get(index as usize));
        block.is_some_and(|block| block.list() == Some(ListId::Dirty))
    }

    /// At boot: notes that the block at `pa` is `guest`'s RAM whenever the guest has it (IPA = PA), so that
    /// others get it last. False, and nothing is noted, if it is not whole and free, or claimed.
    pub(crate) fn claim_block(&mut self, pa: Pa, guest: GuestId) -> bool {
        let Some(index) = self.block_at(pa) else {
            return false;
        };
        let Some(block) = self.blocks.get_mut(index as usize) else {
            return false;
        };
        if block.kind != Kind::Free || block.claimant != NO_GUEST {
            return false;
        }
        block.claimant = guest.0;
        if let Some(list) = block.list() {
            self.unlink(index, list);
            self.link_last(index, list);
        }
        true
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

    /// Zero blocks for `guest`, to be taken one after the other: what they share is looked up and
    /// written once.
    #[inline]
    pub(crate) fn zero_blocks(&mut self, guest: GuestId) -> ZeroBlocks<'_> {
        ZeroBlocks {
            head: self.list(ListId::Zero).head,
            unclaimed_only: self.fixed.contains(guest) || self.has_unclaimed_dirty(),
            region: Region::NOWHERE,
            taken: 0,
            guest,
            pool: self,
        }
    }

    /// Takes whole blocks back from `guest`, all that `addresses` yields; the caller counts them. Returns
    /// how many they are.
    #[inline]
    pub(super) fn give_blocks(
        &mut self,
        addresses: impl Iterator<Item = Pa>,
        guest: GuestId,
    ) -> usize {
        // What `update` would do, without asking where each block was and belongs.
        let mut region = Region::NOWHERE;
        let mut head = self.list(ListId::Dirty).head;
        let mut given = 0;
        for pa in addresses {
            given += 1;
            let number = pa.0 >> BLOCK_SHIFT;
            if number.wrapping_sub(region.first) >= region.blocks.into() {
                let Some(found) = self.region_at(number) else {
                    continue;
                };
                region = found;
            }
            let index = region.base + number.wrapping_sub(region.first) as u32;
            let Some(block) = self.blocks.get_mut(index as usize) else {
                continue;
            };
            debug_assert_eq!((block.kind, block.guest), (Kind::Guest, guest.0));
            if block.claimant != NO_GUEST {
                self.list_mut(ListId::Dirty).head = head;
                self.give_claimed(index);
                head = self.list(ListId::Dirty).head;
                continue;
            }
            *block = Block {
                next: head,
                ..Block::free_whole(true)
            };
            if let Some(behind) = self.blocks.get_mut(head as usize) {
                behind.prev = index;
            } else {
                self.list_mut(ListId::Dirty).tail = index;
            }
            head = index;
        }
        self.list_mut(ListId::Dirty).head = head;
        given
    }

    /// Takes a whole block back that is claimed: it is the last to go to others, and its claimant may wait
    /// for it.
    fn give_claimed(&mut self, index: u32) {
        let before = self.update(index, |block| {
            block.kind = Kind::Free;
            block.guest = NO_GUEST;
            block.dirty = BLOCK_PAGES;
            let moving = core::mem::replace(&mut block.moving, Moving::NONE);
            (moving, block.claimant)
        });
        if let Some((moving, claimant)) = before {
            self.note_free(moving, claimant);
        }
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

    /// `pages` that were taken for `guest` are beside the memory that counts as its own ([`super::Counts::beside`]).
    pub(crate) fn set_beside(&mut self, guest: GuestId, pages: u32) {
        self.uncount_guest(guest, pages);
        self.counts.beside += pages;
    }

    /// They count as its own, to be given back.
    pub(crate) fn end_beside(&mut self, guest: GuestId, pages: u32) {
        self.counts.beside -= pages;
        self.count_guest(guest, pages);
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
        let before = self
            .blocks
            .get(index as usize)
            .map(|block| (block.moving, block.claimant));
        if let Some((moving, claimant)) = before
            && !moving.is_none()
        {
            self.claimed -= u32::from(BLOCK_PAGES);
            self.note_free(moving, claimant);
        }
        let more = self.update(index, |block| {
            let more = dirty - block.dirty;
            *block = Block {
                prev: block.prev,
                next: block.next,
                claimant: block.claimant,
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
