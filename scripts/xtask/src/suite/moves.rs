//! Moves of memory and cores from guest to guest: all of each or nothing.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::{Guest, Scenario};
use crate::console::Console;

pub fn scenarios() -> Vec<Scenario> {
    vec![
        memory(2),
        memory(3),
        memory_and_core(),
        memory_without_its_core(),
    ]
}

/// The line of `transfers` about the move that `answer` says was begun.
fn line(console: &mut Console, id: &str) -> Result<String> {
    let said = console.monitor("transfers")?;
    let mut lines = said.lines();
    let line = lines.find(|line| line.starts_with(&format!("move id={id} ")));
    Ok(line
        .with_context(|| format!("no move {id} in:\n{said}"))?
        .to_owned())
}

/// Begins a move; its number.
pub fn begin(console: &mut Console, what: &str) -> Result<String> {
    let answer = console.monitor(what)?;
    let id = answer
        .strip_prefix("ok move=")
        .and_then(|rest| rest.split(' ').next())
        .with_context(|| format!("{what}: {answer}"))?;
    Ok(id.to_owned())
}

/// Waits until a move has ended, and gives its line.
pub fn ended(console: &mut Console, id: &str, within: Duration) -> Result<String> {
    let deadline = Instant::now() + within;
    loop {
        let line = line(console, id)?;
        if ["done", "rolled-back", "stranded"]
            .iter()
            .any(|state| line.contains(&format!("state={state} ")))
        {
            return Ok(line);
        }
        if Instant::now() > deadline {
            bail!("not at its end: {line}");
        }
        sleep(Duration::from_millis(200));
    }
}

/// Two guests that do as they are told and one that ignores its target.
fn memory(gic: u8) -> Scenario {
    let guest = |name: &str, test: &str| {
        Guest::bare_metal(name, test)
            .memory(64)
            .memory_bounds(16, 128)
    };
    Scenario::new(format!("move-memory-gic{gic}"), gic, |console| {
        console.patience(120);
        let before = console.wait_for_status("the drivers", |s| {
            [1, 2, 3].iter().all(|&g| s.has_driver(g))
        })?;
        let has = |console: &mut Console, expected: [u64; 3]| -> Result<()> {
            let all = [1, 2, 3];
            let status = console.wait_for_status("everybody to be settled", |s| {
                all.iter().all(|&g| s.settled(g))
            })?;
            ensure!(all.map(|g| status.memory_mib(g)) == expected, "{status}");
            ensure!(status.total_kib() == before.total_kib(), "{status}");
            Ok(())
        };
        let id = begin(console, "move a b 48")?;
        let line = ended(console, &id, Duration::from_secs(60))?;
        ensure!(
            line.contains("state=done cause=none given-mib=48 taken-mib=48"),
            "{line}"
        );
        has(console, [16, 112, 64])?;

        // Nobody answers there: all is as it was, by the deadline.
        for what in ["move b deaf 32 0 8", "move deaf b 16 0 4"] {
            let id = begin(console, what)?;
            let opposite = console.monitor("move deaf b 1")?;
            ensure!(opposite.contains("is in move="), "{opposite}");
            let third = console.monitor("move a b 1")?;
            ensure!(third.contains("is in move="), "{third}");
            let by_hand = console.monitor("mem b 64")?;
            ensure!(by_hand.contains("is in move="), "{by_hand}");
            let line = ended(console, &id, Duration::from_secs(60))?;
            ensure!(line.contains("state=rolled-back cause=deadline"), "{line}");
            has(console, [16, 112, 64])?;
        }

        // Two opposite ones at once: each happens or is refused, and then there is rest.
        for round in 0..4 {
            let there = begin(console, "move b a 32")?;
            let back = console.monitor("move a b 32")?;
            let line = ended(console, &there, Duration::from_secs(60))?;
            ensure!(line.contains("state=done"), "round {round}: {line}");
            match back.strip_prefix("ok move=") {
                Some(rest) => {
                    let id = rest.split(' ').next().unwrap_or(rest).to_owned();
                    ended(console, &id, Duration::from_secs(60))?;
                }
                None => {
                    ensure!(
                        back.contains("is in move=") || back.contains("on its way"),
                        "{back}"
                    );
                    let id = begin(console, "move a b 32")?;
                    ended(console, &id, Duration::from_secs(60))?;
                }
            }
            has(console, [16, 112, 64])?;
        }

        // A guest that stops leaves its move, and the other has what it had.
        let id = begin(console, "move b deaf 32 0 20")?;
        console.monitor("reset deaf")?;
        let line = ended(console, &id, Duration::from_secs(60))?;
        ensure!(line.contains("state=rolled-back cause=stopped"), "{line}");
        console.wait_for_status("the guest to be back", |s| s.has_driver(3))?;
        has(console, [16, 112, 64])?;
        for (what, answer) in [
            ("move a b 1", "below the guest's memory-min-mib=16"),
            ("move b deaf 80", "above the guest's memory-max-mib=128"),
            ("move b b 1", "nothing would move"),
        ] {
            let said = console.monitor(what)?;
            ensure!(said.contains(answer), "{what}: {said}");
        }
        let log = console.monitor("log")?;
        ensure!(
            log.contains("event=move id=1 from=a to=b memory-mib=48 cpus=0 state=done"),
            "{log}"
        );
        console.expect_never("FAIL")
    })
    .cores(3)
    .ram(512)
    .guest(guest("a", "balloon"))
    .guest(guest("b", "balloon"))
    .guest(guest("deaf", "ignore"))
}

