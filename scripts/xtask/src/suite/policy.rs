//! The resource scheduler with Linux guests.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use ballast_workload::Checksum;

use super::{Guest, Scenario};
use crate::console::Console;
use crate::status::Status;

const SEED: u64 = 7;

pub fn scenarios() -> Vec<Scenario> {
    vec![
        loads_alternate(2),
        loads_alternate(3),
        faster_than_halves(2),
        faster_than_halves(3),
        gives_nothing(),
        claims(2),
        claims(3),
        stands_in(),
        before_any_kill(2),
        before_any_kill(3),
        at_rest(),
        cores_follow_the_queue(2),
        cores_follow_the_queue(3),
        cores_follow_jobs(2),
    ]
}

fn is_up(console: &mut Console, guest: u8) -> Result<()> {
    console.patience(180).expect_up(guest)?;
    console.patience(120);
    console.wait_for_status("the driver to register", |s| s.has_driver(guest))?;
    Ok(())
}

/// Neither guest lacks anything now, so soon nothing is on its way.
fn comes_to_rest(console: &mut Console) -> Result<()> {
    console.wait_for_status("rest", |s| s.rests(1) && s.rests(2))?;
    ensure!(
        !console.monitor("transfers")?.contains("guest="),
        "transfers at rest"
    );
    Ok(())
}

/// Runs a job that needs `mib` at once, at a steady pace, and is killed if it does not get them.
fn needs(console: &mut Console, guest: u8, mib: usize) -> Result<()> {
    let (_, said) = console.shell_status(guest, &format!("workload {mib} 48 {SEED}"))?;
    let expected = Checksum::expected(mib, SEED).to_string();
    ensure!(
        said.contains(&expected),
        "guest {guest} did not get {mib} MiB:\n{said}\n{}\n{}\n{}",
        console.shell(guest, "dmesg | tail -n 60")?,
        console.status()?,
        console.monitor("log")?
    );
    let killed = console.shell(guest, "awk '/^oom_kill / { print $2 }' /proc/vmstat")?;
    ensure!(killed.trim() == "0", "guest {guest} killed {killed} times");
    Ok(())
}

/// Pages that a job visits in a few seconds, by turns in both guests: its working set is more than a guest was given,
/// and what does not fit is swapped. Between them is a pause, as what the last job used is believed for a while, and a
/// guest that was told to give is not given to at once.
fn work_by_turns(console: &mut Console) -> Result<[u64; 2]> {
    let mut visit = |guest: u8| -> Result<u64> {
        let job = format!("sleep 5; workload visit 176 0 8 {SEED}");
        let (_, said) = console.shell_status(guest, &job)?;
        let mut words = said
            .split_whitespace()
            .skip_while(|word| *word != "visited");
        match words.nth(1).and_then(|word| word.parse().ok()) {
            Some(pages) => Ok(pages),
            None => bail!(
                "guest {guest} said:\n{said}\n{}\n{}\n{}",
                console.shell(guest, "dmesg | tail -n 60")?,
                console.status()?,
                console.monitor("log")?
            ),
        }
    };
    Ok([visit(1)?, visit(2)?])
}

/// Two guests need by turns more than half of the board's memory, and nobody says so to the monitor. Neither can swap, and
/// the one's job begins when the other's has ended: what that was given a moment ago is needed back at once.
fn loads_alternate(gic: u8) -> Scenario {
    let guest = |name: &str| {
        Guest::linux(name)
            .args("cma=0")
            .memory(192)
            .memory_bounds(96, 288)
    };
    Scenario::new(format!("policy-loads-alternate-gic{gic}"), gic, |console| {
        for guest in [1, 2] {
            is_up(console, guest)?;
        }
        // By hand nobody gets more than it was given: the job would be killed.
        let answer = console.monitor("policy auto")?;
        ensure!(answer.contains("ok policy=auto"), "{answer}");
        for (guest, other) in [(1, 2), (2, 1), (1, 2), (2, 1)] {
            needs(console, guest, 208)?;
            let status = console.status()?;
            ensure!(status.memory_mib(guest) > 208, "{status}");
            ensure!(status.memory_mib(other) >= 96, "{status}");
        }
        let log = console.monitor("log")?;
        for event in ["event=policy", "event=reserved", "event=released"] {
            ensure!(log.contains(event), "no {event} in the log:\n{log}");
        }
        comes_to_rest(console)
    })
    .ram(448)
    .guest(guest("linux-a"))
    .guest(guest("linux-b"))
}

/// Of two guests that need much memory by turns each gets more done than on a half that stays, on the same board in the
/// same boot.
fn faster_than_halves(gic: u8) -> Scenario {
    let guest = |name: &str| {
        Guest::linux(name)
            .args("cma=0 swap=256")
            .memory(192)
            .memory_bounds(96, 288)
    };
    Scenario::new(
        format!("policy-faster-than-halves-gic{gic}"),
        gic,
        |console| {
            for guest in [1, 2] {
                is_up(console, guest)?;
            }
            let on_halves = work_by_turns(console)?;
            let answer = console.monitor("policy auto")?;
            ensure!(answer.contains("ok policy=auto"), "{answer}");
            let auto = work_by_turns(console)?;
            println!("  pages visited: {on_halves:?} on static halves, {auto:?} under the policy");
            for (with, without) in auto.into_iter().zip(on_halves) {
                ensure!(
                    with * 4 > without * 5,
                    "{auto:?} pages visited under the policy, {on_halves:?} on static halves\n{}",
                    console.monitor("events")?
                );
            }
            comes_to_rest(console)
        },
    )
    .ram(448)
    .guest(guest("linux-a"))
    .guest(guest("linux-b"))
}

