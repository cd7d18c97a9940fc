//! A level-sensitive interrupt with several holders.
//!
//! When it fires it is held back in the physical controller and made pending for every guest whose own
//! controller lets it through. Once all of them have handled it (ended it, or ceased to listen) it is let
//! through again; if the line is still high it fires anew, so nothing is lost.
//!
//! Nobody can silence another: a guest that has not handled the interrupt after a time limit is *late*
//! and not waited for. Nor can anybody drown another, or the core that serves it. Whose device holds a level
//! line high cannot be seen, so the bound is the line's: each interrupt costs a credit out of [`BURST`], and
//! credits come back only while the line is let through and low, [`REFILL`] in a limit. Without credit it is
//! let through only a whole limit after it last fired. So a line that is held high costs [`BURST`] interrupts
//! once and then one in a limit, for as long as it is held; one that is toggled costs at most [`REFILL`] in a
//! limit; and a guest that listens and ends what it gets learns of its device within one limit. One whose
//! guests are all late is not let through at all before one of them comes round.
//!
//! Ballast's own part, where it has one, is served when the interrupt fires, before anything else.

/// How often the interrupt may fire in a row: what a UART with a 16-byte FIFO needs for 512 bytes at once.
pub const BURST: u32 = 32;

/// How many of them come back in one limit in which the line is low: more than such a UART needs in a
/// millisecond at 2 Mbit/s.
pub const REFILL: u32 = 16;

/// The time limit in microseconds. A PL011 at 115200 baud fills its 16-byte FIFO in 1400.
pub const LIMIT_US: u64 = 1000;

/// Guests, one bit each, by index.
pub type Holders = u16;

/// What is to be done, in this order, with the line's lock held for `physical`.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Steps {
    /// Let the physical interrupt through, or hold it back.
    pub physical: Option<bool>,
    /// Make it pending for these guests.
    pub deliver: Holders,
    /// [`Line::tick`] is to be called at this time or soon after. An earlier such wish still stands.
    pub tick_at: Option<u64>,
    /// Said to the operator, once for each line and cause.
    pub report: Option<Report>,
}

/// What an operator should know of a line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Report {
    /// These guests have not handled it in time and are not waited for.
    Late(Holders),
    /// Somebody's device holds it high: it comes once in a limit from now on, until that ends.
    Storm,
}

/// The state of one shared interrupt. Times are ticks of one counter.
#[derive(Clone, Debug)]
pub struct Line {
    /// Ticks in [`LIMIT_US`].
    limit: u64,
    /// Ballast has a device on it.
    own: bool,
    /// Guests whose own interrupt controller lets it through.
    listening: Holders,
    /// Guests that it was made pending for and that are waited for.
    waiting: Holders,
    /// Guests that it was made pending for and that are not waited for any more.
    late: Holders,
    /// Held back until `release_at`, or until nobody is waited for and there is credit.
    held_back: bool,
    release_at: u64,
    /// When it was last let through.
    released: u64,
    /// Interrupts that it may still raise without a pause, in parts of [`REFILL`] in a limit: a whole one is
    /// `limit` of them.
    credit: u64,
    /// What has been reported.
    said_late: Holders,
    said_storm: bool,
}

impl Line {
    /// A line that nobody listens to yet; `own`: Ballast does.
    #[must_use]
    pub const fn new(limit: u64, own: bool) -> Self {
        Self {
            limit,
            own,
            listening: 0,
            waiting: 0,
            late: 0,
            held_back: false,
            release_at: 0,
            released: 0,
            credit: limit.saturating_mul(BURST as u64),
            said_late: 0,
            said_storm: false,
        }
    }

    /// Whether Ballast has a device on it.
    #[must_use]
    pub const fn is_own(&self) -> bool {
        self.own
    }

    /// Guests that have not handled it in time.
    #[must_use]
    pub const fn late(&self) -> Holders {
        self.late
    }

    /// It fired. Those who are late have it pending already.
    pub fn fired(&mut self, now: u64) -> Steps {
        if self.held_back {
            // It was on its way when it was held back.
            return Steps {
                physical: Some(false),
                tick_at: Some(self.release_at),
                ..NONE
            };
        }
        let low = now.saturating_sub(self.released).min(self.most());
        let earned = low.saturating_mul(u64::from(REFILL));
        self.credit = self.credit.saturating_add(earned).min(self.most());
        self.credit = self.credit.saturating_sub(self.limit);
        self.waiting = self.listening & !self.late;
        self.held_back = true;
        self.release_at = now.saturating_add(self.limit);
        let mut steps = Steps {
            deliver: self.waiting,
            ..self.settle(now)
        };
        if self.held_back {
            steps.physical = Some(false);
            steps.tick_at = Some(self.release_at);
            if self.credit < self.limit && !self.said_storm {
                self.said_storm = true;
                steps.report = Some(Report::Storm);
            }
        }
        steps
    }

    /// `guest` has ended it, or will not get to it.
    pub fn handled(&mut self, guest: usize, now: u64) -> Steps {
        self.waiting &= !bit(guest);
        self.late &= !bit(guest);
        self.settle(now)
    }

    /// `guest` lets it through from now on, or no more.
    pub fn listen(&mut self, guest: usize, listens: bool, now: u64) -> Steps {
        if listens {
            self.listening |= bit(guest);
        } else {
            self.listening &= !bit(guest);
            self.waiting &= !bit(guest);
            self.late &= !bit(guest);
        }
        if self.held_back {
            return self.settle(now);
        }
        Steps {
            physical: Some(self.is_wanted()),
            ..NONE
        }
    }

    /// The time asked for in [`Steps::tick_at`] has come, or any other.
    pub fn tick(&mut self, now: u64) -> Steps {
        if !self.held_back {
            return NONE;
        }
        if now < self.release_at {
            return Steps {
                tick_at: Some(self.release_at),
                ..NONE
            };
        }
        self.late |= self.waiting;
        self.waiting = 0;
        let news = self.late & !self.said_late;
        self.said_late |= news;
        let report = (news != 0).then_some(Report::Late(news));
        let steps = if self.is_heard() {
            self.release(now)
        } else {
            NONE
        };
        Steps { report, ..steps }
    }

    /// Lets it through if nothing stands against that.
    fn settle(&mut self, now: u64) -> Steps {
        let in_time = self.credit >= self.limit || now >= self.release_at;
        if self.held_back && self.waiting == 0 && in_time && self.is_heard() {
            return self.release(now);
        }
        // The tick that was asked for when it fired is still to come.
        NONE
    }

    const fn release(&mut self, now: u64) -> Steps {
        self.held_back = false;
        self.released = now;
        Steps {
            physical: Some(self.is_wanted()),
            ..NONE
        }
    }

    /// Whether it would reach somebody, or there is nobody that it could reach: not if all are late.
    const fn is_heard(&self) -> bool {
        self.own || self.listening & !self.late != 0 || self.listening == 0
    }

    /// All the credit there is.
    const fn most(&self) -> u64 {
        self.limit.saturating_mul(BURST as u64)
    }

    const fn is_wanted(&self) -> bool {
        self.own || self.listening != 0
    }
}

const NONE: Steps = Steps {
    physical: None,
    deliver: 0,
    tick_at: None,
    report: None,
};

/// The bit of guest `index`; none beyond what [`Holders`] has.
#[expect(clippy::cast_possible_truncation, reason = "an index below 16")]
const fn bit(index: usize) -> Holders {
    match 1_u16.checked_shl(index as u32) {
        Some(bit) if index < 16 => bit,
        _ => 0,
    }
}
