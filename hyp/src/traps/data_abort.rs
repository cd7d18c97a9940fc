//! Loads and stores that trap: to the virtual GIC, to the other devices that EL2 models, or to nothing.
//!
//! Apart from the other exits because these have the most ways to go: the common ones part early and save few registers,
//! and which is which shows best where they stand together.

use ballast_core::addr::Ipa;
use ballast_core::exit::{self, Abort, DataAccess, Width};
use ballast_core::mediate;
use ballast_core::monitor::ExitCause;
use ballast_core::vgic::{self, Vgic};

use super::{Frame, judge};
use crate::aarch64::registers::{self, read};
use crate::guest::{Guest, messages};
use crate::percpu::{Current, PerCpu};
use crate::sgi::{self, SgiWrite};
use crate::system;

/// The ways part early and out of line: each saves only the registers that it needs.
#[inline]
pub(super) fn data_abort(cpu: &'static PerCpu, current: Current, frame: &mut Frame, abort: Abort) {
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
