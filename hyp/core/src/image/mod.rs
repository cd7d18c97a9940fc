//! What a guest's kernel file is, and where it, the ramdisk and the device tree go in the guest.
//!
//! Works on the file's bytes and on address arithmetic only; the copying is the shell's. All of it
//! happens before a guest starts, and again at each reset from the same pristine file.

mod elf;
mod format;
mod place;
#[cfg(test)]
mod tests;

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;

pub use place::{BOARD_DTB_SLOT_BYTES, DTB_SLOT_BYTES, DtbSlot, Memory, Placement, place};

use crate::addr::{Ipa, IpaRange};

/// One piece of a kernel: bytes of the file, then zeros.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Segment {
    /// Where it goes.
    pub ipa: Ipa,
    /// Which bytes of the file.
    pub source: Range<usize>,
    /// Bytes to be zero behind them.
    pub zero_fill: u64,
}

impl Segment {
    /// What it occupies.
    #[must_use]
    pub fn range(&self) -> IpaRange {
        let copied = u64::try_from(self.source.len()).unwrap_or(u64::MAX);
        IpaRange {
            start: self.ipa,
            size: copied.saturating_add(self.zero_fill),
        }
    }
}

/// The kinds of kernel a guest can have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// arm64 `Image` (Linux, Documentation/arch/arm64/booting.rst).
    Arm64Image,
    /// ELF64 for AArch64.
    Elf,
    /// Bytes at `load-address`.
    Raw,
}

/// A kernel, recognised and laid out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Kernel {
    /// What it is.
    pub kind: Kind,
    /// Where it is entered, at EL1.
    pub entry: Ipa,
    /// What is to be loaded.
    pub segments: Vec<Segment>,
}

/// Bytes of an arm64 Image from which on it is taken for Linux: the smallest useful Linux is larger, real-time
/// systems with the same header are smaller.
const LINUX_SIZE: u64 = 4 << 20;

impl Kernel {
    /// Whether the kernel is to be judged as Linux, which takes a page struct for each page of its
    /// maximum out of the memory that it starts with.
    #[must_use]
    pub fn is_linux_sized(&self) -> bool {
        self.kind == Kind::Arm64Image
            && self
                .segments
                .iter()
                .any(|segment| segment.range().size >= LINUX_SIZE)
    }
}

/// Why a kernel cannot be loaded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ImageError {
    /// Compressed; the name says how.
    Compressed(&'static str),
    /// Something else than a kernel Ballast loads; says what was found.
    Unknown(String),
    /// An arm64 Image built for big-endian.
    BigEndian,
    /// An ELF file that is not one Ballast loads; says why.
    Elf(&'static str),
    /// Addresses in the file, or asked for, leave the address space.
    Addresses,
    /// A part does not fit the memory that the guest boots with.
    DoesNotFit {
        /// "kernel", "ramdisk" or "device tree".
        what: &'static str,
        /// Where it would go.
        range: IpaRange,
        /// The memory.
        memory: IpaRange,
    },
    /// Two parts lie on each other.
    Overlap {
        /// The first.
        what: &'static str,
        /// The other.
        with: &'static str,
        /// Where the first lies.
        range: IpaRange,
    },
}

impl fmt::Display for ImageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Compressed(how) => write!(f, "is compressed with {how}"),
            Self::Unknown(found) => write!(f, "is {found}, not an arm64 Image or an ELF64 file"),
            Self::BigEndian => f.write_str("is a big-endian arm64 Image"),
            Self::Elf(why) => write!(f, "is an ELF file {why}"),
            Self::Addresses => f.write_str("has addresses beyond the guest's address space"),
            Self::DoesNotFit {
                what,
                range,
                memory,
            } => write!(
                f,
                "does not fit: {what} at {}-{} is not within the memory at boot, {}-{}",
                range.start,
                range.end(),
                memory.start,
                memory.end()
            ),
            Self::Overlap { what, with, range } => {
                write!(
                    f,
                    "does not fit: {what} at {}-{} would lie on the {with}",
                    range.start,
                    range.end()
                )
            }
        }
    }
}

impl ImageError {
    /// What to do about it.
    #[must_use]
    pub const fn fix(&self) -> &'static str {
        match self {
            Self::Compressed(_) => {
                "unpack it; `cargo xtask` does so for gzip when it makes the archive"
            }
            Self::Unknown(_) => "give load-address (and entry) for a raw binary, or another file",
            Self::BigEndian => "build it little-endian",
            Self::Elf(_) => "link it statically for AArch64, or give an arm64 Image",
            Self::Addresses => "link or load it within the guest's RAM, from 0x40000000 on",
            Self::DoesNotFit { .. } => {
                "raise memory-mib, or link or load it within the guest's RAM"
            }
            Self::Overlap { .. } => "move load-address or dtb-address, or raise memory-mib",
        }
    }
}

/// How the configuration wants a kernel loaded.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LoadOptions {
    /// Load the file's bytes here, whatever they are.
    pub load_address: Option<Ipa>,
    /// Where a raw file is entered; its first byte if not given.
    pub entry: Option<Ipa>,
}

/// Recognises `file` and lays it out in a guest whose RAM starts at `ram_base`.
///
/// # Errors
/// What the file is instead.
pub fn recognise(file: &[u8], options: LoadOptions, ram_base: Ipa) -> Result<Kernel, ImageError> {
    if let Some(how) = format::compression(file) {
        return Err(ImageError::Compressed(how));
    }
    if let Some(address) = options.load_address {
        let segments = alloc::vec![Segment {
            ipa: address,
            source: 0..file.len(),
            zero_fill: 0
        }];
        return Ok(Kernel {
            kind: Kind::Raw,
            entry: options.entry.unwrap_or(address),
            segments,
        });
    }
    if let Some(header) = format::arm64_header(file) {
        return header.layout(file.len(), ram_base);
    }
    if elf::is_elf(file) {
        return elf::layout(file);
    }
    Err(ImageError::Unknown(format::describe(file)))
}