/// A guest whose memory is in use cannot give it: after three deadlines it is named for it and keeps what it
/// has, and it is forgiven when it gives.
fn gives_nothing() -> Scenario {
    Scenario::new("policy-unresponsive", 3, |console| {
        is_up(console, 1)?;
        console.shell(
            1,
            "dd if=/dev/zero of=/tmp/full bs=1M count=130 2> /dev/null",
        )?;
        console.patience(120).monitor("mem 1 96")?;
        ensure!(
            console.monitor("transfers")?.contains("target-mib=96"),
            "no transfer"
        );
        console.wait_for_status("the guest to be given up", |s| {
            s.guest(1).get("driver") == "unresponsive"
        })?;
        let status = console.status()?;
        ensure!(status.memory_mib(1) > 160, "{status}");
        let log = console.monitor("log")?;
        ensure!(log.contains("event=unresponsive guest=1"), "{log}");
        console.shell(1, "rm /tmp/full")?;
        console.wait_for_status("the guest to give", |s| s.memory_mib(1) < 128)?;
        let log = console.monitor("log")?;
        ensure!(log.contains("event=responsive guest=1"), "{log}");
        Ok(())
    })
    .guest(
        Guest::linux("full")
            .args("cma=0")
            .memory(256)
            .memory_bounds(72, 256),
    )
}

/// Two guests say the same, that they use all they have and need more; for one of them it is true. By their word
/// both would have half.
fn claims(gic: u8) -> Scenario {
    Scenario::new(format!("policy-claims-gic{gic}"), gic, |console| {
        console.patience(120);
        console.wait_for_status("memory to go to who uses it", |s| {
            s.memory_mib(2) >= s.memory_mib(1) + 48
        })?;
        let stats = console.monitor("stats 1")?;
        ensure!(!stats.contains("watched-blocks=0"), "no sample:\n{stats}");
        let status = console.status()?;
        ensure!(status.memory_mib(1) >= 16, "{status}");
        console.expect_never("FAIL")
    })
    .ram(192)
    .global("policy = \"auto\"")
    .guest(Guest::bare_metal("claims", "claim").memory_bounds(16, 176))
    .guest(
        Guest::bare_metal("uses", "claim")
            .args("use=1")
            .memory_bounds(16, 176),
    )
}

/// When the log says that `who` set a target, in seconds.
fn targets_by(console: &mut Console, who: &str) -> Result<Vec<f64>> {
    let log = console.monitor("log")?;
    let by = format!("by={who}");
    let lines = log
        .lines()
        .filter(|line| line.contains("event=target") && line.contains(&by));
    let times = lines.filter_map(|line| {
        let time = line.split_once("time-s=")?.1.split(' ').next()?;
        time.parse().ok()
    });
    Ok(times.collect())
}

/// `policy external` leaves it to a control guest. A guest that wants more waits for that, or for ten seconds of
/// silence; one in trouble is helped before its kernel kills for memory.
fn stands_in() -> Scenario {
    let guest = |name: &str| Guest::linux(name).memory(384).memory_bounds(160, 768);
    Scenario::new("policy-external", 3, |console| {
        for guest in [1, 2] {
            is_up(console, guest)?;
        }
        console.monitor("policy external")?;
        // From here on it wants more than it has, and its kernel need not kill for it.
        console.shell(
            2,
            "mib=$(awk '/^MemAvailable/ { print int($2 / 1024) - 16 }' /proc/meminfo); \
             dd if=/dev/zero of=/tmp/full bs=1M count=$mib 2> /dev/null",
        )?;
        let (code, said) = console.shell_status(1, "ballastctl mem linux-a 382 --wait")?;
        ensure!(code == 0, "{said}");
        console.shell(1, "sleep 8")?;
        let early = targets_by(console, "ballast")?;
        ensure!(early.is_empty(), "decided before the time-out: {early:?}");
        console.wait_for_status("somebody to stand in", |s| s.memory_mib(2) > 384)?;
        let spoke = targets_by(console, "control")?.last().copied();
        let helped = targets_by(console, "ballast")?.first().copied();
        ensure!(
            helped
                .zip(spoke)
                .is_some_and(|(helped, spoke)| helped >= spoke + 10.0),
            "helped at {helped:?}, the control guest spoke at {spoke:?}"
        );
        // It decides again, then says nothing while a guest is in trouble.
        console.shell(2, "rm /tmp/full")?;
        let (code, said) = console.shell_status(1, "ballastctl mem linux-b 384 --wait")?;
        ensure!(code == 0, "{said}");
        needs(console, 2, 440)?;
        let spoke = targets_by(console, "control")?.last().copied();
        let helped = targets_by(console, "ballast")?.last().copied();
        ensure!(
            helped > spoke,
            "helped at {helped:?}, the control guest spoke at {spoke:?}"
        );
        Ok(())
    })
    .ram(896)
    .guest(guest("linux-a").property("control"))
    .guest(guest("linux-b"))
}

