//! The access flag of RAM: cleared to hear of the next access, set again by whoever hears of it.
//!
//! No core the project runs on has a hardware-managed access flag that could be read (Cortex-A72:
//! ID_AA64MMFR1_EL1.HAFDBS = 0), so an access to an entry without it faults (DDI 0487, D8.5.1). To change
//! the flag alone is no break-before-make (D8.16.1). An entry without it is in no TLB, so setting it needs no
//! invalidation; clearing it does.

use core::sync::atomic::Ordering;

use super::{Descriptor, Stage2, load};
use crate::addr::Ipa;

/// What a level-2 entry says of an access for which the flag was clear.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Accessed {
    /// The first to a block that was watched in this round.
    First,
    /// Nothing to do: the entry has changed, or another core was first. The access is done again.
    Again,
    /// It is for the level-3 table to say.
    Table,
}

impl Stage2 {
    /// Clears the flag of the block entry at `ipa_block`. False if that is none, or is watched in this round already.
    pub(crate) fn watch_block(&self, ipa_block: u32, round: u8) -> bool {
        let Some(slot) = self.ram_slot(ipa_block) else {
            return false;
        };
        let old = load(slot);
        if !old.is_block() || old.is_watched_in(round) {
            return false;
        }
        let new = old.watched(round).0;
        let changed = slot.compare_exchange(old.0, new, Ordering::AcqRel, Ordering::Relaxed);
        changed.is_ok()
    }

    /// There was an access at `ipa` and the flag was clear. Takes no lock: whatever the holder of the transaction
    /// makes of the entry at the same time stands.
    pub(crate) fn access(&self, ipa: Ipa, round: u8) -> Accessed {
        let Some(slot) = self.level2(ipa) else {
            return Accessed::Again;
        };
        let old = load(slot);
        if old.is_table() {
            return Accessed::Table;
        }
        if !old.is_block() || old.is_accessed() {
            return Accessed::Again;
        }
        let new = old.accessed().0;
        let changed = slot.compare_exchange(old.0, new, Ordering::AcqRel, Ordering::Relaxed);
        if changed.is_ok() && old.is_watched_in(round) {
            Accessed::First
        } else {
            Accessed::Again
        }
    }

    /// Whether an access at `ipa` faults for its flag.
    #[cfg(test)]
    pub(crate) fn is_watched(
        &self,
        window: &mut impl crate::balloon::hw::Window,
        ipa: Ipa,
    ) -> bool {
        let Some(entry) = self.level2(ipa).map(load) else {
            return false;
        };
        let entry = if entry.is_table() {
            self.level3(window, entry, ipa)
        } else {
            entry
        };
        entry.is_valid() && !entry.is_accessed()
    }
}

impl Descriptor {
    /// Whether an access faults no more for its flag.
    pub(crate) const fn is_accessed(self) -> bool {
        self.0 & super::descriptor::AF != 0
    }

    /// The same entry without the flag, from round number `round` on, `0..ROUNDS`.
    pub(crate) const fn watched(self, round: u8) -> Self {
        Self(
            self.accessed().0 & !super::descriptor::AF | (round as u64 & ROUND_MASK) << ROUND_SHIFT,
        )
    }

    /// The same entry with the flag.
    pub(crate) const fn accessed(self) -> Self {
        Self(self.0 & !(ROUND_MASK << ROUND_SHIFT) | super::descriptor::AF)
    }

    /// Whether the flag was cleared in this round.
    pub(crate) const fn is_watched_in(self, round: u8) -> bool {
        !self.is_accessed() && self.0 >> ROUND_SHIFT & ROUND_MASK == round as u64 & ROUND_MASK
    }
}

/// How many rounds an entry can tell apart.
pub(crate) const ROUNDS: u8 = 8;
/// Bits 58:56 are software's (D8.3.1).
const ROUND_SHIFT: u32 = 56;
const ROUND_MASK: u64 = ROUNDS as u64 - 1;
