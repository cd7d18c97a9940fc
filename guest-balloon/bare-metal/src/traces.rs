//! What a core that leaves this guest could leave behind for the next one, and the look for what another has left.
//!
//! Values are recognised by their lower half, whatever a register makes of the upper one.

use core::arch::asm;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use aarch64_cpu::registers::{
    CNTP_CTL_EL0, CNTP_CVAL_EL0, CNTV_CTL_EL0, CNTV_CVAL_EL0, Readable, Writeable,
};

use crate::cpu;
use crate::gic::{self, distributor};

const TRACE: u64 = 0x0000_7ace_c0de_7ac0;
/// A timer enabled and masked: its condition holds, its interrupt is silent.
const QUIET_TIMER: u64 = 0b11;
/// SGIs from here on, one for each guest, are only ever left pending and active by a core that leaves.
const FIRST_SGI: u32 = 8;
const SGIS: u32 = 4;

/// Priority of that SGI; all others have 0xa0.
const URGENT: u8 = 0x20;

static OWN_SGI: AtomicU32 = AtomicU32::new(FIRST_SGI);
static FOUND: AtomicU64 = AtomicU64::new(0);

/// This guest's number, from 1 on: it tells its traces from another's where a core keeps its own.
pub fn init(guest: u64) {
    let own = FIRST_SGI + (guest as u32).saturating_sub(1) % SGIS;
    OWN_SGI.store(own, Ordering::Relaxed);
}

/// What was found so far: bit 0 FP, 1 a timer, 2 another guest's SGI, from 8 on the registers in their order. 0: nothing.
pub fn found() -> u64 {
    FOUND.load(Ordering::Acquire)
}

macro_rules! registers {
    ($($name:literal)*) => {
        /// Registers in which nobody but a test has an interest. One that is undefined is stepped over.
        fn write_all(value: u64) {
            // SAFETY: none of them changes how this code runs: addresses and syndromes of past faults, thread and
            // process numbers, translation by TTBR1 (switched off), comparators without their enable bits.
            unsafe { $( asm!(concat!("msr ", $name, ", {}"), in(reg) value, options(nomem, nostack)); )* }
        }

        fn read_all(mut each: impl FnMut(u64)) {
            $(
                let mut value = 0_u64;
                // SAFETY: reading has no effect.
                unsafe { asm!(concat!("mrs {}, ", $name), inout(reg) value, options(nomem, nostack)) };
                each(value);
            )*
        }
    };
}

registers! {
    "tpidr_el0" "tpidrro_el0" "contextidr_el1" "far_el1" "esr_el1" "afsr0_el1" "afsr1_el1" "sp_el0" "ttbr1_el1"
    "dbgbvr0_el1" "dbgbvr1_el1" "dbgbvr2_el1" "dbgbvr3_el1" "dbgwvr0_el1" "dbgwvr1_el1" "pmevcntr0_el0"
    "pmccntr_el0" "elr_el1"
}

fn is_trace(value: u64) -> bool {
    value as u32 == TRACE as u32
}

/// FP instructions no longer trap.
pub fn allow_fp() {
    // SAFETY: CPACR_EL1.FPEN: no code of this guest uses FP, so nothing else depends on it.
    unsafe { asm!("msr cpacr_el1, {}", "isb", in(reg) 3_u64 << 20, options(nomem, nostack)) };
}

/// This value in both halves of all 32 registers.
pub fn fill_fp(value: u64) {
    // SAFETY: no code of this guest, which is built without FP, has anything in these registers.
    unsafe {
        asm!(
            r#"
            .arch_extension fp
            .arch_extension simd
            .irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
            dup v\n\().2d, {value}
            .endr
            .arch_extension nosimd
            .arch_extension nofp
            "#,
            value = in(reg) value,
            options(nomem, nostack)
        );
    }
}

