//! Stretches: list entries in a row that are all of the common kind, and so are taken together.
//!
//! One kind is whole blocks. The other is single pages and runs of 16 or 64 KiB of one *group*, 64 pages of a
//! split 2 MiB block, in their home frames: the block is looked up once, the frames are bits of one
//! word of its bitmap, and the pool is locked once. Whatever is out of the ordinary ends a stretch
//! and goes the way of single entries.

mod release;
mod reserve;

use ballast_abi::{Entry, EntryStatus, Order};

use super::{Counter, GuestMemory, TableRecord, budget};
use crate::addr::{BLOCK_SHIFT, BLOCK_SIZE, GIB, PAGE_SHIFT, PAGE_SIZE, PAGES_PER_BLOCK, Pa};
use crate::frames::handover::Unmapped;
use crate::frames::{ZeroBlocks, home_frame};
use crate::stage2::{Descriptor, Memory, Row};

/// Pages in a group.
const GROUP: u64 = 64;

/// Pages in an order-4 entry.
const RUN: u32 = Order::Pages16.pages() as u32;

/// Pages in an order-2 entry.
const QUAD: u32 = Order::Pages4.pages() as u32;

/// Where a stretch of pages lies.
struct Group {
    /// IPA / 2 MiB.
    ipa_block: u32,
    /// The IPA of its first page.
    ipa: u64,
    /// The block's table, in its home block.
    table: Pa,
    /// Index of its first page in the table.
    first: usize,
    /// The group's first home frame.
    frame: Pa,
    /// The entry that maps that.
    entry: u64,
    /// Pages of the smallest run that may move.
    least: u16,
}

/// Entries of a stretch, by order below that of blocks.
#[derive(Default)]
struct Entries {
    pages: usize,
    quads: usize,
    runs: usize,
}

impl Group {
    /// The pages that a list word names, if it is a page or run of this group: offset of the first
    /// in bytes, their bits, and how many they are.
    #[inline]
    const fn pages(&self, word: u64) -> Option<(u64, u64, u32)> {
        const MASK_1: u64 = (GROUP - 1) << PAGE_SHIFT;
        const MASK_4: u64 = MASK_1 & !(Order::Pages4.bytes() - 1);
        const MASK_16: u64 = MASK_1 & !(Order::Pages16.bytes() - 1);
        let offset = word.wrapping_sub(self.ipa);
        if offset & !MASK_1 == 0 && self.least == 1 {
            Some((offset, 1 << (offset >> PAGE_SHIFT), 1))
        } else if offset & !MASK_16 == Order::Pages16 as u64 && self.least <= RUN as u16 {
            let offset = offset & MASK_16;
            Some((offset, 0xffff << (offset >> PAGE_SHIFT), RUN))
        } else if offset & !MASK_4 == Order::Pages4 as u64 && self.least <= QUAD as u16 {
            let offset = offset & MASK_4;
            Some((offset, 0xf << (offset >> PAGE_SHIFT), QUAD))
        } else {
            None
        }
    }

    const fn index(&self, offset: u64) -> usize {
        self.first + (offset >> PAGE_SHIFT) as usize
    }
}

impl Entries {
    const fn all(&self) -> usize {
        self.pages + self.quads + self.runs
    }

    const fn cost(&self, pages: u32) -> u32 {
        budget::STRETCH + self.all() as u32 * budget::STRETCH_ENTRY + pages * budget::STRETCH_PAGE
    }

    const fn count(&mut self, pages: u32) {
        match pages {
            1 => self.pages += 1,
            QUAD => self.quads += 1,
            _ => self.runs += 1,
        }
    }

    fn add_to(&self, [pages, quads, runs, _]: &[Counter; 4]) {
        pages.add(self.pages as u64);
        quads.add(self.quads as u64);
        runs.add(self.runs as u64);
    }
}

/// What becomes of a well-formed word whose pages have moved.
const fn done(word: u64) -> u64 {
    const DONE: u64 = Entry(0).with_status(EntryStatus::Done).0;
    word | DONE
}

