//! EL2's own timer, CNTHP of each core: armed only while something is under way that goes on later.

use core::arch::asm;

use super::registers::read;

/// ENABLE of CNTHP_CTL_EL2 (DDI 0487, D19.12.7).
const ENABLE: u64 = 1;

/// Fires when the counter has reached `at`, or earlier if it is armed for earlier. Whoever is called when it
/// fires looks at what it waits for.
pub fn arm(at: u64) {
    if is_armed() && read!("CNTHP_CVAL_EL2") <= at {
        return;
    }
    // SAFETY: the timer is EL2's own; its interrupt is served by `interrupts`.
    unsafe {
        asm!(
            "msr CNTHP_CVAL_EL2, {at}",
            "msr CNTHP_CTL_EL2, {enable}",
            "isb",
            at = in(reg) at,
            enable = in(reg) ENABLE,
            options(nomem, nostack, preserves_flags)
        );
    }
}

/// Whether it is to fire.
pub fn is_armed() -> bool {
    read!("CNTHP_CTL_EL2") & ENABLE != 0
}

/// Does not fire any more.
pub fn disarm() {
    // SAFETY: as above.
    unsafe {
        asm!(
            "msr CNTHP_CTL_EL2, xzr",
            "isb",
            options(nomem, nostack, preserves_flags)
        );
    }
}
