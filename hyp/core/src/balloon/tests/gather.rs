//! Blocks whose pages came back elsewhere become whole again.

use ballast_abi::{Entry, EntryStatus};
use proptest::prelude::*;

use super::relocate::{BASE, ordinary, world_with};
use super::world::*;
use crate::addr::{BLOCK_SIZE, Ipa, IpaRange, Pa};
use crate::frames::{GuestId, Owner};

fn pages(block: u64, count: u64) -> Vec<Entry> {
    (0..count)
        .map(|number| page(block * 512 + number))
        .collect()
}

/// Complete and split blocks of a guest.
fn unmerged(world: &World, guest: usize) -> u32 {
    world.guests[guest].memory.split_blocks().unwrap().1
}

fn gathered(world: &World, guest: usize) -> u64 {
    world.guests[guest].memory.stats.gathered.get()
}

/// Guest 0 gives a part of its second block by the page, guest 1 gets 100 of them for its third, and guest 0 takes back
/// what it gave: about 100 pages come elsewhere, in a block that guest 1 has given.
fn scattered(specs: &[Spec]) -> World {
    let mut world = world_with(4, specs);
    let given = pages(1, 300);
    assert!(done(world.reserve(0, &given)));
    assert!(done(world.release(1, &pages(2, 100))));
    assert!(done(world.reserve(1, &[block(1)])));
    world.touch_all(1).unwrap();
    assert!(done(world.release(0, &given)));
    world.check();
    assert_eq!(unmerged(&world, 0), 1);
    world.touch_all(0).unwrap();
    world
}

fn done(statuses: Vec<EntryStatus>) -> bool {
    statuses.iter().all(|&status| status == EntryStatus::Done)
}

#[test]
fn strays_come_home_and_others_make_way() {
    let mut world = scattered(&[ordinary((2, 2, 0)), ordinary((2, 3, 0))]);
    assert!(world.guests[0].memory.has_to_relocate(), "it was asked to");
    world.relocate_all();
    assert_eq!((unmerged(&world, 0), gathered(&world, 0)), (0, 1));
    assert!(world.guests[1].memory.stats.relocated_pages.get() >= 99);
    assert_eq!(world.touch_all(0), Ok(1024));
    assert_eq!(world.touch_all(1), Ok(612));
    // What the other guest gives now makes a whole block again.
    assert!(done(world.reserve(1, &pages(2, 100))));
    world.scrub_all();
    world.check();
    assert!(done(world.release(1, &[block(1)])));
}

#[test]
fn what_has_no_home_gets_one() {
    let mut world = world_with(4, &[ordinary((2, 2, 0)), ordinary((1, 2, 0))]);
    // All of it goes, so that nothing is at home; then some of its frames are another's.
    assert!(done(world.reserve(0, &pages(1, 512))));
    assert!(done(world.release(1, &pages(1, 40))));
    world.set_target(0, 1024);
    let back = pages(1, 512);
    assert!(done(world.release(0, &back)));
    world.touch_all(0).unwrap();
    world.check();
    world.relocate_all();
    world.check();
    assert_eq!(unmerged(&world, 0), 0);
    assert_eq!(world.touch_all(0), Ok(1024));
    assert_eq!(world.touch_all(1), Ok(552));
}

/// Between any two pieces either guest may do as it likes.
#[test]
fn whatever_happens_in_between() {
    for at in (0..40).step_by(3) {
        for case in 0..7 {
            let mut world = scattered(&[ordinary((2, 2, 0)), ordinary((2, 3, 0))]);
            world.machine.lock().unwrap().is_interrupted = true;
            for _ in 0..at {
                world.relocate_step(0);
                world.relocate_step(1);
            }
            match case {
                0 => assert!(done(world.reserve(0, &[page(512 + 400)]))),
                1 => assert!(done(world.reserve(0, &pages(1, 512)))),
                2 => assert!(done(world.reserve(1, &pages(2, 100)))),
                3 => assert_eq!(world.rebuild(1, 0), 0),
                4 => {
                    world.rebuild(0, 1024);
                    world.hello(0);
                }
                5 => world.hello(0),
                _ => {
                    // Others take what is free.
                    world.release(1, &pages(1, 512));
                }
            }
            world.check();
            world.touch_all(0).unwrap();
            world.touch_all(1).unwrap();
            world.machine.lock().unwrap().is_interrupted = false;
            world.relocate_all();
            world.check();
            world.touch_all(0).unwrap();
            world.touch_all(1).unwrap();
            let pool = world.pool.lock();
            let is_kept = pool.available() != pool.counts().free();
            assert!(
                !is_kept,
                "frames are kept for nobody, step {at}, case {case}"
            );
        }
    }
}

