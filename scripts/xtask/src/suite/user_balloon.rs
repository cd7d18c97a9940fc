//! The balloon as a program, on a kernel without the module.

use anyhow::{Context, Result, ensure};

use super::{Guest, Scenario};
use crate::console::Console;
use crate::status::words;

const PROGRAM: &str = "ballast-user-balloon";

/// Moves, content, a killed program, and noise on its line.
pub fn scenarios() -> Vec<Scenario> {
    vec![
        pair("user-balloon-gic3", 3, |console| {
            moves(console)?;
            killed(console)?;
            noise(console)?;
            cores(console)?;
            queue(console)?;
            pressed(console)?;
            reset(console)
        }),
        pair("user-balloon-gic2", 2, moves),
    ]
}

/// A Linux guest without the module beside a bare-metal one that takes what it gives.
fn pair(name: &str, gic: u8, script: impl Fn(&mut Console) -> Result<()> + 'static) -> Scenario {
    Scenario::new(name, gic, move |console| {
        console.patience(180).expect_up(1)?;
        console.patience(90);
        console.shell(1, "! grep -q ballast /proc/modules && test -c /dev/ttyAMA1")?;
        start(console)?;
        script(console)
    })
    .cores(3)
    .ram(768)
    .guest(
        Guest::linux("stock")
            .args("noballoon cma=0")
            .memory(512)
            .property("memory-min-mib = <128>")
            .cpus(2)
            .property("cpus-min = <1>")
            .property("user-balloon"),
    )
    .guest(Guest::bare_metal("taker", "balloon").memory_bounds(16, 384))
}

fn start(console: &mut Console) -> Result<()> {
    console.shell(1, &format!("{PROGRAM} 2>> /tmp/balloon.log & true"))?;
    console.wait_for_status("the program to register", |s| s.has_driver(1))?;
    Ok(())
}

fn set_memory(console: &mut Console, guest: u8, mib: u64) -> Result<()> {
    let answer = console.monitor(&format!("mem {guest} {mib}"))?;
    ensure!(!answer.contains("refused"), "mem {guest} {mib}: {answer}");
    let what = format!("guest {guest} to have {mib} MiB");
    let reached =
        console.wait_for_status(&what, |s| s.memory_mib(guest) == mib && s.settled(guest));
    if reached.is_err() && guest == 1 {
        console.shell(1, "cat /tmp/balloon.log")?;
    }
    reached.map(drop)
}

fn free_mib(console: &mut Console) -> Result<u64> {
    let kib = console.shell(1, "awk '/MemAvailable/ { print $2 }' /proc/meminfo")?;
    Ok(kib.trim().parse::<u64>()? >> 10)
}

/// Accesses to the guest's UARTs so far: its shell sleeps meanwhile.
fn uart_exits(console: &mut Console) -> Result<u64> {
    let stats = console.monitor("stats 1")?;
    let exits = words(&stats).find(|(key, _)| *key == "mmio-uart");
    exits
        .and_then(|(_, value)| value.parse().ok())
        .with_context(|| format!("no count:\n{stats}"))
}

fn moves(console: &mut Console) -> Result<()> {
    let before = console.status()?;
    let available = free_mib(console)?;
    console.shell(
        1,
        "dd if=/dev/urandom of=/tmp/keep bs=1M count=16 2>/dev/null",
    )?;
    let sum = console.shell(1, "md5sum < /tmp/keep")?;
    for _ in 0..2 {
        let uart_before = uart_exits(console)?;
        set_memory(console, 1, 256)?;
        let exits = (uart_exits(console)? - uart_before) / 128;
        println!("  {exits} exits for a 2 MiB entry");
        ensure!(
            (8..60).contains(&exits),
            "{exits} exits for a 2 MiB entry, of 8 bytes each way"
        );
        // Memory that the other can only have from this one.
        set_memory(console, 2, 320)?;
        let left = free_mib(console)?;
        ensure!(
            left + 200 < available,
            "{available} MiB available, then {left}"
        );
        set_memory(console, 2, 64)?;
        set_memory(console, 1, 512)?;
    }
    ensure!(
        console.shell(1, "md5sum < /tmp/keep")? == sum,
        "content was lost"
    );
    console.shell(1, "workload 300 100000 7")?;
    let files = console.shell(1, "ls /run/ballast-balloon | wc -l")?;
    ensure!(files.trim() == "0", "{files} pages stay in the pool");
    let after = console.status()?;
    ensure!(
        before.total_kib() == after.total_kib(),
        "memory was lost:\n{before}{after}"
    );
    console.expect_never("FAIL")
}

