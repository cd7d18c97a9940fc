//! What it costs the holder of frames to move out of them, and how long it is held up at most.

use anyhow::{Context, Result, ensure};

use super::Figures;
use crate::console::Console;
use crate::suite::Guest;

/// The guest with DMA, and the one that gets what the first gives away.
const OWNER: u8 = 1;
const HOLDER: u8 = 2;
/// What the holder has to give up again, in MiB.
const LENT: u32 = 32;

/// Of a board with 128 MiB: the holder has all that nobody claims, and 32 MiB of what the owner claims.
pub fn guests() -> [Guest; 2] {
    [
        Guest::bare_metal("owner", "balloon")
            .args("contents=off")
            .memory_bounds(16, 64)
            .property("dma = \"trusted\""),
        Guest::bare_metal("holder", "balloon")
            .args("contents=off")
            .memory(32)
            .memory_bounds(16, 96),
    ]
}

/// One core moves while the other guest's sleeps: nothing else counts as its time.
pub fn measure(console: &mut Console) -> Result<Figures> {
    console.wait_for_status("both drivers", |s| {
        [OWNER, HOLDER].iter().all(|&guest| s.has_driver(guest))
    })?;
    for (guest, mib) in [(OWNER, 16), (HOLDER, 48 + LENT), (HOLDER, 48)] {
        console.monitor(&format!("mem {guest} {mib}"))?;
        console.wait_for_status(&format!("guest {guest} to have {mib} MiB"), |s| {
            s.memory_mib(guest) == u64::from(mib) && s.settled(guest)
        })?;
    }
    let before = stats(console)?;
    console.monitor(&format!("mem {OWNER} 64"))?;
    console.focus(OWNER)?;
    // Nobody types while it moves.
    console.expect("balloon settled reserved=0 target=0")?;
    let after = stats(console)?;
    let pages = after.pages - before.pages;
    ensure!(pages >= 512, "only {pages} pages had to move");
    Ok(Figures::from([
        (
            "relocation_per_page".to_owned(),
            (after.ns - before.ns) / pages,
        ),
        (
            "relocation_pause".to_owned(),
            (after.pause_ns - before.pause_ns) / (after.pauses - before.pauses).max(1),
        ),
    ]))
}

/// What the monitor says of the holder.
struct Stats {
    pages: u64,
    ns: u64,
    pauses: u64,
    pause_ns: u64,
}

fn stats(console: &mut Console) -> Result<Stats> {
    let said = console.monitor(&format!("stats {HOLDER}"))?;
    let value = |key: &str| {
        let mut words = said.split_whitespace();
        let word = words.find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
        word.and_then(|value| value.parse().ok())
            .with_context(|| format!("no {key} in:\n{said}"))
    };
    Ok(Stats {
        pages: value("relocated-pages")?,
        ns: value("relocation-ns")?,
        pauses: value("pauses")?,
        pause_ns: value("pause-ns")?,
    })
}
