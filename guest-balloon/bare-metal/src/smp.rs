//! Bringing the other cores up and giving them work.

use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use crate::cpu::{self, MAX_CPUS};
use crate::smccc::psci;
use crate::{boot, gic};

/// What a started core runs, with its index; when it returns the core switches itself off.
pub type Work = fn(usize);

static WORK: [AtomicUsize; MAX_CPUS] = [const { AtomicUsize::new(0) }; MAX_CPUS];
/// What the registers that must be zero held at each core's last start.
static LEFTOVERS: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];

/// The core is left as it starts: its work sets up its interrupt controller itself.
static AS_IT_IS: [AtomicBool; MAX_CPUS] = [const { AtomicBool::new(false) }; MAX_CPUS];

const fn as_number(work: Work) -> *const () {
    work as *const ()
}

/// Starts core `index` (MPIDR affinity `mpidr`) on `work`: PSCI's answer.
pub fn start(index: usize, mpidr: u64, work: Work) -> i64 {
    start_at(index, mpidr, boot::secondary_entry_address(), work)
}

/// As [`start`], at an entry of its own that ends in the usual one.
pub fn start_at(index: usize, mpidr: u64, entry: u64, work: Work) -> i64 {
    WORK[index].store(as_number(work) as usize, Ordering::Release);
    psci::call(psci::function::CPU_ON, mpidr, entry, index as u64)
}

/// As [`start_at`]; `work` finds the core as it started, interrupts masked.
pub fn start_as_it_is(index: usize, mpidr: u64, entry: u64, work: Work) -> i64 {
    AS_IT_IS[index].store(true, Ordering::Release);
    start_at(index, mpidr, entry, work)
}

/// Whether PSCI says the core is off.
pub fn is_off(mpidr: u64) -> bool {
    psci::call(psci::function::AFFINITY_INFO, mpidr, 0, 0) == psci::AFFINITY_OFF
}

/// OR of the registers that must be zero when a core starts (all but x0).
pub fn leftovers(index: usize) -> u64 {
    LEFTOVERS[index].load(Ordering::Acquire)
}

/// A started core's first Rust.
pub fn started(leftovers: u64) -> ! {
    let index = cpu::index();
    LEFTOVERS[index].store(leftovers, Ordering::Release);
    if !AS_IT_IS[index].load(Ordering::Acquire) {
        gic::get().init_core();
        cpu::unmask_irqs();
    }
    let work = WORK[index].load(Ordering::Acquire);
    // SAFETY: `start` stored a `Work` before it started this core.
    let work = unsafe { core::mem::transmute::<*const (), Work>(work as *const ()) };
    work(index);
    cpu::mask_irqs();
    psci::call(psci::function::CPU_OFF, 0, 0, 0);
    crate::die(format_args!("CPU_OFF returned on core {index}"));
}