/// Both halves of all 32 registers.
pub fn read_fp() -> [u64; 64] {
    let mut values = [0_u64; 64];
    // SAFETY: 32 stores of 16 bytes fill the array.
    unsafe {
        asm!(
            r#"
            .arch_extension fp
            .arch_extension simd
            .irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
            str q\n, [{to}], #16
            .endr
            .arch_extension nosimd
            .arch_extension nofp
            "#,
            to = inout(reg) values.as_mut_ptr() => _,
            options(nostack)
        );
    }
    values
}

/// Looks for traces on a core that has just started, and makes its private interrupts its own.
pub fn look() {
    let mut found = 0;
    allow_fp();
    if read_fp().into_iter().any(is_trace) {
        found |= 1;
    }
    let timers = [
        (CNTV_CTL_EL0.get(), CNTV_CVAL_EL0.get()),
        (CNTP_CTL_EL0.get(), CNTP_CVAL_EL0.get()),
    ];
    if timers
        .into_iter()
        .any(|(control, value)| control & 1 != 0 || is_trace(value))
    {
        found |= 1 << 1;
    }
    let this = cpu::this();
    let own = OWN_SGI.load(Ordering::Relaxed);
    let others = (FIRST_SGI..FIRST_SGI + SGIS).filter(|sgi| *sgi != own);
    if others
        .into_iter()
        .any(|sgi| this.sgis[sgi as usize].load(Ordering::Acquire) != 0)
    {
        found |= 1 << 2;
    }
    this.expect_fault.store(true, Ordering::Release);
    let mut bit = 8;
    read_all(|value| {
        found |= u64::from(is_trace(value)) << bit;
        bit += 1;
    });
    this.expect_fault.store(false, Ordering::Release);
    FOUND.fetch_or(found, Ordering::AcqRel);
}

/// Leaves traces wherever this guest may write, an interrupt that is active and one that is pending among them. The
/// core is to be switched off next, with interrupts masked until then.
pub fn leave(index: usize) {
    cpu::mask_irqs();
    let gic = gic::get();
    let own = OWN_SGI.load(Ordering::Relaxed);
    // Nothing else gets through, so that no interrupt with a meaning is acknowledged here.
    gic.private()
        .write8(distributor::IPRIORITYR + own as usize, URGENT);
    gic.let_through(URGENT + 0x10);
    gic.send_sgi(own, index);
    // Acknowledged and never ended: the core's running priority stays.
    cpu::wait_until_us(1_000_000, || gic.acknowledge() & 0x3ff == own);
    gic.send_sgi(own, index);
    allow_fp();
    fill_fp(TRACE);
    CNTV_CVAL_EL0.set(TRACE);
    CNTV_CTL_EL0.set(QUIET_TIMER);
    CNTP_CVAL_EL0.set(TRACE);
    CNTP_CTL_EL0.set(QUIET_TIMER);
    let this = cpu::this();
    this.expect_fault.store(true, Ordering::Release);
    write_all(TRACE);
    this.expect_fault.store(false, Ordering::Release);
}

/// Whether traces are recognised where this core itself has just left them: FP and timers for certain, and how many of
/// the registers. They are gone afterwards.
pub fn are_recognised() -> Option<u32> {
    allow_fp();
    fill_fp(TRACE);
    CNTP_CVAL_EL0.set(TRACE);
    let this = cpu::this();
    this.expect_fault.store(true, Ordering::Release);
    write_all(TRACE);
    this.expect_fault.store(false, Ordering::Release);
    look();
    let found = FOUND.swap(0, Ordering::AcqRel);
    fill_fp(0);
    CNTP_CVAL_EL0.set(0);
    this.expect_fault.store(true, Ordering::Release);
    write_all(0);
    this.expect_fault.store(false, Ordering::Release);
    (found & 0b11 == 0b11).then_some((found >> 8).count_ones())
}

/// Deactivates and unpends what this vCPU itself had left, as a driver of the controller does on each start.
pub fn tidy() {
    let private = gic::get().private();
    private.write32(distributor::ICACTIVER, u32::MAX);
    private.write32(distributor::ICPENDR, u32::MAX);
}
