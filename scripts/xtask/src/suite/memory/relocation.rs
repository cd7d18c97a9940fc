//! Pages that make way: a guest gets back frames that another holds by now, whose pages have to move first.
//!
//! Apart from the moves in which any frame will do, since a test here shows something only if pages had to move, and
//! counts them.

use anyhow::{Result, bail, ensure};
use ballast_workload::Checksum;

use super::{counter, guest_is_up, is_merged, only_zeroes_came, same_total};
use crate::console::Console;
use crate::suite::{Guest, Scenario};

/// A primary guest gives memory to another and gets its own frames back, while both use what they have, on all their
/// cores.
pub(super) fn linux_comes_home(gic: u8, rounds: u32) -> Scenario {
    Scenario::new(format!("memory-comes-home-linux-gic{gic}"), gic, move |console| {
        const LOAD_MIB: usize = 48;
        for guest in [1, 2] {
            guest_is_up(console, guest)?;
        }
        let before = console.status()?;
        // Each turn writes and reads back all it has.
        let load = format!(
            "touch /tmp/go; (while [ -e /tmp/go ]; do workload {LOAD_MIB} 20000 7; done > /tmp/load) & true"
        );
        for guest in [1, 2] {
            console.shell(guest, &load)?;
        }
        // A third guest takes what nobody claims, so that the second gets what the first gives; then there is room to
        // move to, and the first wants it back.
        let moves: [&[(u8, u64)]; 3] = [
            &[(2, 272), (3, 56)],
            &[(1, 344), (2, 304)],
            &[(3, 16), (1, 384)],
        ];
        for round in 0..rounds {
            for targets in moves {
                for (guest, mib) in targets {
                    let answer = console.monitor(&format!("mem {guest} {mib}"))?;
                    ensure!(!answer.contains("error: guest"), "mem {guest} {mib}: {answer}");
                }
                console.wait_for_status(&format!("round {round}: {targets:?}"), |s| {
                    let has = |&(guest, mib): &(u8, u64)| s.memory_mib(guest) == mib && s.settled(guest);
                    targets.iter().all(has)
                })?;
            }
        }
        let expected = Checksum::expected(LOAD_MIB, 7).to_string();
        for guest in [1, 2] {
            let count = format!(
                "rm /tmp/go; wait; grep checksum /tmp/load > /tmp/sums; echo $(grep -c . /tmp/sums) $(grep -vc {expected} /tmp/sums)"
            );
            let said = console.shell(guest, &count)?;
            let mut turns = said.split_whitespace().map(str::parse::<u32>);
            let (Some(Ok(all)), Some(Ok(bad))) = (turns.next(), turns.next()) else {
                bail!("guest {guest} counts its turns as {said:?}");
            };
            ensure!(
                all > 0 && bad == 0,
                "guest {guest}: {bad} of {all} turns under load read back something else"
            );
            only_zeroes_came(console, guest)?;
        }
        let moved = relocated_pages(console, 2)?;
        ensure!(
            moved >= u64::from(rounds) * 512,
            "{moved} pages in {rounds} rounds had to move: the test shows nothing"
        );
        same_total(&before, console)
    })
    .cores(4)
    .ram(768)
    .guest(
        Guest::linux("own")
            .memory(384)
            .memory_bounds(128, 384)
            .primary(),
    )
    .guest(
        Guest::linux("other")
            .memory(304)
            .memory_bounds(128, 512)
            .cpus(2),
    )
    .guest(Guest::bare_metal("third", "balloon").memory(16).memory_bounds(16, 96))
}

/// The same between two bare-metal guests, which verify each page: the pattern of what they keep when they give it, and
/// zeroes when they get it.
pub(super) fn comes_home(gic: u8, rounds: u32) -> Scenario {
    Scenario::new(format!("memory-comes-home-gic{gic}"), gic, move |console| {
        console.patience(120);
        console.wait_for_status("both drivers", |s| [1, 2].iter().all(|&g| s.has_driver(g)))?;
        let before = console.status()?;
        for round in 0..rounds {
            // The other gets more than nobody claims; then it has to make way.
            for (guest, mib) in [(1, 16), (2, 80), (2, 48), (1, 64)] {
                console.monitor(&format!("mem {guest} {mib}"))?;
                let what = format!("round {round}: guest {guest} to have {mib} MiB");
                console
                    .wait_for_status(&what, |s| s.memory_mib(guest) == mib && s.settled(guest))?;
            }
        }
        let moved = relocated_pages(console, 2)?;
        ensure!(
            moved >= u64::from(rounds) * 16,
            "{moved} pages in {rounds} rounds had to move: the test shows nothing"
        );
        same_total(&before, console)?;
        console.expect_never("FAIL")
    })
    .cores(2)
    .ram(128)
    .guest(
        Guest::bare_metal("own", "balloon")
            .memory_bounds(16, 64)
            .property("dma = \"trusted\""),
    )
    .guest(
        Guest::bare_metal("other", "balloon")
            .memory(32)
            .memory_bounds(16, 96),
    )
}

/// Two guests give every other page, and get others back: what is complete again is gathered into blocks, for which the
/// other's pages make way; both verify all they have.
pub(super) fn gathers(gic: u8) -> Scenario {
    Scenario::new(format!("memory-gathers-gic{gic}"), gic, |console| {
        console.patience(120);
        console.wait_for_status("both drivers", |s| [1, 2].iter().all(|&g| s.has_driver(g)))?;
        for round in 0..3 {
            for (guest, mib) in [(1, 32), (2, 90), (2, 64), (1, 64)] {
                console.monitor(&format!("mem {guest} {mib}"))?;
                let what = format!("round {round}: guest {guest} to have {mib} MiB");
                console
                    .wait_for_status(&what, |s| s.memory_mib(guest) == mib && s.settled(guest))?;
            }
            is_merged(console, 1)?;
        }
        // Of the second some would need a whole free block, which there is not.
        let gathered = is_merged(console, 1)?;
        ensure!(
            gathered != 0,
            "no page came back elsewhere: the test shows nothing"
        );
        let moved = relocated_pages(console, 1)? + relocated_pages(console, 2)?;
        ensure!(moved != 0, "nothing had to move: the test shows nothing");
        // One more turn, in which each looks at all its pages.
        for guest in [1, 2] {
            console.monitor(&format!("mem {guest} 62"))?;
            console.wait_for_status("a last move", |s| {
                s.memory_mib(guest) == 62 && s.settled(guest)
            })?;
        }
        console.expect_never("FAIL")
    })
    .cores(2)
    .ram(142)
    .guest(
        Guest::bare_metal("a", "balloon")
            .args("pages=scattered")
            .memory_bounds(16, 128),
    )
    .guest(
        Guest::bare_metal("b", "balloon")
            .args("pages=scattered")
            .memory_bounds(16, 128),
    )
}

/// Pages of a guest that moved out of another's way.
fn relocated_pages(console: &mut Console, guest: u8) -> Result<u64> {
    let stats = console.monitor(&format!("stats {guest}"))?;
    Ok(counter(&stats, "relocated-pages"))
}
