//! Calls by HVC and SMC (SMCCC, DEN0028), and PSCI (DEN0022) on top.

use core::arch::asm;
use core::sync::atomic::{AtomicBool, Ordering};

/// Set when the device tree's psci node says `method = "smc"`.
static PSCI_BY_SMC: AtomicBool = AtomicBool::new(false);

macro_rules! call {
    ($instruction:literal, $x:expr) => {{
        let x: [u64; 5] = $x;
        let (mut x0, mut x1, mut x2, mut x3) = (x[0], x[1], x[2], x[3]);
        // SAFETY: the callee changes x0..x3 alone (SMCCC 1.2 section 2.6; x4..x17 are listed as clobbered
        // for the SMCCC 1.0 firmware of a plain machine). Memory the call gives away or returns is owned
        // by no Rust object: it is touched through `memory` alone.
        unsafe {
            asm!(
                $instruction,
                inout("x0") x0, inout("x1") x1, inout("x2") x2, inout("x3") x3,
                inout("x4") x[4] => _, out("x5") _, out("x6") _, out("x7") _, out("x8") _, out("x9") _,
                out("x10") _, out("x11") _, out("x12") _, out("x13") _, out("x14") _, out("x15") _,
                out("x16") _, out("x17") _,
                options(nostack)
            )
        };
        [x0, x1, x2, x3]
    }};
}

/// HVC #0 with x0..x4; x0..x3 as returned.
pub fn hvc(x: [u64; 5]) -> [u64; 4] {
    call!("hvc #0", x)
}

/// SMC #0 with x0..x4; x0..x3 as returned.
pub fn smc(x: [u64; 5]) -> [u64; 4] {
    call!("smc #0", x)
}

/// PSCI.
pub mod psci {
    use super::{AtomicBool, Ordering, PSCI_BY_SMC, hvc, smc};

    /// Function identifiers (DEN0022 section 5.1).
    pub mod function {
        /// `PSCI_VERSION`
        pub const VERSION: u64 = 0x8400_0000;
        /// `CPU_OFF`
        pub const CPU_OFF: u64 = 0x8400_0002;
        /// `CPU_ON` (64)
        pub const CPU_ON: u64 = 0xc400_0003;
        /// `AFFINITY_INFO` (64)
        pub const AFFINITY_INFO: u64 = 0xc400_0004;
        /// `SYSTEM_OFF`
        pub const SYSTEM_OFF: u64 = 0x8400_0008;
        /// `SYSTEM_RESET`
        pub const SYSTEM_RESET: u64 = 0x8400_0009;
        /// `PSCI_FEATURES`
        pub const FEATURES: u64 = 0x8400_000a;
    }

    /// Return codes (DEN0022 section 5.2.2).
    pub mod error {
        /// `NOT_SUPPORTED`
        pub const NOT_SUPPORTED: i64 = -1;
        /// `INVALID_PARAMETERS`
        pub const INVALID_PARAMETERS: i64 = -2;
        /// `DENIED`
        pub const DENIED: i64 = -3;
        /// `ALREADY_ON`
        pub const ALREADY_ON: i64 = -4;
        /// `ON_PENDING`
        pub const ON_PENDING: i64 = -5;
        /// `INVALID_ADDRESS`
        pub const INVALID_ADDRESS: i64 = -9;
    }

    /// AFFINITY_INFO's answer for a core that is off.
    pub const AFFINITY_OFF: i64 = 1;

    /// Chooses the conduit; HVC until then.
    pub fn set_conduit_smc(by_smc: bool) {
        PSCI_BY_SMC.store(by_smc, Ordering::Relaxed);
    }

    /// One PSCI call.
    pub fn call(function: u64, x1: u64, x2: u64, x3: u64) -> i64 {
        let x = [function, x1, x2, x3, 0];
        let by_smc: &AtomicBool = &PSCI_BY_SMC;
        (if by_smc.load(Ordering::Relaxed) {
            smc(x)
        } else {
            hvc(x)
        })[0]
            .cast_signed()
    }

    /// As [`call`] for functions that return 32 bits, sign-extended.
    pub fn call32(function: u64, x1: u64, x2: u64, x3: u64) -> i64 {
        i64::from((call(function, x1, x2, x3) as u32).cast_signed())
    }

    /// Switches the machine off.
    pub fn system_off() -> ! {
        call(function::SYSTEM_OFF, 0, 0, 0);
        loop {
            aarch64_cpu::asm::wfi();
        }
    }
}
