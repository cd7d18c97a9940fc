//! Guests that lie in their reports, and honest ones of which a sample could say too little.

use ballast_core::policy::Settings;
use ballast_core::policy::funding::{Claim, share_out};
use serde_json::json;

use super::experiments::{Outcome, entitlement, mib};
use super::loads::Random;
use super::oracle::wanted;
use super::world::{Guest, Habit, MIB, Phase, SECOND, World};
use crate::plot::{self, Chart, Curve, Join};

/// How long each world runs, and how often it is looked at.
const SECONDS: usize = 60;

/// Guests of which the first uses little and the others more than there is.
fn guests(random: &mut Random) -> Vec<Guest> {
    let guest = |random: &mut Random, least: u64, most: u64| {
        let memory = random.within(64, 512) * 2;
        let load = random.within(memory * least / 4, memory * most / 4);
        let phase = Phase {
            us: 3600 * SECOND,
            pages: load * MIB,
        };
        let shares = u32::try_from(random.within(50, 400)).unwrap_or(100);
        Guest::new(
            entitlement(64, 4096, shares),
            memory * MIB,
            vec![phase],
            false,
        )
    };
    let mut guests = vec![guest(random, 1, 3)];
    for _ in 0..random.within(2, 7) {
        guests.push(guest(random, 2, 8));
    }
    guests
}

/// What the first guest has, second by second, with this habit.
fn run(guests: &[Guest], habit: Habit, samples: bool) -> Vec<u64> {
    let mut guests = guests.to_vec();
    if let Some(first) = guests.first_mut() {
        first.habit = habit;
    }
    let mut world = World::new(Settings::default(), guests, 32 * MIB);
    world.samples = samples;
    let seconds = 0..=SECONDS as u64;
    let has = seconds.map(|second| {
        world.run(second * SECOND, |_, _| {});
        world.guests.first().map_or(0, |first| first.memory)
    });
    has.collect()
}

/// What the first guest would have if it honestly wanted all there is, for what it does use.
fn due(guests: &[Guest]) -> u64 {
    let settings = Settings::default();
    let claims: Vec<_> = guests
        .iter()
        .enumerate()
        .map(|(index, guest)| {
            let active = wanted(guest.load());
            Claim {
                shares: guest.entitlement.shares.into(),
                held: guest.memory,
                active,
                floor: guest.entitlement.min_pages,
                cap: if index == 0 {
                    guest.entitlement.max_pages
                } else {
                    guest.memory.max(active)
                },
            }
        })
        .collect();
    let held: u64 = guests.iter().map(|guest| guest.memory).sum();
    let mut goals = vec![0; guests.len()];
    share_out(&claims, held, settings.tax, &mut goals);
    goals.first().copied().unwrap_or(0)
}

/// What a lie gains, with the sample and without, and what the sample costs those who tell the truth.
pub fn claims(random: &mut Random, worlds: u64) -> Outcome {
    let kinds = [
        ("honest", Habit::Plain, true),
        ("lies", Habit::Lying, true),
        ("lies, not sampled", Habit::Lying, false),
    ];
    let others = [
        ("honest_unsampled", Habit::Plain, false),
        ("caching", Habit::Caching, true),
        ("cold", Habit::Cold, true),
    ];
    let mut sums = [[0_u64; SECONDS + 1]; 3];
    let mut ends = [0_u64; 3];
    let mut dues = 0;
    for _ in 0..worlds {
        let guests = guests(random);
        dues += due(&guests);
        for ((_, habit, samples), sums) in kinds.iter().zip(&mut sums) {
            let has = run(&guests, *habit, *samples);
            for (sum, has) in sums.iter_mut().zip(has) {
                *sum += has;
            }
        }
        for ((_, habit, samples), end) in others.iter().zip(&mut ends) {
            *end += run(&guests, *habit, *samples).last().copied().unwrap_or(0);
        }
    }
    let mean = |sum: u64| mib(sum) / worlds.max(1) as f64;
    let curves: Vec<_> = kinds
        .iter()
        .zip(&sums)
        .map(|((name, ..), sums)| Curve {
            name: (*name).to_owned(),
            points: sums
                .iter()
                .enumerate()
                .map(|(second, &sum)| (second as f64, mean(sum)))
                .collect(),
        })
        .collect();
    let chart = Chart {
        title: "Memory of a guest that uses little while others lack memory, mean of all worlds",
        axes: ("seconds", "MiB"),
        line_every: 128.0,
        join: Join::Lines,
    };
    let [honest, lies, believed] = sums.map(|sums| mean(sums[SECONDS]));
    let [unsampled, caching, cold] = ends.map(mean);
    Outcome {
        name: "claims",
        svg: Some(plot::draw(&chart, &curves, &[])),
        numbers: json!({
            "worlds": worlds,
            "honest_mib": honest,
            "honest_not_sampled_mib": unsampled,
            "honest_with_page_cache_mib": caching,
            "honest_touching_half_mib": cold,
            "lying_mib": lies,
            "lying_not_sampled_mib": believed,
            "due_to_an_honest_need_mib": mean(dues),
        }),
    }
}
