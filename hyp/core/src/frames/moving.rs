//! Blocks that a guest with IPA = PA wants back while others hold frames of them, and the blocks that
//! take in what moves out.
//!
//! A *wanted* block is in no free list: what becomes free of it stays free until all of it is, and then
//! the block is whole again and its claimant is told. As long as a guest holds frames of it the
//! block is in that guest's queue; one holder after the other moves its frames out, on a core of its own
//! ([`crate::balloon::relocate`]). A *destination* is a block that a holder's 2 MiB moves to as a
//! whole; its free frames are kept for that. Neither's free frames count as available.

use super::list::ListId;
use super::{GuestId, GuestSet, Kind, NO_GUEST, Pool};
use crate::addr::Pa;

/// What is under way with a block: bits, so that a descriptor stays small. 0 for nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Moving(u8);

impl Moving {
    /// Nothing: the block is in the list that its state says.
    pub const NONE: Self = Self(0);
    /// A destination.
    pub const DESTINATION: Self = Self(1 << 7);
    const WANTED: u8 = 1 << 6;
    const HELD: u8 = 1 << 5;
    const GATHERING: u8 = 1 << 4;
    const HOLDER: u8 = (1 << 4) - 1;

    const fn wanted(holder: Option<GuestId>) -> Self {
        Self(match holder {
            Some(holder) => Self::WANTED | Self::HELD | holder.0,
            None => Self::WANTED,
        })
    }

    /// The home guest gathers in it; this other one is to move out next.
    pub const fn gathering(holder: Option<GuestId>) -> Self {
        Self(Self::GATHERING | Self::wanted(holder).0 & !Self::WANTED)
    }

    pub const fn is_gathering(self) -> bool {
        self.0 & Self::GATHERING != 0
    }

    pub const fn is_none(self) -> bool {
        self.0 == 0
    }

    pub const fn is_wanted(self) -> bool {
        self.0 & Self::WANTED != 0
    }

    pub const fn is_destination(self) -> bool {
        self.0 & Self::DESTINATION.0 != 0
    }

    const fn and_wanted(self) -> Self {
        Self(self.0 | Self::WANTED)
    }

    /// In whose queue the block is.
    pub const fn holder(self) -> Option<u8> {
        if self.0 & Self::HELD != 0 {
            Some(self.0 & Self::HOLDER)
        } else {
            None
        }
    }
}

/// What a claimant waits for, by guest.
#[derive(Clone, Copy, Default)]
pub(super) struct Waiting {
    /// Blocks that are wanted and not free yet.
    blocks: u32,
    /// Some have become free, and the guest was not told.
    has_news: bool,
}

#[cfg(test)]
impl Waiting {
    pub const fn blocks(self) -> u32 {
        self.blocks
    }
}

/// What stands between a guest and one of its own blocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Obstacle {
    /// It is free, or will be in a moment: some core is scrubbing it.
    Passing,
    /// Others hold frames of it. This one is to move its frames out first, if it is not the block's way
    /// already.
    Holder(Option<GuestId>),
    /// It can never be had.
    Fixed,
}

impl Pool {
    /// `guest` wants the block at `pa`, which it claims, and which it could not take.
    pub(crate) fn want_home(&mut self, pa: Pa, guest: GuestId) -> Obstacle {
        let Some(index) = self.block_at(pa) else {
            return Obstacle::Fixed;
        };
        let Some(&block) = self.blocks.get(index as usize) else {
            return Obstacle::Fixed;
        };
        if block.claimant != guest.0 || block.kind == Kind::Held {
            return Obstacle::Fixed;
        }
        if matches!(block.kind, Kind::Free | Kind::Claimed) {
            return Obstacle::Passing;
        }
        if block.moving.is_wanted() {
            return Obstacle::Holder(None);
        }
        if let Some(waiting) = self.waiting.get_mut(guest.index()) {
            waiting.blocks += 1;
        }
        if block.moving.is_destination() {
            if let Some(block) = self.blocks.get_mut(index as usize) {
                block.moving = block.moving.and_wanted();
            }
            return Obstacle::Holder(None);
        }
        if block.moving.is_gathering() {
            // Its free frames are kept already.
            self.update(index, |block| block.moving = Moving::wanted(None));
        } else if block.kind == Kind::Split {
            self.claimed += u32::from(block.free);
        }
        Obstacle::Holder(self.queue(index))
    }

