//! A guest at run time: the models that make up its machine and the cores it runs on.
//!
//! Locks, outermost first: the memory's transaction (tried only, else BUSY), the frame pool, `uart`,
//! `vgic`. Traps of a guest take only its own `uart` and `vgic`.

mod assemble;
pub mod hardware;
pub mod lifecycle;
pub mod load;
pub mod messages;
mod quiesce;
pub mod relocate;
mod vcpu;
mod watchdog;

use alloc::boxed::Box;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

pub use assemble::Shared;
use ballast_core::balloon::GuestMemory;
use ballast_core::limits::{MAX_INTIDS, MAX_VCPUS};
use ballast_core::machine::Machine;
use ballast_core::message_port::MessagePort;
use ballast_core::pl011::Pl011;
use ballast_core::plan::GuestPlan;
use ballast_core::psci::Psci;
use ballast_core::vgic::{self, IntId, Kicks, Line, Vgic};
use spin::mutex::TicketMutex;
pub use vcpu::{CoreMap, Counts, Start};

use crate::gic::{DELIVER, Host};
use crate::mmio::shared::SharedPage;
use crate::percpu::PerCpu;

/// A guest's device tree and the memory it was written for.
#[derive(Default)]
pub struct WrittenTree {
    backed_bytes: u64,
    blob: alloc::vec::Vec<u8>,
}

const _: () = assert!(MAX_VCPUS.is_power_of_two());

/// One guest.
pub struct Guest {
    /// Index in the configuration.
    pub index: usize,
    /// What it is configured as and loaded from.
    pub plan: GuestPlan,
    /// The core of each vCPU that is on.
    pub core_of: CoreMap,
    /// Interrupt controller.
    pub vgic: Box<TicketMutex<Vgic>>,
    /// Console UART.
    pub uart: TicketMutex<Pl011>,
    /// The balloon's UART, if it has one.
    pub messages: Option<Box<TicketMutex<MessagePort>>>,
    /// A request there has waited for a piece of a relocation.
    is_message_next: AtomicBool,
    /// Watchdog, if it has one.
    pub watchdog: Option<watchdog::Dog>,
    /// Power state of its vCPUs.
    pub psci: Psci,
    /// Stage 2 and balloon.
    pub memory: GuestMemory,
    /// Where each vCPU starts.
    pub starts: [Start; MAX_VCPUS],
    /// Exits of each vCPU.
    pub counts: [Counts; MAX_VCPUS],
    /// Interrupts offered in a list register. Written with the lock of `vgic` held.
    pub injected: AtomicU64,
    /// Maintenance interrupts taken.
    pub maintained: AtomicU64,
    /// Where it has what Ballast emulates; a copy, near to what traps read.
    pub machine: Machine,
    /// Its trapped pages, in the order of [`ballast_core::mediate::Mediated::pages`].
    pub shared_pages: Box<[&'static SharedPage]>,
    /// Physical SPIs of its devices that it alone has, a bit each.
    spis: [u64; MAX_INTIDS / 64],
    /// Its device tree as last written. Kept for its memory, too: a primary guest's is a table of the heap.
    dtb: TicketMutex<WrittenTree>,
    /// The interrupt controller it sees.
    pub gic_version: vgic::Version,
    /// It was started before: memory may have left dirty lines in the caches.
    has_run: AtomicBool,
    /// When a call of the guest was last logged, in ticks.
    logged_at: AtomicU64,
    /// Before that its cores move nothing that nobody waits for, in ticks.
    gathers_again: AtomicU64,
    /// An abort was reported since it started.
    pub has_faulted: AtomicBool,
    masters: quiesce::Masters,
    state: lifecycle::State,
}

impl Guest {
    /// Exits of `vcpu`.
    #[inline]
    #[expect(clippy::indexing_slicing, reason = "masked to the eight there are")]
    pub const fn counts_of(&self, vcpu: usize) -> &Counts {
        &self.counts[vcpu & (MAX_VCPUS - 1)]
    }

    /// Where `vcpu` starts.
    #[expect(clippy::indexing_slicing, reason = "masked to the eight there are")]
    pub const fn start_of(&self, vcpu: usize) -> &Start {
        &self.starts[vcpu & (MAX_VCPUS - 1)]
    }

