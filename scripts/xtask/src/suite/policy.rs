//! The resource scheduler with Linux guests.

use anyhow::{Result, ensure};
use ballast_workload::Checksum;

use super::{Guest, Scenario};
use crate::console::Console;

const SEED: u64 = 7;

pub fn scenarios() -> Vec<Scenario> {
    vec![
        loads_alternate(2),
        loads_alternate(3),
        gives_nothing(),
        claims(2),
        claims(3),
        stands_in(),
        before_any_kill(),
        cores_follow_the_queue(),
    ]
}

fn is_up(console: &mut Console, guest: u8) -> Result<()> {
    console.patience(180).expect_up(guest)?;
    console.patience(120);
    console.wait_for_status("the driver to register", |s| s.has_driver(guest))?;
    Ok(())
}

/// Runs a job that needs `mib` at once, at a steady pace, and is killed if it does not get them.
fn needs(console: &mut Console, guest: u8, mib: usize) -> Result<()> {
    let said = console.shell(guest, &format!("workload {mib} 48 {SEED}"))?;
    let expected = Checksum::expected(mib, SEED).to_string();
    ensure!(
        said.contains(&expected),
        "guest {guest} did not get {mib} MiB:\n{said}\n{}\n{}",
        console.status()?,
        console.monitor("log")?
    );
    let killed = console.shell(guest, "awk '/^oom_kill / { print $2 }' /proc/vmstat")?;
    ensure!(killed.trim() == "0", "guest {guest} killed {killed} times");
    Ok(())
}

/// Two guests need by turns more than half of the board's memory, and nobody says so to the monitor.
fn loads_alternate(gic: u8) -> Scenario {
    let guest = |name: &str| Guest::linux(name).memory(384).memory_bounds(160, 768);
    Scenario::new(format!("policy-loads-alternate-gic{gic}"), gic, |console| {
        for guest in [1, 2] {
            is_up(console, guest)?;
        }
        // By hand nobody gets more than it was given: the job would be killed.
        let answer = console.monitor("policy auto")?;
        ensure!(answer.contains("ok policy=auto"), "{answer}");
        for (guest, other) in [(1, 2), (2, 1), (1, 2)] {
            needs(console, guest, 440)?;
            let status = console.status()?;
            ensure!(status.memory_mib(guest) > 440, "{status}");
            ensure!(status.memory_mib(other) >= 160, "{status}");
        }
        let log = console.monitor("log")?;
        for event in ["event=policy", "event=reserved", "event=released"] {
            ensure!(log.contains(event), "no {event} in the log:\n{log}");
        }
        // Nobody lacks anything now, so soon nothing is on its way.
        console.wait_for_status("rest", |s| s.settled(1) && s.settled(2))?;
        ensure!(
            !console.monitor("transfers")?.contains("guest="),
            "transfers at rest"
        );
        Ok(())
    })
    .ram(896)
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
            "dd if=/dev/zero of=/tmp/full bs=1M count=300 2> /dev/null",
        )?;
        console.patience(240).monitor("mem 1 128")?;
        ensure!(
            console.monitor("transfers")?.contains("target-mib=128"),
            "no transfer"
        );
        console.wait_for_status("the guest to be given up", |s| {
            s.guest(1).get("driver") == "unresponsive"
        })?;
        let status = console.status()?;
        ensure!(status.memory_mib(1) > 300, "{status}");
        let log = console.monitor("log")?;
        ensure!(log.contains("event=unresponsive guest=1"), "{log}");
        console.shell(1, "rm /tmp/full")?;
        console.wait_for_status("the guest to give", |s| s.memory_mib(1) < 200)?;
        let log = console.monitor("log")?;
        ensure!(log.contains("event=responsive guest=1"), "{log}");
        Ok(())
    })
    .guest(
        Guest::linux("full")
            .args("cma=0")
            .memory(512)
            .memory_bounds(96, 512),
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
fn before_any_kill() -> Scenario {
    Scenario::new("policy-pressure", 3, |console| {
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
fn cores_follow_the_queue() -> Scenario {
    let guest = |name: &str| {
        Guest::linux(name)
            .args("cma=0")
            .memory(192)
            .cpus(2)
            .cpu_bounds(1, 3)
    };
    Scenario::new("policy-cores", 3, |console| {
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
