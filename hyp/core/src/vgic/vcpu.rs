//! What is kept per vCPU besides its private bank: its list registers, and what there is to do for it.
//!
//! Other cores cannot look at its list registers. What they need to know of those was noted here when they were last
//! seen, and what they want done is left in [`Due`].

use super::bank::BANK;
use super::host::Maintenance;
use super::state::WORDS;
use super::{IntId, MAX_LIST_REGISTERS};

/// What is kept per vCPU besides its private bank.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(super) struct Vcpu {
    /// The list registers that were given an interrupt, and what is known of them.
    pub lrs: Lrs,
    /// What there is to do besides what is pending.
    pub due: Due,
    /// As last set.
    pub maintenance: Maintenance,
    /// The list register each SGI and PPI was last put into.
    pub private_lr: [u8; BANK],
    /// GICv2: pending SGIs by sending vCPU, one bit each.
    pub sources: [u8; 16],
    /// The interrupt each list register was last given.
    pub lr: [u8; MAX_LIST_REGISTERS as usize],
    /// SPIs whose target this vCPU is, by bank.
    pub routed: [u32; WORDS],
}

impl Vcpu {
    /// Who has sent SGI `id` (GICv2), one bit each.
    #[inline]
    #[expect(clippy::indexing_slicing, reason = "masked to the 16 there are")]
    pub const fn sources_of(&self, id: IntId) -> u8 {
        self.sources[id.0 as usize & 15]
    }
}

/// A set of what is to be done for a vCPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Due(u8);

impl Due {
    /// The list registers' contents may contradict the state: look at each.
    pub const RECONCILE: Self = Self(1);
    /// Something waits in software for a list register or for the end of what is in one.
    pub const BACKLOG: Self = Self(2);
    /// Enables of linked PPIs were changed by another vCPU.
    pub const PPIS: Self = Self(4);
    /// The first two: no list register may be given what it had before.
    pub const LIST_REGISTERS: Self = Self(3);

    /// Nothing.
    #[inline]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Any of `those`.
    #[inline]
    pub const fn has(self, those: Self) -> bool {
        self.0 & those.0 != 0
    }

    pub const fn add(&mut self, those: Self) {
        self.0 |= those.0;
    }

    /// Takes `those` out. Whether there were any.
    pub const fn take(&mut self, those: Self) -> bool {
        let had = self.has(those);
        self.0 &= !those.0;
        had
    }
}

/// Sets of a vCPU's list registers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lrs {
    /// Given an interrupt.
    pub used: u8,
    /// Of those, the ones whose pending bit came from a latch and not from a level alone.
    pub latched: u8,
    /// Pending when last seen, for reads by other vCPUs.
    pub seen_pending: u8,
    /// Active when last seen.
    pub seen_active: u8,
}

impl Vcpu {
    pub const RESET: Self = Self {
        lrs: Lrs {
            used: 0,
            latched: 0,
            seen_pending: 0,
            seen_active: 0,
        },
        due: Due(0),
        maintenance: Maintenance {
            underflow: false,
            no_pending: false,
        },
        private_lr: [0; BANK],
        sources: [0; 16],
        lr: [0; MAX_LIST_REGISTERS as usize],
        routed: [0; WORDS],
    };
}
