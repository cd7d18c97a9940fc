//! Relocation on the cores of the guest that holds what another wants back.
//!
//! A bounded piece at a time. Between two pieces the guest has its core for as long as the last one took, and at
//! least [`REST_US`]: so one core of it runs at half speed while something moves, and no interrupt waits longer
//! than one run of 64 KiB takes. What nobody waits for, gathering pages to merge blocks, has an eighth of a core.

use core::sync::atomic::Ordering;

use ballast_core::balloon::Relocated;

use super::Guest;
use super::hardware::Machine;
use crate::aarch64::{registers, timer};
use crate::percpu::{self, PerCpu, request};
use crate::scrub;
use crate::system::System;

/// The shortest time between two pieces, in microseconds.
const REST_US: u64 = 20;
/// How many times longer the guest has its core for itself when nobody waits for what moves.
const LEISURE: u64 = 7;

impl Guest {
    /// Asks a core of the guest to relocate: one that runs a vCPU, else one that waits. A core that leaves the guest
    /// meanwhile asks again ([`crate::run::leave`], [`System::set_cpus`]).
    pub fn ask_to_relocate(&self, system: &System, cpu: &PerCpu) {
        let running =
            (0..self.plan.config.cpus.max as usize).find_map(|vcpu| self.core_of.get(vcpu));
        if let Some(core) = running.or_else(|| system.cores.granted(self.index).iter().next()) {
            percpu::post(cpu.gic, core, request::RELOCATE);
        }
    }
}

/// On a core that runs `guest`.
pub fn running(system: &System, cpu: &PerCpu, guest: &Guest) {
    if !guest.memory.has_to_relocate() {
        return;
    }
    let start = crate::boot::counter();
    let resumes = guest.gathers_again.load(Ordering::Relaxed);
    if start < resumes && !system.pool.lock().is_in_the_way(guest.memory.guest()) {
        timer::arm(resumes);
        return;
    }
    let relocated = step(system, cpu, guest);
    let now = crate::boot::counter();
    let rest = now
        .wrapping_sub(start)
        .max(system.frequency * REST_US / 1_000_000);
    if relocated.at_leisure {
        let resumes = now.saturating_add(rest.saturating_mul(LEISURE));
        guest.gathers_again.store(resumes, Ordering::Relaxed);
        if relocated.more {
            timer::arm(resumes);
        }
    } else if relocated.more {
        timer::arm(now.saturating_add(rest));
    }
}

/// The next piece comes later, if there is one, as this exit has done enough.
pub fn postpone(system: &System, guest: &Guest) {
    if guest.memory.has_to_relocate() {
        let rest = system.frequency * REST_US / 1_000_000;
        timer::arm(crate::boot::counter().saturating_add(rest));
    }
}

/// On a core of `guest` that waits in EL2.
pub fn parked(system: &System, cpu: &PerCpu, guest: &Guest) {
    if !guest.memory.has_to_relocate() {
        return;
    }
    registers::load_guest(guest.vttbr(), system.vtcr, 0);
    if step(system, cpu, guest).more {
        // By way of the core's loop, which looks at everything else first.
        percpu::post(cpu.gic, cpu.index, request::RELOCATE);
    }
}

fn step(system: &System, cpu: &PerCpu, guest: &Guest) -> Relocated {
    let relocated = guest.memory.relocate_step(&system.pool, &mut Machine(cpu));
    cpu.window.close();
    system.wake(cpu, relocated.wake);
    system.relocate(cpu, relocated.relocate);
    scrub::offer(system, cpu);
    relocated
}
