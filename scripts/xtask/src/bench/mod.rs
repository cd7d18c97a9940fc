//! `cargo xtask bench`: what Ballast costs, in instructions, beside its peers and its goals.
//!
//! QEMU counts instructions as time (`-icount shift=0` and a counter of 1 GHz), so the bare-metal guest's differences
//! of CNTVCT are instruction counts: the same on every machine, and no cycles. See `docs/bench.md`.

mod first;
mod linux;
mod relocation;
mod table;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::archive::Image;
use crate::artefacts;
use crate::console::Console;
use crate::paths;
use crate::qemu::{Board, Serial};
use crate::run;
use crate::setup::{self, Consent, Need};
use crate::suite::{Guest, partitions, partitions_on, shared};

/// Interrupt controllers to measure on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Gic {
    /// GICv2.
    #[value(name = "2")]
    V2,
    /// GICv3.
    #[value(name = "3")]
    V3,
    /// One after the other.
    Both,
}

/// What can be measured by itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Part {
    /// Traps, memory calls and what takes two cores.
    Calls,
    /// Moving out of another guest's frames.
    Relocation,
    /// A Linux guest's balloon.
    Linux,
    /// What Ballast keeps for itself.
    Size,
}

/// Arguments of `cargo xtask bench`.
#[derive(clap::Args)]
pub struct Args {
    /// GIC architecture version
    #[arg(long, value_enum, default_value = "both")]
    gic: Gic,
    /// Measure this part alone (default: all of them)
    #[arg(long, value_enum)]
    part: Option<Part>,
    /// Where to write the figures (default: bench.json in the build folder)
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Exit with failure if a figure is over its goal
    #[arg(long)]
    strict: bool,
}

/// Figures by name.
pub type Figures = BTreeMap<String, u64>;

