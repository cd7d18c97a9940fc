//! QUERY: what is backed.

use ballast_abi::Status;

use super::budget::{self, Budget};
use super::hw::Hardware;
use super::{GuestMemory, Ledger, Outcome};
use crate::addr::{Ipa, PAGE_SIZE, PAGES_PER_BLOCK};
use crate::stage2::Descriptor;

impl GuestMemory {
    /// Whether the page at `ipa` is backed, and how many from it on are in the same state.
    pub(super) fn query(&self, ledger: &Ledger, hw: &mut impl Hardware, ipa: Ipa) -> Outcome {
        let Some(chunk) = self.chunk(ipa.0).filter(|_| ipa.is_aligned(PAGE_SIZE)) else {
            return Outcome::status(Status::InvalidParameters);
        };
        // A run does not go on in the next range.
        let end = chunk.start.page() + chunk.bytes / PAGE_SIZE;
        let mut budget = Budget::new(0);
        let backed = self.stage2.translate(hw, ipa).is_some();
        let mut page = ipa.page();
        while page < end
            && budget.covers(budget::LOOK_BLOCK + (PAGES_PER_BLOCK as u32) * budget::LOOK_PAGE)
        {
            budget.spend(budget::LOOK_BLOCK);
            let ipa_block = (page >> 9) as u32;
            let entry = self.stage2.ram_entry(ipa_block);
            let block_end = (page | (PAGES_PER_BLOCK as u64 - 1)) + 1;
            let record = ledger.tables.get(self.record(ipa_block));
            let is_whole = !entry.is_table()
                || record.is_some_and(|record| usize::from(record.mapped) == PAGES_PER_BLOCK);
            if is_whole {
                if entry.is_valid() != backed {
                    break;
                }
                page = block_end;
                continue;
            }
            let start = page;
            while page < block_end {
                let entry =
                    Descriptor(hw.read(entry.output(), page as usize & (PAGES_PER_BLOCK - 1)));
                if entry.is_valid() != backed {
                    break;
                }
                page += 1;
            }
            budget.spend((page - start) as u32 * budget::LOOK_PAGE);
            if page < block_end {
                break;
            }
        }
        Outcome::new(Status::Success, [u64::from(backed), page - ipa.page(), 0])
    }
}
