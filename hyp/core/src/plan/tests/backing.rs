//! What is admitted can be backed: the plan against the frame table, to the last block.

use std::sync::Arc;

use proptest::prelude::*;
use spin::mutex::TicketMutex;

use super::*;
use crate::addr::{BLOCK_SIZE, PAGE_SIZE, PAGES_PER_BLOCK};
use crate::balloon::tests::world::FakeHw;
use crate::balloon::{GuestMemory, MemoryConfig};
use crate::frames::{BootFrames, GuestId};
use crate::machine::RAM_BASE;
use crate::stage2::Layout;
use crate::testing::VIRT_V3;

const BLOCK_PAGES: u64 = PAGES_PER_BLOCK as u64;

/// A board's memory, and what Ballast holds of it.
#[derive(Clone, Debug)]
struct Memory {
    ram: Vec<PaRange>,
    reserved: Vec<PaRange>,
    initrd: Option<PaRange>,
    held: Vec<PaRange>,
}

fn range(start: u64, size: u64) -> PaRange {
    PaRange {
        start: Pa(start),
        size,
    }
}

impl Memory {
    /// QEMU's virt machine: image and heap from 2 MiB on, then the archive, the device tree behind it.
    fn virt(mib: u64) -> Self {
        let ram = 0x4000_0000;
        let archive = ram + (mib * MIB / 2).min(128 * MIB);
        Self {
            ram: vec![range(ram, mib * MIB)],
            reserved: vec![],
            initrd: Some(range(archive, 21_717_504)),
            held: vec![
                range(ram + 2 * MIB, 0x7_3000),
                range(ram + 2 * MIB + 0x7_3000, 0x10_4000 + mib * 1088),
                range(archive + 22 * MIB, 0x1f21),
            ],
        }
    }

    /// What guests cannot have.
    fn taken(&self) -> Vec<PaRange> {
        let groups = [&self.held, &self.reserved];
        let taken = groups.into_iter().flatten().chain(&self.initrd);
        taken.copied().collect()
    }

    /// The whole blocks of RAM nobody touches, counted one by one.
    fn blocks(&self) -> u64 {
        let taken = self.taken();
        let last = self.ram.last().map_or(0, |range| range.end().block() + 1);
        let is_free = |number: &u64| {
            let block = range(number * BLOCK_SIZE, BLOCK_SIZE);
            let in_ram = |ram: &PaRange| {
                let (start, end) = (ram.start.max(block.start), ram.end().min(block.end()));
                end.0.saturating_sub(start.0)
            };
            self.ram.iter().map(in_ram).sum::<u64>() == BLOCK_SIZE
                && !taken
                    .iter()
                    .any(|taken| taken.size != 0 && taken.overlaps(block))
        };
        let first = self.ram.first().map_or(0, |range| range.start.block());
        (first..last).filter(is_free).count() as u64
    }
}

/// A guest to be: its part of the board in thousandths, by how many blocks it may grow, and its banks as
/// pages left out and pages taken.
type Wish = (u64, u64, Vec<(u64, u64)>);