/// Frames of a `realtime` guest stay, and so does the block: nothing is kept for it.
#[test]
fn who_may_not_move_is_let_be() {
    let realtime = Spec {
        size: (2, 3, 0),
        realtime: true,
        ..Spec::default()
    };
    let mut world = scattered(&[ordinary((2, 2, 0)), realtime]);
    world.relocate_all();
    assert_eq!((unmerged(&world, 0), gathered(&world, 0)), (1, 0));
    let pool = world.pool.lock();
    assert_eq!(pool.available(), pool.counts().free());
}

/// Nothing moves in a guest that is `realtime` itself.
#[test]
fn a_realtime_guest_is_let_be() {
    let realtime = Spec {
        size: (2, 2, 0),
        realtime: true,
        ..Spec::default()
    };
    let mut world = scattered(&[realtime, ordinary((2, 3, 0))]);
    world.relocate_all();
    assert_eq!(unmerged(&world, 0), 1);
    assert_eq!(world.guests[1].memory.stats.relocated_pages.get(), 0);
}

/// Where there is nowhere to move to it stays as it is, and is tried again when another has gathered.
#[test]
fn without_room_it_waits() {
    let mut world = scattered(&[ordinary((2, 2, 0)), ordinary((2, 3, 0))]);
    // What is free goes to guest 1.
    let free = world.pool.lock().available() as usize;
    let more: Vec<Entry> = pages(2, 512)[100..]
        .iter()
        .chain(&pages(1, 512))
        .take(free)
        .copied()
        .collect();
    world.release(1, &more);
    let left = world.pool.lock().available();
    assert!(left < 20, "{left}");
    world.relocate_all();
    world.check();
    world.touch_all(0).unwrap();
    world.touch_all(1).unwrap();
    assert_eq!(unmerged(&world, 0), 1);
    let pool = world.pool.lock();
    assert_eq!(pool.available(), pool.counts().free());
    drop(pool);
    // Its owner tries again when it next reaches its target.
    world.reserve(1, &more);
    assert!(done(world.reserve(0, &[page(512 + 450)])));
    assert!(done(world.release(0, &[page(512 + 450)])));
    world.relocate_all();
    assert_eq!(unmerged(&world, 0), 0);
    world.touch_all(0).unwrap();
    world.touch_all(1).unwrap();
}

