//! The Raspberry Pi 4, on QEMU's: the same image as on every other board, its own interrupt controller, cores from
//! a spin table, and its UARTs.

use anyhow::ensure;

use super::{Guest, Scenario};
use crate::rpi4::tree::{Node, Tree};

/// What the bare-metal guest tries beside a victim: calls, lists, races, memory map, registers, PSCI, reset.
const ATTACKS: [&str; 11] = [
    "fault",
    "epoch",
    "hostile-h7",
    "hostile-h9",
    "hostile-m1",
    "hostile-p3",
    "hostile-g1",
    "hostile-s1",
    "hostile-system",
    "hostile-state",
    "hostile-interrupts",
];

/// Boot on all cores, consoles, memory, attacks, Linux.
pub fn scenarios() -> Vec<Scenario> {
    let mut all: Vec<Scenario> = [("hello", 1), ("smp", 4), ("timer", 2), ("ipi", 2)]
        .map(|(test, cpus)| passes(test, cpus))
        .into();
    all.push(passes("hostile-h15", 4));
    all.push(mini_uart());
    all.push(unreadable_tree());
    all.push(power_is_not_given());
    all.push(memory_moves());
    all.extend(ATTACKS.map(beside_a_victim));
    all.push(linux());
    all
}

/// A guest says that it passed the test and powers off, and so does the board, through its PM block.
fn passes(test: &'static str, cpus: u8) -> Scenario {
    Scenario::rpi4(format!("rpi4-{test}-{cpus}cpu"), move |console| {
        console.expect("Raspberry Pi 4 Model B: 4 cores, GICv2, 1984 MiB RAM")?;
        console.expect(&format!("PASS {test}"))?;
        console.expect_power_off()
    })
    .guest(Guest::bare_metal("guest", test).cpus(cpus))
}

/// As stock firmware leaves it.
pub fn console_on_mini_uart(tree: &mut Tree) {
    tree.root
        .child("chosen")
        .set_string("stdout-path", "serial1:115200n8");
}

/// The console is the mini-UART, as with stock firmware: what is typed arrives, too.
fn mini_uart() -> Scenario {
    Scenario::rpi4("rpi4-mini-uart", |console| {
        console.expect("[ballast] Ballast ")?;
        console.wait_for_status("the driver", |s| s.has_driver(1))?;
        console.monitor("mem 1 32")?;
        console.wait_for_status("guest 1 to have 32 MiB", |s| {
            s.memory_mib(1) == 32 && s.settled(1)
        })?;
        Ok(())
    })
    .tree(1, console_on_mini_uart)
    .guest(Guest::bare_metal("guest", "balloon").memory_bounds(16, 64))
}

/// A tree that Ballast cannot read is complained of all the same.
fn unreadable_tree() -> Scenario {
    fn nest(tree: &mut Tree) {
        let mut node: &mut Node = &mut tree.root;
        for _ in 0..40 {
            node = node.child("deep");
        }
    }
    Scenario::rpi4("rpi4-unreadable-tree", |console| {
        console.expect("[ballast] Ballast ")?;
        console.expect("refused: device tree: is nested deeper than 32 levels")?;
        console.expect("no guest was started")?;
        Ok(())
    })
    .tree(1, nest)
    .refused("nested deeper")
    .guest(Guest::bare_metal("guest", "hello"))
}

/// What turns the whole board off is no guest's.
fn power_is_not_given() -> Scenario {
    const WORDS: &str = "resets the board and turns it off, which is Ballast's";
    let guest = Guest::bare_metal("guest", "hello")
        .property("devices = \"/soc/watchdog@7e100000\"")
        .property("dma = \"trusted\"")
        .property("board = \"trusted\"");
    Scenario::rpi4("rpi4-board-power-refused", |console| {
        console.expect(WORDS)?;
        console.expect_power_off()
    })
    .refused(WORDS)
    .guest(guest)
}

/// Two bare-metal guests give each other memory; each verifies what it keeps and that what it gets reads zero.
fn memory_moves() -> Scenario {
    Scenario::rpi4("rpi4-memory-bare-metal", |console| {
        console.patience(120);
        console.wait_for_status("both drivers", |s| [1, 2].iter().all(|&g| s.has_driver(g)))?;
        for (guest, mib) in [(1, 32), (2, 96), (2, 33), (1, 127), (1, 64), (2, 64)] {
            console.monitor(&format!("mem {guest} {mib}"))?;
            let what = format!("guest {guest} to have {mib} MiB");
            console.wait_for_status(&what, |s| s.memory_mib(guest) == mib && s.settled(guest))?;
        }
        console.expect_never("FAIL")
    })
    .guest(Guest::bare_metal("a", "balloon").memory_bounds(16, 128))
    .guest(Guest::bare_metal("b", "balloon").memory_bounds(16, 128))
}

/// The attacker gets through its own test, the victim finds its memory as it left it.
fn beside_a_victim(attack: &'static str) -> Scenario {
    let attacker = Guest::bare_metal("attacker", attack)
        .memory(64)
        .memory_bounds(32, 128)
        .cpus(3)
        .args("tidcp=yes");
    let victim = Guest::bare_metal("victim", "counter").args("seconds=2");
    Scenario::rpi4(format!("rpi4-{attack}"), move |console| {
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
    .guest(attacker)
    .guest(victim)
}

/// Linux on three cores takes CPUs off and on, which no stock firmware of this board can; a neighbour of its own is
/// reset meanwhile.
fn linux() -> Scenario {
    Scenario::rpi4("rpi4-linux-cpus-off-and-on", |console| {
        console.patience(240).expect_up(1)?;
        for _ in 0..3 {
            let script =
                "for c in 1 2; do echo 0 > /sys/devices/system/cpu/cpu$c/online; done; nproc";
            let alone = console.shell(1, script)?;
            ensure!(alone.trim() == "1", "{alone:?} CPUs are left of one");
            console.monitor("reset 2")?;
            let script =
                "for c in 1 2; do echo 1 > /sys/devices/system/cpu/cpu$c/online; done; nproc";
            let all = console.shell(1, script)?;
            ensure!(all.trim() == "3", "{all:?} CPUs came back of three");
        }
        console.shell(1, "md5sum /bin/busybox")?;
        console.focus(1)?;
        console.send("poweroff\r")?;
        Ok(())
    })
    .guest(Guest::linux("linux").memory(512).cpus(3))
    .guest(Guest::bare_metal("neighbour", "balloon").memory_bounds(16, 64))
}
