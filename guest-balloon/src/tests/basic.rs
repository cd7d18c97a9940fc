//! One promise a test.

use ballast_abi::{Order, Status};

use super::world::{Page, World};
use crate::{Driver, HelloError, Next, Report, State};

#[test]
fn down_and_up_and_rest() {
    let mut world = World::new(16, 16);
    let mut driver = world.driver();
    for target in [0, 512 * 8, 512 * 8 + 17, 100, 0] {
        world.set_target(target);
        assert!(world.run_seconds(&mut driver, 10));
        assert_eq!(driver.reserved_pages(), target);
        world.check(&driver);
    }
    let calls = world.calls;
    assert_eq!(driver.step(&mut world), Next::Idle);
    assert_eq!(world.calls, calls, "at rest it makes no call");
}

#[test]
fn blocks_first_and_one_call_for_many() {
    let mut world = World::new(64, 64);
    let mut driver = world.driver();
    world.set_target(512 * 32);
    let calls = world.calls;
    assert!(world.run_seconds(&mut driver, 10));
    assert!(world.held.iter().all(|&(_, order)| order == Order::Block));
    // TARGET and a few batches while the rate begins, not one call per block.
    assert!(world.calls - calls < 16, "{} calls", world.calls - calls);
    let calls = world.calls;
    world.set_target(0);
    assert!(world.run_seconds(&mut driver, 10));
    assert_eq!(world.calls - calls, 2, "TARGET and one RELEASE");
}

#[test]
fn a_boot_balloon_is_adopted_and_grows_the_guest() {
    let mut world = World::new(16, 6);
    world.pool_pages = 512 * 10;
    let mut driver = world.driver();
    assert_eq!(driver.reserved_pages(), 512 * 10);
    assert!(world.held.iter().all(|&(_, order)| order == Order::Block));
    world.check(&driver);
    world.set_target(0);
    assert!(world.run_seconds(&mut driver, 1));
    assert_eq!(world.not_backed(), 0);
    world.check(&driver);
}

#[test]
fn work_bound_busy_and_unknown_answers() {
    let mut world = World::new(16, 16);
    let mut driver = world.driver();
    world.work_bound = 3;
    world.busy = 5;
    world.set_target(512 * 4 + 33);
    assert!(world.run_seconds(&mut driver, 10));
    assert_eq!(driver.reserved_pages(), 512 * 4 + 33);
    // Busy for longer than the driver tries at a stretch: the batch is taken back and tried later.
    world.busy = 500;
    world.set_target(0);
    assert!(world.run_seconds(&mut driver, 60));
    assert_eq!(driver.reserved_pages(), 0);
    world.check(&driver);
    // Never anything consumed: no endless loop, and nothing is lost.
    world.work_bound = 0;
    world.set_target(512);
    assert!(!world.run_seconds(&mut driver, 1));
    world.check(&driver);
}

#[test]
fn wrong_epoch_makes_it_stale_and_does_nothing() {
    let mut world = World::new(16, 16);
    let mut old = world.driver();
    world.set_target(512 * 3);
    assert!(world.run_seconds(&mut old, 1));
    let held = world.held.clone();
    world.epoch += 1;
    world.set_target(512 * 5);
    assert!(world.run_seconds(&mut old, 1));
    assert_eq!(old.state(), State::Stale);
    world.check(&old);
    assert_eq!(world.held, held);
    assert_eq!(old.step(&mut world), Next::Idle);
}

#[test]
fn a_successor_adopts_what_is_held() {
    let mut world = World::new(16, 16);
    let mut old = world.driver();
    world.set_target(512 * 3 + 40);
    assert!(world.run_seconds(&mut old, 1));
    // The record is lost with the old driver; the pages stay marked.
    world.held.clear();
    for page in world.guest().iter_mut().filter(|page| **page == Page::Held) {
        *page = Page::Listed;
    }
    let mut new = world.driver();
    assert_eq!(new.reserved_pages(), 512 * 3 + 40);
    world.check(&new);
    world.set_target(0);
    assert!(world.run_seconds(&mut new, 1));
    assert_eq!(world.not_backed(), 0);
    world.check(&new);
}

