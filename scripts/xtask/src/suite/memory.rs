//! Memory that moves between running Linux guests.

mod relocation;

use std::thread;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use ballast_workload::Checksum;
use relocation::{comes_home, gathers, linux_comes_home};

use super::{Guest, Scenario};
use crate::console::Console;
use crate::status::Status;

/// Moving by hand, growing, reset while inflated, module reload, and a guest that does not answer.
pub fn scenarios() -> Vec<Scenario> {
    let mut all = Vec::new();
    for gic in [2, 3] {
        all.push(two_guests(
            format!("memory-moves-and-returns-gic{gic}"),
            gic,
            moves_and_returns,
        ));
    }
    all.push(two_guests("memory-fifty-moves", 3, |console| {
        many_moves(console, 50)
    }));
    all.push(
        two_guests("memory-thousand-moves", 2, |console| {
            many_moves(console, 1000)
        })
        .long(),
    );
    all.push(two_guests(
        "memory-reset-while-inflated",
        3,
        reset_while_inflated,
    ));
    all.push(two_guests("memory-module-reload", 3, module_reload));
    all.push(ignores_its_target());
    all.push(comes_home(2, 50));
    all.push(comes_home(3, 50));
    all.extend([2, 3].map(|gic| linux_comes_home(gic, 50)));
    all.extend([2, 3].map(quarantine));
    all.extend([2, 3].map(gathers));
    all.extend([2, 3].map(bare_metal_moves));
    all
}

/// Two Linux guests of 512 MiB each, which may grow to 768, on a board that has little more.
fn two_guests(
    name: impl Into<String>,
    gic: u8,
    script: impl Fn(&mut Console) -> Result<()> + 'static,
) -> Scenario {
    let guest = |name: &str| Guest::linux(name).memory(512).memory_bounds(128, 768);
    Scenario::new(name, gic, move |console| {
        for guest in [1, 2] {
            guest_is_up(console, guest)?;
        }
        script(console)
    })
    .ram(1152)
    .guest(guest("linux-a"))
    .guest(guest("linux-b"))
}

/// Waits for a Linux guest and its driver.
pub fn guest_is_up(console: &mut Console, guest: u8) -> Result<()> {
    console.patience(180).expect_up(guest)?;
    console.patience(90);
    console.wait_for_status("the driver to register", |s| s.has_driver(guest))?;
    Ok(())
}

/// Sets a target and waits until the guest has exactly that.
pub fn set_memory(console: &mut Console, guest: u8, mib: u64) -> Result<()> {
    let answer = console.monitor(&format!("mem {guest} {mib}"))?;
    ensure!(!answer.contains("refused"), "mem {guest} {mib}: {answer}");
    let what = format!("guest {guest} to have {mib} MiB");
    console.wait_for_status(&what, |s| s.memory_mib(guest) == mib && s.settled(guest))?;
    Ok(())
}

/// What the guest itself says it has, in MiB.
pub fn mem_total_mib(console: &mut Console, guest: u8) -> Result<u64> {
    let kib = console.shell(guest, "awk '/MemTotal/ { print $2 }' /proc/meminfo")?;
    Ok(kib.trim().parse::<u64>()? >> 10)
}

/// Fills memory with data that is not zero, reads all of it back, and frees it.
pub fn uses_memory(console: &mut Console, guest: u8, mib: usize) -> Result<()> {
    const SEED: u64 = 7;
    let said = console.shell(guest, &format!("workload {mib} 100000 {SEED}"))?;
    let expected = Checksum::expected(mib, SEED).to_string();
    ensure!(
        said.contains(&expected),
        "guest {guest} wrote {mib} MiB and read back something else:\n{said}"
    );
    Ok(())
}

/// Every page that the guest got back has read zero.
pub fn only_zeroes_came(console: &mut Console, guest: u8) -> Result<()> {
    let count = console.shell(
        guest,
        "cat /sys/bus/platform/devices/*balloon*/pages_not_zero",
    )?;
    ensure!(
        count.trim() == "0",
        "guest {guest} got {} pages that were not zero",
        count.trim()
    );
    Ok(())
}

