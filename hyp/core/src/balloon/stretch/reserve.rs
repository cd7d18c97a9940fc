//! Stretches of RESERVE: rows of blocks are unmapped into the batch, pages of a group are taken out of their table.
//!
//! What is no part of a stretch is for [`Reserve`]'s single entries.

use ballast_abi::Order;

use super::{Entries, QUAD, RUN, done};
use crate::addr::{PAGE_SIZE, PAGES_PER_BLOCK, Pa};
use crate::balloon::hw::Hardware;
use crate::balloon::reserve::{Reserve, WORDS_PER_ENTRY};
use crate::balloon::{Driver, TableRecord, budget};
use crate::stage2::Descriptor;

impl<H: Hardware> Reserve<'_, H> {
    /// Reserves the stretch at the start of `words`; returns its length in entries.
    #[inline]
    pub(in crate::balloon) fn stretch(&mut self, words: &mut [u64], driver: Driver) -> usize {
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
