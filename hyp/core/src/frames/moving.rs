//! Blocks that a guest with IPA = PA wants back while others hold frames of them, and the blocks that
//! take in what moves out.
//!
//! A *wanted* block is in no free list: what becomes free of it stays free until all of it is, and then
//! the block is whole again and its claimant is told. As long as a guest holds frames of it the
//! block is in that guest's queue; one holder after the other moves its frames out, on a core of its own
//! ([`crate::balloon::relocate`]). A *destination* is a block that a holder's 2 MiB moves to as a
//! whole; its free frames are kept for that. Neither's free frames count as available.

use super::gathering::is_at_home;
use super::list::ListId;
use super::{GuestId, GuestSet, Kind, NO_GUEST, Pool};
use super::{word, word_index};
use crate::addr::{Ipa, Pa};

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

/// What a holder has to move next out of a wanted block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Part {
    /// All of it: the block at this address, which it has at this IPA / 2 MiB.
    Whole(Pa, u32),
    /// The frames from here on, so many, within 16 frames: home to as many pages of this IPA / 2 MiB.
    Home(Pa, u16, u32),
    /// The level-3 table here, which maps this IPA / 2 MiB and has its home in this block.
    HomeTable(Pa, u32),
    /// The frame here, which is mapped at this page.
    Page(Pa, Ipa),
    /// The level-3 table here, which maps this IPA / 2 MiB.
    Table(Pa, u32),
}

impl Part {
    /// The wanted block.
    pub const fn block(self) -> Pa {
        let (Self::Whole(pa, _)
        | Self::Home(pa, ..)
        | Self::HomeTable(pa, _)
        | Self::Page(pa, _)
        | Self::Table(pa, _)) = self;
        super::home_frame(pa, 0)
    }
}

/// Blocks of the queue that are looked at together.
const LOOKS: u32 = 2;

/// Frames of them that are looked at together, at most: what a holder has left may be anywhere among what others have.
pub(crate) const LOOK_FRAMES: u16 = 256;

/// What a look at a queue came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Look {
    /// This is next.
    Part(Part),
    /// Nothing, as far as blocks were looked at.
    Nothing,
    /// [`LOOK_FRAMES`] were looked at, and there are more: the next look goes on there.
    GoOn,
}

impl Look {
    /// The block that is left next.
    pub const fn block(self) -> Option<Pa> {
        match self {
            Self::Part(part) => Some(part.block()),
            Self::Nothing | Self::GoOn => None,
        }
    }
}

/// How far a holder has looked through the block that it leaves.
#[derive(Clone, Copy, Default)]
pub(super) struct Place {
    block: u32,
    /// Nothing of the holder's was below this frame.
    frame: u16,
    /// Since the first frame something was: what has come since is looked for once more.
    has_found: bool,
}

