//! Who gives and who gets: min-funding revocation with a tax on idle memory.
//!
//! A guest with shares S holds P pages, of which A are active: f = min(A, P) / P. What it pays for a page is
//! rho = S / (P (f + k (1 - f))) with k = 1 / (1 - tau): an idle page costs k times as much as an active one.
//! Memory is taken from the guest with the lowest rho as long as another one that wants it has a higher one
//! (Waldspurger, OSDI 2002, section 5.1 and 5.2).
//!
//! With tau in percent, rho = (100 - tau) S / (100 P - tau min(A, P)), so everything is done in whole numbers
//! on the *cost* 100 P - tau min(A, P). Taking page after page from whoever pays least ends where all pay the
//! same, but for those at a bound: the level of cost per share is found by bisection. That takes 51 passes
//! over the guests whatever the sizes, about 10,000 instructions for nine of them.

use crate::addr::PAGES_PER_BLOCK;

/// Pages in a block.
const BLOCK: u64 = PAGES_PER_BLOCK as u64;
/// Fraction bits of the level.
const LEVEL_BITS: u32 = 16;
/// A level at which even a guest with one share can have all of its 2^28 pages.
const HIGHEST_LEVEL: u64 = (100 << 28) << LEVEL_BITS;

/// Most pages a guest can have: 1 TiB. Keeps every product below within 64 bits.
pub const MAX_PAGES: u64 = 1 << 28;

/// One guest's claim on memory. All in pages, at most [`MAX_PAGES`].
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Claim {
    /// Weight: 1 to 10,000.
    pub shares: u64,
    /// What it holds.
    pub held: u64,
    /// What of it is active; more than it holds if it could use more.
    pub active: u64,
    /// It is not given less than this.
    pub floor: u64,
    /// Nor more than this; at least the floor.
    pub cap: u64,
}

/// The idle-memory tax, in percent: 0 (none) to 99.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tax(u8);

impl Tax {
    /// As ESX has it.
    pub const DEFAULT: Self = Self(75);
    /// The highest: an idle page costs a hundred times as much as an active one.
    pub(super) const TROUBLE: Self = Self(99);

    /// `None` from 100 % on: idle memory would cost infinitely much.
    #[must_use]
    pub const fn new(percent: u8) -> Option<Self> {
        if percent < 100 {
            Some(Self(percent))
        } else {
            None
        }
    }

    /// In percent.
    #[must_use]
    pub const fn percent(self) -> u8 {
        self.0
    }

    /// Cost of `pages` for a guest with `active` active ones.
    fn cost(self, pages: u64, active: u64) -> u64 {
        100 * pages - u64::from(self.0) * active.min(pages)
    }

    /// The most pages that cost no more than `cost`.
    fn pages(self, cost: u64, active: u64) -> u64 {
        let tau = u64::from(self.0);
        if cost / (100 - tau) <= active {
            cost / (100 - tau)
        } else {
            cost.saturating_add(tau * active) / 100
        }
    }
}

impl Claim {
    /// Whether this guest's rho is more than `percent` of the other's.
    pub fn pays_more(&self, other: &Self, percent: u64, tax: Tax) -> bool {
        // rho a / rho b = (S a * cost b) / (S b * cost a): below 2^14 * 2^35 * 2^7.
        let (own, others) = (
            tax.cost(self.held, self.active).max(1),
            tax.cost(other.held, other.active).max(1),
        );
        self.shares * others * 100 > other.shares * own * percent
    }

    /// What it has where everybody pays `price` for a page, within its bounds.
    pub(super) fn at(&self, price: Price, tax: Tax) -> u64 {
        let cost = self.shares.saturating_mul(price.0) >> LEVEL_BITS;
        tax.pages(cost, self.active).clamp(self.floor, self.cap)
    }
}

/// The level of cost per share up to which everybody has memory; with fraction bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Price(u64);

/// What each guest has once `total` pages are shared out: everybody pays the same rho but for those at their
/// floor or cap. Never more than `total` in all unless the floors are; whole blocks above the floor, so that
/// less than a block for each guest may be left over. If there is enough for every cap each gets its cap.
/// Returns the price that this comes to.
pub fn share_out(claims: &[Claim], total: u64, tax: Tax, goals: &mut [u64]) -> Price {
    let sum_at = |level: u64| {
        claims.iter().fold(0_u64, |sum, claim| {
            sum.saturating_add(claim.at(Price(level), tax))
        })
    };
    let (mut low, mut high) = (0, HIGHEST_LEVEL);
    if sum_at(high) <= total {
        low = high;
    }
    // `low` is affordable (or 0: the floors), `high` is not; 51 times.
    while low + 1 < high {
        let middle = low + (high - low) / 2;
        if sum_at(middle) <= total {
            low = middle;
        } else {
            high = middle;
        }
    }
    for (claim, goal) in claims.iter().zip(goals) {
        let pages = claim.at(Price(low), tax);
        *goal = if pages == claim.cap {
            pages
        } else {
            (pages / BLOCK * BLOCK).max(claim.floor)
        };
    }
    Price(low)
}