/// Guests that ask for `spare` blocks less than the board has (more, if negative).
fn guests(wishes: &[Wish], blocks: u64, spare: i64) -> (Vec<Guest>, u64) {
    const SMALLEST: u64 = 2;
    let mut asked = 0;
    let mut guests = Vec::new();
    let banks: Vec<Vec<IpaRange>> = wishes.iter().map(|(_, _, banks)| place(banks)).collect();
    let bank_blocks = |banks: &Vec<IpaRange>| -> u64 {
        let touched = |bank: &IpaRange| {
            let mut blocks: Vec<u64> = (bank.start.page()..bank.end().page())
                .map(|page| page / BLOCK_PAGES)
                .collect();
            blocks.dedup();
            blocks.len() as u64
        };
        banks.iter().map(touched).sum()
    };
    let all_banks: u64 = banks.iter().map(bank_blocks).sum();
    let for_ram = blocks.saturating_sub(all_banks);
    for (index, (part, more, _)) in wishes.iter().enumerate() {
        let boot = if index + 1 == wishes.len() {
            for_ram
                .saturating_sub(asked)
                .saturating_add_signed(-spare)
                .max(SMALLEST)
        } else {
            (for_ram * part / 1000).max(SMALLEST)
        };
        asked += boot;
        let number = u32::try_from(index + 1).unwrap();
        let mib = |blocks: u64| cells(&[u32::try_from(2 * blocks).unwrap()]);
        let mut guest = Guest::new(&format!("g{number}"), number)
            .with("memory-mib", mib(boot))
            .with("memory-max-mib", mib(boot + more));
        if !banks[index].is_empty() {
            let words = |bank: &IpaRange| [bank.start.0, bank.size].map(|word| word as u32);
            let list = banks[index].iter().map(words);
            let list: Vec<u32> = list.flat_map(|[at, size]| [0, at, 0, size]).collect();
            guest = guest.with("extra-ram", cells(&list));
        }
        guests.push(guest);
    }
    (guests, asked + all_banks)
}

/// Banks one after the other, below the guest's RAM.
fn place(banks: &[(u64, u64)]) -> Vec<IpaRange> {
    let mut at = 0x1000_0000;
    let mut place = |&(gap, pages): &(u64, u64)| {
        let start = at + gap * PAGE_SIZE;
        let size = pages * PAGE_SIZE;
        at = start + size;
        IpaRange {
            start: Ipa(start),
            size,
        }
    };
    banks.iter().map(&mut place).collect()
}

/// Admits the guests if and only if they fit, and then gives them all they were promised.
fn judge(memory: &Memory, wishes: &[Wish], spare: i64, frames: BootFrames) {
    let blocks = memory.blocks();
    let (guests, wanted) = guests(wishes, blocks, spare);
    let dtb = crate::testing::merge_into(VIRT_V3, &crate::testing::header(), &guests);
    let tree = DeviceTree::new(&dtb).unwrap();
    let board = Board {
        ram: memory.ram.clone(),
        reserved: memory.reserved.clone(),
        initrd: memory.initrd,
        ..Board::from_dt(&tree).unwrap()
    };
    let kernel = arm64_image(4096, 0, 1 << 20, 0);
    let files = archive(&[("rtos", &kernel)]);
    let files = Archive::new(&files).unwrap();
    let partitions = Partitions::parse(&tree, &board).unwrap();
    match BootPlan::new(&board, &tree, partitions, &files, &memory.held) {
        Ok(plan) => {
            assert!(wanted <= blocks, "{wanted} admitted to {blocks}");
            back(&board, &plan, &memory.taken(), frames);
        }
        Err(refusals) => assert!(wanted > blocks, "{wanted} of {blocks}: {}", refusals[0]),
    }
}

