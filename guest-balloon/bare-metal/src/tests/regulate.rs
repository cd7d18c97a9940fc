//! The real-time guest of the example: a control loop that gets its set-points from another guest and sends telemetry back.
//!
//! A tick every millisecond moves the plant towards the set-point. Ticks come from the timer alone: a set-point that
//! arrives is looked at by the next tick, so nothing the other guest does changes when the loop runs. With `pin=N`
//! each tick changes that pin, which an oscilloscope sees.

use core::sync::atomic::Ordering;

use aarch64_cpu::registers::{CNTV_CTL_EL0, CNTV_CVAL_EL0, Writeable};
use ballast_balloon::channel::Notify;
use ballast_balloon::channel::ring::{Consumer, Producer};

use super::channel::{Line, call};
use super::shared::Pin;
use super::{Outcome, why};
use crate::machine::Machine;
use crate::{cpu, gic, println};

/// Ticks a second of the loop.
const RATE_HZ: u64 = 1000;

/// Runs for ever.
pub fn run(machine: &Machine) -> Outcome {
    let (from, to) = (
        Line::open(machine, "setpoints")?,
        Line::open(machine, "telemetry")?,
    );
    let small = || why(format_args!("too small"));
    let mut setpoints = Consumer::new(from.memory, to.memory).ok_or_else(small)?;
    let mut telemetry = Producer::new(to.memory, from.memory).ok_or_else(small)?;
    gic::get().enable(gic::VIRTUAL_TIMER);
    // The loop's heartbeat on the board, if the guest has a pin for it.
    let pin = machine.arg_number("pin").map(|pin| Pin::output(pin as u32));
    let mut is_high = false;
    println!("regulate: {RATE_HZ} ticks a second");

    let this = cpu::this();
    let period = cpu::frequency() / RATE_HZ;
    let (mut position, mut target, mut number) = (0_i32, 0_i32, 0_u32);
    let (mut is_reported, mut worst_us, mut fetched) = (true, 0, None);
    let mut due = cpu::counter() + period;
    loop {
        let ticks = this.timer_ticks.load(Ordering::Acquire);
        CNTV_CVAL_EL0.set(due);
        CNTV_CTL_EL0.write(CNTV_CTL_EL0::ENABLE::SET);
        cpu::sleep_until(|| this.timer_ticks.load(Ordering::Acquire) != ticks);
        if let Some(pin) = pin {
            is_high = !is_high;
            pin.drive(is_high);
        }
        let late = this.timer_at.load(Ordering::Relaxed).saturating_sub(due);
        worst_us = worst_us.max(late * 1_000_000 / cpu::frequency().max(1));
        // Late ticks are left out, not made up for.
        let now = cpu::counter();
        due += period * (1 + now.saturating_sub(due) / period);

        let interrupts = from.interrupts();
        if fetched != Some(interrupts) {
            fetched = Some(interrupts);
            let events = from.fetch()?;
            if events.peer_stopped() {
                println!("regulate: the other guest has stopped; holding {target}");
            }
        }
        let mut message = [0; 64];
        // One a tick: what a tick does is bounded.
        match setpoints.pop(&mut message) {
            Ok(Some(8)) => {
                let [a, b, c, d, e, f, g, h, ..] = message;
                number = u32::from_le_bytes([a, b, c, d]);
                target = i32::from_le_bytes([e, f, g, h]);
                is_reported = false;
            }
            Ok(Some(_)) | Err(_) => setpoints.discard(),
            Ok(None) => {}
        }
        let way = target.wrapping_sub(position);
        position = position.wrapping_add(if way.abs() < 4 { way } else { way / 4 });
        if position == target && !is_reported {
            is_reported = true;
            let worst = u32::try_from(worst_us).unwrap_or(u32::MAX);
            let mut report = [0; 12];
            report[..4].copy_from_slice(&number.to_le_bytes());
            report[4..8].copy_from_slice(&position.to_le_bytes());
            report[8..].copy_from_slice(&worst.to_le_bytes());
            // A guest that does not read, or does not run, misses it.
            if telemetry.push(&report) == Ok(Notify::Ring) {
                let _ = to.channel.ring(call);
            }
        }
    }
}
