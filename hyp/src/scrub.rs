//! Cores with nothing else to do scrub free memory: those without a vCPU, and those of guests with
//! `scrub-when-idle` while they wait for an interrupt.
//!
//! At rest nothing runs: a core without a vCPU sleeps, and WFI is trapped only while there is something to scrub.
//! Whoever makes frames dirty [offers](offer) them. A core puts itself into the set that the offer looks at before it
//! looks a last time whether anything is dirty, so one of the two sees the other.

use ballast_core::balloon::Next;

use crate::aarch64::{registers, timer};
use crate::guest::Guest;
use crate::guest::hardware::Machine;
use crate::percpu::{CoreSet, Current, PerCpu, post, request};
use crate::system::{self, System};

/// Cores that sleep in EL2 or are about to.
static PARKED: CoreSet = CoreSet::new();
/// Cores that trap their guest's WFI, or were asked to.
static TRAPPING: CoreSet = CoreSet::new();

/// Pages between two looks around, on a core without a vCPU.
const PIECE: u16 = 64;
/// The same while a guest waits.
const GUEST_PIECE: u16 = 16;

/// Dirty frames may have come into the pool: a core without a vCPU scrubs them, if one sleeps; otherwise the cores of
/// guests with `scrub-when-idle`, when they wait. A core that does not sleep looks by itself before it does.
pub fn offer(system: &System, cpu: &PerCpu) {
    if let Some(core) = PARKED.first() {
        return post(cpu.gic, core, request::SCRUB);
    }
    let willing = system.guests.iter().filter(|guest| guest.scrubs());
    for core in willing.flat_map(Guest::running_cores) {
        if !TRAPPING.insert(core) {
            continue;
        }
        if core == cpu.index {
            registers::trap_wfi(true);
        } else {
            post(cpu.gic, core, request::SCRUB);
        }
    }
}

/// This core is about to enter `guest`. What is dirty by then is not looked for: its first WFI does.
pub fn entering(cpu: &PerCpu, guest: &Guest) {
    if guest.scrubs() {
        TRAPPING.insert(cpu.index);
    }
    registers::trap_wfi(guest.scrubs());
}

/// This core has left its guest.
pub fn left(cpu: &PerCpu) {
    TRAPPING.remove(cpu.index);
}

/// A core without a vCPU has nothing else to do: scrubs a piece, or sleeps. Whether there is more to scrub.
pub fn parked(system: &System, cpu: &PerCpu) -> bool {
    PARKED.insert(cpu.index);
    let next = step(system, cpu, PIECE);
    match next {
        Next::Again => {}
        Next::At(at) => {
            timer::arm(at);
            aarch64_cpu::asm::wfi();
        }
        Next::Rest => aarch64_cpu::asm::wfi(),
    }
    PARKED.remove(cpu.index);
    next != Next::Rest
}

/// A guest's WFI was trapped. True if it is over; otherwise nothing is left to scrub, and it is to be executed again.
///
/// Scrubs until an interrupt waits, so the guest's latency is a page's; or the limit on bandwidth says when to go on.
pub fn waiting(cpu: &PerCpu, Current { guest, .. }: Current) -> bool {
    let Some(system) = system::get() else {
        return true;
    };
    let mut is_last_look = false;
    while !registers::is_interrupted() {
        // A virtual interrupt ends the wait, and EL2 does not see it come (DDI 0487, D1.6.2). If it is one that the
        // guest holds back, it waits here again and again: so each time something is done.
        let is_over = !cpu.gic.has_no_virtual_interrupt();
        match step(system, cpu, if is_over { 1 } else { GUEST_PIECE }) {
            Next::Again if is_over => return true,
            Next::Again => {
                if is_last_look {
                    TRAPPING.insert(cpu.index);
                    is_last_look = false;
                }
            }
            Next::At(_) if is_over => return true,
            Next::At(at) => {
                timer::arm(at);
                aarch64_cpu::asm::wfi();
            }
            Next::Rest if !is_last_look => {
                TRAPPING.remove(cpu.index);
                is_last_look = true;
            }
            Next::Rest => {
                registers::trap_wfi(false);
                return false;
            }
        }
    }
    if is_last_look && guest.scrubs() {
        TRAPPING.insert(cpu.index);
    }
    true
}

fn step(system: &System, cpu: &PerCpu, most_pages: u16) -> Next {
    let now = crate::boot::counter();
    let step = system
        .scrubber
        .step(&system.pool, &mut Machine(cpu), now, most_pages);
    cpu.window.close();
    if step.next == Next::Rest {
        system.scheduler.ended.scrubbed();
    }
    system.wake(cpu, step.wake);
    system.relocate(cpu, step.relocate);
    step.next
}

impl Guest {
    /// Its cores scrub while they wait.
    fn scrubs(&self) -> bool {
        self.plan.config.scrub_when_idle
    }

    /// The cores its vCPUs are on.
    fn running_cores(&self) -> impl Iterator<Item = usize> {
        (0..self.plan.config.cpus.max as usize).filter_map(|vcpu| self.core_of.get(vcpu))
    }
}
