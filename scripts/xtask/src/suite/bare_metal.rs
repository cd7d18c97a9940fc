//! The bare-metal guest's own tests, on every shape of board.

use anyhow::ensure;

use super::{Guest, Scenario};

/// Boot, cores, interrupts and timers as a guest sees them.
pub fn scenarios() -> Vec<Scenario> {
    let mut all = Vec::new();
    for gic in [2, 3] {
        for test in ["hello", "timer"] {
            all.push(passes(test, gic, 1));
        }
        for cores in [2, 4, 8] {
            all.push(passes("smp", gic, cores));
        }
        all.push(passes("ipi", gic, 2));
        all.push(passes("hostile-h15", gic, 4));
        all.push(hardened(gic));
        all.push(watchdog(gic));
    }
    all.push(watchdog_of_the_board());
    all
}

/// A guest that does not feed its watchdog begins anew, alone; one that feeds it does not.
fn watchdog(gic: u8) -> Scenario {
    Scenario::new(format!("bare-metal-watchdog-gic{gic}"), gic, |console| {
        let said = console.expect("[starved] no longer fed")?;
        ensure!(said.contains("[starved] fed"), "{said}");
        console.expect("starved: its watchdog has expired")?;
        console.expect("starved: reset")?;
        console.expect("[starved] no longer fed")?;
        console.expect("starved: reset")?;
        for word in ["reset", "its watchdog"] {
            console.expect_never(&format!("fed: {word}"))?;
        }
        console.expect_never("[starved] FAIL")?;
        let status = console.status()?;
        ensure!(status.guest(2).get("state") == "off", "{status:?}");
        console.expect_never("[fed] FAIL")
    })
    .cores(2)
    .ram(512)
    .guest(
        Guest::bare_metal("starved", "watchdog")
            .args("starve=1")
            .property("watchdog"),
    )
    .guest(Guest::bare_metal("fed", "watchdog").property("watchdog"))
}

/// Where the guest's reset is everybody's, so is the end of its watchdog.
fn watchdog_of_the_board() -> Scenario {
    Scenario::new("bare-metal-watchdog-board", 3, |console| {
        console.expect("starved: its watchdog has expired")?;
        console.expect("on-reset: the board is reset")?;
        // QEMU was told to end instead.
        console.expect_power_off()
    })
    .cores(2)
    .ram(512)
    .guest(
        Guest::bare_metal("starved", "watchdog")
            .args("starve=1")
            .property("watchdog")
            .property("on-reset = \"board\""),
    )
    .guest(Guest::bare_metal("other", "counter").args("seconds=1000"))
}

/// A guest with all of the board's cores says that it passed the test and powers off, and so does the board.
fn passes(test: &'static str, gic: u8, cores: u8) -> Scenario {
    Scenario::new(
        format!("bare-metal-{test}-gic{gic}-{cores}cpu"),
        gic,
        move |console| {
            console.expect(&format!("PASS {test}"))?;
            console.expect_power_off()
        },
    )
    .cores(cores)
    .ram(512)
    .guest(Guest::bare_metal("guest", test).cpus(cores))
}

/// Every kind of exit of a guest with `harden` comes back with the registers it had.
fn hardened(gic: u8) -> Scenario {
    Scenario::new(format!("bare-metal-hardened-gic{gic}"), gic, |console| {
        console.expect("PASS smp")?;
        console.expect_power_off()
    })
    .cores(4)
    .ram(512)
    .guest(Guest::bare_metal("guest", "smp").cpus(4).property("harden"))
}
