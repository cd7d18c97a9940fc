#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use super::list::{ListId, NONE};
use super::*;
use crate::addr::{BLOCK_SIZE, MIB, PAGE_SIZE, PaRange};

impl Pool {
    /// The split blocks that are somebody's home: their address, the guest and its IPA / 2 MiB.
    pub(crate) fn homes(&self) -> Vec<(Pa, GuestId, u32)> {
        let blocks = (0_u32..).zip(&self.blocks);
        // A wanted block may have been left by the table already.
        let split = blocks.filter(|(_, block)| {
            block.kind == Kind::Split
                && (block.moving.holder().is_none() || block.moving.is_gathering())
        });
        split
            .filter_map(|(index, block)| {
                let guest = GuestId::new(usize::from(block.guest))?;
                Some((self.block_pa(index), guest, block.ipa_block))
            })
            .collect()
    }

    /// The free lists hold exactly the blocks that belong there, each once, linked both ways; bitmaps
    /// agree with the descriptors.
    pub(crate) fn check_lists(&self) {
        let mut listed = vec![None; self.blocks.len()];
        let free = [
            ListId::Zero,
            ListId::Dirty,
            ListId::SplitZero,
            ListId::SplitDirty,
        ];
        let queues = (0..MAX_GUESTS as u8).map(ListId::Wanted);
        let strays = (0..MAX_GUESTS as u8).map(ListId::Strays);
        for list in free.into_iter().chain(queues).chain(strays) {
            let mut prev = NONE;
            let mut at = self.list(list).head;
            while at != NONE {
                let block = &self.blocks[at as usize];
                assert_eq!(block.prev, prev);
                assert_eq!(listed[at as usize].replace(list), None);
                (prev, at) = (at, block.next);
            }
            assert_eq!(self.list(list).tail, prev);
        }
        let mut claimed = 0;
        let mut scrubbing = 0;
        let mut wanted = [0; MAX_GUESTS];
        for (index, block) in self.blocks.iter().enumerate() {
            claimed += match block.kind {
                Kind::Claimed => PAGES_PER_BLOCK as u32,
                Kind::Split if !block.moving.is_none() => block.free.into(),
                _ => 0,
            };
            if block.kind == Kind::Claimed {
                scrubbing += PAGES_PER_BLOCK as u32;
            }
            if block.moving.is_wanted() {
                wanted[usize::from(block.claimant)] += 1;
            }
            assert_eq!(block.list(), listed[index], "block {index}: {block:?}");
            let maps = self.maps(index as u32).unwrap();
            let ones = |map: &[u64; 8]| map.iter().map(|word| word.count_ones()).sum::<u32>();
            let (free, dirty) = if block.kind == Kind::Split {
                (block.free, block.dirty)
            } else {
                (0, 0)
            };
            assert_eq!(
                (ones(maps.free), ones(maps.dirty)),
                (free.into(), dirty.into()),
                "block {index}"
            );
            assert!(
                maps.free
                    .iter()
                    .zip(maps.dirty)
                    .all(|(free, dirty)| dirty & !free == 0)
            );
            let words = &self.words
                [word_index(index as u32, 0)..word_index(index as u32, 0) + PAGES_PER_BLOCK];
            for (frame, &word) in words.iter().enumerate() {
                let may_be_set = block.kind == Kind::Split && !bit(maps.free, frame as u16);
                assert!(
                    word == word::HOME || may_be_set,
                    "block {index} frame {frame}"
                );
                claimed += u32::from(word == word::CLAIMED);
                scrubbing += u32::from(word == word::CLAIMED);
            }
        }
        assert_eq!((self.claimed, self.scrubbing), (claimed, scrubbing));
        assert_eq!(self.waiting.map(|waiting| waiting.blocks()), wanted);
    }
}

fn range(start: u64, size: u64) -> PaRange {
    PaRange {
        start: Pa(start),
        size,
    }
}

fn guest(index: usize) -> GuestId {
    GuestId::new(index).unwrap()
}

