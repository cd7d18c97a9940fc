//! Exception returns of a test's own making: to any place in any state, and over a single step.
//!
//! Apart from the plain accesses because the exception comes from a state that the test has made, perhaps at another EL:
//! where the handler goes back to then is named here.

use core::arch::{asm, global_asm};
use core::sync::atomic::Ordering;

use super::catching;
use crate::cpu;

/// Steps over one SMC that is answered by the hypervisor: where the step exception came, and where it should have.
pub fn step_over_smc() -> (u64, u64) {
    /// MDSCR_EL1.SS and KDE.
    const STEP: u64 = 1 | 1 << 13;
    /// EL1h, SS; A, I and F masked, D not.
    const SPSR: u64 = 0x1c5 | 1 << 21;
    let mut expected = 0_u64;
    cpu::this().last_elr.store(0, Ordering::Release);
    let _ = catching(|| {
        // SAFETY: debug exceptions are masked until the ERET; the handler switches stepping off; the call changes x0 to
        // x3 alone.
        unsafe {
            asm!(
                "mrs {daif}, daif",
                "msr daifset, #0xf",
                "msr mdscr_el1, {step}",
                "msr spsr_el1, {spsr}",
                "adr {at}, 1f",
                "msr elr_el1, {at}",
                "isb",
                "eret",
                "1: smc #0",
                "2: nop",
                "nop",
                "adr {at}, 2b",
                "msr mdscr_el1, xzr",
                "msr daif, {daif}",
                "isb",
                daif = out(reg) _, step = in(reg) STEP, spsr = in(reg) SPSR, at = out(reg) expected,
                inout("x0") 0x8400_0000_u64 => _, out("x1") _, out("x2") _, out("x3") _,
            );
        }
    });
    (cpu::this().last_elr.load(Ordering::Acquire), expected)
}

global_asm!(
    r#"
    .section .text.probe, "ax"
    // x0: where to, x1: PSTATE there, x2: x0 there.
enter_by_eret:
    sub     sp, sp, #96
"#,
    callee_saved!("stp"),
    r#"
    msr     elr_el1, x0
    msr     spsr_el1, x1
    mov     x0, x2
    isb
    eret
after_eret:
"#,
    callee_saved!("ldp"),
    r#"
    add     sp, sp, #96
    ret
"#
);

unsafe extern "C" {
    fn enter_by_eret(pc: u64, pstate: u64, x0: u64);
    fn after_eret();
}

/// Where [`enter`] goes on after an exception.
pub fn after_enter() -> u64 {
    after_eret as *const () as u64
}

/// Returns from an exception to `pc` with PSTATE `pstate` and x0; the syndrome of the exception that ends it, or 0 if
/// there was none. Interrupts are masked meanwhile and as they were afterwards.
///
/// # Safety
/// What runs there keeps to x0 and x1 and to memory of the test's own; it ends in an exception that leads to
/// [`after_enter`], or is there already.
pub unsafe fn enter(pc: u64, pstate: u64, x0: u64) -> u64 {
    let daif: u64;
    // SAFETY: interrupts are masked here and put back below.
    unsafe { asm!("mrs {}, daif", "msr daifset, #0xf", out(reg) daif, options(nostack)) };
    // SAFETY: the caller's promise; the routine keeps what the procedure call standard asks for.
    let found = catching(|| unsafe { enter_by_eret(pc, pstate, x0) });
    // SAFETY: as it was.
    unsafe { asm!("msr daif, {}", in(reg) daif, options(nostack)) };
    found.err().unwrap_or(0)
}
