//! Random targets and failures: nothing is ever lost, and when the trouble ends the target is met.

use ballast_abi::Order;
use proptest::prelude::*;

use super::world::{Page, World};

#[derive(Clone, Debug)]
enum Event {
    Target(u64),
    Pool(u64),
    Fragmented(bool),
    Busy(u32),
    WorkBound(u64),
    AllocatorRate(Option<u64>),
    GuestUses(usize),
    GuestFrees,
    Floor(u64),
    Run(u64),
    Pressure(u64),
    Reload,
}

const BLOCKS: usize = 8;

fn event() -> impl Strategy<Value = Event> {
    let total = (BLOCKS * 512) as u64;
    prop_oneof![
        4 => (0..total).prop_map(Event::Target),
        1 => (0..1024_u64).prop_map(Event::Pool),
        1 => any::<bool>().prop_map(Event::Fragmented),
        1 => (0..100_u32).prop_map(Event::Busy),
        1 => (1..600_u64).prop_map(Event::WorkBound),
        1 => prop::option::of(1..100_000_u64).prop_map(Event::AllocatorRate),
        2 => (0..BLOCKS * 512).prop_map(Event::GuestUses),
        1 => Just(Event::GuestFrees),
        1 => (0..total).prop_map(Event::Floor),
        6 => (1..300_000_u64).prop_map(Event::Run),
        1 => (0..2000_u64).prop_map(Event::Pressure),
        1 => Just(Event::Reload),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn conserves_and_arrives(
        own in prop::sample::select(vec![Order::Page, Order::Pages4, Order::Pages16]),
        boot in 1..=BLOCKS,
        last in 0..(BLOCKS as u64 * 512),
        events in prop::collection::vec(event(), 1..40),
    ) {
        let mut world = World::with_granule(own, BLOCKS, boot);
        let own = own.pages();
        world.pool_pages = 1000;
        let mut driver = world.driver();
        let frames = |world: &World| world.pool_pages + world.backed.iter().filter(|&&b| b).count() as u64;
        let mut total = frames(&world);
        for event in events {
            match event {
                Event::Target(pages) => world.set_target(pages),
                Event::Pool(pages) => {
                    world.grow_pool(pages);
                    total += pages;
                }
                Event::Fragmented(fragmented) => world.pool_fragmented = fragmented,
                Event::Busy(times) => world.busy = times,
                Event::WorkBound(entries) => world.work_bound = entries,
                Event::AllocatorRate(rate) => world.allocator_rate = rate,
                Event::GuestUses(page) => {
                    let first = page - page % own as usize;
                    if world.pages[first] == Page::Free {
                        world.guest()[first..][..own as usize].fill(Page::Used);
                    }
                }
                Event::GuestFrees => {
                    for page in world.guest().iter_mut().skip(own as usize).filter(|page| **page == Page::Used) {
                        *page = Page::Free;
                    }
                }
                Event::Floor(pages) => world.floor_pages = pages,
                Event::Run(ticks) => {
                    let end = world.now + ticks;
                    world.run(&mut driver, end);
                }
                Event::Pressure(pages) => {
                    driver.pressure(&mut world, pages);
                }
                Event::Reload => {
                    world.held.clear();
                    for page in world.guest().iter_mut().filter(|page| **page == Page::Held) {
                        *page = Page::Listed;
                    }
                    driver = world.driver();
                }
            }
            world.check(&driver);
            prop_assert_eq!(frames(&world), total);
        }
        // The trouble ends.
        world.busy = 0;
        world.floor_pages = 0;
        world.allocator_rate = None;
        for page in world.guest().iter_mut().skip(own as usize).filter(|page| **page == Page::Used) {
            *page = Page::Free;
        }
        world.grow_pool(BLOCKS as u64 * 512);
        world.set_target(last);
        prop_assert!(world.run_seconds(&mut driver, 20));
        world.check(&driver);
        // As near as the guest's own pages allow.
        prop_assert!(driver.reserved_pages().abs_diff(last) < own);
        prop_assert_eq!(driver.reserved_pages() % own, 0);
    }
}
