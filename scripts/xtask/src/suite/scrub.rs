//! Free memory is made ready before it is asked for, by cores that have nothing else to do.

use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::{Guest, Scenario};
use crate::console::Console;
use crate::status::Status;

/// MiB a second, in the tests of the limit.
const LIMIT: u64 = 12;

pub fn scenarios() -> Vec<Scenario> {
    [2, 3]
        .into_iter()
        .flat_map(|gic| [by_a_parked_core(gic), in_wfi(gic)])
        .collect()
}

/// Guest 2 gives 48 MiB, and nobody asks for them: they are zeroed. Then guest 1 gets them without a scrub on the way.
fn given_and_got(console: &mut Console) -> Result<()> {
    console.patience(90);
    console.wait_for_status("both drivers", |s| [1, 2].iter().all(|&g| s.has_driver(g)))?;
    let before = console.status()?;
    set_memory(console, 2, 16)?;
    let kib = before.host().number("idle-scrubbed-kib") + (48 << 10);
    console.wait_for_status("what was given to be scrubbed", |s| {
        s.host().number("idle-scrubbed-kib") >= kib
    })?;
    let after = console.status()?;
    let count = |status: &Status, key| status.host().number(key);
    let zeroed = count(&after, "zeroed-mib") - count(&before, "zeroed-mib");
    ensure!(zeroed == 48, "{zeroed} MiB are zeroed:\n{before}{after}");
    let scrubbed = count(&after, "idle-scrubbed-kib") - count(&before, "idle-scrubbed-kib");
    ensure!(
        scrubbed == 48 << 10,
        "{scrubbed} KiB were scrubbed:\n{before}{after}"
    );
    // The limit, with a second's doubt about when each status was: not faster, and not much slower.
    let seconds = count(&after, "uptime-s") - count(&before, "uptime-s");
    ensure!(
        48 <= LIMIT * (seconds + 1) + 1 && 48 * 3 >= LIMIT * seconds.saturating_sub(1),
        "48 MiB in {seconds} s at {LIMIT} MiB/s:\n{before}{after}"
    );
    set_memory(console, 1, 112)?;
    let scrubbed = stat(console, 1, "scrubbed-pages")?;
    ensure!(scrubbed == 0, "{scrubbed} pages were scrubbed on the way");
    console.expect_never("FAIL")
}

fn set_memory(console: &mut Console, guest: u8, mib: u64) -> Result<()> {
    console.monitor(&format!("mem {guest} {mib}"))?;
    let what = format!("guest {guest} to have {mib} MiB");
    console.wait_for_status(&what, |s| s.memory_mib(guest) == mib && s.settled(guest))?;
    Ok(())
}

/// One of a guest's counters.
fn stat(console: &mut Console, guest: u8, key: &str) -> Result<u64> {
    let stats = console.monitor(&format!("stats {guest}"))?;
    let mut words = stats.split_whitespace();
    let word = words.find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
    Ok(word.unwrap_or("0").parse()?)
}

fn guests(scenario: Scenario, first: &str) -> Scenario {
    let guest = |name: &str| Guest::bare_metal(name, "balloon").memory_bounds(16, 128);
    let a = if first.is_empty() {
        guest("a")
    } else {
        guest("a").property(first)
    };
    scenario
        .ram(192)
        .global(&format!("scrub-mib-s = <{LIMIT}>"))
        .guest(a)
        .guest(guest("b"))
}

/// A core that no guest has does it, and no guest's WFI is trapped.
fn by_a_parked_core(gic: u8) -> Scenario {
    let scenario = Scenario::new(format!("scrub-parked-core-gic{gic}"), gic, |console| {
        given_and_got(console)?;
        for guest in [1, 2] {
            let trapped = stat(console, guest, "wfx")?;
            ensure!(
                trapped == 0,
                "guest {guest} was trapped {trapped} times in WFI"
            );
        }
        Ok(())
    });
    guests(scenario.cores(3), "")
}

/// A core of a guest that waits does it. Before and afterwards its WFI is its own.
fn in_wfi(gic: u8) -> Scenario {
    let scenario = Scenario::new(format!("scrub-when-idle-gic{gic}"), gic, |console| {
        given_and_got(console)?;
        ensure!(
            stat(console, 2, "wfx")? == 0,
            "a guest without scrub-when-idle was trapped in WFI"
        );
        let at_rest = stat(console, 1, "wfx")?;
        ensure!(at_rest != 0, "no WFI was trapped");
        thread::sleep(Duration::from_secs(2));
        let later = stat(console, 1, "wfx")?;
        ensure!(
            at_rest == later,
            "at rest WFI was trapped {at_rest} times, later {later}"
        );
        Ok(())
    });
    guests(scenario, "scrub-when-idle")
}