#[test]
fn after_goodbye_it_does_nothing() {
    let mut world = World::new(16, 16);
    let mut driver = world.driver();
    world.set_target(512);
    assert!(world.run_seconds(&mut driver, 1));
    driver.goodbye(&mut world);
    assert_eq!((driver.state(), world.epoch), (State::New, 0));
    let calls = world.calls;
    world.set_target(1024);
    driver.on_interrupt(&mut world);
    driver.goodbye(&mut world);
    assert_eq!(driver.step(&mut world), Next::Idle);
    assert_eq!((world.calls, world.not_backed()), (calls, 512));
}

#[test]
fn no_memory_waits_for_the_interrupt() {
    let mut world = World::new(16, 8);
    let mut driver = world.driver();
    world.set_target(0);
    assert!(world.run_seconds(&mut driver, 1));
    assert_eq!(driver.reserved_pages(), 512 * 8);
    let calls = world.calls;
    assert_eq!(driver.step(&mut world), Next::Idle);
    assert_eq!(world.calls, calls, "it does not poll");
    // The probe for smaller runs has split one block at most.
    assert!(
        world
            .held
            .iter()
            .filter(|&&(_, order)| order == Order::Block)
            .count()
            >= 7
    );
    for _ in 0..20 {
        world.grow_pool(300);
        assert!(world.run_seconds(&mut driver, 1));
        world.check(&driver);
    }
    assert_eq!(driver.reserved_pages(), 0);
}

#[test]
fn blocks_are_waited_for_a_quarter_of_a_second() {
    let mut world = World::new(16, 8);
    world.pool_pages = 512 * 8;
    world.pool_fragmented = true;
    let mut driver = world.driver();
    world.set_target(0);
    let start = world.now;
    assert!(!world.run(&mut driver, start + 200_000));
    assert_eq!(
        driver.reserved_pages(),
        512 * 8,
        "small runs while blocks may still come"
    );
    world.pool_fragmented = false;
    world.set_target(0);
    assert!(world.run(&mut driver, start + 300_000));
    assert_eq!(driver.counters().released_pages, 512 * 8);
    assert!(world.held.is_empty());
}

#[test]
fn pressure_takes_small_runs_at_once() {
    let mut world = World::new(16, 8);
    world.pool_pages = 512 * 8;
    world.pool_fragmented = true;
    let mut driver = world.driver();
    driver.pressure(&mut world, 1000);
    assert!(world.run(&mut driver, 1000));
    assert_eq!(driver.reserved_pages(), 512 * 8 - 1000);
}

/// What others give for it may come later, and in pieces.
#[test]
fn pressure_takes_small_runs_as_they_come() {
    let mut world = World::new(16, 8);
    world.pool_fragmented = true;
    let mut driver = world.driver();
    driver.pressure(&mut world, 1024);
    while driver.step(&mut world) == Next::Again {}
    world.pool_pages = 300;
    world.set_target(512 * 8 - 1024);
    driver.on_interrupt(&mut world);
    let mut next = Next::Again;
    while next == Next::Again {
        next = driver.step(&mut world);
    }
    assert_eq!((next, driver.reserved_pages()), (Next::Idle, 512 * 8 - 300));
}

#[test]
fn smaller_runs_when_the_pool_has_no_blocks() {
    let mut world = World::new(16, 8);
    world.pool_pages = 512 * 8;
    world.pool_fragmented = true;
    let mut driver = world.driver();
    world.set_target(0);
    assert!(world.run_seconds(&mut driver, 1));
    assert_eq!(driver.reserved_pages(), 0);
    world.check(&driver);
}

#[test]
fn smaller_runs_when_the_guest_has_no_blocks() {
    let mut world = World::new(16, 16);
    for block in world.guest().chunks_mut(512) {
        block[200] = Page::Used;
    }
    let mut driver = world.driver();
    world.set_target(512 * 6);
    assert!(world.run_seconds(&mut driver, 10));
    assert_eq!(driver.reserved_pages(), 512 * 6);
    world.check(&driver);
}

