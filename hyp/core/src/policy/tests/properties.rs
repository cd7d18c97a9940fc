use proptest::prelude::*;

use super::world::{Guest, MIB, World};
use crate::policy::{Mode, Settings};

#[derive(Clone, Debug)]
enum Op {
    Load { guest: usize, mib: u64 },
    Target { guest: usize, mib: u64 },
    Request { guest: usize, mib: u64 },
    Pressure { guest: usize, mib: u64 },
    Deaf { guest: usize, is_deaf: bool },
    Driver { guest: usize, has_driver: bool },
    Lie { guest: usize, lies: bool },
    Speed { guest: usize, mib_s: u64 },
    Mode(Mode),
    Wait { seconds: u64 },
}

fn op() -> impl Strategy<Value = Op> {
    let guest = 0..4_usize;
    prop_oneof![
        6 => (guest.clone(), 0..1500_u64).prop_map(|(guest, mib)| Op::Load { guest, mib }),
        1 => (guest.clone(), 0..1500_u64).prop_map(|(guest, mib)| Op::Target { guest, mib }),
        1 => (guest.clone(), 0..1500_u64).prop_map(|(guest, mib)| Op::Request { guest, mib }),
        1 => (guest.clone(), 0..3000_u64).prop_map(|(guest, mib)| Op::Pressure { guest, mib }),
        1 => (guest.clone(), any::<bool>()).prop_map(|(guest, is_deaf)| Op::Deaf { guest, is_deaf }),
        1 => (guest.clone(), any::<bool>()).prop_map(|(guest, has_driver)| Op::Driver { guest, has_driver }),
        1 => (guest.clone(), any::<bool>()).prop_map(|(guest, lies)| Op::Lie { guest, lies }),
        1 => (guest, 1..2000_u64).prop_map(|(guest, mib_s)| Op::Speed { guest, mib_s }),
        1 => prop_oneof![2 => Just(Mode::Auto), 1 => Just(Mode::Manual), 2 => Just(Mode::External)].prop_map(Op::Mode),
        6 => (0..12_u64).prop_map(|seconds| Op::Wait { seconds }),
    ]
}

fn guest() -> impl Strategy<Value = Guest> {
    let sizes = (16..256_u64, 0..256_u64, 0..512_u64);
    (sizes, 1..1000_u32, any::<bool>()).prop_map(|((min, more, most), shares, is_sampled)| {
        let (min, boot) = (min * 2, (min + more) * 2);
        let mut guest = Guest::new(boot, min, boot + most * 2, shares).loaded(boot / 2);
        guest.is_sampled = is_sampled;
        guest
    })
}

fn carry_out(world: &mut World, op: &Op) {
    let count = world.guests.len();
    match *op {
        Op::Load { guest, mib } => world.guests[guest % count].load = mib * MIB,
        Op::Target { guest, mib } | Op::Request { guest, mib } => {
            let entitlement = world.guests[guest % count].entitlement;
            let target = (mib * MIB).clamp(entitlement.min_pages, entitlement.max_pages);
            if matches!(op, Op::Request { .. }) {
                world.requested(guest % count, target);
            } else {
                world.manual(guest % count, target);
            }
        }
        Op::Pressure { guest, mib } => world.pressure(guest % count, mib * MIB),
        Op::Deaf { guest, is_deaf } => world.guests[guest % count].is_deaf = is_deaf,
        Op::Driver { guest, has_driver } => world.guests[guest % count].has_driver = has_driver,
        Op::Lie { guest, lies } => world.guests[guest % count].lies = lies,
        Op::Speed { guest, mib_s } => world.guests[guest % count].speed = mib_s * MIB,
        Op::Mode(mode) => world.set_mode(mode),
        Op::Wait { seconds } => world.run(seconds),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10_000, ..ProptestConfig::default() })]

    /// Whatever the guests and the operator do: memory is conserved, nobody falls below its minimum or rises
    /// above its maximum, no more is promised than there is, nobody is turned round within five seconds, nothing is
    /// decided that is another's to decide (all checked by the world at each step), and in the end the policy rests.
    #[test]
    fn random_loads_and_targets(
        guests in prop::collection::vec(guest(), 1..5),
        free in 0..256_u64,
        ops in prop::collection::vec(op(), 1..12),
    ) {
        let mut world = World::new(Settings::default(), guests, free * 2);
        for op in &ops {
            carry_out(&mut world, op);
        }
        // A slow guest's pages are reported after the policy has come to rest, or has given the guest up.
        for _ in 0..100 {
            let before = (world.changes, world.steps);
            world.settle(1200);
            world.run(20);
            if before == (world.changes, world.steps) {
                break;
            }
        }
        let changes = world.changes;
        let steps = world.steps;
        world.run(60);
        prop_assert_eq!((world.changes, world.steps), (changes, steps));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Constant loads: nobody is sent up and down again and again.
    #[test]
    fn constant_loads_do_not_oscillate(
        guests in prop::collection::vec((guest(), 0..1500_u64), 2..5),
        free in 0..256_u64,
    ) {
        let guests: Vec<_> = guests.into_iter().map(|(guest, mib)| guest.loaded(mib)).collect();
        let mut world = World::new(Settings::default(), guests, free * 2);
        let mut turns = vec![(0_u64, 0_u32, None); world.guests.len()];
        let mut changes_then = 0;
        for second in 0..600 {
            if second == 120 {
                changes_then = world.changes;
            }
            for (guest, (target, turned, up)) in world.guests.iter().zip(&mut turns) {
                if *target != 0 && guest.target != *target {
                    let now_up = guest.target > *target;
                    *turned += u32::from(up.is_some_and(|up| up != now_up));
                    *up = Some(now_up);
                }
                *target = guest.target;
            }
            world.run(1);
        }
        // While a sampled guest grows step by step others may get what it does not want yet.
        prop_assert!(turns.iter().all(|(_, turned, _)| *turned <= 4), "{turns:?}");
        prop_assert_eq!((world.next, world.changes), (None, changes_then));
    }
}