/// A Linux guest with memory to give and take, and up to two cores.
fn linux(name: &str, cpus: u8) -> Guest {
    Guest::linux(name)
        .args("cma=0")
        .memory(256)
        .memory_bounds(128, 384)
        .cpus(cpus)
        .cpu_bounds(1, 2)
}

fn are_up(console: &mut Console) -> Result<()> {
    for guest in [1, 2] {
        console.patience(180).expect_up(guest)?;
    }
    console.patience(90);
    console.wait_for_status("the drivers", |s| [1, 2].iter().all(|&g| s.has_driver(g)))?;
    Ok(())
}

/// (MiB, granted cores, what Linux runs on) of both.
fn have(console: &mut Console) -> Result<[(u64, String, String); 2]> {
    let status = console.status()?;
    let mut have = |guest: u8| -> Result<_> {
        let online = console.shell(guest, "cat /sys/devices/system/cpu/online")?;
        let cpus = status.guest(guest).get("cpus").to_owned();
        Ok((status.memory_mib(guest), cpus, online.trim().to_owned()))
    };
    Ok([have(1)?, have(2)?])
}

/// Memory and a core of a Linux guest go to another and come back.
fn memory_and_core() -> Scenario {
    Scenario::new("move-memory-and-core", 2, |console| {
        are_up(console)?;
        let before = have(console)?;
        for (what, expected) in [
            ("move linux-a linux-b 64 1", [192, 320]),
            ("move linux-b linux-a 64 1", [256, 256]),
        ] {
            let id = begin(console, what)?;
            let line = ended(console, &id, Duration::from_secs(90))?;
            ensure!(line.contains("state=done"), "{line}");
            let now = have(console)?;
            ensure!([now[0].0, now[1].0] == expected, "{what}: {now:?}");
            let (has, has_not) = if expected[1] > expected[0] {
                (&now[1], &now[0])
            } else {
                (&now[0], &now[1])
            };
            ensure!(has.2 == "0-1" && has_not.2 == "0", "{what}: {now:?}");
        }
        let after = have(console)?;
        ensure!(after == before, "{before:?} became {after:?}");
        let said = console.monitor("move linux-b linux-a 8 1")?;
        ensure!(said.contains("cpus-min=1"), "{said}");
        Ok(())
    })
    .cores(3)
    .ram(1024)
    .guest(linux("linux-a", 2))
    .guest(linux("linux-b", 1))
}

/// The taker has room for the memory and cannot bring up the core: neither stays.
fn memory_without_its_core() -> Scenario {
    Scenario::new("move-goes-back", 3, |console| {
        are_up(console)?;
        let before = have(console)?;
        let id = begin(console, "move linux-a lame 64 1 16")?;
        let line = ended(console, &id, Duration::from_secs(90))?;
        ensure!(line.contains("state=rolled-back cause=deadline"), "{line}");
        console.wait_for_status("the guest to have its core again", |s| {
            s.guest(1).get("cpus") == "2/2"
        })?;
        let after = have(console)?;
        ensure!(after == before, "{before:?} became {after:?}");
        Ok(())
    })
    .cores(3)
    .ram(1024)
    .guest(linux("linux-a", 2))
    .guest(linux("lame", 1).args("nr_cpus=1"))
}
