//! Dirty frames: in which order they are scrubbed, and who hears of them.

use ballast_abi::{Entry, EntryStatus, EntryStatus::*, function};

use proptest::prelude::*;

use super::relocate::{blocks, identity, ordinary, world_with};
use super::world::*;
use crate::balloon::{Next, Pace, Scrubber};
use crate::frames::TELL_PAGES;

/// Two guests of four blocks, one of which has given some of everything.
fn given() -> World {
    let mut world = world(10, &[(4, 4, 0), (4, 6, 0)]);
    world.hello(0);
    world.hello(1);
    for guest in 0..2 {
        world.touch_all(guest).unwrap();
    }
    let run_of = |first: u64, pages: u64| (first..first + pages).map(page).collect::<Vec<_>>();
    for entries in [
        vec![block(3)],
        run_of(600, 70),
        run_of(700, 1),
        vec![run(1024 + 64)],
    ] {
        let done = world.move_all(0, function::RESERVE, &entries);
        assert!(done.iter().all(|&status| status == Done));
    }
    world
}

/// A guest that may only take what another claims, all of it dirty: it gets a block after as many calls as one
/// takes to scrub, however many there are.
#[test]
fn a_block_begun_is_finished_first() {
    const LENT: u64 = 8;
    let mut world = world_with(
        LENT + 2,
        &[
            identity((LENT + 1, LENT + 1, 0), &[blocks(0, LENT + 1)]),
            ordinary((1, 1 + LENT, 0)),
        ],
    );
    let lent: Vec<Entry> = (1..=LENT)
        .map(|number| world.guests[0].block(number))
        .collect();
    assert!(world.reserve(0, &lent).iter().all(|&status| status == Done));
    for number in 1..=LENT {
        let mut calls = 1;
        while world.try_move(1, function::RELEASE, &[block(number)]).1 == 0 {
            calls += 1;
            world.check();
        }
        assert!(calls <= 3, "{calls} calls for block {number}");
    }
}

/// Frames kept for a block that cannot move are not about to come back.
#[test]
fn what_is_stuck_wakes_nobody_for_a_page() {
    const TIMES: u32 = 1200;
    let mut world = world_with(
        6,
        &[
            identity((2, 2, 0), &[blocks(0, 2)]),
            ordinary((1, 3, 0)),
            ordinary((2, 2, 0)),
            ordinary((1, 2, 0)),
        ],
    );
    let lent = world.guests[0].block(1);
    world.reserve(0, &[lent]);
    world.release(1, &[block(1)]);
    assert_eq!(world.reserve(2, &[block(1)]), [Done]);
    world.release(1, &[block(2)]);
    let stuck = [page(512 + 7), page(512 + 8)];
    assert_eq!(world.reserve(1, &stuck), [Done; 2]);
    assert_eq!(world.release(0, &[lent]), [NoMemory]);
    world.relocate_all();
    assert!(world.guests[1].memory.has_to_relocate(), "it is stuck");

    let want = |world: &mut World| {
        let missed: Vec<EntryStatus> = world.release(3, &[page(512)]);
        assert_eq!(missed, [NoMemory]);
    };
    let sequence = |world: &World| world.guests[3].memory.target.fetch().sequence;
    // The first is the block's table.
    assert_eq!(world.reserve(2, &[page(100)]), [Done]);
    want(&mut world);
    let mut wakes = 0;
    for _ in 0..TIMES {
        let before = sequence(&world);
        assert_eq!(world.reserve(2, &[page(101)]), [Done]);
        wakes += u32::from(sequence(&world) != before);
        assert_eq!(world.release(2, &[page(101)]), [Done]);
        want(&mut world);
    }
    assert_eq!(wakes, TIMES / TELL_PAGES);
}

/// Whatever interrupts come, every page is scrubbed once and the table is right in between.
#[test]
fn an_interrupted_piece_goes_on_later() {
    let mut world = given();
    let scrubber = Scrubber::new(None, 1_000_000_000);
    let dirty = u64::from(world.pool.lock().counts().dirty);
    let zero = world.pool.lock().counts().zero;
    // A frame of each of the two split blocks is its table.
    assert_eq!(dirty, 512 + 71 + 16 - 2);
    for piece in 0_u64.. {
        assert!(piece < dirty);
        world.machine.lock().unwrap().is_interrupted = piece % 3 != 0;
        let hw = &mut world.guests[0].hw.clone();
        let step = scrubber.step(&world.pool, hw, piece, 64);
        world.check();
        if step.next == Next::Rest {
            break;
        }
    }
    assert_eq!(scrubber.pages.get(), dirty);
    assert_eq!(world.machine.lock().unwrap().scrubbed, dirty);
    let counts = *world.pool.lock().counts();
    assert_eq!((counts.dirty, u64::from(counts.zero - zero)), (0, dirty));
    // What is asked for then is ready.
    world.set_target(1, 5 * 512);
    assert_eq!(world.release(1, &[block(4)]), [Done]);
    assert_eq!(world.guests[1].memory.stats.scrubbed_pages.get(), 0);
}

/// A core that had to stop at the limit is told when to go on, and there is nothing to wait for at rest.
#[test]
fn the_limit_says_when() {
    let world = given();
    // 100 ticks a page.
    let scrubber = Scrubber::new(Some(40), 1_024_000);
    let hw = &mut world.guests[0].hw.clone();
    let mut now = 1_000_000;
    let mut waits = 0;
    loop {
        match scrubber.step(&world.pool, hw, now, 32).next {
            Next::Again => {}
            Next::At(at) => {
                assert!(at > now);
                now = at;
                waits += 1;
            }
            Next::Rest => break,
        }
    }
    assert!(waits > 5);
    // All of it but what may be done at once.
    let pages = scrubber.pages.get() - Pace::SLACK_PAGES - 32;
    assert!(now - 1_000_000 >= pages * 100);
    assert_eq!(scrubber.step(&world.pool, hw, now, 32).next, Next::Rest);
}

/// Cores that take work whenever they may, each with a piece in hand at most.
fn done_by(mib_s: u32, frequency: u64, pieces: &[(u16, u64)]) -> (u64, u64) {
    let pace = Pace::new(Some(mib_s), frequency);
    let begin = 12_345;
    let (mut now, mut done) = (begin, 0);
    for &(pages, idle) in pieces {
        now += idle;
        if let Err(at) = pace.begin(now) {
            assert!(at > now);
            now = at;
        }
        assert_eq!(pace.begin(now), Ok(()));
        pace.charge(now, pages.into());
        done += u64::from(pages);
    }
    (now - begin, done)
}

proptest! {
    /// Never more than the limit over any time, but for the slack and the piece that is under way; and with no
    /// pauses no less than half of it.
    #[test]
    fn the_limit_holds(
        mib_s in 1..20_000_u32,
        frequency in prop_oneof![Just(54_000_000_u64), Just(62_500_000), Just(1_000_000_000)],
        pieces in prop::collection::vec((1..=64_u16, 0..200_000_u64), 1..200),
    ) {
        let allowed = |ticks: u64| {
            u128::from(ticks) * u128::from(mib_s) * 256 / u128::from(frequency)
        };
        let (ticks, done) = done_by(mib_s, frequency, &pieces);
        let burst = u128::from(Pace::SLACK_PAGES + 64 + 1);
        prop_assert!(u128::from(done) <= allowed(ticks) + burst);
        let busy: Vec<_> = pieces.iter().map(|&(pages, _)| (pages, 0)).collect();
        let (ticks, done) = done_by(mib_s, frequency, &busy);
        prop_assert!(2 * u128::from(done) + burst >= allowed(ticks));
    }
}
