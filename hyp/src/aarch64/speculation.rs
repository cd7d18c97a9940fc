//! What this core executes before anything else when it leaves a guest (docs/errata.md).

use core::arch::asm;
use core::sync::atomic::{AtomicU32, Ordering};

use aarch64_cpu::registers::{VBAR_EL2, Writeable};
use ballast_core::board::Psci;
use ballast_core::speculation::firmware_workaround;

use super::firmware;
use super::registers::read_id;

/// The function identifier of firmware's workaround, 0 if it has none. `vectors.S` reads it.
#[unsafe(export_name = "firmware_workaround")]
static FIRMWARE_WORKAROUND: AtomicU32 = AtomicU32::new(0);

/// Asks firmware what it has, once, before any guest runs.
pub fn init(psci: Option<Psci>) {
    if !psci.is_some_and(|psci| psci.smc && psci.standard) {
        return;
    }
    let smc = |function, argument: u32| {
        // SAFETY: the device tree says that firmware's PSCI, 0.2 or later, listens to SMC; PSCI_FEATURES is asked
        // before any function that need not exist, and an unknown one is answered, not undefined (DEN0022, 5.2.1).
        unsafe { firmware::smc(function, [argument.into(), 0, 0]) }
    };
    if let Some(function) = firmware_workaround(smc) {
        FIRMWARE_WORKAROUND.store(function, Ordering::Relaxed);
    }
}

/// Before this core enters a guest, whose `harden` is this: the vectors it will leave it by, and nothing left in the
/// predictor of the guest before, as far as anybody here can ask for that.
pub fn enter(harden: bool) {
    unsafe extern "C" {
        static el2_vectors: u8;
        static el2_vectors_behind_branches: u8;
        static el2_vectors_behind_firmware: u8;
    }
    let workaround = FIRMWARE_WORKAROUND.load(Ordering::Relaxed);
    let vectors = match (harden, workaround) {
        (false, _) => &raw const el2_vectors,
        (true, 0) => &raw const el2_vectors_behind_branches,
        (true, _) => &raw const el2_vectors_behind_firmware,
    };
    // The ERET into the guest is what makes it so (DDI 0487, D1.3.4: SCTLR_EL2.EOS).
    VBAR_EL2.set(vectors.expose_provenance() as u64);
    forget_predictions();
    if workaround != 0 {
        // SAFETY: firmware has said that it supports this function, which changes no state but the predictor's.
        unsafe { firmware::smc(workaround, [0; 3]) };
    }
}

/// With FEAT_SPECRES: control flow, data values and cache prefetches that this core has learnt at EL1 and EL0 of any VMID
/// and ASID steer nothing any more (DDI 0487, C5.5: CFP, DVP and CPP RCTX). Cores without it, such as Cortex-A72, have no
/// instruction for that in AArch64.
fn forget_predictions() {
    /// ID_AA64ISAR1_EL1.SPECRES.
    const SPECRES_SHIFT: u32 = 40;
    /// GASID (16), GVMID (48), EL in 25:24, NS (26).
    const ALL_EL0: u64 = 1 << 16 | 1 << 48 | 1 << 26;
    const ALL_EL1: u64 = ALL_EL0 | 1 << 24;
    if read_id(6, 1) >> SPECRES_SHIFT & 0xf == 0 {
        return;
    }
    for context in [ALL_EL0, ALL_EL1] {
        // SAFETY: the instructions exist, and change nothing but predictions; complete by the DSB (C5.5.1).
        unsafe {
            asm!(
                "sys #3, C7, C3, #4, {context}",
                "sys #3, C7, C3, #5, {context}",
                "sys #3, C7, C3, #7, {context}",
                "dsb nsh",
                "isb",
                context = in(reg) context,
                options(nostack, preserves_flags)
            );
        }
    }
}