/// `cargo xtask bench`.
pub fn run(args: &Args, consent: Consent) -> Result<ExitCode> {
    setup::ensure(&Need::QEMU_VIRT, consent)?;
    let linux = artefacts::linux_guest(consent)?;
    let bench = Bench {
        hypervisor: artefacts::hypervisor()?,
        bare_metal: [Image::new("bare-metal", artefacts::bare_metal_guest()?)],
        linux: [
            Image::new("linux", linux.kernel),
            Image::new("linux-initrd", linux.initrd),
        ],
        dir: paths::made("ballast/bench")?,
    };
    let gics: &[u8] = match args.gic {
        Gic::V2 => &[2],
        Gic::V3 => &[3],
        Gic::Both => &[3, 2],
    };
    let mut all = BTreeMap::new();
    for &gic in gics {
        all.insert(gic, bench.measure(gic, args.part)?);
    }
    println!("{}", table::render(&all));
    println!(
        "Instructions under QEMU's -icount, not cycles: caches, TLBs and barriers are not modelled."
    );
    let json = match &args.json {
        Some(path) => path.clone(),
        None => paths::target().join("bench.json"),
    };
    paths::write(
        &json,
        serde_json::to_string_pretty(&table::json(&all))? + "\n",
    )?;
    println!("written to {}", json.display());
    Ok(if args.strict && table::is_over(&all) {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// One instruction is one nanosecond, and nothing else makes a difference from run to run.
const COUNTED: [&str; 9] = [
    "-icount",
    "shift=0,sleep=off",
    "-cpu",
    "cortex-a72,cntfrq=1000000000",
    "-seed",
    "1",
    "-rtc",
    "base=2025-01-01,clock=vm",
    "-no-reboot",
];

struct Bench {
    hypervisor: PathBuf,
    bare_metal: [Image; 1],
    linux: [Image; 2],
    dir: PathBuf,
}

impl Bench {
    /// Everything, or the part that is asked for, on a board with this GIC.
    fn measure(&self, gic: u8, part: Option<Part>) -> Result<Figures> {
        let wants = |one| part.is_none_or(|part| part == one);
        let mut figures = Figures::new();
        if wants(Part::Calls) {
            figures.extend(self.calls(gic)?);
        }
        if wants(Part::Relocation) {
            figures.extend(self.relocation(gic)?);
        }
        if wants(Part::Linux) {
            figures.insert("channel_round".into(), self.channel_round(gic)?);
            figures.extend(self.linux(gic)?);
        }
        if wants(Part::Size) {
            figures.extend(self.size(gic)?);
        }
        Ok(figures)
    }

    fn calls(&self, gic: u8) -> Result<Figures> {
        let guest = |cpus| Guest::bare_metal("guest", "bench").cpus(cpus);
        let mut figures = self.measured(gic, 1, &[guest(1)])?;
        figures.insert("first_instruction".into(), self.first_instruction(gic)?);
        let large = Guest::bare_metal("guest", "bench-memory")
            .memory(256)
            .property("memory-min-mib = <16>");
        figures.extend(self.measured(gic, 1, &[large])?);
        let by_message = Guest::bare_metal("guest", "bench-messages")
            .memory(256)
            .property("memory-min-mib = <16>")
            .property("user-balloon");
        figures.extend(self.measured(gic, 1, &[by_message])?);
        // Of the second board only what the first cannot measure: two cores take turns.
        for (name, value) in self.measured(gic, 2, &[guest(2)])? {
            figures.entry(name).or_insert(value);
        }
        let exits = Guest::bare_metal("guest", "bench-exits").property("control");
        figures.extend(self.measured(gic, 1, &[exits])?);
        let hardened = self.measured(gic, 1, &[guest(1).property("harden")])?;
        let call = hardened.get("hvc_psci_version").copied();
        figures.extend(call.map(|value| ("hvc_hardened".to_owned(), value)));
        Ok(figures)
    }

    fn first_instruction(&self, gic: u8) -> Result<u64> {
        let image = Image::new("first", first::image(&self.dir)?);
        let guest = Guest::bare_metal("guest", "").kernel("first");
        first::measure(&mut self.boot(gic, 1, &[image], &[guest], &COUNTED)?)
    }

    fn size(&self, gic: u8) -> Result<Figures> {
        let resting = |name: &str| Guest::bare_metal(name, "counter");
        let one = self.own_kib(gic, &[resting("a")])?;
        let two = self.own_kib(gic, &[resting("a"), resting("b")])?;
        Ok(Figures::from([
            ("image_bytes".into(), fs::metadata(&self.hypervisor)?.len()),
            ("own_kib".into(), one),
            ("own_kib_per_guest".into(), two.saturating_sub(one)),
        ]))
    }

    /// The `MEASURE` lines of a run of `guests`, in instructions.
    fn measured(&self, gic: u8, cores: u8, guests: &[Guest]) -> Result<Figures> {
        let mut console = self.boot(gic, cores, &self.bare_metal, guests, &COUNTED)?;
        let said = console.patience(300).expect("PASS bench")?;
        console.expect_power_off()?;
        let figures: Figures = said.lines().filter_map(figure).collect();
        if figures.is_empty() {
            bail!("the guest measured nothing and said:\n{said}");
        }
        Ok(figures)
    }

    /// A message to another guest that sleeps, and its answer: instructions of both cores.
    fn channel_round(&self, gic: u8) -> Result<u64> {
        let guests = [
            Guest::bare_metal("a", "ping"),
            Guest::bare_metal("b", "pong"),
        ];
        let lines = [
            ("there", [("read-write"), ("read-only")]),
            ("back", [("read-only"), ("read-write")]),
        ];
        let lines: String = lines
            .iter()
            .map(|(name, [one, two])| shared(name, 0x1000, [(1, one), (2, two)]))
            .collect();
        let source = partitions_on("", "", &guests, &lines);
        let mut console = self.boot_with((gic, 2, 512), &self.bare_metal, source, &COUNTED)?;
        let said = console.patience(120).expect("PASS ping")?;
        let word = said
            .split_whitespace()
            .find_map(|word| word.strip_prefix("ns_per_round="));
        let word = word.with_context(|| format!("no round was timed:\n{said}"))?;
        Ok(word.parse()?)
    }

    /// RAM that no guest gets, boot archive apart, as the monitor says.
    fn own_kib(&self, gic: u8, guests: &[Guest]) -> Result<u64> {
        // As many cores for one guest as for two: each has its stack.
        let mut console = self.boot(gic, 2, &self.bare_metal, guests, &["-no-reboot"])?;
        let status = console.status()?;
        let own = status.host().number("own-kib");
        if own == 0 {
            bail!("`status` does not say what Ballast keeps:\n{status}");
        }
        Ok(own)
    }

    /// What moving out of another guest's frames costs.
    fn relocation(&self, gic: u8) -> Result<Figures> {
        let guests = relocation::guests();
        let mut console = self.boot_with(
            (gic, 2, 128),
            &self.bare_metal,
            partitions(&guests),
            &COUNTED,
        )?;
        relocation::measure(&mut console)
    }

    /// What a Linux guest's balloon costs.
    fn linux(&self, gic: u8) -> Result<Figures> {
        let (boot, min, max) = linux::BOUNDS;
        let guest = Guest::linux("guest").memory(boot).memory_bounds(min, max);
        let mut console = self.boot(gic, 1, &self.linux, &[guest], &COUNTED)?;
        linux::measure(&mut console)
    }

    fn boot(
        &self,
        gic: u8,
        cores: u8,
        images: &[Image],
        guests: &[Guest],
        extra: &[&str],
    ) -> Result<Console> {
        let ram_mib = if images == self.linux { 640 } else { 512 };
        self.boot_with((gic, cores, ram_mib), images, partitions(guests), extra)
    }

    /// Boots partitions, as device-tree source, on a board with this GIC, so many cores and so much RAM in MiB.
    fn boot_with(
        &self,
        (gic, cores, ram_mib): (u8, u8, u32),
        images: &[Image],
        overlay: String,
        extra: &[&str],
    ) -> Result<Console> {
        let board = Board {
            gic,
            cores,
            ram_mib,
            extra: extra.iter().map(|&argument| argument.to_owned()).collect(),
        };
        let dir: &Path = &self.dir;
        let source = dir.join("partitions.dtso");
        paths::write(&source, overlay)?;
        let boot = run::prepare(&board, &source, images, self.hypervisor.clone(), dir)?;
        Console::start(board.command(&boot, Serial::Pipe), &dir.join("console.log"))
            .context("booting the board")
    }
}

/// `MEASURE name value`, whatever stands before it.
fn figure(line: &str) -> Option<(String, u64)> {
    let (_, rest) = line.split_once("MEASURE ")?;
    let (name, value) = rest.trim().split_once(' ')?;
    Some((name.to_owned(), value.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_from_whatever_line_they_stand_in() {
        assert_eq!(
            figure("guest | MEASURE sgi_to_self 161\r"),
            Some(("sgi_to_self".to_owned(), 161))
        );
        assert_eq!(figure("MEASURE x"), None);
        assert_eq!(figure("PASS bench"), None);
    }
}
