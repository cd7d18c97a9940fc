//! How much of its memory a guest uses, seen from outside: a sample of accesses.
//!
//! In each round some randomly chosen 2 MiB blocks are *watched*: their next access faults once and is counted. The
//! part of them that was accessed until the next round begins is the estimate (Waldspurger, "Memory Resource
//! Management in VMware ESX Server", OSDI 2002, section 5.3), taken at the upper end of what the sample allows. Of a block that is mapped page by page some
//! touching pages are watched in its stead, so a guest does not escape by cutting up what it does not use.
//!
//! A round costs at most [`WATCHED`] faults, whenever they come, and one TLB invalidation, on a core of that
//! guest. Entries that no access came to stay watched until one does: nothing runs to clear up after the last round.
//! Rounds have numbers, so that a fault from an earlier one is not counted.

use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

use super::hw::{Hardware, Window};
use super::target::Counter;
use super::{GuestMemory, Ledger};
use crate::addr::{Ipa, PAGES_PER_BLOCK, Pa};
use crate::stage2::{Accessed, Descriptor, ROUNDS};

/// Blocks watched in a round.
pub const WATCHED: u32 = 48;
/// Fewer say nothing.
const FEWEST: u32 = 8;
/// Blocks looked at for that, most of which may have nothing mapped.
const LOOKS: u32 = 2 * WATCHED;
/// Pages watched of a block that is mapped page by page.
const GROUP: usize = 32;
/// No round has ended, or it lasted too long.
const NONE: u32 = u32::MAX;

/// What is known of a guest's accesses.
#[derive(Debug)]
pub struct Sample {
    round: AtomicU8,
    /// Blocks watched in this round.
    watched: AtomicU32,
    /// Those of them that were accessed.
    accessed: AtomicU32,
    /// Blocks accessed in the last round, and watched: [`NONE`] if they say nothing.
    ended: [AtomicU32; 2],
    /// When it ended, in ticks.
    at: AtomicU64,
    /// Blocks watched since boot.
    pub watched_blocks: Counter,
    /// Those of them that were accessed in their round.
    pub accessed_blocks: Counter,
}

impl Default for Sample {
    fn default() -> Self {
        Self {
            round: AtomicU8::new(0),
            watched: AtomicU32::new(0),
            accessed: AtomicU32::new(0),
            ended: [const { AtomicU32::new(NONE) }; 2],
            at: AtomicU64::new(0),
            watched_blocks: Counter::default(),
            accessed_blocks: Counter::default(),
        }
    }
}

impl Sample {
    /// How many thousandths of its blocks the guest has used lately at most, if there is a sample that is no older
    /// than `oldest_ticks`.
    #[must_use]
    pub fn touched(&self, now: u64, oldest_ticks: u64) -> Option<u16> {
        if now.saturating_sub(self.at.load(Ordering::Relaxed)) > oldest_ticks {
            return None;
        }
        let [last, of] = self
            .ended
            .each_ref()
            .map(|count| count.load(Ordering::Relaxed));
        let last = estimate(last, of)?;
        // A rise counts at once.
        let so_far = self.accessed.load(Ordering::Relaxed);
        let so_far = estimate(so_far, self.watched.load(Ordering::Relaxed));
        Some(so_far.map_or(last, |so_far| so_far.max(last)))
    }

    fn count(&self) {
        self.accessed.fetch_add(1, Ordering::Relaxed);
    }

    /// The round ends; `is_recent` unless it lasted too long to say anything.
    fn end_round(&self, now: u64, is_recent: bool) {
        let watched = self.watched.swap(0, Ordering::Relaxed);
        let accessed = self.accessed.swap(0, Ordering::Relaxed).min(watched);
        self.accessed_blocks.add(accessed.into());
        let [last, of] = &self.ended;
        last.store(accessed, Ordering::Relaxed);
        of.store(if is_recent { watched } else { NONE }, Ordering::Relaxed);
        self.at.store(now, Ordering::Relaxed);
    }
}

/// The most thousandths of all blocks that can be in use: two standard deviations above what was seen, so that one
/// round of forty says too little (Wilson, "Probable inference, the law of succession, and statistical inference",
/// JASA 1927, which holds for none and all, too). `None` if too few were `watched`.
#[must_use]
pub fn estimate(accessed: u32, watched: u32) -> Option<u16> {
    if !(FEWEST..=WATCHED).contains(&watched) {
        return None;
    }
    let (seen, of) = (accessed.min(watched), watched);
    // (p + 2/n + 2 sqrt(p (1 - p) / n + 1/n^2)) / (1 + 4/n), times n above and below.
    let root = (1_000_000 * (seen * (of - seen) + of) / of).isqrt();
    let most = (1000 * (seen + 2) + 2 * root) / (of + 4);
    Some(most.min(1000) as u16)
}

