//! The frame table: who owns each physical frame, and which frames are free.
//!
//! Every frame of RAM has exactly one owner at every instant: the hypervisor, the pool, a guest, or
//! a guest's translation tables. The table has two levels. A 2 MiB *block* that belongs to one
//! owner as a whole is one descriptor, so moving it touches one descriptor. A *split* block has an
//! owner for each frame. The table is also the reverse map (PA to guest and IPA) and holds the free
//! lists, so that no operation ever scans RAM: each is O(1), or a few words of one block's bitmap.
//!
//! All storage is allocated once, by [`Pool::new`]: 4 bytes and two bits for a frame, 20 bytes for a block.
//!
//! # Split blocks
//!
//! A block that a guest owns whole becomes split when the guest gives a part of it away. The block
//! is then the *home* of the guest's 2 MiB of IPA it backed: its frame `i` is the home frame of page
//! `i` there. A frame's word of 0 means "as the block says", that is the home page's or, without a
//! home, the hypervisor's; which is why a split touches no words and why zeroed storage is right.
//! Free frames of a split block serve anybody; a page that comes back takes its home frame if that
//! is free, and when all are home again the block merges.
//!
//! # Locking
//!
//! The shell keeps the pool in one [`TicketMutex`](spin::mutex::TicketMutex). It is the innermost
//! lock (transaction, then pool), held for short bounded sections and never across a TLB
//! invalidation, a scrub or a copy. What must happen outside of it has a type of its own: see
//! [`handover`].
#![cfg_attr(
    not(test),
    expect(
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation,
        reason = "counters and indices below 2^27 frames, which `Pool::new` checks; in-block indices are masked to 9 bits"
    )
)]

mod boot;
mod destination;
mod gathering;
mod guests;
pub mod handover;
mod kept;
mod list;
mod look;
mod moving;
mod split;
mod tables;
#[cfg(test)]
mod tests;
pub mod walk;
mod wanting;
mod whole;

use alloc::boxed::Box;
use alloc::vec::Vec;

pub use boot::{BootFrames, PoolError};
pub use guests::{GuestId, GuestSet};
pub use kept::Kept;
use list::List;
use look::Place;
pub(crate) use look::{LOOK_FRAMES, Look, Part, RUN_PAGES};
pub(crate) use moving::Obstacle;
use moving::{Moving, Waiting};
pub(crate) use split::home_frame;
pub use wanting::TELL_PAGES;
pub(crate) use whole::ZeroBlocks;

use crate::addr::{BLOCK_SHIFT, Ipa, PAGE_SHIFT, PAGES_PER_BLOCK, Pa};
use crate::limits::MAX_GUESTS;

/// RAM regions (runs of touching 2 MiB blocks) the pool can keep apart.
pub const MAX_REGIONS: usize = 16;

/// Pages in a block, in the width the counters use.
const BLOCK_PAGES: u16 = PAGES_PER_BLOCK as u16;

/// Who owns a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Owner {
    /// Ballast itself, or an address in a known block that is no RAM.
    Hypervisor,
    /// Nobody: free and known to be zero (or untouched since boot).
    Zero,
    /// Nobody: free, still holding what its last owner left.
    Dirty,
    /// This guest's memory, mapped at this page.
    Guest(GuestId, Ipa),
    /// This guest's level-3 table for the 2 MiB at this IPA.
    Table(GuestId, Ipa),
}

/// Frames by owner, in pages.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Counts {
    /// All RAM the pool was told of.
    pub total: u32,
    /// Free and zero.
    pub zero: u32,
    /// Free and not scrubbed yet, those being scrubbed at this moment included.
    pub dirty: u32,
    /// The guests' memory that comes and goes, each page once: never more than its maximum while it runs.
    pub guests: [u32; MAX_GUESTS],
    /// What else the guests have: banks of `extra-ram`, and frames that pages are moving out of.
    pub beside: u32,
    /// The guests' level-3 tables.
    pub tables: [u32; MAX_GUESTS],
}

impl Counts {
    /// Free frames, whatever they hold.
    #[must_use]
    pub const fn free(&self) -> u32 {
        self.zero + self.dirty
    }

    /// Pages of memory that `guest` has.
    #[must_use]
    pub fn of(&self, guest: GuestId) -> u32 {
        self.guests.get(guest.index()).copied().unwrap_or(0)
    }

    /// What is left for Ballast itself.
    #[must_use]
    pub fn hypervisor(&self) -> u32 {
        let tables: u32 = self.tables.iter().sum();
        let guests: u32 = self.guests.iter().sum();
        self.total - self.free() - guests - self.beside - tables
    }
}

