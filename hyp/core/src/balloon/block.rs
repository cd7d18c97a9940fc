//! Whole blocks for a guest out of the pool: which ones will do.
//!
//! Any zero block, as a rule. Where IPA = PA it is the one at the address, and a bank, which never moves, gets none
//! that another guest claims.

use super::GuestMemory;
use crate::addr::{PAGES_PER_BLOCK, Pa};
use crate::frames::Pool;
use crate::frames::handover::DirtyRun;

/// What a block is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// RAM of the balloon.
    Ram,
    /// A bank, which never moves: no other guest's claim.
    Bank,
}

impl GuestMemory {
    /// A whole zero block for `ipa_block` out of the pool: the one at that address if IPA = PA.
    #[inline]
    pub(super) fn take_block(&self, pool: &mut Pool, ipa_block: u32, use_for: Use) -> Option<Pa> {
        match (self.home_block(ipa_block, use_for), use_for) {
            (Some(pa), _) => pool.take_block_at(pa, self.guest(), ipa_block),
            (None, Use::Ram) => pool.take_zero_block(self.guest(), ipa_block),
            (None, Use::Bank) => {
                let pa = pool.take_unclaimed_block(self.guest(), ipa_block)?;
                pool.set_beside(self.guest(), PAGES_PER_BLOCK as u32);
                Some(pa)
            }
        }
    }

    /// The one block that can be it, if there is only one.
    pub(super) const fn home_block(&self, ipa_block: u32, use_for: Use) -> Option<Pa> {
        match use_for {
            Use::Ram if self.config.identity => Some(Pa::from_block(ipa_block as u64)),
            _ => None,
        }
    }

    /// Whether a block that [`GuestMemory::take_block`] could give waits to be scrubbed.
    pub(super) fn has_dirty_block(&self, pool: &Pool, ipa_block: u32, use_for: Use) -> bool {
        match (self.home_block(ipa_block, use_for), use_for) {
            (Some(pa), _) => pool.is_dirty_block(pa),
            (None, Use::Ram) => pool.has_dirty_block(self.guest()),
            (None, Use::Bank) => pool.has_unclaimed_dirty(),
        }
    }

    /// Claims up to `most` frames of such a block to scrub them.
    pub(super) fn claim_dirty_block(
        &self,
        pool: &mut Pool,
        ipa_block: u32,
        use_for: Use,
        most: u16,
    ) -> Option<DirtyRun> {
        match self.home_block(ipa_block, use_for) {
            Some(pa) => pool.claim_dirty_block_at(pa, most),
            None => pool.claim_dirty_block(most),
        }
    }
}
