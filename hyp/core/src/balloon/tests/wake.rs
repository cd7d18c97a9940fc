//! Who is told when that memory has become free.

use ballast_abi::EntryStatus::*;

use super::world::*;
use crate::balloon::idle::scrub_step;
use crate::frames::TELL_PAGES;

/// Guest 0 has both blocks of its own, guest 1 none of the two that it wants; nothing is free.
fn poor() -> World {
    let mut world = world(4, &[(2, 2, 0), (2, 4, 0)]);
    world.hello(0);
    world.hello(1);
    world.set_target(1, 4 * 512);
    want(&mut world);
    world
}

fn want(world: &mut World) {
    assert_eq!(world.release(1, &[page(2 * 512)]), [NoMemory]);
}

fn sequence(world: &World) -> u32 {
    world.guests[1].memory.target.fetch().sequence
}

#[test]
fn a_page_to_and_fro_wakes_others_seldom() {
    const TIMES: u32 = 3000;
    let mut world = poor();
    // The first page is the block's table, so that the second is the first to be free.
    assert_eq!(world.reserve(0, &[page(600)]), [Done]);
    let mut wakes = 0;
    for _ in 0..TIMES {
        let before = sequence(&world);
        assert_eq!(world.reserve(0, &[page(601)]), [Done]);
        if sequence(&world) != before {
            wakes += 1;
        }
        // Quicker than the one it would have woken, which then finds nothing.
        assert_eq!(world.release(0, &[page(601)]), [Done]);
        want(&mut world);
    }
    assert_eq!(wakes, TIMES / TELL_PAGES);
}

#[test]
fn the_end_of_a_transfer_is_told_however_few_its_pages() {
    let mut world = poor();
    world.set_target(0, 2 * 512 - 3);
    let before = sequence(&world);
    assert_eq!(world.reserve(0, &[page(600), page(601)]), [Done, Done]);
    assert_eq!(sequence(&world), before);
    assert_eq!(world.reserve(0, &[page(602)]), [Done]);
    assert_ne!(sequence(&world), before);
    // Each is told once for what it missed.
    let before = sequence(&world);
    assert_eq!(world.reserve(0, &[page(603)]), [Done]);
    assert_eq!(sequence(&world), before);
    assert_eq!(world.release(1, &[page(2 * 512)]), [Done]);
}

#[test]
fn many_pages_are_told_before_the_end() {
    let mut world = poor();
    world.set_target(0, 0);
    let before = sequence(&world);
    assert_eq!(world.reserve(0, &[block(1)]), [Done]);
    assert_ne!(sequence(&world), before);
}

#[test]
fn frames_missed_while_they_are_scrubbed_are_told_at_once() {
    let mut world = poor();
    assert_eq!(world.reserve(0, &[page(600), page(601)]), [Done, Done]);
    let claim = world.pool.lock().claim_dirty(16);
    want(&mut world);
    let before = sequence(&world);
    let zero = claim.unwrap().scrub(&mut world.guests[0].hw);
    world.pool.lock().put_zero(zero);
    assert_eq!(world.reserve(0, &[page(602)]), [Done]);
    assert_ne!(sequence(&world), before);
    let scrubbed = scrub_step(&world.pool, &mut world.guests[0].hw, 16);
    assert!(scrubbed.unwrap().wake.is_empty());
}
