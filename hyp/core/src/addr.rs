//! Physical and intermediate physical addresses as types that cannot be mixed up, and the sizes of
//! the 4 KiB translation granule (Arm ARM DDI 0487, D8.2.5).

use core::fmt;

/// log2 of the translation granule.
pub const PAGE_SHIFT: u32 = 12;
/// Bytes in a page: the translation granule and the unit of ownership.
pub const PAGE_SIZE: u64 = 1 << PAGE_SHIFT;
/// log2 of a level-2 block.
pub const BLOCK_SHIFT: u32 = 21;
/// Bytes in a level-2 block: 2 MiB.
pub const BLOCK_SIZE: u64 = 1 << BLOCK_SHIFT;
/// Pages in a level-2 block, and entries in any translation table.
pub const PAGES_PER_BLOCK: usize = 512;
/// Bytes in a level-1 block: 1 GiB.
pub const GIB: u64 = 1 << 30;
/// Bytes in a MiB.
pub const MIB: u64 = 1 << 20;

macro_rules! address {
    ($(#[$doc:meta])* $name:ident, $tag:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        #[repr(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// The page number: the address without its offset in the page.
            #[must_use]
            pub const fn page(self) -> u64 {
                self.0 >> PAGE_SHIFT
            }

            /// The address of page `number` (any bits shifted out at the top are lost).
            #[must_use]
            pub const fn from_page(number: u64) -> Self {
                Self(number << PAGE_SHIFT)
            }

            /// The number of the 2 MiB block the address lies in.
            #[must_use]
            pub const fn block(self) -> u64 {
                self.0 >> BLOCK_SHIFT
            }

            /// The address of 2 MiB block `number`.
            #[must_use]
            pub const fn from_block(number: u64) -> Self {
                Self(number << BLOCK_SHIFT)
            }

            /// Rounded down to a multiple of `align`, a power of two.
            #[must_use]
            pub const fn align_down(self, align: u64) -> Self {
                Self(self.0 & !align.wrapping_sub(1))
            }

            /// Rounded up to a multiple of `align`, a power of two; `None` past 2^64.
            #[must_use]
            pub const fn align_up(self, align: u64) -> Option<Self> {
                let mask = align.wrapping_sub(1);
                match self.0.checked_add(mask) {
                    Some(sum) => Some(Self(sum & !mask)),
                    None => None,
                }
            }

            /// Whether the address is a multiple of `align`, a power of two.
            #[must_use]
            pub const fn is_aligned(self, align: u64) -> bool {
                self.0 & align.wrapping_sub(1) == 0
            }

            /// The address `bytes` further on; `None` past 2^64.
            #[must_use]
            pub const fn checked_add(self, bytes: u64) -> Option<Self> {
                match self.0.checked_add(bytes) {
                    Some(sum) => Some(Self(sum)),
                    None => None,
                }
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($tag, " {:#x}"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }
    };
}

address!(
    /// A physical address: what the memory system sees.
    Pa,
    "PA"
);
address!(
    /// An intermediate physical address: what a guest believes is physical; stage 2 translates it.
    Ipa,
    "IPA"
);

/// A range of physical memory, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PaRange {
    /// First byte.
    pub start: Pa,
    /// Length in bytes.
    pub size: u64,
}

impl PaRange {
    /// The first byte past the range, saturating at 2^64 - 1.
    #[must_use]
    pub const fn end(self) -> Pa {
        Pa(self.start.0.saturating_add(self.size))
    }

    /// Whether the two ranges share a byte.
    #[must_use]
    pub const fn overlaps(self, other: Self) -> bool {
        self.start.0 < other.end().0 && other.start.0 < self.end().0
    }
}

/// A range of a guest's physical address space, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct IpaRange {
    /// First byte.
    pub start: Ipa,
    /// Length in bytes.
    pub size: u64,
}

impl IpaRange {
    /// The first byte past the range, saturating at 2^64 - 1.
    #[must_use]
    pub const fn end(self) -> Ipa {
        Ipa(self.start.0.saturating_add(self.size))
    }

    /// Whether the two ranges share a byte.
    #[must_use]
    pub const fn overlaps(self, other: Self) -> bool {
        self.start.0 < other.end().0 && other.start.0 < self.end().0
    }

    /// How far into the range `ipa` lies; `None` outside of it.
    #[inline]
    #[must_use]
    pub const fn offset_of(self, ipa: Ipa) -> Option<u64> {
        let offset = ipa.0.wrapping_sub(self.start.0);
        if offset < self.size {
            Some(offset)
        } else {
            None
        }
    }

    /// Whether all of `other` lies within this range.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.start.0 <= other.start.0 && other.end().0 <= self.end().0
    }
}