/// What only the holder of the transaction knows of the round.
#[derive(Debug, Default)]
pub(super) struct Round {
    watched: u32,
    began: u64,
    random: u64,
}

impl Round {
    /// Xorshift64*: which block is next is not for the guest to guess from outside.
    fn next(&mut self, below: u32) -> u32 {
        let mut x = self.random | 1;
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        self.random = x;
        let high = x.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32;
        ((high * u64::from(below)) >> 32) as u32
    }
}

impl GuestMemory {
    /// Ends a round and begins the next at tick `now`, if the last has lasted `least_ticks`. On a core that runs this
    /// guest. Nothing is done while something moves: the next time will do. Nor while a call is in progress, but those
    /// that follow make way: false if it is to be tried again at once, or a guest that calls without a pause would
    /// never be sampled.
    #[must_use]
    pub fn sample(&self, hw: &mut impl Hardware, now: u64, least_ticks: u64) -> bool {
        let Some(mut ledger) = self.take_turn() else {
            return false;
        };
        if self.config.realtime
            || ledger.rebuild.is_some()
            || ledger.transfer.is_some()
            || self.has_to_relocate()
            || self.is_loading()
        {
            return true;
        }
        let Ledger { round, .. } = &mut *ledger;
        let lasted = now.saturating_sub(round.began);
        if round.watched != 0 && lasted < least_ticks {
            return true;
        }
        let sample = &self.sample;
        // One that nobody ended for long says little of now.
        sample.end_round(now, lasted <= 2 * least_ticks);
        let number = (sample.round.load(Ordering::Relaxed) + 1) % ROUNDS;
        sample.round.store(number, Ordering::Relaxed);
        *round = Round {
            watched: 0,
            began: now,
            random: round.random ^ now,
        };
        let blocks = (self.max_pages / PAGES_PER_BLOCK as u64) as u32;
        for _ in 0..LOOKS {
            if round.watched == WATCHED {
                break;
            }
            let index = round.next(blocks);
            let part = round.next((PAGES_PER_BLOCK / GROUP) as u32) as usize;
            let Some(ipa_block) = self.nth_block(index) else {
                continue;
            };
            let entry = self.stage2.ram_entry(ipa_block);
            let is_watched = if entry.is_table() {
                watch_pages(hw, entry.output(), part * GROUP, number)
            } else if entry.is_block() {
                self.stage2.open_gib(ipa_block, hw);
                self.stage2.watch_block(ipa_block, number)
            } else {
                false
            };
            round.watched += u32::from(is_watched);
        }
        sample.watched.store(round.watched, Ordering::Relaxed);
        sample.watched_blocks.add(round.watched.into());
        if round.watched != 0 {
            hw.invalidate_guest();
        }
        true
    }

    /// A stage-2 access flag fault at `ipa`: afterwards the access is to be done again, whatever it was. Waits for no
    /// lock; if a call is in progress, the pages of a split block fault until it is done.
    pub fn accessed(&self, hw: &mut impl Hardware, ipa: Ipa) {
        let round = self.sample.round.load(Ordering::Relaxed);
        match self.stage2.access(ipa, round) {
            Accessed::First => self.sample.count(),
            Accessed::Again => return,
            Accessed::Table => {
                // With the transaction the table stays what it is.
                let Some(_ledger) = self.ledger.try_lock() else {
                    return;
                };
                if !self.is_ram(ipa) {
                    return;
                }
                let entry = self.stage2.ram_entry(ipa.block() as u32);
                let page = ipa.page() as usize % PAGES_PER_BLOCK;
                if !entry.is_table() || !access_pages(hw, entry.output(), page, round) {
                    return;
                }
                self.sample.count();
            }
        }
        hw.publish_tables();
    }
}

/// Clears the flag of the pages from number `first` on that are mapped. False if none is, or they are watched in this
/// round already.
fn watch_pages(window: &mut impl Window, table: Pa, first: usize, round: u8) -> bool {
    let mut is_watched = false;
    for index in first..first + GROUP {
        let page = Descriptor(window.read(table, index));
        if page.is_watched_in(round) {
            return false;
        }
        if page.is_valid() {
            window.write(table, index, page.watched(round).0);
            is_watched = true;
        }
    }
    is_watched
}

/// Sets the flag of all pages watched together with page number `page`. Whether this was the first access to them in
/// this round.
fn access_pages(window: &mut impl Window, table: Pa, page: usize, round: u8) -> bool {
    let first = page / GROUP * GROUP;
    let mut is_first = false;
    for index in first..first + GROUP {
        let page = Descriptor(window.read(table, index));
        if page.is_valid() && !page.is_accessed() {
            is_first |= page.is_watched_in(round);
            window.write(table, index, page.accessed().0);
        }
    }
    is_first
}
