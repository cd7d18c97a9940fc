//! Guests that try what they must not: calls, lists, races, the memory map, registers, PSCI. Each
//! attack runs beside a victim that checks its own memory the whole time.

use anyhow::{Result, ensure};

use super::{Guest, Scenario};
use crate::console::Console;

/// What the bare-metal guest can try (`guest-balloon/bare-metal/src/tests/hostile`).
const ATTACKS: [&str; 28] = [
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
    "hostile-system",
    "hostile-state",
    "hostile-interrupts",
    "hostile-memory",
    "hostile-m7",
];

/// QEMU virt's PL031 clock, and its interrupt.
const CLOCK: u32 = 0x901_0000;
const CLOCK_INTID: u32 = 34;

/// The registers of QEMU virt's last virtio device.
const ENTROPY: u32 = 0xa00_3e00;

/// Every attack, on both interrupt controllers.
pub fn scenarios() -> Vec<Scenario> {
    [2, 3]
        .into_iter()
        .flat_map(|gic| {
            let attacks = ATTACKS.map(|attack| beside_a_victim(attack, gic));
            let more = [
                storm(gic),
                forged(gic),
                falling(gic, 5),
                falling(gic, 100).long(),
                interrupted(gic),
                typed(gic),
                left_writing(gic),
                on_every_feature("hostile-system", format!("hostile-s8-gic{gic}"), gic),
                on_every_feature("hostile-s1", format!("hostile-s8-s1-gic{gic}"), gic),
            ];
            attacks.into_iter().chain(more)
        })
        .collect()
}

/// Two vCPUs of the attacker waste time in every way there is; the victim says how late it ever was.
fn storm(gic: u8) -> Scenario {
    Scenario::new(format!("hostile-storm-gic{gic}"), gic, |console| {
        let said = console.expect("every guest is off")?;
        for needed in ["[attacker] PASS hostile-storm", "[victim] PASS latency"] {
            ensure!(said.contains(needed), "no \"{needed}\" in:\n{said}");
        }
        Ok(())
    })
    .cores(3)
    .ram(512)
    .guest(Guest::bare_metal("attacker", "hostile-storm").cpus(2))
    .guest(Guest::bare_metal("victim", "latency").args("seconds=3 bound-ms=1000"))
}

/// What a guest prints is shown as its own, whatever it poses as, and Ballast's own lines get through.
fn forged(gic: u8) -> Scenario {
    const FORGED: &str = "d2: forged by a guest";
    Scenario::new(format!("hostile-d1-gic{gic}"), gic, |console| {
        let said = console.expect("every guest is off")?;
        for needed in ["[attacker] PASS hostile-d1", "[victim] PASS counter"] {
            ensure!(said.contains(needed), "no \"{needed}\" in:\n{said}");
        }
        let shown: Vec<&str> = said.lines().filter(|line| line.contains(FORGED)).collect();
        ensure!(
            shown.len() > 20,
            "of the forged lines {} were shown",
            shown.len()
        );
        for line in shown {
            ensure!(
                line.starts_with("[attacker] "),
                "it poses as another: {line}"
            );
            ensure!(
                !line.trim_end().chars().any(char::is_control),
                "the terminal would obey: {line:?}"
            );
        }
        Ok(())
    })
    .ram(512)
    .guest(Guest::bare_metal("attacker", "hostile-d1"))
    .guest(Guest::bare_metal("victim", "counter").args("seconds=2"))
}

/// A guest that falls from fault to fault for ever hears no call and takes no interrupt: it is stopped and started all
/// the same, `times` over, beside a victim that is not late and with as much free memory as before.
fn falling(gic: u8, times: u32) -> Scenario {
    let name = if times > 10 { "-many" } else { "" };
    Scenario::new(format!("hostile-s11{name}-gic{gic}"), gic, move |console| {
        let mut free = None;
        console.expect("s11: falling")?;
        for _ in 0..times {
            console.monitor("stop attacker")?;
            let status = console.wait_for_status("the attacker to be stopped", |status| {
                status.guest(1).get("state") == "stopped"
            })?;
            let kib = status.total_kib();
            let first = *free.get_or_insert(kib);
            ensure!(
                kib == first,
                "{kib} KiB in all, {first} KiB after the first stop"
            );
            console.monitor("start attacker")?;
            console.wait_for_status("the attacker to run", |status| {
                status.guest(1).get("state") == "running"
            })?;
        }
        console.focus(1)?;
        console.expect("s11: falling")?;
        console.focus(2)?;
        console.expect("PASS latency")?;
        Ok(())
    })
    .ram(512)
    .guest(Guest::bare_metal("attacker", "hostile-s11"))
    .guest(Guest::bare_metal("victim", "latency").args(if times > 10 {
        "seconds=60 bound-ms=1000"
    } else {
        "seconds=3 bound-ms=1000"
    }))
}

