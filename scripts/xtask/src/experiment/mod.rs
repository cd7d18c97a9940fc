//! `cargo xtask experiment`: guests, loads and ways of dividing memory from a file, run on a board in QEMU.
//!
//! Every move that Ballast logs, every phase of it, every sample and every load's result is a line of JSON, so that others can work with
//! them. Time is the board's: QEMU lets it advance with the instructions that are executed, so a figure does not
//! depend on the machine that runs the emulator.

mod file;
mod report;
mod stage;

use std::path::PathBuf;

use anyhow::Result;
use serde_json::Value;

use self::file::Experiment;
use self::stage::Stage;
use crate::paths;
use crate::setup::Consent;

/// Arguments of `cargo xtask experiment`.
#[derive(clap::Args)]
pub struct Args {
    /// The experiment (see docs/experiments.md), such as scripts/experiments/alternating.toml
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Run each variant so often, instead of what the file says
    #[arg(long, value_name = "TIMES")]
    repetitions: Option<u64>,
    /// GIC architecture version, instead of what the file says
    #[arg(long, value_parser = clap::value_parser!(u8).range(2..=3))]
    gic: Option<u8>,
    /// Where raw.jsonl, summary.json and the plots go (default: target/experiments/NAME)
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// `cargo xtask experiment`.
pub fn run(args: &Args, consent: Consent) -> Result<()> {
    let mut experiment = Experiment::read(&args.file)?;
    experiment.repetitions = args.repetitions.unwrap_or(experiment.repetitions);
    experiment.gic = args.gic.unwrap_or(experiment.gic);
    let name = args.file.file_stem().unwrap_or_default();
    let out = match &args.out {
        Some(dir) => dir.clone(),
        None => paths::target().join("experiments").join(name),
    };
    std::fs::create_dir_all(&out)?;
    let lines = all(&experiment, &out, consent)?;
    let raw: String = lines.iter().map(|line| format!("{line}\n")).collect();
    paths::write(&out.join("raw.jsonl"), raw)?;
    for (variant, svg) in report::plots(&experiment, &lines) {
        paths::write(&out.join(format!("memory-{variant}.svg")), svg)?;
    }
    let summary = report::summary(&experiment, &lines);
    paths::write(
        &out.join("summary.json"),
        serde_json::to_string_pretty(&report::json(&experiment, &summary))? + "\n",
    )?;
    paths::write(
        &out.join("work.svg"),
        report::work_plot(&experiment, &summary),
    )?;
    println!("\n{}", report::table(&experiment, &summary));
    println!("Raw lines, summary and plots: {}", out.display());
    Ok(())
}

/// Runs every variant as often as it is to be run; what was seen, in order.
fn all(experiment: &Experiment, dir: &std::path::Path, consent: Consent) -> Result<Vec<Value>> {
    let stage = Stage::new(experiment, dir, consent)?;
    let mut lines = Vec::new();
    for repetition in 0..experiment.repetitions {
        for variant in &experiment.variants {
            println!(
                "{}, repetition {} of {}",
                variant.name,
                repetition + 1,
                experiment.repetitions
            );
            lines.extend(stage.play(variant, repetition)?);
        }
    }
    Ok(lines)
}
