//! What a hostile guest tries at the interface, at the engine's level.

use ballast_abi::EntryStatus::*;
use ballast_abi::{Entry, Order, Status, function};

use super::world::*;
use crate::addr::{BLOCK_SIZE, Ipa, PAGE_SIZE};
use crate::balloon::hw::Window;

#[test]
fn list_pages_that_are_not_the_guests_memory() {
    let mut world = world(4, &[(2, 4, 0)]);
    world.reserve_without_driver_is_refused();
    let end = RAM.0 + 4 * BLOCK_SIZE;
    let bad = [
        0,
        1,
        RAM.0 + 1,
        RAM.0 + 4,
        RAM.0 + 8,
        RAM.0 - PAGE_SIZE,
        end,
        end - 8,
        u64::MAX,
        u64::MAX - 4095,
    ];
    for list in bad
        .into_iter()
        .chain([0x8000_0000, 0x0800_0000, RAM.0 + 2 * BLOCK_SIZE])
    {
        assert_eq!(
            status(world.call(0, function::HELLO, [list, 0, 0, 0])),
            Status::InvalidAddress,
            "{list:#x}"
        );
    }
    assert_eq!(
        status(world.call(0, function::HELLO, [RAM.0, 1, 0, 0])),
        Status::InvalidParameters
    );
    world.check();
}

impl World {
    fn reserve_without_driver_is_refused(&mut self) {
        assert_eq!(
            status(self.call(0, function::RESERVE, [1, 0, 0, 0])),
            Status::NoDriver
        );
    }
}

#[test]
fn malformed_and_foreign_entries() {
    let mut world = world(6, &[(3, 4, 0), (1, 1, 0)]);
    world.hello(0);
    world.hello(1);
    let at = |ipa: u64, order| Entry::new(ipa, order);
    let end = RAM.0 + 4 * BLOCK_SIZE;
    let entries = [
        Entry(block(1).0 | 1 << 7),
        Entry(block(1).0 | 1 << 60),
        Entry(RAM.0 | 1),
        Entry(RAM.0 | 63),
        at(RAM.0 + PAGE_SIZE, Order::Block),
        at(RAM.0 + PAGE_SIZE, Order::Pages16),
        at(0, Order::Page),
        at(0x0900_0000, Order::Page),
        at(RAM.0 - BLOCK_SIZE, Order::Block),
        at(end, Order::Block),
        at(0x000f_ffff_ffff_f000, Order::Page),
        at(1 << 39 | RAM.0, Order::Page),
        page(0),
        run(0),
        block(0),
        block(3),
        block(1),
        block(1),
        page(512),
    ];
    let expected = [
        Malformed, Malformed, Malformed, Malformed, Unaligned, Unaligned, OutOfRange, OutOfRange,
        OutOfRange, OutOfRange, OutOfRange, OutOfRange, Pinned, Pinned, Pinned, NotBacked, Done,
        NotBacked, NotBacked,
    ];
    assert_eq!(world.reserve(0, &entries), expected);
    world.check();
    world.set_target(0, 4 * 512);
    let again = [
        page(512),
        page(512),
        run(512),
        block(1),
        run(528),
        page(528),
        page(5),
    ];
    let expected = [
        Done,
        AlreadyBacked,
        AlreadyBacked,
        AlreadyBacked,
        Done,
        AlreadyBacked,
        AlreadyBacked,
    ];
    assert_eq!(world.release(0, &again), expected);
    world.check();
    world.touch_all(1).unwrap();
}