fn moves_and_returns(console: &mut Console) -> Result<()> {
    let before = console.status()?;
    set_memory(console, 1, 256)?;
    set_memory(console, 2, 768)?;
    let (a, b) = (mem_total_mib(console, 1)?, mem_total_mib(console, 2)?);
    ensure!(
        a < 256 && b > 640,
        "MemTotal is {a} and {b} MiB after 256 MiB have moved"
    );
    uses_memory(console, 2, 500)?;
    set_memory(console, 2, 512)?;
    set_memory(console, 1, 512)?;
    only_zeroes_came(console, 1)?;
    only_zeroes_came(console, 2)?;
    uses_memory(console, 1, 300)?;
    let after = console.status()?;
    ensure!(
        before.total_kib() == after.total_kib(),
        "memory was lost:\n{before}{after}"
    );
    Ok(())
}

fn many_moves(console: &mut Console, times: u32) -> Result<()> {
    let before = console.status()?;
    // Content that must survive on both sides while the rest of the memory comes and goes.
    let keep = "dd if=/dev/urandom of=/tmp/keep bs=1M count=16 2>/dev/null";
    let sum = "md5sum < /tmp/keep";
    let mut sums = Vec::new();
    for guest in [1, 2] {
        console.shell(guest, keep)?;
        sums.push(console.shell(guest, sum)?);
    }
    // By the page first, which splits blocks, then by larger runs.
    for (order, rounds) in [(0, times / 5), (4, times / 5), (9, times - times / 5 * 2)] {
        for guest in [1, 2] {
            let parameter = "/sys/module/ballast_balloon/parameters/largest_order";
            console.shell(guest, &format!("echo {order} > {parameter}"))?;
        }
        for _ in 0..rounds {
            set_memory(console, 1, 320)?;
            set_memory(console, 2, 704)?;
            if order != 9 {
                // What the first gets back is in part what the second has held, and holds the rest of still.
                set_memory(console, 2, 560)?;
                set_memory(console, 1, 512)?;
            }
            set_memory(console, 2, 512)?;
            set_memory(console, 1, 512)?;
        }
        for guest in [1, 2] {
            is_merged(console, guest)?;
            ensure!(
                console.shell(guest, sum)? == sums[usize::from(guest) - 1],
                "guest {guest} lost data in moves of order {order}"
            );
        }
    }
    let after = console.status()?;
    ensure!(
        before.total_kib() == after.total_kib(),
        "memory was lost:\n{before}{after}"
    );
    Ok(())
}

/// Every 2 MiB that is complete becomes one block entry; how many of them had pages that came back elsewhere.
fn is_merged(console: &mut Console, guest: u8) -> Result<u64> {
    for _ in 0..100 {
        let stats = console.monitor(&format!("stats {guest}"))?;
        let count = |key| counter(&stats, key);
        if count("unmerged") == 0 {
            ensure!(
                count("splits") != 0,
                "guest {guest}: nothing was in pieces, the test shows nothing:\n{stats}"
            );
            return Ok(count("gathered"));
        }
        thread::sleep(Duration::from_millis(200));
    }
    let stats = console.monitor(&format!("stats {guest}"))?;
    bail!("guest {guest} has blocks that are complete and split:\n{stats}")
}

fn reset_while_inflated(console: &mut Console) -> Result<()> {
    set_memory(console, 1, 256)?;
    console.shell(2, "echo still here > /tmp/mark")?;
    console.monitor("reset 1")?;
    guest_is_up(console, 1)?;
    let total = mem_total_mib(console, 1)?;
    ensure!(
        total < 512,
        "guest 1 says it has {total} MiB after its reset"
    );
    set_memory(console, 1, 512)?;
    uses_memory(console, 1, 300)?;
    console.shell(2, "grep -q 'still here' /tmp/mark")?;
    Ok(())
}

fn module_reload(console: &mut Console) -> Result<()> {
    set_memory(console, 1, 320)?;
    for _ in 0..3 {
        console.shell(1, "rmmod ballast_balloon")?;
        console.wait_for_status("the driver to leave", |s| {
            s.guest(1).get("driver") != "ready"
        })?;
        console.shell(1, "insmod /lib/ballast_balloon.ko verify=1")?;
        console.wait_for_status("the driver to come back to its target", |s| {
            s.has_driver(1) && s.settled(1)
        })?;
    }
    set_memory(console, 1, 512)?;
    uses_memory(console, 1, 300)
}

