//! Frames on their way from one owner to the next, as types: what a guest gave up is *unmapped*,
//! then *unreachable* once no TLB can hold it, then free and dirty; a dirty run is *scrubbed* before
//! it is zero; a frame taken from the pool is *zeroed* before it is mapped. Only the code that did a
//! step makes the next type, so "reused before the TLB was invalidated" does not compile.
//!
//! None of these steps is done under the pool's lock, which is why they have types.

mod scrub;
mod transit;

pub use scrub::{DirtyRun, ZeroRun};
use spin::mutex::TicketMutex;
pub use transit::{Copied, Still, Transit};

use super::split::Taken;
use super::{BLOCK_PAGES, GuestId, Pool};
use crate::addr::{PAGE_SIZE, PAGES_PER_BLOCK, Pa};
use crate::balloon::hw::{Hardware, Window};
use crate::stage2::Descriptor;

/// Words an [`Unmapped`] batch can hold.
pub const BATCH_WORDS: usize = 512;

/// Words of it, or entries of a table, given back for one holding of the pool's lock.
const WORDS_PER_LOCK: usize = 32;

/// Pages that no translation table of their guest maps any more; TLBs still may.
#[must_use = "these pages are owned by nobody until the batch is invalidated and freed"]
pub struct Unmapped<'a> {
    guest: GuestId,
    words: &'a mut [u64; BATCH_WORDS],
    len: usize,
}

/// Pages that nothing can reach: not mapped, and not in any TLB.
#[must_use = "these pages are owned by nobody until they are freed"]
pub struct Unreachable<'a> {
    guest: GuestId,
    words: &'a [u64],
}

/// What a word of the batch says, in bits 11:10. Its PA is in 63:12.
mod kind {
    pub const MASK: u64 = 3 << 10;
    /// One page of a split block.
    pub const PAGE: u64 = 0;
    /// Those of 64 pages whose bits are set in the next word.
    pub const GROUP: u64 = 1 << 10;
    /// A level-3 table; if bit 0 is set, with all that it maps.
    pub const TABLE: u64 = 2 << 10;
    /// A whole block.
    pub const BLOCK: u64 = 3 << 10;
}

/// The frame that a word of the batch names.
const fn frame(word: u64) -> Pa {
    Pa(word & !0xfff)
}

impl<'a> Unmapped<'a> {
    /// An empty batch for pages of `guest`, over storage whose content does not matter.
    pub fn new(guest: GuestId, storage: &'a mut [u64; BATCH_WORDS]) -> Self {
        Self {
            guest,
            words: storage,
            len: 0,
        }
    }

    /// Whether nothing is in the batch.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many words more fit.
    #[must_use]
    pub const fn room(&self) -> usize {
        BATCH_WORDS - self.len
    }

    /// Adds a page of a split block that was mapped until now. The batch must have room, as for all of
    /// these.
    #[inline]
    pub(crate) fn push_page(&mut self, pa: Pa) {
        self.push_word(pa.0 | kind::PAGE);
    }

    /// Adds a whole block.
    #[inline]
    pub(crate) fn push_block(&mut self, pa: Pa) {
        self.push_word(pa.0 | kind::BLOCK);
    }

    /// Adds those of the 64 pages from `pa` on whose bits are set; `pa` is aligned to 64 pages, and all
    /// are frames at home. Takes two places.
    pub(crate) fn push_group(&mut self, pa: Pa, bits: u64) {
        self.push_word(pa.0 | kind::GROUP);
        self.push_word(bits);
    }

    /// Adds a level-3 table that no level-2 entry points to any more.
    pub(crate) fn push_table(&mut self, pa: Pa) {
        self.push_word(pa.0 | kind::TABLE);
    }

    /// The same, with every page that it maps. Until the batch is freed it must not change.
    pub(crate) fn push_table_and_pages(&mut self, pa: Pa) {
        self.push_table(Pa(pa.0 | 1));
    }

    #[inline]
    fn push_word(&mut self, word: u64) {
        debug_assert_ne!(self.room(), 0);
        if let Some(slot) = self.words.get_mut(self.len) {
            *slot = word;
            self.len += 1;
        }
    }

