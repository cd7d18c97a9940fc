//! Shared memory and doorbells where they are not this guest's.

use core::sync::atomic::Ordering;

use ballast_balloon::abi::{Entry, EntryStatus, Order, Status, function};

use super::super::balloon::register;
use super::super::channel::{Line, call, find, map};
use super::super::{Outcome, Why};
use super::list::judge;
use crate::machine::{Machine, Shared};
use crate::probe::{self, WIDTHS, syndrome};
use crate::smccc::psci;
use crate::{cpu, ensure, smp};

/// All of it: what may not be written, executed, given away or rung. "there" is read-only here, "back" is not.
pub fn all(machine: &Machine) -> Outcome {
    let (closed, open) = (find(machine, "there")?, find(machine, "back")?);
    ensure!(
        closed.read_only && !open.read_only,
        "the rights are other ones"
    );
    reads_only(closed)?;
    not_executed(machine, open)?;
    not_memory(machine, closed)?;
    not_memory(machine, open)?;
    not_mine(machine)?;
    rings(machine)
}

/// Reads succeed and each kind of write aborts, at both ends of the memory.
fn reads_only(shared: &Shared) -> Outcome {
    let base = map(shared)?;
    let bytes = shared.memory.end - shared.memory.start;
    for offset in [0, 8, bytes - 16] {
        for width in WIDTHS {
            let found = probe::read(base + offset, width);
            ensure!(found.is_ok(), "{width}-byte read: {found:x?}");
            // SAFETY: shared memory is no Rust object's.
            let found = unsafe { probe::write(base + offset, width, u64::MAX) };
            ensure!(is_external(found), "{width}-byte write: {found:x?}");
        }
        for (name, found) in [
            ("exclusive store", probe::store_exclusive(base + offset)),
            ("DC ZVA", probe::zero_line(base + offset)),
        ] {
            ensure!(is_external(found), "{name}: {found:x?}");
        }
    }
    // Beyond it is nothing.
    let found = probe::read(base + bytes, 8);
    ensure!(found.is_err(), "read behind the end: {found:x?}");
    Ok(())
}

fn is_external(found: Result<(), u64>) -> bool {
    matches!(found, Err(esr) if syndrome::class(esr) == syndrome::DATA_ABORT
        && syndrome::status(esr) == syndrome::EXTERNAL)
}

/// What another guest may have written is no code.
fn not_executed(machine: &Machine, shared: &Shared) -> Outcome {
    // SAFETY: it cannot be fetched.
    let found = unsafe { probe::call(map(shared)?) };
    let aborted = matches!(found, Err(esr) if syndrome::class(esr) == syndrome::INSTRUCTION_ABORT);
    ensure!(aborted, "fetch: {found:x?}");
    let second = machine.cpus.get(1).copied().unwrap_or(1);
    let answer = psci::call(psci::function::CPU_ON, second, shared.memory.start, 0);
    ensure!(answer != 0, "CPU_ON in shared memory: {answer}");
    Ok(())
}

/// It is in no balloon: neither given nor taken, nor a list page.
fn not_memory(machine: &Machine, shared: &Shared) -> Outcome {
    let (mut front, driver) = register(machine)?;
    for order in [Order::Page, Order::Pages16, Order::Block] {
        let entry = Entry::new(shared.memory.start & !(order.bytes() - 1), order);
        for call in [function::RESERVE, function::RELEASE] {
            let found = judge(&mut front, call, driver.epoch(), entry)?;
            ensure!(
                found == EntryStatus::OutOfRange,
                "{order:?} by {call:#x}: {found:?}"
            );
        }
    }
    let [x0, ..] = call(function::HELLO, shared.memory.start);
    ensure!(
        Status::from_register(x0) == Some(Status::InvalidAddress),
        "HELLO: {x0:#x}"
    );
    let [x0, ..] = call(function::QUERY, shared.memory.start);
    ensure!(
        Status::from_register(x0) == Some(Status::InvalidParameters),
        "QUERY: {x0:#x}"
    );
    Ok(())
}

/// Numbers of channels that are others' or nobody's.
fn not_mine(machine: &Machine) -> Outcome {
    let is_mine = |number: u64| {
        let mut all = machine.channels.iter();
        all.any(|shared| u64::from(shared.number) == number)
    };
    let all = (0..64).chain([1 << 31, 1 << 32, (1 << 32) | 1, u64::MAX]);
    for number in all.filter(|number| !is_mine(*number)) {
        for function in [function::SIGNAL, function::CHANNEL] {
            let [x0, x1, x2, x3] = call(function, number);
            ensure!(
                Status::from_register(x0) == Some(Status::InvalidParameters) && (x1 | x2 | x3) == 0,
                "{function:#x} of {number:#x}: {x0:#x} {x1:#x} {x2:#x} {x3:#x}"
            );
        }
    }
    Ok(())
}

/// Rings and fetches from all cores at once, with nobody listening: bounded, and Ballast stays.
fn rings(machine: &Machine) -> Outcome {
    fn storm(_: usize) {
        for number in 0..20_000_u64 {
            // Whatever the answer: no channel has more than 16 numbers.
            call(function::SIGNAL, number & 15);
            call(function::CHANNEL, number & 15);
        }
    }
    for (index, &mpidr) in machine.cpus.iter().enumerate().skip(1) {
        smp::start(index, mpidr, storm);
    }
    storm(0);
    for &mpidr in machine.cpus.iter().skip(1) {
        let is_off = cpu::wait_until_us(30_000_000, || smp::is_off(mpidr));
        ensure!(is_off, "core {mpidr} is not through");
    }
    let line: Result<Line, Why> = Line::open(machine, "back");
    line?.memory[0].store(1, Ordering::Relaxed);
    Ok(())
}
