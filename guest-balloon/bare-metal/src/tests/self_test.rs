//! What only a board can show: that its caches, TLBs, list registers and RAM do what QEMU's stand-ins do anyway.
//!
//! Every check ends in a line `PASS NAME` or `FAIL NAME: why`, every measurement in `MEASURE NAME CYCLES`; all of it
//! once more as JSON between `BEGIN JSON` and `END JSON`. A failed check does not keep the others from running. What
//! EL2 has to do for it (`self-test;`) is in [`board`].

pub mod board;
mod dma;

use core::sync::atomic::{AtomicU64, Ordering};

use ballast_balloon::abi::{Entry, Order, PAGE_SIZE, Status, function};
use heapless::Vec;

use super::balloon::register;
use super::hostile::list::exchange;
use super::{Outcome, Why, basic, why};
use crate::balloon::Front;
use crate::bench;
use crate::machine::Machine;
use crate::mmu::{self, GIB, Mapping};
use crate::pages::State;
use crate::{cpu, ensure, gic, memory, println, probe, smp};

/// What has been found.
struct Report {
    checks: Vec<(&'static str, bool), 16>,
}

impl Report {
    fn check(&mut self, name: &'static str, outcome: Outcome) {
        match &outcome {
            Ok(()) => println!("PASS {name}"),
            Err(why) => println!("FAIL {name}: {why}"),
        }
        // A fixed list of checks: there is room.
        let _ = self.checks.push((name, outcome.is_ok()));
    }
}

/// Every check, then every measurement.
pub fn run(machine: &Machine) -> Outcome {
    let mut report = Report { checks: Vec::new() };
    report.check("timer", basic::timer());
    // Before `smp`, which sends SGIs of its own.
    report.check("interrupts-between-cores", basic::ipi(machine));
    let idle = all_off(machine);
    report.check("cores-off-and-on", idle.and_then(|()| basic::smp(machine)));
    report.check("list-registers", list_registers());
    report.check(
        "cores-alike",
        all_off(machine).and_then(|()| board::cores(machine)),
    );
    let walked = board::free_ram().map(|pages| println!("NOTE ram-free: {pages} pages"));
    report.check("ram-free", walked);
    match register(machine) {
        Ok((mut front, driver)) => {
            let epoch = driver.epoch();
            report.check("ram-map", ram_map(&mut front));
            report.check("scrubbed-frames", scrubbed_frames(&mut front, epoch));
            if let Some(base) = machine.arg_number("dma") {
                report.check("dma-limits", dma::limits(&mut front, base));
            }
            report.check(
                "stale-translations",
                stale_translations(machine, &mut front, epoch),
            );
        }
        Err(why) => report.check("balloon", Err(why)),
    }
    let measured = if board::is_there() {
        bench::on_board(machine)
    } else {
        Err(why(format_args!("the guest may not test the board")))
    };
    let (measures, core_hz) = match measured {
        Ok(results) => {
            results.print();
            (results.all, results.core_hz)
        }
        Err(why) => {
            report.check("measurements", Err(why));
            (Vec::new(), 0)
        }
    };
    let ram: u64 = machine.ram.iter().map(|ram| ram.end - ram.start).sum();
    println!("BEGIN JSON");
    println!(
        "{{\"self_test\": 2, \"counter_hz\": {}, \"core_hz\": {core_hz}, \"guest_mib\": {},",
        cpu::frequency(),
        ram >> 20
    );
    board::print_json(machine);
    println!(" \"checks\": {{");
    for (index, (name, passed)) in report.checks.iter().enumerate() {
        let comma = if index + 1 < report.checks.len() {
            ","
        } else {
            ""
        };
        println!("  \"{name}\": {passed}{comma}");
    }
    println!(" }}, \"cycles\": {{");
    for (index, (name, value)) in measures.iter().enumerate() {
        let comma = if index + 1 < measures.len() { "," } else { "" };
        println!("  \"{name}\": {value}{comma}");
    }
    println!(" }}}}");
    println!("END JSON");
    let failed = report.checks.iter().filter(|(_, passed)| !passed).count();
    ensure!(failed == 0, "{failed} of {} checks", report.checks.len());
    Ok(())
}

/// Waits for the other cores to have gone off.
fn all_off(machine: &Machine) -> Outcome {
    for &mpidr in machine.cpus.iter().skip(1) {
        ensure!(
            cpu::wait_until_us(2_000_000, || smp::is_off(mpidr)),
            "core {mpidr:#x} did not go off"
        );
    }
    Ok(())
}

/// Far more interrupts pending than there are list registers (a GIC-400 has four): each is taken once.
fn list_registers() -> Outcome {
    const ROUNDS: u32 = 50;
    const IDS: core::ops::Range<usize> = 1..15;
    let this = cpu::this();
    let before: [u32; 16] = core::array::from_fn(|id| this.sgis[id].load(Ordering::Acquire));
    for round in 1..=ROUNDS {
        cpu::mask_irqs();
        for id in IDS {
            gic::get().send_sgi(id as u32, cpu::index());
        }
        cpu::unmask_irqs();
        for id in IDS {
            let taken = || this.sgis[id].load(Ordering::Acquire) - before[id];
            ensure!(
                cpu::wait_until_us(1_000_000, || taken() >= round),
                "SGI {id} of round {round} did not come"
            );
            ensure!(
                taken() == round,
                "SGI {id} came {} times in {round} rounds",
                taken()
            );
        }
    }
    Ok(())
}

/// All of RAM holds what was written to it, though that differs in each place: no two addresses are one.
fn ram_map(front: &mut Front) -> Outcome {
    let pages = front
        .verify()
        .map_err(|mismatch| why(format_args!("{mismatch:x?}")))?;
    ensure!(pages > 0, "no free page");
    Ok(())
}

fn moved(front: &mut Front, function: u32, epoch: u64, entries: &[Entry]) -> Outcome {
    let (status, pages) = exchange(front, function, epoch, entries);
    let expected: u64 = entries
        .iter()
        .filter_map(|e| e.order())
        .map(|o| o.pages())
        .sum();
    ensure!(
        status == Some(Status::Success) && pages == expected,
        "call {function:#x}: {status:?}, {pages} of {expected} pages"
    );
    Ok(())
}

/// Runs of the allocator's with the pattern just written, so that the caches are full of dirty lines of it.
fn dirty_runs(front: &mut Front) -> Result<Vec<Entry, 24>, Why> {
    let mut entries = Vec::new();
    for (order, count) in [(Order::Block, 4), (Order::Pages16, 4), (Order::Page, 16)] {
        for _ in 0..count {
            let run = front.pages.pick(State::Free, order);
            let run = run.ok_or_else(|| why(format_args!("the allocator has no {order:?}")))?;
            for page in (run..run + order.bytes()).step_by(PAGE_SIZE as usize) {
                // SAFETY: pages out of the allocator.
                unsafe { memory::fill(page, front.seed) };
            }
            let _ = entries.push(Entry::new(run, order));
        }
    }
    Ok(entries)
}

/// What is given away dirty and comes back reads zero past the caches, and through them.
fn scrubbed_frames(front: &mut Front, epoch: u64) -> Outcome {
    for _ in 0..8 {
        let entries = dirty_runs(front)?;
        moved(front, function::RESERVE, epoch, &entries)?;
        moved(front, function::RELEASE, epoch, &entries)?;
        for (ipa, order) in entries.iter().filter_map(|e| Some((e.ipa(), e.order()?))) {
            let alias =
                mmu::map_scratch(Mapping::NonCacheable(ipa & !(GIB - 1))) + (ipa & (GIB - 1));
            for page in (alias..alias + order.bytes()).step_by(PAGE_SIZE as usize) {
                // SAFETY: the same pages, which nobody uses, by another address.
                let result = unsafe { memory::verify_zero(page) };
                result.map_err(|mismatch| why(format_args!("past the caches: {mismatch:x?}")))?;
            }
            front.give_zeroed(ipa, order);
        }
        if let Some(mismatch) = front.mismatch {
            return Err(why(format_args!("through the caches: {mismatch:x?}")));
        }
    }
    Ok(())
}

/// Odd: the block is there; even: it has been given away. [`END`]: the cores go off.
static PHASE: AtomicU64 = AtomicU64::new(0);
static BLOCK: AtomicU64 = AtomicU64::new(0);
static READY: AtomicU64 = AtomicU64::new(0);
/// Accesses that did not end as the phase says.
static WRONG: AtomicU64 = AtomicU64::new(0);
const END: u64 = u64::MAX;

/// Reads pages all over the block.
fn touch(phase: u64) {
    let block = BLOCK.load(Ordering::Acquire);
    for page in (0..Order::Block.pages()).step_by(37) {
        let is_there = probe::read(block + page * PAGE_SIZE, 8).is_ok();
        if is_there != (phase % 2 == 1) {
            WRONG.fetch_add(1, Ordering::AcqRel);
        }
    }
    READY.fetch_add(1, Ordering::AcqRel);
}

fn toucher(_: usize) {
    let mut seen = 0;
    loop {
        let changed = || PHASE.load(Ordering::Acquire) != seen;
        // Nobody waits for a core that has given up longer than that.
        if !cpu::wait_until_us(30_000_000, changed) {
            return;
        }
        seen = PHASE.load(Ordering::Acquire);
        if seen == END {
            return;
        }
        touch(seen);
    }
}

/// A block that every core has just read is gone for every core once it has been given away.
fn stale_translations(machine: &Machine, front: &mut Front, epoch: u64) -> Outcome {
    let mut cores = 1;
    for (index, &mpidr) in machine.cpus.iter().enumerate().skip(1) {
        let answer = smp::start(index, mpidr, toucher);
        ensure!(answer == 0, "CPU_ON of core {index}: {answer}");
        cores += 1;
    }
    let mut round = || -> Outcome {
        for round in 0..20 {
            let run = front.pages.pick(State::Free, Order::Block);
            let run = run.ok_or_else(|| why(format_args!("the allocator has no block")))?;
            BLOCK.store(run, Ordering::Release);
            let entry = [Entry::new(run, Order::Block)];
            for gone in [1, 2] {
                if gone == 2 {
                    moved(front, function::RESERVE, epoch, &entry)?;
                }
                READY.store(0, Ordering::Release);
                PHASE.store(2 * round + gone, Ordering::Release);
                touch(2 * round + gone);
                let all = cpu::wait_until_us(10_000_000, || READY.load(Ordering::Acquire) == cores);
                ensure!(all, "not every core answered in round {round}");
            }
            moved(front, function::RELEASE, epoch, &entry)?;
            front.give_zeroed(run, Order::Block);
            let wrong = WRONG.load(Ordering::Acquire);
            ensure!(
                wrong == 0,
                "{wrong} accesses went by a stale translation in round {round}"
            );
        }
        Ok(())
    };
    let outcome = round();
    PHASE.store(END, Ordering::Release);
    all_off(machine)?;
    outcome
}
