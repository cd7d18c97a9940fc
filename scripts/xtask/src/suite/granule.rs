//! A Linux whose own pages are of 16 KiB.

use anyhow::{Result, ensure};

use super::memory::{
    guest_is_up, mem_total_mib, only_zeroes_came, same_total, set_memory, uses_memory,
};
use super::{Guest, Scenario};
use crate::console::Console;

/// The first of QEMU's models with pages of 16 KiB; the Cortex-A72 has none.
const CPU: &str = "cortex-a76";

/// Its balloon, by 2 MiB and by its own pages.
pub fn scenarios() -> Vec<Scenario> {
    vec![moves(3), moves(2).long()]
}

/// It gives memory to a guest with pages of 4 KiB and gets it back, by runs of each size, and from a module that was
/// loaded again.
fn moves(gic: u8) -> Scenario {
    Scenario::new(format!("memory-16k-pages-gic{gic}"), gic, |console| {
        for guest in [1, 2] {
            guest_is_up(console, guest)?;
        }
        let size = console.shell(
            1,
            "awk '/KernelPageSize/ { print $2; exit }' /proc/self/smaps",
        )?;
        ensure!(size.trim() == "16", "guest 1 has pages of {size} KiB");
        let before = console.status()?;
        console.shell(
            1,
            "dd if=/dev/urandom of=/tmp/keep bs=1M count=16 2>/dev/null",
        )?;
        let sum = console.shell(1, "md5sum < /tmp/keep")?;
        let booted = mem_total_mib(console, 1)?;

        for (order, entries) in [(9, "entries-2m"), (4, "entries-64k"), (0, "entries-16k")] {
            largest_order(console, order)?;
            let moved = entries_of(console, entries)?;
            set_memory(console, 1, 192)?;
            let smaller = mem_total_mib(console, 1)?;
            ensure!(
                booted - smaller == 64,
                "MemTotal went from {booted} to {smaller} MiB when 64 MiB went"
            );
            // Memory that it can only have from the first.
            set_memory(console, 2, 320)?;
            uses_memory(console, 2, 200)?;
            set_memory(console, 2, 256)?;
            set_memory(console, 1, 256)?;
            let now = mem_total_mib(console, 1)?;
            ensure!(now == booted, "MemTotal was {booted} MiB and is {now}");
            ensure!(
                entries_of(console, entries)? > moved,
                "no {entries} at order {order}"
            );
        }
        only_zeroes_came(console, 1)?;
        set_memory(console, 1, 208)?;
        console.shell(
            1,
            "rmmod ballast_balloon && insmod /lib/ballast_balloon.ko verify=1",
        )?;
        console.wait_for_status("the driver to come back to its target", |s| {
            s.has_driver(1) && s.settled(1)
        })?;
        // What the next one found, and what the board had for it from the start.
        set_memory(console, 1, 272)?;
        let grown = mem_total_mib(console, 1)?;
        ensure!(
            grown == booted + 16,
            "MemTotal was {booted} MiB and is {grown} with 16 more"
        );
        set_memory(console, 1, 256)?;

        ensure!(
            console.shell(1, "md5sum < /tmp/keep")? == sum,
            "content was lost"
        );
        uses_memory(console, 1, 120)?;
        for guest in [1, 2] {
            only_zeroes_came(console, guest)?;
        }
        ensure!(
            entries_of(console, "entries-4k")? == 0,
            "a part of a page was moved"
        );
        let refused = console.shell(1, "cat /sys/bus/platform/devices/*balloon*/refused")?;
        ensure!(refused.trim() == "0", "{refused} entries were refused");
        same_total(&before, console)
    })
    .cpu(CPU)
    .ram(640)
    .guest(
        Guest::linux_16k("large")
            .memory(256)
            .memory_bounds(128, 384),
    )
    .guest(
        Guest::linux("usual")
            .args("cma=0")
            .memory(256)
            .memory_bounds(128, 320),
    )
}

fn largest_order(console: &mut Console, order: u8) -> Result<()> {
    let parameter = "/sys/module/ballast_balloon/parameters/largest_order";
    console
        .shell(1, &format!("echo {order} > {parameter}"))
        .map(drop)
}

/// The list entries of this size that the first guest has given and got.
fn entries_of(console: &mut Console, key: &str) -> Result<u64> {
    let stats = console.monitor("stats 1")?;
    let values = stats
        .split_whitespace()
        .filter_map(|word| word.strip_prefix(key)?.strip_prefix('='));
    Ok(values.filter_map(|value| value.parse::<u64>().ok()).sum())
}
