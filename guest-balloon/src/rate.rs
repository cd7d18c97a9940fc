//! How fast pages are reserved: additive increase, multiplicative decrease, on the allocator's own signs.
//!
//! The rate is in pages a second. Time is cut into periods of 10 ms. A period in which the allocator strained
//! (failed, reclaimed, or the guest reported pressure) halves the rate, but not below 7/8 of what the
//! allocator has delivered lately. A period that used its allowance up without strain adds 1/64 of the rate at
//! the last decrease. After 32 of those in a row the step doubles every eight: that is how a rise of the
//! allocator's speed is followed within two seconds. Before the first strain the rate doubles each period.

/// Periods in a second.
const PERIODS_PER_SECOND: u64 = 100;
/// Pages a second at the start: 1 GiB/s.
const START: u64 = 1 << 18;
/// Never slower than this while there is anything to do.
const MIN: u64 = 32;
/// Never faster than this: 4 TiB/s, so that nothing overflows.
const MAX: u64 = 1 << 30;
/// Unstrained periods before the step grows.
const STEADY: u32 = 32;
/// Then it doubles every so many.
const DOUBLING: u32 = 8;
/// Periods over which what the allocator delivers is measured; runs of 512 pages come in lumps.
const WINDOW: u64 = 10;
/// The longest that something that fails is left alone.
const LONGEST_BACK_OFF_MS: u64 = 1000;
const FIRST_BACK_OFF_MS: u64 = 10;

/// How long something that fails is left alone: 10 ms, then twice as long each time, up to a second.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BackOff {
    ms: u64,
}

impl BackOff {
    pub(crate) const fn new() -> Self {
        Self {
            ms: FIRST_BACK_OFF_MS,
        }
    }

    /// When to try again after a failure at `now` of a clock with so many ticks a second.
    pub(crate) fn until(&mut self, now: u64, ticks_per_second: u64) -> u64 {
        let ticks = ticks_per_second / 1000 * self.ms;
        self.ms = (self.ms * 2).min(LONGEST_BACK_OFF_MS);
        now.saturating_add(ticks)
    }
}

/// The allowance to take pages.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    ticks_per_second: u64,
    pages_per_second: u64,
    /// The rate the additive step is a fraction of; `None` before the first strain.
    step_base: Option<u64>,
    /// Pages that may be taken now; below zero after a run larger than the allowance.
    allowance: i64,
    refilled_at: u64,
    period_began_at: u64,
    window_began_at: u64,
    taken_in_window: u64,
    /// What the allocator delivers, in pages a second: a mean that forgets a quarter each window.
    delivered: u64,
    strained_in_period: bool,
    used_up_in_period: bool,
    unstrained_periods: u32,
    back_off: BackOff,
}

impl Rate {
    /// At time `now` of a clock with so many ticks a second (at least 1000).
    #[must_use]
    pub fn new(now: u64, ticks_per_second: u64) -> Self {
        Self {
            ticks_per_second: ticks_per_second.max(1000),
            pages_per_second: START,
            step_base: None,
            allowance: (START / PERIODS_PER_SECOND).cast_signed(),
            refilled_at: now,
            period_began_at: now,
            window_began_at: now,
            taken_in_window: 0,
            delivered: 0,
            strained_in_period: false,
            used_up_in_period: false,
            unstrained_periods: 0,
            back_off: BackOff::new(),
        }
    }

    /// The rate, in pages a second.
    #[must_use]
    pub fn pages_per_second(&self) -> u64 {
        self.pages_per_second
    }

    /// Ticks of the clock in a second.
    #[must_use]
    pub fn ticks_per_second(&self) -> u64 {
        self.ticks_per_second
    }

    /// Begins to take after a rest: the time before counts neither as allowance nor for the rate.
    pub fn resume(&mut self, now: u64) {
        if now.saturating_sub(self.refilled_at) > self.period() {
            self.refilled_at = now;
            self.allowance = self.burst();
            self.begin_period(now);
            self.begin_window(now);
        }
    }

    /// Pages that may be taken at `now`. A run may be larger than this: what is above is owed.
    pub fn allowance(&mut self, now: u64) -> u64 {
        self.refill(now);
        self.allowance.max(0).cast_unsigned()
    }

