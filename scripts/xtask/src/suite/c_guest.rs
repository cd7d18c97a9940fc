//! The guest in C: the driver's library and the headers, as an RTOS would use them.

use anyhow::{Result, ensure};

use super::{Guest, Scenario};
use crate::console::Console;

/// Its balloon, and its side of two channels, on both interrupt controllers.
pub fn scenarios() -> Vec<Scenario> {
    [2, 3]
        .into_iter()
        .flat_map(|gic| [balloon(gic), channels(gic)])
        .collect()
}

fn guest() -> Guest {
    Guest::bare_metal("c", "-").kernel("c-guest")
}

/// It grows out of its boot balloon, gives most of what it has and gets it back, zeroed.
fn balloon(gic: u8) -> Scenario {
    Scenario::new(format!("c-guest-balloon-gic{gic}"), gic, |console| {
        console.expect("c-guest is up")?;
        for mib in [96, 24, 96, 40, 64] {
            moved(console, mib)?;
        }
        // What it says of itself, when it has come to rest: all but its image and its own reserve, and one task.
        let free = format!("available-kib={} ", (64 - 2 - 4) << 10);
        let stats = console.wait_for_answer("stats 1", &free, |stats| {
            stats.contains(&free) && stats.contains("runnable-milli=1")
        })?;
        ensure!(stats.contains("refused=0"), "{stats}");
        console.expect_never("FAIL")
    })
    .ram(512)
    .guest(guest().memory(64).memory_bounds(16, 96))
}

fn moved(console: &mut Console, mib: u64) -> Result<()> {
    let answer = console.monitor(&format!("mem 1 {mib}"))?;
    ensure!(answer.contains("ok guest=1"), "{answer}");
    console.wait_for_status(&format!("{mib} MiB"), |status| {
        status.memory_mib(1) == mib && status.settled(1)
    })?;
    Ok(())
}

/// It answers the bare-metal guest's messages, each checked there.
fn channels(gic: u8) -> Scenario {
    Scenario::new(format!("c-guest-channels-gic{gic}"), gic, |console| {
        let said = console.patience(120).expect("every guest is off")?;
        for needed in ["[a] PASS ping", "[c] PASS pong"] {
            ensure!(said.contains(needed), "no \"{needed}\" in:\n{said}");
        }
        Ok(())
    })
    .ram(512)
    .guest(Guest::bare_metal("a", "ping"))
    .guest(guest())
    .shared("there", 0x2000, [(1, "read-write"), (2, "read-only")])
    .shared("back", 0x1000, [(1, "read-only"), (2, "read-write")])
}
