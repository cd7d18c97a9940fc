//! CPUs follow their target, and neither target keeps the other waiting.

use proptest::prelude::*;

use super::world::{Cores, TICKS_PER_SECOND, World};
use crate::{CpuState, Cpus, Driver, Next};

const MS: u64 = TICKS_PER_SECOND / 1000;

fn guest(cpus: u32, online: u32) -> (World, Driver, Cpus) {
    let mut world = World::new(16, 16);
    world.cores = Cores::new(cpus, online);
    let driver = world.driver();
    (world, driver, Cpus::new())
}

fn settles(world: &mut World, driver: &mut Driver, cpus: &mut Cpus) -> bool {
    let end = world.now + 10 * TICKS_PER_SECOND;
    world.run_both(driver, cpus, end)
}

#[test]
fn highest_go_first_and_lowest_come_first() {
    let (mut world, mut driver, mut cpus) = guest(6, 4);
    for (target, picture) in [
        (2, "XX...."),
        (1, "X....."),
        (3, "XXX..."),
        (6, "XXXXXX"),
        (5, "XXXXX."),
    ] {
        world.set_cpus(target);
        assert!(settles(&mut world, &mut driver, &mut cpus));
        assert_eq!(world.cores.picture(), picture);
    }
    let counters = cpus.counters();
    assert_eq!((counters.taken_offline, counters.brought_online), (4, 5));
    assert_eq!((counters.denied, counters.failed), (0, 0));
    let asked = world.cores.asked.len();
    assert_eq!(cpus.step(&mut world), Next::Idle);
    assert_eq!(world.cores.asked.len(), asked, "at rest it asks nobody");
}

#[test]
fn without_the_feature_nothing_moves() {
    let (mut world, mut driver, mut cpus) = guest(4, 4);
    world.cores.target = 0;
    let mut old = world.driver();
    // A word there without the feature bit means nothing.
    world.cores.target = 1;
    world.sequence += 1;
    assert!(settles(&mut world, &mut old, &mut cpus));
    assert_eq!(
        (old.cpu_target(), world.cores.picture()),
        (0, "XXXX".into())
    );
    driver.on_interrupt(&mut world);
    assert_eq!(driver.cpu_target(), 1);
}

#[test]
fn the_last_cpu_is_never_asked() {
    let (mut world, mut driver, mut cpus) = guest(3, 3);
    world.cores.pinned = vec![0, 2];
    world.set_cpus(1);
    assert!(!settles(&mut world, &mut driver, &mut cpus));
    assert_eq!(world.cores.picture(), "X.X");
    // Ballast never says less than one; if it did, what the world asserts would still hold.
    let (mut world, mut driver, mut cpus) = guest(3, 3);
    cpus.set_target(1, 77);
    world.cores.target = 1;
    while cpus.step(&mut world) == Next::Again {}
    assert!(settles(&mut world, &mut driver, &mut cpus));
    assert_eq!(world.cores.picture(), "X..");
}

#[test]
fn denied_waits_for_the_interrupt() {
    let (mut world, mut driver, mut cpus) = guest(4, 1);
    world.want_cpus(3);
    assert!(settles(&mut world, &mut driver, &mut cpus));
    assert_eq!(world.cores.picture(), "X...");
    assert_eq!((cpus.counters().denied, world.cores.asked.len()), (1, 1));
    assert_eq!(cpus.step(&mut world), Next::Idle);
    assert_eq!(world.cores.asked.len(), 1, "it does not poll");
    world.grant(1);
    assert!(settles(&mut world, &mut driver, &mut cpus));
    assert_eq!(world.cores.picture(), "XX..");
    world.grant(1);
    assert!(settles(&mut world, &mut driver, &mut cpus));
    assert_eq!(world.cores.picture(), "XXX.");
}