/// Who wants his own frames back goes before who gathers in them.
#[test]
fn a_claimant_goes_first() {
    for at in [0, 1, 4, 9] {
        let own = Spec {
            size: (1, 2, 0),
            identity: Some(vec![IpaRange {
                start: Ipa(BASE),
                size: 2 * BLOCK_SIZE,
            }]),
            ..Spec::default()
        };
        // One of guest 0's blocks lies in guest 2's claim.
        let mut world = world_with(7, &[ordinary((2, 5, 0)), ordinary((1, 2, 0)), own]);
        let claimed = Pa(BASE + BLOCK_SIZE);
        assert!(done(world.release(0, &[block(2), block(3), block(4)])));
        let owner = world.pool.lock().owner(claimed);
        let Some(Owner::Guest(holder, ipa)) = owner else {
            panic!("{owner:?}");
        };
        assert_eq!(holder, GuestId::new(0).unwrap());
        let number = (ipa.0 - RAM.0) / BLOCK_SIZE;
        assert!(done(world.reserve(0, &pages(number, 300))));
        assert!(done(world.release(1, &pages(1, 100))));
        for other in (1..5).filter(|other| *other != number).take(2) {
            assert!(done(world.reserve(0, &[block(other)])));
        }
        world.machine.lock().unwrap().is_interrupted = true;
        world.set_target(0, 3 * 512);
        assert!(done(world.release(0, &pages(number, 300))));
        assert_eq!(unmerged(&world, 0), 1);
        assert!(world.guests[0].memory.has_to_relocate());
        for _ in 0..at {
            world.relocate_step(0);
            world.relocate_step(1);
        }
        let entry = world.guests[2].block(1);
        assert_eq!(world.release(2, &[entry]), [EntryStatus::NoMemory]);
        world.check();
        world.machine.lock().unwrap().is_interrupted = false;
        world.relocate_all();
        world.check();
        assert!(done(world.release(2, &[entry])));
        for guest in 0..3 {
            world.touch_all(guest).unwrap();
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Reserve(usize, Vec<Entry>),
    Release(usize, Vec<Entry>),
    /// The target is what the guest has now.
    Arrive(usize),
    Touch(usize, Vec<u64>),
    Reset(usize),
    Relocate(usize, bool),
    Scrub,
}

fn entries() -> impl Strategy<Value = Vec<Entry>> {
    let stretch =
        (0..3_u64, 0..512_u64, 1..512_u64, 1..4_u64).prop_map(|(block, first, len, step)| {
            let end = 512.min(first + len);
            (first..end)
                .step_by(step as usize)
                .map(move |n| page(block * 512 + n))
                .collect::<Vec<_>>()
        });
    prop_oneof![
        3 => stretch,
        1 => (0..3 * 32_u64).prop_map(|number| vec![run(number * 16)]),
        1 => (0..3_u64).prop_map(|number| vec![block(number)]),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let guest = 0..3_usize;
    prop_oneof![
        5 => (guest.clone(), entries()).prop_map(|(guest, entries)| Step::Reserve(guest, entries)),
        6 => (guest.clone(), entries()).prop_map(|(guest, entries)| Step::Release(guest, entries)),
        4 => guest.clone().prop_map(Step::Arrive),
        2 => (guest.clone(), prop::collection::vec(0..3 * 512_u64, 1..20)).prop_map(|(guest, pages)| Step::Touch(guest, pages)),
        1 => guest.clone().prop_map(Step::Reset),
        6 => (guest, any::<bool>()).prop_map(|(guest, is_interrupted)| Step::Relocate(guest, is_interrupted)),
        1 => Just(Step::Scrub),
    ]
}

fn is_alive(world: &World, guest: usize) -> bool {
    let guest = &world.guests[guest];
    let mut hw = guest.hw.clone();
    guest.memory.stage2.translate(&mut hw, RAM).is_some()
}

/// The target is what the guest has, and a call finds that.
fn arrive(world: &mut World, guest: usize) {
    if is_alive(world, guest) {
        world.set_target(guest, world.guests[guest].memory.backed_pages().unwrap());
        world.release(guest, &[page(0)]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if cfg!(miri) { 1 } else { 16 },
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Whatever three guests do while blocks are gathered, every frame has one owner and nobody loses or sees what
    /// it should not; and where there is room in the end, every complete block is one entry.
    #[test]
    fn any_history(steps in prop::collection::vec(step(), 1..30)) {
        let mut world = world_with(9, &[ordinary((2, 3, 0)), ordinary((2, 3, 0)), ordinary((1, 3, 0))]);
        for step in steps {
            match step {
                Step::Reserve(guest, entries) if is_alive(&world, guest) => {
                    world.reserve(guest, &entries);
                }
                Step::Release(guest, entries) if is_alive(&world, guest) => {
                    world.set_target(guest, 3 * 512);
                    world.release(guest, &entries);
                }
                Step::Arrive(guest) => arrive(&mut world, guest),
                Step::Touch(guest, numbers) => {
                    for number in numbers {
                        world.touch(guest, number).map_err(TestCaseError::fail)?;
                    }
                }
                Step::Reset(guest) => {
                    world.rebuild(guest, 512);
                    if is_alive(&world, guest) {
                        world.hello(guest);
                    }
                }
                Step::Relocate(guest, is_interrupted) => {
                    world.machine.lock().unwrap().is_interrupted = is_interrupted;
                    for _ in 0..8 {
                        world.relocate_step(guest);
                    }
                }
                Step::Scrub => world.scrub_all(),
                _ => {}
            }
            world.check();
        }
        world.machine.lock().unwrap().is_interrupted = false;
        world.relocate_all();
        for guest in 0..3 {
            world.touch_all(guest).map_err(TestCaseError::fail)?;
        }
        prop_assert_eq!(world.rebuild(2, 0), 0);
        for _ in 0..2 {
            for guest in 0..2 {
                arrive(&mut world, guest);
                world.relocate_all();
            }
        }
        for guest in 0..2 {
            prop_assert_eq!(unmerged(&world, guest), 0);
            world.touch_all(guest).map_err(TestCaseError::fail)?;
        }
        let pool = world.pool.lock();
        prop_assert_eq!(pool.available(), pool.counts().free());
        drop(pool);
        for guest in 0..2 {
            prop_assert_eq!(world.rebuild(guest, 0), 0);
        }
        world.scrub_all();
        world.check();
        let counts = *world.pool.lock().counts();
        prop_assert_eq!(counts.zero, counts.total);
    }
}
