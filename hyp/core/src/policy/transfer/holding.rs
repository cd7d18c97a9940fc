//! Amounts of memory and cores: what a guest has, what moves, and what is on its way between two guests.
//!
//! Sums and differences are checked, since the operator may name any number. Guests of whole blocks cannot
//! have every number of pages, so what they have is compared to within a block.

use crate::addr::PAGES_PER_BLOCK;

/// Memory and cores of a guest, or a difference of them.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Holding {
    /// Pages.
    pub pages: u64,
    /// Cores.
    pub cpus: u32,
}

impl Holding {
    pub(super) fn plus(self, more: Self) -> Option<Self> {
        Some(Self {
            pages: self.pages.checked_add(more.pages)?,
            cpus: self.cpus.checked_add(more.cpus)?,
        })
    }

    pub(super) fn minus(self, less: Self) -> Option<Self> {
        Some(Self {
            pages: self.pages.checked_sub(less.pages)?,
            cpus: self.cpus.checked_sub(less.cpus)?,
        })
    }

    /// As much of both, to within a block that a guest of whole blocks cannot move.
    pub(super) const fn is_at_least(self, other: Self) -> bool {
        self.pages.saturating_add(PAGES_PER_BLOCK as u64) > other.pages && self.cpus >= other.cpus
    }

    pub(super) const fn is_at_most(self, other: Self) -> bool {
        other.is_at_least(self)
    }

    pub(super) const fn is_at(self, other: Self) -> bool {
        self.is_at_least(other) && self.is_at_most(other)
    }
}

/// Free memory and cores that are a transfer's: what the giver had and neither has now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Kept {
    /// Index of the guest that gives.
    pub giver: usize,
    /// Index of the guest that gets.
    pub taker: usize,
    /// The one of them that may take it now.
    pub holder: usize,
    /// What the giver had.
    pub giver_before: Holding,
    /// What the taker had.
    pub taker_before: Holding,
    /// Never more than this.
    pub most: Holding,
}

impl Kept {
    /// How much it is when the giver and the taker have this.
    #[must_use]
    pub fn now(&self, giver: Holding, taker: Holding) -> Holding {
        let between = |before: [u64; 2], now: [u64; 2], most: u64| {
            let given = before[0].saturating_sub(now[0]).min(most);
            given.saturating_sub(now[1].saturating_sub(before[1]))
        };
        let (giver_before, taker_before) = (self.giver_before, self.taker_before);
        Holding {
            pages: between(
                [giver_before.pages, taker_before.pages],
                [giver.pages, taker.pages],
                self.most.pages,
            ),
            cpus: u32::try_from(between(
                [giver_before.cpus.into(), taker_before.cpus.into()],
                [giver.cpus.into(), taker.cpus.into()],
                self.most.cpus.into(),
            ))
            .unwrap_or(0),
        }
    }
}
