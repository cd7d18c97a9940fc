//! What a guest uses, estimated from a sample of accesses.

use ballast_abi::{Entry, EntryStatus::*, Status, function};
use proptest::prelude::*;

use super::world::*;
use crate::addr::Ipa;
use crate::balloon::sample::WATCHED;

const ROUND: u64 = 1_000_000;

/// A guest that has all of its `blocks`.
fn of(blocks: u64) -> World {
    let mut world = world(blocks + 2, &[(blocks, blocks, 0)]);
    world.hello(0);
    world.set_target(0, blocks * 512);
    world
}

fn sample(world: &mut World, now: u64) {
    let Guest { memory, hw, .. } = &mut world.guests[0];
    assert!(memory.sample(hw, now, ROUND));
}

/// A guest that calls without a pause is sampled all the same: the calls behind one that was in the way make way.
#[test]
fn calls_leave_sampling_its_turn() {
    let mut world = of(64);
    let query = |world: &mut World| {
        let ipa = world.guests[0].ipa(0);
        status(world.call(0, function::QUERY, [ipa.0, 0, 0, 0]))
    };
    let Guest { memory, hw, .. } = &world.guests[0];
    let call = memory.ledger.lock();
    assert!(!memory.sample(&mut hw.clone(), ROUND, ROUND));
    drop(call);
    assert_eq!(query(&mut world), Status::Busy);
    sample(&mut world, ROUND);
    assert_eq!(query(&mut world), Status::Success);
    let watched = (0..64).map(|block| access(&mut world, block * 512));
    assert_ne!(watched.sum::<u32>(), 0);
}

fn touched(world: &World, now: u64) -> Option<u16> {
    world.guests[0].memory.sample.touched(now, 2 * ROUND)
}

/// An access as a core makes it: it faults for the flag and is done again. Returns how often it faulted.
fn access(world: &mut World, number: u64) -> u32 {
    let Guest { memory, hw, .. } = &mut world.guests[0];
    let ipa = page(number).ipa();
    let ipa = Ipa(ipa);
    let mut faults = 0;
    while memory.stage2.is_watched(hw, ipa) {
        memory.accessed(hw, ipa);
        faults += 1;
        assert!(faults < 3);
    }
    faults
}

/// A round in which the first `used` blocks are accessed, each at every page if it is `dense`.
fn round(world: &mut World, used: u64, dense: bool, now: u64) -> u32 {
    sample(world, now);
    let mut faults = 0;
    for block in 0..used {
        let step = if dense { 1 } else { 512 };
        for number in (0..512).step_by(step) {
            faults += access(world, block * 512 + number);
        }
    }
    faults
}

/// Steady use is seen as what it is, at the upper end of what 48 blocks can say; hardly ever less, and what a guest does
/// not use it cannot say that it uses.
#[test]
fn the_estimate_is_an_upper_one() {
    for used in [0, 32, 64, 128, 192, 256] {
        let mut world = of(256);
        let (mut low, mut sum) = (0, 0);
        for number in 1..=41 {
            assert!(round(&mut world, used, false, number * ROUND) <= WATCHED);
            if number == 1 {
                assert_eq!(touched(&world, ROUND), None, "too little was seen yet");
                continue;
            }
            let true_use = used * 1000 / 256;
            let seen = u64::from(touched(&world, number * ROUND).unwrap());
            low += u32::from(seen < true_use);
            sum += seen;
        }
        let (true_use, mean) = (used * 1000 / 256, sum / 40);
        assert!(low <= 4, "{low} of 40 estimates for {used} are too low");
        assert!(
            mean <= true_use + 200 && (used != 0 || mean < 80),
            "{mean} for {true_use} of a thousand"
        );
    }
}

/// A rise counts at once, a fall after a round; what nobody sampled for long says nothing.
#[test]
fn rises_fast_falls_slowly_and_is_forgotten() {
    let mut world = of(256);
    round(&mut world, 0, false, ROUND);
    sample(&mut world, 2 * ROUND);
    assert!(touched(&world, 2 * ROUND).unwrap() < 100);
    for block in 0..256 {
        access(&mut world, block * 512);
    }
    assert_eq!(touched(&world, 2 * ROUND), Some(1000));
    sample(&mut world, 3 * ROUND);
    assert_eq!(touched(&world, 3 * ROUND), Some(1000));
    sample(&mut world, 4 * ROUND);
    assert!(touched(&world, 4 * ROUND).unwrap() < 100);
    // Too early for another.
    let watched = world.guests[0].memory.sample.watched_blocks.get();
    sample(&mut world, 4 * ROUND + 10);
    assert_eq!(world.guests[0].memory.sample.watched_blocks.get(), watched);
    assert_eq!(touched(&world, 7 * ROUND), None);
    sample(&mut world, 30 * ROUND);
    assert_eq!(
        touched(&world, 30 * ROUND),
        None,
        "a round of 26 says nothing"
    );
}

