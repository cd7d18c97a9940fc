//! A guest at run time: the models that make up its machine and the cores it runs on.
//!
//! Locks, outermost first: the memory's transaction (tried only, else BUSY), the frame pool, `uart`,
//! `vgic`. Traps of a guest take only its own `uart` and `vgic`.

pub mod hardware;
pub mod lifecycle;
pub mod load;
pub mod messages;
mod quiesce;
pub mod relocate;
mod watchdog;

use alloc::boxed::Box;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use ballast_core::addr::PAGE_SIZE;
use ballast_core::balloon::{GuestMemory, MemoryConfig};
use ballast_core::board::{Board, Gic as GicBlocks};
use ballast_core::config::{Access, device_pages};
use ballast_core::frames::GuestId;
use ballast_core::limits::{MAX_INTIDS, MAX_VCPUS};
use ballast_core::machine::Machine;
use ballast_core::message_port::MessagePort;
use ballast_core::monitor::ExitCause;
use ballast_core::pl011::Pl011;
use ballast_core::plan::GuestPlan;
use ballast_core::psci::Psci;
use ballast_core::refusal::Refusal;
use ballast_core::stage2::{DeviceMapping, Layout, Memory};
use ballast_core::vgic::{self, IntId, Kicks, Line, Vgic};
use spin::mutex::TicketMutex;

use crate::aarch64::mmu;
use crate::gic::{DELIVER, Host};
use crate::mmio::shared::{SharedPage, SharedPages};
use crate::percpu::PerCpu;

/// Where a vCPU starts: set by whoever turns it on, read by its core.
#[derive(Default)]
pub struct Start {
    entry: AtomicU64,
    context: AtomicU64,
}

impl Start {
    /// Entry IPA and the value of x0.
    pub fn set(&self, entry: u64, context: u64) {
        self.entry.store(entry, Ordering::Relaxed);
        self.context.store(context, Ordering::Release);
    }

    /// (entry, x0).
    pub fn get(&self) -> (u64, u64) {
        let context = self.context.load(Ordering::Acquire);
        (self.entry.load(Ordering::Relaxed), context)
    }
}

/// The core of each vCPU that is on. Written by that core.
pub struct CoreMap([AtomicU8; MAX_VCPUS]);

const NO_CORE: u8 = u8::MAX;

impl Default for CoreMap {
    fn default() -> Self {
        Self([const { AtomicU8::new(NO_CORE) }; MAX_VCPUS])
    }
}

impl CoreMap {
    /// The core of `vcpu`, if it is on.
    #[inline]
    pub fn get(&self, vcpu: usize) -> Option<usize> {
        let core = self.0.get(vcpu)?.load(Ordering::Acquire);
        (core != NO_CORE).then_some(usize::from(core))
    }

    /// `vcpu` is on `core` now, or on none.
    pub fn set(&self, vcpu: usize, core: Option<usize>) {
        if let Some(slot) = self.0.get(vcpu) {
            slot.store(core.map_or(NO_CORE, |core| core as u8), Ordering::Release);
        }
    }
}

/// One vCPU's exits by cause. Written by its own core only.
#[derive(Default)]
pub struct Counts([AtomicU64; ExitCause::ALL.len()]);

impl Counts {
    /// One more.
    #[inline]
    pub fn count(&self, cause: ExitCause) {
        // One writer, so a load and a store will do.
        if let Some(count) = self.0.get(cause as usize) {
            count.store(
                count.load(Ordering::Relaxed).wrapping_add(1),
                Ordering::Relaxed,
            );
        }
    }

    /// How many.
    pub fn get(&self, cause: ExitCause) -> u64 {
        self.0
            .get(cause as usize)
            .map_or(0, |count| count.load(Ordering::Relaxed))
    }
}

/// A guest's device tree and the memory it was written for.
#[derive(Default)]
pub struct WrittenTree {
    backed_bytes: u64,
    blob: alloc::vec::Vec<u8>,
}

/// Apart from everything else because it is some kilobytes, several times, on the boot stack.
#[inline(never)]
fn boxed_vgic(version: vgic::Version, vcpus: usize) -> Box<TicketMutex<Vgic>> {
    Box::new(TicketMutex::new(Vgic::new(&vgic::Config {
        version,
        vcpus,
        intids: MAX_INTIDS,
        linked_ppis: (1 << IntId::VIRTUAL_TIMER.0) | (1 << IntId::PHYSICAL_TIMER.0),
    })))
}

/// For the same reason.
#[inline(never)]
fn boxed_port() -> Box<TicketMutex<MessagePort>> {
    Box::new(TicketMutex::new(MessagePort::new()))
}

const _: () = assert!(MAX_VCPUS.is_power_of_two());

/// What several guests are given together, gathered while they are made.
#[derive(Default)]
pub struct Shared {
    /// Trapped pages.
    pub pages: SharedPages,
    /// INTIDs, a line each.
    pub intids: alloc::vec::Vec<u32>,
}

