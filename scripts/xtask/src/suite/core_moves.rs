//! Cores that move between running guests.

use anyhow::{Result, ensure};
use ballast_workload::Checksum;

use super::{Guest, Scenario};
use crate::console::Console;
use crate::status::Status;

/// Between bare-metal guests, and between these and Linux guests.
pub fn scenarios() -> Vec<Scenario> {
    let mut all = Vec::new();
    for gic in [2, 3] {
        all.push(bare_metal(gic));
        all.push(linux(format!("cores-linux-gic{gic}"), gic, 12));
        all.push(linux(format!("cores-linux-200-moves-gic{gic}"), gic, 200).long());
    }
    all
}

/// Sets how many cores a guest shall have.
fn target(console: &mut Console, guest: u8, cpus: u64) -> Result<()> {
    let answer = console.monitor(&format!("cpus {guest} {cpus}"))?;
    ensure!(answer.contains("ok"), "cpus {guest} {cpus}: {answer}");
    Ok(())
}

/// Whether a guest runs as many CPUs as it has cores and shall have.
fn has(status: &Status, guest: u8, cpus: u64) -> bool {
    let line = status.guest(guest);
    line.get("cpus") == format!("{cpus}/{cpus}") && line.number("cpus-target") == cpus
}

fn wait_until_has(console: &mut Console, what: &str, expected: &[(u8, u64)]) -> Result<()> {
    let reached = |s: &Status| expected.iter().all(|(guest, cpus)| has(s, *guest, *cpus));
    console.wait_for_status(&format!("{what}: {expected:?}"), reached)?;
    Ok(())
}

/// One core goes from a guest to another: the one is told to give first, or the other to want first.
fn move_core(console: &mut Console, round: u32, from: (u8, u64), to: (u8, u64)) -> Result<()> {
    let order = if (round / 2).is_multiple_of(2) {
        [from, to]
    } else {
        [to, from]
    };
    for (guest, cpus) in order {
        target(console, guest, cpus)?;
    }
    wait_until_has(console, &format!("move {round}"), &[from, to])
}

/// The monitor refuses what the configuration does not allow, and nothing changes.
fn bounds_hold(console: &mut Console, guest: u8, min: u64, max: u64) -> Result<()> {
    for (cpus, reason) in [
        (min - 1, format!("cpus-min={min}")),
        (max + 1, format!("cpus-max={max}")),
    ] {
        let before = console.status()?;
        let answer = console.monitor(&format!("cpus {guest} {cpus}"))?;
        ensure!(answer.contains(&reason), "cpus {guest} {cpus}: {answer}");
        let target = |s: &Status| s.guest(guest).number("cpus-target");
        ensure!(
            target(&before) == target(&console.status()?),
            "a refusal changed the target"
        );
    }
    Ok(())
}

/// 200 moves of one core while each of the two guests is busy on all of its cores, with a doorbell between them that
/// interrupts the core that leaves, and with all that a core can leave behind left behind.
fn bare_metal(gic: u8) -> Scenario {
    const MOVES: u32 = 200;
    Scenario::new(format!("cores-bare-metal-gic{gic}"), gic, |console| {
        console.patience(120);
        wait_until_has(console, "boot", &[(1, 2), (2, 1)])?;
        for guest in [1, 2] {
            bounds_hold(console, guest, 1, 2)?;
        }
        for round in 0..MOVES {
            let (from, to) = if round.is_multiple_of(2) {
                (1, 2)
            } else {
                (2, 1)
            };
            move_core(console, round, (from, 1), (to, 2))?;
        }
        // The first has brought its second CPU online when it booted.
        for (guest, moves) in [(1, MOVES + 1), (2, MOVES)] {
            still_rings(console, guest, moves)?;
        }
        console.expect_never("FAIL")
    })
    .cores(3)
    .ram(256)
    .shared("bell", 0x1000, [(1, "read-write"), (2, "read-write")])
    .guest(cores_guest("a", 2, "traces=yes"))
    .guest(cores_guest("b", 1, "traces=yes"))
}

/// The doorbell still interrupts after so many moves of a guest's CPUs.
fn still_rings(console: &mut Console, guest: u8, moves: u32) -> Result<()> {
    let line = format!("cores alive moves={moves} rings=+");
    console.focus(guest)?;
    // What the first such line counts may have been before the last move.
    console.expect(&line)?;
    console.expect(&line)?;
    let rings = console.expect("\n")?;
    ensure!(rings.trim() != "0", "guest {guest}: an interrupt was lost");
    Ok(())
}

fn cores_guest(name: &str, cpus: u8, args: &str) -> Guest {
    Guest::bare_metal(name, "cores")
        .args(args)
        .cpus(cpus)
        .cpu_bounds(1, 2)
}

