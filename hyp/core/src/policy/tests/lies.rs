//! A guest that lies in its reports gains nothing that the sample of its accesses does not support.

use proptest::prelude::*;

use super::world::{Guest, MIB, World};
use crate::policy::funding::{Claim, share_out};
use crate::policy::{BLOCK, Settings};

/// What a guest wants that uses `load`.
fn wanted(load: u64) -> u64 {
    (load + load / 16 + 2048).next_multiple_of(BLOCK)
}

fn guest() -> impl Strategy<Value = Guest> {
    let sizes = (64..512_u64, 16..64_u64, 16..1024_u64);
    (sizes, 50..400_u32).prop_map(|((memory, min, load), shares)| {
        let mut guest = Guest::new(memory * 2, min * 2, 4096, shares).loaded(load);
        guest.is_sampled = true;
        guest
    })
}

/// What each has where all pay the same and the first wants all there is, for what it does use.
fn with_an_honest_need(guests: &[Guest], free: u64) -> Vec<u64> {
    let settings = Settings::default();
    let claims: Vec<_> = guests
        .iter()
        .enumerate()
        .map(|(index, guest)| {
            let entitlement = guest.entitlement;
            let active = wanted(guest.load);
            Claim {
                shares: entitlement.shares.into(),
                held: guest.memory,
                active,
                floor: entitlement.min_pages,
                cap: if index == 0 {
                    entitlement.max_pages
                } else {
                    guest.memory.max(active)
                },
            }
        })
        .collect();
    let held: u64 = guests.iter().map(|guest| guest.memory).sum();
    let reserve = (held + free) * settings.reserve_per_mille / 1000;
    let mut goals = vec![0; guests.len()];
    share_out(
        &claims,
        held + free.saturating_sub(reserve),
        settings.tax,
        &mut goals,
    );
    goals
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    /// The first guest says that it uses all it has and could use much more. It pays for what it does not use as idle,
    /// so it has no more than an honest guest that uses as much and could use more; those who lack memory lose none
    /// to the lie.
    #[test]
    fn a_lie_that_the_sample_does_not_support_gains_nothing(
        guests in prop::collection::vec(guest(), 2..6),
        free in 0..128_u64,
    ) {
        let bounds = with_an_honest_need(&guests, free * MIB);
        let mut lying = guests.clone();
        lying[0].lies = true;
        let mut world = World::new(Settings::default(), lying, free);
        world.settle(300);
        let has = &world.guests;
        // What it had it may keep while the difference is not worth a move.
        let slack = |pages: u64| pages / 10 + 2 * BLOCK * has.len() as u64;
        prop_assert!(
            has[0].memory <= bounds[0] + slack(bounds[0]),
            "{} MiB where {} are its due", has[0].memory / MIB, bounds[0] / MIB
        );
        for (guest, bound) in has.iter().zip(&bounds).skip(1) {
            let due = wanted(guest.load).min(*bound);
            prop_assert!(
                guest.memory + slack(due) >= due,
                "{} MiB where {} are due", guest.memory / MIB, due / MIB
            );
        }
    }
}