    /// Says what a request brought: `pages` were taken; `strained` as [`crate::Taken`] has it.
    pub fn took(&mut self, pages: u64, strained: bool) {
        self.allowance = self.allowance.saturating_sub_unsigned(pages);
        self.taken_in_window = self.taken_in_window.saturating_add(pages);
        self.strained_in_period |= strained;
        self.used_up_in_period |= self.allowance <= 0;
        if pages > 0 {
            self.back_off = BackOff::new();
        }
    }

    /// Slows down at once: the guest says it is under pressure.
    pub fn pressure(&mut self) {
        self.strained_in_period = true;
    }

    /// When the next batch is worth its call: what is owed is earned and half a period's worth on top.
    #[must_use]
    pub fn next_allowance_at(&self) -> u64 {
        let owed = self.allowance.min(0).unsigned_abs() + self.burst().unsigned_abs().div_ceil(2);
        let ticks = u128::from(owed) * u128::from(self.ticks_per_second)
            / u128::from(self.pages_per_second);
        self.refilled_at
            .saturating_add(u64::try_from(ticks).unwrap_or(u64::MAX))
            .saturating_add(1)
    }

    /// When to try again after the allocator gave nothing or the floor was reached; doubles up to a second.
    pub fn back_off_until(&mut self, now: u64) -> u64 {
        self.back_off.until(now, self.ticks_per_second)
    }

    fn period(&self) -> u64 {
        self.ticks_per_second / PERIODS_PER_SECOND
    }

    /// The most that is saved up: a period's worth, but always a page.
    fn burst(&self) -> i64 {
        (self.pages_per_second / PERIODS_PER_SECOND)
            .max(1)
            .cast_signed()
    }

    fn refill(&mut self, now: u64) {
        let elapsed = now.saturating_sub(self.refilled_at);
        let gained = u128::from(elapsed) * u128::from(self.pages_per_second)
            / u128::from(self.ticks_per_second);
        if gained > 0 {
            let gained = i64::try_from(gained).unwrap_or(i64::MAX);
            self.allowance = self.allowance.saturating_add(gained).min(self.burst());
            self.refilled_at = now;
        }
        let in_period = now.saturating_sub(self.period_began_at);
        if in_period >= self.period() {
            self.measure(now);
            self.end_period(in_period / self.period());
            self.begin_period(now);
        }
    }

    fn begin_period(&mut self, now: u64) {
        self.period_began_at = now;
        self.strained_in_period = false;
        self.used_up_in_period = self.allowance <= 0;
    }

    fn measure(&mut self, now: u64) {
        let elapsed = now.saturating_sub(self.window_began_at);
        if elapsed < WINDOW * self.period() {
            return;
        }
        let sample = u128::from(self.taken_in_window) * u128::from(self.ticks_per_second)
            / u128::from(elapsed);
        let sample = u64::try_from(sample).unwrap_or(MAX).min(MAX);
        self.delivered = (3 * self.delivered + sample) / 4;
        self.begin_window(now);
    }

    fn begin_window(&mut self, now: u64) {
        self.window_began_at = now;
        self.taken_in_window = 0;
    }

    /// `periods`: how many have passed without being looked at.
    fn end_period(&mut self, periods: u64) {
        let rate = self.pages_per_second;
        if self.strained_in_period {
            self.pages_per_second = (rate / 2).max(self.delivered / 8 * 7).min(rate).max(MIN);
            self.step_base = Some(self.pages_per_second);
            self.unstrained_periods = 0;
        } else if self.used_up_in_period {
            for _ in 0..periods.min(STEADY.into()) {
                self.unstrained_periods = self.unstrained_periods.saturating_add(1);
                self.pages_per_second = self.pages_per_second.saturating_add(self.step()).min(MAX);
            }
        }
    }

    fn step(&self) -> u64 {
        let Some(base) = self.step_base else {
            return self.pages_per_second;
        };
        let doublings = self.unstrained_periods.saturating_sub(STEADY) / DOUBLING;
        (base / 64).max(1) << doublings.min(20)
    }
}
