//! TLB maintenance: the only place that issues TLBI.

use core::arch::asm;

/// All EL2 stage-1 translations of every core (DDI 0487, D8.14.5).
pub fn invalidate_el2() {
    // SAFETY: dropping cached translations never changes what an address means; the barriers make
    // the invalidation complete and the following code see it (DDI 0487, D8.14.5.2).
    unsafe {
        asm!(
            "tlbi alle2is",
            "dsb ish",
            "isb",
            options(nostack, preserves_flags)
        )
    }
}

/// This core's translation of one EL2 page. For a page that only this core ever accesses.
pub fn invalidate_el2_page_local(va: u64) {
    // SAFETY: as above. Non-shareable scope suffices because no other core accesses the page.
    unsafe {
        asm!("tlbi vae2, {0}", "dsb nsh", "isb", in(reg) va >> 12, options(nostack, preserves_flags))
    }
}

/// Everything cached for the VMID in VTTBR_EL2, on every core: both stages and their combination.
///
/// One call ends a whole batch of stage-2 changes. VMALLS12E1 covers combined and stage-1-only
/// entries, so nothing derived from an old stage-2 entry survives (DDI 0487, D8.14.5.1).
pub fn invalidate_guest() {
    // SAFETY: as above; the DSB before orders the table writes before the invalidation.
    unsafe {
        asm!(
            "dsb ishst",
            "tlbi vmalls12e1is",
            "dsb ish",
            "isb",
            options(nostack, preserves_flags)
        )
    }
}

/// What this core alone has cached of any guest's translations, and of instructions: the guest before, another vCPU of
/// the same one, or a former life of this one, may have run here with translations of its own that it never had to
/// tell other cores of. ALLE1 is every VMID's stage 1 and 2 (DDI 0487, D8.14.5), IC IALLU all instruction caches of
/// this core to the point of unification (D7.5.9).
pub fn forget_vcpu() {
    // SAFETY: as above.
    unsafe {
        asm!(
            "tlbi alle1",
            "ic iallu",
            "dsb nsh",
            "isb",
            options(nostack, preserves_flags)
        )
    }
}

/// Everything of every VMID, on this core: before the first guest runs.
pub fn invalidate_all_local() {
    // SAFETY: as above.
    unsafe {
        asm!(
            "tlbi alle1",
            "dsb nsh",
            "isb",
            options(nostack, preserves_flags)
        )
    }
}
