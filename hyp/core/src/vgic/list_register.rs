//! List registers: how a virtual interrupt is handed to the hardware.

/// State field of a list register; the encoding is the same in GICv2 and GICv3.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u8)]
pub enum LrState {
    /// Empty.
    #[default]
    Invalid = 0,
    /// Offered to the guest, not acknowledged yet.
    Pending = 1,
    /// Acknowledged, not deactivated yet.
    Active = 2,
    /// Active, and to be taken once more.
    PendingActive = 3,
}

/// Interrupt group (IHI 0048B.b 2.3.2, IHI 0069 4.6): a guest without EL3 has both.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Group {
    /// Signalled as FIQ if the guest wants that.
    Zero,
    /// Signalled as IRQ.
    One,
}

impl LrState {
    const fn from_bits(bits: u64) -> Self {
        match bits & 3 {
            0 => Self::Invalid,
            1 => Self::Pending,
            2 => Self::Active,
            _ => Self::PendingActive,
        }
    }

    /// Whether the pending bit is set.
    #[must_use]
    pub const fn is_pending(self) -> bool {
        self as u8 & 1 != 0
    }

    /// Whether the active bit is set.
    #[must_use]
    pub const fn is_active(self) -> bool {
        self as u8 & 2 != 0
    }

    /// The same state made pending.
    #[must_use]
    pub const fn with_pending(self) -> Self {
        if self.is_active() {
            Self::PendingActive
        } else {
            Self::Pending
        }
    }

    /// The same state without the pending bit.
    #[must_use]
    pub const fn without_pending(self) -> Self {
        if self.is_active() {
            Self::Active
        } else {
            Self::Invalid
        }
    }

    /// The same state without the active bit.
    #[must_use]
    pub const fn without_active(self) -> Self {
        if self.is_pending() {
            Self::Pending
        } else {
            Self::Invalid
        }
    }
}

/// What the guest's deactivation of the interrupt does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Link {
    /// It deactivates this physical interrupt too (the HW bit).
    Physical(u16),
    /// Nothing but, if `eoi`, raising the maintenance interrupt.
    Software {
        /// The sending CPU interface of a GICv2 SGI, else 0.
        source: u8,
        /// Whether deactivation raises the maintenance interrupt.
        eoi: bool,
    },
}

impl Link {
    const NONE: Self = Self::Software {
        source: 0,
        eoi: false,
    };
}

/// One list register, in GICv3's layout (`ICH_LR<n>_EL2`, IHI 0069 12.4.5) whatever the version, so
/// that it is made and judged in a register. A GICv2 SGI's source stands in the low bits of pINTID,
/// as GICv2 has it.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct ListRegister(u64);

const STATE_SHIFT: u32 = 62;
const HW: u64 = 1 << 61;
const GROUP1: u64 = 1 << 60;
const PRIORITY_SHIFT: u32 = 48;
const EOI: u64 = 1 << 41;
const PINTID_SHIFT: u32 = 32;
const PINTID: u64 = 0x1fff << PINTID_SHIFT;

impl ListRegister {
    /// An empty list register.
    pub const EMPTY: Self = Self(0);

    /// A pending interrupt: virtual INTID, priority (0 highest; the low three bits do not exist),
    /// group, and what its deactivation does.
    #[inline]
    #[must_use]
    pub const fn pending(intid: u8, priority: u8, group: Group, link: Link) -> Self {
        let link = match link {
            Link::Physical(pintid) => HW | (pintid as u64) << PINTID_SHIFT & PINTID,
            Link::Software { source, eoi } => {
                if_set(eoi, EOI) | (source as u64 & 7) << PINTID_SHIFT
            }
        };
        let group = match group {
            Group::Zero => 0,
            Group::One => GROUP1,
        };
        Self(1 << STATE_SHIFT | link | group | (priority as u64) << PRIORITY_SHIFT | intid as u64)
    }

    /// Virtual INTID.
    #[must_use]
    pub const fn intid(self) -> u8 {
        self.0.to_le_bytes()[0]
    }

    /// Priority.
    #[must_use]
    pub const fn priority(self) -> u8 {
        self.0.to_le_bytes()[6]
    }

    /// Group.
    #[must_use]
    pub const fn group(self) -> Group {
        if self.0 & GROUP1 != 0 {
            Group::One
        } else {
            Group::Zero
        }
    }

    /// Pending, active, both or empty.
    #[must_use]
    pub const fn state(self) -> LrState {
        LrState::from_bits(self.0 >> STATE_SHIFT)
    }

    /// What deactivation does.
    #[must_use]
    pub const fn link(self) -> Link {
        let [.., low, high, _, _] = (self.0 & PINTID).to_le_bytes();
        if self.0 & HW != 0 {
            Link::Physical(u16::from_le_bytes([low, high]))
        } else {
            Link::Software {
                source: low & 7,
                eoi: self.0 & EOI != 0,
            }
        }
    }

    /// The same in another state.
    #[must_use]
    pub const fn with_state(self, state: LrState) -> Self {
        Self(self.0 & !(3 << STATE_SHIFT) | (state as u64) << STATE_SHIFT)
    }

    /// The same with another priority and group.
    #[must_use]
    pub const fn with_urgency(self, priority: u8, group: Group) -> Self {
        let kept = self.0 & !(0xff << PRIORITY_SHIFT | GROUP1);
        Self(kept | Self::pending(0, priority, group, Link::NONE).0 & !(3 << STATE_SHIFT))
    }

    /// The same with the end told or not. Only for one that is not linked.
    #[must_use]
    pub const fn with_eoi(self, eoi: bool) -> Self {
        Self(self.0 & !EOI | if_set(eoi, EOI))
    }

    /// As `ICH_LR<n>_EL2`.
    #[inline]
    #[must_use]
    pub const fn to_v3(self) -> u64 {
        self.0
    }

    /// From `ICH_LR<n>_EL2`.
    #[inline]
    #[must_use]
    pub const fn from_v3(raw: u64) -> Self {
        Self(raw)
    }

    /// As `GICH_LR<n>` (IHI 0048B.b, 5.3.9): pINTID, or the source and the EOI bit, are ten bits
    /// from bit 10 on.
    #[inline]
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "fields of less than 32 bits"
    )]
    pub const fn to_v2(self) -> u32 {
        let raw = self.0;
        ((raw & HW) >> 30
            | (raw & GROUP1) >> 30
            | raw >> STATE_SHIFT << 28
            | (raw >> 51 & 0x1f) << 23
            | (raw >> PINTID_SHIFT & 0x3ff) << 10
            | raw & 0xff) as u32
    }

    /// From `GICH_LR<n>`.
    #[inline]
    #[must_use]
    pub const fn from_v2(raw: u32) -> Self {
        let raw = raw as u64;
        Self(
            raw << 30 & (HW | GROUP1)
                | (raw >> 28 & 3) << STATE_SHIFT
                | (raw >> 23 & 0x1f) << 51
                | (raw >> 10 & 0x3ff) << PINTID_SHIFT
                | raw & 0xff,
        )
    }
}

impl core::fmt::Debug for ListRegister {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let (intid, priority) = (self.intid(), self.priority());
        write!(
            f,
            "{intid} {:?} priority {priority:#x} {:?} {:?}",
            self.state(),
            self.group(),
            self.link()
        )
    }
}

/// `mask` if `set`, without a branch.
const fn if_set(set: bool, mask: u64) -> u64 {
    (set as u64).wrapping_neg() & mask
}
