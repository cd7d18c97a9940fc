//! How soon guests are where min-funding ends.

use ballast_core::policy::Settings;
use serde_json::json;

use super::experiments::{Outcome, entitlement};
use super::loads::Random;
use super::oracle::{fixed_point, wanted};
use super::world::{Guest, MIB, Phase, SECOND, World};
use crate::plot::{self, Chart, Curve, Join};

/// Looks after the change, four a second.
const LOOKS: usize = 81;
const LOOK: u64 = SECOND / 4;

/// Within 2 MiB or 3 %.
fn bound(goal: u64) -> u64 {
    (2 * MIB).max(goal * 3 / 100)
}

fn is_near(memory: u64, goal: u64) -> bool {
    memory.abs_diff(goal) <= bound(goal)
}

/// A guest whose load changes after a minute.
fn guest(random: &mut Random) -> Guest {
    let memory = random.within(64, 512) * 2;
    let phases = vec![
        Phase {
            us: 60 * SECOND,
            pages: random.within(32, memory) * MIB,
        },
        Phase {
            us: 3600 * SECOND,
            pages: random.within(32, 2 * memory) * MIB,
        },
    ];
    let shares = u32::try_from(random.within(50, 400)).unwrap_or(100);
    let mut guest = Guest::new(entitlement(64, 4096, shares), memory * MIB, phases, false);
    guest.speed = random.within(64, 512) * MIB;
    guest
}

/// How many guests could be near their goal after ten seconds, if each had been told it at once.
fn at_best(world: &World, goals: &[u64]) -> usize {
    let mut guests = world.guests.clone();
    let mut free = world.free;
    for (guest, &goal) in guests.iter_mut().zip(goals) {
        guest.target = goal;
    }
    for _ in 0..10 * SECOND / (SECOND / 20) {
        for guest in &mut guests {
            guest.move_for(SECOND / 20, &mut free);
        }
    }
    let pairs = guests.iter().zip(goals);
    pairs
        .filter(|(guest, goal)| is_near(guest.memory, **goal))
        .count()
}

/// Random guests whose loads all change at once: how soon they are where min-funding ends.
pub fn convergence(random: &mut Random, worlds: u64) -> Outcome {
    let settings = Settings::default();
    let (mut near, mut served) = ([0_u64; LOOKS], [0_u64; LOOKS]);
    let (mut guests_in_all, mut worst_at_10, mut best, mut unmoved) = (0_u64, 0.0_f64, 0, 0);
    for _ in 0..worlds {
        let count = random.within(2, 10);
        let guests = (0..count).map(|_| guest(random)).collect();
        let mut world = World::new(settings, guests, random.within(16, 128) * MIB);
        world.run(60 * SECOND + 1, |_, _| {});
        let (begin, changes) = (world.now, world.changes);
        let goal = fixed_point(&world, &settings);
        guests_in_all += count;
        best += at_best(&world, &goal);
        for (look, (near, served)) in near.iter_mut().zip(&mut served).enumerate() {
            world.run(begin + look as u64 * LOOK, |_, _| {});
            for (guest, &goal) in world.guests.iter().zip(&goal) {
                let is_near = is_near(guest.memory, goal);
                *near += u64::from(is_near);
                *served += u64::from(guest.memory + bound(goal) >= goal.min(wanted(guest.load())));
                if look == 40 {
                    let off = guest.memory.abs_diff(goal);
                    worst_at_10 = worst_at_10.max(off as f64 / goal.max(1) as f64);
                    unmoved += u64::from(!is_near && world.changes == changes);
                }
            }
        }
    }
    let percent = |of: u64| 100.0 * of as f64 / guests_in_all as f64;
    let part = |of: &[u64], look: usize| percent(of.get(look).copied().unwrap_or(0));
    let curve = |name: &str, of: &[u64]| Curve {
        name: name.to_owned(),
        points: (0..LOOKS)
            .map(|look| (look as f64 / 4.0, part(of, look)))
            .collect(),
    };
    let chart = Chart {
        title: "Guests within 2 MiB or 3 % of the min-funding fixed point after all loads changed",
        axes: ("seconds", "% of guests"),
        line_every: 20.0,
        join: Join::Lines,
    };
    let curves = [curve("at it", &near), curve("at or above it", &served)];
    Outcome {
        name: "convergence",
        svg: Some(plot::draw(&chart, &curves, &[])),
        numbers: json!({
            "worlds": worlds,
            "guests": guests_in_all,
            "near_percent_at_5_s": part(&near, 20),
            "near_percent_at_10_s": part(&near, 40),
            "near_percent_at_20_s": part(&near, 80),
            "near_or_served_percent_at_5_s": part(&served, 20),
            "near_or_served_percent_at_10_s": part(&served, 40),
            "worst_at_10_s_percent": 100.0 * worst_at_10,
            "near_percent_at_10_s_if_told_at_once": percent(best as u64),
            "far_for_hysteresis_alone": unmoved,
        }),
    }
}