/// One guest does not read what is typed for it, and another's receiver is masked, cleared and set up anew by its second
/// vCPU all the while; neither that one nor the victim loses a byte of its own.
fn typed(gic: u8) -> Scenario {
    const BURST: usize = 61;
    const BURSTS: usize = 20;
    let listens = |name| {
        let bytes = BURST * BURSTS;
        Guest::bare_metal(name, "hostile-d3").args(&format!("bytes={bytes} burst={BURST}"))
    };
    Scenario::new(format!("hostile-d3-gic{gic}"), gic, |console| {
        let alphabet: String = ('a'..='z').cycle().take(BURST * BURSTS).collect();
        for guest in [2, 3] {
            console.focus(guest)?;
            console.expect("d3: listening")?;
        }
        console.focus(1)?;
        console.send(&"deaf".repeat(1500))?;
        console.expect("does not read its input; what is typed now is lost")?;
        for burst in 0..BURSTS {
            for guest in [1, 2, 3] {
                console.focus(guest)?;
                console.send(&alphabet[burst * BURST..][..BURST])?;
                if guest != 1 {
                    console.expect(&format!("d3: {} bytes.", (burst + 1) * BURST))?;
                }
                if guest != 1 && burst + 1 == BURSTS {
                    console.expect("PASS hostile-d3")?;
                }
            }
        }
        console.expect_never("FAIL")
    })
    .cores(4)
    .ram(512)
    .guest(Guest::bare_metal("deaf", "counter").args("seconds=10000"))
    .guest(listens("attacker").cpus(2))
    .guest(listens("victim"))
}

/// A device writes memory when its guest's life ends: it is made to stop before the next begins. One that cannot be
/// made to keeps its guest from starting, and that guest's memory from everybody.
fn left_writing(gic: u8) -> Scenario {
    Scenario::new(format!("hostile-d6-gic{gic}"), gic, |console| {
        console.expect("loud: stays stopped and keeps its memory: ")?;
        console.expect("d6: going")?;
        console.monitor("stop attacker")?;
        attacker_is(console, "stopped")?;
        let answer = console.monitor("start loud")?;
        ensure!(answer.contains("a device of the guest"), "{answer}");
        let status = console.status()?;
        ensure!(
            status.guest(2).get("state") == "quarantined" && status.memory_mib(2) == 64,
            "{status}"
        );
        console.monitor("start attacker")?;
        console.focus(1)?;
        console.expect("PASS hostile-d6")?;
        still_counts(console, 3)
    })
    .cores(3)
    .ram(512)
    .device("virtio-rng-device,max-bytes=16,period=100,bus=virtio-mmio-bus.31")
    .nodes(
        "    silent@9048000 {
        compatible = \"virtio,mmio\"; reg = <0 0x9048000 0 0x200>; interrupts = <0 90 1>;
    };
",
    )
    .guest(
        Guest::bare_metal("attacker", "hostile-d6")
            .args(&format!("base={ENTROPY}"))
            .property("dma = \"trusted\"")
            .property("devices = \"/virtio_mmio@a003e00\""),
    )
    .guest(
        Guest::bare_metal("loud", "hello")
            .property("dma = \"trusted\"")
            .property("devices = \"/silent@9048000\""),
    )
    .guest(endless_victim())
}

/// On a core with every extension that the emulator has: what Ballast hides is not there.
fn on_every_feature(attack: &'static str, name: String, gic: u8) -> Scenario {
    beside_a_victim(attack, gic).cpu("max").named(name)
}

/// The clock's interrupt is left in every state there is when a life of the attacker ends, and the next has it as new. Two
/// of the lives end otherwise than by a reset: the operator begins the next.
fn interrupted(gic: u8) -> Scenario {
    Scenario::new(format!("hostile-g9-gic{gic}"), gic, |console| {
        for (said, state) in [("g9: off", "off"), ("g9: hangs", "stopped")] {
            console.expect(said)?;
            if state == "stopped" {
                console.monitor("stop attacker")?;
            }
            attacker_is(console, state)?;
            console.monitor("start attacker")?;
            console.focus(1)?;
        }
        console.expect("PASS hostile-g9")?;
        still_counts(console, 2)
    })
    .cores(3)
    .ram(512)
    .guest(
        Guest::bare_metal("attacker", "hostile-g9")
            .cpus(2)
            .args(&format!("base={CLOCK} intid={CLOCK_INTID}"))
            .property("devices = \"/pl031@9010000\""),
    )
    .guest(endless_victim())
}

/// The first guest is down, in this way.
fn attacker_is(console: &mut Console, state: &str) -> Result<()> {
    let what = format!("the attacker to be {state}");
    console.wait_for_status(&what, |status| status.guest(1).get("state") == state)?;
    Ok(())
}

/// It counts and verifies for as long as the board is on, so that the board stays on.
fn endless_victim() -> Guest {
    Guest::bare_metal("victim", "counter").args("seconds=1000000")
}

/// The victim has found its memory as it left it to this moment, and no guest has failed.
fn still_counts(console: &mut Console, guest: u8) -> Result<()> {
    console.focus(guest)?;
    // What is shown first may be of before.
    for _ in 0..2 {
        console.expect("counter second=")?;
    }
    console.expect_never("FAIL")
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
            ensure!(said.contains(&needed), "no \"{needed}\" in:\n{said}");
        }
        Ok(())
    })
    .cores(4)
    .ram(512)
    .guest(attacker)
    .guest(victim)
}
