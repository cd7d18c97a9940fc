//! What only EL2 can say or do of the board: its registers on every core, and RAM that no guest has.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use ballast_balloon::abi::self_test::{FACT, FACTS, FRAME, RAM, WALK, WALKED};
use ballast_balloon::abi::{Status, function};

use super::super::{Outcome, Why, why};
use crate::cpu::MAX_CPUS;
use crate::machine::Machine;
use crate::{cpu, ensure, println, smccc, smp};

/// What each core said.
static VALUES: [[AtomicU64; FACTS.len()]; MAX_CPUS] =
    [const { [const { AtomicU64::new(0) }; FACTS.len()] }; MAX_CPUS];
static HAS_SAID: [AtomicBool; MAX_CPUS] = [const { AtomicBool::new(false) }; MAX_CPUS];

/// SELF_TEST: up to three values.
fn call(what: u64, argument: u64) -> Result<[u64; 3], Option<Status>> {
    let [x0, values @ ..] = smccc::hvc([function::SELF_TEST.into(), what, argument, 0, 0]);
    match Status::from_register(x0) {
        Some(Status::Success) => Ok(values),
        status => Err(status),
    }
}

/// Whether Ballast lets this guest test the board.
pub fn is_there() -> bool {
    call(FACT, 0).is_ok()
}

/// Where the page at `ipa` is on the board.
pub fn frame(ipa: u64) -> Option<u64> {
    call(FRAME, ipa).ok().map(|[pa, ..]| pa)
}

fn say(index: usize) {
    for (number, slot) in (0..).zip(&VALUES[index]) {
        let value = call(FACT, number).map_or(u64::MAX, |[value, ..]| value);
        slot.store(value, Ordering::Relaxed);
    }
    HAS_SAID[index].store(true, Ordering::Release);
}

fn value(core: usize, fact: usize) -> u64 {
    VALUES[core][fact].load(Ordering::Relaxed)
}

/// Has every core say what it is. All are alike, but for the number each has.
pub fn cores(machine: &Machine) -> Outcome {
    for (index, &mpidr) in machine.cpus.iter().enumerate() {
        if index == 0 {
            say(0);
            continue;
        }
        let answer = smp::start(index, mpidr, say);
        ensure!(answer == 0, "CPU_ON of core {index}: {answer}");
        let done = || HAS_SAID[index].load(Ordering::Acquire) && smp::is_off(mpidr);
        ensure!(
            cpu::wait_until_us(2_000_000, done),
            "core {index} says nothing"
        );
    }
    for core in 0..machine.cpus.len() {
        for (fact, name) in FACTS.iter().enumerate() {
            let own = value(core, fact);
            let is_number = *name == "mpidr_el1";
            // What is as on the first core is not said again.
            if core == 0 || own != value(0, fact) {
                println!("FACT core{core} {name} {own:#x}");
            }
            ensure!(
                core == 0 || is_number || own == value(0, fact),
                "{name} of core {core} is {own:#x}, not {:#x}",
                value(0, fact)
            );
            let twice = (0..core).any(|other| is_number && value(other, fact) == own);
            ensure!(!twice, "core {core} has the number of another: {own:#x}");
        }
    }
    let mut number = 0;
    while let Ok([start, bytes, _]) = call(RAM, number) {
        println!("FACT ram {start:#x} {bytes:#x}");
        number += 1;
    }
    Ok(())
}

/// The facts as the members of a JSON object.
pub fn print_json(machine: &Machine) {
    let comma = |is_last: bool| if is_last { "" } else { "," };
    println!(" \"cores\": [");
    for core in 0..machine.cpus.len() {
        println!(" {{");
        for (fact, name) in FACTS.iter().enumerate() {
            let comma = comma(fact + 1 == FACTS.len());
            println!("  \"{name}\": {}{comma}", value(core, fact));
        }
        println!(" }}{}", comma(core + 1 == machine.cpus.len()));
    }
    println!(" ], \"ram\": [");
    let mut number = 0;
    while let Ok([start, bytes, _]) = call(RAM, number) {
        number += 1;
        println!("  [{start}, {bytes}]{}", comma(call(RAM, number).is_err()));
    }
    println!(" ],");
}

/// RAM that no guest has: EL2 writes and reads it with patterns, through the caches and past them.
pub fn free_ram() -> Result<u64, Why> {
    let (mut at, mut all, mut failed) = (0, 0, 0);
    // One call walks eight pages or passes over 64 blocks: more than enough for 64 GiB.
    for _ in 0..4_000_000 {
        let [next, pages, bad] =
            call(WALK, at).map_err(|status| why(format_args!("walk at {at:#x}: {status:?}")))?;
        all += pages;
        failed = if failed == 0 { bad } else { failed };
        if next == WALKED {
            ensure!(failed == 0, "the page at {failed:#x} does not hold");
            ensure!(all > 0, "no free page");
            return Ok(all);
        }
        ensure!(next > at, "the walk stands at {at:#x}");
        at = next;
    }
    Err(why(format_args!("the walk does not end")))
}
