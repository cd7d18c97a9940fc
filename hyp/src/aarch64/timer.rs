//! EL2's own timer, CNTHP: armed only while something is under way that goes on later.

use core::arch::asm;

/// Fires in `ticks` of the counter (DDI 0487, D12.2.4).
pub fn arm(ticks: u32) {
    const ENABLE: u64 = 1;
    // SAFETY: the timer is EL2's own; its interrupt is served by `interrupts`.
    unsafe {
        asm!(
            "msr CNTHP_TVAL_EL2, {ticks}",
            "msr CNTHP_CTL_EL2, {enable}",
            "isb",
            ticks = in(reg) u64::from(ticks & 0x7fff_ffff),
            enable = in(reg) ENABLE,
            options(nomem, nostack, preserves_flags)
        );
    }
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
