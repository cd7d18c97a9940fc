//! Calls to the board's firmware: PSCI over SMC, only where the device tree says that it listens.

use core::arch::asm;

/// PSCI CPU_ON's and SYSTEM_OFF's return for success (DEN0022, 5.2.2).
pub const SUCCESS: i64 = 0;

/// One SMC with up to three arguments; returns x0. Clobbers what SMCCC lets a callee clobber
/// (DEN0028, 2.6: x1-x17 for SMCCC before 1.1).
///
/// # Safety
/// Firmware must implement `function` at EL3: where EL3 disables SMC, this is UNDEFINED.
pub unsafe fn smc(function: u32, args: [u64; 3]) -> i64 {
    let result: u64;
    // SAFETY: by contract; the clobbers are declared.
    unsafe {
        asm!(
            "smc #0",
            inlateout("x0") u64::from(function) => result,
            inlateout("x1") args[0] => _, inlateout("x2") args[1] => _, inlateout("x3") args[2] => _,
            lateout("x4") _, lateout("x5") _, lateout("x6") _, lateout("x7") _, lateout("x8") _,
            lateout("x9") _, lateout("x10") _, lateout("x11") _, lateout("x12") _, lateout("x13") _,
            lateout("x14") _, lateout("x15") _, lateout("x16") _, lateout("x17") _,
            options(nostack)
        );
    }
    result.cast_signed()
}

/// PSCI SYSTEM_OFF (DEN0022, 5.1.9).
pub const SYSTEM_OFF: u32 = 0x8400_0008;
/// PSCI SYSTEM_RESET (DEN0022, 5.1.10).
pub const SYSTEM_RESET: u32 = 0x8400_0009;