/// A guest that has given memory needs it at once, with nobody deciding: it says PRESSURE and kills nothing.
fn before_any_kill(gic: u8) -> Scenario {
    Scenario::new(format!("policy-pressure-gic{gic}"), gic, |console| {
        is_up(console, 1)?;
        console.monitor("mem 1 160")?;
        console.wait_for_status("the guest to give", |s| s.settled(1))?;
        needs(console, 1, 260)?;
        let status = console.status()?;
        ensure!(status.memory_mib(1) > 260, "{status}");
        Ok(())
    })
    .guest(
        Guest::linux("hungry")
            .args("cma=0")
            .memory(384)
            .memory_bounds(96, 384),
    )
}

/// A guest with more threads than cores gets one that another leaves idle, and at rest nothing runs for it.
fn cores_follow_the_queue(gic: u8) -> Scenario {
    let guest = |name: &str| {
        Guest::linux(name)
            .args("cma=0")
            .memory(192)
            .cpus(2)
            .cpu_bounds(1, 3)
    };
    Scenario::new(format!("policy-cores-gic{gic}"), gic, |console| {
        for guest in [1, 2] {
            is_up(console, guest)?;
        }
        console.monitor("policy auto")?;
        for (busy, idle) in [(1, 2), (2, 1)] {
            console.shell(
                busy,
                "for n in 1 2 3 4; do (while :; do :; done) & done > /dev/null 2>&1",
            )?;
            console.wait_for_status("a core to move", |s| {
                s.guest(busy).get("cpus") == "3/3" && s.guest(idle).get("cpus") == "1/1"
            })?;
            console.shell(busy, "kill $(jobs -p) 2> /dev/null; true")?;
        }
        Ok(())
    })
    .cores(4)
    .ram(768)
    .guest(guest("linux-a"))
    .guest(guest("linux-b"))
}

/// The same of guests without an operating system, which count their jobs: now the one has some and now the other.
fn cores_follow_jobs(gic: u8) -> Scenario {
    let guest = |name: &str, turn: u8| {
        Guest::bare_metal(name, "cores")
            .args(&format!("jobs=4 period-s=12 turn={turn}"))
            .cpus(2)
            .cpu_bounds(1, 3)
    };
    Scenario::new(
        format!("policy-cores-bare-metal-gic{gic}"),
        gic,
        |console| {
            console.patience(60);
            let has = |s: &Status, guest: u8, cpus: &str| s.guest(guest).get("cpus") == cpus;
            let first = console.wait_for_status("a core to move", |s| {
                has(s, 1, "3/3") && has(s, 2, "1/1") || has(s, 1, "1/1") && has(s, 2, "3/3")
            })?;
            let (busy, idle) = if has(&first, 1, "3/3") {
                (1, 2)
            } else {
                (2, 1)
            };
            console.wait_for_status("cores to move to the other", |s| {
                has(s, idle, "3/3") && has(s, busy, "1/1")
            })?;
            let stats = console.monitor(&format!("stats {idle}"))?;
            ensure!(stats.contains("runnable-milli=4000"), "{stats}");
            console.expect_never("FAIL")
        },
    )
    .cores(4)
    .ram(256)
    .global("policy = \"auto\"")
    .guest(guest("a", 0))
    .guest(guest("b", 1))
}

/// When everybody has what it shall have nothing runs: a guest that sleeps is not left for EL2 even once.
fn at_rest() -> Scenario {
    let guest = |name: &str| Guest::bare_metal(name, "balloon").memory_bounds(16, 128);
    Scenario::new("policy-at-rest", 3, |console| {
        console.patience(60);
        console.wait_for_status("both drivers", |s| s.has_driver(1) && s.has_driver(2))?;
        for mib in [32, 64] {
            console.monitor(&format!("mem 2 {mib}"))?;
            console.wait_for_status("a move", |s| s.memory_mib(2) == mib && s.settled(2))?;
        }
        // The console is the first guest's core's work. The second has had its last word after the move.
        console.focus(2)?;
        console.expect("balloon settled reserved=16384 target=16384")?;
        let exits = |console: &mut Console| -> Result<String> {
            let stats = console.monitor("stats 2")?;
            let line = stats.lines().find(|line| line.contains("stats=exits"));
            Ok(line.context("no exits")?.to_owned())
        };
        // A timer that was set for the move's deadline may fire once more.
        thread::sleep(Duration::from_secs(5));
        let before = exits(console)?;
        thread::sleep(Duration::from_secs(4));
        let after = exits(console)?;
        ensure!(before == after, "at rest:\n{before}\n{after}");
        console.expect_never("FAIL")
    })
    .ram(512)
    .global("policy = \"auto\"")
    .guest(guest("a"))
    .guest(guest("b"))
}
