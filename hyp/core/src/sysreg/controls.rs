//! The traps: values of EL2's control registers while a guest runs, with the reason of each bit
//! (Arm ARM DDI 0487, D24.2 and D24.3). Bits not named are zero: no trap, no override.

/// The registers to load on each core before it enters a guest. The same for every guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Controls {
    /// `HCR_EL2`.
    pub hcr_el2: u64,
    /// `MDCR_EL2`.
    pub mdcr_el2: u64,
    /// `CPTR_EL2`, in its form for `HCR_EL2.E2H` = 0.
    pub cptr_el2: u64,
    /// `CNTHCTL_EL2`, in its form for `HCR_EL2.E2H` = 0.
    pub cnthctl_el2: u64,
    /// `HSTR_EL2`: no AArch32 coprocessor access of EL0 is trapped as a whole; TIDCP and TPM take
    /// those that matter.
    pub hstr_el2: u64,
    /// `HCRX_EL2` exists and must be zeroed: its features are hidden, its reset value is unknown.
    pub has_hcrx: bool,
    /// The fine-grained trap registers (`HFGRTR_EL2`, `HFGWTR_EL2`, `HFGITR_EL2`, `HDFGRTR_EL2`,
    /// `HDFGWTR_EL2`) exist and must be zeroed, for the same reason.
    pub has_fine_grained_traps: bool,
}

/// `HCR_EL2` on every core.
///
/// Deliberately clear: TGE and E2H (EL2 is not a host's kernel), TWI and TWE (waiting is the
/// guest's, and sleeps; the shell sets TWI only while a core has scrubbing to do), TSW (set/way
/// maintenance works on the own core's caches, which no vCPU leaves while it runs), TTLB and FB
/// (TLB maintenance is confined to the VMID), TEA (a device's abort is its guest's), API and APK
/// (pointer authentication is hidden), HCD (HVC is the way in).
const HCR_EL2: u64 = {
    /// Stage 2 translates.
    const VM: u64 = 1 << 0;
    /// Invalidation by set/way cleans too: nobody loses another's dirty lines.
    const SWIO: u64 = 1 << 1;
    /// A stage-1 walk into a Device page faults, so that no walker touches a device.
    const PTW: u64 = 1 << 2;
    /// FIQ, IRQ and SError are EL2's; the guest has virtual ones.
    const FMO_IMO_AMO: u64 = 0b111 << 3;
    /// ID registers say what Ballast switches, not what the core can do.
    const TID3: u64 = 1 << 18;
    /// SMC is answered here and never reaches firmware.
    const TSC: u64 = 1 << 19;
    /// Implementation-defined registers (L2CTLR, CPUECTLR, ...) reach beyond the core.
    const TIDCP: u64 = 1 << 20;
    /// The same for the auxiliary control register.
    const TACR: u64 = 1 << 21;
    /// EL1 is AArch64.
    const RW: u64 = 1 << 31;
    VM | SWIO | PTW | FMO_IMO_AMO | TID3 | TSC | TIDCP | TACR | RW
};

/// `HCR_EL2`, with FEAT_LOR: limited-ordering regions are hidden.
const HCR_TLOR: u64 = 1 << 35;
/// `HCR_EL2`, with FEAT_RAS: error records are the board's.
const HCR_TERR: u64 = 1 << 36;
/// `HCR_EL2`, with FEAT_MTE2: tags are hidden (ATA is clear too).
const HCR_TID5: u64 = 1 << 58;

/// `MDCR_EL2` on every core.
///
/// Clear: TDE and TDA. Breakpoints and watchpoints are the guest's own; none can fire in EL2, where
/// debug exceptions are disabled unless TDE routes them there (D2.4), and the shell clears them
/// when the core changes hands.
const MDCR_EL2: u64 = {
    /// `PMCR_EL0` and all other PMU registers: the PMU is hidden.
    const TPMCR_TPM: u64 = 0b11 << 5;
    /// OS lock, double lock and power requests: the core's power is not the guest's.
    const TDOSA: u64 = 1 << 10;
    /// The debug ROM's address is a physical one.
    const TDRA: u64 = 1 << 11;
    TPMCR_TPM | TDOSA | TDRA
};

/// `MDCR_EL2`, with FEAT_SPE: statistical profiling is hidden (E2PB is clear too).
const MDCR_TPMS: u64 = 1 << 14;
/// `MDCR_EL2`, with FEAT_TRF: trace filtering is hidden.
const MDCR_TTRF: u64 = 1 << 19;

/// `CPTR_EL2`: its RES1 bits, among which are TSM (12) and TZ (8), so SME and SVE trap where they
/// exist; TFP (10) is clear.
const CPTR_EL2: u64 = 0x33ff;
/// `CPTR_EL2`, with trace system registers: they trap.
const CPTR_TTA: u64 = 1 << 20;
/// `CPTR_EL2`, with FEAT_AMU: the activity monitors trap.
const CPTR_TAM: u64 = 1 << 30;

/// `CNTHCTL_EL2`: EL1 and EL0 reach the physical counter (EL1PCTEN) and timer (EL1PCEN).
const CNTHCTL_EL2: u64 = 0b11;

impl Controls {
    /// For a core whose ID registers are read by `read(crm, op2)` (`S3_0_C0_C<crm>_<op2>`) and whose
    /// PMU has `event_counters` (`PMCR_EL0.N`): all of them are left to EL1 (HPMN), so that none
    /// counts on EL2's behalf.
    #[must_use]
    pub fn new(event_counters: u64, read: impl Fn(u32, u32) -> u64) -> Self {
        let field = |crm, op2, shift: u32| read(crm, op2).wrapping_shr(shift) & 0xf;
        let if_set = |feature: u64, bit: u64| if feature != 0 { bit } else { 0 };
        let (pfr0, pfr1, dfr0, mmfr1) = ((4, 0), (4, 1), (5, 0), (7, 1));
        let of = |(crm, op2), shift| field(crm, op2, shift);
        Self {
            hcr_el2: HCR_EL2
                | if_set(of(mmfr1, 16), HCR_TLOR)
                | if_set(of(pfr0, 28), HCR_TERR)
                | if_set(of(pfr1, 8) >> 1, HCR_TID5),
            mdcr_el2: MDCR_EL2
                | if_set(of(dfr0, 32), MDCR_TPMS)
                | if_set(of(dfr0, 40), MDCR_TTRF)
                | event_counters & 0x1f,
            cptr_el2: CPTR_EL2 | if_set(of(dfr0, 4), CPTR_TTA) | if_set(of(pfr0, 44), CPTR_TAM),
            cnthctl_el2: CNTHCTL_EL2,
            hstr_el2: 0,
            has_hcrx: of(mmfr1, 40) != 0,
            has_fine_grained_traps: field(7, 0, 56) != 0,
        }
    }
}
