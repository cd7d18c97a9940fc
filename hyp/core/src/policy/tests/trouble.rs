//! A guest whose job grows steadily, and which kills it when it is left without memory for longer than its kernel waits.

use super::world::{Guest, MIB, SECOND, World};
use crate::policy::{BLOCK, Settings};

/// How long Linux's driver holds up a kill although nothing comes.
const PATIENCE: u64 = SECOND;
/// What it asks for then.
const NEED: u64 = 16 * MIB;
/// A job's pace, in pages a tick of 50 ms.
const PACE: u64 = 48 * MIB / 20;
/// What a guest uses without a job.
const BASE: u64 = 52 * MIB;

/// Runs a job of `mib` in a guest. How many MiB it got before it was killed, or all.
fn job(world: &mut World, guest: usize, mib: u64) -> u64 {
    let goal = BASE + mib * MIB;
    let mut starved_since = None;
    loop {
        let Guest { load, memory, .. } = world.guests[guest];
        let next = (load + PACE).min(goal);
        if next <= memory {
            if load == goal {
                break;
            }
            world.guests[guest].load = next;
            starved_since = None;
        } else {
            world.guests[guest].load = memory.max(load.min(memory));
            let (since, had) = *starved_since.get_or_insert((world.now, memory));
            if memory > had {
                starved_since = Some((world.now, memory));
            } else if world.now - since > PATIENCE {
                return (load - BASE) / MIB;
            }
            world.pressure(guest, NEED);
        }
        world.ticks(1);
    }
    mib
}

fn halves(free_mib: u64) -> World {
    let guest = || {
        let mut guest = Guest::new(192, 96, 288, 100);
        guest.load = BASE;
        guest
    };
    World::new(Settings::default(), vec![guest(), guest()], free_mib)
}

/// The other one had its job, and so the memory, until a moment ago.
#[test]
fn a_guest_that_has_just_given_gets_it_back_before_it_kills() {
    for free_mib in [0, 8, 32] {
        // With 230 all of what the other does not need is needed.
        for mib in [150, 200, 230] {
            for pause in 0..20 {
                let mut world = halves(free_mib);
                world.ticks(10);
                assert_eq!(job(&mut world, 1, mib), mib, "the first");
                world.guests[1].load = BASE;
                world.ticks(pause * 5);
                let got = job(&mut world, 0, mib);
                assert_eq!(
                    got,
                    mib,
                    "{free_mib} MiB free, {pause} quarters of a second later: {:?} free {} {:?}",
                    world.memory_mib(),
                    world.free / MIB,
                    world.policy
                );
            }
        }
    }
}

/// What the first of three guests has, on average, in MiB, if it uses `uses` and says every `every` ticks that it is in
/// trouble; and what the last, which has bursts, lacks, on average.
fn beside_one_in_trouble(uses: u64, every: u64) -> [u64; 2] {
    const TICKS: u64 = 6_000;
    let guest = |load| {
        let mut guest = Guest::new(160, 32, 256, 100).loaded(load);
        guest.is_sampled = true;
        // Whole blocks at a tick: then all that it is asked for is in whole blocks, too.
        guest.speed = 240 * MIB;
        guest
    };
    let guests = vec![guest(uses), guest(100), guest(100)];
    let mut world = World::new(Settings::default(), guests, 20);
    let mut sums = [0, 0];
    for tick in 0..TICKS {
        let in_burst = tick % 400 >= 200;
        world.guests[2].load = if in_burst { 200 } else { 60 } * MIB;
        if tick % every == 0 {
            world.pressure(0, NEED);
        }
        world.ticks(1);
        for guest in &world.guests {
            assert!(guest.target.is_multiple_of(BLOCK), "{guest:?}");
        }
        let last = &world.guests[2];
        let now = [
            world.guests[0].memory,
            last.load.saturating_sub(last.memory),
        ];
        sums = [sums[0] + now[0], sums[1] + now[1]];
    }
    sums.map(|sum| sum / TICKS / MIB)
}

/// 143 MiB are the due of a guest that uses 60 and wants all there is, and 152 of one that uses 80.
#[test]
fn a_trouble_that_the_sample_does_not_support_gains_nothing() {
    for (uses, most) in [(60, 150), (80, 160)] {
        for every in [1, 2, 5, 20, 40, 80, 110, 160] {
            let [has, lacks] = beside_one_in_trouble(uses, every);
            assert!(
                has <= most && lacks <= 5,
                "uses {uses}, every {every}: {has} MiB, and {lacks} are lacking"
            );
        }
    }
}
