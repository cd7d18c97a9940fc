//! Stretches: list entries in a row that are all of the common kind, and so are taken together.
//!
//! One kind is whole blocks. The other is single pages and 64 KiB runs of one split 2 MiB block, in
//! their home frames: the block is looked up once, frames are bits of its bitmap, and the pool is
//! locked once. Whatever is out of the ordinary ends a stretch and goes the way of single entries.

use ballast_abi::{Entry, EntryStatus, Order};

use super::budget;
use super::hw::Hardware;
use super::release::Release;
use super::reserve::Reserve;
use super::{Driver, GuestMemory};
use crate::addr::{BLOCK_SHIFT, BLOCK_SIZE, PAGE_SHIFT, PAGE_SIZE, PAGES_PER_BLOCK, Pa};
use crate::frames::handover::Claim;
use crate::frames::home_frame;
use crate::stage2::{Descriptor, Memory};

/// Pages released in one stretch: each may have to be scrubbed.
const RELEASE_MOST: u32 = 32;

/// Entries of a stretch, by order.
#[derive(Default)]
struct Entries {
    pages: usize,
    runs: usize,
}

impl Entries {
    const fn all(&self) -> usize {
        self.pages + self.runs
    }

    const fn count(&mut self, pages: u32) {
        if pages == 1 {
            self.pages += 1;
        } else {
            self.runs += 1;
        }
    }
}

/// The pages a list word names, if it is a page or run of the block at `base`: offset in bytes and number.
#[inline]
const fn pages_at(word: u64, base: u64) -> Option<(u64, u32)> {
    let offset = word.wrapping_sub(base);
    if offset >= BLOCK_SIZE {
        return None;
    }
    match offset & (16 * PAGE_SIZE - 1) {
        4 => Some((offset - 4, 16)),
        within if within & (PAGE_SIZE - 1) == 0 => Some((offset, 1)),
        _ => None,
    }
}

/// Bits of `pages` pages from byte `offset` on: bitmap word and mask.
#[inline]
const fn bits_at(offset: u64, pages: u32) -> (usize, u64) {
    let page = (offset >> PAGE_SHIFT) as usize;
    let mask = if pages == 1 { 1 } else { 0xffff };
    (page >> 6, mask << (page & 63))
}

const fn index_at(offset: u64) -> usize {
    (offset >> PAGE_SHIFT) as usize
}

const fn done(word: u64) -> u64 {
    Entry(word).with_status(EntryStatus::Done).0
}

impl GuestMemory {
    /// The block in which a stretch at `word` lies, and its table if it has one: IPA / 2 MiB, and PA.
    #[inline]
    fn stretch_at(&self, word: u64) -> Option<(u32, Pa)> {
        if word.wrapping_sub(self.ram.0) >= self.max_pages * PAGE_SIZE {
            return None;
        }
        let ipa_block = (word >> BLOCK_SHIFT) as u32;
        let entry = self.stage2.ram_entry(ipa_block);
        entry.is_table().then(|| (ipa_block, entry.output()))
    }
}

impl GuestMemory {
    /// IPA / 2 MiB of the block a list word names, if it is one within RAM.
    #[inline]
    const fn block_at(&self, word: u64) -> Option<u32> {
        let offset = word.wrapping_sub(self.ram.0 | Order::Block as u64);
        if offset & (BLOCK_SIZE - 1) != 0 || offset >= self.max_pages * PAGE_SIZE {
            return None;
        }
        Some((word >> BLOCK_SHIFT) as u32)
    }
}

