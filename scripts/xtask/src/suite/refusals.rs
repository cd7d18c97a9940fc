//! Partitions that must be refused, at boot and by the host's check, in the same words.

use super::{Guest, Scenario};

/// One mistake each.
pub fn scenarios() -> Vec<Scenario> {
    let guest = || Guest::bare_metal("guest", "hello");
    vec![
        refused("memory", guest().memory(4096), "memory-mib"),
        refused("cores", guest().cpus(8), "cpus"),
        refused(
            "bounds",
            guest().memory(64).memory_bounds(128, 96),
            "memory-m",
        ),
        refused(
            "unknown-property",
            guest().property("colour = \"blue\""),
            "colour",
        ),
        refused(
            "missing-image",
            guest().property("ramdisk = \"nowhere\""),
            "nowhere",
        ),
        refused("zero-memory", guest().memory(0), "memory-mib"),
        refused("duplicate-number", guest(), "reg")
            .guest(Guest::bare_metal("twin", "hello").number(1)),
    ]
}

fn refused(name: &str, guest: Guest, word: &'static str) -> Scenario {
    Scenario::new(format!("refuses-{name}"), 3, |console| {
        console.expect("[ballast] refused: /ballast")?;
        console.expect("no guest was started")?;
        console.expect_power_off()?;
        console.expect_never("PASS")
    })
    .ram(512)
    .guest(guest)
    .refused(word)
}
