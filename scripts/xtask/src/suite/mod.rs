//! `cargo xtask test`: every test of the project, on the host and then in QEMU, one at a time.

mod bare_metal;
mod c_guest;
mod channels;
mod core_moves;
mod cores;
mod devices;
mod granule;
mod host;
mod hostile;
mod kernels;
mod linux;
mod memory;
mod mixed;
mod monitor;
mod moves;
mod policy;
mod refusals;
mod rpi4;
mod rpi4_card;
mod rpi4_pins;
mod scenario;
mod scrub;
mod shared;
mod user_balloon;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;

pub use scenario::{Guest, Images, Scenario, partitions, partitions_on, shared};

use crate::setup::{self, Consent, Need};

/// Arguments of `cargo xtask test`.
#[derive(clap::Args)]
pub struct Args {
    /// Run only the tests whose name contains this ("host" has those that need no board)
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
    /// Also run the long ones
    #[arg(long)]
    long: bool,
    /// Run a test on an emulated board that fails up to this often again: the emulator's cores share the
    /// machine's, and a machine with much else to do starves them
    #[arg(long, value_name = "TIMES", default_value_t = 0)]
    again: u8,
    /// Name the tests and run nothing
    #[arg(long)]
    list: bool,
}

/// How many tests ended how.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Tally {
    /// Held.
    pub passed: u32,
    /// Did not hold.
    pub failed: u32,
    /// Were not run, for the reason that was printed.
    pub skipped: u32,
}

impl Tally {
    fn add(&mut self, other: Tally) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

/// Every scenario, in the order in which they are run: a broken boot shows first.
fn scenarios() -> Vec<Scenario> {
    let groups = [
        bare_metal::scenarios(),
        c_guest::scenarios(),
        kernels::scenarios(),
        channels::scenarios(),
        hostile::scenarios(),
        refusals::scenarios(),
        linux::scenarios(),
        monitor::scenarios(),
        memory::scenarios(),
        granule::scenarios(),
        cores::scenarios(),
        scrub::scenarios(),
        core_moves::scenarios(),
        moves::scenarios(),
        mixed::scenarios(),
        policy::scenarios(),
        user_balloon::scenarios(),
        rpi4::scenarios(),
        rpi4_card::scenarios(),
        shared::scenarios(),
        rpi4_pins::scenarios(),
        devices::scenarios(),
    ];
    groups.into_iter().flatten().collect()
}

/// `cargo xtask test`.
pub fn run(args: &Args, consent: Consent) -> Result<ExitCode> {
    let matches = |name: &str| {
        args.filter
            .as_ref()
            .is_none_or(|text| name.contains(text.as_str()))
    };
    let steps: Vec<_> = host::STEPS
        .into_iter()
        .filter(|(name, _)| matches(name))
        .collect();
    let chosen: Vec<Scenario> = scenarios()
        .into_iter()
        .filter(|s| matches(&s.name))
        .collect();
    if args.list {
        steps.iter().for_each(|(name, _)| println!("{name}"));
        for scenario in &chosen {
            println!(
                "{}{}",
                scenario.name,
                if scenario.long { " (long)" } else { "" }
            );
        }
        return Ok(ExitCode::SUCCESS);
    }
    let mut tally = Tally::default();
    if !steps.is_empty() {
        setup::ensure(&[Need::BareMetalTarget], consent)?;
    }
    for (name, step) in steps {
        tally.add(step(name, args.long)?);
    }
    if !chosen.is_empty() {
        setup::ensure(&Need::QEMU_VIRT, consent)?;
        if chosen.iter().any(|s| s.is_rpi4() || s.has_medium()) {
            setup::ensure(
                &[Need::QemuRaspi4b, Need::RaspberryPi, Need::RootFilesystem],
                consent,
            )?;
        }
        let has = |test: fn(&Scenario) -> bool| chosen.iter().any(test);
        let images = Images::build(
            has(Scenario::has_medium),
            has(Scenario::has_16k_pages),
            consent,
        )?;
        for scenario in &chosen {
            tally.add(run_one(scenario, &images, args));
        }
    }
    println!(
        "\n{} passed, {} failed, {} skipped",
        tally.passed, tally.failed, tally.skipped
    );
    Ok(if tally.failed == 0 && tally.passed > 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn run_one(scenario: &Scenario, images: &Images, args: &Args) -> Tally {
    if scenario.long && !args.long {
        println!("{} ... skipped (give --long)", scenario.name);
        return Tally {
            skipped: 1,
            ..Tally::default()
        };
    }
    for tries_left in (0..=args.again).rev() {
        let start = Instant::now();
        let outcome = scenario.run(images);
        let seconds = start.elapsed().as_secs_f32();
        let Err(error) = outcome else {
            println!("{} ... ok ({seconds:.1} s)", scenario.name);
            return Tally {
                passed: 1,
                ..Tally::default()
            };
        };
        println!("{} ... FAILED ({seconds:.1} s)", scenario.name);
        println!("  {error:#}");
        println!(
            "  everything it said: {}",
            scenario.dir().join("console.log").display()
        );
        if tries_left > 0 {
            println!("  once more, as --again says");
        }
    }
    Tally {
        failed: 1,
        ..Tally::default()
    }
}
