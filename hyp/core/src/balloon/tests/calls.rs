//! The calls one by one.

use ballast_abi::EntryStatus::*;
use ballast_abi::{Order, Status, function};

use super::world::*;
use crate::addr::{BLOCK_SIZE, GIB, Ipa, IpaRange, MIB, PAGE_SIZE, Pa, PaRange};
use crate::balloon::idle::scrub_step;
use crate::balloon::{Counter, GuestMemory, MemoryConfig, budget};
use crate::frames::{GuestId, Owner};
use crate::stage2::{Layout, LayoutError, Verdict};

#[test]
fn whole_blocks_go_and_come_back_zero() {
    let mut world = world(6, &[(4, 6, 1)]);
    world.hello(0);
    assert_eq!(world.touch_all(0), Ok(4 * 512));
    assert_eq!(
        world.reserve(0, &[block(1), block(3), block(1)]),
        [Done, Done, NotBacked]
    );
    world.check();
    assert_eq!(world.pool.lock().counts().dirty, 1024);
    assert_eq!(world.touch(0, 512), Ok(false));
    world.set_target(0, 6 * 512);
    let back = world.release(0, &[block(3), block(1), block(4), block(5), block(0)]);
    assert_eq!(back, [Done, Done, Done, Done, AlreadyBacked]);
    world.check();
    assert_eq!(world.touch_all(0), Ok(6 * 512));
    let stats = &world.guests[0].memory.stats;
    assert_eq!((stats.reserved[3].get(), stats.released[3].get()), (2, 4));
    assert_eq!(stats.scrubbed_pages.get(), 1024);
}

#[test]
fn a_guests_own_page_moves_whole_or_not_at_all() {
    let mut world = world(5, &[(3, 4, 0), (2, 2, 0)]);
    let list = RAM.0;
    for bad in [1, 3, 5, 8, 10, 4 | 1 << 8, u64::MAX] {
        let outcome = world.call(0, function::HELLO, [list, bad, 0, 0]);
        assert_eq!(status(outcome), Status::InvalidParameters, "{bad}");
    }
    world.guests[0].granule = Order::Pages4;
    world.hello(0);
    world.hello(1);
    world.touch_all(0).unwrap();
    // Alone and in a stretch; the first makes a table.
    let judged = world.reserve(
        0,
        &[
            page(512),
            quad(512 + 4),
            quad(512 + 8),
            page(512 + 12),
            run(512 + 16),
            quad(0),
        ],
    );
    assert_eq!(judged, [WrongOrder, Done, Done, WrongOrder, Done, Pinned]);
    assert_eq!(
        world.reserve(0, &[quad(512 + 17), quad(512 + 16)]),
        [Unaligned, NotBacked]
    );
    world.check_granules();
    assert_eq!(world.touch_all(0), Ok(3 * 512 - 24));
    // Each block's table is a frame of it.
    let single: Vec<_> = (512..512 + 6).map(page).collect();
    assert_eq!(world.reserve(1, &single), [Done; 6]);
    assert_eq!(world.pool.lock().counts().free(), 23 + 5);
    let stats = &world.guests[0].memory.stats;
    assert_eq!(stats.reserved.each_ref().map(Counter::get), [0, 2, 1, 0]);
    // 24 pages and a table; then three frames are left, which are no 16 KiB.
    world.set_target(0, 4 * 512);
    let back = world.release(
        0,
        &[
            page(512 + 4),
            quad(512 + 4),
            quad(512 + 20),
            run(1536),
            quad(1536 + 16),
            quad(1536),
        ],
    );
    assert_eq!(
        back,
        [WrongOrder, Done, Done, Done, NoMemory, AlreadyBacked]
    );
    assert_eq!(world.pool.lock().counts().free(), 3);
    world.check();
    world.check_granules();
    assert_eq!(world.touch_all(0), Ok(3 * 512));
}

