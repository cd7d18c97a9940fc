//! Gathering: a 2 MiB that has all of its pages, but not where one block entry could map them, is brought together.
//!
//! A page that comes back while its home frame is another's gets any frame. So 2 MiB can be backed in full and
//! yet cost a level-3 table, walks of one level more and TLB entries by the page: fragmentation would only grow. When
//! the guest has reached its target, its split blocks are looked through, and those that are complete are
//! gathered: pages whose home frames are free move there; who else has frames there moves out, on a core of
//! its own; the last page takes the table's place. A 2 MiB of which nothing is at home gets a whole free block.
//!
//! All of it is relocation ([`super::relocate`]), and less urgent than any other: it waits while somebody wants his
//! own frames back, and takes an eighth of one core. What cannot be gathered (nowhere to move to, frames of a
//! `realtime` guest in the way) stays as it is, until the guest reaches a target again or another has gathered and
//! so left frames. Every loop ends with the guest's blocks, a block's 512 pages or [`PASSES`].

use super::budget;
use super::hw::Hardware;
use super::relocate::{LAST, Relocate};
use super::span::page_in_block;
use super::{GuestMemory, TableRecord};
use crate::addr::{PAGE_SIZE, PAGES_PER_BLOCK, Pa};
use crate::frames::home_frame;
use crate::stage2::Descriptor;

/// Passes over a block's pages in which none could move, though nobody else is there: some core may be scrubbing
/// their frames. After so many the block is given up.
const PASSES: u8 = 16;
/// Pages that move in one run.
const RUN: u16 = crate::frames::RUN_PAGES;
const BLOCK_PAGES: u16 = PAGES_PER_BLOCK as u16;

/// How far the guest is.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) enum Gather {
    /// Nothing is to be done.
    #[default]
    Idle,
    /// Blocks from this place in filling order on are to be looked at.
    Looking(u32),
    /// The pages of the block at this place move home.
    Moving {
        place: u32,
        /// The next to be looked at.
        page: u16,
        /// Passes in a row in which none could move.
        passes: u8,
    },
}

impl Gather {
    /// All blocks are to be looked at, after what is under way.
    pub(super) const fn ask(&mut self) {
        if !matches!(self, Self::Moving { .. }) {
            *self = Self::Looking(0);
        }
    }
}

/// How a part of the work ends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Gathered {
    /// There is more to do.
    More,
    /// Nothing, or not now: whoever is in the way asks this guest again.
    Nothing,
}

impl GuestMemory {
    /// Split blocks, and those of them that have all of their pages; `None` while a call is in progress.
    #[must_use]
    pub fn split_blocks(&self) -> Option<(u32, u32)> {
        let ledger = self.ledger.try_lock()?;
        let is_split = |record: &&TableRecord| record.mapped != 0;
        let split = ledger.tables.iter().filter(is_split);
        let complete = split.clone().filter(|record| record.mapped == BLOCK_PAGES);
        Some((split.count() as u32, complete.count() as u32))
    }
}