#[test]
fn a_second_call_is_busy_and_a_rebuild_denies() {
    let mut world = world(4, &[(2, 4, 0)]);
    world.hello(0);
    let epoch = world.guests[0].epoch;
    let guest = &world.guests[0];
    let held = guest.memory.ledger.lock();
    let mut hw = guest.hw.clone();
    for function in [
        function::RESERVE,
        function::RELEASE,
        function::HELLO,
        function::QUERY,
    ] {
        let outcome = guest
            .memory
            .call(&world.pool, &mut hw, function, [1, epoch, 0, 0])
            .unwrap();
        assert_eq!(status(outcome), Status::Busy);
    }
    assert!(!guest.memory.begin_rebuild(&world.pool, 0));
    // These need no transaction.
    for function in [
        function::TARGET,
        function::REPORT,
        function::PRESSURE,
        function::VERSION,
    ] {
        let outcome = guest
            .memory
            .call(&world.pool, &mut hw, function, [0; 4])
            .unwrap();
        assert_eq!(status(outcome), Status::Success);
    }
    drop(held);
    assert!(guest.memory.begin_rebuild(&world.pool, 512));
    let outcome = guest
        .memory
        .call(&world.pool, &mut hw, function::RESERVE, [1, epoch, 0, 0])
        .unwrap();
    assert_eq!(status(outcome), Status::Denied);
    assert!(
        guest
            .memory
            .call(&world.pool, &mut hw, 0xc600_000b, [0; 4])
            .is_none()
    );
}

/// H8: the list is read once, so one that changes during the call is as good as one of the two.
#[test]
fn a_list_that_changes_after_it_was_copied() {
    let mut world = world(6, &[(4, 4, 0)]);
    world.hello(0);
    assert_eq!(world.reserve(0, &[block(1)]), [Done]);
    let epoch = world.guests[0].epoch;
    for round in 0..20 {
        let list = [block(1 + round % 3).0, page(512 * 2 + round).0];
        let guest = &mut world.guests[0];
        let list_page = guest.memory.stage2.translate(&mut guest.hw, RAM).unwrap();
        guest.hw.write_page(list_page, &list);
        let function = if round % 2 == 0 {
            function::RESERVE
        } else {
            function::RELEASE
        };
        // Not rewritten between the rounds either: statuses in a used list make it malformed.
        world.call(0, function, [2, epoch, 0, 0]);
        world.call(0, function, [2, epoch, 0, 0]);
        world.check();
    }
}

/// H13: tables cost nothing that the guest has not paid.
#[test]
fn every_second_page_again_and_again() {
    let rounds = if cfg!(miri) { 1 } else { 20 };
    let mut world = world(3, &[(2, 2, 0)]);
    world.hello(0);
    let total = world.pool.lock().counts().free();
    let even: Vec<_> = (512..1024).step_by(2).map(page).collect();
    for round in 0..rounds {
        assert!(world.reserve(0, &even).iter().all(|&status| status == Done));
        let counts = *world.pool.lock().counts();
        assert_eq!(counts.tables[0], 1);
        assert_eq!(counts.free(), total + 255);
        assert!(
            world.release(0, &even).iter().all(|&status| status == Done),
            "round {round}"
        );
        assert_eq!(world.pool.lock().counts().free(), total);
    }
    world.check();
    assert_eq!(world.guests[0].memory.stats.merges.get(), rounds);
}

/// H10, H11: what the checks are worth. Without the invalidation, or without the scrub, they fail.
#[test]
fn lost_invalidations_and_scrubs_are_seen() {
    let moved = |lose_invalidations, lose_scrubs| {
        let mut world = world(3, &[(2, 3, 0), (1, 2, 0)]);
        world.machine.lock().unwrap().lose_invalidations = lose_invalidations;
        world.machine.lock().unwrap().lose_scrubs = lose_scrubs;
        world.hello(0);
        world.hello(1);
        world.touch_all(0).unwrap();
        world.set_target(1, 1024);
        assert_eq!(world.reserve(0, &[block(1)]), [Done]);
        assert_eq!(world.release(1, &[block(1)]), [Done]);
        (world.touch(0, 600), world.touch(1, 600))
    };
    assert_eq!(moved(false, false), (Ok(false), Ok(true)));
    let (stale, _) = moved(true, false);
    assert!(stale.is_err_and(|error| error.contains("reached")));
    let (_, leak) = moved(false, true);
    assert!(leak.is_err_and(|error| error.contains("read")));
}

