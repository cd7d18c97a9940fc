use proptest::prelude::*;

use crate::policy::cores::{CpuEntitlement, CpuPolicy, CpuSeen};
use crate::policy::funding::Tax;

const SECOND: u64 = 1_000_000;
const TICK: u64 = 100_000;

#[derive(Clone, Debug)]
struct Guest {
    entitlement: CpuEntitlement,
    seen: CpuSeen,
    /// Threads, in thousandths.
    load: u32,
    gives: bool,
    said: Option<u32>,
    sent: Option<(bool, u64)>,
}

struct World {
    policy: CpuPolicy,
    guests: Vec<Guest>,
    free: u32,
    now: u64,
    next: Option<u64>,
}

fn guest(cpus: u32, load: u32) -> Guest {
    Guest {
        entitlement: CpuEntitlement {
            min: 1,
            max: 4,
            shares: 100,
            fixed: false,
        },
        seen: CpuSeen {
            granted: cpus,
            target: cpus,
            can_move: true,
        },
        load,
        gives: true,
        said: None,
        sent: None,
    }
}

impl World {
    fn new(guests: Vec<Guest>, free: u32) -> Self {
        let entitlements: Vec<_> = guests.iter().map(|guest| guest.entitlement).collect();
        Self {
            policy: CpuPolicy::new(Tax::DEFAULT, &entitlements),
            guests,
            free,
            now: 0,
            next: None,
        }
    }

    fn tick(&mut self) {
        self.now += TICK;
        let mut due = self.next.is_some_and(|next| next <= self.now);
        for (index, guest) in self.guests.iter_mut().enumerate() {
            if guest.gives && guest.seen.granted > guest.seen.target {
                guest.seen.granted -= 1;
                self.free += 1;
            } else if guest.seen.granted < guest.seen.target && self.free > 0 {
                guest.seen.granted += 1;
                self.free -= 1;
            }
            if guest.said != Some(guest.load) {
                guest.said = Some(guest.load);
                self.policy
                    .report(index, guest.seen.granted, guest.load, self.now);
                due = true;
            }
        }
        if due {
            let seen: Vec<_> = self.guests.iter().map(|guest| guest.seen).collect();
            self.next = self.policy.step(self.now, &seen, self.free).next_us;
            for change in self.policy.changes() {
                let guest = &mut self.guests[change.guest];
                let entitlement = guest.entitlement;
                assert!((entitlement.min..=entitlement.max).contains(&change.cpus));
                let up = change.cpus > guest.seen.target;
                if change.cpus != guest.seen.granted || guest.gives {
                    if let Some((was_up, at)) = guest.sent {
                        assert!(was_up == up || self.now >= at + 5 * SECOND, "turned");
                    }
                    guest.sent = Some((up, self.now));
                }
                guest.seen.target = change.cpus;
            }
        }
        let total: u32 = self.guests.iter().map(|guest| guest.seen.granted).sum();
        assert!(self.guests.iter().all(|guest| guest.seen.granted >= 1));
        assert!(total + self.free < 32);
    }

    fn run(&mut self, seconds: u64) {
        for _ in 0..seconds * SECOND / TICK {
            self.tick();
        }
    }

    fn cpus(&self) -> Vec<u32> {
        self.guests.iter().map(|guest| guest.seen.granted).collect()
    }
}

#[test]
fn an_idle_core_goes_to_a_full_run_queue_and_comes_back() {
    let mut world = World::new(vec![guest(2, 100), guest(2, 1900)], 0);
    world.run(10);
    assert_eq!((world.cpus(), world.next), (vec![2, 2], None), "at rest");
    world.guests[1].load = 3500;
    world.run(1);
    assert_eq!(world.cpus(), [2, 2], "not at once");
    world.run(15);
    assert_eq!(world.cpus(), [1, 3]);
    world.guests[0].load = 2000;
    world.guests[1].load = 200;
    world.run(30);
    assert_eq!((world.cpus(), world.next), (vec![2, 2], None));
}

#[test]
fn free_cores_go_to_who_wants_them() {
    let mut world = World::new(vec![guest(1, 2500), guest(1, 100)], 3);
    world.run(10);
    assert_eq!((world.cpus(), world.free), (vec![3, 1], 1));
    assert_eq!(world.next, None);
}

#[test]
fn who_does_not_give_is_left_alone() {
    let mut world = World::new(vec![guest(2, 100), guest(2, 4000)], 0);
    world.guests[0].gives = false;
    world.run(4);
    assert_eq!(world.guests[0].seen.target, 1);
    world.run(6);
    assert_eq!(world.guests[0].seen.target, 2, "withdrawn");
    world.run(15);
    assert_eq!(
        world.guests[0].seen.target, 2,
        "and not asked again so soon"
    );
    world.guests[0].gives = true;
    world.run(30);
    assert_eq!(world.cpus(), [1, 3]);
}

#[test]
fn realtime_guests_and_silent_ones_keep_theirs() {
    let mut fixed = guest(2, 0);
    fixed.entitlement.fixed = true;
    let mut world = World::new(vec![fixed, guest(2, 4000), guest(2, 100)], 0);
    world.guests[2].said = Some(100);
    world.run(30);
    assert_eq!(world.cpus(), [2, 2, 2]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    /// Whatever the loads, bounds hold and nobody is sent to and fro (checked at each tick); once they stay, so do the cores.
    #[test]
    fn loads_that_stay_come_to_rest(
        raw in prop::collection::vec((1..4_u32, prop::collection::vec(0..5000_u32, 3)), 2..5),
        free in 0..3_u32,
        seconds in prop::collection::vec(1..9_u64, 3),
    ) {
        let guests = raw.iter().map(|(cpus, loads)| guest(*cpus, loads[0])).collect();
        let mut world = World::new(guests, free);
        for (phase, seconds) in seconds.iter().enumerate() {
            for (guest, (_, loads)) in world.guests.iter_mut().zip(&raw) {
                guest.load = loads[phase];
            }
            world.run(*seconds);
        }
        world.run(60);
        let settled = world.cpus();
        world.run(20);
        prop_assert_eq!(world.cpus(), settled);
    }
}
