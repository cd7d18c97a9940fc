//! Stretches: list entries in a row that are all of the common kind, and so are taken together.
//!
//! One kind is whole blocks. The other is single pages and runs of 16 or 64 KiB of one *group*, 64 pages of a
//! split 2 MiB block, in their home frames: the block is looked up once, the frames are bits of one
//! word of its bitmap, and the pool is locked once. Whatever is out of the ordinary ends a stretch
//! and goes the way of single entries.

use ballast_abi::{Entry, EntryStatus, Order};

use super::budget;
use super::hw::Hardware;
use super::release::Release;
use super::reserve::{Reserve, WORDS_PER_ENTRY};
use super::{Counter, Driver, GuestMemory, TableRecord};
use crate::addr::{BLOCK_SHIFT, BLOCK_SIZE, GIB, PAGE_SHIFT, PAGE_SIZE, PAGES_PER_BLOCK, Pa};
use crate::frames::handover::{Claim, Unmapped};
use crate::frames::{ZeroBlocks, home_frame};
use crate::stage2::{Descriptor, Memory, Row};

/// Pages in a group.
const GROUP: u64 = 64;

/// Pages released in one stretch.
const RELEASE_MOST: u32 = GROUP as u32;

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

impl<H: Hardware> Reserve<'_, H> {
    /// Reserves the stretch at the start of `words`; returns its length in entries.
    #[inline]
    pub(super) fn stretch(&mut self, words: &mut [u64], driver: Driver) -> usize {
        match words.first() {
            Some(&word) if word & (PAGE_SIZE - 1) == Order::Block as u64 => {
                self.blocks(words, driver)
            }
            Some(&word) => self.group(words, word, driver),
            None => 0,
        }
    }

    fn blocks(&mut self, words: &mut [u64], driver: Driver) -> usize {
        let list_block = driver.list_ipa.block();
        let spare = self
            .backed_pages
            .saturating_sub(self.memory.config.min_pages);
        let most = (spare >> 9).min(u64::from(self.budget.left() / budget::BLOCK));
        let most = self.unmapped.room().min(most as usize).min(words.len());
        let mut blocks = 0;
        while let Some(rest) = words.get_mut(blocks..most) {
            let first = rest.first();
            let Some(row) = first.and_then(|&word| self.memory.row(word)) else {
                break;
            };
            self.open_gib(row.ipa_block());
            let gone = row.unmap(rest, list_block, &mut self.unmapped);
            if gone == 0 {
                break;
            }
            blocks += gone;
        }
        *self.backed_pages -= (blocks * PAGES_PER_BLOCK) as u64;
        self.budget.spend(blocks as u32 * budget::BLOCK);
        let [.., by_block] = &self.memory.stats.reserved;
        by_block.add(blocks as u64);
        blocks
    }

    fn group(&mut self, words: &mut [u64], first: u64, driver: Driver) -> usize {
        let Some((group, record)) = self.memory.group_at(self.tables, first, self.least) else {
            return 0;
        };
        if driver.list_ipa.block() == u64::from(group.ipa_block) {
            return 0;
        }
        let spare = self
            .backed_pages
            .saturating_sub(self.memory.config.min_pages);
        let covered = self.budget.left().saturating_sub(budget::STRETCH);
        let covered = covered / (budget::STRETCH_ENTRY + budget::STRETCH_PAGE);
        let most = spare.min(u64::from(covered)) as u32;
        let (mut gone, mut left) = (0, most);
        let mut entries = Entries::default();
        for word in words.iter_mut() {
            let Some((offset, bits, pages)) = group.pages(*word) else {
                break;
            };
            let index = group.index(offset);
            if pages > left {
                break;
            }
            let home = group.entry + offset;
            if pages == 1 {
                if self.hw.read(group.table, index) != home {
                    break;
                }
                self.hw.write(group.table, index, Descriptor::NOT_OWNED.0);
            } else {
                // Lengths that the compiler knows.
                let is_out = if pages == RUN {
                    take_out(self.hw, group.table, index, RUN, home)
                } else {
                    take_out(self.hw, group.table, index, QUAD, home)
                };
                if !is_out {
                    break;
                }
            }
            gone |= bits;
            left -= pages;
            entries.count(pages);
            *word = done(*word);
        }
        let pages = most - left;
        if pages == 0 {
            return 0;
        }
        record.mapped -= pages as u16;
        *self.backed_pages -= u64::from(pages);
        self.budget.spend(entries.cost(pages));
        let is_empty = record.mapped == 0;
        if is_empty {
            *record = TableRecord::default();
            self.memory.stage2.unmap(group.ipa_block);
            self.memory.stage2.retire_table();
        }
        if self.unmapped.room() < WORDS_PER_ENTRY {
            self.flush();
        }
        self.unmapped.push_group(group.frame, gone);
        if is_empty {
            self.unmapped.push_table(group.table);
        }
        entries.add_to(&self.memory.stats.reserved);
        entries.all()
    }
}