impl Shared {
    /// The number of the line of `intid`.
    fn line(&mut self, intid: u32) -> u16 {
        let found = self.intids.iter().position(|other| *other == intid);
        let line = found.unwrap_or_else(|| {
            self.intids.push(intid);
            self.intids.len() - 1
        });
        line as u16
    }
}

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
    /// Guest `index` as planned. Its memory is still empty.
    #[inline]
    pub fn new(
        index: usize,
        mut plan: GuestPlan,
        board: &Board,
        shared: &mut Shared,
    ) -> Result<Self, Refusal> {
        let config = &plan.config;
        let refuse = |problem: &dyn core::fmt::Display| Refusal::new(&config.node).problem(problem);
        let guest = GuestId::new(index).ok_or_else(|| refuse(&"is one guest too many"))?;
        let memory_config = MemoryConfig {
            guest,
            memory_pages: config.memory.boot_bytes / PAGE_SIZE,
            min_pages: config.memory.min_bytes / PAGE_SIZE,
            identity: config.is_identity(),
            realtime: config.realtime,
            cpu_targets: !config.realtime,
        };
        let own = config.machine;
        let mut devices = alloc::vec::Vec::new();
        let version = match &board.gic {
            GicBlocks::V2 { gicv, .. } => {
                devices.push(DeviceMapping {
                    ipa: own.gicc.start,
                    pa: gicv.start,
                    bytes: own.gicc.size,
                    memory: Memory::Device,
                });
                vgic::Version::V2
            }
            GicBlocks::V3 { .. } => vgic::Version::V3,
        };
        devices.extend(device_pages(config).into_iter().map(|range| DeviceMapping {
            ipa: ballast_core::addr::Ipa(range.start.0),
            pa: range.start,
            bytes: range.size,
            memory: Memory::Device,
        }));
        devices.extend(plan.channels.iter().map(|end| DeviceMapping {
            ipa: end.ipa.start,
            pa: end.pa,
            bytes: end.ipa.size,
            memory: match end.access {
                Access::ReadWrite => Memory::Shared,
                Access::ReadOnly => Memory::SharedReadOnly,
            },
        }));
        let layout = Layout {
            ram: &plan.ram,
            banks: &config.extra_ram,
            devices: &devices,
        };
        let memory = GuestMemory::new(memory_config, &layout, |table| {
            mmu::pa_of(core::ptr::from_ref(table).expose_provenance() as u64)
        })
        .map_err(|error| refuse(&error))?;
        if !config.realtime {
            memory.target.set_cpus(plan.cores.len() as u32);
        }
        let vcpus = config.cpus.max as usize;
        let mut vgic = boxed_vgic(version, vcpus);
        let mut spis = [0; MAX_INTIDS / 64];
        let interrupts = config.devices.iter().flat_map(|device| &device.interrupts);
        let is_shared = |intid: u32| config.mediated.interrupts.binary_search(&intid).is_ok();
        for interrupt in interrupts.filter(|interrupt| !is_shared(interrupt.intid)) {
            let linked = u8::try_from(interrupt.intid)
                .is_ok_and(|intid| vgic.get_mut().link_spi(IntId(intid), u16::from(intid)));
            if let Some(word) = spis.get_mut(interrupt.intid as usize / 64) {
                *word |= 1 << (interrupt.intid % 64);
            }
            if !linked {
                return Err(refuse(&alloc::format!(
                    "device interrupt {} cannot be assigned",
                    interrupt.intid
                )));
            }
        }
        for intid in &config.mediated.interrupts {
            let line = shared.line(*intid);
            let linked = u8::try_from(*intid)
                .is_ok_and(|intid| vgic.get_mut().share_spi(IntId(intid), line));
            if !linked {
                return Err(refuse(&alloc::format!(
                    "device interrupt {intid} cannot be assigned"
                )));
            }
        }
        let trapped = config.mediated.pages.iter();
        let shared_pages = trapped.map(|page| shared.pages.at(page.start)).collect();
        if let Some((switch, blocks)) = config.mediated.aux {
            shared.pages.enable_aux(switch, blocks);
        }
        let dtb = TicketMutex::new(WrittenTree {
            backed_bytes: config.memory.boot_bytes,
            blob: core::mem::take(&mut plan.dtb),
        });
        Ok(Self {
            index,
            masters: quiesce::Masters::new(config),
            spis,
            dtb,
            core_of: CoreMap::default(),
            vgic,
            uart: TicketMutex::new(Pl011::new()),
            messages: (own.messages.size != 0).then(boxed_port),
            is_message_next: AtomicBool::new(false),
            watchdog: own.watchdog.map(|(kind, _)| watchdog::Dog::new(kind)),
            psci: Psci::new(vcpus),
            memory,
            starts: Default::default(),
            counts: Default::default(),
            injected: AtomicU64::new(0),
            maintained: AtomicU64::new(0),
            machine: own,
            shared_pages,
            gic_version: version,
            has_run: AtomicBool::new(false),
            logged_at: AtomicU64::new(0),
            gathers_again: AtomicU64::new(0),
            has_faulted: AtomicBool::new(false),
            state: lifecycle::State::default(),
            plan,
        })
    }

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
