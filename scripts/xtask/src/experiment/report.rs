//! What the raw lines come to: a table, a summary for programs, and plots.

use std::fmt::Write;

use serde_json::{Value, json};

use super::file::Experiment;
use crate::plot::{self, Chart, Curve, Join};

/// The work of one load in one variant, in pages visited, over the repetitions.
pub struct Work {
    pub variant: usize,
    pub load: usize,
    pub least: u64,
    pub median: u64,
    pub most: u64,
}

/// Work by variant and load, in this order.
pub fn summary(experiment: &Experiment, lines: &[Value]) -> Vec<Work> {
    let mut all = Vec::new();
    for (variant, named) in experiment.variants.iter().enumerate() {
        for load in 0..experiment.loads.len() {
            let mut pages: Vec<u64> = of_kind(lines, "load")
                .filter(|line| line["variant"] == named.name.as_str() && line["load"] == load)
                .filter_map(|line| line["pages"].as_u64())
                .collect();
            pages.sort_unstable();
            if let (Some(&least), Some(&most)) = (pages.first(), pages.last()) {
                all.push(Work {
                    variant,
                    load,
                    least,
                    median: pages[pages.len() / 2],
                    most,
                });
            }
        }
    }
    all
}

fn of_kind<'a>(lines: &'a [Value], kind: &'a str) -> impl Iterator<Item = &'a Value> {
    lines.iter().filter(move |line| line["kind"] == kind)
}

/// How much more than in the first variant, of the medians.
fn gain(summary: &[Work], work: &Work) -> Option<f64> {
    let first = summary
        .iter()
        .find(|other| other.variant == 0 && other.load == work.load)?;
    Some(work.median as f64 / first.median.max(1) as f64)
}

/// The summary for people.
pub fn table(experiment: &Experiment, summary: &[Work]) -> String {
    let mut text = String::from(
        "| load | variant | pages visited (median) | least | most | of the first variant |\n|---|---|---:|---:|---:|---:|\n",
    );
    for work in summary {
        let load = &experiment.loads[work.load];
        let _ = writeln!(
            text,
            "| {}, {} MiB for {} s | {} | {} | {} | {} | {:.2} |",
            load.guest,
            load.working_set_mib,
            load.seconds,
            experiment.variants[work.variant].name,
            work.median,
            work.least,
            work.most,
            gain(summary, work).unwrap_or(1.0)
        );
    }
    text
}

/// The summary for programs.
pub fn json(experiment: &Experiment, summary: &[Work]) -> Value {
    let rows: Vec<_> = summary
        .iter()
        .map(|work| {
            json!({
                "load": work.load,
                "guest": experiment.loads[work.load].guest,
                "variant": experiment.variants[work.variant].name,
                "pages-least": work.least,
                "pages-median": work.median,
                "pages-most": work.most,
                "of-first-variant": gain(summary, work),
            })
        })
        .collect();
    json!({
        "title": experiment.title,
        "seed": experiment.seed,
        "repetitions": experiment.repetitions,
        "gic": experiment.gic,
        "work": rows,
    })
}

/// Memory over time in each variant's first repetition, by the variant's place in the file.
pub fn plots(experiment: &Experiment, lines: &[Value]) -> Vec<(usize, String)> {
    let variants = experiment.variants.iter().enumerate();
    variants
        .map(|(index, variant)| {
            let is_of =
                |line: &&Value| line["variant"] == variant.name.as_str() && line["repetition"] == 0;
            let begin = of_kind(lines, "begin").find(is_of);
            let begin = begin
                .and_then(|line| line["time-s"].as_f64())
                .unwrap_or(0.0);
            let curve = |guest: usize, name: &str, key: &str| Curve {
                name: name.to_owned(),
                points: of_kind(lines, "guest")
                    .filter(is_of)
                    .filter(|line| line["guest"] == guest)
                    .filter_map(|line| {
                        let time = line["time-s"].as_f64()? - begin;
                        (time >= 0.0).then_some((time, line[key].as_f64()?))
                    })
                    .collect(),
            };
            let guests = experiment.guests.iter().enumerate();
            let curves: Vec<Curve> = guests
                .map(|(at, guest)| curve(at + 1, &guest.name, "memory-mib"))
                .collect();
            let events: Vec<_> = experiment
                .loads
                .iter()
                .map(|load| plot::Event {
                    at: load.from_s as f64,
                    what: format!("{} needs {} MiB", load.guest, load.working_set_mib),
                })
                .collect();
            let title = format!("{}: {}", experiment.title, variant.name);
            (index, plot::memory_over_time(&title, &curves, &events))
        })
        .collect()
}

/// The work of each load, one curve for a variant.
pub fn work_plot(experiment: &Experiment, summary: &[Work]) -> String {
    let curves: Vec<Curve> = experiment
        .variants
        .iter()
        .enumerate()
        .map(|(index, variant)| Curve {
            name: variant.name.clone(),
            points: summary
                .iter()
                .filter(|work| work.variant == index)
                .map(|work| (work.load as f64 + 1.0, work.median as f64 / 1000.0))
                .collect(),
        })
        .collect();
    let highest = summary.iter().map(|work| work.most).max().unwrap_or(1) as f64 / 1000.0;
    let chart = Chart {
        title: &experiment.title,
        axes: ("load, in the file's order", "thousand pages visited"),
        line_every: (highest / 6.0).max(1.0).round(),
        join: Join::Lines,
    };
    plot::draw(&chart, &curves, &[])
}