/// A guest without a driver keeps what it has, is named for it, and harms nobody.
fn ignores_its_target() -> Scenario {
    let guest = |name: &str| Guest::linux(name).memory(256).memory_bounds(128, 512);
    Scenario::new("memory-ignored-target", 3, |console| {
        for guest in [1, 2] {
            console.patience(180).expect_up(guest)?;
        }
        console.patience(90).monitor("mem 1 128")?;
        let status = console.status()?;
        ensure!(
            status.memory_mib(1) == 256 && status.guest(1).number("target-mib") == 128,
            "{status}"
        );
        set_memory(console, 2, 128)?;
        set_memory(console, 2, 256)?;
        uses_memory(console, 1, 100)
    })
    .ram(1024)
    .guest(guest("deaf").args("noballoon"))
    .guest(guest("linux").args("cma=0"))
}

/// Two bare-metal guests give each other memory; each verifies what it keeps and that what it gets reads zero.
fn bare_metal_moves(gic: u8) -> Scenario {
    Scenario::new(format!("memory-bare-metal-gic{gic}"), gic, |console| {
        console.patience(120);
        console.wait_for_status("both drivers", |s| [1, 2].iter().all(|&g| s.has_driver(g)))?;
        for round in 0..3 {
            for (guest, mib) in [(1, 32), (2, 96), (2, 33), (1, 127), (1, 64), (2, 64)] {
                console.monitor(&format!("mem {guest} {mib}"))?;
                let what = format!("round {round}: guest {guest} to have {mib} MiB");
                console
                    .wait_for_status(&what, |s| s.memory_mib(guest) == mib && s.settled(guest))?;
            }
        }
        for guest in [1, 2] {
            console.focus(guest)?;
            console.expect("balloon settled reserved=16384 target=16384")?;
        }
        console.expect_never("FAIL")
    })
    .ram(256)
    .guest(Guest::bare_metal("a", "balloon").memory_bounds(16, 128))
    // RAM that stays, beside what comes and goes, is no part of any target.
    .guest(
        Guest::bare_metal("b", "balloon")
            .memory_bounds(16, 128)
            .property("extra-ram = <0 0x10000000 0 0x200000>"),
    )
}

/// The number behind `key=` in a report; 0 if it is not there.
fn counter(report: &str, key: &str) -> u64 {
    let mut words = report.split_whitespace();
    let word = words.find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
    word.and_then(|value| value.parse().ok()).unwrap_or(0)
}

/// All memory is somebody's still.
pub fn same_total(before: &Status, console: &mut Console) -> Result<()> {
    let after = console.status()?;
    ensure!(
        before.total_kib() == after.total_kib(),
        "memory was lost:\n{before}{after}"
    );
    Ok(())
}

/// A guest is down, and nobody knows how to make its device stop: nobody else gets its frames.
fn quarantine(gic: u8) -> Scenario {
    Scenario::new(format!("memory-quarantine-gic{gic}"), gic, |console| {
        console.patience(120);
        console.expect("trusted and could break isolation")?;
        console.wait_for_status("the other's driver", |s| {
            s.has_driver(2) && s.guest(1).get("state") == "running"
        })?;
        // As when it had reset itself, or gone wrong: nobody is left who would stop the device.
        console.monitor("reset 1")?;
        console.expect("crashed: stays stopped and keeps its memory")?;
        let before = console.status()?;
        ensure!(
            before.guest(1).get("state") == "quarantined" && before.memory_mib(1) == 64,
            "{before}"
        );
        // The other wants more than there is.
        console.monitor("mem 2 256")?;
        console.wait_for_status("the other to have all that is free", |s| {
            s.guest(2).get("driver") == "waiting" && s.host().number("free-mib") < 4
        })?;
        for request in ["start 1", "reset 1"] {
            let answer = console.monitor(request)?;
            ensure!(
                answer.contains("a device of the guest"),
                "{request}: {answer}"
            );
        }
        let after = console.status()?;
        ensure!(after.memory_mib(1) == 64, "{after}");
        console.expect_never("FAIL")
    })
    .cores(2)
    .ram(192)
    .guest(
        Guest::bare_metal("crashed", "counter")
            .args("seconds=100000")
            .memory(64)
            .property("dma = \"trusted\"")
            .property("devices = \"/pcie@10000000\""),
    )
    .guest(
        Guest::bare_metal("other", "balloon")
            .memory(32)
            .memory_bounds(16, 256),
    )
}
