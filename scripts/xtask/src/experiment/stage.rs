//! One run of one variant: boot, say what the variant says, let the loads begin, and write down what happens.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value, json};

use super::file::{self, Experiment, Load, Variant};
use crate::archive::Image;
use crate::artefacts;
use crate::console::Console;
use crate::paths;
use crate::qemu::{Board, Boot, Serial};
use crate::run;
use crate::setup::{self, Consent, Need, Qemu};
use crate::status;
use crate::suite::{Guest, partitions};

/// One instruction is 16 ns of the board's time: 62.5 million instructions a second, about what an emulator does.
const CLOCK: [&str; 3] = ["-icount", "shift=4", "-no-reboot"];
// Before version 8.1 QEMU gives the first core that waits for another, say for a lock, all of the time until the next
// timer, each time anew (`-icount` with several cores): a run can stand still for minutes. So the newer one is used.
/// Between two samples, in wall time.
const PAUSE: Duration = Duration::from_millis(100);
/// From the moment that every guest is up to that from which `from-s` counts: time to type the loads in.
const LEAD_S: u64 = 8;
/// How much longer than the board's time a run may take here, and what it may take in any case.
const SLOWEST: u64 = 20;
const PATIENCE_S: u64 = 300;

/// The board, ready to be booted.
pub struct Stage<'a> {
    experiment: &'a Experiment,
    board: Board,
    qemu: Qemu,
    boot: Boot,
    transcript: PathBuf,
}

impl<'a> Stage<'a> {
    pub fn new(experiment: &'a Experiment, dir: &Path, consent: Consent) -> Result<Self> {
        setup::ensure(&Need::QEMU_VIRT, consent)?;
        setup::ensure(&[Need::QemuRaspi4b], consent)?;
        let linux = artefacts::linux_guest(consent)?;
        let images = [
            Image::new("linux", linux.kernel),
            Image::new("linux-initrd", linux.initrd),
        ];
        let board = Board {
            gic: experiment.gic,
            cores: experiment.cores,
            ram_mib: experiment.ram_mib,
            extra: CLOCK.map(str::to_owned).to_vec(),
        };
        let source = dir.join("partitions.dtso");
        let guests: Vec<Guest> = experiment.guests.iter().map(guest).collect();
        paths::write(&source, partitions(&guests))?;
        let boot = run::prepare(&board, &source, &images, artefacts::hypervisor()?, dir)?;
        Ok(Self {
            experiment,
            board,
            qemu: Qemu::with_raspi4b()?,
            boot,
            transcript: dir.join("console.log"),
        })
    }

    /// Runs one variant once; a line for each thing that was seen.
    pub fn play(&self, variant: &Variant, repetition: u64) -> Result<Vec<Value>> {
        let program = self
            .board
            .command_of(self.qemu.start(), &self.boot, Serial::Pipe);
        let mut run = Run {
            console: Console::start(program, &self.transcript)?,
            lines: Vec::new(),
            tag: json!({ "variant": variant.name, "repetition": repetition }),
            next_entry: 0,
            next_transfer: 0,
        };
        let numbers = || (1..).take(self.experiment.guests.len());
        for guest in numbers() {
            run.console.patience(PATIENCE_S).expect_up(guest)?;
        }
        run.console
            .wait_for_status("the balloon drivers", |status| {
                numbers().all(|guest| status.has_driver(guest))
            })?;
        for word in &variant.monitor {
            let answer = run.console.monitor(word)?;
            ensure!(answer.contains("ok "), "`{word}` was answered: {answer}");
        }
        let begin = run.uptime(1)? + LEAD_S;
        run.note(&[("kind", "begin".into()), ("time-s", begin.into())]);
        for (index, load) in self.experiment.loads.iter().enumerate() {
            let seed = self.experiment.seed + repetition * 1000 + index as u64;
            self.start(&mut run, index, load, begin, seed)?;
        }
        self.watch(&mut run, begin)?;
        for (index, load) in self.experiment.loads.iter().enumerate() {
            self.finish(&mut run, index, load)?;
        }
        Ok(run.lines)
    }

    fn start(&self, run: &mut Run, index: usize, load: &Load, begin: u64, seed: u64) -> Result<()> {
        let (mib, from, seconds) = (load.working_set_mib, begin + load.from_s, load.seconds);
        let job = format!("workload visit {mib} {from} {seconds} {seed}");
        let line = format!(
            "{{ {job} > /tmp/load{index} 2>&1; echo status $? >> /tmp/load{index}; }} & true"
        );
        run.console.shell(self.number(load)?, &line)?;
        Ok(())
    }

    /// Samples until the last load should have ended.
    fn watch(&self, run: &mut Run, begin: u64) -> Result<()> {
        let end = begin + self.experiment.seconds();
        run.console
            .patience(PATIENCE_S + SLOWEST * self.experiment.seconds());
        run.sample()?;
        while run.sample()? <= end {
            thread::sleep(PAUSE);
        }
        Ok(())
    }

