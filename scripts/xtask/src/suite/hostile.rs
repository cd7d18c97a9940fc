//! Guests that try what they must not: calls, lists, races, the memory map, registers, PSCI. Each
//! attack runs beside a victim that checks its own memory the whole time.

use super::{Guest, Scenario};

/// What the bare-metal guest can try (`guest-balloon/bare-metal/src/tests/hostile`).
const ATTACKS: [&str; 23] = [
    "fault",
    "epoch",
    "hostile-h1",
    "hostile-h2",
    "hostile-h3",
    "hostile-h5",
    "hostile-h6",
    "hostile-h7",
    "hostile-h8",
    "hostile-h9",
    "hostile-h10",
    "hostile-h11",
    "hostile-h13",
    "hostile-m1",
    "hostile-m2",
    "hostile-m3",
    "hostile-m5",
    "hostile-p1",
    "hostile-p2",
    "hostile-p3",
    "hostile-p6",
    "hostile-g1",
    "hostile-s1",
];

/// Every attack, on both interrupt controllers.
pub fn scenarios() -> Vec<Scenario> {
    [2, 3]
        .into_iter()
        .flat_map(|gic| ATTACKS.map(|attack| beside_a_victim(attack, gic)))
        .collect()
}

/// The attacker gets through its own test, the victim finds its memory as it left it, and Ballast
/// turns the board off when both have ended.
fn beside_a_victim(attack: &'static str, gic: u8) -> Scenario {
    let attacker = Guest::bare_metal("attacker", attack)
        .memory(64)
        .memory_bounds(32, 128)
        .cpus(3);
    let victim = Guest::bare_metal("victim", "counter").args("seconds=2");
    Scenario::new(format!("{attack}-gic{gic}"), gic, move |console| {
        console.patience(120);
        let said = console.expect("every guest is off")?;
        for needed in [
            format!("[attacker] PASS {attack}"),
            "[victim] PASS counter".to_owned(),
        ] {
            anyhow::ensure!(said.contains(&needed), "no \"{needed}\" in:\n{said}");
        }
        Ok(())
    })
    .cores(4)
    .ram(512)
    .guest(attacker)
    .guest(victim)
}
