//! What goes in and what comes out.

use super::funding::{Claim, Tax};
use super::{BLOCK, HalfLives, Seen};

/// What a guest is entitled to. In pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entitlement {
    /// It never has less.
    pub min_pages: u64,
    /// It never has more.
    pub max_pages: u64,
    /// Its weight: 1 to 10,000.
    pub shares: u32,
    /// Its memory never changes.
    pub fixed: bool,
}

/// What a guest has, at one look. In pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Observed {
    /// Backed now.
    pub memory_pages: u64,
    /// What it was asked to have.
    pub target_pages: u64,
    /// Cores it has.
    pub cpus: u32,
    /// Cores it was asked to have.
    pub target_cpus: u32,
    /// It runs and has a driver.
    pub can_move: bool,
    /// It is in a [`transfer`](super::transfer), which sets its target.
    pub in_transfer: bool,
    /// Thousandths of its blocks to which an access was seen lately, if they were sampled.
    pub touched: Option<u16>,
}

/// A target to be set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Change {
    /// Index of the guest.
    pub guest: usize,
    /// What it shall have, in pages.
    pub target_pages: u64,
}

/// What a guest did that the log should have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Notice {
    /// Index of the guest.
    pub guest: usize,
    /// Anything but [`Seen::Rest`] and [`Seen::Moving`].
    pub seen: Seen,
}

/// Who decides.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// The operator.
    Manual,
    /// This policy.
    Auto,
    /// A control guest, and this policy when it has said nothing for [`Settings::external_timeout_us`]
    /// although a guest lacks memory. A guest in trouble has what is free at once, and what others have after
    /// [`Settings::trouble_timeout_us`].
    External,
}

impl Mode {
    /// The word for it in commands and output.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Manual => "manual",
            Self::Auto => "auto",
            Self::External => "external",
        }
    }

    /// The one with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Manual, Self::Auto, Self::External]
            .into_iter()
            .find(|mode| mode.name() == name)
    }
}

/// How much of the reserve is free.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Level {
    /// All of it.
    High,
    /// At least half: it is filled up only if that has begun.
    Soft,
    /// At least a quarter: idle memory is called in.
    Hard,
    /// Less: idle memory is called in four times as fast.
    Low,
}

impl Level {
    pub(super) fn of(spare: u64, reserve: u64) -> Self {
        match spare {
            _ if spare >= reserve => Self::High,
            _ if spare >= reserve / 2 => Self::Soft,
            _ if spare >= reserve / 4 => Self::Hard,
            _ => Self::Low,
        }
    }

    /// Time to the next look while something moves.
    pub(super) const fn interval_us(self) -> u64 {
        match self {
            Self::High | Self::Soft => 250_000,
            Self::Hard => 100_000,
            Self::Low => 50_000,
        }
    }

    /// By how much a guest is asked to hurry.
    pub(super) const fn haste(self) -> u64 {
        match self {
            Self::High | Self::Soft => 1,
            Self::Hard => 2,
            Self::Low => 4,
        }
    }
}

/// What can be set.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// The tax on idle memory.
    pub tax: Tax,
    /// How fast a guest's idle memory is believed to be idle.
    pub half_lives: HalfLives,
    /// The other guest's rho, in percent of the giver's, from which on memory is taken.
    pub begin_percent: u64,
    /// A guest's direction is kept for this long.
    pub reversal_us: u64,
    /// Thousandths of all memory that are kept free, if they are.
    pub reserve_per_mille: u64,
    /// A control guest that says nothing for this long does not decide any more.
    pub external_timeout_us: u64,
    /// Nor, for a guest in trouble, one that says nothing for this long: before it kills one of its own programs a
    /// Linux guest waits for a second.
    pub trouble_timeout_us: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            tax: Tax::DEFAULT,
            half_lives: HalfLives {
                fast_us: 125_000,
                slow_us: 500_000,
            },
            begin_percent: 110,
            reversal_us: 5_000_000,
            reserve_per_mille: 20,
            external_timeout_us: 10_000_000,
            trouble_timeout_us: 250_000,
        }
    }
}

/// What a step came to, beside the changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Decision {
    /// When the next step is due even if nothing is heard; `None` at rest.
    pub next_us: Option<u64>,
    /// Guests compete for memory: what they touch should be sampled.
    pub sample: bool,
    /// How much is free.
    pub level: Level,
}

/// How far a guest can be moved at the moment, whatever its fixed point.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Latitude {
    pub(super) may_grow: bool,
    pub(super) may_shrink: bool,
    /// It was given memory last because it said that it was in trouble.
    pub(super) was_in_trouble: bool,
    /// Pages that count as active for a while yet although it does not use them any more.
    pub(super) lasting: u64,
    /// Pages that it may be about to want.
    pub(super) soon: u64,
}

impl Latitude {
    /// What its direction has it keep, however little it pays for it: all, as a rule. To a guest in trouble it gives what
    /// it does not use; and to anybody what it was given for a trouble of its own, if that is beyond a third of what it
    /// uses: a guest that grows is to have that.
    pub(super) fn keeps(self, claim: &Claim, is_urgent: bool) -> u64 {
        match (self.may_shrink, is_urgent) {
            (true, _) => 0,
            (false, true) => claim.active,
            (false, false) if self.was_in_trouble => {
                (claim.active + claim.active / 3).next_multiple_of(BLOCK)
            }
            (false, false) => claim.held,
        }
    }
}
