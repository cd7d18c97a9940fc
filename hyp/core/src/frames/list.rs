//! The free lists: doubly linked through the block descriptors, so that a block leaves from the
//! middle in O(1).

use super::moving::Moving;
use super::{BLOCK_PAGES, Block, Kind, NO_GUEST, Pool};

/// No block.
pub const NONE: u32 = u32::MAX;

/// Which list a block is in. What the block is decides that; see [`Block::list`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum ListId {
    /// Whole blocks, all zero.
    Zero = 0,
    /// Whole blocks with dirty frames.
    Dirty = 1,
    /// Split blocks whose free frames are all zero.
    SplitZero = 2,
    /// Split blocks with dirty free frames.
    SplitDirty = 3,
    /// Wanted blocks of which this guest holds frames.
    Wanted(u8) = 4,
    /// Blocks in which another guest gathers, of which this guest holds frames.
    Strays(u8) = 5,
}

/// Both ends of a list.
#[derive(Clone, Copy, Debug)]
pub struct List {
    pub head: u32,
    pub tail: u32,
}

impl List {
    pub const EMPTY: Self = Self {
        head: NONE,
        tail: NONE,
    };
}

impl Block {
    /// The list in which a block like this belongs.
    pub(super) const fn list(&self) -> Option<ListId> {
        if !self.moving.is_none() {
            return match self.moving.holder() {
                Some(holder) if self.moving.is_gathering() => Some(ListId::Strays(holder)),
                Some(holder) => Some(ListId::Wanted(holder)),
                None => None,
            };
        }
        match self.kind {
            Kind::Free if self.dirty == 0 => Some(ListId::Zero),
            Kind::Free => Some(ListId::Dirty),
            Kind::Split if self.free == 0 => None,
            Kind::Split if self.dirty == 0 => Some(ListId::SplitZero),
            Kind::Split => Some(ListId::SplitDirty),
            Kind::Held | Kind::Claimed | Kind::Guest => None,
        }
    }

    pub(super) const fn free_whole(dirty: bool) -> Self {
        Self {
            kind: Kind::Free,
            guest: NO_GUEST,
            claimant: NO_GUEST,
            moving: Moving::NONE,
            free: 0,
            dirty: if dirty { BLOCK_PAGES } else { 0 },
            ipa_block: 0,
            prev: NONE,
            next: NONE,
        }
    }
}

impl Pool {
    /// Whether any frame waits to be scrubbed, those of blocks that move left out.
    #[must_use]
    pub fn has_dirty(&self) -> bool {
        self.head(ListId::Dirty).is_some() || self.head(ListId::SplitDirty).is_some()
    }

    /// The first block of a list.
    #[inline]
    pub(super) fn head(&self, list: ListId) -> Option<u32> {
        let head = self.list(list).head;
        (head != NONE).then_some(head)
    }

    /// Changes a block and moves it to the list where it then belongs.
    ///
    /// A block that is somebody's home or that is claimed goes to the end, so that its free frames are
    /// the last to be given to others. One that is scrubbed in part is the first of its kind, so that work goes
    /// on where it was left and is done block by block.
    #[inline]
    pub(super) fn update<R>(
        &mut self,
        index: u32,
        change: impl FnOnce(&mut Block) -> R,
    ) -> Option<R> {
        let block = self.blocks.get_mut(index as usize)?;
        let before = block.list();
        let result = change(block);
        let after = block.list();
        if before != after {
            let at_end = block.claimant != NO_GUEST
                || (block.kind == Kind::Split && block.guest != NO_GUEST);
            let is_begun = after == Some(ListId::Dirty) && block.dirty != BLOCK_PAGES;
            // Unclaimed blocks stay before claimed ones.
            let at_end = at_end && (!is_begun || self.has_unclaimed_dirty());
            self.relist(index, before, after, at_end);
        }
        Some(result)
    }

    fn relist(&mut self, index: u32, before: Option<ListId>, after: Option<ListId>, at_end: bool) {
        if let Some(list) = before {
            self.unlink(index, list);
        }
        match after {
            Some(list) if at_end => self.link_last(index, list),
            Some(list) => self.link_first(index, list),
            None => {}
        }
    }

    #[inline]
    pub(super) fn list(&self, list: ListId) -> &List {
        let [zero, dirty, split_zero, split_dirty] = &self.lists;
        match list {
            ListId::Zero => zero,
            ListId::Dirty => dirty,
            ListId::SplitZero => split_zero,
            ListId::SplitDirty => split_dirty,
            ListId::Wanted(holder) => self.queues.get(usize::from(holder)).unwrap_or(&List::EMPTY),
            ListId::Strays(holder) => self.strays.get(usize::from(holder)).unwrap_or(&List::EMPTY),
        }
    }

    #[inline]
    pub(super) fn list_mut(&mut self, list: ListId) -> &mut List {
        let [zero, dirty, split_zero, split_dirty] = &mut self.lists;
        match list {
            ListId::Zero => zero,
            ListId::Dirty => dirty,
            ListId::SplitZero => split_zero,
            ListId::SplitDirty => split_dirty,
            // A holder is a guest, so its queue is there.
            ListId::Wanted(holder) => match self.queues.get_mut(usize::from(holder)) {
                Some(queue) => queue,
                None => split_dirty,
            },
            ListId::Strays(holder) => match self.strays.get_mut(usize::from(holder)) {
                Some(queue) => queue,
                None => split_dirty,
            },
        }
    }

    #[inline]
    pub(super) fn unlink(&mut self, index: u32, list: ListId) {
        let Some(block) = self.blocks.get(index as usize) else {
            return;
        };
        let (prev, next) = (block.prev, block.next);
        match self.blocks.get_mut(prev as usize) {
            Some(before) => before.next = next,
            None => self.list_mut(list).head = next,
        }
        match self.blocks.get_mut(next as usize) {
            Some(behind) => behind.prev = prev,
            None => self.list_mut(list).tail = prev,
        }
    }

    #[inline]
    fn link_first(&mut self, index: u32, list: ListId) {
        let head = self.list(list).head;
        self.link(index, list, NONE, head);
    }

    pub(super) fn link_last(&mut self, index: u32, list: ListId) {
        let tail = self.list(list).tail;
        self.link(index, list, tail, NONE);
    }

    #[inline]
    fn link(&mut self, index: u32, list: ListId, prev: u32, next: u32) {
        if let Some(block) = self.blocks.get_mut(index as usize) {
            (block.prev, block.next) = (prev, next);
        }
        match self.blocks.get_mut(prev as usize) {
            Some(before) => before.next = index,
            None => self.list_mut(list).head = index,
        }
        match self.blocks.get_mut(next as usize) {
            Some(behind) => behind.prev = index,
            None => self.list_mut(list).tail = index,
        }
    }
}
