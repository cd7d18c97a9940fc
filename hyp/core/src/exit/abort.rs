//! Stage-2 aborts: the access, its address and what went wrong.

use super::Register;
use crate::addr::Ipa;

/// Size of a memory access.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Width {
    /// 1 byte.
    Byte = 0,
    /// 2 bytes.
    Half = 1,
    /// 4 bytes.
    Word = 2,
    /// 8 bytes.
    Double = 3,
}

impl Width {
    const fn from_bits(sas: u64) -> Self {
        match sas & 3 {
            0 => Self::Byte,
            1 => Self::Half,
            2 => Self::Word,
            _ => Self::Double,
        }
    }

    /// Bytes.
    #[inline]
    #[must_use]
    pub const fn bytes(self) -> u64 {
        1 << self as u8
    }

    /// `value` without what lies above this size.
    #[inline]
    #[must_use]
    pub const fn truncate(self, value: u64) -> u64 {
        match self {
            Self::Byte => value & 0xff,
            Self::Half => value & 0xffff,
            Self::Word => value & 0xffff_ffff,
            Self::Double => value,
        }
    }

    /// `value`, of this size, sign-extended to 64 bits.
    #[inline]
    #[must_use]
    pub const fn sign_extend(self, value: u64) -> u64 {
        let shift = match self {
            Self::Byte => 56,
            Self::Half => 48,
            Self::Word => 32,
            Self::Double => 0,
        };
        (value.cast_signed() << shift >> shift).cast_unsigned()
    }
}

/// What kind of fault an abort's status code (DFSC, IFSC) names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AccessFault {
    /// Beyond the IPA size.
    AddressSize,
    /// No valid stage-2 entry.
    Translation,
    /// Access flag clear: Ballast watches the entry ([`crate::balloon::sample`]).
    AccessFlag,
    /// The entry forbids this access, or a table walk hit a Device page (`HCR_EL2.PTW`).
    Permission,
    /// The memory system answered with an error: not a translation fault at all.
    External,
    /// Unaligned access to Device memory, a TLB conflict, an unsupported atomic, ...
    Other,
}

/// `ESR_EL2` of a data or instruction abort from a lower level.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Abort(pub u64);

impl Abort {
    const fn bit(self, n: u32) -> bool {
        self.0.wrapping_shr(n) & 1 != 0
    }

    /// The status code, DFSC or IFSC (bits 5:0).
    #[inline]
    #[must_use]
    pub const fn status_code(self) -> u64 {
        self.0 & 0x3f
    }

    /// What kind of fault it is, whatever the level.
    #[inline]
    #[must_use]
    pub const fn fault(self) -> AccessFault {
        match self.status_code() {
            0x00..=0x03 | 0x29 | 0x2c => AccessFault::AddressSize,
            0x04..=0x07 | 0x2a | 0x2b => AccessFault::Translation,
            0x08..=0x0b => AccessFault::AccessFlag,
            0x0c..=0x0f => AccessFault::Permission,
            0x10 | 0x13..=0x1f => AccessFault::External,
            _ => AccessFault::Other,
        }
    }

    /// [`AccessFault::Translation`] at one of the levels 0 to 3, the only ones that stage 2 has here.
    #[inline]
    #[must_use]
    pub const fn is_translation(self) -> bool {
        self.0 & 0x3c == 0x04
    }

    /// S1PTW: the fault is of a stage-1 table walk, so the address is a descriptor's and there is
    /// nothing to emulate.
    #[inline]
    #[must_use]
    pub const fn is_table_walk(self) -> bool {
        self.bit(7)
    }

    /// FnV: `FAR_EL2` is not valid (external aborts only).
    #[inline]
    #[must_use]
    pub const fn far_is_invalid(self) -> bool {
        self.bit(10)
    }

    /// CM: cache maintenance or address translation instruction.
    #[inline]
    #[must_use]
    pub const fn is_cache_maintenance(self) -> bool {
        self.bit(8)
    }

    /// WnR. Also set for cache maintenance; undefined for a table walk.
    #[inline]
    #[must_use]
    pub const fn is_write(self) -> bool {
        self.bit(6)
    }

    /// The faulting IPA, from `HPFAR_EL2` (bits 43:4 are IPA bits 51:12) and `FAR_EL2`. For a table
    /// walk only the page is known. Not valid for external aborts, nor for permission faults that
    /// are not of a table walk: those of the guest's own pages have to be translated first
    /// (`AT S1E1R`).
    #[inline]
    #[must_use]
    pub const fn ipa(hpfar_el2: u64, far_el2: u64) -> Ipa {
        Ipa((hpfar_el2 & 0x0fff_ffff_fff0) << 8 | far_el2 & 0xfff)
    }

    /// The access as emulation needs it; `None` unless the syndrome is valid (ISV) and it is a
    /// plain load or store. Loads and stores of pairs, with write-back, of vectors, exclusives,
    /// atomics and cache maintenance have none: they are aborted.
    #[inline]
    #[must_use]
    pub const fn access(self) -> Option<DataAccess> {
        // ISV set, and neither CM nor S1PTW.
        if self.0 & (1 << 24 | 1 << 8 | 1 << 7) == 1 << 24 {
            Some(DataAccess(self.0))
        } else {
            None
        }
    }
}

/// A load or store of one general-purpose register, from a valid syndrome.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DataAccess(u64);

impl DataAccess {
    /// The syndrome that it was decoded from.
    #[inline]
    #[must_use]
    pub const fn abort(self) -> Abort {
        Abort(self.0)
    }

    /// SAS.
    #[inline]
    #[must_use]
    pub const fn width(self) -> Width {
        Width::from_bits(self.0 >> 22)
    }

    /// SRT: the register loaded or stored, 31 for the zero register.
    #[inline]
    #[must_use]
    pub const fn register(self) -> Register {
        (self.0 >> 16 & 31).to_le_bytes()[0]
    }

    /// WnR.
    #[inline]
    #[must_use]
    pub const fn is_write(self) -> bool {
        self.0 >> 6 & 1 != 0
    }

    /// What a store of a register that holds `register` puts on the bus.
    #[inline]
    #[must_use]
    pub const fn stored(self, register: u64) -> u64 {
        self.width().truncate(register)
    }

    /// What a load leaves in the register if the device answers `value`: truncated to the access,
    /// sign-extended if the instruction does (SSE), to 32 bits for a W register (SF clear).
    // On the path of every emulated load, where a call makes the caller save what it holds.
    #[inline(always)]
    #[must_use]
    pub const fn loaded(self, value: u64) -> u64 {
        let value = self.width().truncate(value);
        if self.0 >> 21 & 1 == 0 {
            return value;
        }
        let extended = self.width().sign_extend(value);
        if self.0 >> 15 & 1 != 0 {
            extended
        } else {
            extended & 0xffff_ffff
        }
    }
}
