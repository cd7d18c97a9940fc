//! A level-sensitive interrupt with several holders.
//!
//! When it fires it is held back in the physical controller and made pending for every guest whose own
//! controller lets it through. Once all of them have handled it (ended it, or ceased to listen) it is let
//! through again; if the line is still high it fires anew, so nothing is lost.
//!
//! Nobody can silence another: a guest that has not handled the interrupt after a time limit is *late*
//! and not waited for. Nor can anybody drown another: while somebody is late, and after
//! [`BURST`] interrupts within one limit, the interrupt is let through only a whole limit after it last
//! fired. So at any time it fires at most `2 * BURST` times within one limit, and a guest that listens and
//! ends what it gets learns of its device within one limit.
//!
//! Ballast's own part, where it has one, is served when the interrupt fires, before anything else.

/// How often the interrupt may fire within one limit before it is slowed down: more than a UART with a
/// 16-byte FIFO needs in a millisecond at 4 Mbit/s.
pub const BURST: u32 = 32;

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
    /// Held back until `release_at`, or until nobody is waited for and nobody late.
    held_back: bool,
    release_at: u64,
    /// Start of the time in which `fired` are counted.
    window: u64,
    fired: u32,
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
            window: 0,
            fired: 0,
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
    pub const fn fired(&mut self, now: u64) -> Steps {
        if self.held_back {
            // It was on its way when it was held back.
            return Steps {
                physical: Some(false),
                deliver: 0,
                tick_at: Some(self.release_at),
            };
        }
        if now.wrapping_sub(self.window) >= self.limit {
            self.window = now;
            self.fired = 0;
        }
        self.fired = self.fired.saturating_add(1);
        self.waiting = self.listening & !self.late;
        self.held_back = true;
        self.release_at = now.saturating_add(self.limit);
        let mut steps = self.settle();
        steps.deliver = self.waiting;
        if self.held_back {
            steps.physical = Some(false);
            steps.tick_at = Some(self.release_at);
        }
        steps
    }

    /// `guest` has ended it, or will not get to it.
    pub const fn handled(&mut self, guest: usize) -> Steps {
        self.waiting &= !bit(guest);
        self.late &= !bit(guest);
        self.settle()
    }

    /// `guest` lets it through from now on, or no more.
    pub const fn listen(&mut self, guest: usize, listens: bool) -> Steps {
        if listens {
            self.listening |= bit(guest);
        } else {
            self.listening &= !bit(guest);
            self.waiting &= !bit(guest);
            self.late &= !bit(guest);
        }
        if self.held_back {
            return self.settle();
        }
        Steps {
            physical: Some(self.is_wanted()),
            deliver: 0,
            tick_at: None,
        }
    }

    /// The time asked for in [`Steps::tick_at`] has come, or any other.
    pub const fn tick(&mut self, now: u64) -> Steps {
        if !self.held_back {
            return NONE;
        }
        if now < self.release_at {
            return Steps {
                physical: None,
                deliver: 0,
                tick_at: Some(self.release_at),
            };
        }
        self.late |= self.waiting;
        self.waiting = 0;
        self.release()
    }

    /// Lets it through if nothing stands against that.
    const fn settle(&mut self) -> Steps {
        if self.held_back && self.waiting == 0 && self.late == 0 && self.fired < BURST {
            self.release()
        } else {
            NONE
        }
    }

    const fn release(&mut self) -> Steps {
        self.held_back = false;
        Steps {
            physical: Some(self.is_wanted()),
            deliver: 0,
            tick_at: None,
        }
    }

    const fn is_wanted(&self) -> bool {
        self.own || self.listening != 0
    }
}

const NONE: Steps = Steps {
    physical: None,
    deliver: 0,
    tick_at: None,
};

/// The bit of guest `index`; none beyond what [`Holders`] has.
#[expect(clippy::cast_possible_truncation, reason = "an index below 16")]
const fn bit(index: usize) -> Holders {
    match 1_u16.checked_shl(index as u32) {
        Some(bit) if index < 16 => bit,
        _ => 0,
    }
}
