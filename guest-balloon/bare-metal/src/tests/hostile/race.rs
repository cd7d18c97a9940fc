//! Two vCPUs at once.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use ballast_balloon::abi::{Entry, EntryStatus, LIST_ENTRIES, Order, PAGE_SIZE, Status, function};
use ballast_balloon::{Driver, Hypercall};

use super::super::balloon::register;
use super::super::{Outcome, Why, why};
use super::list::{judge, not_backed};
use crate::balloon::{Front, LIST};
use crate::machine::Machine;
use crate::pages::State;
use crate::probe::{self, Random};
use crate::smccc::{self, psci};
use crate::{cpu, ensure, memory, println, smp};

static STOP: AtomicBool = AtomicBool::new(false);
static GO: AtomicU64 = AtomicU64::new(0);
static ANSWERED: AtomicU64 = AtomicU64::new(0);
static PAGE: AtomicU64 = AtomicU64::new(0);
static EPOCH: AtomicU64 = AtomicU64::new(0);
static WON: AtomicU64 = AtomicU64::new(0);

fn start_second(machine: &Machine, work: smp::Work) -> Result<u64, Why> {
    let &mpidr = machine
        .cpus
        .get(1)
        .ok_or_else(|| why(format_args!("needs two cores")))?;
    STOP.store(false, Ordering::Release);
    let answer = smp::start(1, mpidr, work);
    ensure!(answer == 0, "CPU_ON of core 1: {answer}");
    Ok(mpidr)
}

fn stop_second(mpidr: u64) -> Outcome {
    STOP.store(true, Ordering::Release);
    ensure!(
        cpu::wait_until_us(5_000_000, || smp::is_off(mpidr)),
        "core 1 does not stop"
    );
    Ok(())
}

fn rewrite_list(_: usize) {
    let mut random = Random(0x5555_aaaa_1234_4321);
    let base = PAGE.load(Ordering::Acquire);
    while !STOP.load(Ordering::Acquire) {
        for index in 0..16 {
            let entry = match random.next() % 4 {
                0 => Entry(random.next()),
                1 => Entry::new(base + random.next() % 512 * PAGE_SIZE, Order::Page),
                2 => Entry::new(base + random.next() % 32 * 16 * PAGE_SIZE, Order::Pages16),
                _ => Entry::new(base, Order::Block),
            };
            LIST.set(index, entry);
        }
        WON.fetch_add(1, Ordering::AcqRel);
    }
}

/// H8: the list changes while Ballast reads it: whatever was done, the accounts agree.
pub fn h8(machine: &Machine) -> Outcome {
    let (mut front, driver) = register(machine)?;
    let before = not_backed(&mut front)?;
    let block = front
        .pages
        .pick(State::Free, Order::Block)
        .ok_or_else(|| why(format_args!("no free block")))?;
    PAGE.store(block, Ordering::Release);
    let mpidr = start_second(machine, rewrite_list)?;
    let rounds = machine.arg_number("rounds").unwrap_or(1_000);
    let mut moved = [0_u64; 2];
    for round in 0..rounds {
        let direction = (round % 2) as usize;
        let call = [function::RESERVE, function::RELEASE][direction];
        // Not the list that the last call left.
        let rewrites = WON.load(Ordering::Acquire);
        let rewritten = cpu::wait_until_us(5_000_000, || WON.load(Ordering::Acquire) != rewrites);
        ensure!(rewritten, "core 1 is gone in round {round}");
        let [x0, _, done, _] = front.call(call, 16, driver.epoch());
        ensure!(
            Status::from_register(x0) == Some(Status::Success),
            "round {round}: {x0:#x}"
        );
        moved[direction] += done;
    }
    stop_second(mpidr)?;
    let missing = not_backed(&mut front)?;
    ensure!(
        missing + moved[1] == before + moved[0],
        "{missing} not backed: {before} + {} - {}",
        moved[0],
        moved[1]
    );
    let mut again = Driver::new(&front);
    again
        .hello(&mut front)
        .map_err(|error| why(format_args!("hello: {error:?}")))?;
    ensure!(
        again.reserved_pages() == missing,
        "a new driver finds {}, not {missing}",
        again.reserved_pages()
    );
    println!("{} pages out and {} in", moved[0], moved[1]);
    ensure!(moved[0] > 0 && moved[1] > 0, "the race moved nothing");
    Ok(())
}