#[test]
fn a_split_pays_for_its_table_and_merges_at_the_end() {
    let mut world = world(4, &[(3, 3, 0)]);
    world.hello(0);
    world.touch_all(0).unwrap();
    let home = world.guests[0]
        .memory
        .stage2
        .translate(&mut world.guests[0].hw.clone(), Ipa(RAM.0 + BLOCK_SIZE))
        .unwrap();
    assert_eq!(world.reserve(0, &[page(512 + 5)]), [Done]);
    assert!(matches!(
        world.pool.lock().owner(Pa(home.0 + 5 * PAGE_SIZE)),
        Some(Owner::Table(..))
    ));
    assert_eq!(
        world.reserve(0, &[page(512 + 7), run(512 + 16)]),
        [Done, Done]
    );
    world.check();
    assert_eq!(world.pool.lock().counts().free(), 512 + 17);
    assert_eq!(world.touch_all(0), Ok(3 * 512 - 18));
    // In the order they went: the table has to move once.
    assert_eq!(
        world.release(0, &[page(512 + 5), page(512 + 7), run(512 + 16)]),
        [Done; 3]
    );
    world.check();
    let stats = &world.guests[0].memory.stats;
    assert_eq!(
        (
            stats.splits.get(),
            stats.merges.get(),
            stats.table_moves.get()
        ),
        (1, 1, 1)
    );
    assert_eq!(world.pool.lock().counts().free(), 512);
    assert_eq!(world.touch_all(0), Ok(3 * 512));
}

#[test]
fn a_block_that_goes_page_by_page_comes_back_page_by_page() {
    for descending in [false, true] {
        let mut world = world(3, &[(2, 2, 0)]);
        world.hello(0);
        let mut pages: Vec<_> = (512..1024).map(page).collect();
        assert!(
            world
                .reserve(0, &pages)
                .iter()
                .all(|&status| status == Done)
        );
        world.check();
        assert_eq!(world.pool.lock().counts().free(), 1024);
        if descending {
            pages.reverse();
        }
        assert!(
            world
                .release(0, &pages)
                .iter()
                .all(|&status| status == Done)
        );
        world.check();
        let stats = &world.guests[0].memory.stats;
        assert_eq!(
            (stats.splits.get(), stats.merges.get()),
            (1, 1),
            "descending {descending}"
        );
        assert_eq!(world.touch_all(0), Ok(1024));
    }
}

#[test]
fn a_whole_block_of_single_pages_can_be_reserved_at_once() {
    let mut world = world(4, &[(2, 2, 0), (1, 1, 0)]);
    world.hello(0);
    world.hello(1);
    // Guest 1 takes one of guest 0's frames, so guest 0's block cannot merge.
    assert_eq!(world.reserve(0, &[page(600)]), [Done]);
    assert_eq!(world.reserve(0, &[block(1)]), [NotBacked]);
    assert_eq!(world.release(0, &[page(600)]), [Done]);
    assert_eq!(world.reserve(0, &[block(1)]), [Done]);
    world.check();
}

#[test]
fn scattered_blocks_are_reserved_at_once_too() {
    let mut world = world(3, &[(2, 2, 0), (1, 2, 0)]);
    world.hello(0);
    world.hello(1);
    world.set_target(1, 1024);
    // Guest 0 gives two pages, of which one frame is its table; guest 1 cannot have a table and a page of one frame.
    assert_eq!(world.reserve(0, &[page(600), page(601)]), [Done, Done]);
    assert_eq!(world.release(1, &[page(512)]), [NoMemory]);
    assert_eq!(world.reserve(0, &[page(602)]), [Done]);
    assert!(
        world.pending().contains(world.guests[1].memory.guest()),
        "woken"
    );
    assert_eq!(world.release(1, &[page(512)]), [Done]);
    world.check();
    // Guest 0's frames are in use, so its pages come back in some of guest 1's.
    assert_eq!(
        world.release(0, &[page(600), page(601), page(602)]),
        [NoMemory; 3]
    );
    let given: Vec<_> = (100..105).map(page).collect();
    assert_eq!(world.reserve(1, &given), [Done; 5]);
    assert_eq!(
        world.release(0, &[page(600), page(601), page(602)]),
        [Done; 3]
    );
    world.check();
    assert_eq!(world.touch_all(0), Ok(1024));
    assert_eq!(world.guests[0].memory.stats.merges.get(), 0);
    assert_eq!(world.reserve(0, &[block(1)]), [Done]);
    world.check();
    assert_eq!(world.touch_all(0), Ok(512));
    // Only guest 1's frames are missing for guest 0's old block to be whole.
    assert_eq!(world.reserve(1, &[page(512)]), [Done]);
    assert_eq!(world.release(0, &[block(1)]), [Done]);
    world.check();
    assert_eq!(world.touch_all(0), Ok(1024));
}