/// Pages that move in one run, at most: 64 KiB.
pub(crate) const RUN_PAGES: u16 = 16;

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

    /// The frames of a split block that are not free, ascending.
    pub(super) fn used_frames(&self, index: u32) -> impl Iterator<Item = u16> {
        self.used_frames_from(index, 0)
    }

    /// The same from this frame on.
    fn used_frames_from(&self, index: u32, from: u16) -> impl Iterator<Item = u16> {
        let words = self.maps(index).map_or([u64::MAX; 8], |maps| *maps.free);
        (0..).step_by(64).zip(words).flat_map(move |(base, free)| {
            let below = u32::from(from.saturating_sub(base));
            let mut used = !free & u64::MAX.checked_shl(below).unwrap_or(0);
            core::iter::from_fn(move || {
                let frame = used.trailing_zeros() as u16;
                used &= used.wrapping_sub(1);
                (frame < 64).then_some(base + frame)
            })
        })
    }

    /// The guest that has a frame of a split block, one that is not free, and the frame's word.
    pub(super) fn frame_user(&self, index: u32, frame: u16) -> Option<(GuestId, u32)> {
        let word = *self.words.get(word_index(index, frame))?;
        let guest = if word == word::HOME {
            usize::from(self.blocks.get(index as usize)?.guest)
        } else {
            word::guest(word)?.0
        };
        Some((GuestId::new(guest)?, word))
    }

    /// What `guest` is to move next. A block in which it has nothing any more goes to the next holder, who is
    /// put into `others`. After [`LOOKS`] such blocks there is nothing to move, though there may be more of them, and
    /// after [`LOOK_FRAMES`] frames the look is to be gone on with: the pool is not held for longer. How many frames
    /// were looked at is added to `looked`.
    pub(crate) fn next_part(
        &mut self,
        guest: GuestId,
        others: &mut GuestSet,
        looked: &mut u16,
    ) -> Look {
        let mut left = LOOK_FRAMES;
        let look = self.look(guest, others, &mut left);
        let frames = LOOK_FRAMES - left;
        *looked += frames;
        #[cfg(test)]
        {
            let [looks, all, most] = self.looks;
            self.looks = [looks + 1, all + u32::from(frames), most.max(frames.into())];
        }
        look
    }

    fn look(&mut self, guest: GuestId, others: &mut GuestSet, left: &mut u16) -> Look {
        for _ in 0..LOOKS {
            let wanted = self.head(ListId::Wanted(guest.0));
            let Some(index) = wanted.or_else(|| self.head(ListId::Strays(guest.0))) else {
                return Look::Nothing;
            };
            let place = self.places.get(guest.index()).copied().unwrap_or_default();
            let place = if place.block == index {
                place
            } else {
                Place::default()
            };
            let (look, frame) = self.part_of(index, guest, place.frame, left);
            let has_found = match look {
                Look::Part(_) => true,
                Look::GoOn => place.has_found,
                Look::Nothing => false,
            };
            if let Some(place) = self.places.get_mut(guest.index()) {
                *place = Place {
                    block: index,
                    frame,
                    has_found,
                };
            }
            if look != Look::Nothing {
                return look;
            }
            if place.has_found {
                return Look::GoOn;
            }
            match self.queue(index) {
                Some(holder) if holder == guest => return Look::Nothing,
                Some(holder) => others.insert(holder),
                None => {
                    // Nobody else is in the way of who gathers here.
                    let block = self.blocks.get(index as usize);
                    let home = block.filter(|block| block.moving.is_gathering());
                    let home = home.and_then(|block| GuestId::new(usize::from(block.guest)));
                    home.into_iter().for_each(|home| others.insert(home));
                }
            }
        }
        Look::Nothing
    }

    /// What of block `index` is `guest`'s from frame `from` on, and the frame at which the next look begins. At most
    /// `left` frames are looked at.
    fn part_of(&self, index: u32, guest: GuestId, from: u16, left: &mut u16) -> (Look, u16) {
        let Some(block) = self.blocks.get(index as usize) else {
            return (Look::Nothing, 0);
        };
        if block.kind == Kind::Guest {
            let whole = Part::Whole(self.block_pa(index), block.ipa_block);
            return (Look::Part(whole), 0);
        }
        let mut home: Option<(u16, u16)> = None;
        for frame in self.used_frames_from(index, from) {
            // A run ends with its 16 frames, or before.
            if home.is_some_and(|(first, pages)| {
                frame != first + pages || frame.is_multiple_of(RUN_PAGES)
            }) {
                break;
            }
            if *left == 0 {
                if home.is_some() {
                    break;
                }
                return (Look::GoOn, frame);
            }
            *left -= 1;
            let user = self.frame_user(index, frame);
            let user = user.filter(|&(user, word)| {
                !block.moving.is_gathering() || !is_at_home(block, user, word)
            });
            let word = user.and_then(|(user, word)| (user == guest).then_some(word));
            match (word, &mut home) {
                (Some(word::HOME), Some((_, pages))) => {
                    *pages += 1;
                    continue;
                }
                (Some(word::HOME), None) => {
                    home = Some((frame, 1));
                    continue;
                }
                (_, Some(_)) => break,
                (_, None) => {}
            }
            let Some(word) = word else { continue };
            let pa = self.frame_pa(index, frame);
            let ipa_block = (word::page(word) >> 9) as u32;
            let is_table = word::guest(word).is_some_and(|(_, is_table)| is_table);
            let part = if !is_table {
                Part::Page(pa, Ipa::from_page(word::page(word)))
            } else if block.guest == guest.0 && block.ipa_block == ipa_block {
                Part::HomeTable(pa, ipa_block)
            } else {
                Part::Table(pa, ipa_block)
            };
            return (Look::Part(part), frame);
        }
        match home {
            Some((first, pages)) => {
                let run = Part::Home(self.frame_pa(index, first), pages, block.ipa_block);
                (Look::Part(run), first)
            }
            None => (Look::Nothing, 0),
        }
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
