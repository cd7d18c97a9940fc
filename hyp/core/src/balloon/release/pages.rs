//! Pages that come back to a 2 MiB that is not backed as a whole, through its level-3 table.
//!
//! The table is one of the block's own frames if it can be, so it has to make way when that frame's page comes
//! back, and is memory again when all pages are back and at home: the block merges.

use core::ops::Range;

use super::Release;
use crate::addr::{Ipa, PAGES_PER_BLOCK, Pa};
use crate::balloon::hw::Hardware;
use crate::balloon::span::page_in_block;
use crate::balloon::{Span, TableRecord, budget};
use crate::frames::handover::Claim;
use crate::frames::{GuestId, Pool, home_frame};
use crate::stage2::{Descriptor, Memory};

/// Pages in the longest run that is not a whole block.
const RUN: usize = 16;

/// The table through which a span's pages are mapped.
#[derive(Clone, Copy)]
struct Place {
    table: Pa,
    record: TableRecord,
    /// The table was taken just now: not filled, and no level-2 entry points to it.
    is_new: bool,
}

impl Place {
    /// Takes the home frame of `page` if there is one and it is free; returns whether it is dirty.
    fn take_home(&self, pool: &mut Pool, page: u16, guest: GuestId) -> Option<u64> {
        if !self.record.home {
            return None;
        }
        pool.take_home_run(self.table, page, 1, guest)
    }

    /// Whether the home frame of one of `pages` is being scrubbed at this moment.
    fn is_home_claimed(&self, pool: &Pool, mut pages: Range<u16>) -> bool {
        self.record.home && pages.any(|page| pool.is_claimed(home_frame(self.table, page)))
    }
}

