//! Free frames that are kept for certain guests.
//!
//! While memory goes from one guest to another as one transaction, what the first has given is free and yet not
//! anybody's: were it taken by a third, there would be nothing to go back to. The pool only counts: which frames
//! they are does not matter.

use super::{GuestId, MAX_KEPT, Pool};

/// What was given for one transfer and is not taken yet: what `giver` has less than `giver_pages`, less what
/// `taker` has more than `taker_pages`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Kept {
    /// The guest that gives.
    pub giver: GuestId,
    /// What it had, in pages.
    pub giver_pages: u32,
    /// The guest that gets.
    pub taker: GuestId,
    /// What it had, in pages.
    pub taker_pages: u32,
    /// Never more than this, in pages.
    pub most_pages: u32,
    /// The one of the two that may take it now.
    pub holder: GuestId,
}

impl Pool {
    /// From now on this is kept, and nothing else.
    pub fn keep(&mut self, kept: impl IntoIterator<Item = Kept>) {
        self.kept.clear();
        self.kept.extend(kept.into_iter().take(MAX_KEPT));
    }

    /// Free pages that are kept, whoever for.
    #[must_use]
    pub fn kept(&self) -> u32 {
        let now = self.kept.iter().map(|kept| self.kept_now(kept));
        now.fold(0, u32::saturating_add)
    }

    /// Free pages that are kept from `guest`.
    #[must_use]
    #[inline]
    pub fn kept_from(&self, guest: GuestId) -> u32 {
        if self.kept.is_empty() {
            return 0;
        }
        let others = self.kept.iter().filter(|kept| kept.holder != guest);
        let now = others.map(|kept| self.kept_now(kept));
        now.fold(0, u32::saturating_add)
    }

    /// Free pages that `guest` can have, those included that are being scrubbed.
    #[must_use]
    #[inline]
    pub fn free_for(&self, guest: GuestId) -> u32 {
        self.counts.free().saturating_sub(self.kept_from(guest))
    }

    /// Those that it can have at this moment.
    #[inline]
    pub(crate) fn available_for(&self, guest: GuestId) -> u32 {
        self.available().saturating_sub(self.kept_from(guest))
    }

    fn kept_now(&self, kept: &Kept) -> u32 {
        let given = kept.giver_pages.saturating_sub(self.counts.of(kept.giver));
        let taken = self.counts.of(kept.taker).saturating_sub(kept.taker_pages);
        given.min(kept.most_pages).saturating_sub(taken)
    }
}
