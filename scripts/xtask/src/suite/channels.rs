//! Guests that talk: shared memory and doorbells between two of them.

use anyhow::{Result, ensure};

use super::{Guest, Scenario};
use crate::console::Console;

/// Bare metal with bare metal, on both interrupt controllers; one that attacks.
pub fn scenarios() -> Vec<Scenario> {
    let mut all = Vec::new();
    for gic in [2, 3] {
        all.push(talk("ping-pong", gic, "ping", "pong"));
        all.push(talk("flood", gic, "flood", "hear"));
        all.push(talk("reset", gic, "reborn", "witness"));
        all.push(attack(gic));
        all.push(set_points(gic));
    }
    all.push(beside_ram());
    all
}

/// Both ends say that they passed and power off, and so does the board.
fn both_pass(console: &mut Console, one: &str, two: &str) -> Result<()> {
    let said = console.patience(120).expect("every guest is off")?;
    for needed in [format!("[a] PASS {one}"), format!("[b] PASS {two}")] {
        ensure!(said.contains(&needed), "no \"{needed}\" in:\n{said}");
    }
    Ok(())
}

/// "there" is written by the first and read by the second, "back" the other way round.
fn with_lines(scenario: Scenario) -> Scenario {
    scenario
        .shared("there", 0x2000, [(1, "read-write"), (2, "read-only")])
        .shared("back", 0x1000, [(1, "read-only"), (2, "read-write")])
}

fn talk(name: &str, gic: u8, one: &'static str, two: &'static str) -> Scenario {
    let scenario = Scenario::new(format!("channel-{name}-gic{gic}"), gic, move |console| {
        both_pass(console, one, two)
    });
    with_lines(scenario.ram(512))
        .guest(Guest::bare_metal("a", one))
        .guest(Guest::bare_metal("b", two))
}

/// Linux has its RAM, and so what it shares, where the board has it.
fn beside_ram() -> Scenario {
    let scenario = Scenario::new("channel-identity", 3, |console| {
        console.patience(180).expect_up(1)?;
        let said = console.patience(60).shell(1, "setpoints 50")?;
        ensure!(said.contains("setpoints done count=50"), "{said}");
        Ok(())
    });
    let linux = Guest::linux("linux").memory(256);
    with_real_time(scenario, linux.property("dma = \"trusted\""))
}

/// This guest and one that gets its set-points from it.
fn with_real_time(scenario: Scenario, linux: Guest) -> Scenario {
    scenario
        .guest(linux)
        .guest(Guest::bare_metal("realtime", "regulate").property("realtime"))
        .shared("setpoints", 0x1000, [(1, "read-write"), (2, "read-only")])
        .shared("telemetry", 0x1000, [(1, "read-only"), (2, "read-write")])
}

/// The second guest attacks, for whom "there" is read-only, while the first checks its own memory.
fn attack(gic: u8) -> Scenario {
    let scenario = Scenario::new(format!("channel-hostile-gic{gic}"), gic, |console| {
        both_pass(console, "counter", "hostile-channel")
    });
    let attacker = Guest::bare_metal("b", "hostile-channel")
        .memory_bounds(32, 128)
        .cpus(3);
    with_lines(scenario.cores(4).ram(512))
        .guest(Guest::bare_metal("a", "counter").args("seconds=2"))
        .guest(attacker)
}

/// Linux gives a real-time guest its set-points and reads its telemetry, through resets of both.
fn set_points(gic: u8) -> Scenario {
    let scenario = Scenario::new(format!("channel-linux-gic{gic}"), gic, |console| {
        console.patience(180).expect_up(1)?;
        console.patience(60);
        let said = console.shell(1, "setpoints 100")?;
        ensure!(said.contains("setpoints done count=100"), "{said}");
        // What this guest may only read it cannot map to write, nor outside of the memory.
        let rights = "dd if=/dev/zero of=/dev/ballast-telemetry bs=1 count=1 2>/dev/null; ls -l /dev/ballast-*";
        let listed = console.shell(1, rights)?;
        ensure!(listed.contains("ballast-setpoints"), "{listed}");
        console.shell(
            1,
            "(setpoints 300 > /tmp/said; echo $? >> /tmp/said) & true",
        )?;
        for _ in 0..2 {
            console.shell(1, "sleep 1")?;
            console.monitor("reset 2")?;
        }
        let said = console.shell(1, "wait; sleep 1; cat /tmp/said")?;
        for needed in [
            "setpoints done count=300",
            "resets=2",
            "has started, time 3",
        ] {
            ensure!(said.contains(needed), "no \"{needed}\" in:\n{said}");
        }
        // The memory outlives this side too.
        console.monitor("reset 1")?;
        console.patience(180).expect_up(1)?;
        let said = console.patience(60).shell(1, "setpoints 50")?;
        ensure!(said.contains("setpoints done count=50"), "{said}");
        Ok(())
    });
    with_real_time(scenario, Guest::linux("linux").memory(256))
}