#[test]
fn limits_hold() {
    let mut world = world(8, &[(4, 6, 2)]);
    world.hello(0);
    assert_eq!(
        world.reserve(0, &[block(1), block(2), block(3)]),
        [Done, Done, BelowMinimum]
    );
    assert_eq!(world.reserve(0, &[page(3 * 512)]), [BelowMinimum]);
    world.set_target(0, 3 * 512);
    assert_eq!(world.release(0, &[block(1), block(2)]), [Done, OverTarget]);
    assert_eq!(world.release(0, &[page(1024)]), [OverTarget]);
    world.check();
}

#[test]
fn a_guest_that_found_nothing_is_woken_when_there_is_something() {
    let mut world = world(4, &[(2, 4, 0), (2, 4, 0)]);
    world.hello(0);
    world.hello(1);
    for guest in 0..2 {
        world.call(guest, function::TARGET, [0; 4]);
    }
    assert!(world.pending().is_empty());
    world.set_target(0, 3 * 512);
    let fetched = world.call(0, function::TARGET, [0; 4]);
    assert_eq!(fetched.registers[1], 512);
    assert_eq!(world.release(0, &[block(2)]), [NoMemory]);
    assert!(world.pending().is_empty());
    assert_eq!(world.reserve(1, &[block(1)]), [Done]);
    assert!(world.pending().contains(world.guests[0].memory.guest()));
    assert_eq!(world.release(0, &[block(2)]), [Done]);
    world.check();
}

#[test]
fn goodbye_unpins_the_list_page_and_keeps_what_is_reserved() {
    let mut world = world(4, &[(3, 4, 0)]);
    world.hello(0);
    assert_eq!(world.reserve(0, &[block(2)]), [Done]);
    let epoch = world.guests[0].epoch;
    let goodbye =
        |world: &mut World, epoch| status(world.call(0, function::GOODBYE, [epoch, 0, 0, 0]));
    assert_eq!(goodbye(&mut world, epoch + 1), Status::WrongEpoch);
    assert_eq!(goodbye(&mut world, epoch), Status::Success);
    assert_eq!(goodbye(&mut world, epoch), Status::NoDriver);
    assert!(!world.guests[0].memory.has_driver());
    let reserve = status(world.call(0, function::RESERVE, [1, epoch, 0, 0]));
    assert_eq!(reserve, Status::NoDriver);
    assert_eq!(world.guests[0].memory.backed_pages(), Some(2 * 512));
    world.check();
}

#[test]
fn nothing_is_done_without_hello_or_with_an_old_epoch() {
    let mut world = world(4, &[(2, 4, 0)]);
    let status_of = |world: &mut World, function, args| status(world.call(0, function, args));
    assert_eq!(
        status_of(&mut world, function::RESERVE, [1, 0, 0, 0]),
        Status::NoDriver
    );
    world.hello(0);
    let old = world.guests[0].epoch;
    world.hello(0);
    assert_eq!(
        status_of(&mut world, function::RESERVE, [1, old, 0, 0]),
        Status::WrongEpoch
    );
    let epoch = world.guests[0].epoch;
    for n in [0, 513, 1 << 31, (1 << 32) + 1, 1 << 63, u64::MAX] {
        assert_eq!(
            status_of(&mut world, function::RESERVE, [n, epoch, 0, 0]),
            Status::InvalidParameters
        );
        assert_eq!(
            status_of(&mut world, function::RELEASE, [n, epoch, 0, 0]),
            Status::InvalidParameters
        );
    }
    assert_eq!(
        status_of(&mut world, function::REPORT, [1, 1, 1001, 0]),
        Status::InvalidParameters
    );
    assert_eq!(
        status_of(&mut world, function::REPORT, [1, 2, 3, 4]),
        Status::Success
    );
    assert_eq!(world.guests[0].memory.report.get().refaults, 4);
    world.check();
}

