//! Relocation: a guest's contents move out of frames that another guest, with IPA = PA, wants back, while
//! the guest runs on all its cores.
//!
//! A 2 MiB that the guest has in a wanted block moves to a *destination*, a whole free block, frame by
//! frame to the same place in it: so it ends as a block entry again. Its level-3 table meanwhile is
//! a frame of the destination that nothing has moved to yet, the last to be filled; so relocation
//! needs no memory beside. Single frames of other 2 MiB in the wanted block go anywhere.
//!
//! One run of up to 64 KiB at a time: entries in transition, TLBs invalidated, source cleaned and
//! invalidated, copied, destination cleaned, entries made; what the guest accesses meanwhile faults and is
//! done again ([`Stage2::judge`](crate::stage2::Stage2::judge)), with no lock. So no core waits longer than
//! one run takes, and what the guest's caches-off accesses wrote moves too.
//!
//! All state is in the frame table, the guest's tables and one word of the ledger: between two steps the guest
//! may reserve, release, be reset or stop as it likes.

use core::sync::atomic::Ordering;

use spin::mutex::TicketMutex;

use super::budget::{self, Budget};
use super::gather::{Gather, Gathered};
use super::hw::Hardware;
use super::span::page_in_block;
use super::{Driver, GuestMemory, Ledger, TableRecord};
use crate::addr::{BLOCK_SIZE, Ipa, PAGE_SIZE, PAGES_PER_BLOCK, Pa};
use crate::frames::handover::{BATCH_WORDS, Transit};
use crate::frames::{GuestSet, Look, Part, Pool, home_frame};
use crate::stage2::{Descriptor, Memory};

/// The frame of a destination that is the table while a whole block moves: the last.
pub(super) const LAST: u16 = PAGES_PER_BLOCK as u16 - 1;

/// Calls that make way for one piece: some more than all cores can make while it rests.
const TURN_CALLS: u32 = 1024;

/// A 2 MiB that is moving to a destination.
#[derive(Clone, Copy)]
pub(super) struct Transfer {
    /// The wanted block it leaves.
    from: Pa,
    ipa_block: u32,
}

/// What one step came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Relocated {
    /// There is more to do.
    pub more: bool,
    /// And nobody waits for it: it is only for the guest's own good.
    pub at_leisure: bool,
    /// Guests whose sequence is to be bumped.
    pub wake: GuestSet,
    /// Guests that are to move frames, each on a core of its own.
    pub relocate: GuestSet,
}

impl GuestMemory {
    /// Notes that the guest has frames to move: a core of it is about to be asked for
    /// [`GuestMemory::relocate_step`].
    pub fn ask_to_relocate(&self) {
        self.has_to_relocate.store(true, Ordering::Release);
    }

    /// Whether a relocation waits for a core of the guest: to be looked at after each call and each load
    /// of the guest, which may have been in its way.
    #[must_use]
    #[inline]
    pub fn has_to_relocate(&self) -> bool {
        self.has_to_relocate.load(Ordering::Acquire)
    }

    /// Whether a call that is about to begin leaves the ledger to a relocation whose turn it is.
    #[inline]
    pub(super) fn yields_to_relocation(&self) -> bool {
        self.relocation_turn.load(Ordering::Relaxed) != 0
            && self
                .relocation_turn
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                    left.checked_sub(1)
                })
                .is_ok()
    }

    /// Moves some of what others want back, a bounded piece, as long as no interrupt is pending. On a core of this
    /// guest, whose VMID VTTBR_EL2 holds. Does nothing while the guest is loaded, nor while a call is in progress:
    /// then there is more to do.
    pub fn relocate_step(&self, pool: &TicketMutex<Pool>, hw: &mut impl Hardware) -> Relocated {
        let nothing = Relocated {
            more: false,
            at_leisure: false,
            wake: GuestSet::EMPTY,
            relocate: GuestSet::EMPTY,
        };
        let Some(mut ledger) = self.ledger.try_lock() else {
            // A call in progress, or a mere look at the ledger, which asks nobody again when it ends. However fast
            // the guest's cores call, the next piece finds none.
            self.relocation_turn.store(TURN_CALLS, Ordering::Relaxed);
            return Relocated {
                more: true,
                ..nothing
            };
        };
        self.relocation_turn.store(0, Ordering::Relaxed);
        if ledger.rebuild.is_some() || self.is_loading() {
            return nothing;
        }
        // Before the queue is looked at: who asks from now on is not forgotten.
        self.has_to_relocate.store(false, Ordering::SeqCst);
        let Ledger {
            driver,
            tables,
            batch,
            transfer,
            gather,
            ..
        } = &mut *ledger;
        if pool.lock().take_gather_again(self.guest()) {
            gather.ask();
        }
        let mut work = Relocate {
            memory: self,
            pool,
            hw,
            driver,
            tables,
            transfer,
            gather,
            copy: batch,
            budget: Budget::new(0),
            others: GuestSet::EMPTY,
        };
        let start = work.hw.counter();
        let end = work.run();
        let took = work.hw.counter().wrapping_sub(start);
        self.stats.relocation_ticks.add(took);
        let relocate = work.others;
        if end != End::Done {
            self.ask_to_relocate();
        }
        let mut pool = pool.lock();
        Relocated {
            more: end == End::More,
            at_leisure: !pool.is_in_the_way(self.guest()),
            wake: pool.take_wanting(),
            relocate,
        }
    }
}

