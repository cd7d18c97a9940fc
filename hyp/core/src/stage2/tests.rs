#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::{BTreeMap, HashMap};

use proptest::prelude::*;

use super::*;
use crate::addr::{IpaRange, MIB};

const RAM: Ipa = Ipa(0x4000_0000);

/// Level-3 tables of RAM by address, and a count of invalidations.
#[derive(Default)]
struct Tables {
    words: HashMap<(u64, usize), u64>,
    invalidations: usize,
}

impl Window for Tables {
    fn read(&mut self, page: Pa, index: usize) -> u64 {
        self.words.get(&(page.0, index)).copied().unwrap_or(0)
    }
    fn write(&mut self, page: Pa, index: usize, word: u64) {
        self.words.insert((page.0, index), word);
    }
    fn fill(&mut self, page: Pa, index: usize, count: usize, first: u64, step: u64) {
        for offset in 0..count {
            self.write(page, index + offset, first + offset as u64 * step);
        }
    }
    fn read_page(&mut self, _: Pa, _: &mut [u64]) {
        unimplemented!()
    }
    fn write_page(&mut self, _: Pa, _: &[u64]) {
        unimplemented!()
    }
}

impl Hardware for Tables {
    fn publish_tables(&mut self) {}
    fn invalidate_guest(&mut self) {
        self.invalidations += 1;
    }
    fn scrub(&mut self, _: Pa, _: usize) {
        unimplemented!()
    }
    fn scrub_watching(&mut self, _: Pa, _: u16) -> u16 {
        unimplemented!()
    }
    fn copy_page(&mut self, _: Pa, _: Pa) {
        unimplemented!()
    }
    fn finish_copies(&mut self) {
        unimplemented!()
    }
    fn counter(&mut self) -> u64 {
        0
    }

    fn is_interrupted(&mut self) -> bool {
        false
    }
}

fn stage2(ram_bytes: u64, devices: &[DeviceMapping]) -> Result<Stage2, LayoutError> {
    let next = core::cell::Cell::new(0x7000_0000);
    Stage2::new(
        &Layout {
            ram: &[IpaRange {
                start: RAM,
                size: ram_bytes,
            }],
            banks: &[],
            devices,
        },
        |_| {
            next.set(next.get() + PAGE_SIZE);
            Pa(next.get())
        },
    )
}

fn device(ipa: u64, pa: u64, bytes: u64) -> DeviceMapping {
    DeviceMapping {
        ipa: Ipa(ipa),
        pa: Pa(pa),
        bytes,
        memory: Memory::Device,
    }
}

#[test]
fn descriptors_are_encoded_as_the_architecture_says() {
    let block = Descriptor::block(Pa(0x1_2340_0000), Memory::Normal);
    assert_eq!(block.0, 0x1_2340_0000 | 0x7fd);
    assert!(block.is_block() && !block.is_table());
    let page = Descriptor::page(Pa(0xff84_6000), Memory::Device);
    assert_eq!(page.0, 0x0040_0000_0000_0000 | 0xff84_6000 | 0x4c7);
    assert_eq!(page.output(), Pa(0xff84_6000));
    let table = Descriptor::table(Pa(0x4000));
    assert_eq!(table.0, 0x4003);
    for invalid in [Descriptor::NOT_OWNED, Descriptor::IN_TRANSITION] {
        assert!(!invalid.is_valid() && !invalid.is_block() && !invalid.is_table());
    }
}

#[test]
fn break_before_make_is_asked_for_where_the_architecture_does() {
    let block = Descriptor::block(Pa(0x20_0000), Memory::Normal);
    let other = Descriptor::block(Pa(0x40_0000), Memory::Normal);
    let table = Descriptor::table(Pa(0x20_0000));
    assert!(!is_bbm_safe(block, other));
    assert!(!is_bbm_safe(block, table) && !is_bbm_safe(table, block));
    assert!(!is_bbm_safe(
        block,
        Descriptor::block(Pa(0x20_0000), Memory::Device)
    ));
    assert!(is_bbm_safe(block, block) && is_bbm_safe(block, Descriptor::IN_TRANSITION));
    assert!(is_bbm_safe(Descriptor::NOT_OWNED, table));
    let read_only = Descriptor(block.0 & !(1 << 7));
    assert!(is_bbm_safe(block, read_only));
}