/// Interrupts come for memory too: a guest that waits for a core must not try CPU_ON at each of them.
#[test]
fn interrupts_for_memory_do_not_make_it_try_at_their_rate() {
    let (mut world, mut driver, mut cpus) = guest(4, 1);
    world.cores.slow = 5 * MS;
    world.want_cpus(2);
    let end = world.now + 10 * TICKS_PER_SECOND;
    while world.now < end {
        world.sequence += 1;
        let soon = world.now + MS;
        world.run_both(&mut driver, &mut cpus, soon);
        world.now = world.now.max(soon);
    }
    let asked = world.cores.asked.len();
    assert!((5..25).contains(&asked), "asked {asked} times in 10 s");
}

#[test]
fn one_that_will_not_go_is_passed_over() {
    let (mut world, mut driver, mut cpus) = guest(4, 4);
    world.cores.pinned = vec![3];
    world.set_cpus(2);
    assert!(settles(&mut world, &mut driver, &mut cpus));
    assert_eq!(world.cores.picture(), "X..X");
    assert_eq!(cpus.counters().failed, 1);
}

#[test]
fn one_that_will_not_come_is_passed_over() {
    let (mut world, mut driver, mut cpus) = guest(4, 1);
    world.cores.broken = vec![1];
    world.cores.state[2] = CpuState::Absent;
    world.set_cpus(2);
    assert!(settles(&mut world, &mut driver, &mut cpus));
    assert_eq!(world.cores.picture(), "X. X");
}

/// While all are pinned it asks at a bounded rate that follows how long asking takes, and goes on when they are not.
#[test]
fn failures_are_retried_at_a_bounded_rate() {
    for slow in [1, 10 * MS, 400 * MS] {
        let (mut world, mut driver, mut cpus) = guest(3, 3);
        world.cores.pinned = vec![0, 1, 2];
        world.cores.slow = slow;
        world.set_cpus(1);
        let start = world.now;
        assert!(!world.run_both(&mut driver, &mut cpus, start + 20 * TICKS_PER_SECOND));
        let asked = world.cores.asked.len() as u64;
        // Rounds of three, a second apart once it has backed off, seven while it does.
        assert!(
            asked > 20 && asked <= 3 * (20 + 8),
            "asked {asked} times in 20 s"
        );
        assert!(
            asked * slow <= 20 * TICKS_PER_SECOND * 6 / 10,
            "{asked} times {slow} ticks: more than half of the guest's time"
        );
        world.cores.pinned.clear();
        let freed = world.now;
        assert!(settles(&mut world, &mut driver, &mut cpus));
        assert_eq!(world.cores.online(), 1);
        assert!(world.now - freed <= 3 * TICKS_PER_SECOND + 6 * slow);
    }
}

#[test]
fn a_new_target_is_tried_at_once() {
    let (mut world, mut driver, mut cpus) = guest(3, 3);
    world.cores.pinned = vec![0, 1, 2];
    world.set_cpus(1);
    assert!(!settles(&mut world, &mut driver, &mut cpus));
    world.cores.pinned = vec![0, 1];
    world.set_cpus(2);
    let now = world.now;
    assert!(settles(&mut world, &mut driver, &mut cpus));
    assert!(world.now - now < MS);
    assert_eq!(world.cores.picture(), "XX.");
}

#[test]
fn leaving_brings_back_what_is_granted() {
    let (mut world, mut driver, mut cpus) = guest(4, 4);
    world.set_cpus(1);
    assert!(settles(&mut world, &mut driver, &mut cpus));
    // Two cores are the guest's again, and its driver leaves before it has looked.
    world.set_cpus(3);
    cpus.drain();
    while cpus.step(&mut world) == Next::Again {}
    assert_eq!(world.cores.picture(), "XXX.");
    assert_eq!(cpus.counters().denied, 1);
}

/// Memory goes on while CPUs move slowly or not at all, and CPUs while memory is short.
#[test]
fn neither_keeps_the_other_waiting() {
    let (mut world, mut driver, mut cpus) = guest(4, 4);
    world.cores.pinned = vec![0, 1, 2, 3];
    world.cores.slow = 50 * MS;
    world.allocator_rate = Some(20_000);
    world.set_target(512 * 8);
    world.set_cpus(1);
    let end = world.now + 6 * TICKS_PER_SECOND;
    assert!(!world.run_both(&mut driver, &mut cpus, end));
    assert_eq!(driver.reserved_pages(), 512 * 8);

    let (mut world, mut driver, mut cpus) = guest(4, 4);
    world.floor_pages = 512 * 16;
    world.set_target(512 * 8);
    world.set_cpus(1);
    world.cores.slow = 50 * MS;
    let end = world.now + TICKS_PER_SECOND;
    assert!(!world.run_both(&mut driver, &mut cpus, end));
    assert_eq!(world.cores.picture(), "X...");
}

