//! RESERVE: pages go from the guest to the pool.

use core::ops::Range;

use ballast_abi::{Entry, EntryStatus, LIST_ENTRIES};
use spin::mutex::TicketMutex;

use super::budget::{self, Budget};
use super::hw::Hardware;
use super::{Driver, GuestMemory, Span, TableRecord};
use crate::addr::{PAGE_SIZE, PAGES_PER_BLOCK, Pa};
use crate::frames::handover::{BATCH_WORDS, Unmapped};
use crate::frames::{GuestSet, Pool, home_frame};
use crate::stage2::{Descriptor, Memory};

/// Words that one entry, or a stretch of pages, may add to the batch: 16 pages and a table.
pub(super) const WORDS_PER_ENTRY: usize = 17;

pub(super) struct Reserve<'a, H> {
    pub memory: &'a GuestMemory,
    pub pool: &'a TicketMutex<Pool>,
    pub hw: &'a mut H,
    pub unmapped: Unmapped<'a>,
    pub tables: &'a mut [TableRecord],
    pub backed_pages: &'a mut u64,
    pub budget: Budget,
    /// Pages of the smallest run that may move.
    pub least: u16,
}

impl GuestMemory {
    /// Reserves the pages of `entries` until the work bound; returns how many were consumed, who
    /// waits for what is free now, and who can go on moving.
    #[expect(
        clippy::too_many_arguments,
        reason = "the ledger's parts, borrowed apart"
    )]
    pub(super) fn reserve(
        &self,
        pool: &TicketMutex<Pool>,
        hw: &mut impl Hardware,
        driver: Driver,
        entries: &mut [u64],
        batch: &mut [u64; BATCH_WORDS],
        tables: &mut [TableRecord],
        backed_pages: &mut u64,
    ) -> (usize, GuestSet, GuestSet) {
        const { assert!(LIST_ENTRIES <= u16::MAX as usize) }
        let target_pages = self.max_pages.saturating_sub(self.target.reserve_pages());
        let before = *backed_pages;
        let unmapped = Unmapped::new(self.guest(), batch);
        let mut work = Reserve {
            memory: self,
            pool,
            hw,
            unmapped,
            tables,
            backed_pages,
            budget: Budget::new(entries.len()),
            least: self.least_pages(driver),
        };
        let mut consumed = 0;
        while let Some(rest) = entries.get_mut(consumed..) {
            let stretch = work.stretch(rest, driver);
            consumed += stretch;
            if stretch == 0 {
                let Some(entry) = rest.first_mut() else { break };
                let given = Entry(*entry);
                let Some(status) = work.entry(given, driver) else {
                    break;
                };
                *entry = given.with_status(status).0;
                consumed += 1;
            }
        }
        work.flush();
        let after = *work.backed_pages;
        let is_complete = before > target_pages && after <= target_pages;
        let mut pool = pool.lock();
        let wake = pool.take_wanting_after((before - after) as u32, is_complete);
        (consumed, wake, pool.take_stalled())
    }
}

