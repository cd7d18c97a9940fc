//! Exits: where the vectors call Rust. Each ends in resuming the guest, injecting a fault into it,
//! or stopping it.

use core::sync::atomic::Ordering;

use ballast_core::addr::Ipa;
use ballast_core::exit::{self, Abort, AccessFault, DataAccess, Exit, SystemAccess, Width};
use ballast_core::fault::Access;
use ballast_core::log::Origin;
use ballast_core::mediate;
use ballast_core::monitor::ExitCause;
use ballast_core::stage2;
use ballast_core::sysreg::{self, Verdict};
use ballast_core::vgic::{self, Vgic};

use crate::aarch64::registers::{self, read};
use crate::guest::Guest;
use crate::guest::hardware::Machine;
use crate::guest::lifecycle::After;
use crate::guest::messages;
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

/// The ways part early and out of line: each saves only the registers that it needs.
#[inline]
fn data_abort(cpu: &'static PerCpu, current: Current, frame: &mut Frame, abort: Abort) {
    let ipa = Abort::ipa(read!("HPFAR_EL2"), read!("FAR_EL2"));
    let Some(access) = abort.access().filter(|_| abort.is_translation()) else {
        return not_emulated(cpu, current, abort, ipa);
    };
    let (block, offset) = if let Some(offset) = current.guest.machine.gicd.offset_of(ipa) {
        (vgic::Frame::Distributor, offset)
    } else if current.guest.gic_version == vgic::Version::V3
        && let Some(offset) = current.guest.machine.gicr.offset_of(ipa)
    {
        (vgic::Frame::Redistributors, offset)
    } else {
        return emulate(cpu, current, frame, ipa, access);
    };
    let Current { guest, vcpu } = current;
    let offset = offset as u32;
    if access.is_write() {
        return if Vgic::is_sgir(guest.gic_version, block, offset) && access.width() == Width::Word {
            guest.counts_of(vcpu).count(ExitCause::MmioGic);
            registers::step(exit::instruction_bytes(abort.0));
            let value = access.stored(frame.get(access.register()));
            if !sgi::sent_to_self(cpu, guest, value) {
                sgi::send(cpu, current, value, SgiWrite::Sgir);
            }
        } else if vgic::may_poke(offset) {
            poke_gic(cpu, current, frame, block, offset, access)
        } else {
            write_gic(cpu, current, frame, block, offset, access)
        };
    }
    let glance = guest.vgic.lock().glance(vcpu, block, offset);
    match glance.filter(|_| access.width() == Width::Word) {
        Some(value) => {
            frame.set(access.register(), access.loaded(value.into()));
            guest.counts_of(vcpu).count(ExitCause::MmioGic);
            registers::step(exit::instruction_bytes(abort.0));
        }
        None => read_gic(cpu, current, frame, block, offset, access),
    }
}

#[inline(never)]
fn read_gic(
    cpu: &'static PerCpu,
    Current { guest, vcpu }: Current,
    frame: &mut Frame,
    block: vgic::Frame,
    offset: u32,
    access: DataAccess,
) {
    let mut host = guest.host(cpu);
    let read = guest
        .vgic
        .lock()
        .read(vcpu, block, offset, access.width(), &mut host);
    frame.set(access.register(), access.loaded(read.value));
    guest.counts_of(vcpu).count(ExitCause::MmioGic);
    registers::step(exit::instruction_bytes(access.abort().0));
    guest.kick(cpu, read.kicks);
}

/// The short way of [`write_gic`], which has the rest.
#[inline(never)]
fn poke_gic(
    cpu: &'static PerCpu,
    current: Current,
    frame: &mut Frame,
    block: vgic::Frame,
    offset: u32,
    access: DataAccess,
) {
    let Current { guest, vcpu } = current;
    let value = frame.get(access.register()) as u32;
    let is_done =
        access.width() == Width::Word && guest.vgic.lock().poke(vcpu, block, offset, value);
    if !is_done {
        return write_gic(cpu, current, frame, block, offset, access);
    }
    guest.counts_of(vcpu).count(ExitCause::MmioGic);
    registers::step(exit::instruction_bytes(access.abort().0));
}

#[inline(never)]
fn write_gic(
    cpu: &'static PerCpu,
    Current { guest, vcpu }: Current,
    frame: &mut Frame,
    block: vgic::Frame,
    offset: u32,
    access: DataAccess,
) {
    let value = access.stored(frame.get(access.register()));
    let mut host = guest.host(cpu);
    let kicks = guest
        .vgic
        .lock()
        .write(vcpu, block, offset, access.width(), value, &mut host);
    guest.counts_of(vcpu).count(ExitCause::MmioGic);
    registers::step(exit::instruction_bytes(access.abort().0));
    guest.kick(cpu, kicks);
}

