//! What this core executes before anything else when it leaves a guest (docs/errata.md).

use core::sync::atomic::{AtomicU32, Ordering};

use aarch64_cpu::registers::{VBAR_EL2, Writeable};
use ballast_core::board::Psci;
use ballast_core::speculation::firmware_workaround;

use super::firmware;

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
    if workaround != 0 {
        // SAFETY: firmware has said that it supports this function, which changes no state but the predictor's.
        unsafe { firmware::smc(workaround, [0; 3]) };
    }
}