impl<H: Hardware> Reserve<'_, H> {
    /// One entry; `None` if it is too much for what is left of the budget.
    #[inline]
    fn entry(&mut self, entry: Entry, driver: Driver) -> Option<EntryStatus> {
        if !self.budget.begin_entry(entry) {
            return None;
        }
        let span = match self.memory.span(entry, self.least) {
            Ok(span) => span,
            Err(status) => return Some(status),
        };
        let status = self.span(span, driver)?;
        if status == EntryStatus::Done
            && let Some(count) = self.memory.stats.reserved.get(span.class())
        {
            count.add(1);
        }
        Some(status)
    }

    #[inline]
    fn span(&mut self, span: Span, driver: Driver) -> Option<EntryStatus> {
        let config = &self.memory.config;
        let is_block = usize::from(span.pages) == PAGES_PER_BLOCK;
        if driver.list_ipa.0.wrapping_sub(span.ipa().0) < u64::from(span.pages) * PAGE_SIZE {
            return Some(EntryStatus::Pinned);
        }
        let entry = self.memory.stage2.ram_entry(span.ipa_block);
        if !entry.is_valid() {
            return Some(EntryStatus::NotBacked);
        }
        if *self.backed_pages < config.min_pages + u64::from(span.pages) {
            return Some(EntryStatus::BelowMinimum);
        }
        if self.unmapped.room() < WORDS_PER_ENTRY {
            self.flush();
        }
        match (entry.is_block(), is_block) {
            (true, true) => {
                self.open_gib(span.ipa_block);
                self.memory.stage2.unmap(span.ipa_block);
                self.unmapped.push_block(entry.output());
                *self.backed_pages -= u64::from(span.pages);
            }
            (true, false) => self.split(span, entry.output()),
            (false, false) => return Some(self.pages(span, entry.output())),
            (false, true) => {
                let record = self.tables.get(self.memory.record(span.ipa_block));
                if record.is_none_or(|record| record.mapped != span.pages) {
                    return Some(EntryStatus::NotBacked);
                }
                if !self.budget.covers(budget::UNMAP_TABLE) {
                    return None;
                }
                self.unmap_table(span.ipa_block, entry.output());
            }
        }
        Some(EntryStatus::Done)
    }

    /// Pages of a block that is split already.
    fn pages(&mut self, span: Span, table: Pa) -> EntryStatus {
        let pages = span.first..span.first + span.pages;
        if !self.is_mapped(table, pages.clone()) {
            return EntryStatus::NotBacked;
        }
        self.budget.spend(u32::from(span.pages) * budget::RUN_PAGE);
        self.unmap_pages(span.ipa_block, table, pages);
        EntryStatus::Done
    }

    fn is_mapped(&mut self, table: Pa, mut pages: Range<u16>) -> bool {
        pages.all(|index| Descriptor(self.hw.read(table, usize::from(index))).is_valid())
    }

    /// Pages of a table, all of them mapped, and the table if they are the last.
    fn unmap_pages(&mut self, ipa_block: u32, table: Pa, pages: Range<u16>) {
        let Some(record) = self.tables.get_mut(self.memory.record(ipa_block)) else {
            return;
        };
        for index in pages {
            let pa = Descriptor(self.hw.read(table, usize::from(index))).output();
            self.hw
                .write(table, usize::from(index), Descriptor::NOT_OWNED.0);
            record.away -= u16::from(!record.home || pa != home_frame(table, index));
            record.mapped -= 1;
            *self.backed_pages -= 1;
            self.unmapped.push_page(pa);
        }
        if record.mapped == 0 {
            *record = TableRecord::default();
            self.memory.stage2.unmap(ipa_block);
            self.memory.stage2.retire_table();
            self.unmapped.push_table(table);
        }
    }

    /// A table with all that it maps.
    pub(super) fn unmap_table(&mut self, ipa_block: u32, table: Pa) {
        self.budget.spend(budget::UNMAP_TABLE);
        let Some(record) = self.tables.get_mut(self.memory.record(ipa_block)) else {
            return;
        };
        *self.backed_pages -= u64::from(record.mapped);
        *record = TableRecord::default();
        self.memory.stage2.unmap(ipa_block);
        self.memory.stage2.retire_table();
        self.unmapped.push_table_and_pages(table);
    }

    /// The first pages to leave a block. The first of their frames becomes the level-3 table: the
    /// guest pays for the split.
    fn split(&mut self, span: Span, block: Pa) {
        self.open_gib(span.ipa_block);
        self.budget.spend(budget::SPLIT);
        let Some(broken) = self.memory.stage2.break_entry(span.ipa_block) else {
            return;
        };
        let clean = broken.invalidate(self.hw);
        let table = home_frame(block, span.first);
        self.pool.lock().split_block(table);
        self.hw.fill(
            table,
            0,
            PAGES_PER_BLOCK,
            Descriptor::page(block, Memory::Normal).0,
            PAGE_SIZE,
        );
        self.hw.fill(
            table,
            usize::from(span.first),
            usize::from(span.pages),
            Descriptor::NOT_OWNED.0,
            0,
        );
        clean.make(Descriptor::table(table), self.hw);
        if span.pages > 1 {
            // All but the table's, the first.
            let others = (1_u64 << span.pages) - 2;
            let group = home_frame(block, span.first & !63);
            self.unmapped.push_group(group, others << (span.first & 63));
        }
        if let Some(record) = self.tables.get_mut(self.memory.record(span.ipa_block)) {
            *record = TableRecord {
                mapped: PAGES_PER_BLOCK as u16 - span.pages,
                away: 0,
                home: true,
            };
        }
        *self.backed_pages -= u64::from(span.pages);
        self.memory.stats.splits.add(1);
        self.memory.stats.invalidations.add(1);
    }

    pub(super) fn open_gib(&mut self, ipa_block: u32) {
        if self.memory.stage2.open_gib(ipa_block, self.hw) {
            self.budget.spend(budget::OPEN_GIB);
            self.memory.stats.invalidations.add(1);
        }
    }

    /// Makes what was unmapped so far unreachable, and frees it.
    pub(super) fn flush(&mut self) {
        if !self.unmapped.is_empty() {
            self.memory.trace.unmapped(self.hw.counter());
            let clean = self.unmapped.invalidate(self.hw);
            self.memory.trace.invalidated(self.hw.counter());
            clean.free(self.pool, self.hw);
            self.memory.stats.invalidations.add(1);
        }
    }
}