/// A load or store outside the interrupt controller: another device that EL2 models, or nothing.
#[inline(never)]
fn emulate(
    cpu: &'static PerCpu,
    current: Current,
    frame: &mut Frame,
    ipa: Ipa,
    access: DataAccess,
) {
    let Current { guest, vcpu } = current;
    let counts = &guest.counts_of(vcpu);
    if let Some(offset) = guest.machine.uart.offset_of(ipa) {
        counts.count(ExitCause::MmioUart);
        uart(cpu, current, frame, offset as u32, access);
    } else if let Some(offset) = guest.machine.messages.offset_of(ipa) {
        counts.count(ExitCause::MmioUart);
        messages(cpu, guest, frame, offset as u32, access);
    } else if let (Some(dog), Some((_, range))) = (&guest.watchdog, guest.machine.watchdog)
        && let Some(offset) = range.offset_of(ipa)
    {
        counts.count(ExitCause::MmioOther);
        let stored = frame.get(access.register());
        let value = access.is_write().then(|| access.stored(stored));
        let loaded = dog.access(cpu, offset as u32, access.width(), value);
        if !access.is_write() {
            frame.set(access.register(), access.loaded(loaded));
        }
    } else if guest
        .plan
        .config
        .raz_windows
        .iter()
        .any(|window| window.offset_of(ipa).is_some())
    {
        counts.count(ExitCause::MmioOther);
        if !access.is_write() {
            frame.set(access.register(), 0);
        }
    } else if let Some((page, offset)) = guest.plan.config.mediated.find(ipa) {
        return mediated(cpu, current, frame, ipa, access, page, offset);
    } else {
        return not_emulated(cpu, current, access.abort(), ipa);
    }
    registers::step(exit::instruction_bytes(access.abort().0));
}

/// An access to a page of registers that have several holders.
#[inline(never)]
fn mediated(
    cpu: &'static PerCpu,
    current: Current,
    frame: &mut Frame,
    ipa: Ipa,
    access: DataAccess,
    page: usize,
    offset: u16,
) {
    let Current { guest, vcpu } = current;
    let width = access.width();
    let made = if access.is_write() {
        mediate::Access::Store(access.stored(frame.get(access.register())))
    } else {
        mediate::Access::Load
    };
    let config = &guest.plan.config.mediated;
    let effect = config.access(page, offset, width, made);
    match effect {
        mediate::Effect::Abort => return not_emulated(cpu, current, access.abort(), ipa),
        mediate::Effect::Console { offset } => uart(cpu, current, frame, offset, access),
        effect => {
            let registers = guest.shared_pages.get(page);
            match registers.map(|page| page.carry_out(effect, width)) {
                Some(Ok(value)) if !access.is_write() => {
                    frame.set(access.register(), access.loaded(value.into()));
                }
                Some(Ok(_)) => {}
                _ => return not_emulated(cpu, current, access.abort(), ipa),
            }
        }
    }
    guest.counts_of(vcpu).count(ExitCause::MmioOther);
    registers::step(exit::instruction_bytes(access.abort().0));
}

#[inline(never)]
fn not_emulated(cpu: &'static PerCpu, current: Current, abort: Abort, ipa: Ipa) {
    current
        .guest
        .counts_of(current.vcpu)
        .count(ExitCause::Abort);
    judge(cpu, current, abort, ipa);
}

fn uart(
    cpu: &'static PerCpu,
    current: Current,
    frame: &mut Frame,
    offset: u32,
    access: DataAccess,
) {
    let (value, show) = current.guest.with_uart(cpu, |uart| {
        if access.is_write() {
            uart.write(
                offset,
                access.width(),
                access.stored(frame.get(access.register())),
            );
            None
        } else {
            Some(uart.read(offset, access.width()))
        }
    });
    if let Some(value) = value {
        frame.set(access.register(), access.loaded(value));
    }
    if show && let Some(system) = system::get() {
        system.terminal.pump(system, cpu);
    }
}

/// The second UART of a guest with `user-balloon`.
#[inline(never)]
fn messages(
    cpu: &'static PerCpu,
    guest: &'static Guest,
    frame: &mut Frame,
    offset: u32,
    access: DataAccess,
) {
    let width = access.width();
    let accessed = guest.with_messages(cpu, |port| {
        let had_work = port.has_work();
        let loaded = if access.is_write() {
            port.write(offset, width, access.stored(frame.get(access.register())));
            None
        } else {
            Some(port.read(offset, width))
        };
        (loaded, port.has_work(), had_work)
    });
    let Some((loaded, has_work, had_work)) = accessed else {
        return;
    };
    if let Some(value) = loaded {
        frame.set(access.register(), access.loaded(value));
    }
    if has_work && let Some(system) = system::get() {
        messages::accessed(system, cpu, guest, !had_work);
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