/// What a block is as a whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// The hypervisor's.
    Held,
    /// The pool's; its last `dirty` frames are dirty.
    Free,
    /// The pool's, out of its list while somebody scrubs it.
    Claimed,
    /// The guest's, mapped at `ipa_block`.
    Guest,
    /// Each frame for itself.
    Split,
}

/// Transfers that free frames can be kept for at a time.
pub const MAX_KEPT: usize = MAX_GUESTS;

/// No guest: a split block that is nobody's home, or a block that nobody claims.
const NO_GUEST: u8 = u8::MAX;

/// The descriptor of one 2 MiB block.
#[derive(Clone, Copy, Debug)]
struct Block {
    kind: Kind,
    /// Owner or, of a split block, the guest it is home to.
    guest: u8,
    /// The guest with IPA = PA whose RAM it is when it has it: others get it last.
    claimant: u8,
    /// Whether it is on its way to its claimant, or takes in what moves.
    moving: Moving,
    /// Split: free frames.
    free: u16,
    /// Free: dirty frames, the last ones. Split: dirty ones among the free.
    dirty: u16,
    /// Where `guest` has it: IPA / 2 MiB.
    ipa_block: u32,
    prev: u32,
    next: u32,
}

/// Free and dirty bits of a split block; both all zero in every other block.
#[derive(Clone, Copy)]
struct Maps<'a> {
    free: &'a [u64; 8],
    dirty: &'a [u64; 8],
}

/// Storage for one block's [`Maps`]: free bits in the first half, dirty bits in the second. Plain
/// integers, so that the whole array comes from zeroed memory and costs nothing to make.
type MapWords = [[u64; 8]; 2];

/// A frame's word in a split block: owner code in 31:27, IPA page in 26:0.
mod word {
    use super::GuestId;
    use crate::limits::MAX_GUESTS;

    /// As the block says.
    pub const HOME: u32 = 0;
    /// The pool's, while somebody scrubs it.
    pub const CLAIMED: u32 = 31 << SHIFT;
    const SHIFT: u32 = 27;
    const PAGE_MASK: u32 = (1 << SHIFT) - 1;

    pub const fn memory(guest: GuestId, ipa_page: u32) -> u32 {
        ((guest.0 as u32 + 1) << SHIFT) | (ipa_page & PAGE_MASK)
    }

    pub const fn table(guest: GuestId, ipa_page: u32) -> u32 {
        ((guest.0 as u32 + 1 + MAX_GUESTS as u32) << SHIFT) | (ipa_page & PAGE_MASK)
    }

    pub const fn page(word: u32) -> u64 {
        (word & PAGE_MASK) as u64
    }

    /// (guest index, whether it is a table), if a guest's.
    pub const fn guest(word: u32) -> Option<(usize, bool)> {
        let code = (word >> SHIFT) as usize;
        if code == 0 || code > 2 * MAX_GUESTS {
            None
        } else if code <= MAX_GUESTS {
            Some((code - 1, false))
        } else {
            Some((code - 1 - MAX_GUESTS, true))
        }
    }
}

/// A run of touching 2 MiB blocks of RAM.
#[derive(Clone, Copy, Debug)]
struct Region {
    /// PA / 2 MiB of its first block.
    first: u64,
    blocks: u32,
    /// Number of its first block in the table.
    base: u32,
}

impl Region {
    /// None of the regions there are: no block lies in it.
    const NOWHERE: Self = Self {
        first: 0,
        blocks: 0,
        base: 0,
    };
}

/// The frame table with its free lists. See the [module](self).
pub struct Pool {
    regions: heapless::Vec<Region, MAX_REGIONS>,
    blocks: Box<[Block]>,
    maps: Box<[MapWords]>,
    words: Box<[u32]>,
    lists: [List; 4],
    /// Wanted blocks, by the guest that is to move its frames out of them.
    queues: [List; MAX_GUESTS],
    /// Blocks in which somebody gathers, by another guest that is to move its frames out of them.
    strays: [List; MAX_GUESTS],
    /// Looks at queues, the frames they looked at, and the most of one.
    #[cfg(test)]
    pub(crate) looks: [u32; 3],
    /// How far each guest has looked through the first block of its queue.
    places: [Place; MAX_GUESTS],
    /// What claimants wait for.
    waiting: [Waiting; MAX_GUESTS],
    /// Claimants to be told that blocks of theirs are free.
    ready: GuestSet,
    /// Guests that found no block to move to.
    stalled: GuestSet,
    /// Guests that could not gather all they have.
    scattered: GuestSet,
    /// Those of them that are to try again.
    gather_again: GuestSet,
    /// Guests whose frames stay where they are.
    fixed: GuestSet,
    counts: Counts,
    /// Free but in nobody's list: being scrubbed, or in a block that moves.
    claimed: u32,
    /// Those of them that are being scrubbed: back in a moment.
    scrubbing: u32,
    /// Guests that found nothing free and want to hear when that changes.
    wanting: GuestSet,
    /// Pages that have become free since they were last told.
    untold_pages: u32,
    /// They are told of the next ones, however few.
    tell_at_once: bool,
    /// Free frames that are not anybody's to take. At most [`MAX_KEPT`], for which there is room.
    kept: Vec<Kept>,
}