impl<H: Hardware> Reserve<'_, H> {
    /// Reserves the whole blocks at the start of `words`; returns how many.
    #[inline]
    fn blocks(&mut self, words: &mut [u64], driver: Driver) -> usize {
        let list_block = driver.list_ipa.block();
        let spare = self
            .backed_pages
            .saturating_sub(self.memory.config.min_pages);
        let most = (spare >> 9).min(u64::from(self.budget.left() / budget::ENTRY));
        let most = self.unmapped.room().min(most as usize);
        let mut gib = u32::MAX;
        let mut blocks = 0;
        for word in words.iter_mut().take(most) {
            let Some(ipa_block) = self.memory.block_at(*word) else {
                break;
            };
            if u64::from(ipa_block) == list_block {
                break;
            }
            if ipa_block >> 9 != gib {
                gib = ipa_block >> 9;
                self.open_gib(ipa_block);
            }
            let Some(pa) = self.memory.stage2.unmap_block(ipa_block) else {
                break;
            };
            self.unmapped.push_block(pa);
            *word = done(*word);
            blocks += 1;
        }
        *self.backed_pages -= (blocks * PAGES_PER_BLOCK) as u64;
        self.budget.spend(blocks as u32 * budget::ENTRY);
        self.memory.stats.reserved[2].add(blocks as u64);
        blocks
    }

    /// Reserves the stretch at the start of `words`; returns its length in entries.
    #[inline]
    pub(super) fn stretch(&mut self, words: &mut [u64], driver: Driver) -> usize {
        match words.first() {
            Some(word) if word & 0xfff == Order::Block as u64 => self.blocks(words, driver),
            _ => self.pages_at_home(words, driver),
        }
    }

    fn pages_at_home(&mut self, words: &mut [u64], driver: Driver) -> usize {
        let Some((ipa_block, table)) = words.first().and_then(|&word| self.memory.stretch_at(word))
        else {
            return 0;
        };
        if self.memory.config.whole_blocks_only || driver.list_ipa.block() == u64::from(ipa_block) {
            return 0;
        }
        let Some(record) = self.tables.get_mut(self.memory.record(ipa_block)) else {
            return 0;
        };
        if !record.home {
            return 0;
        }
        // The last page takes the table with it, and that is another matter.
        let spare = self
            .backed_pages
            .saturating_sub(self.memory.config.min_pages);
        let mut most = u64::from(record.mapped - 1).min(spare) as u32;
        most = most.min(self.budget.left() / budget::STRETCH_PAGE);
        let base = u64::from(ipa_block) << BLOCK_SHIFT;
        let block = home_frame(table, 0);
        let mut gone = [0_u64; PAGES_PER_BLOCK / 64];
        let mut entries = Entries::default();
        let mut left = most;
        for word in words.iter_mut() {
            let Some((offset, pages)) = pages_at(*word, base) else {
                break;
            };
            if pages > left {
                break;
            }
            let mut home = Descriptor::page(Pa(block.0 + offset), Memory::Normal).0;
            let first = index_at(offset);
            if pages == 1 {
                if self.hw.read(table, first) != home {
                    break;
                }
                self.hw.write(table, first, Descriptor::NOT_OWNED.0);
            } else {
                let all_home = (first..first + pages as usize).all(|index| {
                    let is_home = self.hw.read(table, index) == home;
                    home += PAGE_SIZE;
                    is_home
                });
                if !all_home {
                    break;
                }
                self.hw
                    .fill(table, first, pages as usize, Descriptor::NOT_OWNED.0, 0);
            }
            let (group, mask) = bits_at(offset, pages);
            if let Some(bits) = gone.get_mut(group) {
                *bits |= mask;
            }
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
        self.budget
            .spend(pages * budget::STRETCH_PAGE + budget::STRETCH);
        if self.unmapped.room() < 2 * gone.len() {
            self.flush();
        }
        let mut group = block;
        for bits in gone {
            if bits != 0 {
                self.unmapped.push_group(group, bits);
            }
            group = Pa(group.0 + 64 * PAGE_SIZE);
        }
        let [by_page, by_run, _] = &self.memory.stats.reserved;
        by_page.add(entries.pages as u64);
        by_run.add(entries.runs as u64);
        entries.all()
    }
}

