//! Blocks in which a guest gathers the pages of one 2 MiB of its own, so that one block entry maps them again.
//!
//! A guest's pages that come back while their home frames are another's get frames elsewhere: the 2 MiB has all of its
//! pages and is no block. The guest then *gathers*: the free frames of the home block are kept for it, and whoever has
//! frames there as well moves them out, as out of a wanted block, but only when nothing is wanted
//! ([`crate::balloon::gather`]). A wanted block is gathered in no more: its claimant goes first.

use super::list::ListId;
use super::moving::Moving;
use super::{Block, GuestId, GuestSet, Kind, Pool, word};
use crate::addr::Pa;

impl Pool {
    /// Whether `guest` has split blocks.
    pub(crate) fn has_tables(&self, guest: GuestId) -> bool {
        let tables = self.counts.tables.get(guest.index());
        tables.is_some_and(|tables| *tables != 0)
    }

    /// `guest`, which has all pages of a 2 MiB, gathers them in its home, the block of `table`. Who is to move out
    /// first is put into `others`. False if somebody cannot move out, or there is no room for what has to.
    pub(crate) fn begin_gathering(
        &mut self,
        table: Pa,
        guest: GuestId,
        others: &mut GuestSet,
    ) -> bool {
        let Some(index) = self.block_at(table) else {
            return false;
        };
        let Some(&block) = self.blocks.get(index as usize) else {
            return false;
        };
        if block.kind != Kind::Split || block.guest != guest.0 || !block.moving.is_none() {
            return false;
        }
        let mut strays = 0;
        for (user, _) in self.strays_in(index) {
            if self.fixed.contains(user) {
                return false;
            }
            strays += 1;
        }
        if strays + u32::from(block.free) > self.available() {
            return false;
        }
        self.claimed += u32::from(block.free);
        self.update(index, |block| block.moving = Moving::gathering(None));
        if let Some(holder) = self.queue(index) {
            others.insert(holder);
        }
        true
    }

    /// The same where nothing is at home: in a whole free block, with its frame number `table` as the level-3
    /// table, whose address it returns. Not while somebody waits for memory.
    pub(crate) fn open_gathering(
        &mut self,
        guest: GuestId,
        ipa_block: u32,
        table: u16,
    ) -> Option<Pa> {
        if !self.wanting.is_empty() {
            return None;
        }
        let index = self.whole_block([ListId::Dirty, ListId::Zero], guest)?;
        self.open_free_block(index, Some((guest, ipa_block)));
        self.update(index, |block| block.moving = Moving::gathering(None));
        self.claimed += u32::from(super::BLOCK_PAGES);
        self.take_as_table(index, table, guest, ipa_block);
        Some(self.frame_pa(index, table))
    }

    /// Whether `guest` gathers in the block of `table`; and if so whether others still have frames there.
    pub(crate) fn gathers_in(&self, table: Pa, guest: GuestId) -> Option<bool> {
        let index = self.block_at(table)?;
        let block = self.blocks.get(index as usize)?;
        (block.moving.is_gathering() && block.guest == guest.0)
            .then(|| block.moving.holder().is_some())
    }

    /// Nobody gathers in the block at `pa` any more, and its free frames are anybody's. Who has is remembered
    /// among those that could not, and returned.
    pub(crate) fn stop_gathering(&mut self, pa: Pa) -> Option<GuestId> {
        let index = self.block_at(pa)?;
        let block = self.blocks.get(index as usize)?;
        if !block.moving.is_gathering() {
            return None;
        }
        let guest = GuestId::new(usize::from(block.guest));
        self.end_gathering(index);
        guest.inspect(|&guest| self.scattered.insert(guest))
    }

    pub(super) fn end_gathering(&mut self, index: u32) {
        if let Some(&Block { moving, free, .. }) = self.blocks.get(index as usize)
            && moving.is_gathering()
        {
            self.claimed -= u32::from(free);
            self.update(index, |block| block.moving = Moving::NONE);
        }
    }

    /// `guest` has a 2 MiB that it could not gather.
    pub(crate) const fn note_scattered(&mut self, guest: GuestId) {
        self.scattered.insert(guest);
    }

    /// Somebody has gathered, and frames are free that others may have lacked for it: these are to try again.
    pub(crate) const fn take_scattered(&mut self) -> GuestSet {
        let again = core::mem::replace(&mut self.scattered, GuestSet::EMPTY);
        self.gather_again = self.gather_again.union(again);
        again
    }

    /// Whether `guest` is to try again, once.
    pub(crate) const fn take_gather_again(&mut self, guest: GuestId) -> bool {
        let is_asked = self.gather_again.contains(guest);
        self.gather_again.remove(guest);
        is_asked
    }

    /// The frames of a split block that are neither free nor where its home guest has its own pages of it: who has
    /// them, and their words.
    pub(super) fn strays_in(&self, index: u32) -> impl Iterator<Item = (GuestId, u32)> {
        let home = self.blocks.get(index as usize).copied();
        let users = self.used_frames(index);
        let users = users.filter_map(move |frame| self.frame_user(index, frame));
        users.filter(move |&(user, word)| !home.is_some_and(|home| is_at_home(&home, user, word)))
    }
}

/// Whether a frame of `block` with this word is one of the block's home guest, in its place, or its table.
pub(super) fn is_at_home(block: &Block, user: GuestId, word: u32) -> bool {
    word == word::HOME || user.0 == block.guest && word == word::table(user, block.ipa_block << 9)
}
