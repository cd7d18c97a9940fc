//! The state of 32 interrupts, one bit each, so that a register access is a word operation.

use super::list_register::Group;

/// Interrupts in a bank.
pub const BANK: usize = 32;

/// Priority bits that exist: five, as in every virtual CPU interface Ballast meets (`GICH_LR` has
/// room for no more, IHI 0048B.b 5.3.9).
pub const PRIORITY_MASK: u32 = 0xf8f8_f8f8;

/// State of 32 consecutive INTIDs: one vCPU's SGIs and PPIs, or 32 SPIs. One cache line.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct Bank {
    /// May be offered when pending: enabled, its group forwarded, not active in `cold`.
    pub open: u32,
    /// ISENABLER.
    pub enabled: u32,
    /// Pending latch: an edge, an SGI, a write to ISPENDR; for a linked interrupt, one that the
    /// physical interrupt left behind (which is then physically active).
    pub pending: u32,
    /// In some vCPU's list register (or was, until that vCPU's core looks again).
    pub in_lr: u32,
    /// Linked to a physical interrupt.
    pub linked: u32,
    /// Group 1 rather than group 0.
    pub group: u32,
    /// Emulated line is high.
    pub level: u32,
    /// Edge-triggered rather than level-sensitive.
    pub edge: u32,
    /// Priorities, a byte each.
    pub priority: [u32; BANK / 4],
}

const _: () = assert!(size_of::<Bank>() == 64);

/// What is seldom looked at of the same interrupts.
#[derive(Clone, Copy, Debug)]
pub struct Cold {
    /// Active without being in a list register (only a write to ISACTIVER does that).
    pub active: u32,
    /// In a list register whose pending bit has been cleared by another vCPU.
    pub cancel_pending: u32,
    /// In a list register whose active bit has been cleared by another vCPU.
    pub cancel_active: u32,
    /// To be offered when pending, if enabled: its group is forwarded, and it is not active in `active`.
    pub passes: u32,
}

impl Cold {
    /// Nothing of all this.
    pub const RESET: Self = Self {
        active: 0,
        cancel_pending: 0,
        cancel_active: 0,
        passes: 0,
    };
}

impl Bank {
    /// As after reset: all off, level-sensitive, group 0, highest priority.
    pub const RESET: Self = Self {
        open: 0,
        enabled: 0,
        pending: 0,
        in_lr: 0,
        linked: 0,
        group: 0,
        level: 0,
        edge: 0,
        priority: [0; BANK / 4],
    };

    /// Pending by latch or by level.
    #[inline]
    pub const fn asserted(&self) -> u32 {
        self.pending | (self.level & !self.edge)
    }

    /// Pending and to be offered to somebody.
    #[inline]
    pub const fn ready(&self) -> u32 {
        self.asserted() & self.open & !self.in_lr
    }

    /// Priority word `index` (modulo 8): four interrupts.
    #[inline]
    #[expect(
        clippy::indexing_slicing,
        reason = "the index is masked to the array's length"
    )]
    pub const fn priorities(&self, index: u32) -> u32 {
        self.priority[index as usize & 7]
    }

    /// Replaces the bits of `mask` in priority word `index` (modulo 8).
    #[inline]
    #[expect(
        clippy::indexing_slicing,
        reason = "the index is masked to the array's length"
    )]
    pub const fn set_priorities(&mut self, index: u32, mask: u32, value: u32) {
        let word = &mut self.priority[index as usize & 7];
        *word = (*word & !mask) | (value & mask & PRIORITY_MASK);
    }

    /// Priority of the interrupt with bit number `bit` (modulo 32).
    #[inline]
    pub const fn priority_of(&self, bit: u32) -> u8 {
        let [priority, ..] = self
            .priorities(bit >> 2)
            .wrapping_shr((bit & 3) << 3)
            .to_le_bytes();
        priority
    }

    /// Group of the interrupt with this `mask`.
    #[inline]
    pub const fn group_of(&self, mask: u32) -> Group {
        if self.group & mask != 0 {
            Group::One
        } else {
            Group::Zero
        }
    }
}

/// The numbers of the set bits of a word, lowest first.
#[derive(Clone, Copy)]
pub struct Bits(pub u32);

impl Iterator for Bits {
    type Item = u32;

    #[inline]
    fn next(&mut self) -> Option<u32> {
        if self.0 == 0 {
            return None;
        }
        let lowest = self.0.trailing_zeros();
        self.0 &= self.0.wrapping_sub(1);
        Some(lowest)
    }
}

/// A word with only bit `n` (modulo 32) set.
#[inline]
pub const fn bit(n: u32) -> u32 {
    1_u32.wrapping_shl(n)
}