/// Calls in a row that may consume nothing: a large page is being scrubbed.
const PATIENCE: u32 = 1000;

/// Reserves what entry 0 names; pages done. To be told that the guest is busy is to have lost.
fn reserve_one(epoch: u64) -> u64 {
    for _ in 0..PATIENCE {
        let [x0, consumed, done, _] = smccc::hvc([function::RESERVE.into(), 1, epoch, 0, 0]);
        if x0 != 0 || consumed != 0 {
            return if x0 == 0 { done } else { 0 };
        }
    }
    0
}

/// The two cores' calls for the same page; each counts what it won.
fn reserve_too(_: usize) {
    while !STOP.load(Ordering::Acquire) {
        let round = GO.load(Ordering::Acquire);
        if round == ANSWERED.load(Ordering::Acquire) {
            cpu::relax();
            continue;
        }
        let [x0, _, done, _] = smccc::hvc([
            function::RESERVE.into(),
            1,
            EPOCH.load(Ordering::Acquire),
            0,
            0,
        ]);
        WON.fetch_add(if x0 == 0 { done } else { 0 }, Ordering::AcqRel);
        ANSWERED.store(round, Ordering::Release);
    }
}

/// H9: both vCPUs reserve the same page at once: exactly one has it.
pub fn h9(machine: &Machine) -> Outcome {
    let (mut front, driver) = register(machine)?;
    let before = not_backed(&mut front)?;
    let page = front
        .pages
        .pick(State::Free, Order::Page)
        .ok_or_else(|| why(format_args!("no free page")))?;
    EPOCH.store(driver.epoch(), Ordering::Release);
    let mpidr = start_second(machine, reserve_too)?;
    for round in 1..=machine.arg_number("rounds").unwrap_or(400) {
        WON.store(0, Ordering::Release);
        LIST.set(0, Entry::new(page, Order::Page));
        GO.store(round, Ordering::Release);
        let mine = reserve_one(driver.epoch());
        let answered = cpu::wait_until_us(5_000_000, || ANSWERED.load(Ordering::Acquire) == round);
        ensure!(answered, "core 1 has no answer in round {round}");
        let all = mine + WON.load(Ordering::Acquire);
        ensure!(
            all == 1,
            "round {round}: {all} of the two calls reserved the page"
        );
        let found = judge(
            &mut front,
            function::RELEASE,
            driver.epoch(),
            Entry::new(page, Order::Page),
        )?;
        ensure!(
            found == EntryStatus::Done,
            "round {round}: RELEASE: {found:?}"
        );
    }
    stop_second(mpidr)?;
    ensure!(not_backed(&mut front)? == before, "not all came back");
    Ok(())
}

/// Writes to the page without pause; says after each round's end whether a write still succeeded.
fn keep_writing(_: usize) {
    let mut stamp = 1;
    while !STOP.load(Ordering::Acquire) {
        let round = GO.load(Ordering::Acquire);
        // SAFETY: the page is in the test's hands; where it is gone the store faults.
        let wrote = unsafe { probe::write(PAGE.load(Ordering::Acquire) + 64, 8, stamp) };
        stamp += 1;
        if round != ANSWERED.load(Ordering::Acquire) {
            WON.store(u64::from(wrote.is_ok()), Ordering::Release);
            ANSWERED.store(round, Ordering::Release);
        }
    }
}

