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

mod moves;

use core::sync::atomic::Ordering;

use spin::mutex::{SpinMutexGuard, TicketMutex};

use super::budget::{self, Budget};
use super::gather::{Gather, Gathered};
use super::hw::Hardware;
use super::{Driver, GuestMemory, Ledger, TableRecord};
use crate::addr::{PAGES_PER_BLOCK, Pa};
use crate::frames::handover::BATCH_WORDS;
use crate::frames::{GuestSet, Look, Part, Pool};

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

    /// The ledger, for a piece of relocation or a round of sampling. `None` if a call has it, or a mere look at it, which
    /// asks nobody again when it ends: however fast the guest's cores call, the next try finds no call in its way.
    pub(super) fn take_turn(&self) -> Option<SpinMutexGuard<'_, Ledger>> {
        let ledger = self.ledger.try_lock();
        let calls = if ledger.is_some() { 0 } else { TURN_CALLS };
        self.relocation_turn.store(calls, Ordering::Relaxed);
        ledger
    }

    /// Whether a call that is about to begin leaves the ledger to whose [turn](Self::take_turn) it is.
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
        let Some(mut ledger) = self.take_turn() else {
            return Relocated {
                more: true,
                ..nothing
            };
        };
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
}
