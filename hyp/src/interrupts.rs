//! Physical interrupts: a guest's timers and devices go on to it, the rest are EL2's own.

use core::sync::atomic::Ordering;

use aarch64_cpu::asm::barrier;
use ballast_core::monitor::ExitCause;
use ballast_core::vgic::{IntId, Vgic};
use spin::mutex::TicketMutexGuard;

use crate::aarch64::{registers, timer};
use crate::gic::{DELIVER, Gic, Host, KICK, SharedSpi, TIMER};
use crate::guest::{Guest, messages, relocate};
use crate::percpu::{self, Current, PerCpu, request};
use crate::report;
use crate::run;
use crate::system::{self, System};
use crate::traps::Frame;

/// From here on INTIDs say that nothing is pending (IHI 0048B.b, 4.4.4; IHI 0069H, 2.2.1).
const SPECIAL: u32 = 1020;

/// A physical interrupt while a guest runs. Only x0-x18 and x30 are saved in `frame`.
#[unsafe(no_mangle)]
extern "C" fn rust_interrupt(_frame: &mut Frame) {
    let cpu = percpu::current();
    let Some(Current { guest, vcpu }) = cpu.current.get() else {
        return;
    };
    let acknowledged = cpu.gic.acknowledge();
    let intid = Gic::intid(acknowledged);
    guest.counts_of(vcpu).count(ExitCause::Irq);
    if intid == u32::from(IntId::VIRTUAL_TIMER.0) || intid == u32::from(IntId::PHYSICAL_TIMER.0) {
        // Stays active until the guest ends it: the list register is linked to it.
        cpu.gic.drop_priority(acknowledged);
        let id = IntId(intid as u8);
        if !cpu.timer_shortcut.get().offer(
            id,
            &mut Host::new(
                cpu.gic,
                cpu.index,
                guest.index,
                &guest.core_of,
                &guest.injected,
            ),
        ) {
            inject_timer(cpu, guest, vcpu, id);
        }
        return;
    }
    if intid == DELIVER {
        deliver(cpu, guest, vcpu, acknowledged);
    } else if intid < SPECIAL {
        other(cpu, acknowledged, intid);
    }
}

/// Another core made something pending for `vcpu`.
#[inline(never)]
fn deliver(cpu: &PerCpu, guest: &Guest, vcpu: usize, acknowledged: u32) {
    end_sgi(cpu, acknowledged);
    let mut vgic = guest.vgic.lock();
    if !vgic.take_sgi(vcpu, &mut guest.host(cpu)) {
        flush(cpu, guest, vcpu, vgic);
    }
}

/// Apart, so that the short way needs no stack.
#[inline(never)]
fn flush(cpu: &PerCpu, guest: &Guest, vcpu: usize, mut vgic: TicketMutexGuard<'_, Vgic>) {
    let kicks = vgic.flush(vcpu, &mut guest.host(cpu));
    drop(vgic);
    guest.kick(cpu, kicks);
}

/// Ends an SGI of EL2's own. What its sender left is read after this.
#[inline]
fn end_sgi(cpu: &PerCpu, acknowledged: u32) {
    cpu.gic.end(acknowledged);
    // Not before the acknowledgement: pairs with the barrier before the SGI (DDI 0487, B2.3.12).
    barrier::dsb(barrier::SY);
}

/// A timer's interrupt that finds something changed since the last.
#[inline(never)]
fn inject_timer(cpu: &PerCpu, guest: &Guest, vcpu: usize, id: IntId) {
    let mut host = guest.host(cpu);
    let mut vgic = guest.vgic.lock();
    let kicks = vgic.inject_private(vcpu, id, &mut host);
    cpu.timer_shortcut.set(vgic.shortcut(vcpu, id));
    drop(vgic);
    guest.kick(cpu, kicks);
}

