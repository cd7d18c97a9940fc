//! Where it ends, and how soon.
//!
//! The fixed point of min-funding revocation, from where memory lies when the loads change: a guest that wants more
//! has the next block, of what is free beyond the reserve or of whoever pays least and less than it, until nobody
//! does. Memory that nobody wants stays where it is.

use super::world::{Guest, MIB, SECOND, World};
use crate::policy::{BLOCK, Settings};

/// What a guest wants that uses `load`.
fn wanted(load: u64) -> u64 {
    (load + load / 16 + 2048).next_multiple_of(BLOCK)
}

/// Block after block, in floating point.
fn fixed_point(world: &World, settings: &Settings) -> Vec<u64> {
    let tau = f64::from(settings.tax.percent()) / 100.0;
    let guests = &world.guests;
    let mut pages: Vec<u64> = guests.iter().map(|guest| guest.memory).collect();
    let total = pages.iter().sum::<u64>() + world.free;
    let reserve = total * settings.reserve_per_mille / 1000;
    // Less than half of it is filled up on the way.
    let (mut usable, mut missing) = match world.free {
        free if free < reserve / 2 => (0, reserve - free),
        free => (free.saturating_sub(reserve), 0),
    };
    let rho = |guest: usize, pages: u64| {
        let active = wanted(guests[guest].load).min(pages);
        let cost = active as f64 + (pages - active) as f64 / (1.0 - tau);
        f64::from(guests[guest].entitlement.shares) / cost
    };
    loop {
        let most =
            |guest: usize| wanted(guests[guest].load).min(guests[guest].entitlement.max_pages);
        let getter = (0..guests.len())
            .filter(|&guest| pages[guest] + BLOCK <= most(guest))
            .max_by(|&a, &b| rho(a, pages[a]).total_cmp(&rho(b, pages[b])));
        let Some(getter) = getter else { break };
        if usable >= BLOCK {
            usable -= BLOCK;
        } else {
            let pays = rho(getter, pages[getter] + BLOCK);
            let giver = (0..guests.len())
                .filter(|&guest| guest != getter && rho(guest, pages[guest]) < pays)
                .filter(|&guest| pages[guest] >= guests[guest].entitlement.min_pages + BLOCK)
                .min_by(|&a, &b| rho(a, pages[a]).total_cmp(&rho(b, pages[b])));
            let Some(giver) = giver else { break };
            pages[giver] -= BLOCK;
            if missing >= BLOCK {
                missing -= BLOCK;
                continue;
            }
        }
        pages[getter] += BLOCK;
    }
    pages
}

/// Within 2 MiB or 3 %.
fn is_near(memory: u64, goal: u64) -> bool {
    memory.abs_diff(goal) <= (2 * MIB).max(goal * 3 / 100)
}

/// The same numbers each time (SplitMix64).
struct Random(u64);

impl Random {
    fn within(&mut self, low: u64, high: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        low + (z ^ (z >> 31)) % (high - low)
    }
}

/// The loads of 2 to 9 guests all change at once, of some the moment before.
#[test]
fn nearly_every_guest_is_at_the_fixed_point_after_ten_seconds() {
    let settings = Settings::default();
    let mut random = Random(1);
    let (mut near, mut guests) = (0, 0);
    for _ in 0..100 {
        let count = random.within(2, 10);
        let made = (0..count).map(|_| {
            let memory = random.within(64, 512) * 2;
            let shares = random.within(50, 400) as u32;
            let mut guest = Guest::new(memory, 64, 4096, shares).loaded(random.within(32, memory));
            guest.speed = random.within(64, 512) * MIB;
            guest
        });
        let mut world = World::new(settings, made.collect(), random.within(16, 128));
        world.settle(60);
        for guest in &mut world.guests {
            guest.load = random.within(32, 2 * guest.memory / MIB) * MIB;
        }
        let goals = fixed_point(&world, &settings);
        world.run(10);
        let pairs = world.guests.iter().zip(&goals);
        near += pairs
            .filter(|(guest, goal)| is_near(guest.memory, **goal))
            .count();
        guests += world.guests.len();
    }
    assert!(near * 100 >= guests * 98, "{near} of {guests}");
}

/// One guest has been idle for a minute, its equal for an instant: both give the same.
#[test]
fn who_gives_does_not_depend_on_how_long_it_has_been_idle() {
    let settings = Settings::default();
    for falls_first in [0, 1] {
        let guests = vec![
            Guest::new(512, 64, 1024, 100).loaded(440),
            Guest::new(512, 64, 1024, 100).loaded(440),
            Guest::new(512, 64, 2048, 100).loaded(440),
        ];
        let mut world = World::new(settings, guests, 32);
        world.settle(30);
        world.guests[falls_first].load = 100 * MIB;
        world.run(60);
        world.guests[1 - falls_first].load = 100 * MIB;
        world.guests[2].load = 700 * MIB;
        let goals = fixed_point(&world, &settings);
        world.run(10);
        for (guest, goal) in world.guests.iter().zip(&goals) {
            assert!(
                is_near(guest.memory, *goal),
                "{:?} {goals:?}",
                world.memory_mib()
            );
        }
        world.settle(10);
        let [a, b, _] = world.memory_mib()[..] else {
            panic!()
        };
        assert!(a.abs_diff(b) <= 4, "{a} {b}");
    }
}

/// Two guests that want all there is: a difference of less than a tenth moves nothing, a larger one is made up for
/// to within a hundredth.
#[test]
fn what_is_begun_is_finished() {
    for (first, second) in [(520, 480), (536, 464), (560, 440), (900, 100)] {
        let guests = vec![
            Guest::new(first, 64, 2048, 100).loaded(2000),
            Guest::new(second, 64, 2048, 100).loaded(2000),
        ];
        let mut world = World::new(Settings::default(), guests, 0);
        world.settle(60);
        let has = world.memory_mib();
        if first * 100 <= second * 110 {
            assert_eq!((has, world.changes), (vec![first, second], 0));
        } else {
            assert!(has[0].abs_diff(has[1]) <= 10, "{has:?} from {first}");
        }
    }
}

/// However much is wanted, memory that is asked for again at once was not given away: no guest is asked for more
/// than the fixed point of what the guests use at the time.
#[test]
fn nobody_gives_more_than_its_part() {
    let settings = Settings::default();
    let guests = vec![
        Guest::new(512, 64, 1024, 100).loaded(100),
        Guest::new(512, 64, 1024, 100).loaded(440),
        Guest::new(512, 64, 2048, 100).loaded(440),
    ];
    let mut world = World::new(settings, guests, 32);
    world.run(30);
    world.guests[1].load = 100 * MIB;
    world.guests[2].load = 700 * MIB;
    let goals = fixed_point(&world, &settings);
    let end = world.now + 10 * SECOND;
    // The load's rise and fall are reported in the same tick.
    while world.now < end {
        world.run(1);
        let least = world.guests.iter().zip(&goals).take(2);
        for (guest, goal) in least {
            assert!(guest.target + 4 * MIB >= *goal, "{guest:?} {goals:?}");
        }
    }
}