#[test]
fn vtcr_follows_the_cores_physical_range() {
    // Cortex-A72: 44 bits.
    assert_eq!(vtcr(0b0100), Some(0x8004_3559));
    // 32 bits of PA: T0SZ 32.
    assert_eq!(vtcr(0).map(|vtcr| vtcr & 0x7_003f), Some(32));
    assert_eq!(vtcr(0b0110).map(|vtcr| vtcr >> 16 & 7), Some(5));
    assert_eq!(vtcr(0b1000), None);
}

#[test]
fn devices_are_mapped_and_nothing_else() {
    let devices = [
        device(0x0801_0000, 0xff84_6000, 0x2000),
        device(0xfe20_1000, 0xfe20_1000, 0x1000),
        device(0x10_0000_0000, 0x20_0000_0000, 4 * MIB),
    ];
    let stage2 = stage2(64 * MIB, &devices).unwrap();
    let tables = &mut Tables::default();
    for (ipa, pa) in [
        (0x0801_1ffc, Some(0xff84_7ffc)),
        (0x0801_2000, None),
        (0x0800_0000, None),
        (0xfe20_1008, Some(0xfe20_1008)),
        (0xfe20_0000, None),
        (0x10_003f_ffff, Some(0x20_003f_ffff)),
        (0x10_0040_0000, None),
        (RAM.0, None),
        (1 << 39, None),
        (u64::MAX, None),
    ] {
        assert_eq!(stage2.translate(tables, Ipa(ipa)), pa.map(Pa), "{ipa:#x}");
        let verdict = if pa.is_some() {
            Verdict::Refault
        } else {
            Verdict::NotOwned
        };
        assert_eq!(stage2.judge(tables, Ipa(ipa)), verdict, "{ipa:#x}");
    }
    assert!(
        tables.words.is_empty(),
        "device tables are not guest frames"
    );
}

#[test]
fn layouts_that_cannot_be_are_refused() {
    let error = |ram_bytes, device| stage2(ram_bytes, &[device]).err();
    let good = device(0x0900_0000, 0, 0x1000);
    assert_eq!(error(MIB, good), Some(LayoutError::RamAlignment));
    assert_eq!(error(0, good), Some(LayoutError::RamAlignment));
    assert_eq!(error(1 << 39, good), Some(LayoutError::BeyondIpaSpace(RAM)));
    assert_eq!(
        error(u64::MAX, good),
        Some(LayoutError::BeyondIpaSpace(RAM))
    );
    let overlap = device(RAM.0 + MIB, 0, 0x1000);
    assert_eq!(
        error(64 * MIB, overlap),
        Some(LayoutError::Overlap(overlap.ipa))
    );
    let ragged = device(0x0900_0800, 0, 0x1000);
    assert_eq!(
        error(64 * MIB, ragged),
        Some(LayoutError::Alignment(ragged.ipa))
    );
    let far = device(1 << 39, 0, 0x1000);
    assert_eq!(
        error(64 * MIB, far),
        Some(LayoutError::BeyondIpaSpace(far.ipa))
    );
    assert_eq!(error(64 * MIB, good), None);
    let twice = [good, device(0x08ff_f000, 0, 0x2000)];
    assert_eq!(
        stage2(64 * MIB, &twice).err(),
        Some(LayoutError::Overlap(Ipa(0x08ff_f000)))
    );
    let within = [
        device(0x0a00_1000, 0, 0x1000),
        device(0x0a00_0000, 0x20_0000, 2 * MIB),
    ];
    assert_eq!(
        stage2(64 * MIB, &within).err(),
        Some(LayoutError::Overlap(Ipa(0x0a00_0000)))
    );
}

#[test]
fn a_retired_table_says_nothing() {
    /// A window behind which the table is retired at the moment of the read.
    struct Retiring<'a>(&'a Stage2);
    impl Window for Retiring<'_> {
        fn read(&mut self, _: Pa, _: usize) -> u64 {
            self.0.retire_table();
            0
        }
        fn write(&mut self, _: Pa, _: usize, _: u64) {}
        fn fill(&mut self, _: Pa, _: usize, _: usize, _: u64, _: u64) {}
        fn read_page(&mut self, _: Pa, _: &mut [u64]) {}
        fn write_page(&mut self, _: Pa, _: &[u64]) {}
    }
    let stage2 = stage2(64 * MIB, &[]).unwrap();
    stage2.map(RAM.block() as u32, Descriptor::table(Pa(0x8000_0000)));
    assert_eq!(stage2.judge(&mut Retiring(&stage2), RAM), Verdict::Refault);
    assert_eq!(stage2.judge(&mut Tables::default(), RAM), Verdict::NotOwned);
}

