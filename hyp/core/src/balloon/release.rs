//! RELEASE: pages go from the pool to the guest.

mod pages;

use ballast_abi::{Entry, EntryStatus};
use spin::mutex::TicketMutex;

use super::budget::{self, Budget};
use super::hw::Hardware;
use super::section::PoolSection;
use super::{Driver, GuestMemory, Span, TableRecord, Use};
use crate::addr::PAGES_PER_BLOCK;
use crate::frames::handover::BATCH_WORDS;
use crate::frames::{GuestSet, Obstacle, Pool};
use crate::stage2::{Descriptor, Memory};

pub(super) struct Release<'a, H> {
    pub memory: &'a GuestMemory,
    pub pool: PoolSection<'a>,
    pub hw: &'a mut H,
    /// Room for a table on its way.
    copy: &'a mut [u64; BATCH_WORDS],
    pub tables: &'a mut [TableRecord],
    pub backed_pages: &'a mut u64,
    pub budget: Budget,
    /// Pages of the smallest run that may move.
    pub least: u16,
    holders: GuestSet,
}

impl GuestMemory {
    /// Releases the pages of `entries` until the work bound; returns how many were consumed, and who holds
    /// frames that had to be the guest's.
    #[expect(
        clippy::too_many_arguments,
        reason = "the ledger's parts, borrowed apart"
    )]
    pub(super) fn release(
        &self,
        pool: &TicketMutex<Pool>,
        hw: &mut impl Hardware,
        driver: Driver,
        entries: &mut [u64],
        copy: &mut [u64; BATCH_WORDS],
        tables: &mut [TableRecord],
        backed_pages: &mut u64,
    ) -> (usize, GuestSet) {
        let mut pool = PoolSection::new(pool);
        pool.get().clear_wanting(self.guest());
        let target_pages = self.max_pages.saturating_sub(self.target.reserve_pages());
        let mut work = Release {
            memory: self,
            pool,
            hw,
            copy,
            tables,
            backed_pages,
            budget: Budget::new(entries.len()),
            least: self.least_pages(driver),
            holders: GuestSet::EMPTY,
        };
        let mut consumed = 0;
        while let Some(rest) = entries.get_mut(consumed..) {
            let stretch = work.stretch(rest, target_pages);
            consumed += stretch;
            if stretch == 0 {
                let Some(entry) = rest.first_mut() else { break };
                let given = Entry(*entry);
                let Some(status) = work.entry(given, target_pages) else {
                    break;
                };
                *entry = given.with_status(status).0;
                consumed += 1;
            }
        }
        (consumed, work.holders)
    }
}

impl<H: Hardware> Release<'_, H> {
    /// One entry; `None` if it is too much for what is left of the budget.
    #[inline]
    fn entry(&mut self, entry: Entry, target_pages: u64) -> Option<EntryStatus> {
        if !self.budget.begin_entry(entry) {
            return None;
        }
        let span = match self.memory.span(entry, self.least) {
            Ok(span) => span,
            Err(status) => return Some(status),
        };
        let present = self.memory.stage2.ram_entry(span.ipa_block);
        let is_block = usize::from(span.pages) == PAGES_PER_BLOCK;
        if present.is_block() || (is_block && present.is_valid()) {
            return Some(EntryStatus::AlreadyBacked);
        }
        if present.is_table() {
            let first = usize::from(span.first);
            let mut pages = first..first + usize::from(span.pages);
            if pages.any(|index| self.hw.read(present.output(), index) != Descriptor::NOT_OWNED.0) {
                return Some(EntryStatus::AlreadyBacked);
            }
        }
        if *self.backed_pages + u64::from(span.pages) > target_pages {
            return Some(EntryStatus::OverTarget);
        }
        let done = if is_block {
            self.block(span)
        } else {
            self.pages(span, present)
        }?;
        self.pool.end_of_entry();
        if !done {
            // A guest that waits for certain frames is told when those are free.
            if !self.memory.config.identity {
                self.pool.get().set_wanting(self.memory.guest());
            }
            return Some(EntryStatus::NoMemory);
        }
        *self.backed_pages += u64::from(span.pages);
        if let Some(count) = self.memory.stats.released.get(span.class()) {
            count.add(1);
        }
        Some(EntryStatus::Done)
    }

    /// A whole block: a zero one, or a dirty one scrubbed within the budget. `Some(false)` if there is
    /// neither. Where IPA = PA, it is the one at its address.
    #[inline]
    fn block(&mut self, span: Span) -> Option<bool> {
        loop {
            let pool = self.pool.get();
            if pool.available_for(self.memory.guest()) < PAGES_PER_BLOCK as u32
                && pool.kept_from(self.memory.guest()) != 0
            {
                return Some(false);
            }
            if let Some(pa) = self.memory.take_block(pool, span.ipa_block, Use::Ram) {
                self.memory
                    .stage2
                    .map(span.ipa_block, Descriptor::block(pa, Memory::Normal));
                return Some(true);
            }
            if !self.memory.has_dirty_block(pool, span.ipa_block, Use::Ram) {
                return self.want(span.ipa_block);
            }
            let most = self.budget.scrub_pages();
            if most == 0 {
                return None;
            }
            let Some(dirty) = self
                .memory
                .claim_dirty_block(pool, span.ipa_block, Use::Ram, most)
            else {
                return Some(false);
            };
            self.pool.leave();
            self.count_scrub(u32::from(dirty.pages()));
            let is_last = dirty.ends_block();
            let zero = dirty.scrub(self.hw);
            self.pool.get().put_zero(zero);
            if !is_last {
                return None;
            }
        }
    }

    /// There is no free block. If only one would do, its holder is to make way: the guest is told when that is
    /// done.
    #[cold]
    fn want(&mut self, ipa_block: u32) -> Option<bool> {
        let Some(pa) = self.memory.home_block(ipa_block, Use::Ram) else {
            return Some(false);
        };
        match self.pool.get().want_home(pa, self.memory.guest()) {
            Obstacle::Passing => {
                self.budget.spend(budget::CALL_LIMIT);
                None
            }
            Obstacle::Holder(holder) => {
                holder
                    .into_iter()
                    .for_each(|holder| self.holders.insert(holder));
                Some(false)
            }
            Obstacle::Fixed => Some(false),
        }
    }

    pub(super) fn count_scrub(&mut self, pages: u32) {
        if pages != 0 {
            self.budget.spend(pages * budget::SCRUB_PAGE);
            self.memory.stats.scrubbed_pages.add(u64::from(pages));
        }
    }
}
