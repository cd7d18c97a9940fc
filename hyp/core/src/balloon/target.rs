//! What Ballast wants of a guest, and what the guest says of itself: atomics, so that the monitor, a
//! policy and the guest's own calls never wait for each other.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// The guest's target. Whoever sets one bumps the sequence, and the balloon interrupt's level is
/// [`Target::is_pending`] until the guest has fetched it.
#[derive(Debug, Default)]
pub struct Target {
    reserve_pages: AtomicU64,
    cpus: AtomicU32,
    deadline: AtomicU64,
    requested: AtomicU32,
    fetched: AtomicU32,
}

/// A target as the guest fetches it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fetched {
    /// Pages of the guest's maximum that it shall hold reserved.
    pub reserve_pages: u64,
    /// vCPUs it shall run.
    pub cpus: u32,
    /// Absolute CNTVCT, 0 for none.
    pub deadline: u64,
    /// Which target this is.
    pub sequence: u32,
}

impl Target {
    /// Sets the memory target and asks the guest to fetch it.
    pub fn set_reserve_pages(&self, pages: u64, deadline: u64) {
        self.reserve_pages.store(pages, Ordering::Relaxed);
        self.deadline.store(deadline, Ordering::Relaxed);
        self.bump();
    }

    /// Sets the CPU target and asks the guest to fetch it. The deadline stands: it is the later one's of the two targets.
    pub fn set_cpus(&self, cpus: u32) {
        self.cpus.store(cpus, Ordering::Relaxed);
        self.bump();
    }

    /// Sets when the target shall be reached: an absolute CNTVCT value, 0 for never. No bump.
    pub fn set_deadline(&self, deadline: u64) {
        self.deadline.store(deadline, Ordering::Relaxed);
    }

    /// Asks the guest to look again at the same target: memory it had wanted is free now.
    pub fn bump(&self) {
        self.requested.fetch_add(1, Ordering::Release);
    }

    /// The level of the balloon interrupt.
    #[must_use]
    pub fn is_pending(&self) -> bool {
        self.requested.load(Ordering::Acquire) != self.fetched.load(Ordering::Relaxed)
    }

    /// The memory target, in pages to hold reserved.
    #[must_use]
    pub fn reserve_pages(&self) -> u64 {
        self.reserve_pages.load(Ordering::Relaxed)
    }

    /// Fetches the target. One that is set meanwhile leaves the interrupt pending, so that the guest
    /// asks again.
    pub(super) fn fetch(&self) -> Fetched {
        let sequence = self.requested.load(Ordering::Acquire);
        let fetched = Fetched {
            reserve_pages: self.reserve_pages.load(Ordering::Relaxed),
            cpus: self.cpus.load(Ordering::Relaxed),
            deadline: self.deadline.load(Ordering::Relaxed),
            sequence,
        };
        self.fetched.store(sequence, Ordering::Release);
        fetched
    }

    /// Lowers the memory target to `need` pages less than the guest holds `reserved`, or than the target
    /// if that is less, not below `floor`; no bump, as the guest is told at once. Returns the target as
    /// it is then.
    pub(super) fn relieve(&self, need: u64, floor: u64, reserved: u64) -> u64 {
        let lower = |pages: u64| {
            let lowered = pages.min(reserved).saturating_sub(need).max(floor);
            (lowered < pages).then_some(lowered)
        };
        match self
            .reserve_pages
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, lower)
        {
            Ok(old) => lower(old).unwrap_or(old),
            Err(same) => same,
        }
    }
}

/// The guest's last REPORT. An upper bound on what can be taken, and no more than the guest's word.
#[derive(Debug, Default)]
pub struct Report {
    free_pages: AtomicU64,
    available_pages: AtomicU64,
    pressure: AtomicU32,
    refaults: AtomicU64,
    runnable: AtomicU32,
}