    /// Puts a wanted block, or one in which its home guest gathers, into the queue of somebody who holds frames of it, and says whose.
    pub(super) fn queue(&mut self, index: u32) -> Option<GuestId> {
        let block = self.blocks.get(index as usize);
        let moving = if block.is_some_and(|block| block.moving.is_gathering()) {
            let stray = self.strays_in(index).next();
            Moving::gathering(stray.map(|(holder, _)| holder))
        } else {
            Moving::wanted(self.find_holder(index))
        };
        self.update(index, |block| block.moving = moving);
        moving.holder().map(GuestId)
    }

    fn find_holder(&self, index: u32) -> Option<GuestId> {
        let block = self.blocks.get(index as usize)?;
        if block.kind == Kind::Guest {
            return GuestId::new(usize::from(block.guest));
        }
        let users = self.used_frames(index);
        let mut users = users.filter_map(|frame| self.frame_user(index, frame));
        users.next().map(|(guest, _)| guest)
    }

    /// Block `index` is all free, and moves no more.
    pub(super) fn note_free(&mut self, moving: Moving, claimant: u8) {
        let Some(waiting) = self.waiting.get_mut(usize::from(claimant)) else {
            return;
        };
        if !moving.is_wanted() {
            return;
        }
        waiting.blocks -= 1;
        waiting.has_news = true;
        if waiting.blocks == 0 {
            self.tell(claimant);
        }
    }

    fn tell(&mut self, claimant: u8) {
        if let Some(waiting) = self.waiting.get_mut(usize::from(claimant))
            && waiting.has_news
            && let Some(guest) = GuestId::new(usize::from(claimant))
        {
            waiting.has_news = false;
            self.ready.insert(guest);
        }
    }

    /// `holder` found no block to move to: those who wait get what there is so far, and the holder is in a later
    /// [`Pool::take_stalled`].
    pub(crate) fn stall(&mut self, holder: GuestId) {
        self.stalled.insert(holder);
        for claimant in 0..self.waiting.len() as u8 {
            self.tell(claimant);
        }
    }

    /// Holders that found no block to move to and may find one now, each once.
    pub(crate) fn take_stalled(&mut self) -> GuestSet {
        if self.head(ListId::Zero).is_none() && self.head(ListId::Dirty).is_none() {
            return GuestSet::EMPTY;
        }
        core::mem::replace(&mut self.stalled, GuestSet::EMPTY)
    }

    /// `guest` has nothing to move any more, or will find out again.
    pub(crate) const fn clear_stalled(&mut self, guest: GuestId) {
        self.stalled.remove(guest);
    }

    /// Whether somebody waits for a block to move to.
    pub(crate) const fn is_stalled(&self) -> bool {
        !self.stalled.is_empty()
    }

    /// Whether `guest` has blocks to move out of the way.
    pub(crate) fn has_to_move(&self, guest: GuestId) -> bool {
        self.is_in_the_way(guest) || self.head(ListId::Strays(guest.0)).is_some()
    }

    /// The same, out of blocks that others want: what can wait is left out.
    #[must_use]
    pub fn is_in_the_way(&self, guest: GuestId) -> bool {
        self.head(ListId::Wanted(guest.0)).is_some()
    }

    /// Whether `guest` waits for blocks of its own.
    #[must_use]
    pub fn is_waiting_for_home(&self, guest: GuestId) -> bool {
        self.waiting
            .get(guest.index())
            .is_some_and(|waiting| waiting.blocks != 0)
    }

    /// The frames of `guest` stay where they are for good: none of them is to be one that another guest claims.
    pub(crate) const fn fix(&mut self, guest: GuestId) {
        self.fixed.insert(guest);
    }

    /// A whole free block for `guest`, out of the first of `lists` that has one that is unclaimed, else that
    /// has one.
    pub(super) fn whole_block(&self, lists: [ListId; 2], guest: GuestId) -> Option<u32> {
        let heads = lists.map(|list| self.head(list));
        let mut unclaimed = heads
            .iter()
            .flatten()
            .filter(|index| !self.is_claimed_block(**index));
        let any = || heads.iter().flatten().find(|_| !self.fixed.contains(guest));
        unclaimed.next().or_else(any).copied()
    }

    fn is_claimed_block(&self, index: u32) -> bool {
        let block = self.blocks.get(index as usize);
        block.is_some_and(|block| block.claimant != NO_GUEST)
    }

    /// Whether frames of `block` may go to `guest`.
    #[inline]
    pub(super) fn may_give(&self, index: u32, guest: GuestId) -> bool {
        !self.fixed.contains(guest) || !self.is_claimed_block(index)
    }

    /// Whether the free frames of a block are kept for something.
    #[inline]
    pub(super) fn is_moving(&self, index: u32) -> bool {
        self.blocks
            .get(index as usize)
            .is_some_and(|block| !block.moving.is_none())
    }
}
