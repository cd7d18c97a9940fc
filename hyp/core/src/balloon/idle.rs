//! Free memory made ready before it is asked for: the scrubbing that cores with nothing else to do do.
//!
//! It goes in pieces. Between two of them the core looks at everything else, and within one it looks for
//! interrupts after each page. How fast it goes is limited over all cores together, because DRAM and the
//! shared cache are everybody's; what a guest waits for in a call of its own is not held back.

use core::sync::atomic::{AtomicU64, Ordering};

use spin::mutex::TicketMutex;

use super::hw::Hardware;
use super::target::Counter;
use crate::frames::{GuestSet, Pool};

/// Pages in a MiB.
const MIB_PAGES: u64 = 256;

/// A limit on bandwidth, kept in ticks of the counter: work that was done is paid for by time.
#[derive(Debug)]
pub struct Pace {
    /// What a MiB costs; 0 for no limit.
    ticks_per_mib: u64,
    /// Until when what was done is paid for.
    paid_until: AtomicU64,
}

impl Pace {
    /// Time that was not used and may be made up for, as pages: more would be a burst.
    pub const SLACK_PAGES: u64 = 64;

    /// At most `mib_s` MiB a second by a counter of `frequency` ticks a second; `None` for no limit.
    #[must_use]
    pub fn new(mib_s: Option<u32>, frequency: u64) -> Self {
        let ticks = mib_s.map_or(0, |mib_s| {
            frequency.div_ceil(u64::from(mib_s.max(1))).max(1)
        });
        Self {
            ticks_per_mib: ticks,
            paid_until: AtomicU64::new(0),
        }
    }

    /// Whether more may be done `now`; otherwise when.
    ///
    /// # Errors
    /// The tick at which more may be done.
    pub fn begin(&self, now: u64) -> Result<(), u64> {
        let paid_until = self.paid_until.load(Ordering::Relaxed);
        if paid_until <= now {
            Ok(())
        } else {
            Err(paid_until)
        }
    }

    /// `pages` were done from `now` on.
    pub fn charge(&self, now: u64, pages: u64) {
        if self.ticks_per_mib == 0 {
            return;
        }
        let cost = |pages: u64| pages.saturating_mul(self.ticks_per_mib).div_ceil(MIB_PAGES);
        let earliest = now.saturating_sub(cost(Self::SLACK_PAGES));
        let pay = |paid: u64| Some(paid.max(earliest).saturating_add(cost(pages)));
        let paid = &self.paid_until;
        // The closure never refuses.
        let _ = paid.fetch_update(Ordering::Relaxed, Ordering::Relaxed, pay);
    }
}

/// When a core should scrub next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// There may be more.
    Again,
    /// There is more, from this tick on.
    At(u64),
    /// Nothing is dirty.
    Rest,
}

/// What one [`Scrubber::step`] came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Step {
    /// When to go on.
    pub next: Next,
    /// Guests whose sequence is to be bumped.
    pub wake: GuestSet,
    /// Guests that may find a block to move to now, as in [`Outcome`](super::Outcome::relocate).
    pub relocate: GuestSet,
}

/// The scrubbing of all idle cores.
#[derive(Debug)]
pub struct Scrubber {
    pace: Pace,
    /// Pages scrubbed by idle cores since boot.
    pub pages: Counter,
}

impl Scrubber {
    /// Limits as for [`Pace::new`].
    #[must_use]
    pub fn new(mib_s: Option<u32>, frequency: u64) -> Self {
        Self {
            pace: Pace::new(mib_s, frequency),
            pages: Counter::default(),
        }
    }

    /// Scrubs up to `most_pages`, fewer if an interrupt waits, at tick `now`. `hw` may be any guest's: only its
    /// [`Hardware::scrub_watching`] is used.
    pub fn step(
        &self,
        pool: &TicketMutex<Pool>,
        hw: &mut impl Hardware,
        now: u64,
        most_pages: u16,
    ) -> Step {
        let mut step = Step {
            next: Next::Rest,
            wake: GuestSet::EMPTY,
            relocate: GuestSet::EMPTY,
        };
        if let Err(at) = self.pace.begin(now) {
            if pool.lock().has_dirty() {
                step.next = Next::At(at);
            }
            return step;
        }
        if let Some(scrubbed) = scrub_step(pool, hw, most_pages) {
            self.pace.charge(now, scrubbed.pages.into());
            self.pages.add_shared(scrubbed.pages.into());
            step.next = Next::Again;
            step.wake = scrubbed.wake;
            step.relocate = scrubbed.relocate;
        }
        step
    }
}

/// What one [`scrub_step`] did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Scrubbed {
    /// Pages scrubbed, at least one.
    pub pages: u16,
    pub wake: GuestSet,
    pub relocate: GuestSet,
}

/// Scrubs up to `most_pages` dirty free pages; `None` if there are none.
pub(crate) fn scrub_step(
    pool: &TicketMutex<Pool>,
    hw: &mut impl Hardware,
    most_pages: u16,
) -> Option<Scrubbed> {
    let dirty = pool.lock().claim_dirty(most_pages.max(1))?;
    let zero = dirty.scrub_watching(hw);
    let pages = zero.pages();
    let mut pool = pool.lock();
    let before = pool.available();
    pool.put_zero(zero);
    let more = pool.available() - before;
    Some(Scrubbed {
        pages,
        wake: pool.take_wanting_after(more, false),
        // A block is nobody's to move to while it is scrubbed.
        relocate: pool.take_stalled(),
    })
}