#[test]
fn query_tells_what_is_there() {
    let mut world = world(8, &[(4, 6, 0)]);
    world.hello(0);
    let query = |world: &mut World, number: u64| {
        let outcome = world.call(0, function::QUERY, [RAM.0 + number * PAGE_SIZE, 0, 0, 0]);
        assert_eq!(status(outcome), Status::Success);
        (outcome.registers[1], outcome.registers[2])
    };
    assert_eq!(query(&mut world, 0), (1, 4 * 512));
    assert_eq!(query(&mut world, 4 * 512 + 3), (0, 2 * 512 - 3));
    world.reserve(0, &[page(700), run(720), block(3)]);
    assert_eq!(query(&mut world, 0), (1, 700));
    assert_eq!(query(&mut world, 700), (0, 1));
    assert_eq!(query(&mut world, 701), (1, 19));
    assert_eq!(query(&mut world, 730), (0, 6));
    assert_eq!(query(&mut world, 736), (1, 3 * 512 - 736));
    assert_eq!(query(&mut world, 3 * 512), (0, 3 * 512));
    for ipa in [
        0,
        RAM.0 - PAGE_SIZE,
        RAM.0 + 1,
        RAM.0 + 6 * BLOCK_SIZE,
        u64::MAX,
    ] {
        assert_eq!(
            status(world.call(0, function::QUERY, [ipa, 0, 0, 0])),
            Status::InvalidParameters
        );
    }
}

#[test]
fn pressure_gives_back_what_was_configured_and_no_more() {
    let mut world = world(8, &[(4, 6, 1)]);
    world.hello(0);
    world.set_target(0, 2 * 512);
    world.reserve(0, &[block(3), block(2)]);
    let relieved = world.call(0, function::PRESSURE, [512, 0, 0, 0]);
    assert_eq!(relieved.registers[1], 3 * 512);
    let relieved = world.call(0, function::PRESSURE, [u64::MAX, 0, 0, 0]);
    assert_eq!(relieved.registers[1], 2 * 512);
    assert_eq!(
        world.release(0, &[block(3), block(2), block(4)]),
        [Done, Done, OverTarget]
    );
}

#[test]
fn pressure_gives_what_a_guests_own_pages_can_take() {
    let mut world = world(5, &[(3, 3, 0), (2, 3, 0)]);
    world.guests[0].granule = Order::Pages4;
    world.hello(0);
    world.hello(1);
    world.set_target(0, 2 * 512);
    assert_eq!(world.reserve(0, &[block(2)]), [Done]);
    // The other takes most of it, and a table: 11 frames are left.
    world.set_target(1, 3 * 512);
    let single: Vec<_> = (1024..1024 + 500).map(page).collect();
    assert!(world.release(1, &single).iter().all(|&s| s == Done));
    assert_eq!(world.pool.lock().counts().free(), 11);
    let relieved = world.call(0, function::PRESSURE, [1, 0, 0, 0]);
    assert_eq!(relieved.registers[1], 512 - 4);
    let relieved = world.call(0, function::PRESSURE, [u64::MAX, 0, 0, 0]);
    assert_eq!(relieved.registers[1], 512 - 4 - 8);
    // The same while another of its calls is in progress.
    {
        let Guest { memory, hw, .. } = &world.guests[0];
        let _other = memory.ledger.lock();
        let relieved = memory.call(
            &world.pool,
            &mut hw.clone(),
            function::PRESSURE,
            [1, 0, 0, 0],
        );
        assert_eq!(relieved.unwrap().registers[1], 512 - 4 - 8 - 4);
    }
}

#[test]
fn one_gib_entries_open_when_something_in_them_goes() {
    let ram = [PaRange {
        start: Pa(0x8000_0000 - 4 * MIB),
        size: GIB + 16 * MIB,
    }];
    let mut world = world_over(&ram, &[], &[(514, 516, 0)]);
    world.hello(0);
    let guest = &mut world.guests[0];
    assert_eq!(
        guest.memory.stage2.translate(&mut guest.hw, RAM),
        Some(Pa(0x8000_0000))
    );
    let before = world.machine.lock().unwrap().invalidations;
    assert_eq!(world.reserve(0, &[block(7), page(9 * 512)]), [Done, Done]);
    // The level-1 entry, the split, and the batch.
    assert_eq!(world.machine.lock().unwrap().invalidations - before, 3);
    world.check();
}

