//! Cores that move between running guests.

use anyhow::{Result, ensure};

use super::{Guest, Scenario};
use crate::console::Console;

/// By hand, without a driver; what a core leaves behind; guests that take what they are not given.
pub fn scenarios() -> Vec<Scenario> {
    let both = |scenario: fn(u8) -> Scenario| [2, 3].map(scenario);
    [both(by_hand), both(hand_over), both(storm)]
        .into_iter()
        .flatten()
        .collect()
}

/// One Linux guest takes a CPU offline as its operator would, and another, whose CPU was refused until then, brings it
/// online; and back. A reset keeps what was moved.
fn by_hand(gic: u8) -> Scenario {
    let guest = |name: &str, cpus: u8| {
        Guest::linux(name)
            .args("noballoon")
            .memory(192)
            .cpus(cpus)
            .cpu_bounds(1, 2)
    };
    Scenario::new(format!("cores-by-hand-gic{gic}"), gic, move |console| {
        console.patience(180);
        for guest in [1, 2] {
            console.expect_up(guest)?;
        }
        console.patience(60);
        ensure!(online(console, 1)? == "0-1" && online(console, 2)? == "0");
        ensure!(turn(console, 2, true)? != 0, "a core that was not granted");
        ensure!(
            console
                .monitor("cpus linux-a 3")?
                .contains("above the guest's cpus-max=2")
        );
        ensure!(
            console
                .monitor("cpus linux-a 0")?
                .contains("below the guest's cpus-min=1")
        );
        for round in 0..2 {
            let (from, to) = if round == 0 { (1, 2) } else { (2, 1) };
            console.monitor(&format!("cpus {to} 2"))?;
            ensure!(
                turn(console, to, true)? != 0,
                "the other guest still has it"
            );
            console.monitor(&format!("cpus {from} 1"))?;
            ensure!(turn(console, from, false)? == 0);
            console.wait_for_status("the core to move", |s| {
                s.guest(from).get("cpus") == "1/1" && s.guest(to).get("cpus") == "1/2"
            })?;
            ensure!(turn(console, from, true)? != 0, "it is the other's now");
            ensure!(turn(console, to, true)? == 0);
            ensure!(online(console, to)? == "0-1" && online(console, from)? == "0");
            interrupts_arrive(console, to)?;
            interrupts_arrive(console, from)?;
        }
        console.monitor("cpus 1 1")?;
        turn(console, 1, false)?;
        console.monitor("reset 1")?;
        console.expect_up(1)?;
        ensure!(online(console, 1)? == "0", "a reset changes no target");
        let log = console.monitor("log")?;
        ensure!(
            log.contains("event=core-taken guest=2 name=linux-b"),
            "{log}"
        );
        ensure!(
            log.contains("event=core-granted guest=2 name=linux-b"),
            "{log}"
        );
        console.send("poweroff -f\r")
    })
    .cores(3)
    .ram(1024)
    .guest(guest("linux-a", 2))
    .guest(guest("linux-b", 1))
}

/// A core goes back and forth between two guests, each of which leaves it as dirty as it can and finds it clean, with
/// its interrupts working.
fn hand_over(gic: u8) -> Scenario {
    let guest = |name: &str, cpus: u8, args: &str| {
        Guest::bare_metal(name, "hand-over")
            .args(args)
            .cpus(cpus)
            .cpu_bounds(1, 2)
    };
    Scenario::new(format!("cores-hand-over-gic{gic}"), gic, |console| {
        console.patience(60);
        for (from, to) in [(1, 2), (2, 1), (1, 2), (2, 1)] {
            console.wait_for_status("the core to be in use", |s| {
                s.guest(from).get("cpus") == "2/2"
            })?;
            console.monitor(&format!("cpus {to} 2"))?;
            console.monitor(&format!("cpus {from} 1"))?;
        }
        console.send("\x1da")?;
        let said = console.expect("every guest is off")?;
        for guest in ["one", "two"] {
            ensure!(
                said.contains(&format!("[{guest}] PASS hand-over")),
                "{said}"
            );
        }
        Ok(())
    })
    .cores(3)
    .ram(512)
    .guest(guest("one", 2, "checks=3 last=1"))
    .guest(guest("two", 1, "checks=2"))
}

/// Two guests turn all their CPUs on all the time, granted or not, while their targets change: no core is lost, none
/// has two owners, and the third guest does not notice.
fn storm(gic: u8) -> Scenario {
    let guest = |name: &str| {
        Guest::bare_metal(name, "storm")
            .args("seconds=8")
            .cpus(2)
            .cpu_bounds(1, 4)
    };
    Scenario::new(format!("cores-storm-gic{gic}"), gic, |console| {
        console.patience(60);
        for round in 0..30 {
            let (guest, cpus) = (1 + round % 2, 1 + round * 7 % 4);
            console.monitor(&format!("cpus {guest} {cpus}"))?;
            let status = console.status()?;
            let (mut cores, mut count) = (std::collections::BTreeSet::new(), 0);
            for (_, line) in status.guests() {
                let held: Vec<_> = line.get("cores").split(',').map(str::to_owned).collect();
                count += held.len();
                cores.extend(held);
            }
            ensure!(count == cores.len() && count <= 6, "{status}");
        }
        console.send("\x1da")?;
        let said = console.expect("every guest is off")?;
        for done in [
            "[one] PASS storm",
            "[two] PASS storm",
            "[victim] PASS counter",
        ] {
            ensure!(said.contains(done), "no \"{done}\" in:\n{said}");
        }
        Ok(())
    })
    .cores(6)
    .ram(512)
    .guest(guest("one"))
    .guest(guest("two"))
    .guest(Guest::bare_metal("victim", "counter").args("seconds=8"))
}

/// The CPUs that Linux runs on.
fn online(console: &mut Console, guest: u8) -> Result<String> {
    let said = console.shell(guest, "cat /sys/devices/system/cpu/online")?;
    Ok(said.trim().to_owned())
}

/// Takes Linux's CPU 1 online or offline by hand: the command's exit status.
fn turn(console: &mut Console, guest: u8, on: bool) -> Result<i32> {
    let value = u8::from(on);
    let command = format!("echo {value} > /sys/devices/system/cpu/cpu1/online");
    Ok(console.shell_status(guest, &command)?.0)
}

/// Every CPU of the guest has timer interrupts and IPIs: work on each sleeps and wakes.
fn interrupts_arrive(console: &mut Console, guest: u8) -> Result<()> {
    console.shell(
        guest,
        "for c in $(seq 0 $(($(nproc) - 1))); do taskset $((1 << c)) sleep 0.1 || break; done",
    )?;
    Ok(())
}
