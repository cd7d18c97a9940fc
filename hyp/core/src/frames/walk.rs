//! Free blocks in the hands of whoever tests the board's RAM.

use super::{BLOCK_PAGES, Kind, Pool};
use crate::addr::{BLOCK_SIZE, Pa};

/// A whole free block that nobody else can have meanwhile. What is known to be zero in it has to be zero when it is
/// put back.
#[must_use = "the block is lost to everybody until it is put back"]
#[derive(Debug)]
pub struct FreeBlock {
    index: u32,
    pa: Pa,
}

impl FreeBlock {
    /// Its first frame.
    #[must_use]
    pub const fn pa(&self) -> Pa {
        self.pa
    }
}

impl Pool {
    /// Takes the block at `pa`, if it is whole and free.
    pub fn claim_free_block(&mut self, pa: Pa) -> Option<FreeBlock> {
        let index = self.block_at(pa)?;
        let block = self.blocks.get(index as usize)?;
        if block.kind != Kind::Free || !block.moving.is_none() {
            return None;
        }
        self.update(index, |block| block.kind = Kind::Claimed)?;
        // Back in a moment, as one that is being scrubbed.
        self.claimed += u32::from(BLOCK_PAGES);
        self.scrubbing += u32::from(BLOCK_PAGES);
        Some(FreeBlock {
            index,
            pa: self.block_pa(index),
        })
    }

    /// Puts it back as it was.
    pub fn put_free_block(&mut self, block: FreeBlock) {
        self.update(block.index, |block| block.kind = Kind::Free);
        self.claimed -= u32::from(BLOCK_PAGES);
        self.scrubbing -= u32::from(BLOCK_PAGES);
    }

    /// The first block of RAM at `pa` or above it; `None` above all. Bounded by [`super::MAX_REGIONS`].
    #[must_use]
    pub fn block_from(&self, pa: Pa) -> Option<Pa> {
        let from = pa.align_up(BLOCK_SIZE)?;
        if self.block_at(pa.align_down(BLOCK_SIZE)).is_some() && pa.is_aligned(BLOCK_SIZE) {
            return Some(pa);
        }
        if self.block_at(from).is_some() {
            return Some(from);
        }
        let starts = self
            .regions
            .iter()
            .map(|region| Pa::from_block(region.first));
        starts.filter(|start| *start >= from).min()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::BootFrames;
    use super::*;
    use crate::addr::{MIB, PaRange};

    #[test]
    fn free_blocks_are_walked_and_nobody_has_them_meanwhile() {
        let range = |start, size| PaRange {
            start: Pa(start),
            size,
        };
        let ram = [range(2 * MIB, 4 * MIB), range(64 * MIB, 2 * MIB)];
        let held = [range(4 * MIB, 1)];
        let mut pool = Pool::new(&ram, &held, BootFrames::Fresh).unwrap();
        let (counts, available) = (*pool.counts(), pool.available());
        assert_eq!(pool.block_from(Pa(0)), Some(Pa(2 * MIB)));
        let block = pool.claim_free_block(Pa(2 * MIB)).unwrap();
        assert_eq!(block.pa(), Pa(2 * MIB));
        pool.check_lists();
        assert_eq!(pool.available(), available - 512);
        assert!(pool.claim_free_block(Pa(2 * MIB)).is_none());
        pool.put_free_block(block);
        pool.check_lists();
        assert_eq!((*pool.counts(), pool.available()), (counts, available));
        // Not whole.
        assert!(pool.claim_free_block(Pa(4 * MIB)).is_none());
        assert_eq!(pool.block_from(Pa(2 * MIB + 1)), Some(Pa(4 * MIB)));
        assert_eq!(pool.block_from(Pa(6 * MIB)), Some(Pa(64 * MIB)));
        assert_eq!(pool.block_from(Pa(66 * MIB)), None);
        assert_eq!(pool.block_from(Pa(u64::MAX)), None);
    }
}