#[test]
fn floor_is_kept_and_tried_again() {
    let mut world = World::new(16, 16);
    world.floor_pages = 512 * 10;
    let mut driver = world.driver();
    world.set_target(512 * 12);
    assert!(!world.run_seconds(&mut driver, 5));
    assert!(
        world
            .pages
            .iter()
            .filter(|&&page| page == Page::Free)
            .count() as u64
            >= world.floor_pages
    );
    assert!(driver.counters().floor < 20, "it asks rarely");
    world.floor_pages = 512;
    assert!(world.run_seconds(&mut driver, 5));
    assert_eq!(driver.reserved_pages(), 512 * 12);
}

#[test]
fn minimum_and_whole_blocks_of_ballast() {
    let mut world = World::new(16, 16);
    world.minimum_pages = 512 * 12;
    let mut driver = world.driver();
    world.set_target(512 * 8);
    assert!(world.run_seconds(&mut driver, 5));
    assert_eq!(driver.reserved_pages(), 512 * 4);
    world.check(&driver);

    let mut world = World::new(16, 16);
    world.blocks_only = true;
    let mut driver = world.driver();
    world.set_target(512 * 2 + 5);
    assert!(world.run_seconds(&mut driver, 5));
    assert_eq!(driver.reserved_pages(), 512 * 2);
    world.set_target(512 + 5);
    assert!(world.run_seconds(&mut driver, 5));
    assert_eq!(
        driver.reserved_pages(),
        512 * 2,
        "a block that goes below the target stays"
    );
    world.check(&driver);
}

#[test]
fn target_flips_midway() {
    let mut world = World::new(32, 32);
    let mut driver = world.driver();
    for flip in 0..200 {
        world.set_target(if flip % 2 == 0 { 512 * 20 } else { 77 });
        driver.on_interrupt(&mut world);
        driver.step(&mut world);
        world.now += 1000;
        world.check(&driver);
    }
    assert!(world.run_seconds(&mut driver, 5));
    assert_eq!(driver.reserved_pages(), 77);
}

#[test]
fn larger_pages_move_whole() {
    for (page, orders) in [
        (Order::Pages4, vec![Order::Pages4, Order::Pages16]),
        (Order::Pages16, vec![Order::Pages16]),
    ] {
        let mut world = World::with_granule(page, 16, 12);
        world.pool_pages = 512 * 4;
        let mut driver = world.driver();
        let least = page.pages();
        // Blocks that are broken: smaller runs are taken.
        for block in world.guest().chunks_mut(512).take(12) {
            block[256..][..least as usize].fill(Page::Used);
        }
        let targets = [512 * 9 + 64, 512 * 9 + 63, 512 * 5 + 1, 0, 1, 512 * 2 + 20];
        for target in targets {
            world.set_target(target);
            assert!(world.run_seconds(&mut driver, 10));
            let reserved = driver.reserved_pages();
            assert!(
                reserved.abs_diff(target) < least && reserved.is_multiple_of(least),
                "{page:?}: {reserved} for {target}"
            );
            world.check(&driver);
        }
        let mut found: Vec<_> = world.held.iter().map(|&(_, order)| order).collect();
        found.sort_unstable();
        found.dedup();
        found.retain(|&order| order != Order::Block);
        assert_eq!(found, orders);
    }
}

/// Another kernel of the same guest, with smaller pages, has given single ones.
#[test]
fn a_page_that_is_there_in_part_is_left_alone() {
    let mut world = World::new(16, 16);
    let mut old = world.driver();
    for block in world.guest().chunks_mut(512) {
        block[6..].fill(Page::Used);
    }
    world.set_target(40);
    assert!(world.run_seconds(&mut old, 10));
    old.goodbye(&mut world);
    world.held.clear();
    for page in world.guest() {
        if *page == Page::Held {
            *page = Page::Listed;
        }
    }
    let missing: Vec<bool> = world.backed.iter().map(|backed| !backed).collect();
    let whole = missing
        .chunks(4)
        .filter(|own| own.iter().all(|&m| m))
        .count() as u64
        * 4;
    world.granule = Order::Pages4;
    let mut new = world.driver();
    assert_eq!(new.reserved_pages(), 40);
    assert!(whole > 0 && whole < 40);
    assert_eq!(
        world
            .held
            .iter()
            .map(|(_, order)| order.pages())
            .sum::<u64>(),
        whole
    );
    world.set_target(0);
    assert!(world.run_seconds(&mut new, 10));
    assert_eq!(new.reserved_pages(), 40 - whole);
    assert_eq!(new.step(&mut world), Next::Idle);
}

