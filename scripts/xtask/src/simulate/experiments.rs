//! What is simulated, and what comes out.

use ballast_core::policy::funding::Tax;
use ballast_core::policy::{Entitlement, Settings};
use serde_json::{Value, json};

use super::loads::Random;
use super::oracle::wanted;
use super::world::{Guest, MIB, Phase, SECOND, World};
use crate::plot::{self, Chart, Curve, Join};

/// A plot and the numbers behind it.
pub struct Outcome {
    /// What was simulated, as a file name without ending.
    pub name: &'static str,
    /// The plot, if there is one.
    pub svg: Option<String>,
    /// The numbers.
    pub numbers: Value,
}

/// What a guest is entitled to.
pub fn entitlement(min_mib: u64, max_mib: u64, shares: u32) -> Entitlement {
    Entitlement {
        min_pages: min_mib * MIB,
        max_pages: max_mib * MIB,
        shares,
        fixed: false,
    }
}

/// Microseconds in seconds.
pub fn seconds(us: u64) -> f64 {
    us as f64 / SECOND as f64
}

/// Pages in MiB.
pub fn mib(pages: u64) -> f64 {
    pages as f64 / MIB as f64
}

/// Three programs that need much memory one after the other.
pub fn three_staggered() -> Vec<Vec<Phase>> {
    let small = |seconds: u64| Phase {
        us: seconds * SECOND,
        pages: 112 * MIB,
    };
    let large = Phase {
        us: 60 * SECOND,
        pages: 720 * MIB,
    };
    let cycle = |before: u64, after: u64| [small(before), large.clone(), small(after)];
    let program = |before, after| [cycle(before, after), cycle(before, after)].concat();
    vec![program(5, 135), program(70, 70), program(135, 5)]
}

/// The same recorded program three times, each begun a third of its length later.
pub fn three_recorded(phases: &[Phase]) -> Vec<Vec<Phase>> {
    let length: u64 = phases.iter().map(|phase| phase.us).sum();
    let idle = |us: u64| Phase {
        us: us + 1,
        pages: 0,
    };
    let program = |third: u64| {
        let mut program = vec![idle(third * length / 3)];
        program.extend_from_slice(phases);
        program.push(idle((2 - third) * length / 3));
        program
    };
    (0..3).map(program).collect()
}

/// A tax that leaves next to nothing to the idle, in percent.
const HIGH_TAX: u8 = 95;

/// One amount of memory, in percent of static partitions, and what comes of it.
#[derive(Clone, Copy, Default)]
struct Row {
    memory: f64,
    memory_time: f64,
    time_lost: f64,
}

/// What one run came to.
struct Run {
    /// When the last program had ended.
    took_us: u64,
    curves: Vec<Curve>,
}

/// Runs the programs with `total` pages shared among them.
fn run_shared(programs: &[Vec<Phase>], total: u64, settings: Settings) -> Run {
    let least = total / programs.len() as u64 / 512 * 512;
    let guests: Vec<_> = programs
        .iter()
        .map(|phases| {
            let entitlement = entitlement(48, 4096, 100);
            Guest::new(entitlement, least, phases.clone(), true)
        })
        .collect();
    let mut curves: Vec<_> = (0..guests.len())
        .map(|index| Curve {
            name: format!("guest {}", index + 1),
            points: Vec::new(),
        })
        .collect();
    let free = total - least * guests.len() as u64;
    let mut world = World::new(settings, guests, free);
    let length: u64 = programs[0].iter().map(|phase| phase.us).sum();
    let mut took_us = 0;
    while took_us == 0 && world.now < 30 * length {
        let until = world.now + SECOND / 2;
        world.run(until, |_, _| {});
        for (curve, guest) in curves.iter_mut().zip(&world.guests) {
            curve.points.push((seconds(world.now), mib(guest.memory)));
        }
        let ends = world.guests.iter().map(|guest| guest.ended_us);
        took_us = ends
            .collect::<Option<Vec<_>>>()
            .and_then(|ends| ends.into_iter().max())
            .unwrap_or(0);
    }
    Run {
        took_us: if took_us == 0 { world.now } else { took_us },
        curves,
    }
}

