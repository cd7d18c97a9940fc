//! Exits: where the vectors call Rust. Each ends in resuming the guest, injecting a fault into it,
//! or stopping it.

mod data_abort;

use core::sync::atomic::Ordering;

use ballast_core::addr::Ipa;
use ballast_core::exit::{self, Abort, AccessFault, Exit, SystemAccess};
use ballast_core::fault::Access;
use ballast_core::log::Origin;
use ballast_core::monitor::ExitCause;
use ballast_core::stage2;
use ballast_core::sysreg::{self, Verdict};
use ballast_core::vgic;
use data_abort::data_abort;

use crate::aarch64::registers::{self, read};
use crate::guest::hardware::Machine;
use crate::guest::lifecycle::After;
use crate::percpu::{self, Current, PerCpu};
use crate::report;
use crate::run;
use crate::scrub;
use crate::sgi::{self, SgiWrite};
use crate::system;

/// The guest's general registers while EL2 works; `vectors.S` knows the layout.
#[repr(C)]
pub struct Frame {
    /// x0 to x30; x19 to x29 are there only for exits that concern one of them.
    pub x: [u64; 31],
    _pad: u64,
}

impl Frame {
    /// Register `n`; 31 is the zero register.
    #[inline]
    fn get(&self, n: u8) -> u64 {
        self.x.get(usize::from(n)).copied().unwrap_or(0)
    }

    /// Sets register `n`; 31 is the zero register.
    #[inline]
    fn set(&mut self, n: u8, value: u64) {
        if let Some(register) = self.x.get_mut(usize::from(n)) {
            *register = value;
        }
    }
}

/// HVC from AArch64. Only x0-x18 and x30 are saved in `frame`.
#[unsafe(no_mangle)]
extern "C" fn rust_hypercall(frame: &mut Frame, _esr: u64) {
    let cpu = percpu::current();
    let Some(current) = cpu.current.get() else {
        return;
    };
    current.guest.counts_of(current.vcpu).count(ExitCause::Hvc);
    crate::calls::call(cpu, current, frame);
}

/// SMC, which HCR_EL2.TSC traps before it is executed. As [`rust_hypercall`].
#[unsafe(no_mangle)]
extern "C" fn rust_smc(frame: &mut Frame, _esr: u64) {
    let cpu = percpu::current();
    let Some(current) = cpu.current.get() else {
        return;
    };
    current.guest.counts_of(current.vcpu).count(ExitCause::Smc);
    registers::step(4);
    crate::calls::call(cpu, current, frame);
}

/// A data abort. `frame` has the register that is loaded or stored; others may be missing.
#[unsafe(no_mangle)]
extern "C" fn rust_data_abort(frame: &mut Frame, esr: u64) {
    let cpu = percpu::current();
    let Some(current) = cpu.current.get() else {
        return;
    };
    data_abort(cpu, current, frame, Abort(esr));
}

/// A trapped system register. `frame` as for [`rust_data_abort`].
#[unsafe(no_mangle)]
extern "C" fn rust_system_register(frame: &mut Frame, esr: u64) {
    let cpu = percpu::current();
    let Some(current) = cpu.current.get() else {
        return;
    };
    current
        .guest
        .counts_of(current.vcpu)
        .count(ExitCause::Sysreg);
    let access = SystemAccess(esr);
    if current.guest.gic_version == vgic::Version::V3 && sysreg::is_sgi1r_write(access) {
        let value = frame.get(access.register());
        registers::step(4);
        if !sgi::sent_to_self(cpu, current.guest, value) {
            sgi::send(cpu, current, value, SgiWrite::Sgi1r);
        }
        return;
    }
    system_register(cpu, current, frame, access, esr);
}

/// Any other synchronous exit, and those above that concern a register of x19 to x29.
#[unsafe(no_mangle)]
extern "C" fn rust_sync(frame: &mut Frame, esr: u64) {
    let cpu = percpu::current();
    let Some(current) = cpu.current.get() else {
        return;
    };
    let counts = current.guest.counts_of(current.vcpu);
    match exit::decode(esr) {
        Exit::DataAbort(_) => rust_data_abort(frame, esr),
        Exit::System(_) => rust_system_register(frame, esr),
        Exit::Smc => rust_smc(frame, esr),
        Exit::Hvc => {}
        Exit::InstructionAbort(abort) => {
            counts.count(ExitCause::Abort);
            let ipa = Abort::ipa(read!("HPFAR_EL2"), read!("FAR_EL2"));
            judge(cpu, current, abort, ipa);
        }
        Exit::Wait => {
            counts.count(ExitCause::Wfx);
            if scrub::waiting(cpu, current) {
                registers::step(exit::instruction_bytes(esr));
            }
        }
        Exit::Undefined => {
            counts.count(ExitCause::Other);
            undefined(esr);
        }
    }
}

/// A stage-2 abort that no model answers: noted if it is for an access flag, retried if the guest owns the page, else injected.
fn judge(cpu: &'static PerCpu, current: Current, abort: Abort, ipa: Ipa) {
    if abort.fault() == AccessFault::AccessFlag {
        current.guest.memory.accessed(&mut Machine(cpu), ipa);
        return cpu.window.close();
    }
    let owned = abort.fault() == AccessFault::Translation
        && current.guest.memory.stage2.judge(&mut Machine(cpu), ipa) == stage2::Verdict::Refault;
    cpu.window.close();
    if !owned {
        if !current.guest.has_faulted.load(Ordering::Relaxed)
            && let Some(system) = system::get()
        {
            report::abort(system, cpu, current, abort.0, ipa);
        }
        inject_abort(abort);
    }
}

/// A synchronous external abort for the guest, as from a bus where nothing answers.
fn inject_abort(abort: Abort) {
    let access = match exit::decode(abort.0) {
        Exit::InstructionAbort(_) => Access::Instruction,
        _ => Access::Data,
    };
    registers::inject(registers::context().external_abort(access, abort, read!("FAR_EL2")));
}

fn undefined(esr: u64) {
    registers::inject(registers::context().undefined(esr));
}

/// An access to a system register that traps.
#[inline(never)]
fn system_register(
    cpu: &'static PerCpu,
    current: Current,
    frame: &mut Frame,
    access: SystemAccess,
    esr: u64,
) {
    let Current { guest, vcpu } = current;
    let Some(system) = system::get() else { return };
    match sysreg::judge(
        access.system_register(),
        access.direction(),
        &system.ids,
        guest.gic_version,
    ) {
        Verdict::SendSgi(register) => {
            let mut vgic = guest.vgic.lock();
            let sgi = vgic.sgi_of_register(vcpu, register, frame.get(access.register()));
            let kicks = vgic.send_sgi(vcpu, sgi, || guest.host(cpu));
            drop(vgic);
            guest.kick(cpu, kicks);
        }
        Verdict::Value(value) => frame.set(access.register(), value),
        Verdict::Ignore => {}
        Verdict::Undefined => return undefined(esr),
    }
    registers::step(4);
}

/// An SError while a guest runs: of an access it made, but of which is not known, so it cannot be
/// given back. The guest stops, with a report.
#[unsafe(no_mangle)]
extern "C" fn rust_serror(_frame: &mut Frame, esr: u64) {
    let cpu = percpu::current();
    let (Some(current), Some(system)) = (cpu.current.get(), system::get()) else {
        return;
    };
    report::stop(system, current, esr);
    current
        .guest
        .stop(system, cpu, After::Fault, Origin::Ballast);
    run::leave(system, cpu)
}