/// Cutting blocks up does not hide that they are not used.
#[test]
fn split_blocks_are_watched_too() {
    let mut world = of(64);
    for block in 1..64 {
        assert_eq!(world.reserve(0, &[page(block * 512 + 5)]), [Done]);
    }
    for number in 1..=4 {
        round(&mut world, 4, true, number * ROUND);
        world.check();
    }
    let seen = touched(&world, 4 * ROUND).unwrap();
    assert!(seen < 350, "{seen} for 4 of 64");
    for number in 5..=6 {
        round(&mut world, 64, true, number * ROUND);
    }
    sample(&mut world, 7 * ROUND);
    assert!(touched(&world, 7 * ROUND).unwrap() > 900);
    assert_eq!(world.touch_all(0).map(|pages| pages > 32_000), Ok(true));
}

/// A watched entry is one like any other to calls, and nobody accesses what was taken by way of an old one.
#[test]
fn watched_memory_moves() {
    let mut world = of(64);
    world.touch_all(0).unwrap();
    let before = world.machine.lock().unwrap().invalidations;
    sample(&mut world, ROUND);
    assert_eq!(world.machine.lock().unwrap().invalidations, before + 1);
    let whole: Vec<Entry> = (1..20).map(block).collect();
    assert!(world.reserve(0, &whole).iter().all(|&s| s == Done));
    let pages: Vec<Entry> = (20 * 512..21 * 512).map(page).collect();
    let done = world.move_all(0, ballast_abi::function::RESERVE, &pages);
    assert!(done.iter().all(|&s| s == Done));
    world.check();
    // What a core knew of them before is no answer: there is nothing to set.
    for block in 1..20 {
        assert_eq!(access(&mut world, block * 512), 0);
    }
    let back = [whole, pages].concat();
    let done = world.move_all(0, ballast_abi::function::RELEASE, &back);
    assert!(done.iter().all(|&s| s == Done));
    world.check();
    world.touch_all(0).unwrap();
}

/// While a call is in progress, a page of a split block faults again and nothing waits.
#[test]
fn nobody_waits_for_a_call() {
    let mut world = of(16);
    for block in 1..16 {
        assert_eq!(world.reserve(0, &[page(block * 512 + 5)]), [Done]);
    }
    sample(&mut world, ROUND);
    let Guest { memory, hw, .. } = &mut world.guests[0];
    let mut pages = (512..16 * 512).map(|number| Ipa(page(number).ipa()));
    let watched = pages
        .find(|&ipa| memory.stage2.is_watched(hw, ipa))
        .unwrap();
    let call = memory.ledger.lock();
    memory.accessed(hw, watched);
    drop(call);
    assert!(memory.stage2.is_watched(hw, watched));
    memory.accessed(hw, watched);
    assert!(!memory.stage2.is_watched(hw, watched));
}

proptest! {
    /// Whatever is accessed, at whatever rounds: no more faults than blocks were watched, and the counters agree.
    #[test]
    fn the_cost_is_bounded(accesses in prop::collection::vec((0..32_u64 * 512, prop::bool::weighted(0.02)), 1..600)) {
        let mut world = of(32);
        for block in (1..32).step_by(2) {
            prop_assert_eq!(world.reserve(0, &[page(block * 512 + 9)]), [Done]);
        }
        let (mut now, mut faults) = (ROUND, 0);
        sample(&mut world, now);
        for (number, is_round) in accesses {
            if is_round {
                now += ROUND;
                sample(&mut world, now);
            }
            faults += u64::from(access(&mut world, number));
        }
        let sample = &world.guests[0].memory.sample;
        prop_assert!(faults <= sample.watched_blocks.get());
        prop_assert!(sample.accessed_blocks.get() <= faults);
        world.check();
    }
}
