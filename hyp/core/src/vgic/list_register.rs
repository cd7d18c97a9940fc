//! List registers: how a virtual interrupt is handed to the hardware, and the trait through which
//! the model reaches the physical interrupt controller of the core it runs on.

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

/// One list register, free of the GIC version's encoding.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ListRegister {
    /// Virtual INTID.
    pub intid: u8,
    /// Priority, 0 highest; the low three bits do not exist.
    pub priority: u8,
    /// Group 1 rather than group 0.
    pub group1: bool,
    /// Pending, active, both or empty.
    pub state: LrState,
    /// What deactivation does.
    pub link: Link,
}

impl ListRegister {
    /// An empty list register; encodes as zero.
    pub const EMPTY: Self = Self {
        intid: 0,
        priority: 0,
        group1: false,
        state: LrState::Invalid,
        link: Link::Software {
            source: 0,
            eoi: false,
        },
    };

    /// As `GICH_LR<n>` (IHI 0048B.b, 5.3.9).
    #[inline]
    #[must_use]
    pub const fn to_v2(self) -> u32 {
        let link = match self.link {
            Link::Physical(pintid) => 1 << 31 | (pintid as u32 & 0x3ff) << 10,
            Link::Software { source, eoi } => (eoi as u32) << 19 | (source as u32 & 7) << 10,
        };
        link | (self.group1 as u32) << 30
            | (self.state as u32) << 28
            | (self.priority as u32 >> 3) << 23
            | self.intid as u32
    }

    /// From `GICH_LR<n>`.
    #[inline]
    #[must_use]
    pub const fn from_v2(raw: u32) -> Self {
        let link = if raw >> 31 != 0 {
            Link::Physical((raw >> 10 & 0x3ff) as u16)
        } else {
            Link::Software {
                source: (raw >> 10 & 7) as u8,
                eoi: raw >> 19 & 1 != 0,
            }
        };
        Self {
            intid: (raw & 0xff) as u8,
            priority: (raw >> 20 & 0xf8) as u8,
            group1: raw >> 30 & 1 != 0,
            state: LrState::from_bits(raw as u64 >> 28),
            link,
        }
    }

    /// As `ICH_LR<n>_EL2` (IHI 0069, 12.4.5). The source has no place there: GICv3 SGIs have none.
    #[inline]
    #[must_use]
    pub const fn to_v3(self) -> u64 {
        let link = match self.link {
            Link::Physical(pintid) => 1 << 61 | (pintid as u64 & 0x1fff) << 32,
            Link::Software { eoi, .. } => (eoi as u64) << 41,
        };
        link | (self.state as u64) << 62
            | (self.group1 as u64) << 60
            | (self.priority as u64) << 48
            | self.intid as u64
    }

    /// From `ICH_LR<n>_EL2`.
    #[inline]
    #[must_use]
    pub const fn from_v3(raw: u64) -> Self {
        let link = if raw >> 61 & 1 != 0 {
            Link::Physical((raw >> 32 & 0x1fff) as u16)
        } else {
            Link::Software {
                source: 0,
                eoi: raw >> 41 & 1 != 0,
            }
        };
        Self {
            intid: (raw & 0xff) as u8,
            priority: (raw >> 48 & 0xff) as u8,
            group1: raw >> 60 & 1 != 0,
            state: LrState::from_bits(raw >> 62),
            link,
        }
    }
}

/// The maintenance interrupts wanted besides those of single list registers (`GICH_HCR`,
/// `ICH_HCR_EL2`). Both bits have the same place in the two versions.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Maintenance {
    /// UIE, bit 1: at most one list register holds a valid interrupt.
    pub underflow: bool,
    /// NPIE, bit 3: no list register is pending.
    pub no_pending: bool,
}

impl Maintenance {
    /// The control register's value with the virtual interface enabled (En, bit 0).
    #[must_use]
    pub const fn to_hcr(self) -> u32 {
        1 | (self.underflow as u32) << 1 | (self.no_pending as u32) << 3
    }
}

/// How a physical SPI is triggered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trigger {
    /// While the line is high.
    Level,
    /// When the line rises.
    Edge,
}

/// The physical interrupt controller as the core that runs the calling vCPU reaches it: its own
/// list registers, its own PPIs, and the SPIs that are linked to the guest.
///
/// Implemented by the shell. Every call is made with the guest's interrupt-controller lock held, so
/// that two vCPUs' changes of one SPI reach the hardware in the order in which they were decided;
/// none may wait for more than a register access.
pub trait HostGic {
    /// List registers this core has, 1 to 16.
    fn list_registers(&self) -> u32;
    /// Which list registers are free: `GICH_ELRSR0` or `ICH_ELRSR_EL2`.
    fn empty(&self) -> u32;
    /// Which hold an interrupt whose end was asked to be told: `GICH_EISR0` or `ICH_EISR_EL2`.
    fn ended(&self) -> u32;
    /// Reads list register `n`.
    fn read_lr(&self, n: u32) -> ListRegister;
    /// Writes list register `n`.
    fn write_lr(&mut self, n: u32, value: ListRegister);
    /// Chooses the maintenance interrupts.
    fn set_maintenance(&mut self, wanted: Maintenance);

    /// Lets physical interrupt `pintid` (PPIs: of this core) through.
    fn enable(&mut self, pintid: u16);
    /// Holds it back.
    fn disable(&mut self, pintid: u16);
    /// Sets its pending latch.
    fn pend(&mut self, pintid: u16);
    /// Clears its pending latch.
    fn unpend(&mut self, pintid: u16);
    /// Whether it is pending.
    fn is_pending(&self, pintid: u16) -> bool;
    /// Ends its active state, which the guest will not do any more.
    fn deactivate(&mut self, pintid: u16);
    /// Routes an SPI to the core that runs `vcpu` of this guest.
    fn route(&mut self, pintid: u16, vcpu: usize);
    /// Sets an SPI's trigger; it is disabled while this is called.
    fn set_trigger(&mut self, pintid: u16, trigger: Trigger);
}
