//! `cargo xtask demo`: memory moves between two running Linux guests, because one of them needs it.

mod record;
mod stage;

use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ballast_workload::Checksum;
use record::Row;
use stage::{on_rpi4, on_virt};

use crate::console::Console;
use crate::paths;
use crate::plot::Event;
use crate::run::BoardName;
use crate::setup::Consent;
use crate::status::Status;

const A: u8 = 1;
const B: u8 = 2;
/// What moves from A to B and back.
const MOVED_MIB: u64 = 288;
/// What the job in B needs: more than B boots with, less than B has in the end.
const JOB_MIB: u64 = 700;
/// How fast the job fills it, in MiB a second: slow enough to watch.
const JOB_PACE: u64 = 20;
/// How much the job has when memory is moved to it.
const MOVE_AT_MIB: u64 = 160;
const SEED: u64 = 2026;
/// What A fills once it has its memory back.
const USE_MIB: u64 = 400;

/// Arguments of `cargo xtask demo`.
#[derive(clap::Args)]
pub struct Args {
    /// The board
    #[arg(long, value_enum, default_value = "qemu-virt")]
    board: BoardName,
    /// GIC architecture version of QEMU's virt machine
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(2..=3))]
    gic: u8,
}

/// The demo as it runs.
struct Demo {
    console: Console,
    boot_mib: [u64; 2],
    start: Instant,
    samples: Vec<(f64, Status)>,
    events: Vec<Event>,
    rows: Vec<Row>,
}

/// `cargo xtask demo`.
pub fn run(args: &Args, consent: Consent) -> Result<ExitCode> {
    println!("Building Ballast, its Linux module and the guests' images");
    let dir = paths::made(format!("ballast/demo-{}", args.board.folder()))?;
    let stage = match args.board {
        BoardName::QemuVirt => on_virt(args.gic, &dir, consent)?,
        BoardName::Rpi4 => on_rpi4(&dir, consent)?,
    };
    println!(
        "Booting two Linux guests of {} and {} MiB on {}",
        stage.boot_mib[0], stage.boot_mib[1], stage.board
    );
    println!(
        "(their console is kept in {})",
        dir.join("console.log").display()
    );
    let console = Console::start(stage.command, &dir.join("console.log"))?;
    let mut demo = Demo {
        console,
        boot_mib: stage.boot_mib,
        start: Instant::now(),
        samples: Vec::new(),
        events: Vec::new(),
        rows: Vec::new(),
    };
    let outcome = demo.play();
    let plot = paths::root().join("memory.svg");
    paths::write(&plot, demo.plot(&stage.board))?;
    demo.print_table();
    println!("Memory over time: {}", plot.display());
    outcome?;
    println!("All of it held.");
    Ok(ExitCode::SUCCESS)
}

impl Demo {
    fn play(&mut self) -> Result<()> {
        // Worked out here, without the guests, while they boot.
        let expected = thread::spawn(|| Checksum::expected(JOB_MIB as usize, SEED));
        self.boot()?;
        self.row("both booted", None)?;
        self.too_big_for_b()?;
        self.job_with_memory_of_a(expected)?;
        self.give_back()?;
        self.power_off()
    }

    fn boot(&mut self) -> Result<()> {
        for guest in [A, B] {
            let up = self.console.patience(400).expect_up(guest)?;
            self.tell(&format!("guest {}: {up}", name(guest)));
        }
        self.console.patience(120);
        let ready = |s: &Status| [A, B].iter().all(|guest| s.has_driver(*guest));
        self.console
            .wait_for_status("both balloon drivers to register", ready)?;
        self.sample()?;
        Ok(())
    }

    /// The job is no sham: with what B boots with, the kernel kills it.
    fn too_big_for_b(&mut self) -> Result<()> {
        self.tell(&format!(
            "B runs a job that needs {JOB_MIB} MiB, with the {} MiB it booted with",
            self.boot_mib[1]
        ));
        let (status, _) = self
            .console
            .shell_status(B, &format!("workload {JOB_MIB} 10000 {SEED}"))?;
        ensure!(
            status != 0,
            "the job should not have fitted into {} MiB",
            self.boot_mib[1]
        );
        self.tell(&format!(
            "... and Linux kills it for lack of memory (exit status {status})"
        ));
        self.sample()?;
        Ok(())
    }

    fn job_with_memory_of_a(&mut self, expected: thread::JoinHandle<Checksum>) -> Result<()> {
        self.tell("B starts the job again; this time it will get memory while it runs");
        self.console.shell(
            B,
            &format!("(workload {JOB_MIB} {JOB_PACE} {SEED} > /tmp/job 2>&1 &)"),
        )?;
        self.wait_for_job(|filled| filled >= MOVE_AT_MIB)?;
        self.move_memory("A gives", A, self.boot_mib[0] - MOVED_MIB)?;
        self.move_memory("B gets", B, self.boot_mib[1] + MOVED_MIB)?;
        self.move_core("core to B", [(A, 1), (B, 2)])?;
        self.wait_for_job(|filled| filled >= JOB_MIB)?;
        let sum = self.wait_for_checksum()?;
        let expected = expected
            .join()
            .ok()
            .context("working out the checksum")?
            .to_string();
        ensure!(
            sum == expected,
            "the job's checksum is {sum}, and should be {expected}"
        );
        self.tell(&format!(
            "The job has finished; its checksum {sum} is right"
        ));
        self.row("job finished", None)
    }