/// Takes a run out of a table, if all of it is at `home`.
#[inline]
fn take_out(hw: &mut impl Hardware, table: Pa, index: usize, pages: u32, home: u64) -> bool {
    let pages = pages as usize;
    let is_home = hw.holds(table, index, pages, home, PAGE_SIZE);
    if is_home {
        hw.fill(table, index, pages, Descriptor::NOT_OWNED.0, 0);
    }
    is_home
}

impl<H: Hardware> Release<'_, H> {
    /// Releases the stretch at the start of `words`; returns its length in entries.
    #[inline]
    pub(super) fn stretch(&mut self, words: &mut [u64], target_pages: u64) -> usize {
        match words.first() {
            Some(&word) if word & (PAGE_SIZE - 1) == Order::Block as u64 => {
                // Where IPA = PA each block is one certain block.
                if self.memory.config.identity {
                    return 0;
                }
                self.blocks(words, target_pages)
            }
            Some(&word) => self.group(words, word, target_pages),
            None => 0,
        }
    }

    /// While there are zero ones.
    fn blocks(&mut self, words: &mut [u64], target_pages: u64) -> usize {
        let guest = self.memory.guest();
        let spare = target_pages.saturating_sub(*self.backed_pages) >> 9;
        let most = spare.min(u64::from(self.budget.left() / budget::BLOCK)) as usize;
        let most = most.min(words.len());
        let mut blocks = 0;
        loop {
            let some = blocks + self.pool.entries_left().min(self.blocks_left());
            let some = most.min(some);
            let Some(rest) = words.get_mut(blocks..some) else {
                break;
            };
            let first = rest.first();
            let Some(row) = first.and_then(|&word| self.memory.row(word)) else {
                break;
            };
            let come = row.map(rest, &mut self.pool.get().zero_blocks(guest));
            if come == 0 {
                break;
            }
            self.pool.end_of_entries(come);
            blocks += come;
        }
        *self.backed_pages += (blocks * PAGES_PER_BLOCK) as u64;
        self.budget.spend(blocks as u32 * budget::BLOCK);
        let [.., by_block] = &self.memory.stats.released;
        by_block.add(blocks as u64);
        blocks
    }

    /// How many blocks are not kept for others.
    #[inline]
    fn blocks_left(&mut self) -> usize {
        let guest = self.memory.guest();
        let pool = self.pool.get();
        match pool.kept_from(guest) {
            0 => usize::MAX,
            _ => (pool.available_for(guest) >> 9) as usize,
        }
    }

    fn group(&mut self, words: &mut [u64], first: u64, target_pages: u64) -> usize {
        let Some((group, record)) = self.memory.group_at(self.tables, first, self.least) else {
            return 0;
        };
        // The last pages make the block whole, and an away page may be there though its home frame is
        // free: other matters. So is the table's own frame, which is not free.
        if record.away != 0 {
            return 0;
        }
        let missing = (PAGES_PER_BLOCK as u32 - 1).saturating_sub(record.mapped.into());
        let spare = target_pages
            .saturating_sub(*self.backed_pages)
            .min(u64::from(RELEASE_MOST));
        let covered = self.budget.left().saturating_sub(budget::STRETCH);
        let covered = covered / (budget::STRETCH_ENTRY + budget::STRETCH_PAGE + budget::SCRUB_PAGE);
        let free = self.pool.get().available_for(self.memory.guest());
        let most = missing.min(spare as u32).min(covered).min(free);
        let mut at_home = self.pool.get().home_group(group.frame);
        let (mut wanted, mut left) = (0, most);
        let mut entries = Entries::default();
        for word in words.iter() {
            let Some((_, bits, pages)) = group.pages(*word) else {
                break;
            };
            if pages > left || at_home & bits != bits {
                break;
            }
            at_home &= !bits;
            wanted |= bits;
            left -= pages;
            entries.count(pages);
        }
        let pages = most - left;
        if pages == 0 {
            return 0;
        }
        let dirty =
            self.pool
                .get()
                .take_home_group(group.frame, wanted, pages as u16, self.memory.guest());
        record.mapped += pages as u16;
        *self.backed_pages += u64::from(pages);
        self.budget.spend(entries.cost(pages));
        let claim = Claim::run(group.frame, dirty);
        if dirty != 0 {
            self.pool.leave();
            self.count_scrub(claim.dirty_pages());
        }
        let zeroed = claim.zero(self.hw);
        let entry = Descriptor::page(zeroed.pa(), Memory::Normal).0;
        for word in words.iter_mut().take(entries.all()) {
            let Some((offset, _, pages)) = group.pages(*word) else {
                break;
            };
            let index = group.index(offset);
            let (table, home) = (group.table, entry + offset);
            match pages {
                1 => self.hw.write(table, index, home),
                RUN => self.hw.fill(table, index, RUN as usize, home, PAGE_SIZE),
                _ => self.hw.fill(table, index, QUAD as usize, home, PAGE_SIZE),
            }
            *word = done(*word);
        }
        self.pool.end_of_entry();
        entries.add_to(&self.memory.stats.released);
        entries.all()
    }
}
