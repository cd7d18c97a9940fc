//! Device registers that lie in one 4 KiB page and belong to different holders, and interrupts that
//! several holders share.
//!
//! Stage 2 protects whole pages. Where a page holds registers of more than one holder it is left out
//! of the guest's stage 2, every access to it traps, and this module says what the access does: it
//! reaches the guest's own registers, is answered by an emulated device, has other holders' bits
//! masked out, or is aborted as where nothing answers. Decisions are data ([`Effect`]); the shell
//! carries them out on its own mapping of the page.
//!
//! An offset that belongs to nobody, or to another, aborts like an address where there is nothing: a
//! driver that goes there is wrong, and reading zero would hide it. Only in blocks whose registers
//! are shared bit by bit ([`gpio`], AUX) do others' bits read as zero and ignore writes, since there
//! one access concerns several holders.
//!
//! [`line`] is the shared interrupt: level-sensitive, delivered to every holder in software.

pub mod gpio;
pub mod line;
#[cfg(test)]
mod tests;

use alloc::vec::Vec;

use crate::addr::{Ipa, PAGE_SIZE, Pa};
use crate::exit::Width;

/// What lies in a part of a trapped page, for one guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum What {
    /// Registers of a device that is the guest's alone.
    Device,
    /// The place of Ballast's console UART: the guest's emulated PL011 answers.
    Console,
    /// The BCM2711's GPIO block, of which the guest has some pins.
    Gpio,
    /// The BCM2711's AUX registers (ARM Peripherals 2.1.1): the bits of the guest's own blocks, 0 the
    /// mini-UART, 1 SPI1, 2 SPI2.
    Aux(u8),
}

/// Some bytes of a trapped page that the guest may reach.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Part {
    /// Offset of the first byte in the page.
    pub first: u16,
    /// Offset of the last byte.
    pub last: u16,
    /// What is there.
    pub what: What,
}

/// A trapped page as one guest sees it, at the address where it is (IPA = PA).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Page {
    /// Where it is; a multiple of 4 KiB.
    pub start: Pa,
    /// The parts that the guest may reach, by offset, not overlapping.
    pub parts: Vec<Part>,
}

impl Page {
    /// The page for the guest.
    #[must_use]
    pub const fn ipa(&self) -> Ipa {
        Ipa(self.start.0)
    }
}

/// Everything of one guest that is mediated.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Mediated {
    /// Its trapped pages, sorted by address.
    pub pages: Vec<Page>,
    /// Its share of the GPIO block.
    pub gpio: gpio::Share,
    /// INTIDs of its interrupts that others hold, too. Sorted.
    pub interrupts: Vec<u32>,
    /// Blocks of AUX that it has without the switch, bits as in [`What::Aux`], and where the switch is: they
    /// are turned on for it.
    pub aux: Option<(Pa, u8)>,
}

/// A load, or a store of this value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// A load.
    Load,
    /// A store.
    Store(u64),
}

/// What a trapped access does. Offsets count from the start of the page and are aligned to the access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Load from the register; the guest gets these bits of it, the others as zero.
    Read {
        /// Of the register.
        offset: u16,
        /// What the guest may see.
        mask: u32,
    },
    /// Store this.
    Write {
        /// Of the register.
        offset: u16,
        /// What is stored.
        value: u32,
    },
    /// Replace these bits of a 32-bit register and leave the others: read, modify and write under the
    /// lock of the page.
    Merge {
        /// Of the register.
        offset: u16,
        /// The bits that change.
        mask: u32,
        /// What they become; other bits are zero.
        value: u32,
    },
    /// No register is touched: a load reads zero, a store is ignored.
    Nothing,
    /// The emulated PL011 answers.
    Console {
        /// From the start of its registers.
        offset: u32,
    },
    /// A synchronous external abort for the guest.
    Abort,
}

impl Mediated {
    /// The trapped page at `ipa`, with the offset in it. Logarithmic in the number of pages.
    #[inline]
    #[must_use]
    pub fn find(&self, ipa: Ipa) -> Option<(usize, u16)> {
        let start = ipa.0 & !PAGE_MASK;
        let index = self
            .pages
            .binary_search_by_key(&start, |page| page.start.0)
            .ok()?;
        Some((index, offset_in_page(ipa.0)))
    }

    /// What an access of `width` at `offset` of page `index` does.
    ///
    /// Devices take 1, 2 and 4 bytes, naturally aligned, as the guest makes them; whole-register
    /// blocks (GPIO, AUX) 4 bytes only. All else aborts.
    #[must_use]
    pub fn access(&self, index: usize, offset: u16, width: Width, access: Access) -> Effect {
        let last = u32::from(offset)
            .wrapping_add(width_bytes(width))
            .wrapping_sub(1);
        let is_aligned = u32::from(offset) & width_bytes(width).wrapping_sub(1) == 0;
        let part = self.pages.get(index).and_then(|page| {
            let mut parts = page.parts.iter();
            parts.find(|part| part.first <= offset && last <= u32::from(part.last))
        });
        let Some(part) = part.filter(|_| is_aligned && width != Width::Double) else {
            return Effect::Abort;
        };
        match part.what {
            What::Device => match access {
                Access::Load => Effect::Read {
                    offset,
                    mask: u32::MAX,
                },
                Access::Store(value) => Effect::Write {
                    offset,
                    value: low_word(value),
                },
            },
            What::Console => Effect::Console {
                offset: u32::from(offset.wrapping_sub(part.first)),
            },
            What::Gpio | What::Aux(_) if width != Width::Word => Effect::Abort,
            What::Gpio => self.gpio.access(offset, access),
            What::Aux(own) => aux(own, offset, access),
        }
    }
}

const PAGE_MASK: u64 = PAGE_SIZE - 1;

const fn offset_in_page(address: u64) -> u16 {
    (address & PAGE_MASK) as u16
}

#[expect(clippy::cast_possible_truncation, reason = "1 to 8")]
const fn width_bytes(width: Width) -> u32 {
    width.bytes() as u32
}

/// The low 32 bits.
const fn low_word(value: u64) -> u32 {
    let [a, b, c, d, ..] = value.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

/// Offset of AUX_ENABLES from the start of AUX.
pub const ENABLES: u16 = 4;

/// AUX_IRQ, read-only, and AUX_ENABLES (BCM2711 ARM Peripherals 2.1.1): a bit for each block.
fn aux(own: u8, offset: u16, access: Access) -> Effect {
    let mask = u32::from(own);
    match (offset & 0xf, access) {
        (0 | ENABLES, Access::Load) => Effect::Read { offset, mask },
        (ENABLES, Access::Store(value)) => Effect::Merge {
            offset,
            mask,
            value: low_word(value) & mask,
        },
        _ => Effect::Nothing,
    }
}