/// How a step ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// Nothing is left to move.
    Done,
    /// The bound is reached, or an interrupt waits.
    More,
    /// There is no memory to move to.
    Stalled,
}

pub(super) struct Relocate<'a, H> {
    pub memory: &'a GuestMemory,
    pub pool: &'a TicketMutex<Pool>,
    pub hw: &'a mut H,
    driver: &'a mut Option<Driver>,
    pub tables: &'a mut [TableRecord],
    transfer: &'a mut Option<Transfer>,
    pub gather: &'a mut Gather,
    /// Room for a table on its way.
    copy: &'a mut [u64; BATCH_WORDS],
    pub budget: Budget,
    pub others: GuestSet,
}

/// There is no frame to move to.
pub(super) struct NoFrame;

impl<H: Hardware> Relocate<'_, H> {
    fn run(&mut self) -> End {
        let mut is_first = true;
        loop {
            if !self.budget.covers(budget::RELOCATE_MOST) || (!is_first && self.hw.is_interrupted())
            {
                return End::More;
            }
            is_first = false;
            let guest = self.memory.guest();
            let mut looked = 0;
            let look = {
                let mut pool = self.pool.lock();
                pool.next_part(guest, &mut self.others, &mut looked)
            };
            self.budget.spend(u32::from(looked) * budget::LOOK_FRAME);
            if look == Look::GoOn {
                continue;
            }
            self.end_transfer(look.block());
            let Look::Part(part) = look else {
                if self.pool.lock().has_to_move(guest) {
                    // What took in was wanted itself, or others have what is next.
                    self.budget.spend(budget::RELOCATE_MOST);
                    continue;
                }
                match self.gather() {
                    Gathered::More => continue,
                    Gathered::Nothing => return End::Done,
                }
            };
            if self.part(part).is_err() && !self.give_up(part.block()) {
                self.pool.lock().stall(guest);
                return End::Stalled;
            }
        }
    }

    /// The block that is left next is another than that of the transfer in progress: that one is over.
    fn end_transfer(&mut self, next: Option<Pa>) {
        let Some(Transfer { from, ipa_block }) = *self.transfer else {
            return;
        };
        if next == Some(from) {
            return;
        }
        *self.transfer = None;
        let entry = self.memory.stage2.ram_entry(ipa_block);
        if entry.is_table()
            && let Some(holder) = self.pool.lock().close_destination(entry.output())
        {
            self.others.insert(holder);
        }
    }

    fn part(&mut self, part: Part) -> Result<(), NoFrame> {
        match part {
            Part::Whole(from, ipa_block) => self.begin_whole(from, ipa_block),
            Part::Home(from, pages, ipa_block) => self.home(from, pages, ipa_block),
            Part::HomeTable(table, ipa_block) => self.begin_split(table, ipa_block),
            Part::Page(from, ipa) => self.page(from, ipa),
            Part::Table(table, ipa_block) => self.table(table, ipa_block),
        }
    }

    pub(super) fn record(&mut self, ipa_block: u32) -> Result<&mut TableRecord, NoFrame> {
        let index = self.memory.record(ipa_block);
        self.tables.get_mut(index).ok_or(NoFrame)
    }

    /// A whole block: from now on page by page, through a table in the destination.
    fn begin_whole(&mut self, from: Pa, ipa_block: u32) -> Result<(), NoFrame> {
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
    fn begin_split(&mut self, table: Pa, ipa_block: u32) -> Result<(), NoFrame> {
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
    fn table(&mut self, from: Pa, ipa_block: u32) -> Result<(), NoFrame> {
        let to = self.pool.lock().take_table(self.memory.guest(), ipa_block);
        self.move_table(from, to.ok_or(NoFrame)?, ipa_block);
        let record = self.record(ipa_block)?;
        record.home = false;
        record.away = record.mapped;
        Ok(())
    }

    pub(super) fn move_table(&mut self, from: Pa, to: Pa, ipa_block: u32) {
        self.budget.spend(budget::MOVE_TABLE);
        let start = self.hw.counter();
        let Some(broken) = self.memory.stage2.break_entry(ipa_block) else {
            return;
        };
        self.hw.read_page(from, self.copy);
        self.hw.write_page(to, self.copy);
        let clean = broken.invalidate(self.hw);
        self.memory.stage2.retire_table();
        clean.make(Descriptor::table(to), self.hw);
        self.end_pause(start);
        self.pool.lock().give_moved_table(from, self.memory.guest());
        self.memory.stats.table_moves.add(1);
        self.memory.stats.invalidations.add(1);
    }

    /// Frames that are home to the pages of this 2 MiB, or were before its table moved out.
    fn home(&mut self, from: Pa, pages: u16, ipa_block: u32) -> Result<(), NoFrame> {
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
    fn page(&mut self, from: Pa, ipa: Ipa) -> Result<(), NoFrame> {
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
    pub(super) fn move_pages(&mut self, table: Pa, page: u16, from: Pa, to: Pa, pages: u16) {
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
    pub(super) fn finish_whole(
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
