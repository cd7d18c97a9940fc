//! What moving memory costs a Linux guest: the processor time of its balloon thread, Ballast's share within it.

use anyhow::{Context, Result};

use super::Figures;
use crate::console::Console;

/// What is moved, in MiB.
const MOVED: u64 = 128;
const LOW: u64 = 384;
/// What the guest boots with and may have at most, in MiB: it grows out of its boot balloon once.
pub const BOUNDS: (u32, u32, u32) = (LOW as u32, 128, (LOW + MOVED) as u32);

const GUEST: u8 = 1;

/// Per 4 KiB page, by the order of the runs; what comes back is scrubbed within the calls. The first round is
/// discarded.
pub fn measure(console: &mut Console) -> Result<Figures> {
    console.patience(300).expect_up(GUEST)?;
    console.wait_for_status("the driver to register", |s| s.has_driver(GUEST))?;
    // The test guest's module reads every page that comes back.
    console.shell(
        GUEST,
        "echo N >/sys/module/ballast_balloon/parameters/verify",
    )?;
    let mut figures = Figures::new();
    let first = moved(console, LOW + MOVED)?;
    figures.insert("linux_first_growth_2m".into(), first);
    moved(console, LOW)?;
    moved(console, LOW + MOVED)?;
    for (order, name) in [(9, "2m"), (4, "64k"), (0, "4k")] {
        let parameter = "/sys/module/ballast_balloon/parameters/largest_order";
        console.shell(GUEST, &format!("echo {order} >{parameter}"))?;
        let down = moved(console, LOW)?;
        let up = moved(console, LOW + MOVED)?;
        figures.insert(format!("linux_down_{name}"), down);
        figures.insert(format!("linux_up_{name}"), up);
    }
    Ok(figures)
}

/// Moves memory until the guest has `mib`; what a page of it took, in nanoseconds, which are instructions.
fn moved(console: &mut Console, mib: u64) -> Result<u64> {
    let before = thread_time(console)?;
    console.monitor(&format!("mem {GUEST} {mib}"))?;
    console.wait_for_status(&format!("the guest to have {mib} MiB"), |s| {
        s.memory_mib(GUEST) == mib && s.settled(GUEST)
    })?;
    Ok((thread_time(console)? - before) / (MOVED << 8))
}

/// How long the balloon's thread has run so far, in nanoseconds.
fn thread_time(console: &mut Console) -> Result<u64> {
    let said = console.shell(
        GUEST,
        "cat $(grep -lx ballast-balloon /proc/[0-9]*/comm | sed 's/comm/schedstat/')",
    )?;
    let first = said.split_whitespace().next();
    first
        .and_then(|word| word.parse().ok())
        .with_context(|| format!("no processor time of the balloon's thread in {said:?}"))
}