/// As the boot does it.
fn back(board: &Board, plan: &BootPlan, taken: &[PaRange], frames: BootFrames) {
    let mut pool = Pool::new(&board.ram, taken, frames).unwrap();
    let free: u64 = plan.free.iter().map(|range| range.size / PAGE_SIZE).sum();
    assert_eq!(u64::from(pool.counts().free()), free);
    let pages = |guest: &GuestPlan| guest.config.memory.boot_bytes / PAGE_SIZE;
    let memories: Vec<GuestMemory> = plan
        .guests
        .iter()
        .enumerate()
        .map(|(index, guest)| {
            let config = MemoryConfig {
                guest: GuestId::new(index).unwrap(),
                memory_pages: pages(guest),
                min_pages: guest.config.memory.min_bytes / PAGE_SIZE,
                identity: false,
                realtime: false,
                cpu_targets: false,
            };
            let layout = Layout {
                ram: &[IpaRange {
                    start: RAM_BASE,
                    size: guest.config.memory.max_bytes,
                }],
                banks: &guest.config.extra_ram,
                devices: &[],
            };
            GuestMemory::new(config, &layout, |_| Pa(0x1000)).unwrap()
        })
        .collect();
    if frames == BootFrames::Fresh {
        for (memory, guest) in memories.iter().zip(&plan.guests) {
            assert_eq!(memory.boot_assign(&mut pool, pages(guest)), pages(guest));
        }
    }
    let pool = Arc::new(TicketMutex::new(pool));
    for (index, (memory, guest)) in memories.iter().zip(&plan.guests).enumerate() {
        let mut hw = FakeHw {
            guest: index,
            max_pages: memory.max_pages(),
            machine: Default::default(),
            pool: pool.clone(),
        };
        assert!(memory.begin_rebuild(&pool, pages(guest)));
        let backed = loop {
            if let Some(backed) = memory.rebuild_step(&pool, &mut hw).backed_pages {
                break backed;
            }
        };
        // It is 0 if a bank found nothing.
        assert_eq!(backed, pages(guest));
    }
}

fn ragged() -> impl Strategy<Value = Memory> {
    let ram = prop::collection::vec((0_u64..3000, 1_u64..20_000), 1..6);
    let piece = (0_u64..1000, 0..6 * MIB);
    let pieces = prop::collection::vec(piece.clone(), 0..6);
    (0_u64..1024, ram, pieces, piece).prop_map(|(base, ram, pieces, last)| {
        let first = 0x4000_0000 + base * PAGE_SIZE;
        let mut at = first;
        let mut place = |(gap, pages)| {
            let start = at + gap * PAGE_SIZE;
            at = start + pages * PAGE_SIZE;
            range(start, pages * PAGE_SIZE)
        };
        // Ranges that touch are one range to a board.
        let ram = crate::board::subtract(&ram.into_iter().map(&mut place).collect::<Vec<_>>(), &[]);
        let taken = |(part, size)| range(first + (at - first) / 1000 * part, size);
        let reserved = taken(last);
        let mut held: Vec<_> = pieces.into_iter().map(taken).collect();
        Memory {
            ram,
            reserved: crate::board::subtract(&[reserved], &[]),
            initrd: held.pop(),
            held,
        }
    })
}

#[test]
fn qemu_boards_are_given_away_to_the_last_block() {
    let one = vec![(0, 0, vec![])];
    let two = vec![
        (400, 100, vec![(0, 1), (3, 1), (600, 1025)]),
        (0, 2, vec![(7, 512)]),
    ];
    for mib in [512, 1024, 2048, 4096, 8192] {
        for wishes in [&one, &two] {
            for spare in [-1, 0] {
                judge(&Memory::virt(mib), wishes, spare, BootFrames::Fresh);
            }
        }
    }
    judge(&Memory::virt(512), &two, 0, BootFrames::Scrub);
}

#[test]
fn ram_in_too_many_pieces_is_refused() {
    let tree = DeviceTree::new(TWO_LINUX).unwrap();
    let board = Board {
        ram: (0..17).map(|piece| range(piece << 30, 512 * MIB)).collect(),
        ..Board::from_dt(&tree).unwrap()
    };
    let partitions = Partitions::parse(&tree, &board).unwrap();
    let refusals = admit(&board, &partitions, &[]).problems;
    assert_eq!(
        refusals.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["/memory: RAM lies in more than 16 separate regions"]
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn every_admitted_plan_is_backed(
        memory in ragged(),
        wishes in prop::collection::vec(
            (0_u64..300, 0_u64..20, prop::collection::vec((0_u64..600, 1_u64..1200), 0..4)),
            1..5,
        ),
        spare in -2_i64..4,
        frames in prop::sample::select(&[BootFrames::Fresh, BootFrames::Scrub][..]),
    ) {
        judge(&memory, &wishes, spare, frames);
    }
}
