//! The message port of a guest with `user-balloon`: requests are carried out on the guest's own cores.
//!
//! The access that completes a request does its first piece; after it, and after each further one, the guest has the
//! core for as long as the piece took, as in [`super::relocate`].

use core::sync::atomic::Ordering;

use ballast_core::message_port::MessagePort;
use ballast_core::vgic::Kicks;

use super::Guest;
use super::hardware::Machine;
use crate::aarch64::{registers, timer};
use crate::calls;
use crate::percpu::{self, PerCpu, request};
use crate::system::System;

/// The shortest time between two pieces, in microseconds.
const REST_US: u64 = 20;

impl Guest {
    /// Runs `f` on the port under its lock, if the guest has one, and carries its interrupt line on.
    pub fn with_messages<R>(
        &self,
        cpu: &PerCpu,
        f: impl FnOnce(&mut MessagePort) -> R,
    ) -> Option<R> {
        let mut port = self.messages.as_ref()?.lock();
        let result = f(&mut port);
        let kicks = match port.effects().line {
            Some(level) => self.drive(cpu, self.machine.messages_intid, || level),
            None => Kicks::NONE,
        };
        drop(port);
        self.kick(cpu, kicks);
        Some(result)
    }

    /// Whether a request was [postponed](postpone) for a relocation, which waits this time. Once for each time.
    pub fn take_message_turn(&self) -> bool {
        self.is_message_next.swap(false, Ordering::Relaxed)
    }
}

/// Tells the driver, if it is one with messages, that there is a target to fetch.
pub fn tell(cpu: &PerCpu, guest: &Guest) {
    guest.with_messages(cpu, |port| {
        let memory = &guest.memory;
        // Read under the lock, as the line's level is.
        port.set_target_pending(memory.has_messages() && memory.target.is_pending());
    });
}

/// An access has left a request to be carried out, and has completed it if `is_new`. One that is being carried out goes
/// on by the timer: a guest that polls shall not do a piece with each access, and the timer's on top.
pub fn accessed(system: &'static System, cpu: &PerCpu, guest: &Guest, is_new: bool) {
    if is_new || !timer::is_armed() {
        running(system, cpu, guest);
    }
}

/// The next piece of a request, on a core that runs `guest`.
pub fn running(system: &'static System, cpu: &PerCpu, guest: &Guest) {
    let start = crate::boot::counter();
    if step(system, cpu, guest) {
        let took = crate::boot::counter().wrapping_sub(start);
        rest(system, took);
    }
}

/// The next piece of a request comes later, as this exit has done enough, but before anything else of the kind.
pub fn postpone(system: &System, cpu: &PerCpu, guest: &Guest) {
    if has_work(cpu, guest) {
        guest.is_message_next.store(true, Ordering::Relaxed);
        rest(system, 0);
    }
}

/// Whether a request waits for its next piece.
pub fn has_work(cpu: &PerCpu, guest: &Guest) -> bool {
    guest.with_messages(cpu, |port| port.has_work()) == Some(true)
}

fn rest(system: &System, took: u64) {
    let rest = took.max(system.frequency * REST_US / 1_000_000);
    timer::arm(crate::boot::counter().saturating_add(rest));
}

/// The next piece of a request, on a core of `guest` that waits in EL2.
pub fn parked(system: &'static System, cpu: &PerCpu, guest: &Guest) {
    if !has_work(cpu, guest) {
        return;
    }
    registers::load_guest(guest.vttbr(), system.vtcr, 0);
    if step(system, cpu, guest) {
        // By way of the core's loop, which looks at everything else first.
        percpu::post(cpu.gic, cpu.index, request::RELOCATE);
    }
}

/// Whether there is more to do.
fn step(system: &'static System, cpu: &PerCpu, guest: &Guest) -> bool {
    let Some(Some(mut work)) = guest.with_messages(cpu, MessagePort::take_work) else {
        return false;
    };
    let step = work.step(&guest.memory, &system.pool, &mut Machine(cpu));
    cpu.window.close();
    let message = work.message();
    guest.with_messages(cpu, |port| port.put_back(work, step.is_done));
    if let Some(outcome) = &step.outcome {
        let [x1, ..] = message.registers;
        calls::after(system, cpu, guest, message.function, x1, outcome);
    }
    !step.is_done
}