impl<H: Hardware> Relocate<'_, H> {
    /// Some of it, within what is left of the budget.
    pub(super) fn gather(&mut self) -> Gathered {
        loop {
            if !self.budget.covers(budget::RELOCATE_MOST) {
                return Gathered::More;
            }
            match *self.gather {
                Gather::Idle => return Gathered::Nothing,
                Gather::Looking(place) => {
                    self.budget.spend(budget::LOOK_PAGE);
                    let record = self.tables.get(place as usize);
                    *self.gather = match record.map(|record| record.mapped) {
                        None => Gather::Idle,
                        Some(BLOCK_PAGES) if self.begin_gathering(place) => Gather::Moving {
                            place,
                            page: 0,
                            passes: 0,
                        },
                        Some(_) => Gather::Looking(place + 1),
                    };
                }
                Gather::Moving {
                    place,
                    page,
                    passes,
                } => {
                    let Some((ipa_block, table)) = self.gathered(place) else {
                        *self.gather = Gather::Looking(place + 1);
                        continue;
                    };
                    return self.move_home(ipa_block, table, place, page, passes);
                }
            }
        }
    }

    fn begin_gathering(&mut self, place: u32) -> bool {
        let guest = self.memory.guest();
        let Some(ipa_block) = self.memory.nth_block(place) else {
            return false;
        };
        let entry = self.memory.stage2.ram_entry(ipa_block);
        if !entry.is_table() {
            return false;
        }
        self.budget.spend(budget::LOOK_STRAYS);
        let has_home = self.record(ipa_block).is_ok_and(|record| record.home);
        let has_begun = if has_home {
            let mut pool = self.pool.lock();
            pool.begin_gathering(entry.output(), guest, &mut self.others)
        } else {
            self.gather_elsewhere(entry.output(), ipa_block)
        };
        if !has_begun {
            self.pool.lock().note_scattered(guest);
        }
        has_begun
    }

    /// Nothing is at home: in a whole free block, to which the table goes first.
    fn gather_elsewhere(&mut self, table: Pa, ipa_block: u32) -> bool {
        let guest = self.memory.guest();
        let to = self.pool.lock().open_gathering(guest, ipa_block, LAST);
        let Some(to) = to else {
            return false;
        };
        self.move_table(table, to, ipa_block);
        if let Ok(record) = self.record(ipa_block) {
            record.home = true;
            record.away = record.mapped;
        }
        true
    }

    /// The block at this place, if it is still being gathered, and its table.
    fn gathered(&mut self, place: u32) -> Option<(u32, Pa)> {
        let ipa_block = self.memory.nth_block(place)?;
        let entry = self.memory.stage2.ram_entry(ipa_block);
        let record = *self.record(ipa_block).ok()?;
        if !entry.is_table() || !record.home {
            return None;
        }
        let table = entry.output();
        let mut pool = self.pool.lock();
        pool.gathers_in(table, self.memory.guest())?;
        if record.mapped != BLOCK_PAGES {
            // It has given some of it away meanwhile.
            pool.stop_gathering(table);
            return None;
        }
        Some((ipa_block, table))
    }

    /// The next run of pages that can move, or the end of the pass.
    fn move_home(
        &mut self,
        ipa_block: u32,
        table: Pa,
        place: u32,
        first: u16,
        passes: u8,
    ) -> Gathered {
        let guest = self.memory.guest();
        let mut page = first;
        while page < BLOCK_PAGES {
            if !self.budget.covers(budget::RELOCATE_MOST) {
                break;
            }
            self.budget.spend(budget::LOOK_PAGE);
            let from = Descriptor(self.hw.read(table, usize::from(page))).output();
            if from == home_frame(table, page) || page == page_in_block(table) {
                page += 1;
                continue;
            }
            let pages = self.run_of(table, page, from);
            let taken = [pages, 1].into_iter().find(|&pages| {
                let mut pool = self.pool.lock();
                pool.take_in(table, page, pages, guest)
            });
            let Some(pages) = taken else {
                self.budget.spend(budget::ENTRY);
                page += 1;
                continue;
            };
            let to = home_frame(table, page);
            self.move_pages(table, page, from, to, pages);
            let mut pool = self.pool.lock();
            for number in 0..u64::from(pages) {
                pool.give_moved(Pa(from.0 + number * PAGE_SIZE), guest);
            }
            drop(pool);
            if let Ok(record) = self.record(ipa_block) {
                record.away -= pages;
            }
            *self.gather = Gather::Moving {
                place,
                page: page + pages,
                passes: 0,
            };
            return Gathered::More;
        }
        if page < BLOCK_PAGES {
            *self.gather = Gather::Moving {
                place,
                page,
                passes,
            };
            return Gathered::More;
        }
        self.end_pass(ipa_block, table, place, passes)
    }

    /// Pages from `page` on that are together where they are, and would be at home.
    fn run_of(&mut self, table: Pa, page: u16, from: Pa) -> u16 {
        // Not beyond 16 pages' alignment, nor to the table's own place.
        let end = (page | (RUN - 1)) + 1;
        let end = match page_in_block(table) {
            at if (page..end).contains(&at) => at,
            _ => end,
        };
        let mut pages = 1;
        while page + pages < end {
            let next = self.hw.read(table, usize::from(page + pages));
            let expected = Pa(from.0 + u64::from(pages) * PAGE_SIZE);
            if Descriptor(next).output() != expected {
                break;
            }
            pages += 1;
        }
        pages
    }

    /// Every page was looked at.
    fn end_pass(&mut self, ipa_block: u32, table: Pa, place: u32, passes: u8) -> Gathered {
        let away = self.record(ipa_block).map_or(0, |record| record.away);
        let last = page_in_block(table);
        if away == 1 {
            let from = Descriptor(self.hw.read(table, usize::from(last))).output();
            *self.gather = Gather::Looking(place + 1);
            if self.finish_whole(from, table, ipa_block).is_ok() {
                self.memory.stats.merges.add(1);
                self.memory.stats.gathered.add(1);
                let again = self.pool.lock().take_scattered();
                self.others = self.others.union(again);
            }
            return Gathered::More;
        }
        let guest = self.memory.guest();
        let mut pool = self.pool.lock();
        if pool.gathers_in(table, guest) == Some(true) {
            *self.gather = Gather::Moving {
                place,
                page: 0,
                passes: 0,
            };
            return Gathered::Nothing;
        }
        if passes < PASSES {
            *self.gather = Gather::Moving {
                place,
                page: 0,
                passes: passes + 1,
            };
        } else {
            pool.stop_gathering(table);
            *self.gather = Gather::Looking(place + 1);
        }
        Gathered::More
    }

    /// There is nowhere for what has to move out of the block at `pa` to go. Whether somebody else gathers there: he
    /// does so no more.
    pub(super) fn give_up(&mut self, pa: Pa) -> bool {
        self.budget.spend(budget::RELOCATE_RUN);
        self.pool.lock().stop_gathering(pa).is_some()
    }
}