/// Killed while it holds memory, and while it moves some: the next one adopts.
fn killed(console: &mut Console) -> Result<()> {
    set_memory(console, 1, 320)?;
    for mib in [320, 192, 448] {
        console.monitor(&format!("mem 1 {mib}"))?;
        console.shell(1, &format!("killall -9 {PROGRAM}; sleep 1"))?;
        start(console)?;
        let what = format!("the successor to have {mib} MiB");
        console.wait_for_status(&what, |s| s.memory_mib(1) == mib && s.settled(1))?;
    }
    console.shell(1, &format!("killall {PROGRAM}; sleep 1; {PROGRAM} --drain"))?;
    // What the target did not allow is the next one's.
    start(console)?;
    set_memory(console, 1, 512)
}

/// What is no message is dropped: the program goes on, and so does its successor.
fn noise(console: &mut Console) -> Result<()> {
    console.shell(
        1,
        "dd if=/dev/urandom of=/dev/ttyAMA1 bs=1k count=16 2>/dev/null",
    )?;
    set_memory(console, 1, 384)?;
    console.shell(1, &format!("killall {PROGRAM}; sleep 1"))?;
    // What began as a request is answered, what did not is not: a flag, 0x99, version 1.
    console.shell(
        1,
        "stty raw -echo < /dev/ttyAMA1; timeout 4 cat /dev/ttyAMA1 > /tmp/answer & sleep 1; \
         printf '~login: ~~Qnonsense~' > /dev/ttyAMA1; sleep 4",
    )?;
    let answer = console.shell(
        1,
        "od -An -tx1 /tmp/answer | tr -d ' \\n' | head -c 6; echo",
    )?;
    ensure!(
        answer.trim() == "7e9901",
        "the answer to nonsense is {answer}"
    );
    let flags = console.shell(1, "tr -cd '~' < /tmp/answer | wc -c")?;
    ensure!(flags.trim() == "2", "{flags} flags in one answer");
    start(console)?;
    set_memory(console, 1, 512)?;
    console.shell(1, "workload 200 100000 7")?;
    Ok(())
}

/// The CPU target, by sysfs.
fn cores(console: &mut Console) -> Result<()> {
    for cpus in [1, 2] {
        let answer = console.monitor(&format!("cpus 1 {cpus}"))?;
        ensure!(answer.contains("ok"), "cpus 1 {cpus}: {answer}");
        console.wait_for_status(&format!("{cpus} CPUs"), |s| {
            s.guest(1).get("cpus") == format!("{cpus}/{cpus}")
        })?;
        let online = console.shell(1, "nproc")?;
        ensure!(
            online.trim() == cpus.to_string(),
            "{online} CPUs are online"
        );
    }
    Ok(())
}

/// Without being asked the program says that threads wait for a CPU, and the policy gives it the one that is free.
fn queue(console: &mut Console) -> Result<()> {
    let answer = console.monitor("cpus 1 1")?;
    ensure!(answer.contains("ok"), "cpus 1 1: {answer}");
    console.wait_for_status("one CPU", |s| s.guest(1).get("cpus") == "1/1")?;
    console.monitor("policy auto")?;
    console.shell(
        1,
        "for n in 1 2 3; do (while [ ! -e /tmp/idle ]; do :; done) & done > /dev/null 2>&1",
    )?;
    console.wait_for_status("a CPU for the threads that wait", |s| {
        s.guest(1).get("cpus") == "2/2"
    })?;
    let stats = console.monitor("stats 1")?;
    let runnable = words(&stats).find(|(key, _)| *key == "runnable-milli");
    let runnable = runnable.and_then(|(_, value)| value.parse::<u32>().ok());
    ensure!(runnable.is_some_and(|milli| milli >= 2000), "{stats}");
    console.monitor("policy manual")?;
    console.shell(1, "touch /tmp/idle")?;
    Ok(())
}

/// Memory comes back before a process has to end for want of it: only the program's own canary is offered.
fn pressed(console: &mut Console) -> Result<()> {
    set_memory(console, 1, 192)?;
    console.shell(1, "workload 220 40 7")?;
    Ok(())
}

/// A reset forgets the line's state; what was reserved is the guest's again.
fn reset(console: &mut Console) -> Result<()> {
    set_memory(console, 1, 384)?;
    console.monitor("reset 1")?;
    console.patience(180).expect_up(1)?;
    console.patience(90);
    start(console)?;
    console.wait_for_status("all of its memory", |s| {
        s.memory_mib(1) == 512 && s.settled(1)
    })?;
    set_memory(console, 1, 256)?;
    set_memory(console, 1, 512)
}