    fn finish(&self, run: &mut Run, index: usize, load: &Load) -> Result<()> {
        let guest = self.number(load)?;
        let wait = format!(
            "while ! grep -q status /tmp/load{index}; do sleep 1; done; cat /tmp/load{index}"
        );
        let said = run.console.shell(guest, &wait)?;
        let pages: u64 = said
            .lines()
            .find_map(|line| {
                line.strip_prefix("visited ")?
                    .split(' ')
                    .next()?
                    .parse()
                    .ok()
            })
            .filter(|_| said.contains("status 0"))
            .with_context(|| format!("load {index} in {} said:\n{said}", load.guest))?;
        let faults = run.console.shell(
            guest,
            "awk '/^(pgmajfault|pswpin|oom_kill) / { print }' /proc/vmstat",
        )?;
        let mut fields = vec![
            ("kind", "load".into()),
            ("load", index.into()),
            ("guest", guest.into()),
            ("name", load.guest.clone().into()),
            ("pages", pages.into()),
        ];
        let counts: Vec<_> = faults
            .lines()
            .filter_map(|line| line.split_once(' '))
            .collect();
        for (name, count) in &counts {
            fields.push((name, count.trim().parse::<u64>().unwrap_or(0).into()));
        }
        println!("  {}: {pages} pages visited", load.guest);
        run.note(&fields);
        Ok(())
    }

    fn number(&self, load: &Load) -> Result<u8> {
        self.experiment
            .number_of(&load.guest)
            .context("a load's guest")
    }
}

/// A board that runs.
struct Run {
    console: Console,
    lines: Vec<Value>,
    tag: Value,
    /// The first entry of the log that has not been written down.
    next_entry: u64,
    /// The same of the transfers that have ended.
    next_transfer: u64,
}

impl Run {
    fn note(&mut self, fields: &[(&str, Value)]) {
        let mut line = self.tag.clone();
        for (name, value) in fields {
            line[*name] = value.clone();
        }
        self.lines.push(line);
    }

    /// A guest's uptime, in whole seconds.
    fn uptime(&mut self, guest: u8) -> Result<u64> {
        let said = self.console.shell(guest, "cut -d . -f 1 /proc/uptime")?;
        said.trim()
            .parse()
            .with_context(|| format!("uptime: {said}"))
    }

    /// Writes down what everybody has and what the log has that is new; gives the board's uptime in seconds.
    fn sample(&mut self) -> Result<u64> {
        let answer = self.console.monitor("status")?;
        let mut time = Value::Null;
        for line in answer.lines() {
            let mut values = values(line);
            if line.starts_with("host ") {
                time = values.get("uptime-s").cloned().unwrap_or(Value::Null);
                values.insert("kind".into(), "host".into());
            } else if line.starts_with("guest=") {
                values.insert("kind".into(), "guest".into());
            } else {
                continue;
            }
            values.insert("time-s".into(), time.clone());
            self.note_all(values);
        }
        let log = self.console.monitor("log")?;
        self.next_entry = self.note_new(&log, "log", "event", self.next_entry);
        let transfers = self
            .console
            .monitor(&format!("events {}", self.next_transfer))?;
        self.next_transfer = self.note_new(&transfers, "transfer", "transfer", self.next_transfer);
        time.as_u64().context("the host's uptime")
    }

    /// Writes down the lines whose number, under `key`, is at least `from`; gives the number after the last.
    fn note_new(&mut self, answer: &str, key: &str, kind: &str, from: u64) -> u64 {
        let mut next = from;
        for line in answer.lines() {
            let mut values = values(line);
            let number = values.get(key).and_then(Value::as_u64);
            if let Some(number) = number.filter(|number| *number >= next) {
                if number > next {
                    // Ballast keeps the newest only. So that nobody takes what is there for all there was.
                    let lost = number - next;
                    self.note(&[
                        ("kind", "lost".into()),
                        ("of", kind.into()),
                        ("count", lost.into()),
                    ]);
                }
                next = number + 1;
                values.insert("kind".into(), kind.into());
                self.note_all(values);
            }
        }
        next
    }

    fn note_all(&mut self, values: Map<String, Value>) {
        let mut line = self.tag.clone();
        if let Some(line) = line.as_object_mut() {
            line.extend(values);
        }
        self.lines.push(line);
    }
}

/// The words `key=value` of a line; numbers as numbers.
fn values(line: &str) -> Map<String, Value> {
    status::words(line)
        .map(|(key, value)| {
            let number = value.parse::<u64>().map(Value::from);
            let number = number.or_else(|_| value.parse::<f64>().map(Value::from));
            (key.to_owned(), number.unwrap_or_else(|_| value.into()))
        })
        .collect()
}

fn guest(guest: &file::Guest) -> Guest {
    let mut made = Guest::linux(&guest.name)
        .args("cma=0")
        .memory(guest.memory_mib)
        .memory_bounds(guest.memory_min_mib, guest.memory_max_mib)
        .cpus(guest.cpus);
    if guest.swap_mib > 0 {
        made = made.args(&format!("swap={}", guest.swap_mib));
    }
    guest
        .properties
        .iter()
        .fold(made, |made, property| made.property(property))
}