/// Memory that a program never needs more of, and what the policy leaves every guest unused.
fn partition(phases: &[Phase]) -> u64 {
    let peak = phases.iter().map(|phase| phase.pages).max().unwrap_or(0);
    wanted(peak)
}

/// How much memory for how long three programs take, against static partitions of their peaks.
pub fn memory_time(name: &'static str, what: &str, programs: &[Vec<Phase>]) -> [Outcome; 2] {
    let static_pages: u64 = programs.iter().map(|phases| partition(phases)).sum();
    let length: u64 = programs[0].iter().map(|phase| phase.us).sum();
    let sweep = |settings: Settings| -> Vec<Row> {
        let row = |percent: u64| {
            let total = static_pages * percent / 100 / 512 * 512;
            let took_us = run_shared(programs, total, settings).took_us;
            let times = took_us as f64 / length as f64;
            Row {
                memory: percent as f64,
                memory_time: percent as f64 * times,
                time_lost: (100.0 * (times - 1.0)).max(0.0),
            }
        };
        (30..=100).step_by(2).map(row).collect()
    };
    let usual = Settings::default();
    let taxed = Settings {
        tax: Tax::new(HIGH_TAX).unwrap_or(Tax::DEFAULT),
        ..usual
    };
    let (rows, taxed) = (sweep(usual), sweep(taxed));
    let least = |rows: &[Row]| {
        let least = rows
            .iter()
            .min_by(|a, b| a.memory_time.total_cmp(&b.memory_time));
        least.copied().unwrap_or_default()
    };
    let unharmed = rows.iter().find(|row| row.time_lost <= 1.0);
    let unharmed = unharmed.copied().unwrap_or_default();
    let curve = |name: &str, rows: &[Row], value: fn(&Row) -> f64| Curve {
        name: name.to_owned(),
        points: rows
            .iter()
            .map(|row| (row.memory, value(row).min(200.0)))
            .collect(),
    };
    let chart = Chart {
        title: &format!("{what}: memory x time against static partitions"),
        axes: ("memory, % of static partitions", "%"),
        line_every: 20.0,
        join: Join::Lines,
    };
    let curves = [
        curve("memory x time", &rows, |row| row.memory_time),
        curve("time lost", &rows, |row| row.time_lost),
        curve(&format!("memory x time, tax {HIGH_TAX} %"), &taxed, |row| {
            row.memory_time
        }),
    ];
    let shown = run_shared(
        programs,
        static_pages * (unharmed.memory as u64) / 100 / 512 * 512,
        usual,
    );
    let title = format!(
        "{what}: {:.0} MiB instead of {:.0}",
        mib(static_pages) * unharmed.memory / 100.0,
        mib(static_pages)
    );
    let over_time = if name == "staggered" {
        "staggered-time"
    } else {
        "recorded-time"
    };
    [
        Outcome {
            name,
            svg: Some(plot::draw(&chart, &curves, &[])),
            numbers: json!({
                "static_mib": mib(static_pages),
                "least_memory_time_percent": least(&rows).memory_time,
                "least_memory_time_at_memory_percent": least(&rows).memory,
                "least_memory_time_costs_percent_of_time": least(&rows).time_lost,
                "memory_time_percent_at_1_percent_of_time": unharmed.memory_time,
                "least_memory_time_percent_with_high_tax": least(&taxed).memory_time,
                "least_memory_time_with_high_tax_costs_percent_of_time": least(&taxed).time_lost,
            }),
        },
        Outcome {
            name: over_time,
            svg: Some(plot::memory_over_time(&title, &shown.curves, &[])),
            numbers: json!({ "took_s": seconds(shown.took_us) }),
        },
    ]
}

