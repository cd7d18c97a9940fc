//! What a core does: run its vCPU, or wait for one.
//!
//! A core sleeps in EL2 with interrupts masked; an interrupt still wakes it (DDI 0487, D1.6), and it
//! looks around: at the interrupt, at what other cores have asked of it, at frames to scrub.

use ballast_core::log::{Event, Origin};
use ballast_core::vgic::IntId;

use crate::aarch64::{registers, speculation, tlb};
use crate::guest::lifecycle::After;
use crate::guest::{Guest, messages, relocate};
use crate::interrupts;
use crate::layout;
use crate::percpu::{self, Current, PerCpu, request};
use crate::report;
use crate::scrub;
use crate::system::{self, System};

unsafe extern "C" {
    fn enter_guest(entry: u64, spsr: u64, x0: u64, frame: u64) -> !;
    fn restart_core(stack_top: u64) -> !;
}

/// Core 0, when boot is over: from the boot stack to the core's own.
pub fn start_core(core: usize) -> ! {
    // SAFETY: the core's own stack, mapped and unused so far.
    unsafe { restart_core(layout::stack_top(core)) }
}

/// A core without a running vCPU.
pub fn core_loop() -> ! {
    let cpu = percpu::current();
    let mut is_scrubbing = false;
    loop {
        let Some(system) = system::get() else {
            aarch64_cpu::asm::wfe();
            continue;
        };
        interrupts::drain(system, cpu);
        let requests = percpu::take_requests(cpu.index);
        if is_scrubbing && requests & (request::LOAD | request::START) != 0 {
            scrub::offer(system, cpu);
        }
        serve_parked(system, cpu, requests);
        if requests == 0 {
            is_scrubbing = scrub::parked(system, cpu);
        }
    }
}

/// Between two pieces of long work on a parked core: interrupts are served, requests stay.
pub fn look_around(cpu: &PerCpu) {
    if let Some(system) = system::get() {
        interrupts::drain(system, cpu);
    }
}

fn serve_parked(system: &'static System, cpu: &'static PerCpu, requests: u32) {
    if requests & request::RELOCATE != 0
        && let Some(guest) = system.holder(cpu.index)
    {
        relocate::parked(system, cpu, guest);
        messages::parked(system, cpu, guest);
    }
    if requests & request::START != 0 {
        let (guest, vcpu) = percpu::assigned(cpu.index);
        if let Some(guest) = system.guests.get(guest) {
            run(system, cpu, guest, vcpu);
        }
    }
    if requests & request::LOAD != 0
        && let Some(guest) = system.guests.get(percpu::assigned(cpu.index).0)
    {
        load(system, cpu, guest);
    }
}

/// Builds `guest` and enters it on this core, which was taken for its vCPU 0.
fn load(system: &'static System, cpu: &'static PerCpu, guest: &'static Guest) {
    let loaded = guest.load(system, cpu);
    cpu.window.close();
    guest.memory.end_load();
    scrub::offer(system, cpu);
    if guest.memory.has_to_relocate() {
        percpu::post(cpu.gic, cpu.index, request::RELOCATE);
    }
    match loaded {
        Ok(()) => {
            // No core is in the guest or on its way: every vCPU is off.
            let _ = guest.psci.claim(0);
            guest.loaded();
            // Nobody can see it stopped before: that takes this core.
            system.tell_started(cpu, guest);
            system.record(Event::Started {
                guest: guest.index as u8,
                by: guest.asked_by(),
            });
            run(system, cpu, guest, 0);
        }
        Err(error) => {
            // In this order: whoever sees it stopped finds a core for it.
            system.put_back(cpu, guest);
            guest.load_failed();
            system.record(Event::Stopped {
                guest: guest.index as u8,
                by: Origin::Ballast,
            });
            system.terminal.say(format_args!(
                "{}: not started: {error}",
                guest.plan.config.name
            ));
            system.terminal.pump(system, cpu);
        }
    }
}

/// Enters the vCPU with everything in its reset state; returns only if the guest is being stopped.
fn run(system: &'static System, cpu: &'static PerCpu, guest: &'static Guest, vcpu: usize) {
    /// EL1h, DAIF masked (Linux `booting.rst`; PSCI DEN0022, 6.4).
    const SPSR: u64 = 0x3c5;
    if !guest.may_enter() {
        guest.leaving(cpu);
        system.put_back(cpu, guest);
        guest.psci.set_off(vcpu);
        guest.left(system, cpu);
        return;
    }
    guest.psci.set_on(vcpu);
    guest.core_of.set(vcpu, Some(cpu.index));
    registers::load_guest(guest.vttbr(), system.vtcr, vcpu);
    tlb::forget_vcpu();
    speculation::enter(guest.plan.config.harden);
    scrub::entering(cpu, guest);
    if guest.plan.config.self_test {
        registers::give_pmu(true);
    }
    cpu.gic.start_virtual_interface();
    cpu.current.set(Some(Current { guest, vcpu }));
    let kicks = {
        let mut host = guest.host(cpu);
        guest.vgic.lock().vcpu_on(vcpu, &mut host)
    };
    guest.kick(cpu, kicks);
    let (entry, context) = guest.start_of(vcpu).get();
    let frame = layout::stack_top(cpu.index) - core::mem::size_of::<crate::traps::Frame>() as u64;
    // SAFETY: registers, stage 2 and the interrupt interface are the guest's; the frame lies at the top
    // of this core's stack, whose content is given up.
    unsafe { enter_guest(entry, SPSR, context, frame) }
}

/// Takes this core out of its vCPU, which is off then, and back to waiting.
pub fn leave(system: &'static System, cpu: &'static PerCpu) -> ! {
    if let Some(current) = cpu.current.take() {
        let Current { guest, vcpu } = current;
        if let Some(syndrome) = registers::pending_serror() {
            // Not of the next guest's doing. What else it concerns is not known: as where it is taken at once.
            report::stop(system, current, syndrome);
            guest.stop(system, cpu, After::Fault, Origin::Ballast);
        }
        registers::reset_guest_state();
        scrub::left(cpu);
        if guest.plan.config.self_test {
            registers::give_pmu(false);
        }
        let kicks = {
            let mut host = guest.host(cpu);
            guest.vgic.lock().vcpu_off(vcpu, &mut host)
        };
        guest.kick(cpu, kicks);
        cpu.gic.reset_virtual_interface();
        for timer in [IntId::VIRTUAL_TIMER, IntId::PHYSICAL_TIMER] {
            cpu.gic.clear_active(cpu.index, u32::from(timer.0));
        }
        guest.core_of.set(vcpu, None);
        // Before another guest may have this core, which would wait for it.
        guest.leaving(cpu);
        // In this order: whoever sees the vCPU off finds a core for it, if the guest keeps this one.
        system.put_back(cpu, guest);
        guest.psci.set_off(vcpu);
        guest.left(system, cpu);
        if guest.memory.has_to_relocate() || guest.may_enter() && messages::has_work(cpu, guest) {
            // This core may have been the one that was to do it.
            guest.ask_to_relocate(system, cpu);
        }
    }
    // SAFETY: the core's own stack from the top; nothing on it is needed any more.
    unsafe { restart_core(layout::stack_top(cpu.index)) }
}

/// Where `restart_core` continues.
#[unsafe(no_mangle)]
extern "C" fn rust_core_loop() -> ! {
    core_loop()
}
