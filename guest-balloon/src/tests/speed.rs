//! The rate follows the guest's allocator: within 20 % of what it delivers, and a change within 2 s.

use super::world::{TICKS_PER_SECOND, World};
use crate::{Driver, Rate};

/// A second of an allocator that gives `rate` pages a second: what was got, and the driver's own rate on average.
fn assert_settled(world: &mut World, driver: &mut Driver, rate: u64) {
    let (before, start) = (driver.reserved_pages(), world.now);
    let mut own = 0;
    for hundredth in 1..=100 {
        let end = start + hundredth * TICKS_PER_SECOND / 100;
        assert!(!world.run(driver, end), "the target is out of reach");
        own += driver.pages_per_second() / 100;
    }
    // The driver may have waited past the end.
    let got = (driver.reserved_pages() - before) * TICKS_PER_SECOND / (world.now - start);
    assert!(
        got.abs_diff(rate) * 5 <= rate,
        "got {got} pages in a second of an allocator that gives {rate}"
    );
    assert!(
        own.abs_diff(rate) * 5 <= rate,
        "the driver's rate is {own} where the allocator gives {rate}"
    );
}

#[test]
fn settles_at_the_allocators_rate_and_follows_it() {
    for rates in [
        [5_000, 1_500, 10_000],
        [1_000, 8_000, 1_000],
        [12_000, 800, 5_000],
    ] {
        let mut world = World::new(180, 180);
        let mut driver = world.driver();
        world.set_target(512 * 180);
        for rate in rates {
            world.allocator_rate = Some(rate);
            // Two seconds to follow, one to be measured in.
            assert!(!world.run_seconds(&mut driver, 2));
            assert_settled(&mut world, &mut driver, rate);
            world.check(&driver);
        }
    }
}

#[test]
fn an_unlimited_allocator_is_not_held_back() {
    let mut world = World::new(1024, 1024);
    let mut driver = world.driver();
    world.set_target(512 * 1000);
    let start = world.now;
    assert!(world.run_seconds(&mut driver, 10));
    // 2 GB; from 1 GiB/s on, doubling each 10 ms.
    assert!(
        world.now - start < TICKS_PER_SECOND / 10,
        "took {} us",
        world.now - start
    );
}

#[test]
fn release_is_never_limited() {
    let mut world = World::new(256, 256);
    let mut driver = world.driver();
    world.set_target(512 * 200);
    assert!(world.run_seconds(&mut driver, 10));
    world.allocator_rate = Some(10);
    world.set_target(0);
    let start = world.now;
    assert!(world.run_seconds(&mut driver, 10));
    assert!(world.now - start < 10, "no waiting at all");
}

#[test]
fn a_dead_allocator_is_asked_once_a_second() {
    let mut world = World::new(16, 16);
    let mut driver = world.driver();
    world.set_target(512 * 8);
    world.allocator_rate = Some(0);
    assert!(!world.run_seconds(&mut driver, 3));
    let failed = world.failed_requests;
    assert!(!world.run_seconds(&mut driver, 10));
    assert!(
        world.failed_requests - failed <= 3 * 11,
        "{} requests in 10 s",
        world.failed_requests - failed
    );
    assert_eq!(driver.reserved_pages(), 0);
}

#[test]
fn rate_keeps_its_arithmetic_at_the_edges() {
    let mut rate = Rate::new(u64::MAX - 10, 0);
    assert!(rate.allowance(u64::MAX) > 0);
    rate.took(u64::MAX, true);
    assert_eq!(rate.allowance(u64::MAX), 0);
    assert_eq!(rate.next_allowance_at(), u64::MAX);
    assert_eq!(rate.back_off_until(u64::MAX), u64::MAX);
    assert_eq!(
        rate.allowance(0),
        0,
        "a clock that goes back is a clock that stands"
    );
}