impl<H: Hardware> Release<'_, H> {
    /// Releases the whole blocks at the start of `words` while there are zero ones; returns how many.
    #[inline]
    fn blocks(&mut self, words: &mut [u64], target_pages: u64) -> usize {
        let spare = target_pages.saturating_sub(*self.backed_pages) >> 9;
        let most = spare.min(u64::from(self.budget.left() / budget::ENTRY)) as usize;
        let mut blocks = 0_usize;
        for word in words.iter_mut().take(most) {
            let Some(ipa_block) = self.memory.block_at(*word) else {
                break;
            };
            if self.memory.stage2.ram_entry(ipa_block) != Descriptor::NOT_OWNED {
                break;
            }
            let pool = self.pool.get();
            let Some(pa) = pool.take_zero_block(self.memory.guest(), ipa_block) else {
                break;
            };
            self.memory
                .stage2
                .map(ipa_block, Descriptor::block(pa, Memory::Normal));
            self.pool.end_of_entry();
            *word = done(*word);
            blocks += 1;
        }
        *self.backed_pages += (blocks * PAGES_PER_BLOCK) as u64;
        self.budget.spend(blocks as u32 * budget::ENTRY);
        self.memory.stats.released[2].add(blocks as u64);
        blocks
    }

    /// Releases the stretch at the start of `words`; returns its length in entries.
    #[inline]
    pub(super) fn stretch(&mut self, words: &mut [u64], target_pages: u64) -> usize {
        match words.first() {
            Some(word) if word & 0xfff == Order::Block as u64 => self.blocks(words, target_pages),
            _ => self.pages_at_home(words, target_pages),
        }
    }

    fn pages_at_home(&mut self, words: &mut [u64], target_pages: u64) -> usize {
        let Some((ipa_block, table)) = words.first().and_then(|&word| self.memory.stretch_at(word))
        else {
            return 0;
        };
        let Some(record) = self.tables.get_mut(self.memory.record(ipa_block)) else {
            return 0;
        };
        if !record.home {
            return 0;
        }
        // The last pages make the block whole, and that is another matter.
        let missing = (PAGES_PER_BLOCK as u32 - 1).saturating_sub(record.mapped.into());
        let spare = target_pages.saturating_sub(*self.backed_pages);
        let most = RELEASE_MOST
            .min(missing)
            .min(spare.min(u64::from(RELEASE_MOST)) as u32);
        let base = u64::from(ipa_block) << BLOCK_SHIFT;
        let block = home_frame(table, 0);
        let mut wanted = [0_u64; PAGES_PER_BLOCK / 64];
        let mut entries = Entries::default();
        let mut left = most;
        for word in words.iter() {
            let Some((offset, pages)) = pages_at(*word, base) else {
                break;
            };
            let (group, mask) = bits_at(offset, pages);
            let Some(bits) = wanted.get_mut(group) else {
                break;
            };
            let first = index_at(offset);
            let mut indices = first..first + pages as usize;
            if pages > left
                || *bits & mask != 0
                || indices.any(|index| self.hw.read(table, index) != Descriptor::NOT_OWNED.0)
            {
                break;
            }
            *bits |= mask;
            left -= pages;
            entries.count(pages);
        }
        let pages = most - left;
        if pages == 0 {
            return 0;
        }
        // The table's own frame is not free, so its page is not of a stretch.
        let guest = self.memory.guest();
        let Some(dirty) = self.pool.get().take_home_groups(table, &wanted, guest) else {
            return 0;
        };
        record.mapped += pages as u16;
        *self.backed_pages += u64::from(pages);
        self.budget
            .spend(pages * budget::STRETCH_PAGE + budget::STRETCH);
        if dirty != [0; PAGES_PER_BLOCK / 64] {
            self.pool.leave();
            let mut group = block;
            for bits in dirty {
                let claim = Claim::run(group, bits);
                self.count_scrub(claim.dirty_pages());
                let _ = claim.zero(self.hw);
                group = Pa(group.0 + 64 * PAGE_SIZE);
            }
        }
        for word in words.iter_mut().take(entries.all()) {
            let Some((offset, pages)) = pages_at(*word, base) else {
                break;
            };
            let page = Descriptor::page(Pa(block.0 + offset), Memory::Normal).0;
            if pages == 1 {
                self.hw.write(table, index_at(offset), page);
            } else {
                self.hw
                    .fill(table, index_at(offset), pages as usize, page, PAGE_SIZE);
            }
            *word = done(*word);
        }
        self.pool.leave();
        let [by_page, by_run, _] = &self.memory.stats.released;
        by_page.add(entries.pages as u64);
        by_run.add(entries.runs as u64);
        entries.all()
    }
}
