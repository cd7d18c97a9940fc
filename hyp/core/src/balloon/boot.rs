//! A guest's memory at boot: what it claims, and what it starts with.

use super::{GuestMemory, Use};
use crate::addr::{BLOCK_SIZE, PAGES_PER_BLOCK, Pa};
use crate::frames::Pool;
use crate::stage2::{Descriptor, Memory};

impl GuestMemory {
    /// At boot, before any memory is assigned: what this guest's addresses lay claim to, if it has IPA = PA;
    /// and that its frames stay what they are, if it is `realtime`.
    ///
    /// # Errors
    /// The address of a block that cannot be claimed: no RAM, held by Ballast or firmware, or
    /// claimed by another guest.
    pub fn claim_home(&self, pool: &mut Pool) -> Result<(), Pa> {
        if self.config.realtime {
            pool.fix(self.guest());
        }
        if !self.config.identity {
            return Ok(());
        }
        let blocks = (0..).map_while(|index| self.nth_block(index));
        for pa in blocks.map(|block| Pa::from_block(block.into())) {
            if !pool.claim_block(pa, self.guest()) {
                return Err(pa);
            }
        }
        Ok(())
    }

    /// How many values [`GuestMemory::boot_rank`] has.
    pub const BOOT_RANKS: u8 = 3;

    /// Memory is assigned at boot by ascending rank: guests with IPA = PA, which can have one set of frames
    /// only, then those whose frames never move, then the others.
    #[must_use]
    pub const fn boot_rank(&self) -> u8 {
        if self.config.identity {
            0
        } else if self.config.realtime {
            1
        } else {
            2
        }
    }

    /// At boot, before any guest runs and after every claim: backs up to `pages` (a multiple of 512) in
    /// filling order with free zero blocks, by 1 GiB entries where both addresses allow it. By ascending
    /// [`GuestMemory::boot_rank`]. Returns the pages backed.
    pub fn boot_assign(&self, pool: &mut Pool, pages: u64) -> u64 {
        const GIB_BLOCKS: u32 = PAGES_PER_BLOCK as u32;
        let Some(mut ledger) = self.ledger.try_lock() else {
            return 0;
        };
        let goal = (pages.min(self.max_pages) / PAGES_PER_BLOCK as u64) as u32;
        let mut done = 0;
        while done < goal
            && let Some(at) = self.nth_block(done)
        {
            let last = self.nth_block(done + GIB_BLOCKS - 1);
            if at.is_multiple_of(GIB_BLOCKS)
                && goal - done >= GIB_BLOCKS
                && last == Some(at + GIB_BLOCKS - 1)
                && let Some(pa) = self.find_gib(pool, at)
            {
                let whole = (0..GIB_BLOCKS).all(|block| {
                    let pa = Pa(pa.0 + u64::from(block) * BLOCK_SIZE);
                    pool.take_block_at(pa, self.guest(), at + block).is_some()
                });
                debug_assert!(whole);
                self.stage2.close_gib(at / GIB_BLOCKS, pa);
                done += GIB_BLOCKS;
                continue;
            }
            let Some(pa) = self.take_block(pool, at, Use::Ram) else {
                break;
            };
            self.stage2.map(at, Descriptor::block(pa, Memory::Normal));
            done += 1;
        }
        ledger.backed_pages = u64::from(done) * PAGES_PER_BLOCK as u64;
        ledger.backed_pages
    }

    /// At boot, after what never moves has its memory and before what does: backs the guest's `extra-ram`, which
    /// never moves either.
    pub fn boot_banks(&self, pool: &mut Pool) {
        for &bank in &self.banks {
            if !self.stage2.has_bank(bank)
                && let Some(pa) = self.take_block(pool, bank.ipa_block, Use::Bank)
            {
                self.stage2.map_bank(bank, pa);
            }
        }
    }

    /// A whole free GiB for the one that begins at `ipa_block`.
    fn find_gib(&self, pool: &Pool, ipa_block: u32) -> Option<Pa> {
        if self.config.identity {
            let pa = Pa::from_block(ipa_block.into());
            pool.is_free_gib(pa, self.guest()).then_some(pa)
        } else {
            pool.find_free_gib()
        }
    }
}