/// A [`Report`]'s values.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Reported {
    /// Free pages.
    pub free_pages: u64,
    /// Pages that could be had without swapping.
    pub available_pages: u64,
    /// Time lost waiting for memory, in thousandths.
    pub pressure: u32,
    /// Pages a second that had been dropped and were needed again.
    pub refaults: u64,
}

impl Report {
    /// What the guest said last.
    #[must_use]
    pub fn get(&self) -> Reported {
        Reported {
            free_pages: self.free_pages.load(Ordering::Relaxed),
            available_pages: self.available_pages.load(Ordering::Relaxed),
            pressure: self.pressure.load(Ordering::Relaxed),
            refaults: self.refaults.load(Ordering::Relaxed),
        }
    }

    /// Threads that run or wait to run, in thousandths; 0 if the guest does not say.
    #[must_use]
    pub fn runnable(&self) -> u32 {
        self.runnable.load(Ordering::Relaxed)
    }

    pub(super) fn set_runnable(&self, milli: u32) {
        self.runnable.store(milli, Ordering::Relaxed);
    }

    pub(super) fn set(&self, reported: Reported) {
        self.free_pages
            .store(reported.free_pages, Ordering::Relaxed);
        self.available_pages
            .store(reported.available_pages, Ordering::Relaxed);
        self.pressure.store(reported.pressure, Ordering::Relaxed);
        self.refaults.store(reported.refaults, Ordering::Relaxed);
    }
}

/// A count that one writer at a time (the holder of the transaction) raises and anybody reads.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// The count.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Adds where several may write at once.
    pub(super) fn add_shared(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    /// Raises it to `value`, if it is less.
    pub(super) fn raise_to(&self, value: u64) {
        self.0.fetch_max(value, Ordering::Relaxed);
    }

    #[inline]
    pub(super) fn add(&self, more: u64) {
        self.0.store(
            self.0.load(Ordering::Relaxed).wrapping_add(more),
            Ordering::Relaxed,
        );
    }
}

/// How often one of the two list calls was made.
#[derive(Debug, Default)]
pub struct Calls {
    /// Calls that were carried out.
    pub calls: Counter,
    /// Entries that were consumed and not done: their statuses said why.
    pub refused: Counter,
}

/// What a guest's memory calls have done since boot.
#[derive(Debug, Default)]
pub struct Stats {
    /// RESERVE calls.
    pub reserve: Calls,
    /// RELEASE calls.
    pub release: Calls,
    /// RESERVE and RELEASE calls that found another call in progress, or the guest being rebuilt.
    pub turned_away: [Counter; 2],
    /// List entries reserved, by order: 4 KiB, 16 KiB, 64 KiB, 2 MiB.
    pub reserved: [Counter; 4],
    /// List entries released, by order.
    pub released: [Counter; 4],
    /// Block entries replaced by a level-3 table.
    pub splits: Counter,
    /// Level-3 tables replaced by a block entry.
    pub merges: Counter,
    /// Those of them whose pages had to move for it.
    pub gathered: Counter,
    /// Level-3 tables moved to another frame.
    pub table_moves: Counter,
    /// Pages moved to other frames.
    pub relocated_pages: Counter,
    /// Ticks of the counter for which cores of the guest moved pages.
    pub relocation_ticks: Counter,
    /// How often something was moving, so that an access to it was done again until it had moved.
    pub pauses: Counter,
    /// How long, in ticks: all together.
    pub pause_ticks: Counter,
    /// The longest.
    pub longest_pause_ticks: Counter,
    /// Pages scrubbed within this guest's calls.
    pub scrubbed_pages: Counter,
    /// TLB invalidations.
    pub invalidations: Counter,
}

impl Stats {
    /// The counts of one of the two list calls, and its entries that were done.
    pub(super) const fn direction(&self, is_reserve: bool) -> (&Calls, &[Counter; 4]) {
        if is_reserve {
            (&self.reserve, &self.reserved)
        } else {
            (&self.release, &self.released)
        }
    }
}
