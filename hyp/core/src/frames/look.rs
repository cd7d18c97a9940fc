//! What a guest is to move next out of the blocks in its way: a look at what others hold of them.
//!
//! The blocks are those of the guest's queue ([`super::moving`]) and, when nothing is wanted, those that others gather
//! in. A block has up to 512 frames of anybody's, so a look is bounded and remembers its [`Place`]: the next one
//! goes on there. One that finds no more of the guest's in a block hands it to the next holder.

use super::gathering::is_at_home;
use super::list::ListId;
use super::{GuestId, GuestSet, Kind, Pool};
use super::{word, word_index};
use crate::addr::{Ipa, Pa};

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
}
