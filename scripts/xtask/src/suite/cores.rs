//! Cores that move between running guests.

use anyhow::{Result, ensure};

use super::{Guest, Scenario};
use crate::console::Console;

/// By hand, without a driver.
pub fn scenarios() -> Vec<Scenario> {
    [2, 3].map(by_hand).into()
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
