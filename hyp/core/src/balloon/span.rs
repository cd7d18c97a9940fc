//! List entries, checked.

use ballast_abi::{Entry, EntryStatus, Order};

use super::GuestMemory;
use crate::addr::{BLOCK_SHIFT, Ipa, PAGE_SIZE, PAGES_PER_BLOCK, Pa};

/// The pages one list entry names, checked.
#[derive(Clone, Copy)]
pub(super) struct Span {
    pub order: Order,
    /// IPA / 2 MiB.
    pub ipa_block: u32,
    /// First page within its 2 MiB.
    pub first: u16,
    pub pages: u16,
}

impl Span {
    pub const fn ipa(self) -> Ipa {
        Ipa(((self.ipa_block as u64) << BLOCK_SHIFT) + self.first as u64 * PAGE_SIZE)
    }

    /// Index of the order in the statistics.
    pub const fn class(self) -> usize {
        match self.order {
            Order::Page => 0,
            Order::Pages4 => 1,
            Order::Pages16 => 2,
            Order::Block => 3,
        }
    }
}

/// The number of the page at `pa` in its 2 MiB.
pub(super) const fn page_in_block(pa: Pa) -> u16 {
    pa.page() as u16 & (PAGES_PER_BLOCK as u16 - 1)
}

impl GuestMemory {
    /// The pages an entry names, if it is well formed, within the guest's maximum, and of `least` pages or more.
    #[inline]
    pub(super) fn span(&self, entry: Entry, least: u16) -> Result<Span, EntryStatus> {
        let ipa = Ipa(entry.ipa());
        // What is not address must be the order alone.
        let (order, pages) = match entry.0 ^ ipa.0 {
            0 => (Order::Page, 1),
            2 => (Order::Pages4, 4),
            4 => (Order::Pages16, 16),
            9 => (Order::Block, PAGES_PER_BLOCK as u16),
            _ => return Err(EntryStatus::Malformed),
        };
        if !ipa.is_aligned(u64::from(pages) * PAGE_SIZE) {
            return Err(EntryStatus::Unaligned);
        }
        // RAM is whole blocks, so an aligned span that begins in it ends in it.
        if !self.is_ram(ipa) {
            return Err(EntryStatus::OutOfRange);
        }
        if pages < least {
            return Err(EntryStatus::WrongOrder);
        }
        let first = ipa.page() as u16 & (PAGES_PER_BLOCK as u16 - 1);
        Ok(Span {
            order,
            ipa_block: ipa.block() as u32,
            first,
            pages,
        })
    }
}