impl Pool {
    /// Frames by owner.
    #[must_use]
    pub const fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Free frames that can be had at this moment.
    #[must_use]
    pub const fn available(&self) -> u32 {
        self.counts.zero + self.counts.dirty - self.claimed
    }

    /// Who owns the frame at `pa`; `None` outside of every known block.
    #[must_use]
    pub fn owner(&self, pa: Pa) -> Option<Owner> {
        let index = self.block_at(pa)?;
        let block = self.blocks.get(index as usize)?;
        let frame = frame_in_block(pa);
        let home = |block: &Block| {
            let guest = GuestId::new(usize::from(block.guest))?;
            Some(Owner::Guest(
                guest,
                Ipa::from_page((u64::from(block.ipa_block) << 9) | u64::from(frame)),
            ))
        };
        Some(match block.kind {
            Kind::Held => Owner::Hypervisor,
            Kind::Free | Kind::Claimed if frame < BLOCK_PAGES - block.dirty => Owner::Zero,
            Kind::Free | Kind::Claimed => Owner::Dirty,
            Kind::Guest => home(block).unwrap_or(Owner::Hypervisor),
            Kind::Split => {
                let maps = self.maps(index)?;
                let word = *self.words.get(word_index(index, frame))?;
                if bit(maps.free, frame) {
                    if bit(maps.dirty, frame) {
                        Owner::Dirty
                    } else {
                        Owner::Zero
                    }
                } else if word == word::HOME {
                    home(block).unwrap_or(Owner::Hypervisor)
                } else if let Some((guest, is_table)) = word::guest(word) {
                    let ipa = Ipa::from_page(word::page(word));
                    let guest = GuestId::new(guest)?;
                    if is_table {
                        Owner::Table(guest, ipa)
                    } else {
                        Owner::Guest(guest, ipa)
                    }
                } else {
                    Owner::Dirty
                }
            }
        })
    }

    /// The number of the block at `pa`.
    fn block_at(&self, pa: Pa) -> Option<u32> {
        let number = pa.0 >> BLOCK_SHIFT;
        let region = self.region_at(number)?;
        Some(region.base + number.wrapping_sub(region.first) as u32)
    }

    /// The address of block `index`.
    fn block_pa(&self, index: u32) -> Pa {
        self.region_of(index).map_or(Pa(0), |region| {
            Pa::from_block(region.first + u64::from(index.wrapping_sub(region.base)))
        })
    }

    /// Where the block at PA / 2 MiB = `number` lies.
    #[inline]
    fn region_at(&self, number: u64) -> Option<Region> {
        let mut regions = self.regions.iter();
        let found =
            regions.find(|region| number.wrapping_sub(region.first) < u64::from(region.blocks));
        found.copied()
    }

    /// Where block `index` of the table lies.
    #[inline]
    fn region_of(&self, index: u32) -> Option<Region> {
        let mut regions = self.regions.iter();
        let found = regions.find(|region| index.wrapping_sub(region.base) < region.blocks);
        found.copied()
    }

    fn maps(&self, index: u32) -> Option<Maps<'_>> {
        let [free, dirty] = self.maps.get(index as usize)?;
        Some(Maps { free, dirty })
    }
}

/// The number of the frame at `pa` in its block.
const fn frame_in_block(pa: Pa) -> u16 {
    (pa.0 >> PAGE_SHIFT) as u16 & (BLOCK_PAGES - 1)
}

/// Where the word of a frame stands.
const fn word_index(block: u32, frame: u16) -> usize {
    ((block as usize) << 9) | frame as usize
}

/// Bit `frame` of a block's bitmap.
const fn bit(map: &[u64; 8], frame: u16) -> bool {
    map_word(map, frame) >> (frame & 63) & 1 != 0
}

#[expect(clippy::indexing_slicing, reason = "three bits index eight words")]
const fn map_word(map: &[u64; 8], frame: u16) -> u64 {
    map[(frame >> 6) as usize & 7]
}

#[expect(clippy::indexing_slicing, reason = "three bits index eight words")]
const fn map_word_mut(map: &mut [u64; 8], frame: u16) -> &mut u64 {
    &mut map[(frame >> 6) as usize & 7]
}