/// H14, H15: resets in every state leave every frame with one owner.
#[test]
fn resets_while_pages_are_away() {
    let mut world = world(8, &[(3, 5, 0), (3, 5, 0)]);
    for _ in 0..if cfg!(miri) { 1 } else { 10 } {
        for guest in 0..2 {
            world.hello(guest);
            world.set_target(guest, 4 * 512);
            world.reserve(guest, &[block(1), page(1030), run(1040)]);
            world.release(guest, &[page(512), run(528), block(3), page(1030)]);
            world.touch_all(guest).unwrap();
        }
        for guest in 0..2 {
            let pages = world.rebuild(guest, 3 * 512);
            assert!(pages >= 2 * 512, "{pages}");
            assert_eq!(world.touch_all(guest), Ok(pages));
            let translate = |world: &mut World, number: u64| {
                let guest = &mut world.guests[guest];
                guest
                    .memory
                    .stage2
                    .translate(&mut guest.hw, Ipa(RAM.0 + number * PAGE_SIZE))
            };
            assert_eq!(translate(&mut world, pages), None);
        }
    }
    for guest in 0..2 {
        assert_eq!(world.rebuild(guest, 0), 0);
    }
    assert_eq!(world.pool.lock().counts().free(), 8 * 512);
}

/// H7: the list page stays, also when its block is split and its neighbours go in numbers.
#[test]
fn the_list_page_stays_when_its_block_is_split() {
    let mut world = world(3, &[(2, 2, 0)]);
    world.hello(0);
    let entries = [
        page(5),
        page(6),
        page(0),
        run(0),
        run(16),
        page(1),
        block(0),
    ];
    let expected = [Done, Done, Pinned, Pinned, Done, Done, Pinned];
    assert_eq!(world.reserve(0, &entries), expected);
    world.check();
    assert_eq!(world.touch(0, 0), Ok(true));
}

/// A page that is away is backed, though its home frame has become free again.
#[test]
fn a_page_that_is_away_is_not_given_twice() {
    let mut world = world(3, &[(2, 2, 0), (1, 2, 0)]);
    world.hello(0);
    world.hello(1);
    world.set_target(1, 1024);
    let pages: Vec<_> = (600..604).map(page).collect();
    assert_eq!(world.reserve(0, &pages), [Done; 4]);
    // Guest 1 takes the home frames of 601, 602 and 603: a table and two pages.
    assert_eq!(world.release(1, &[page(512), page(513)]), [Done; 2]);
    assert_eq!(
        world.reserve(1, &[page(100), page(101), page(102)]),
        [Done; 3]
    );
    // So guest 0's page comes back in one of guest 1's; then the home frames are free again.
    assert_eq!(world.release(0, &[page(601)]), [Done]);
    assert_eq!(world.touch(0, 601), Ok(true));
    assert_eq!(world.reserve(1, &[page(512), page(513)]), [Done; 2]);
    world.check();
    let again = [page(601), page(602), page(601), page(602)];
    assert_eq!(
        world.release(0, &again),
        [AlreadyBacked, Done, AlreadyBacked, AlreadyBacked]
    );
    world.check();
    assert_eq!(world.touch(0, 601), Ok(true));
}

/// A used entry is malformed in a block with a table too, where entries are taken in stretches.
#[test]
fn a_used_entry_of_a_split_block_is_malformed() {
    let mut world = world(4, &[(2, 2, 0)]);
    world.hello(0);
    world.touch_all(0).unwrap();
    assert_eq!(world.reserve(0, &[page(512 + 488)]), [Done]);
    for status in [Done, AlreadyBacked] {
        let used = Entry::new(page(512 + 489).0, Order::Page).with_status(status);
        assert_eq!(world.reserve(0, &[used]), [Malformed]);
        let used = page(512 + 488).with_status(status);
        assert_eq!(world.release(0, &[used]), [Malformed]);
    }
    world.check();
}
