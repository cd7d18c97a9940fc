//! HVC and SMC: what a guest asks for by function identifier.

use ballast_abi::function;
use ballast_core::addr::Ipa;
use ballast_core::balloon::Outcome;
use ballast_core::log::{Event, Origin};
use ballast_core::psci;
use ballast_core::smccc::{self, Action};
use ballast_core::vgic::HostGic;

use crate::channels;
use crate::control;
use crate::guest::Guest;
use crate::guest::hardware::Machine;
use crate::guest::lifecycle::After;
use crate::percpu::{self, Current, PerCpu, request};
use crate::run;
use crate::scrub;
use crate::self_test;
use crate::system;
use crate::traps::Frame;

impl psci::Guest for Guest {
    fn is_ram(&self, entry: Ipa) -> bool {
        let banks = &self.plan.config.extra_ram;
        let mut all = self.plan.ram.iter().chain(banks);
        all.any(|range| range.offset_of(entry).is_some())
    }

    fn take_core(&self, vcpu: usize) -> Option<usize> {
        system::get()?.cores.take(self.index, vcpu)
    }
}

/// A call by HVC or SMC; arguments and results are in `frame`.
#[inline]
pub fn call(cpu: &'static PerCpu, current: Current, frame: &mut Frame) {
    let [x0, x1, ..] = frame.x;
    match smccc::query(x0, x1) {
        Some(value) => frame.x[0] = value,
        None => other(cpu, current, frame),
    }
}

/// A call that needs more than its arguments. Apart from [`call`], which so needs no stack.
#[inline(never)]
fn other(cpu: &'static PerCpu, current: Current, frame: &mut Frame) {
    let Current { guest, vcpu } = current;
    let [x0, x1, x2, x3, ..] = frame.x;
    match smccc::dispatch(x0, [x1, x2, x3], vcpu, &guest.psci, &cpu.workarounds, guest) {
        Action::Return(value) => frame.x[0] = value,
        Action::Balloon(function::SIGNAL) => {
            if let Some(system) = system::get() {
                channels::signal(system, cpu, guest, frame);
            }
        }
        Action::Balloon(function::CHANNEL) => {
            if let Some(system) = system::get() {
                channels::fetch(system, guest, frame);
            }
        }
        Action::Start {
            vcpu,
            core,
            entry,
            context,
        } => {
            guest.start_of(vcpu).set(entry, context);
            guest.core_chosen();
            percpu::assign(core, guest.index, vcpu);
            percpu::post(cpu.gic, core, request::START);
            frame.x[0] = 0;
        }
        action => uncommon(cpu, current, frame, action),
    }
}

#[cold]
fn uncommon(cpu: &'static PerCpu, current: Current, frame: &mut Frame, action: Action) {
    let Current { guest, .. } = current;
    let Some(system) = system::get() else { return };
    match action {
        Action::Return(value) => frame.x[0] = value,
        Action::ReturnWords(words) => {
            for (register, word) in frame.x.iter_mut().zip(words) {
                *register = u64::from(word);
            }
        }
        Action::Balloon(function) if control::is_call(function) => {
            control::call(system, cpu, guest, frame, function);
        }
        Action::Balloon(function::SELF_TEST) => self_test::call(system, cpu, guest, frame),
        Action::Balloon(function) => balloon(system, cpu, guest, frame, function),
        Action::Standby => {
            let host = guest.host(cpu);
            let all = (1_u64 << host.list_registers()) - 1;
            // A virtual interrupt does not wake EL2 (DDI 0487, D1.6.2), so one that waits ends it at once.
            if u64::from(host.empty()) & all == all {
                aarch64_cpu::asm::wfi();
            }
            frame.x[0] = 0;
        }
        // Carried out by `other`.
        Action::Start { .. } => {}
        Action::Stop => run::leave(system, cpu),
        Action::SystemOff => leave_for_good(system, cpu, guest, After::PoweredOff),
        Action::SystemReset => leave_for_good(system, cpu, guest, After::Reset),
    }
}

fn leave_for_good(
    system: &'static system::System,
    cpu: &'static PerCpu,
    guest: &'static Guest,
    after: After,
) -> ! {
    // Whether this call stops the guest or another stop is under way: this core leaves.
    guest.stop(system, cpu, after, Origin::Guest);
    run::leave(system, cpu)
}

fn balloon(
    system: &'static system::System,
    cpu: &'static PerCpu,
    guest: &'static Guest,
    frame: &mut Frame,
    function: u32,
) {
    let [_, x1, x2, x3, x4, ..] = frame.x;
    let outcome = guest
        .memory
        .call(&system.pool, &mut Machine(cpu), function, [x1, x2, x3, x4]);
    cpu.window.close();
    let Some(outcome) = outcome else {
        frame.x[0] = smccc::NOT_SUPPORTED;
        return;
    };
    for (register, result) in frame.x.iter_mut().zip(outcome.registers) {
        *register = result;
    }
    after(system, cpu, guest, function, x1, &outcome);
}

/// What else follows from a call of the balloon interface, however it was made.
pub fn after(
    system: &'static system::System,
    cpu: &PerCpu,
    guest: &Guest,
    function: u32,
    x1: u64,
    outcome: &Outcome,
) {
    if function == ballast_abi::function::TARGET {
        guest.update_balloon(cpu);
    }
    if function == ballast_abi::function::HELLO
        && outcome.registers[0] == 0
        && guest.may_log(crate::boot::counter(), system.frequency)
    {
        system.record(Event::Driver {
            guest: guest.index as u8,
            epoch: outcome.registers[1] as u32,
        });
    }
    system.wake(cpu, outcome.wake);
    if outcome.registers[0] == 0 && !guest.plan.config.realtime {
        system.scheduler.called(system, guest, function, x1);
    }
    system.relocate(cpu, outcome.relocate);
    if guest.memory.has_to_relocate() {
        // The call may have been in its way.
        guest.ask_to_relocate(system, cpu);
    }
    if function == ballast_abi::function::RESERVE {
        scrub::offer(system, cpu);
    }
}
