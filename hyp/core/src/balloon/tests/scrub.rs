//! Dirty frames: in which order they are scrubbed, and who hears of them.

use ballast_abi::{Entry, EntryStatus, EntryStatus::*, function};

use super::relocate::{blocks, identity, ordinary, world_with};
use super::world::*;
use crate::frames::TELL_PAGES;

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