#[cold]
fn other(cpu: &'static PerCpu, acknowledged: u32, intid: u32) {
    let Some(system) = system::get() else { return };
    serve(system, cpu, acknowledged, intid);
    let Some(Current { guest, .. }) = cpu.current.get() else {
        return;
    };
    let requests = percpu::take_requests(cpu.index);
    if requests & request::RELOCATE != 0 {
        // One piece of either in an exit, and each in its turn: a relocation that is stuck may wait for the very memory
        // that a message gives.
        if guest.memory.has_to_relocate() && !guest.take_message_turn() {
            relocate::running(system, cpu, guest);
            messages::postpone(system, cpu, guest);
        } else {
            messages::running(system, cpu, guest);
            relocate::postpone(system, guest);
        }
    }
    if requests & request::SAMPLE != 0 {
        system.scheduler.sample(system, cpu, guest);
    }
    if requests & request::SCRUB != 0 {
        registers::trap_wfi(guest.plan.config.scrub_when_idle);
    }
    if requests & request::STOP != 0 && guest.is_stopping() {
        run::leave(system, cpu);
    }
}

/// Serves whatever is pending on a core whose interrupts are masked.
pub fn drain(system: &'static System, cpu: &PerCpu) {
    /// More than a core has sources; the rest is served by the next look.
    const MOST: usize = 16;
    for _ in 0..MOST {
        let acknowledged = cpu.gic.acknowledge();
        let intid = Gic::intid(acknowledged);
        if intid >= SPECIAL {
            return;
        }
        serve(system, cpu, acknowledged, intid);
    }
}

fn serve(system: &'static System, cpu: &PerCpu, acknowledged: u32, intid: u32) {
    if intid == KICK || intid == DELIVER {
        // The vCPU that it was delivered for has left, if this core is in none: it is looked after when it comes.
        end_sgi(cpu, acknowledged);
    } else if intid == cpu.gic.maintenance {
        if let Some(Current { guest, vcpu }) = cpu.current.get()
            && !cpu.gic.was_only_timers()
        {
            guest.maintained.fetch_add(1, Ordering::Relaxed);
            let mut host = guest.host(cpu);
            let kicks = guest.vgic.lock().flush(vcpu, &mut host);
            guest.kick(cpu, kicks);
        }
        cpu.gic.end(acknowledged);
    } else if let Some(line) = cpu.gic.line_of(intid) {
        shared(system, cpu, acknowledged, line);
    } else if intid == TIMER {
        timer::disarm();
        let now = crate::boot::counter();
        cpu.gic.tick_lines(now, |line, news| {
            report::line(system, cpu, line.intid, news);
        });
        for guest in &system.guests {
            guest.tick_watchdog(system, cpu, now);
        }
        cpu.gic.end(acknowledged);
        percpu::note(cpu.index, request::RELOCATE);
        system.scheduler.timer(system, cpu);
    } else if system
        .board
        .console
        .as_ref()
        .and_then(|console| console.intid)
        == Some(intid)
    {
        system.terminal.interrupt(system, cpu);
        cpu.gic.end(acknowledged);
    } else {
        device(system, cpu, acknowledged, intid);
    }
}

/// An SPI of an assigned device goes to its guest; anything else is not expected and turned off.
fn device(system: &'static System, cpu: &PerCpu, acknowledged: u32, intid: u32) {
    let holder = system
        .guests
        .iter()
        .find_map(|guest| Some((guest, guest.virtual_spi(intid)?)));
    let Some((guest, id)) = holder else {
        cpu.gic.disable(cpu.index, intid);
        cpu.gic.end(acknowledged);
        return;
    };
    cpu.gic.drop_priority(acknowledged);
    inject(cpu, guest, id);
}

/// An SPI with several holders goes to each.
fn shared(system: &'static System, cpu: &PerCpu, acknowledged: u32, line: &SharedSpi) {
    let now = crate::boot::counter();
    let steps = cpu.gic.step(line, |state| state.fired(now));
    if let Some(news) = steps.report {
        report::line(system, cpu, line.intid, news);
    }
    if line.is_own {
        system.terminal.interrupt(system, cpu);
    }
    // It is held back by now, or has lost its cause: ending it lets no other in.
    cpu.gic.end(acknowledged);
    for guest in &system.guests {
        if u32::from(steps.deliver) >> guest.index & 1 != 0 {
            inject(cpu, guest, IntId(line.intid as u8));
        }
    }
}

fn inject(cpu: &PerCpu, guest: &Guest, id: IntId) {
    let kicks = match cpu.current.get() {
        Some(current) if current.guest.index == guest.index => {
            let mut host = guest.host(cpu);
            guest.vgic.lock().inject_spi(current.vcpu, id, &mut host)
        }
        _ => guest.vgic.lock().inject_spi_remote(id),
    };
    guest.kick(cpu, kicks);
}