#[test]
fn large_scrubs_are_cut_into_calls() {
    let mut world = world(3, &[(2, 3, 0)]);
    world.hello(0);
    world.touch_all(0).unwrap();
    world.set_target(0, 3 * 512);
    assert_eq!(world.reserve(0, &[block(1)]), [Done]);
    assert_eq!(
        world.release(0, &[block(2)]),
        [Done],
        "a zero one comes first"
    );
    let before = world.machine.lock().unwrap().scrubbed;
    let (statuses, consumed) = world.try_move(0, function::RELEASE, &[block(1)]);
    assert_eq!((statuses, consumed), (vec![], 0));
    let scrubbed = world.machine.lock().unwrap().scrubbed - before;
    assert!(scrubbed > 200 && scrubbed <= u64::from(budget::SCRUB_MOST));
    world.check();
    assert_eq!(world.release(0, &[block(1)]), [Done]);
    assert_eq!(
        world.machine.lock().unwrap().scrubbed - before,
        512,
        "nothing is scrubbed twice"
    );
    world.check();
    world.touch_all(0).unwrap();
}

#[test]
fn idle_cores_scrub_everything() {
    let mut world = world(4, &[(3, 3, 0)]);
    world.hello(0);
    world.touch_all(0).unwrap();
    world.reserve(
        0,
        &[block(1), page(1030), page(1031), page(1032), run(1040)],
    );
    let before = world.pool.lock().counts().free();
    world.scrub_all();
    world.check();
    let pool = world.pool.lock();
    assert_eq!((pool.counts().dirty, pool.counts().free()), (0, before));
    drop(pool);
    let hw = &mut world.guests[0].hw.clone();
    assert!(scrub_step(&world.pool, hw, 1).is_none());
}

#[test]
fn aborts_are_judged_by_ownership() {
    let mut world = world(4, &[(2, 4, 0)]);
    world.hello(0);
    world.reserve(0, &[page(600)]);
    let guest = &mut world.guests[0];
    let stage2 = &guest.memory.stage2;
    let mut judge = |ipa| stage2.judge(&mut guest.hw, Ipa(ipa));
    assert_eq!(judge(RAM.0 + 600 * PAGE_SIZE), Verdict::NotOwned);
    assert_eq!(
        judge(RAM.0 + 601 * PAGE_SIZE),
        Verdict::Refault,
        "valid by now"
    );
    assert_eq!(judge(RAM.0), Verdict::Refault);
    assert_eq!(judge(RAM.0 + 2 * BLOCK_SIZE), Verdict::NotOwned);
    for ipa in [
        0,
        0x0900_0000,
        RAM.0 - 1,
        RAM.0 + GIB,
        1 << 39,
        1 << 48,
        u64::MAX,
    ] {
        assert_eq!(judge(ipa), Verdict::NotOwned);
    }
    let broken = stage2.break_entry((RAM.0 >> 21) as u32).unwrap();
    assert_eq!(judge(RAM.0 + 5), Verdict::Refault, "owned, in transition");
    let entry = crate::stage2::Descriptor::block(Pa(0x8000_0000), crate::stage2::Memory::Normal);
    broken
        .invalidate(&mut guest.hw.clone())
        .make(entry, &mut guest.hw.clone());
    world.check();
}

#[test]
fn a_reset_makes_memory_contiguous_again() {
    let mut world = world(8, &[(5, 6, 0), (1, 2, 0)]);
    world.hello(0);
    world.hello(1);
    world.touch_all(0).unwrap();
    world.set_target(1, 1024);
    world.reserve(
        0,
        &[block(0), block(2), page(512 * 3 + 8), run(512 * 3 + 16)],
    );
    // The list page's block cannot go.
    assert_eq!(world.reserve(0, &[block(0)]), [Pinned]);
    assert_eq!(world.release(1, &[page(700)]), [Done]);
    assert_eq!(world.touch(1, 700), Ok(true));
    assert_eq!(world.rebuild(0, 5 * 512), 5 * 512);
    assert_eq!(world.touch_all(0), Ok(5 * 512));
    assert_eq!(world.touch_all(1), Ok(513));
    assert_eq!(world.rebuild(0, 0), 0);
    assert_eq!(world.rebuild(1, 0), 0);
    let pool = world.pool.lock();
    assert_eq!(pool.counts().free(), 8 * 512);
    drop(pool);
    world.scrub_all();
    assert_eq!(world.rebuild(1, 512), 512);
    assert_eq!(world.touch_all(1), Ok(512));
}

