//! Random histories of three guests against the model in [`super::world`].

use ballast_abi::{Entry, EntryStatus, Order, function};
use proptest::prelude::*;

use super::world::*;
use crate::addr::PAGE_SIZE;

const GUESTS: usize = 3;
/// Blocks of each guest's maximum.
const BLOCKS: u64 = 3;

#[derive(Clone, Debug)]
enum Step {
    Reserve(usize, Vec<Entry>),
    Release(usize, Vec<Entry>),
    Target(usize, u64),
    Touch(usize, Vec<u64>),
    Hello(usize),
    Reset(usize, u64),
    /// The list as it is, statuses and all.
    Repeat(usize),
    Query(usize, u64),
    Scrub(u16),
}

/// An entry near others, so that spans often meet; now and then a wild one.
fn entry() -> impl Strategy<Value = Entry> {
    let near = prop_oneof![0..24_u64, 500..524_u64, 1000..1040_u64, 0..BLOCKS * 512];
    prop_oneof![
        6 => near.prop_map(page),
        3 => (0..BLOCKS * 128).prop_map(|number| quad(number * 4)),
        3 => (0..BLOCKS * 32).prop_map(|number| run(number * 16)),
        3 => (0..BLOCKS).prop_map(block),
        1 => any::<u64>().prop_map(Entry),
        1 => (0..BLOCKS * 512).prop_map(|number| Entry::new(RAM.0 + number * PAGE_SIZE, Order::Block)),
    ]
}

/// Whole stretches of single pages or of 16 KiB, which exercise splits and merges.
fn stretch() -> impl Strategy<Value = Vec<Entry>> {
    let stretch = |(block, first, len, quads): (u64, u64, u64, bool)| {
        let end = 512.min(first + len);
        if quads {
            let quads = (first / 4..end / 4).map(|n| quad(block * 512 + n * 4));
            quads.collect::<Vec<_>>()
        } else {
            (first..end).map(|n| page(block * 512 + n)).collect()
        }
    };
    let ascending = (0..BLOCKS, 0..512_u64, 1..512_u64, any::<bool>()).prop_map(stretch);
    (ascending, any::<bool>()).prop_map(|(mut entries, reverse)| {
        if reverse {
            entries.reverse();
        }
        entries
    })
}

fn entries() -> impl Strategy<Value = Vec<Entry>> {
    prop_oneof![4 => prop::collection::vec(entry(), 1..12), 1 => stretch()]
}

fn step() -> impl Strategy<Value = Step> {
    let guest = 0..GUESTS;
    prop_oneof![
        6 => (guest.clone(), entries()).prop_map(|(guest, entries)| Step::Reserve(guest, entries)),
        6 => (guest.clone(), entries()).prop_map(|(guest, entries)| Step::Release(guest, entries)),
        2 => (guest.clone(), 0..=BLOCKS * 512).prop_map(|(guest, pages)| Step::Target(guest, pages)),
        4 => (guest.clone(), prop::collection::vec(0..BLOCKS * 512, 1..20)).prop_map(|(guest, pages)| Step::Touch(guest, pages)),
        1 => guest.clone().prop_map(Step::Hello),
        1 => (guest.clone(), 1..=BLOCKS).prop_map(|(guest, blocks)| Step::Reset(guest, blocks)),
        1 => guest.clone().prop_map(Step::Repeat),
        1 => (guest, 0..BLOCKS * 512).prop_map(|(guest, page)| Step::Query(guest, page)),
        1 => (1..600_u16).prop_map(Step::Scrub),
    ]
}

fn granule() -> impl Strategy<Value = Order> {
    prop_oneof![2 => Just(Order::Page), 2 => Just(Order::Pages4), 1 => Just(Order::Pages16), 1 => Just(Order::Block)]
}

/// A guest whose first page is gone (it has no memory at all) has no list page.
fn is_alive(world: &World, guest: usize) -> bool {
    let guest = &world.guests[guest];
    guest
        .memory
        .stage2
        .translate(&mut guest.hw.clone(), RAM)
        .is_some()
}