impl<H: Hardware> Release<'_, H> {
    /// A page or a run of them, through the block's level-3 table.
    pub(super) fn pages(&mut self, span: Span, present: Descriptor) -> Option<bool> {
        let index = self.memory.record(span.ipa_block);
        let Some(&record) = self.tables.get(index) else {
            return Some(false);
        };
        let mut place = if present.is_table() {
            Place {
                table: present.output(),
                record,
                is_new: false,
            }
        } else {
            match self.new_table(span) {
                Some(place) => place,
                None => return Some(false),
            }
        };
        let done = self.pages_of(span, &mut place);
        if place.is_new {
            self.hw.publish_tables();
            self.memory
                .stage2
                .map(span.ipa_block, Descriptor::table(place.table));
        }
        if let Some(record) = self.tables.get_mut(index) {
            *record = place.record;
        }
        done
    }

    #[inline]
    fn pages_of(&mut self, span: Span, place: &mut Place) -> Option<bool> {
        let record = place.record;
        let table_page = page_in_block(place.table);
        let holds_table = record.home && table_page.wrapping_sub(span.first) < span.pages;
        if holds_table
            && usize::from(record.mapped + span.pages) == PAGES_PER_BLOCK
            && record.away == 0
            && let Some(dirty) = self.take_around(span, place.table, table_page)
        {
            self.merge(span, place.table, dirty);
            place.record = TableRecord::default();
            return Some(true);
        }
        let guest = self.memory.guest();
        if self.pool.get().available_for(guest) < u32::from(span.pages) {
            return Some(false);
        }
        self.map_pages(span, place, holds_table)
    }

    /// Maps the span's pages, each at home if possible. There are enough free frames, and the
    /// pool's lock is held since that was seen.
    fn map_pages(&mut self, span: Span, place: &mut Place, holds_table: bool) -> Option<bool> {
        let guest = self.memory.guest();
        let mut pages = span.first..span.first + span.pages;
        let pool = self.pool.get();
        if place.is_home_claimed(pool, pages.clone()) {
            // Some core is scrubbing a home frame just now: it is there when the driver calls again.
            self.budget.spend(budget::CALL_LIMIT);
            return None;
        }
        let mut moved = None;
        if holds_table && let Some(to) = pool.find_table_place(place.table, span.first, span.pages)
        {
            pool.move_table(place.table, to, guest);
            moved = Some(to);
        }
        let at_table = page_in_block(place.table);
        let mut claims = heapless::Vec::<(u16, Claim), RUN>::new();
        pages.try_for_each(|page| {
            let claim = if moved.is_some() && page == at_table {
                // The table's old frame is at home here, and holds the table.
                Claim::run(place.table, 1)
            } else if let Some(dirty) = place.take_home(pool, page, guest) {
                Claim::run(home_frame(place.table, page), dirty)
            } else {
                let ipa = Ipa::from_page((u64::from(span.ipa_block) << 9) | u64::from(page));
                place.record.away += 1;
                Claim::frame(pool.take_any(guest, ipa)?)
            };
            claims.push((page, claim)).ok()
        })?;
        self.pool.leave();
        if let Some(to) = moved {
            self.move_table(span, place, to);
        }
        if place.is_new {
            let entry = Descriptor::NOT_OWNED.0;
            self.hw.fill(place.table, 0, PAGES_PER_BLOCK, entry, 0);
        }
        for (page, claim) in claims {
            self.budget.spend(budget::RUN_PAGE);
            self.count_scrub(claim.dirty_pages());
            let zeroed = claim.zero(self.hw);
            let entry = Descriptor::page(zeroed.pa(), Memory::Normal);
            self.hw.write(place.table, usize::from(page), entry.0);
            place.record.mapped += 1;
        }
        Some(true)
    }

    /// A table for a block that has nothing mapped, if there is room for it and the span's pages; the
    /// pool's lock is held until those are taken too. A whole free block is opened for it if there is
    /// one, so that it can merge when all of it is back.
    fn new_table(&mut self, span: Span) -> Option<Place> {
        let pool = self.pool.get();
        let guest = self.memory.guest();
        if pool.available_for(guest) <= u32::from(span.pages) {
            return None;
        }
        self.budget.spend(budget::NEW_TABLE);
        // Out of the way of pages that come back ascending.
        let last = PAGES_PER_BLOCK as u16 - 1;
        let slot = if span.first + span.pages > last {
            0
        } else {
            last
        };
        let (table, home) = match pool.take_home(guest, span.ipa_block, slot) {
            Some(table) => (table, true),
            None => (pool.take_table(guest, span.ipa_block)?, false),
        };
        Some(Place {
            table,
            record: TableRecord {
                mapped: 0,
                away: 0,
                home,
            },
            is_new: true,
        })
    }

    /// Takes the span's home frames but the table's, if all are free; returns the dirty ones before
    /// and behind the table.
    fn take_around(&mut self, span: Span, table: Pa, table_page: u16) -> Option<[u64; 2]> {
        let guest = self.memory.guest();
        let before = table_page - span.first;
        let behind = span.pages - before - 1;
        let pool = self.pool.get();
        if pool.available_for(guest) < u32::from(span.pages) - 1
            || !pool.is_run_free(table, span.first, before)
            || !pool.is_run_free(table, table_page + 1, behind)
        {
            return None;
        }
        let mut take = |first, pages| {
            if pages == 0 {
                Some(0)
            } else {
                pool.take_home_run(table, first, pages, guest)
            }
        };
        Some([take(span.first, before)?, take(table_page + 1, behind)?])
    }

    /// The last pages are back and all are at home: the table's frame becomes memory again, and one
    /// block entry maps everything.
    fn merge(&mut self, span: Span, table: Pa, [before, behind]: [u64; 2]) {
        self.pool.leave();
        self.budget.spend(budget::SPLIT);
        let Some(broken) = self.memory.stage2.break_entry(span.ipa_block) else {
            return;
        };
        let clean = broken.invalidate(self.hw);
        self.memory.stage2.retire_table();
        let table_page = page_in_block(table);
        let dirty =
            before | (1 << (table_page - span.first)) | (behind << (table_page - span.first) << 1);
        let claim = Claim::run(home_frame(table, span.first), dirty);
        self.count_scrub(claim.dirty_pages());
        let zeroed = claim.zero(self.hw);
        self.pool.get().merge_block(table);
        self.pool.leave();
        let block = home_frame(zeroed.pa(), 0);
        clean.make(Descriptor::block(block, Memory::Normal), self.hw);
        self.memory.stats.merges.add(1);
        self.memory.stats.invalidations.add(1);
    }

    /// A page comes back whose home frame is the table, while others are still missing: the table
    /// moves to the home frame of one of those.
    fn move_table(&mut self, span: Span, place: &mut Place, to: Pa) {
        self.budget.spend(budget::MOVE_TABLE);
        let way = [place.table, to];
        if self
            .memory
            .move_table(self.hw, self.copy, span.ipa_block, way)
        {
            place.table = to;
        }
    }
}