#[test]
fn ragged_ram_and_held_ranges_are_carved_out() {
    // Two ranges that share a block, with a hole of two pages between them; a third far away.
    let ram = [
        range(0x8010_0000, 0x10_0000 + 0x3000),
        range(0x8020_5000, 4 * BLOCK_SIZE - 0x5000),
        range(0x1_0000_0000, BLOCK_SIZE + MIB),
    ];
    let held = [range(0x8040_0800, 1), range(0x8060_0000, BLOCK_SIZE)];
    let pool = Pool::new(&ram, &held, BootFrames::Fresh).unwrap();
    pool.check_lists();
    let pages = |bytes: u64| (bytes / PAGE_SIZE) as u32;
    let total = ram.iter().map(|range| pages(range.size)).sum::<u32>();
    assert_eq!(pool.counts().total, total);
    assert_eq!(pool.counts().zero, total - 1 - 512);
    assert_eq!(pool.counts().hypervisor(), 513);
    assert_eq!(
        pool.owner(Pa(0x8000_0000)),
        Some(Owner::Hypervisor),
        "no RAM, but of a known block"
    );
    assert_eq!(pool.owner(Pa(0x8010_0000)), Some(Owner::Zero));
    assert_eq!(
        pool.owner(Pa(0x8020_3000)),
        Some(Owner::Hypervisor),
        "the hole"
    );
    assert_eq!(pool.owner(Pa(0x8020_5000)), Some(Owner::Zero));
    assert_eq!(pool.owner(Pa(0x8040_0000)), Some(Owner::Hypervisor));
    assert_eq!(pool.owner(Pa(0x8040_1000)), Some(Owner::Zero));
    assert_eq!(pool.owner(Pa(0x8060_0000)), Some(Owner::Hypervisor));
    assert_eq!(pool.owner(Pa(0x8080_0000)), Some(Owner::Zero));
    assert_eq!(pool.owner(Pa(0x80a0_0000)), None);
    assert_eq!(pool.owner(Pa(0x1_0020_0000)), Some(Owner::Zero));
    assert_eq!(pool.owner(Pa(0x1_0030_0000)), Some(Owner::Hypervisor));
}

#[test]
fn unusable_memory_maps_are_refused() {
    let overlap = [range(0x8000_0000, 2 * MIB), range(0x8010_0000, MIB)];
    assert!(matches!(
        Pool::new(&overlap, &[], BootFrames::Fresh),
        Err(PoolError::Overlap(..))
    ));
    assert!(matches!(
        Pool::new(&[range(0x800, 0x1000)], &[], BootFrames::Fresh),
        Err(PoolError::Empty)
    ));
    assert!(matches!(
        Pool::new(&[range(0, 1 << 39)], &[], BootFrames::Fresh),
        Err(PoolError::TooLarge)
    ));
    let many: Vec<_> = (0..17).map(|n| range(n << 30, MIB)).collect();
    assert!(matches!(
        Pool::new(&many, &[], BootFrames::Fresh),
        Err(PoolError::TooManyRegions)
    ));
}

#[test]
fn blocks_come_ascending_and_scrub_at_boot_makes_them_dirty() {
    let ram = [range(0x8000_0000, 4 * BLOCK_SIZE)];
    let mut pool = Pool::new(&ram, &[], BootFrames::Fresh).unwrap();
    for number in 0..4 {
        let pa = pool.take_zero_block(guest(1), 100 + number).unwrap();
        assert_eq!(pa, Pa(0x8000_0000 + u64::from(number) * BLOCK_SIZE));
        let ipa = Ipa::from_block(u64::from(100 + number));
        assert_eq!(
            pool.owner(Pa(pa.0 + PAGE_SIZE)),
            Some(Owner::Guest(guest(1), Ipa(ipa.0 + PAGE_SIZE)))
        );
    }
    assert_eq!(pool.take_zero_block(guest(1), 0), None);
    let mut pool = Pool::new(&ram, &[], BootFrames::Scrub).unwrap();
    assert_eq!(pool.take_zero_block(guest(1), 0), None);
    assert_eq!((pool.counts().zero, pool.counts().dirty), (0, 2048));
    pool.check_lists();
}

#[test]
fn a_block_opens_and_closes_with_its_dirty_part() {
    let mut pool = Pool::new(&[range(0x8000_0000, BLOCK_SIZE)], &[], BootFrames::Scrub).unwrap();
    pool.blocks[0].dirty = 200;
    (pool.counts.dirty, pool.counts.zero) = (200, 312);
    pool.open_free_block(0, None);
    pool.check_lists();
    assert_eq!(
        pool.owner(Pa(0x8000_0000 + 311 * PAGE_SIZE)),
        Some(Owner::Zero)
    );
    assert_eq!(
        pool.owner(Pa(0x8000_0000 + 312 * PAGE_SIZE)),
        Some(Owner::Dirty)
    );
    pool.close_free_block(0);
    pool.check_lists();
    assert_eq!((pool.blocks[0].dirty, pool.counts.dirty), (200, 200));
}

#[test]
fn storage_is_within_its_bound() {
    assert!(size_of::<Block>() <= 48);
    assert_eq!(size_of::<MapWords>(), 128);
}