#[derive(Clone, Debug)]
enum Step {
    Map(u32, u64),
    Unmap(u32),
    Split(u32, u64),
    Merge(u32),
    MapPage(u32, usize, u64),
    UnmapPage(u32, usize),
}

fn step() -> impl Strategy<Value = Step> {
    let block = 0..4_u32;
    let pa = (0x400..0x440_u64).prop_map(|block| block * BLOCK_SIZE);
    prop_oneof![
        (block.clone(), pa.clone()).prop_map(|(block, pa)| Step::Map(block, pa)),
        block.clone().prop_map(Step::Unmap),
        (block.clone(), 0x9000_0000..0x9000_0010_u64)
            .prop_map(|(block, table)| Step::Split(block, table << 12)),
        block.clone().prop_map(Step::Merge),
        (block.clone(), 0..512_usize, pa)
            .prop_map(|(block, page, pa)| Step::MapPage(block, page, pa)),
        (block, 0..512_usize).prop_map(|(block, page)| Step::UnmapPage(block, page)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if cfg!(miri) { 2 } else { 128 },
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Any sequence of the engine's primitives translates as a map of pages does.
    #[test]
    fn translates_as_the_model_does(steps in prop::collection::vec(step(), 1..if cfg!(miri) { 6 } else { 40 })) {
        let stage2 = stage2(8 * MIB, &[]).unwrap();
        let hw = &mut Tables::default();
        let mut model = BTreeMap::<u64, u64>::new();
        let first = RAM.block() as u32;
        for step in steps {
            let entry = |block: u32| stage2.ram_entry(first + block);
            match step {
                Step::Map(block, pa) if !entry(block).is_valid() => {
                    stage2.map(first + block, Descriptor::block(Pa(pa), Memory::Normal));
                    model.extend((0..512).map(|page| (u64::from(block) * 512 + page, pa + page * PAGE_SIZE)));
                }
                Step::Unmap(block) => {
                    stage2.unmap(first + block);
                    model.retain(|page, _| page >> 9 != u64::from(block));
                }
                Step::Split(block, table) if entry(block).is_block() => {
                    let old = entry(block);
                    let broken = stage2.break_entry(first + block).unwrap();
                    prop_assert_eq!(stage2.judge(hw, Ipa::from_block(u64::from(first + block))), Verdict::Refault);
                    let clean = broken.invalidate(hw);
                    // Each table at an address of its own.
                    let table = Pa(table + (u64::from(block) << 32));
                    hw.fill(table, 0, 512, Descriptor::page(old.output(), Memory::Normal).0, PAGE_SIZE);
                    clean.make(Descriptor::table(table), hw);
                }
                Step::Merge(block) if entry(block).is_table() => {
                    let base = hw.read(entry(block).output(), 0);
                    let base = Descriptor(base).output();
                    let whole = base.is_aligned(BLOCK_SIZE) && (0..512).all(|page| {
                        model.get(&(u64::from(block) * 512 + page)) == Some(&(base.0 + page * PAGE_SIZE))
                    });
                    if whole {
                        let clean = stage2.break_entry(first + block).unwrap().invalidate(hw);
                        stage2.retire_table();
                        clean.make(Descriptor::block(base, Memory::Normal), hw);
                    }
                }
                Step::MapPage(block, page, pa) if entry(block).is_table() => {
                    hw.write(entry(block).output(), page, Descriptor::page(Pa(pa), Memory::Normal).0);
                    model.insert(u64::from(block) * 512 + page as u64, pa);
                }
                Step::UnmapPage(block, page) if entry(block).is_table() => {
                    hw.write(entry(block).output(), page, Descriptor::NOT_OWNED.0);
                    model.remove(&(u64::from(block) * 512 + page as u64));
                }
                _ => {}
            }
            for page in (0..4 * 512).step_by(37) {
                let ipa = Ipa(RAM.0 + page * PAGE_SIZE + 8);
                let pa = model.get(&page).map(|pa| Pa(pa + 8));
                prop_assert_eq!(stage2.translate(hw, ipa), pa);
                let verdict = if pa.is_some() { Verdict::Refault } else { Verdict::NotOwned };
                prop_assert_eq!(stage2.judge(hw, ipa), verdict);
            }
        }
    }
}