#[test]
fn pressure_brings_memory_at_once() {
    let mut world = World::new(16, 16);
    let mut driver = world.driver();
    world.set_target(512 * 8);
    assert!(world.run_seconds(&mut driver, 5));
    assert_eq!(driver.pressure(&mut world, 1000), 1000);
    assert!(world.run_seconds(&mut driver, 1));
    assert_eq!(driver.reserved_pages(), 512 * 8 - 1000);
    world.check(&driver);
}

#[test]
fn drain_gives_what_is_granted_and_keeps_the_rest() {
    let mut world = World::new(16, 16);
    let mut driver = world.driver();
    world.set_target(512 * 8);
    assert!(world.run_seconds(&mut driver, 5));
    driver.drain();
    assert!(world.run_seconds(&mut driver, 5));
    assert_eq!(
        driver.reserved_pages(),
        512 * 8,
        "Ballast does not go above the target"
    );
    world.check(&driver);
}

#[test]
fn hello_is_refused_elsewhere() {
    struct Elsewhere;
    impl crate::Clock for Elsewhere {
        fn now(&self) -> u64 {
            0
        }
        fn ticks_per_second(&self) -> u64 {
            1000
        }
    }
    impl crate::Hypercall for Elsewhere {
        fn call_with(&mut self, _: u32, _: [u64; 4]) -> [u64; 4] {
            [Status::NotSupported.to_register(); 4]
        }
        fn list_ipa(&self) -> u64 {
            0
        }
        fn entry(&self, _: usize) -> ballast_abi::Entry {
            ballast_abi::Entry(0)
        }
        fn set_entry(&mut self, _: usize, _: ballast_abi::Entry) {}
    }
    impl crate::PageSource for Elsewhere {
        fn headroom_pages(&mut self) -> u64 {
            0
        }
        fn take(&mut self, _: Order, _: &mut [u64]) -> crate::Taken {
            crate::Taken {
                runs: 0,
                strained: true,
            }
        }
        fn give(&mut self, _: u64, _: Order) {}
        fn hold(&mut self, _: u64, _: Order) {}
        fn pick(&mut self, _: Order) -> Option<u64> {
            None
        }
        fn ram(&self, _: usize) -> Option<(u64, u64)> {
            None
        }
    }
    let mut driver = Driver::new(&Elsewhere);
    assert_eq!(driver.hello(&mut Elsewhere), Err(HelloError::NotBallast));
    assert_eq!(driver.step(&mut Elsewhere), Next::Idle);
}

#[test]
fn only_news_is_reported_and_the_run_queue_only_where_it_is_taken() {
    let mut world = World::new(8, 8);
    let report = Report {
        free_pages: 1000,
        available_pages: 2000,
        pressure: 5000,
        refaults: 7,
        runnable_milli: 2500,
    };
    let mut driver = Driver::new(&world);
    assert!(!driver.report(&mut world, report), "before hello");
    driver.hello(&mut world).unwrap();
    assert!(driver.report(&mut world, report));
    assert_eq!(world.reports, [[1000, 2000, 2500 << 32 | 1000, 7]]);
    let nearly = Report {
        available_pages: 2200,
        runnable_milli: 2700,
        ..report
    };
    assert!(!driver.report(&mut world, nearly));
    for other in [
        Report {
            available_pages: 2300,
            ..report
        },
        Report {
            runnable_milli: 1,
            ..report
        },
    ] {
        assert!(driver.report(&mut world, other));
    }
    // A Ballast that would take the upper half for pressure out of range.
    world.takes_run_queue = false;
    driver.hello(&mut world).unwrap();
    assert!(driver.report(&mut world, report));
    assert_eq!(world.reports.last(), Some(&[1000, 2000, 1000, 7]));
    driver.goodbye(&mut world);
    assert!(!driver.report(&mut world, Report::default()));
    assert_eq!(world.reports.len(), 4);
}
