//! What each core keeps to itself, and the few words others may leave it.

use core::cell::Cell;
use core::sync::atomic::{AtomicU32, Ordering};

use ballast_core::limits::MAX_CORES;

use ballast_core::smccc::Workarounds;
use ballast_core::vgic::Shortcut;

use crate::aarch64::registers::read;
use crate::aarch64::window::Window;
use crate::gic::{Gic, KICK};
use crate::guest::Guest;

/// Per-core data; TPIDR_EL2 points to it. Only its own core has a reference, so it is not `Sync`.
#[repr(C)]
pub struct PerCpu {
    /// Top of the stack for EL2's own faults. `vectors.S` reads it at offset 0.
    emergency_top: u64,
    /// The core's number: its place in the device tree.
    pub index: usize,
    /// The interrupt controller.
    pub gic: &'static Gic,
    /// What guests are told about this core's speculation.
    pub workarounds: Workarounds,
    /// The way to guest memory.
    pub window: Window,
    /// The vCPU this core is in; `None` while it waits in EL2.
    pub current: Cell<Option<Current>>,
    /// The last timer's way to the guest without its lock; see [`Guest::host`].
    pub timer_shortcut: Cell<Shortcut>,
    /// The same of the last SGI that the vCPU sent to itself.
    pub sgi_shortcut: Cell<Shortcut>,
}

/// A vCPU on its core.
#[derive(Clone, Copy)]
pub struct Current {
    /// Its guest.
    pub guest: &'static Guest,
    /// Its number there.
    pub vcpu: usize,
}

impl PerCpu {
    /// Data of core `index`.
    pub fn new(index: usize, gic: &'static Gic, window: Window) -> Self {
        let workarounds = Workarounds::new(read!("MIDR_EL1"), read!("ID_AA64PFR0_EL1"));
        Self {
            workarounds,
            emergency_top: crate::layout::emergency_top(index),
            index,
            gic,
            window,
            current: Cell::new(None),
            timer_shortcut: Cell::new(Shortcut::NONE),
            sgi_shortcut: Cell::new(Shortcut::NONE),
        }
    }
}

/// Makes `data` the calling core's.
pub fn install(data: &'static mut PerCpu) {
    let address = core::ptr::from_mut(data).expose_provenance() as u64;
    // SAFETY: TPIDR_EL2 is EL2's own; `current` and the fault vector are its only readers.
    unsafe {
        core::arch::asm!("msr TPIDR_EL2, {}", in(reg) address, options(nomem, nostack, preserves_flags))
    };
}

/// The calling core's data.
#[inline]
pub fn current() -> &'static PerCpu {
    let address: usize;
    // SAFETY: TPIDR_EL2 holds what `install` put there, a `PerCpu` that lives for ever and that only
    // this core refers to; EL2 does not migrate between cores.
    unsafe {
        core::arch::asm!("mrs {}, TPIDR_EL2", out(reg) address, options(nomem, nostack, preserves_flags, pure));
        &*core::ptr::with_exposed_provenance::<PerCpu>(address)
    }
}

/// What one core can ask of another; taken when it is kicked.
static REQUESTS: [AtomicU32; MAX_CORES] = [const { AtomicU32::new(0) }; MAX_CORES];

/// Requests to a core, as bits.
pub mod request {
    /// Start the vCPU this core holds: its entry is set.
    pub const START: u32 = 1 << 0;
    /// Leave the guest and park: it is being stopped.
    pub const STOP: u32 = 1 << 1;
    /// Build the guest anew (on the core of its vCPU 0, with no vCPU running).
    pub const LOAD: u32 = 1 << 3;
    /// There are frames to scrub: a core without a vCPU looks, another traps its guest's WFI.
    pub const SCRUB: u32 = 1 << 4;
    /// The guest that has this core holds frames that another wants back.
    pub const RELOCATE: u32 = 1 << 5;
    /// What the guest on this core accesses is to be sampled.
    pub const SAMPLE: u32 = 1 << 6;
}

/// The vCPU that a START is for: guest in 15:8, vCPU in 7:0.
static ASSIGNED: [AtomicU32; MAX_CORES] = [const { AtomicU32::new(0) }; MAX_CORES];

/// Names the vCPU that core `core` is to start; `post` follows.
pub fn assign(core: usize, guest: usize, vcpu: usize) {
    if let Some(slot) = ASSIGNED.get(core) {
        slot.store((guest as u32) << 8 | vcpu as u32, Ordering::Relaxed);
    }
}

/// (guest, vCPU) as last assigned to core `core`.
pub fn assigned(core: usize) -> (usize, usize) {
    let word = ASSIGNED
        .get(core)
        .map_or(0, |slot| slot.load(Ordering::Acquire));
    ((word >> 8) as usize, (word & 0xff) as usize)
}

/// Cores, one bit each. Of another core's bit only what was true is known; see [`crate::scrub`].
pub struct CoreSet(AtomicU32);

impl CoreSet {
    /// No core.
    pub const fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    /// Adds core `index`; false if it was there.
    pub fn insert(&self, index: usize) -> bool {
        self.0.fetch_or(1 << index, Ordering::SeqCst) & 1 << index == 0
    }

    /// Removes core `index`.
    pub fn remove(&self, index: usize) {
        self.0.fetch_and(!(1 << index), Ordering::SeqCst);
    }

    /// The first there is.
    pub fn first(&self) -> Option<usize> {
        let mask = self.0.load(Ordering::SeqCst);
        (mask != 0).then(|| mask.trailing_zeros() as usize)
    }
}

/// Leaves `bits` for core `core` and kicks it.
pub fn post(gic: &Gic, core: usize, bits: u32) {
    if let Some(requests) = REQUESTS.get(core) {
        requests.fetch_or(bits, Ordering::Release);
        gic.send(core, KICK);
    }
}

/// Leaves `bits` for the calling core itself, which takes its requests before it goes on.
pub fn note(index: usize, bits: u32) {
    if let Some(requests) = REQUESTS.get(index) {
        requests.fetch_or(bits, Ordering::Relaxed);
    }
}

/// Takes all that was asked of core `index`.
#[inline]
pub fn take_requests(index: usize) -> u32 {
    REQUESTS
        .get(index)
        .map_or(0, |requests| requests.swap(0, Ordering::Acquire))
}
