//! The guest as a good citizen, as one that ignores its target, and as a victim.

use core::sync::atomic::Ordering;

use aarch64_cpu::registers::{CNTV_CTL_EL0, CNTV_CVAL_EL0, Writeable};
use ballast_balloon::abi::{Status, function};
use ballast_balloon::{Driver, Hypercall, Next};

use super::{Outcome, Why, why};
use crate::balloon::{self, Front};
use crate::exception::{BALLOON_CALLS, BALLOON_INTERRUPT};
use crate::machine::Machine;
use crate::memory::Mismatch;
use crate::{cpu, ensure, gic, println, ram, smccc};

/// Allocator and driver, registered, patterns written.
pub fn register(machine: &Machine) -> Result<(Front, Driver), Why> {
    let node = machine
        .balloon
        .as_ref()
        .ok_or_else(|| why(format_args!("no balloon in the device tree")))?;
    let pages = ram::allocator(machine).map_err(|text| why(format_args!("{text}")))?;
    let mut front = Front::new(pages, cpu::counter() | 1);
    let mut driver = Driver::new(&front);
    driver
        .hello(&mut front)
        .map_err(|error| why(format_args!("hello: {error:?}")))?;
    front.fill();
    BALLOON_INTERRUPT.store(node.interrupt.into(), Ordering::Relaxed);
    gic::get().enable(gic::VIRTUAL_TIMER);
    gic::get().enable(node.interrupt);
    Ok((front, driver))
}

/// One step of driver and interrupt; sleeps when there is nothing to do. Whether the driver rests.
fn turn(machine: &Machine, front: &mut Front, driver: &mut Driver) -> bool {
    if BALLOON_CALLS.swap(false, Ordering::AcqRel) {
        driver.on_interrupt(front);
        if let Some(node) = &machine.balloon {
            gic::get().enable(node.interrupt);
        }
    }
    match driver.step(front) {
        Next::Idle => return true,
        Next::Again => {}
        Next::WaitUntil(at) => {
            let ticks = cpu::this().timer_ticks.load(Ordering::Acquire);
            CNTV_CVAL_EL0.set(at);
            CNTV_CTL_EL0.write(CNTV_CTL_EL0::ENABLE::SET);
            cpu::sleep_until(|| {
                cpu::this().timer_ticks.load(Ordering::Acquire) != ticks
                    || BALLOON_CALLS.load(Ordering::Acquire)
            });
        }
    }
    false
}

/// Serves targets for ever, or until it has settled on `moves=N` of them; with `contents=off` it does not look at
/// what is in its pages, which costs time; with `pages=scattered` it gives every other page first.
pub fn serve(machine: &Machine) -> Outcome {
    let (mut front, mut driver) = register(machine)?;
    front.contents = machine.arg("contents") != Some("off");
    front.is_scattered = machine.arg("pages") == Some("scattered");
    let moves = machine.arg_number("moves").unwrap_or(u64::MAX);
    let mut settled = 0;
    let mut said = None;
    while settled <= moves {
        if !turn(machine, &mut front, &mut driver) {
            continue;
        }
        if said != Some(driver.sequence()) {
            said = Some(driver.sequence());
            settled += 1;
            if front.contents {
                balloon::audit(&mut front, &driver)?;
            }
            println!(
                "balloon settled reserved={} target={} zero={} state={:?}",
                driver.reserved_pages(),
                driver.target_pages(),
                front.zero_pages,
                driver.state()
            );
        }
        if settled <= moves {
            cpu::sleep_until(|| BALLOON_CALLS.load(Ordering::Acquire));
        }
    }
    Ok(())
}

/// Serves targets and says all the time that it uses everything and needs more. That is true only with `use=1`: then
/// it verifies all that it has over and over.
pub fn claim(machine: &Machine) -> Outcome {
    let (mut front, mut driver) = register(machine)?;
    let is_true = machine.arg_number("use") == Some(1);
    loop {
        while !turn(machine, &mut front, &mut driver) {}
        // Nothing free, nothing available, half of its time lost waiting.
        let [x0, ..] = smccc::hvc([function::REPORT.into(), 0, 0, 500, 0]);
        ensure!(
            Status::from_register(x0) == Some(Status::Success),
            "REPORT: {x0:#x}"
        );
        if is_true {
            let verified = front.verify();
            verified.map_err(|mismatch| {
                why(format_args!(
                    "at {:#x}: not what was written",
                    mismatch.address
                ))
            })?;
        }
        cpu::delay_us(50_000);
    }
}

/// Registers and never looks at its target again; says each second that it lives.
pub fn ignore(machine: &Machine) -> Outcome {
    let (_front, _driver) = register(machine)?;
    if let Some(node) = &machine.balloon {
        gic::get().disable(node.interrupt);
    }
    for second in 0_u64.. {
        println!("ignoring its target for {second} s");
        cpu::delay_us(1_000_000);
    }
    Ok(())
}

/// Verifies its whole RAM over and over, and says so each second: what a neighbour must not disturb.
pub fn counter(machine: &Machine) -> Outcome {
    let pages = ram::allocator(machine).map_err(|text| why(format_args!("{text}")))?;
    let mut front = Front::new(pages, cpu::counter() | 1);
    front.fill();
    let seconds = machine.arg_number("seconds").unwrap_or(u64::MAX);
    let mut rounds = 0_u64;
    for second in 0..seconds {
        let end = cpu::counter() + cpu::frequency();
        let mut verified = 0;
        while cpu::counter() < end {
            verified = front.verify().map_err(
                |Mismatch {
                     address,
                     found,
                     expected,
                 }| {
                    why(format_args!(
                        "at {address:#x} {found:#x}, not {expected:#x}"
                    ))
                },
            )?;
            rounds += 1;
        }
        println!("counter second={second} rounds={rounds} pages={verified}");
    }
    Ok(())
}

/// A driver whose epoch is not the current one is refused, and nothing changes.
pub fn epoch(machine: &Machine) -> Outcome {
    let (mut front, mut old) = register(machine)?;
    let before = old.reserved_pages();
    let stale = old.epoch();
    let mut new = Driver::new(&front);
    new.hello(&mut front)
        .map_err(|error| why(format_args!("second hello: {error:?}")))?;
    ensure!(new.epoch() != stale, "the epoch stayed {stale}");
    ensure!(
        new.reserved_pages() == before,
        "ownership changed: {before} to {}",
        new.reserved_pages()
    );
    for call in [function::RESERVE, function::RELEASE] {
        for wrong in [stale, 0, u64::MAX, new.epoch() + 1] {
            let [x0, ..] = front.call(call, 1, wrong);
            ensure!(
                Status::from_register(x0) == Some(Status::WrongEpoch),
                "epoch {wrong}: {x0:#x}"
            );
        }
    }
    old.step(&mut front);
    balloon::audit(&mut front, &new)?;
    let epoch = new.epoch();
    new.goodbye(&mut front);
    for call in [function::RESERVE, function::RELEASE, function::GOODBYE] {
        let (x1, x2) = if call == function::GOODBYE {
            (epoch, 0)
        } else {
            (1, epoch)
        };
        let [x0, ..] = front.call(call, x1, x2);
        ensure!(
            Status::from_register(x0) == Some(Status::NoDriver),
            "call {call:#x} after GOODBYE: {x0:#x}"
        );
    }
    Ok(())
}
