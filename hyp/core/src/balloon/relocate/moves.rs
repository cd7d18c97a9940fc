//! The moves that a relocation is made of: a block, a table, a run of pages.
//!
//! Each breaks entries, invalidates and makes new ones, and leaves the frame table and the [`TableRecord`] in step
//! with them. How long the guest could not access what moved is counted here, too.

use super::{LAST, NoFrame, Relocate, Transfer};
use crate::addr::{BLOCK_SIZE, Ipa, PAGE_SIZE, PAGES_PER_BLOCK, Pa};
use crate::balloon::hw::Hardware;
use crate::balloon::span::page_in_block;
use crate::balloon::{TableRecord, budget};
use crate::frames::handover::Transit;
use crate::frames::home_frame;
use crate::stage2::{Descriptor, Memory};

impl<H: Hardware> Relocate<'_, H> {
    /// A whole block: from now on page by page, through a table in the destination.
    pub(super) fn begin_whole(&mut self, from: Pa, ipa_block: u32) -> Result<(), NoFrame> {
        self.budget.spend(budget::SPLIT);
        let guest = self.memory.guest();
        let mut pool = self.pool.lock();
        let table = pool
            .open_destination(guest, ipa_block, LAST)
            .ok_or(NoFrame)?;
        pool.split_wanted(from);
        drop(pool);
        let page = Descriptor::page(from, Memory::Normal);
        self.hw.fill(table, 0, PAGES_PER_BLOCK, page.0, PAGE_SIZE);
        if self.memory.stage2.open_gib(ipa_block, self.hw) {
            self.memory.stats.invalidations.add(1);
        }
        let start = self.hw.counter();
        if let Some(broken) = self.memory.stage2.break_entry(ipa_block) {
            let clean = broken.invalidate(self.hw);
            clean.make(Descriptor::table(table), self.hw);
        }
        self.end_pause(start);
        *self.record(ipa_block)? = TableRecord {
            mapped: PAGES_PER_BLOCK as u16,
            away: PAGES_PER_BLOCK as u16,
            home: true,
        };
        *self.transfer = Some(Transfer { from, ipa_block });
        self.memory.stats.invalidations.add(1);
        Ok(())
    }

    /// A block that is split already: its table goes to the same place in a destination, or, if there is no
    /// whole block or nothing else at home, anywhere.
    pub(super) fn begin_split(&mut self, table: Pa, ipa_block: u32) -> Result<(), NoFrame> {
        let guest = self.memory.guest();
        let record = *self.record(ipa_block)?;
        let page = page_in_block(table);
        let mut pool = self.pool.lock();
        let to = (record.away != record.mapped)
            .then(|| pool.open_destination(guest, ipa_block, page))
            .flatten();
        drop(pool);
        let Some(to) = to else {
            return self.table(table, ipa_block);
        };
        self.move_table(table, to, ipa_block);
        let record = self.record(ipa_block)?;
        record.away = record.mapped;
        *self.transfer = Some(Transfer {
            from: home_frame(table, 0),
            ipa_block,
        });
        Ok(())
    }

    /// A table goes to any frame: no page is at home any more then.
    pub(super) fn table(&mut self, from: Pa, ipa_block: u32) -> Result<(), NoFrame> {
        let to = self.pool.lock().take_table(self.memory.guest(), ipa_block);
        self.move_table(from, to.ok_or(NoFrame)?, ipa_block);
        let record = self.record(ipa_block)?;
        record.home = false;
        record.away = record.mapped;
        Ok(())
    }

    pub(in crate::balloon) fn move_table(&mut self, from: Pa, to: Pa, ipa_block: u32) {
        self.budget.spend(budget::MOVE_TABLE);
        let start = self.hw.counter();
        if self
            .memory
            .move_table(self.hw, self.copy, ipa_block, [from, to])
        {
            self.end_pause(start);
            self.pool.lock().give_moved_table(from, self.memory.guest());
        }
    }

    /// Frames that are home to the pages of this 2 MiB, or were before its table moved out.
    pub(super) fn home(&mut self, from: Pa, pages: u16, ipa_block: u32) -> Result<(), NoFrame> {
        let table = self.memory.stage2.ram_entry(ipa_block).output();
        if home_frame(table, 0) == home_frame(from, 0) {
            return self.begin_split(table, ipa_block);
        }
        let record = *self.record(ipa_block)?;
        let first = page_in_block(from);
        let table_page = page_in_block(table);
        if first == table_page && record.home {
            if usize::from(record.mapped) == PAGES_PER_BLOCK && record.away == 1 {
                return self.finish_whole(from, table, ipa_block);
            }
            return self.page(from, page_ipa(ipa_block, first));
        }
        // The table's own place is the last to be taken in.
        let pages = match table_page.checked_sub(first) {
            Some(before) if before < pages => before,
            _ => pages,
        };
        let guest = self.memory.guest();
        if !record.home || !self.pool.lock().take_in(table, first, pages, guest) {
            return self.page(from, page_ipa(ipa_block, first));
        }
        let to = home_frame(table, first);
        self.move_pages(table, first, from, to, pages);
        self.pool.lock().give_moved_home(from, pages, guest);
        self.record(ipa_block)?.away -= pages;
        Ok(())
    }

    /// One page, to its home frame if that is free, else anywhere.
    pub(super) fn page(&mut self, from: Pa, ipa: Ipa) -> Result<(), NoFrame> {
        let ipa_block = ipa.block() as u32;
        let page = page_in_block(Pa(ipa.0));
        let table = self.memory.stage2.ram_entry(ipa_block).output();
        let record = *self.record(ipa_block)?;
        let guest = self.memory.guest();
        let mut pool = self.pool.lock();
        let at_home = record.home
            && home_frame(table, page) != from
            && pool.take_home_run(table, page, 1, guest).is_some();
        let to = if at_home {
            home_frame(table, page)
        } else {
            pool.take_any(guest, ipa).ok_or(NoFrame)?.pa
        };
        pool.set_beside(guest, 1);
        drop(pool);
        self.move_pages(table, page, from, to, 1);
        self.pool.lock().give_moved(from, guest);
        let record = self.record(ipa_block)?;
        let was_away = !record.home || home_frame(table, page) != from;
        record.away = record.away + u16::from(!at_home) - u16::from(was_away);
        Ok(())
    }

    /// The run itself: the pages that `table` maps from `from` on are `to` afterwards, with the same contents.
    pub(in crate::balloon) fn move_pages(
        &mut self,
        table: Pa,
        page: u16,
        from: Pa,
        to: Pa,
        pages: u16,
    ) {
        self.budget
            .spend(budget::RELOCATE_RUN + u32::from(pages) * budget::RELOCATE_PAGE);
        let start = self.hw.counter();
        let transit = Transit::begin(table, page, from, pages, self.hw);
        transit.invalidate(self.hw).copy(to, self.hw).make(self.hw);
        self.end_pause(start);
        self.follow_list(from, to, pages);
        self.memory.stats.relocated_pages.add(pages.into());
        self.memory.stats.invalidations.add(1);
    }

    /// All other pages have moved, and the table's own place is the one that is left: one block entry maps
    /// everything again.
    pub(in crate::balloon) fn finish_whole(
        &mut self,
        from: Pa,
        table: Pa,
        ipa_block: u32,
    ) -> Result<(), NoFrame> {
        self.budget.spend(budget::SPLIT + budget::RELOCATE_PAGE);
        let start = self.hw.counter();
        let Some(broken) = self.memory.stage2.break_entry(ipa_block) else {
            return Err(NoFrame);
        };
        let clean = broken.invalidate(self.hw);
        self.memory.stage2.retire_table();
        self.hw.copy_page(from, table);
        self.hw.finish_copies();
        let guest = self.memory.guest();
        let block = home_frame(table, 0);
        clean.make(Descriptor::block(block, Memory::Normal), self.hw);
        self.end_pause(start);
        *self.record(ipa_block)? = TableRecord::default();
        *self.transfer = None;
        let mut pool = self.pool.lock();
        pool.merge_block(table);
        pool.set_beside(guest, 1);
        pool.give_moved(from, guest);
        drop(pool);
        self.follow_list(from, table, 1);
        self.memory.stats.relocated_pages.add(1);
        self.memory.stats.invalidations.add(1);
        Ok(())
    }

    /// What was broken since `start` can be accessed again.
    fn end_pause(&mut self, start: u64) {
        let took = self.hw.counter().wrapping_sub(start);
        let stats = &self.memory.stats;
        stats.pauses.add(1);
        stats.pause_ticks.add(took);
        stats.longest_pause_ticks.raise_to(took);
    }

    /// The driver's list page moves with its frame.
    fn follow_list(&mut self, from: Pa, to: Pa, pages: u16) {
        if let Some(driver) = self.driver {
            let offset = driver.list.0.wrapping_sub(from.0);
            if offset < u64::from(pages) * PAGE_SIZE {
                driver.list = Pa(to.0 + offset);
            }
        }
    }
}

const fn page_ipa(ipa_block: u32, page: u16) -> Ipa {
    Ipa(ipa_block as u64 * BLOCK_SIZE + page as u64 * PAGE_SIZE)
}