    /// Invalidates the guest's translations on all cores, once for all the pages. The batch is empty
    /// afterwards.
    pub fn invalidate(&mut self, hw: &mut impl Hardware) -> Unreachable<'_> {
        hw.invalidate_guest();
        let len = core::mem::take(&mut self.len);
        Unreachable {
            guest: self.guest,
            words: self.words.get(..len).unwrap_or(&[]),
        }
    }
}

impl Unreachable<'_> {
    /// Gives the pages to the pool, dirty, in short sections.
    pub fn free(self, pool: &TicketMutex<Pool>, window: &mut impl Window) {
        let mut words = self.words.iter();
        while !words.as_slice().is_empty() {
            let mut section = pool.lock();
            let blocks = words.as_slice().iter().take(WORDS_PER_LOCK);
            let blocks = section.give_blocks(
                blocks.map_while(|&word| (word & kind::MASK == kind::BLOCK).then_some(frame(word))),
                self.guest,
            );
            words = words.as_slice().get(blocks..).unwrap_or(&[]).iter();
            let mut pages = 0;
            let mut full_table = None;
            for _ in blocks..WORDS_PER_LOCK {
                let Some(&word) = words.as_slice().first() else {
                    break;
                };
                let pa = frame(word);
                if word & kind::MASK == kind::BLOCK {
                    break;
                }
                words.next();
                match word & kind::MASK {
                    kind::GROUP => {
                        let bits = words.next().copied().unwrap_or(0);
                        section.give_group(pa, bits, self.guest);
                    }
                    kind::TABLE if word & 1 != 0 => {
                        full_table = Some(pa);
                        break;
                    }
                    kind::TABLE => section.give_table(pa, self.guest),
                    _ => {
                        section.give_frame(pa);
                        pages += 1;
                    }
                }
            }
            section.count_given(pages + blocks as u32 * u32::from(BLOCK_PAGES), self.guest);
            drop(section);
            if let Some(table) = full_table {
                self.free_mapped(table, pool, window);
            }
        }
    }

    /// Gives what a table maps to the pool, and then the table.
    fn free_mapped(&self, table: Pa, pool: &TicketMutex<Pool>, window: &mut impl Window) {
        let mut pages = [Descriptor::NOT_OWNED; WORDS_PER_LOCK];
        for first in (0..PAGES_PER_BLOCK).step_by(WORDS_PER_LOCK) {
            for (index, page) in (first..).zip(&mut pages) {
                *page = Descriptor(window.read(table, index));
            }
            let mut pool = pool.lock();
            let mut frames = 0;
            for page in pages {
                if page.is_valid() {
                    pool.give_frame(page.output());
                    frames += 1;
                }
            }
            pool.count_given(frames, self.guest);
        }
        pool.lock().give_table(table, self.guest);
    }
}

/// Frames taken from the pool for a guest, which may still hold what their last owner left.
#[must_use = "claimed frames must be mapped"]
pub struct Claim {
    pa: Pa,
    /// Bit `i`: frame `i` is dirty.
    dirty: u64,
}

/// Frames taken from the pool that hold zeros (or what they held at power-on): ready to be mapped.
#[must_use = "claimed frames must be mapped"]
pub struct Zeroed {
    pa: Pa,
}

impl Claim {
    /// Frames from `pa` on, of which those with a bit in `dirty` are dirty.
    pub(crate) const fn run(pa: Pa, dirty: u64) -> Self {
        Self { pa, dirty }
    }

    pub(crate) const fn frame(taken: Taken) -> Self {
        Self {
            pa: taken.pa,
            dirty: taken.dirty as u64,
        }
    }

    /// Frames to scrub.
    #[must_use]
    pub const fn dirty_pages(&self) -> u32 {
        self.dirty.count_ones()
    }

    /// Scrubs what is dirty.
    #[inline]
    pub fn zero(self, hw: &mut impl Hardware) -> Zeroed {
        let mut dirty = self.dirty;
        while dirty != 0 {
            let first = dirty.trailing_zeros();
            let pages = (dirty >> first).trailing_ones();
            hw.scrub(Pa(self.pa.0 + u64::from(first) * PAGE_SIZE), pages as usize);
            dirty &= !((u64::MAX >> (64 - pages)) << first);
        }
        Zeroed { pa: self.pa }
    }
}

impl Zeroed {
    /// The first frame.
    #[must_use]
    pub const fn pa(&self) -> Pa {
        self.pa
    }
}