impl GuestMemory {
    /// The group in which a stretch at `word` lies, with what is known of its table; `None` if the
    /// block has no table with a home. Its entries have `least` pages.
    #[inline]
    fn group_at<'a>(
        &self,
        tables: &'a mut [TableRecord],
        word: u64,
        least: u16,
    ) -> Option<(Group, &'a mut TableRecord)> {
        // A used entry has a status above its address, and is no entry.
        let ipa_block = u32::try_from(word >> BLOCK_SHIFT).ok()?;
        let record = tables
            .get_mut(self.record(ipa_block))
            .filter(|record| record.home)?;
        let entry = self.stage2.ram_entry(ipa_block);
        if !entry.is_table() {
            return None;
        }
        let table = entry.output();
        let ipa = word & !(GROUP * PAGE_SIZE - 1);
        let frame = Pa(home_frame(table, 0).0 + (ipa & (BLOCK_SIZE - 1)));
        let first = (ipa >> PAGE_SHIFT) as usize & (PAGES_PER_BLOCK - 1);
        let entry = Descriptor::page(frame, Memory::Normal).0;
        Some((
            Group {
                ipa_block,
                ipa,
                table,
                first,
                frame,
                entry,
                least,
            },
            record,
        ))
    }
}

/// The blocks of RAM in one GiB.
struct Blocks<'a> {
    table: Row<'a>,
    /// The list word of the first.
    first: u64,
    bytes: u64,
}

impl GuestMemory {
    /// The blocks around that of a list word that share its level-2 table and its range of RAM.
    #[inline]
    fn row(&self, word: u64) -> Option<Blocks<'_>> {
        let chunk = self.chunk(word)?;
        let gib = word / GIB;
        let start = chunk.start.0.max(gib * GIB);
        let end = (chunk.start.0 + chunk.bytes).min((gib + 1) * GIB);
        Some(Blocks {
            table: self.stage2.ram_row(gib as u32)?,
            first: start + Order::Block as u64,
            bytes: end.saturating_sub(start),
        })
    }
}

impl Blocks<'_> {
    /// IPA / 2 MiB of the first.
    const fn ipa_block(&self) -> u32 {
        (self.first >> BLOCK_SHIFT) as u32
    }

    /// IPA / 2 MiB of the block a list word names, if it is one of these.
    #[inline]
    const fn block(&self, word: u64) -> Option<u32> {
        let offset = word.wrapping_sub(self.first);
        if offset & (BLOCK_SIZE - 1) != 0 || offset >= self.bytes {
            return None;
        }
        Some((word >> BLOCK_SHIFT) as u32)
    }

    /// Unmaps the block of each of `words`, up to the first that is no mapped block's, or the list's;
    /// returns how many. The batch has room.
    #[inline]
    fn unmap(&self, words: &mut [u64], list_block: u64, unmapped: &mut Unmapped<'_>) -> usize {
        let mut blocks = 0;
        for word in words {
            let Some(ipa_block) = self.block(*word) else {
                break;
            };
            if u64::from(ipa_block) == list_block {
                break;
            }
            let Some(pa) = self.table.unmap_block(ipa_block) else {
                break;
            };
            unmapped.push_block(pa);
            *word = done(*word);
            blocks += 1;
        }
        blocks
    }

    /// Maps a zero block for each of `words`, up to the first that is no absent block's, or while there
    /// are some; returns how many.
    #[inline]
    fn map(&self, words: &mut [u64], zero: &mut ZeroBlocks<'_>) -> usize {
        let mut blocks = 0;
        for word in words {
            let Some(ipa_block) = self.block(*word) else {
                break;
            };
            if !self.table.is_free(ipa_block) {
                break;
            }
            let Some(pa) = zero.take(ipa_block) else {
                break;
            };
            self.table.map_block(ipa_block, pa);
            *word = done(*word);
            blocks += 1;
        }
        blocks
    }
}
