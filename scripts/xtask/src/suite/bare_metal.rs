//! The bare-metal guest's own tests, on every shape of board.

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
    }
    all
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