/// H10: a vCPU whose TLB holds the page writes to it while the other gives it away: after the call no write
/// succeeds, and nothing of the late ones is in the page when it comes back.
pub fn h10(machine: &Machine) -> Outcome {
    let (mut front, driver) = register(machine)?;
    let page = front
        .pages
        .pick(State::Free, Order::Page)
        .ok_or_else(|| why(format_args!("no free page")))?;
    PAGE.store(page, Ordering::Release);
    let mpidr = start_second(machine, keep_writing)?;
    let ask = |round: u64| -> Result<u64, Why> {
        GO.store(round, Ordering::Release);
        let answered = cpu::wait_until_us(5_000_000, || ANSWERED.load(Ordering::Acquire) == round);
        ensure!(answered, "core 1 has no answer in round {round}");
        Ok(WON.load(Ordering::Acquire))
    };
    let mut round = 0;
    for turn in 0..machine.arg_number("rounds").unwrap_or(100) {
        round += 1;
        ensure!(
            ask(round)? == 1,
            "turn {turn}: core 1 cannot write to an own page"
        );
        let found = judge(
            &mut front,
            function::RESERVE,
            driver.epoch(),
            Entry::new(page, Order::Page),
        )?;
        ensure!(
            found == EntryStatus::Done,
            "turn {turn}: RESERVE: {found:?}"
        );
        round += 1;
        ensure!(
            ask(round)? == 0,
            "turn {turn}: core 1 wrote to a page that was given away"
        );
        // Let it write elsewhere while the page is looked at.
        PAGE.store(spare(&front), Ordering::Release);
        round += 1;
        ask(round)?;
        let found = judge(
            &mut front,
            function::RELEASE,
            driver.epoch(),
            Entry::new(page, Order::Page),
        )?;
        ensure!(
            found == EntryStatus::Done,
            "turn {turn}: RELEASE: {found:?}"
        );
        // SAFETY: the page is backed again and in the test's hands.
        let zero = unsafe { memory::verify_zero(page) };
        ensure!(
            zero.is_ok(),
            "turn {turn}: the page came back with {zero:x?}"
        );
        PAGE.store(page, Ordering::Release);
        round += 1;
        ask(round)?;
    }
    stop_second(mpidr)
}

/// A page that nobody uses: the end of the other list page.
fn spare(_: &Front) -> u64 {
    const { assert!(LIST_ENTRIES * 8 == PAGE_SIZE as usize) };
    crate::balloon::OTHER_LIST.address()
}

fn start_third(_: usize) {
    while !STOP.load(Ordering::Acquire) {
        let round = GO.load(Ordering::Acquire);
        if round != ANSWERED.load(Ordering::Acquire) {
            let answer = smp::start(2, PAGE.load(Ordering::Acquire), |_| {});
            WON.fetch_add(u64::from(answer == 0), Ordering::AcqRel);
            ANSWERED.store(round, Ordering::Release);
        }
    }
}

/// P3: two vCPUs start the same third: exactly one succeeds.
pub fn p3(machine: &Machine) -> Outcome {
    let &third = machine
        .cpus
        .get(2)
        .ok_or_else(|| why(format_args!("needs three cores")))?;
    PAGE.store(third, Ordering::Release);
    let second = start_second(machine, start_third)?;
    for round in 1..=machine.arg_number("rounds").unwrap_or(100) {
        WON.store(0, Ordering::Release);
        GO.store(round, Ordering::Release);
        let answer = smp::start(2, third, |_| {});
        let answered = cpu::wait_until_us(5_000_000, || ANSWERED.load(Ordering::Acquire) == round);
        ensure!(answered, "core 1 has no answer in round {round}");
        let won = WON.load(Ordering::Acquire) + u64::from(answer == 0);
        // A core that has run and gone off between the two calls may rightly be started twice.
        ensure!(
            won == 1 || won == 2,
            "round {round}: {won} of the two calls started core 2"
        );
        let lost = matches!(
            answer,
            0 | psci::error::ALREADY_ON | psci::error::ON_PENDING
        );
        ensure!(lost, "round {round}: CPU_ON: {answer}");
        ensure!(
            cpu::wait_until_us(5_000_000, || smp::is_off(third)),
            "core 2 does not stop in round {round}"
        );
    }
    stop_second(second)
}