    fn give_back(&mut self) -> Result<()> {
        self.move_core("core to A", [(B, 1), (A, 2)])?;
        self.move_memory("B gives back", B, self.boot_mib[1])?;
        self.move_memory("A gets back", A, self.boot_mib[0])?;
        let dirty = self
            .console
            .shell(A, "cat /sys/bus/platform/devices/*balloon*/pages_not_zero")?;
        ensure!(
            dirty.trim() == "0",
            "A got {} pages that were not zero",
            dirty.trim()
        );
        self.tell("A has checked that every page it got back reads zero");
        let sum = self
            .console
            .shell(A, &format!("workload {USE_MIB} 10000 {SEED}"))?;
        let expected = Checksum::expected(USE_MIB as usize, SEED).to_string();
        ensure!(
            sum.contains(&expected),
            "A filled {USE_MIB} MiB and read back something else:\n{sum}"
        );
        self.tell(&format!("A has filled {USE_MIB} MiB and read them back"));
        self.row("A uses it", None)
    }

    fn power_off(&mut self) -> Result<()> {
        for guest in [A, B] {
            self.console.focus(guest)?;
            self.console.send("poweroff -f\r")?;
        }
        self.console.expect_power_off()?;
        self.tell("Both guests have powered off, and so has the board");
        Ok(())
    }

    /// Sets a target and follows the guest until it is there.
    fn move_memory(&mut self, step: &'static str, guest: u8, mib: u64) -> Result<()> {
        let begin = Instant::now();
        self.tell(&format!(
            "ballast> mem {} {mib}",
            name(guest).to_lowercase()
        ));
        self.events.push(Event {
            at: self.seconds(),
            what: format!("{step} {MOVED_MIB} MiB"),
        });
        let answer = self.console.monitor(&format!("mem {guest} {mib}"))?;
        ensure!(!answer.contains("refused"), "the monitor said: {answer}");
        let deadline = begin + Duration::from_secs(120);
        loop {
            let status = self.sample()?;
            if status.memory_mib(guest) == mib && status.settled(guest) {
                break;
            }
            ensure!(
                Instant::now() < deadline,
                "guest {} is not at {mib} MiB after two minutes:\n{status}",
                name(guest)
            );
            thread::sleep(Duration::from_millis(100));
        }
        let took = begin.elapsed();
        self.tell(&format!(
            "guest {} has {mib} MiB after {:.1} s",
            name(guest),
            took.as_secs_f32()
        ));
        self.row(step, Some(took))
    }

    /// Takes a core from the first guest and gives it to the second, to have this many each then.
    fn move_core(&mut self, step: &'static str, cores: [(u8, u64); 2]) -> Result<()> {
        let begin = Instant::now();
        for (guest, cpus) in cores {
            self.tell(&format!(
                "ballast> cpus {} {cpus}",
                name(guest).to_lowercase()
            ));
            let answer = self.console.monitor(&format!("cpus {guest} {cpus}"))?;
            ensure!(answer.contains("ok"), "the monitor said: {answer}");
        }
        let have = |s: &Status| {
            cores
                .iter()
                .all(|(guest, cpus)| s.guest(*guest).get("cpus") == format!("{cpus}/{cpus}"))
        };
        self.console.wait_for_status("the core to move", have)?;
        let took = begin.elapsed();
        for (guest, cpus) in cores {
            let online = self.console.shell(guest, "nproc")?;
            ensure!(
                online.trim() == cpus.to_string(),
                "Linux {} has {online} CPUs, not {cpus}",
                name(guest)
            );
        }
        self.tell(&format!(
            "the core has moved after {:.1} s; nproc says so in both",
            took.as_secs_f32()
        ));
        self.row(step, Some(took))
    }

    /// Follows the job until it has filled enough.
    fn wait_for_job(&mut self, enough: impl Fn(u64) -> bool) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(240);
        loop {
            let said = self.console.shell(B, "tail -n 1 /tmp/job")?;
            let filled = said
                .split_whitespace()
                .nth(1)
                .and_then(|n| n.parse().ok())
                .unwrap_or(0);
            if said.starts_with("checksum") || enough(filled) {
                self.tell(&format!("job in B: {}", said.trim()));
                return Ok(());
            }
            let running = self.console.shell_status(B, "pidof workload")?.0 == 0;
            ensure!(
                running || said.starts_with("filled"),
                "the job in B has died: {said}"
            );
            ensure!(
                Instant::now() < deadline,
                "the job in B does not get on: {said}"
            );
            self.sample()?;
            thread::sleep(Duration::from_millis(300));
        }
    }

    fn wait_for_checksum(&mut self) -> Result<String> {
        let script = "while pidof workload >/dev/null; do sleep 1; done; cat /tmp/job";
        let said = self.console.shell(B, script)?;
        let sum = said.lines().find_map(|line| line.strip_prefix("checksum "));
        Ok(sum
            .with_context(|| format!("the job in B was killed:\n{said}"))?
            .trim()
            .to_owned())
    }

    fn seconds(&self) -> f64 {
        self.start.elapsed().as_secs_f64()
    }

    fn tell(&self, what: &str) {
        println!("[{:6.1} s] {what}", self.seconds());
    }
}

fn name(guest: u8) -> &'static str {
    if guest == A { "A" } else { "B" }
}