#[test]
fn banks_are_backed_with_the_guest_and_only_where_they_are() {
    let banks = [
        IpaRange {
            start: Ipa(0x10_0000),
            size: 0x3000,
        },
        IpaRange {
            start: Ipa(0x1_c000_0000 - PAGE_SIZE),
            size: BLOCK_SIZE + 2 * PAGE_SIZE,
        },
    ];
    let mut world = world(8, &[]);
    let config = MemoryConfig {
        guest: GuestId::new(0).unwrap(),
        memory_pages: 1024,
        min_pages: 0,
        identity: false,
        realtime: false,
        cpu_targets: false,
    };
    let layout = Layout {
        ram: &[IpaRange {
            start: RAM,
            size: 4 * MIB,
        }],
        banks: &banks,
        devices: &[],
    };
    let table = core::cell::Cell::new(0x10_0000);
    let memory = GuestMemory::new(config, &layout, |_| {
        table.set(table.get() + PAGE_SIZE);
        Pa(table.get())
    });
    let memory = memory.unwrap();
    let hw = FakeHw {
        guest: 0,
        max_pages: memory.max_pages(),
        machine: world.machine.clone(),
        pool: world.pool.clone(),
    };
    world.guests.push(Guest {
        ram: vec![IpaRange {
            start: RAM,
            size: 4 * MIB,
        }],
        memory,
        hw,
        written: Default::default(),
        epoch: 0,
        granule: Order::Page,
    });
    let rebuild = |world: &mut World, goal| {
        let Guest { memory, hw, .. } = &mut world.guests[0];
        assert!(memory.begin_rebuild(&world.pool, goal));
        loop {
            if let Some(pages) = memory.rebuild_step(&world.pool, hw).backed_pages {
                return pages;
            }
        }
    };
    let used = |world: &World| {
        let counts = *world.pool.lock().counts();
        [counts.guests[0], counts.beside]
    };
    for _ in 0..2 {
        assert_eq!(rebuild(&mut world, 1024), 1024);
        // Parts in four blocks beside RAM's two.
        assert_eq!(used(&world), [2 * 512, 4 * 512]);
        let Guest { memory, hw, .. } = &mut world.guests[0];
        let backed = [
            0x10_0000,
            0x10_2fff,
            0x1_bfff_f000,
            0x1_c000_0000,
            0x1_c020_0000,
            RAM.0,
        ];
        let absent = [
            0xf_f000,
            0x10_3000,
            0x1_bfff_e000,
            0x1_c020_1000,
            RAM.0 + 4 * MIB,
        ];
        assert!(
            backed
                .iter()
                .all(|&ipa| memory.stage2.translate(hw, Ipa(ipa)).is_some())
        );
        assert!(
            absent
                .iter()
                .all(|&ipa| memory.stage2.translate(hw, Ipa(ipa)).is_none())
        );
        let pa = memory.stage2.translate(hw, Ipa(0x10_1008)).unwrap();
        let owner = world.pool.lock().owner(pa);
        assert_eq!(owner, Some(Owner::Guest(memory.guest(), Ipa(0x10_1000))));
        assert_eq!(rebuild(&mut world, 1024), 1024, "a reset keeps them");
        assert_eq!(used(&world), [2 * 512, 4 * 512]);
        assert_eq!(rebuild(&mut world, 0), 0);
        assert_eq!(used(&world), [0, 0]);
    }
    let overlap = Layout {
        banks: &[IpaRange {
            start: RAM,
            size: PAGE_SIZE,
        }],
        ..layout
    };
    assert_eq!(
        GuestMemory::new(config, &overlap, |_| Pa(0)).err(),
        Some(LayoutError::Overlap(RAM))
    );
}