/// Moves among two Linux guests and a bare-metal one, all of them busy.
fn linux(name: String, gic: u8, moves: u32) -> Scenario {
    let guest = |name: &str, cpus| {
        Guest::linux(name)
            .args("cma=0")
            .memory(192)
            .cpus(cpus)
            .cpu_bounds(1, 3)
    };
    Scenario::new(name, gic, move |console| {
        for guest in [1, 2] {
            console.patience(240).expect_up(guest)?;
        }
        console.patience(120);
        wait_until_has(console, "boot", &[(1, 2), (2, 1), (3, 1)])?;
        for guest in [1, 2] {
            let load =
                "(while [ ! -e /tmp/stop ]; do workload 8 100000 7; done >> /tmp/load 2>&1 &)";
            console.shell(guest, &format!("{load}; {load}; {load}"))?;
        }
        // Each move has another pair of guests: Linux to Linux, Linux to bare metal, and back.
        let mut has = [2, 1, 1];
        for round in 0..moves {
            let (from, to) = [(1, 2), (2, 3), (3, 1)][round as usize % 3];
            leaving_cpu_takes_interrupts(console, from)?;
            has[usize::from(from) - 1] -= 1;
            has[usize::from(to) - 1] += 1;
            let share = |guest: u8| (guest, has[usize::from(guest) - 1]);
            move_core(console, round, share(from), share(to))?;
        }
        for guest in [1, 2] {
            is_well(console, guest, has[usize::from(guest) - 1])?;
        }
        let of_rtos = (0..moves).filter(|round| round % 3 != 0).count();
        console.focus(3)?;
        console.expect(&format!("cores alive moves={of_rtos} "))?;
        leaves_and_returns(console)?;
        console.expect_never("FAIL")
    })
    .cores(4)
    .ram(768)
    .guest(guest("linux-a", 2))
    .guest(guest("linux-b", 1))
    .guest(cores_guest("rtos", 1, ""))
}

/// Routes the interrupts of console and balloon to the CPU that goes offline next; nothing to do for bare metal, which
/// does that itself.
fn leaving_cpu_takes_interrupts(console: &mut Console, guest: u8) -> Result<()> {
    if guest > 2 {
        return Ok(());
    }
    console.shell(
        guest,
        "last=$(($(nproc) - 1)); for irq in $(awk -F: '/uart|balloon/ { print $1 }' /proc/interrupts); do \
         echo $last > /proc/irq/$irq/smp_affinity_list; done",
    )?;
    Ok(())
}

/// Every CPU runs jobs and takes timer interrupts, the kernel has nothing to complain of, and the job got its sums right.
fn is_well(console: &mut Console, guest: u8, cpus: u64) -> Result<()> {
    let online = console.shell(guest, "nproc")?;
    ensure!(
        online.trim() == cpus.to_string(),
        "guest {guest} has {online} CPUs, not {cpus}"
    );
    console.shell(
        guest,
        "touch /tmp/stop; wait; while pidof workload; do sleep 1; done > /tmp/pids",
    )?;
    let expected = Checksum::expected(8, 7).to_string();
    let wrong = console.shell(
        guest,
        &format!("grep checksum /tmp/load | grep -vc {expected}; true"),
    )?;
    ensure!(
        wrong.trim() == "0",
        "guest {guest}: {wrong} jobs went wrong"
    );
    for cpu in 0..cpus {
        let said = console.shell(
            guest,
            &format!("taskset {:x} workload 4 100000 7", 1 << cpu),
        )?;
        let expected = Checksum::expected(4, 7).to_string();
        ensure!(said.contains(&expected), "guest {guest}, CPU {cpu}: {said}");
    }
    let complaints = "dmesg | grep -iE 'stall|lockup|BUG|WARNING|failed to' | head -n 3";
    let complaints = console.shell(guest, complaints)?;
    ensure!(complaints.trim().is_empty(), "guest {guest}: {complaints}");
    let failed = console.shell(guest, "cat /sys/bus/platform/devices/*balloon*/cpus_failed")?;
    ensure!(
        failed.trim() == "0",
        "guest {guest}: {failed} CPUs would not move"
    );
    Ok(())
}

/// Without its module a guest keeps the cores that it runs; when it is back it follows its target.
fn leaves_and_returns(console: &mut Console) -> Result<()> {
    let cpus = console.status()?.guest(1).number("cpus-target");
    target(console, 1, 1)?;
    wait_until_has(console, "one core", &[(1, 1)])?;
    console.shell(1, "rmmod ballast_balloon")?;
    let denied = console.shell(
        1,
        "dmesg | grep -c 'stay offline: Ballast has no cores'; true",
    )?;
    ensure!(
        cpus == 1 || denied.trim() == "1",
        "the CPU that was taken came back: {denied}"
    );
    target(console, 1, cpus)?;
    console.shell(1, "insmod /lib/ballast_balloon.ko verify=1")?;
    wait_until_has(console, "the module to follow its target", &[(1, cpus)])
}
