//! One core's own registers and per-core state.

use core::arch::asm;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use aarch64_cpu::registers::{CNTFRQ_EL0, CNTVCT_EL0, MPIDR_EL1, Readable, TPIDR_EL1};

/// Cores this guest can use.
pub const MAX_CPUS: usize = 8;
/// Bytes of stack per core.
pub const STACK_SIZE: usize = 32 * 1024;

/// What the exception handlers leave for the code they interrupted.
pub struct PerCpu {
    /// Set while a synchronous abort is part of a test: it is counted and stepped over.
    pub expect_fault: AtomicBool,
    /// Aborts stepped over so far.
    pub faults: AtomicU64,
    /// Syndrome (ESR_EL1) of the last one.
    pub last_esr: AtomicU64,
    /// Its address (ELR_EL1).
    pub last_elr: AtomicU64,
    /// x1 there.
    pub last_x1: AtomicU64,
    /// One bit for each exception class (ESR_EL1.EC) that was stepped over.
    pub classes: AtomicU64,
    /// Virtual timer interrupts taken.
    pub timer_ticks: AtomicU64,
    /// CNTVCT at the last of them.
    pub timer_at: AtomicU64,
    /// SGIs taken, by id.
    pub sgis: [AtomicU32; 16],
    /// All interrupts taken.
    pub interrupts: AtomicU64,
}

impl PerCpu {
    const fn new() -> Self {
        Self {
            expect_fault: AtomicBool::new(false),
            faults: AtomicU64::new(0),
            last_esr: AtomicU64::new(0),
            last_elr: AtomicU64::new(0),
            last_x1: AtomicU64::new(0),
            classes: AtomicU64::new(0),
            timer_ticks: AtomicU64::new(0),
            timer_at: AtomicU64::new(0),
            sgis: [const { AtomicU32::new(0) }; 16],
            interrupts: AtomicU64::new(0),
        }
    }
}

static PER_CPU: [PerCpu; MAX_CPUS] = [const { PerCpu::new() }; MAX_CPUS];

/// This core's index: CPU_ON's context, 0 for the boot core.
pub fn index() -> usize {
    TPIDR_EL1.get() as usize
}

/// This core's state.
pub fn this() -> &'static PerCpu {
    &PER_CPU[index()]
}

/// Another core's state.
pub fn of(index: usize) -> &'static PerCpu {
    &PER_CPU[index]
}

/// Affinity fields of MPIDR_EL1 (Aff3 in 39:32, Aff2..Aff0 in 23:0).
pub fn mpidr_affinity() -> u64 {
    MPIDR_EL1.get() & 0xff_00ff_ffff
}

/// The virtual counter, ordered after everything before it.
pub fn counter() -> u64 {
    aarch64_cpu::asm::barrier::isb(aarch64_cpu::asm::barrier::SY);
    CNTVCT_EL0.get()
}

/// Counter ticks in a second.
pub fn frequency() -> u64 {
    CNTFRQ_EL0.get()
}

/// In a loop that waits for another core. YIELD, and not the ISB of `core::hint::spin_loop`: an emulator that runs
/// one core at a time takes it as the sign to run another.
pub fn relax() {
    // SAFETY: a hint.
    unsafe { asm!("yield", options(nomem, nostack, preserves_flags)) };
}

/// Spins for `us` microseconds.
pub fn delay_us(us: u64) {
    let end = counter() + frequency() * us / 1_000_000;
    while counter() < end {
        relax();
    }
}

/// Waits until `done` or `us` microseconds have passed; whether it was done.
pub fn wait_until_us(us: u64, mut done: impl FnMut() -> bool) -> bool {
    let end = counter() + frequency() * us / 1_000_000;
    loop {
        if done() {
            return true;
        }
        if counter() >= end {
            return false;
        }
        relax();
    }
}

/// Lets interrupts in.
pub fn unmask_irqs() {
    // SAFETY: the vectors are set before Rust runs, and the handler shares only atomics with it.
    unsafe { asm!("msr daifclr, #2", "isb", options(nostack)) };
}

/// Keeps interrupts out.
pub fn mask_irqs() {
    // SAFETY: masking interrupts breaks nothing.
    unsafe { asm!("msr daifset, #2", options(nostack)) };
}

/// Sleeps until `done`: checks with interrupts masked, so no wake-up is lost (WFI wakes on a pending
/// interrupt whatever PSTATE.I says, Arm ARM DDI 0487 D1.7.2).
pub fn sleep_until(mut done: impl FnMut() -> bool) {
    loop {
        mask_irqs();
        if done() {
            unmask_irqs();
            return;
        }
        aarch64_cpu::asm::wfi();
        unmask_irqs();
    }
}

/// Adds one, for counters that only their own core writes.
pub fn bump(counter: &AtomicU64) {
    counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Release);
}
