//! Stage-2 descriptors, VTCR_EL2 and the break-before-make rule: the architecture as pure functions.

use crate::addr::Pa;

/// What kind of memory an entry maps: MemAttr, descriptor bits 5:2 (Arm ARM DDI 0487, D8.6.5,
/// with HCR_EL2.FWB = 0).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Memory {
    /// Normal, inner and outer write-back, read, write, execute: RAM.
    Normal,
    /// Device-nGnRE, read and write.
    Device,
    /// As [`Normal`](Self::Normal) but for execution: memory shared with another guest, which could put
    /// instructions there.
    Shared,
    /// As [`Shared`](Self::Shared), and read only.
    SharedReadOnly,
}

/// One entry of a stage-2 translation table (DDI 0487, D8.3.1 and D8.3.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(transparent)]
pub struct Descriptor(pub u64);

const VALID: u64 = 1 << 0;
/// Levels 1 and 2: a table follows. Level 3: a page.
const TABLE_OR_PAGE: u64 = 1 << 1;
const OUTPUT: u64 = 0x0000_ffff_ffff_f000;

const MEMATTR_NORMAL_WB: u64 = 0b1111 << 2;
const MEMATTR_DEVICE_NGNRE: u64 = 0b0001 << 2;
const S2AP_READ: u64 = 0b01 << 6;
const S2AP_READ_WRITE: u64 = 0b11 << 6;
const SH_INNER: u64 = 0b11 << 8;
pub(super) const AF: u64 = 1 << 10;
const CONTIGUOUS: u64 = 1 << 52;
/// XN[1:0] = 0b10: no execution at EL1 or EL0 (D8.4.6; bit 53 is RES0 without FEAT_XNX).
const XN: u64 = 0b10 << 53;

impl Descriptor {
    /// Invalid: the guest does not own the IPA.
    pub const NOT_OWNED: Self = Self(0);
    /// Invalid: the guest owns the IPA, and the entry is being replaced. The hardware ignores all
    /// bits but bit 0 of an invalid entry; 58:55 are software's in any (D8.3.1).
    pub const IN_TRANSITION: Self = Self(1 << 55);

    /// A level-1 or level-2 entry that points to the table at `table`.
    #[must_use]
    pub const fn table(table: Pa) -> Self {
        Self((table.0 & OUTPUT) | TABLE_OR_PAGE | VALID)
    }

    /// A level-1 or level-2 block at `pa`, aligned to its size.
    #[must_use]
    pub const fn block(pa: Pa, memory: Memory) -> Self {
        Self((pa.0 & OUTPUT) | attributes(memory) | VALID)
    }

    /// A level-3 page at `pa`.
    #[must_use]
    pub const fn page(pa: Pa, memory: Memory) -> Self {
        Self((pa.0 & OUTPUT) | attributes(memory) | TABLE_OR_PAGE | VALID)
    }

    /// Whether the hardware uses it.
    #[must_use]
    pub const fn is_valid(self) -> bool {
        self.0 & VALID != 0
    }

    /// Whether it is a level-1 or level-2 block. Not for level 3.
    #[must_use]
    pub const fn is_block(self) -> bool {
        self.0 & (TABLE_OR_PAGE | VALID) == VALID
    }

    /// Whether it points to a table. Not for level 3.
    #[must_use]
    pub const fn is_table(self) -> bool {
        self.0 & (TABLE_OR_PAGE | VALID) == TABLE_OR_PAGE | VALID
    }

    /// Where it leads.
    #[must_use]
    pub const fn output(self) -> Pa {
        Pa(self.0 & OUTPUT)
    }
}

const fn attributes(memory: Memory) -> u64 {
    match memory {
        Memory::Normal => MEMATTR_NORMAL_WB | S2AP_READ_WRITE | SH_INNER | AF,
        // Device memory is outer shareable whatever SH says.
        Memory::Device => MEMATTR_DEVICE_NGNRE | S2AP_READ_WRITE | AF | XN,
        Memory::Shared => MEMATTR_NORMAL_WB | S2AP_READ_WRITE | SH_INNER | AF | XN,
        Memory::SharedReadOnly => MEMATTR_NORMAL_WB | S2AP_READ | SH_INNER | AF | XN,
    }
}

/// Whether a level-1 or level-2 entry may go from `old` to `new` by one write, without break-before-make
/// (DDI 0487, D8.16.1). What needs the sequence: a change between table and block, of the output
/// address, of the memory type or shareability, or of the Contiguous bit. What does not: from or to an
/// invalid entry, and permissions, AF and software bits.
#[must_use]
pub const fn is_bbm_safe(old: Descriptor, new: Descriptor) -> bool {
    const NEEDS: u64 = TABLE_OR_PAGE | OUTPUT | MEMATTR_NORMAL_WB | SH_INNER | CONTIGUOUS;
    if !old.is_valid() || !new.is_valid() {
        return true;
    }
    (old.0 ^ new.0) & NEEDS == 0
}

/// VTCR_EL2 for a core whose `ID_AA64MMFR0_EL1.PARange` is `pa_range`: 4 KiB granule, start at level 1,
/// walks through inner-shareable write-back memory, 8-bit VMID (DDI 0487, D23.2.224). `None` for a
/// reserved PARange.
///
/// The IPA space is 39 bits, or what the core's PA has if that is less: more would make the start
/// level fault.
#[must_use]
pub const fn vtcr(pa_range: u8) -> Option<u64> {
    const RES1: u64 = 1 << 31;
    const TG0_4K: u64 = 0b00 << 14;
    const SH0_INNER: u64 = 0b11 << 12;
    const ORGN0_WB: u64 = 0b01 << 10;
    const IRGN0_WB: u64 = 0b01 << 8;
    const SL0_LEVEL1: u64 = 0b01 << 6;
    let (ps, pa_bits) = match pa_range {
        0b0000 => (0b000, 32),
        0b0001 => (0b001, 36),
        0b0010 => (0b010, 40),
        0b0011 => (0b011, 42),
        0b0100 => (0b100, 44),
        // 52 bits need a descriptor format of their own with this granule: 48 are used.
        0b0101..=0b0111 => (0b101, 48),
        _ => return None,
    };
    let ipa_bits = if pa_bits < super::IPA_BITS {
        pa_bits
    } else {
        super::IPA_BITS
    };
    let t0sz = (64_u64).wrapping_sub(ipa_bits as u64);
    Some(RES1 | (ps << 16) | TG0_4K | SH0_INNER | ORGN0_WB | IRGN0_WB | SL0_LEVEL1 | t0sz)
}
