//! Everything at once, at random from a seed: four guests, one of which does not do as it should, under `policy auto`,
//! with loads that come and go, cores and memory that are moved by hand, and guests that are reset.
//!
//! All the time nothing is lost, nobody is below its minimum or above its maximum, no core has two owners and nobody who
//! behaves is stopped; in the end every job has its sums right, no process was killed, and the policy is at rest.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use ballast_workload::{Checksum, Stream};

use super::{Guest, Scenario};
use crate::console::Console;
use crate::status::Status;

const LINUX: [u8; 2] = [1, 2];
const RTOS: u8 = 3;
const ROGUE: u8 = 4;
const CORES: u64 = 5;

/// What a job may need: less than a guest can have while every other one has the most it can keep from it.
const JOB_MIB: std::ops::RangeInclusive<u64> = 16..=120;
/// MiB a second of such a job.
const PACE: u64 = 96;
/// Between two things that happen.
const PAUSE: Duration = Duration::from_millis(300);

/// Less than half a minute of it for every change, and twenty minutes with `--long`.
pub fn scenarios() -> Vec<Scenario> {
    let forms = |gic: u8| {
        [
            scenario(format!("mixed-gic{gic}"), gic, 15, u64::from(gic)),
            scenario(
                format!("mixed-long-gic{gic}"),
                gic,
                1200,
                100 + u64::from(gic),
            )
            .long(),
        ]
    };
    [2, 3].into_iter().flat_map(forms).collect()
}

fn scenario(name: String, gic: u8, seconds: u64, seed: u64) -> Scenario {
    let linux = |name: &str, cpus: u8| {
        Guest::linux(name)
            .args("cma=0")
            .memory(192)
            .memory_bounds(112, 288)
            .cpus(cpus)
            .cpu_bounds(1, 3)
    };
    Scenario::new(name, gic, move |console| {
        let mut run = Run::begin(console, seed)?;
        run.is_long = seconds > 60;
        let end = Instant::now() + Duration::from_secs(seconds);
        while Instant::now() < end {
            let step = run.step;
            run.step()
                .with_context(|| format!("seed {seed}, step {step}"))?;
        }
        run.end()
            .with_context(|| format!("seed {seed}, at the end"))
    })
    .cores(CORES as u8)
    .ram(560)
    .global("policy = \"auto\"")
    .guest(linux("linux-a", 2))
    .guest(linux("linux-b", 1))
    .guest(
        Guest::bare_metal("rtos", "cores")
            .args("jobs=2")
            .memory_bounds(16, 128)
            .cpu_bounds(1, 2),
    )
    .guest(
        Guest::bare_metal("rogue", "rogue")
            .args(&format!("seed={seed}"))
            .memory(48)
            .memory_bounds(16, 128),
    )
}

struct Run<'a> {
    console: &'a mut Console,
    random: Stream,
    before: Status,
    step: u32,
    /// Long enough to have Linux boot anew now and then.
    is_long: bool,
}

impl<'a> Run<'a> {
    fn begin(console: &'a mut Console, seed: u64) -> Result<Self> {
        for guest in LINUX {
            console.patience(240).expect_up(guest)?;
        }
        console.patience(120);
        let before = console.wait_for_status("the drivers", |s| {
            [1, 2, RTOS].iter().all(|&guest| s.has_driver(guest))
        })?;
        let mut run = Self {
            console,
            random: Stream::new(seed),
            before,
            step: 0,
            is_long: false,
        };
        for guest in LINUX {
            run.start_keeping(guest)?;
        }
        Ok(run)
    }

    /// What the guest keeps through everything: a job over and over, and a file.
    fn start_keeping(&mut self, guest: u8) -> Result<()> {
        self.console.shell(
            guest,
            "rm -f /tmp/stop; dd if=/dev/urandom of=/tmp/keep bs=1M count=8 2> /dev/null; md5sum < /tmp/keep > /tmp/sum; \
             (while [ ! -e /tmp/stop ]; do workload 8 100 7; done > /tmp/small 2>&1) & true",
        )?;
        Ok(())
    }

    /// A number below `end`.
    fn below(&mut self, end: u64) -> u64 {
        self.random.next().unwrap_or(0) % end
    }

    fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        let at = self.below(all.len() as u64);
        all[at as usize]
    }

    /// One thing happens, and then everything is looked at.
    fn step(&mut self) -> Result<()> {
        let is_rare = self.is_long && self.below(60) == 0;
        match self.below(12) {
            _ if is_rare => self.boots_anew()?,
            0..=2 => self.starts_job()?,
            3 | 4 => self.burns()?,
            5..=7 => self.moves()?,
            8 => {
                let (guest, cpus) = (self.one_of(&[1, 2, RTOS]), 1 + self.below(3));
                self.asks(&format!("cpus {guest} {cpus}"))?;
            }
            9 | 10 => {
                let (guest, mib) = (self.one_of(&[RTOS, ROGUE]), 16 + self.below(113));
                self.asks(&format!("mem {guest} {mib}"))?;
            }
            _ => {
                let guest = self.one_of(&[RTOS, ROGUE]);
                self.asks(&format!("reset {guest}"))?;
            }
        }
        self.step += 1;
        self.look()?;
        sleep(PAUSE);
        Ok(())
    }

    /// Linux is reset in the middle of what it does, after a look at what it has done.
    fn boots_anew(&mut self) -> Result<()> {
        let guest = self.one_of(&LINUX);
        self.ended_well(guest)?;
        self.asks(&format!("reset {guest}"))?;
        self.console.expect_up(guest)?;
        self.start_keeping(guest)
    }

    /// Asks the monitor, which may have a reason to refuse.
    fn asks(&mut self, what: &str) -> Result<()> {
        let answer = self.console.monitor(what)?;
        ensure!(
            answer.starts_with("ok ") || answer.starts_with("error: "),
            "{what}: {answer}"
        );
        Ok(())
    }

    /// Memory and perhaps a core go from one guest to another, or do not.
    fn moves(&mut self) -> Result<()> {
        let from = self.one_of(&[1, 2, RTOS, ROGUE]);
        let to = 1 + (from + self.below(3) as u8) % 4;
        let cpus = if [from, to].contains(&ROGUE) {
            0
        } else {
            self.below(2)
        };
        let (mib, seconds) = (self.below(40), 4 + self.below(8));
        self.asks(&format!("move {from} {to} {mib} {cpus} {seconds}"))
    }

    /// A job that needs much memory at once, if none runs there.
    fn starts_job(&mut self) -> Result<()> {
        let guest = self.one_of(&LINUX);
        let span = JOB_MIB.end() - JOB_MIB.start() + 1;
        let mib = JOB_MIB.start() + self.below(span);
        let expected = Checksum::expected(mib as usize, 7);
        let job = format!(
            "workload {mib} {PACE} 7 | grep -q 'checksum {expected}' || echo {mib} >> /tmp/failed"
        );
        self.console.shell(
            guest,
            &format!("[ -e /tmp/job ] || {{ touch /tmp/job; ({job}; echo {mib} >> /tmp/jobs; rm /tmp/job) & true; }}"),
        )?;
        Ok(())
    }

    /// Threads that want CPUs for some seconds.
    fn burns(&mut self) -> Result<()> {
        let (guest, threads, seconds) = (self.one_of(&LINUX), 1 + self.below(4), 2 + self.below(4));
        self.console.shell(
            guest,
            &format!(
                "for n in $(seq {threads}); do (timeout {seconds} sh -c 'while :; do :; done' &); done > /dev/null 2>&1"
            ),
        )?;
        Ok(())
    }

    fn look(&mut self) -> Result<()> {
        let status = self.console.status()?;
        let mut owned = Vec::new();
        for (guest, line) in status.guests() {
            let kib = line.number("memory-kib");
            ensure!(
                (line.number("min-mib") << 10..=line.number("max-mib") << 10).contains(&kib),
                "guest {guest} is out of its bounds:\n{status}"
            );
            let cores = line.get("cores").split(',').filter(|core| *core != "-");
            let cores: Vec<&str> = cores.collect();
            ensure!(
                cores.len() as u64 >= line.number("cpus-min"),
                "guest {guest} has too few cores:\n{status}"
            );
            owned.extend(cores);
            let state = line.get("state");
            let is_reset =
                [RTOS, ROGUE].contains(&guest) && ["starting", "stopping"].contains(&state);
            ensure!(
                state == "running" || is_reset,
                "guest {guest} is {state}:\n{status}"
            );
        }
        let all = owned.len();
        owned.sort_unstable();
        owned.dedup();
        ensure!(
            owned.len() == all && all as u64 <= CORES,
            "a core has two owners:\n{status}"
        );
        self.console.expect_never("FAIL")
    }

    /// Nobody wants anything any more: the jobs have ended well, nothing was lost, and nothing moves.
    fn end(&mut self) -> Result<()> {
        self.asks("stop 4")?;
        for guest in LINUX {
            self.ended_well(guest)?;
        }
        let rest = |s: &Status| {
            [1, 2, RTOS]
                .iter()
                .all(|&guest| s.has_driver(guest) && s.rests(guest))
        };
        self.console
            .wait_for_status("everybody to be settled", rest)?;
        self.at_rest()?;
        let after = self.console.status()?;
        ensure!(
            self.before.total_kib().abs_diff(after.total_kib()) < 1024,
            "memory was lost:\n{}{after}",
            self.before
        );
        println!("  {} steps", self.step);
        self.console.expect_never("FAIL")
    }

    fn ended_well(&mut self, guest: u8) -> Result<()> {
        let small = Checksum::expected(8, 7);
        let said = self.console.shell(
            guest,
            &format!(
                "touch /tmp/stop; while [ -e /tmp/job ]; do sleep 1; done; wait; cat /tmp/failed 2> /dev/null; \
                 md5sum < /tmp/keep | cmp - /tmp/sum && grep checksum /tmp/small > /tmp/all; \
                 echo bad=$(grep -vc {small} /tmp/all) good=$(grep -c {small} /tmp/all) jobs=$(grep -c . /tmp/jobs 2> /dev/null) \
                 $(awk '/^oom_kill / {{ print $1 \"=\" $2 }}' /proc/vmstat)"
            ),
        )?;
        let said = said.trim();
        println!("  guest {guest}: {said}");
        let count = |key: &str| {
            let mut words = crate::status::words(said);
            words
                .find(|(name, _)| *name == key)
                .map(|(_, value)| value.to_owned())
        };
        if !said.starts_with("bad=0 ") || count("oom_kill").as_deref() != Some("0") {
            let kernel = self.console.shell(guest, "dmesg | tail -n 80")?;
            let log = self.console.monitor("log")?;
            bail!("guest {guest} says:\n{said}\n{kernel}\n{log}");
        }
        ensure!(
            count("good").is_some_and(|good| good != "0"),
            "guest {guest} has done nothing: {said}"
        );
        let complaints = self.console.shell(
            guest,
            "dmesg | grep -iE 'stall|lockup|BUG|WARNING' | head -n 3",
        )?;
        ensure!(complaints.trim().is_empty(), "guest {guest}: {complaints}");
        Ok(())
    }

    /// Nothing is decided and nothing is on its way for some seconds.
    fn at_rest(&mut self) -> Result<()> {
        const QUIET: Duration = Duration::from_secs(3);
        const MOST: Duration = Duration::from_secs(60);
        let begin = Instant::now();
        let (mut last, mut since) = (String::new(), Instant::now());
        while since.elapsed() < QUIET {
            let log = self.console.monitor("log")?;
            let newest = log.lines().last().unwrap_or("").to_owned();
            if newest != last {
                (last, since) = (newest, Instant::now());
            }
            ensure!(begin.elapsed() < MOST, "the policy is not at rest:\n{log}");
            sleep(PAUSE);
        }
        let transfers = self.console.monitor("transfers")?;
        let is_open = |line: &str| {
            line.contains("guest=")
                || line.starts_with("move ")
                    && !["done", "rolled-back", "stranded"]
                        .iter()
                        .any(|state| line.contains(&format!("state={state} ")))
        };
        ensure!(!transfers.lines().any(is_open), "at rest:\n{transfers}");
        Ok(())
    }
}