fn apply(world: &mut World, step: Step) -> Result<(), TestCaseError> {
    let fail = TestCaseError::fail;
    match step {
        Step::Reserve(guest, entries) if is_alive(world, guest) => {
            world.reserve(guest, &entries);
        }
        Step::Release(guest, entries) if is_alive(world, guest) => {
            let before = world.guests[guest].written.clone();
            let statuses = world.release(guest, &entries);
            for (entry, status) in entries.iter().zip(statuses) {
                let had_it = before.contains_key(&(entry.ipa() / PAGE_SIZE));
                prop_assert!(
                    !(status == EntryStatus::Done && had_it),
                    "{entry:?} was backed already"
                );
            }
        }
        Step::Target(guest, pages) => world.set_target(guest, pages),
        Step::Touch(guest, pages) => {
            for page in pages {
                world.touch(guest, page).map_err(fail)?;
            }
        }
        Step::Hello(guest) if is_alive(world, guest) => world.hello(guest),
        Step::Reset(guest, blocks) => {
            let pages = world.rebuild(guest, blocks * 512);
            prop_assert!(pages <= blocks * 512);
            if is_alive(world, guest) {
                world.hello(guest);
            }
        }
        Step::Repeat(guest) if is_alive(world, guest) => world.repeat(guest),
        Step::Query(guest, number) => {
            let outcome = world.call(
                guest,
                function::QUERY,
                [RAM.0 + number * PAGE_SIZE, 0, 0, 0],
            );
            let [_, backed, run, _] = outcome.registers;
            let Guest { memory, hw, .. } = &mut world.guests[guest];
            let mut is_backed = |number: u64| {
                u64::from(
                    memory
                        .stage2
                        .translate(hw, crate::addr::Ipa(RAM.0 + number * PAGE_SIZE))
                        .is_some(),
                )
            };
            prop_assert!(
                run >= 1 && (number..number + run).all(|number| is_backed(number) == backed)
            );
            let end = number + run;
            prop_assert!(end == memory.max_pages() || is_backed(end) != backed);
        }
        Step::Scrub(pages) => {
            let hw = &mut world.guests[0].hw.clone();
            crate::balloon::idle::scrub_step(&world.pool, hw, pages);
        }
        _ => {}
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 32,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Whatever three guests do, every frame has one owner, totals hold, nobody sees what is another's or
    /// was, and at the end everything can be whole again. A page of a guest's own, of 4, 16 or 64 KiB, is there
    /// or it is not.
    #[test]
    fn any_history(steps in prop::collection::vec(step(), 1..40), spare in 0..2_u64, granules in [granule(), granule(), granule()]) {
        let mut world = world(GUESTS as u64 * 2 + spare, &[(2, BLOCKS, 0), (2, BLOCKS, 1), (2, BLOCKS, 0)]);
        for (guest, granule) in world.guests.iter_mut().zip(granules) {
            guest.granule = granule;
        }
        for guest in 0..GUESTS {
            world.hello(guest);
            world.touch_all(guest).map_err(TestCaseError::fail)?;
            world.set_target(guest, BLOCKS * 512);
        }
        for step in steps {
            apply(&mut world, step)?;
            world.check();
            world.check_granules();
        }
        for guest in 0..GUESTS {
            world.touch_all(guest).map_err(TestCaseError::fail)?;
        }
        for guest in 0..GUESTS {
            prop_assert_eq!(world.rebuild(guest, 0), 0);
        }
        world.scrub_all();
        world.check();
        let counts = *world.pool.lock().counts();
        prop_assert_eq!(counts.zero, counts.total);
        for guest in 0..GUESTS {
            prop_assert_eq!(world.rebuild(guest, 1024), 1024, "all blocks are whole again");
        }
    }

    /// One guest alone gives pages and takes them back in any order: every block merges.
    #[test]
    fn what_comes_back_merges(
        order in prop::collection::vec(any::<prop::sample::Index>(), 1..200),
        runs in prop::collection::vec(1..32_u64, 0..4),
        quads in prop::collection::vec(1..128_u64, 0..8),
    ) {
        let mut world = world(2, &[(2, 2, 0)]);
        world.hello(0);
        let mut pages: Vec<u64> = order.iter().map(|index| 512 + index.index(512) as u64).collect();
        pages.sort_unstable();
        pages.dedup();
        let mut entries: Vec<Entry> = runs.iter().map(|&number| run(512 + number * 16)).collect();
        entries.extend(quads.iter().map(|&number| quad(512 + number * 4)));
        entries.extend(pages.iter().map(|&number| page(number)));
        let statuses = world.reserve(0, &entries);
        let mut gone: Vec<Entry> =
            entries.iter().zip(statuses).filter(|(_, status)| *status == EntryStatus::Done).map(|(entry, _)| *entry).collect();
        for (at, index) in order.iter().enumerate() {
            let len = gone.len();
            gone.swap(at % len, index.index(len));
        }
        world.check();
        let statuses = world.release(0, &gone);
        prop_assert!(statuses.iter().all(|&status| status == EntryStatus::Done));
        world.check();
        prop_assert_eq!(world.guests[0].memory.stats.merges.get(), 1);
        prop_assert_eq!(world.touch_all(0), Ok(1024));
    }
}
