//! `simulate`: the hypervisor's own policy against simulated guests, in virtual time.

mod claims;
mod convergence;
mod experiments;
mod loads;
mod oracle;
mod world;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use serde_json::json;

use self::experiments::Outcome;
use self::loads::Random;
use crate::paths;

#[derive(clap::Args)]
pub struct Args {
    /// Where random loads begin: the same seed gives the same results on every machine
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Worlds of 2 to 9 guests in which convergence is measured
    #[arg(long, default_value_t = 200)]
    worlds: u64,
    /// Guests in the large worlds
    #[arg(long, default_value_t = 100)]
    guests: u64,
    /// Days that the large world runs
    #[arg(long, default_value_t = 1)]
    days: u64,
    /// A recorded load: lines of seconds and MiB
    #[arg(long, value_name = "FILE")]
    load: Option<PathBuf>,
    /// Where the plots go (default: target/simulate)
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args) -> Result<()> {
    let root = paths::root();

    let out = match args.out.clone() {
        Some(dir) => dir,
        None => paths::made("simulate")?,
    };
    std::fs::create_dir_all(&out)?;
    let load = args.load.clone();
    let load = load.unwrap_or_else(|| root.join("scripts/xtask/loads/build.trace"));
    let recorded = experiments::three_recorded(&loads::read(&load)?);
    let mut random = Random::new(args.seed);
    let show = |outcomes: Vec<Outcome>, began: Instant| -> Result<()> {
        for outcome in outcomes {
            if let Some(svg) = &outcome.svg {
                std::fs::write(out.join(outcome.name).with_extension("svg"), svg)?;
            }
            print(args, &outcome, began.elapsed().as_secs_f64());
        }
        Ok(())
    };
    let began = Instant::now();
    show(
        vec![convergence::convergence(&mut random, args.worlds)],
        began,
    )?;
    let began = Instant::now();
    show(vec![claims::claims(&mut random, args.worlds)], began)?;
    let began = Instant::now();
    let staggered = experiments::three_staggered();
    show(
        experiments::memory_time("staggered", "Three staggered loads", &staggered).into(),
        began,
    )?;
    let began = Instant::now();
    show(
        experiments::memory_time("recorded", "Three recorded builds", &recorded).into(),
        began,
    )?;
    let began = Instant::now();
    show(vec![experiments::tax()], began)?;
    let began = Instant::now();
    show(vec![experiments::fairness(&mut random, args.guests)], began)?;
    let began = Instant::now();
    show(
        vec![experiments::days(&mut random, args.guests, args.days)],
        began,
    )?;
    if !args.json {
        println!("plots: {}", out.display());
    }
    Ok(())
}

fn print(args: &Args, outcome: &Outcome, took_s: f64) {
    if args.json {
        println!(
            "{}",
            json!({ "simulation": outcome.name, "seed": args.seed, "numbers": outcome.numbers })
        );
        return;
    }
    println!("{} ({took_s:.1} s)", outcome.name);
    if let Some(numbers) = outcome.numbers.as_object() {
        for (key, value) in numbers {
            match value.as_f64() {
                Some(number) => println!("  {:<56}{:.1}", key.replace('_', " "), number),
                None => println!("  {}: {value}", key.replace('_', " ")),
            }
        }
    }
}
