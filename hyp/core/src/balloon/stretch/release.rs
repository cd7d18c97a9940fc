//! Stretches of RELEASE: zero blocks for rows of blocks, home frames for pages of a group.
//!
//! What needs a scrubbed block, a table or frames elsewhere is for [`Release`]'s single entries.

use ballast_abi::Order;

use super::{Entries, GROUP, QUAD, RUN, done};
use crate::addr::{PAGE_SIZE, PAGES_PER_BLOCK};
use crate::balloon::budget;
use crate::balloon::hw::Hardware;
use crate::balloon::release::Release;
use crate::frames::handover::Claim;
use crate::stage2::{Descriptor, Memory};

/// Pages released in one stretch.
const RELEASE_MOST: u32 = GROUP as u32;

impl<H: Hardware> Release<'_, H> {
    /// Releases the stretch at the start of `words`; returns its length in entries.
    #[inline]
    pub(in crate::balloon) fn stretch(&mut self, words: &mut [u64], target_pages: u64) -> usize {
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