/// Two guests of equal shares, one of them idle, under taxes from 0 to 95 %.
pub fn tax() -> Outcome {
    let mut curves = [("uses 1000 MiB", Vec::new()), ("uses 64 MiB", Vec::new())];
    let mut rows = Vec::new();
    for percent in (0..=95).step_by(5) {
        let Some(tax) = Tax::new(percent) else {
            continue;
        };
        let settings = Settings {
            tax,
            ..Settings::default()
        };
        let guest = |mib: u64| {
            let phase = Phase {
                us: 3600 * SECOND,
                pages: mib * MIB,
            };
            Guest::new(entitlement(64, 4096, 100), 512 * MIB, vec![phase], false)
        };
        let mut world = World::new(settings, vec![guest(1000), guest(64)], 0);
        world.run(120 * SECOND, |_, _| {});
        let has: Vec<_> = world.guests.iter().map(|guest| mib(guest.memory)).collect();
        for ((_, points), has) in curves.iter_mut().zip(&has) {
            points.push((f64::from(percent), *has));
        }
        rows.push(json!({ "tax_percent": percent, "busy_mib": has[0], "idle_mib": has[1] }));
    }
    let chart = Chart {
        title: "Two guests of equal shares and 1024 MiB, by the tax on idle memory",
        axes: ("tax, %", "MiB"),
        line_every: 128.0,
        join: Join::Lines,
    };
    let curves = curves.map(|(name, points)| Curve {
        name: name.to_owned(),
        points,
    });
    Outcome {
        name: "tax",
        svg: Some(plot::draw(&chart, &curves, &[])),
        numbers: json!({ "rows": rows }),
    }
}

/// Jain's index of fairness: 1 if all are equal.
fn jain(values: &[f64]) -> f64 {
    let sum: f64 = values.iter().sum();
    let squares: f64 = values.iter().map(|value| value * value).sum();
    if squares == 0.0 {
        1.0
    } else {
        sum * sum / (values.len() as f64 * squares)
    }
}

/// Many guests that all want more than there is: whether shares alone decide.
pub fn fairness(random: &mut Random, count: u64) -> Outcome {
    let guests: Vec<_> = (0..count)
        .map(|_| {
            let shares = u32::try_from(random.within(50, 400)).unwrap_or(100);
            let phase = Phase {
                us: 3600 * SECOND,
                pages: 4000 * MIB,
            };
            Guest::new(entitlement(64, 4096, shares), 512 * MIB, vec![phase], false)
        })
        .collect();
    let mut world = World::new(Settings::default(), guests, 0);
    world.run(120 * SECOND, |_, _| {});
    let per_share: Vec<_> = world
        .guests
        .iter()
        .map(|guest| mib(guest.memory) / f64::from(guest.entitlement.shares))
        .collect();
    Outcome {
        name: "fairness",
        svg: None,
        numbers: json!({ "guests": count, "jain_index_of_memory_per_share": jain(&per_share) }),
    }
}

/// Many guests for days, each with a load that changes now and then.
pub fn days(random: &mut Random, count: u64, days: u64) -> Outcome {
    let end = days * 86_400 * SECOND;
    let guests: Vec<_> = (0..count)
        .map(|_| {
            let mut phases = Vec::new();
            let mut length = 0;
            while length < end {
                let us = random.within(600, 7200) * SECOND;
                length += us;
                // Mostly little, at times much.
                let most = if random.within(0, 4) == 0 { 900 } else { 250 };
                phases.push(Phase {
                    us,
                    pages: random.within(40, most) * MIB,
                });
            }
            let shares = u32::try_from(random.within(50, 400)).unwrap_or(100);
            Guest::new(entitlement(64, 1024, shares), 256 * MIB, phases, false)
        })
        .collect();
    let mut world = World::new(Settings::default(), guests, 0);
    let (mut served, mut short, mut unjust) = (0.0, 0.0, 0_u64);
    world.run(end, |world, dt| {
        for guest in &world.guests {
            let load = guest.load();
            served += dt as f64;
            short += if guest.memory < load { dt as f64 } else { 0.0 };
            unjust += u64::from(guest.memory < guest.entitlement.min_pages);
        }
    });
    Outcome {
        name: "days",
        svg: None,
        numbers: json!({
            "guests": count,
            "days": days,
            "policy_steps": world.steps,
            "sample_rounds": world.rounds,
            "targets_set": world.changes,
            "turned_round": world.turns,
            "rested_percent": 100.0 * world.rested_us as f64 / end as f64,
            "guest_time_short_of_memory_percent": 100.0 * short / served,
            "below_minimum": unjust,
        }),
    }
}
