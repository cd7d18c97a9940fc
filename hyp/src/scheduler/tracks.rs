//! The times of each transfer: `ballast_core::timeline`.

use core::sync::atomic::{AtomicBool, Ordering};

use ballast_core::balloon::Counter;
use ballast_core::log::{Event, Origin};
use ballast_core::timeline::{End, Open, Record, Timeline};
use spin::mutex::TicketMutex;

use super::KIB_PER_PAGE;
use crate::guest::Guest;
use crate::system::System;

use alloc::boxed::Box;
use alloc::vec;

/// KiB in a block.
const BLOCK_KIB: u64 = 2048;

/// Transfers under way, and the last ones.
pub struct Tracks {
    open: Box<[Option<Open>]>,
}

/// The last ones, which are read without the policy's lock. Innermost.
pub struct Ended {
    timeline: TicketMutex<Timeline>,
    /// Frames of one of them are still to be scrubbed.
    waits_for_scrub: AtomicBool,
}

impl Default for Ended {
    fn default() -> Self {
        Self {
            timeline: TicketMutex::new(Timeline::default()),
            waits_for_scrub: AtomicBool::new(false),
        }
    }
}

impl Ended {
    /// Nothing is left to be scrubbed.
    pub fn scrubbed(&self) {
        if self.waits_for_scrub.load(Ordering::Relaxed) {
            self.waits_for_scrub.store(false, Ordering::Relaxed);
            self.timeline.lock().scrubbed(crate::boot::counter());
        }
    }

    /// The oldest one that is kept and has this number or a later one.
    pub fn from(&self, sequence: u64) -> Option<Record> {
        self.timeline.lock().from(sequence)
    }
}

impl Tracks {
    /// For so many guests.
    pub fn new(guests: usize) -> Self {
        Self {
            open: vec![None; guests].into_boxed_slice(),
        }
    }

    /// Sets a guest's target, `by` whom, for move `move_id` or 0; the guest is still to be told.
    pub fn aim(
        &mut self,
        system: &System,
        guest: &Guest,
        pages: u64,
        deadline: u64,
        by: Origin,
        move_id: u32,
    ) {
        self.end(system, guest, End::Replaced);
        let has = system.pages_of(guest);
        if has != pages
            && let Some(slot) = self.open.get_mut(guest.index)
        {
            let mut open = Open {
                guest: guest.index as u8,
                by,
                move_id,
                from_kib: has * KIB_PER_PAGE,
                target_kib: pages * KIB_PER_PAGE,
                targeted: crate::boot::counter(),
                entries: [0; 4],
            };
            open.entries = entries(guest, open.is_giving());
            guest.memory.trace.begin();
            *slot = Some(open);
        }
        let reserve = guest.memory.max_pages().saturating_sub(pages);
        guest.memory.target.set_reserve_pages(reserve, deadline);
        system.record(Event::Target {
            guest: guest.index as u8,
            memory_kib: pages * KIB_PER_PAGE,
            by,
        });
    }

    /// Ends those that have reached their targets.
    pub fn look(&mut self, system: &System) {
        for guest in &system.guests {
            let open = self.open.get(guest.index).copied().flatten();
            // Where IPA = PA memory moves by whole blocks.
            let nearly = if guest.plan.config.is_identity() {
                BLOCK_KIB
            } else {
                1
            };
            let is_there = |open: Open| {
                (system.pages_of(guest) * KIB_PER_PAGE).abs_diff(open.target_kib) < nearly
            };
            if open.is_some_and(is_there) {
                self.end(system, guest, End::Done);
            }
        }
    }

    /// Ends a guest's, if it is in one.
    pub fn end(&mut self, system: &System, guest: &Guest, end: End) {
        let Some(open) = self.open.get_mut(guest.index).and_then(Option::take) else {
            return;
        };
        let is_clean = system.pool.lock().counts().dirty == 0;
        let ended = &system.scheduler.ended;
        let mut timeline = ended.timeline.lock();
        timeline.end(
            &open,
            &guest.memory.trace,
            entries(guest, open.is_giving()),
            end,
            crate::boot::counter(),
            is_clean,
        );
        ended
            .waits_for_scrub
            .store(timeline.waits_for_scrub(), Ordering::Relaxed);
    }
}

/// List entries that the guest has given or got, by order.
fn entries(guest: &Guest, is_giving: bool) -> [u64; 4] {
    let stats = &guest.memory.stats;
    let by_order = if is_giving {
        &stats.reserved
    } else {
        &stats.released
    };
    by_order.each_ref().map(Counter::get)
}