#[derive(Clone, Debug)]
enum Event {
    Set(u32),
    Want(u32),
    Grant(u32),
    Pinned(Vec<u32>),
    Broken(Vec<u32>),
    Slow(u64),
    /// Somebody else switches a CPU on or off, as far as there are cores.
    Own(u32),
    Memory(u64),
    Floor(u64),
    Run(u64),
    Reload,
}

const CPUS: u32 = 6;

fn event() -> impl Strategy<Value = Event> {
    let some = || prop::collection::vec(0..CPUS, 0..4);
    prop_oneof![
        3 => (1..=CPUS).prop_map(Event::Set),
        2 => (1..=CPUS).prop_map(Event::Want),
        2 => (0..3_u32).prop_map(Event::Grant),
        1 => some().prop_map(Event::Pinned),
        1 => some().prop_map(Event::Broken),
        1 => (1..200 * MS).prop_map(Event::Slow),
        1 => (0..CPUS).prop_map(Event::Own),
        1 => (0..512 * 16_u64).prop_map(Event::Memory),
        1 => (0..512 * 16_u64).prop_map(Event::Floor),
        6 => (1..2 * TICKS_PER_SECOND).prop_map(Event::Run),
        1 => Just(Event::Reload),
    ]
}

fn own(cores: &mut Cores, cpu: u32) {
    let (online, granted) = (cores.online(), cores.granted);
    let state = &mut cores.state[cpu as usize];
    match *state {
        CpuState::Online if online > 1 => *state = CpuState::Offline,
        CpuState::Offline if online < granted => *state = CpuState::Online,
        _ => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn arrives_whatever_happens(boot in 1..=CPUS, last in 1..=CPUS, events in prop::collection::vec(event(), 1..40)) {
        let (mut world, mut driver, mut cpus) = guest(CPUS, boot);
        for event in events {
            match event {
                Event::Set(target) => world.set_cpus(target),
                Event::Want(target) => world.want_cpus(target),
                Event::Grant(cores) => world.grant(cores),
                Event::Pinned(pinned) => world.cores.pinned = pinned,
                Event::Broken(broken) => world.cores.broken = broken,
                Event::Slow(ticks) => world.cores.slow = ticks,
                Event::Own(cpu) => own(&mut world.cores, cpu),
                Event::Memory(pages) => world.set_target(pages),
                Event::Floor(pages) => world.floor_pages = pages,
                Event::Run(ticks) => {
                    let (end, asked) = (world.now + ticks, world.cores.asked.len());
                    world.run_both(&mut driver, &mut cpus, end);
                    // At most a round for each back-off that fits, and what the last round was in the middle of.
                    let most = u64::from(CPUS) * (8 + ticks / (500 * MS)) * 2;
                    prop_assert!((world.cores.asked.len() - asked) as u64 <= most);
                }
                Event::Reload => {
                    cpus = Cpus::new();
                    cpus.follow(&driver);
                }
            }
            world.check(&driver);
        }
        // The trouble ends.
        world.cores.pinned.clear();
        world.cores.broken.clear();
        world.cores.slow = 1;
        world.floor_pages = 0;
        world.set_target(0);
        world.set_cpus(last);
        prop_assert!(settles(&mut world, &mut driver, &mut cpus));
        prop_assert_eq!(world.cores.online(), last);
        prop_assert_eq!(driver.reserved_pages(), 0);
        let asked = world.cores.asked.len();
        prop_assert_eq!(cpus.step(&mut world), Next::Idle);
        prop_assert_eq!(world.cores.asked.len(), asked);
    }
}