    /// Whether a call that the guest makes as often as it likes may be logged, at `now`: once in
    /// `interval`, lest it drive everybody else's entries out of the log. Both in ticks.
    pub fn may_log(&self, now: u64, interval: u64) -> bool {
        let last = self.logged_at.load(Ordering::Relaxed);
        let may = last == 0 || now.wrapping_sub(last) >= interval;
        if may {
            self.logged_at.store(now, Ordering::Relaxed);
        }
        may
    }

    /// VTTBR_EL2: the root of stage 2, VMID from 1 on (DDI 0487, D19.2.150).
    pub fn vttbr(&self) -> u64 {
        ((self.index as u64 + 1) << 48) | self.memory.stage2.root().0
    }

    /// The interrupt controller of the calling core, for this guest's models. Whatever is done with
    /// it, the core's [shortcuts](vgic::Shortcut) are good no longer.
    #[inline]
    pub fn host<'a>(&'a self, cpu: &'a PerCpu) -> Host<'a> {
        cpu.timer_shortcut.set(vgic::Shortcut::NONE);
        cpu.sgi_shortcut.set(vgic::Shortcut::NONE);
        Host::new(
            cpu.gic,
            cpu.index,
            self.index,
            &self.core_of,
            &self.injected,
        )
    }

    /// Makes the cores of these vCPUs look at their virtual interrupts.
    #[inline]
    pub fn kick(&self, cpu: &PerCpu, kicks: Kicks) {
        #[cold]
        #[inline(never)]
        fn cold(guest: &Guest, cpu: &PerCpu, kicks: Kicks) {
            guest.kick_each(cpu, kicks);
        }
        if kicks != Kicks::NONE {
            cold(self, cpu, kicks);
        }
    }

    /// The same where there mostly are some. At most a guest's eight vCPUs.
    #[inline(always)]
    pub fn kick_each(&self, cpu: &PerCpu, Kicks(mut vcpus): Kicks) {
        while vcpus != 0 {
            if let Some(core) = self.core_of.get(vcpus.trailing_zeros() as usize) {
                cpu.gic.send(core, DELIVER);
            }
            vcpus &= vcpus - 1;
        }
    }

    /// The virtual SPI that physical SPI `intid` is to this guest.
    pub fn virtual_spi(&self, intid: u32) -> Option<IntId> {
        let word = self.spis.get(intid as usize / 64)?;
        let held = word & 1 << (intid % 64) != 0;
        held.then_some(IntId(intid as u8))
    }

    /// Drives the balloon's interrupt line to what the target says, from any core.
    pub fn update_balloon(&self, cpu: &PerCpu) {
        // The target is read with the lock held: of two cores that drive the line at once, the later
        // knows what the earlier knew.
        let kicks = self.drive(cpu, self.machine.balloon_intid, || {
            self.memory.target.is_pending()
        });
        self.kick(cpu, kicks);
        if self.messages.is_some() {
            messages::tell(cpu, self);
        }
    }

    /// Drives an emulated line high if `is_high` says so under the lock, on this core's own list
    /// registers if it runs the guest.
    fn drive(&self, cpu: &PerCpu, id: IntId, is_high: impl FnOnce() -> bool) -> Kicks {
        let mut vgic = self.vgic.lock();
        let line = if is_high() { Line::High } else { Line::Low };
        match cpu.current.get() {
            Some(current) if current.guest.index == self.index => {
                vgic.set_line(current.vcpu, id, line, &mut self.host(cpu))
            }
            _ => vgic.set_line_remote(id, line),
        }
    }

    /// Runs `f` on the UART under its lock and carries its interrupt line on. Returns whether the
    /// console has something new to show.
    pub fn with_uart<R>(&self, cpu: &PerCpu, f: impl FnOnce(&mut Pl011) -> R) -> (R, bool) {
        let mut uart = self.uart.lock();
        let result = f(&mut uart);
        let effects = uart.effects();
        let kicks = match effects.line {
            Some(level) => self.drive(cpu, self.machine.uart_intid, || level),
            None => Kicks::NONE,
        };
        drop(uart);
        self.kick(cpu, kicks);
        (result, effects.kick)
    }
}
