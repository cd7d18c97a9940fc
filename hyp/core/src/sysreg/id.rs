//! What the guest's ID registers say: the core's own words, less the features that Ballast traps or
//! does not reset between guests (`HCR_EL2.TID3` traps them all).
//!
//! Each register is a list of the fields that stay. A feature that a newer core has and this list
//! has not is hidden, not passed by accident.

use crate::exit::SystemRegister;
use crate::machine::IPA_LIMIT;
use crate::vgic::Version;

/// Registers in the ID space that TID3 covers: S3_0_C0_C1_0 to S3_0_C0_C7_7.
const COUNT: usize = 56;

/// How one register is shown.
struct Rule {
    crm: u32,
    op2: u32,
    /// Bits that stay.
    keep: u64,
    /// Fields, by their lowest bit, that show at most this value.
    at_most: &'static [(u32, u64)],
}

/// The mask of four-bit fields that begin at these bits.
const fn fields<const N: usize>(shifts: [u32; N]) -> u64 {
    let mut mask = 0;
    let mut n = 0;
    while n < N {
        #[expect(clippy::indexing_slicing, reason = "n < N")]
        let shift = shifts[n];
        mask |= 0xf_u64.wrapping_shl(shift);
        n = n.wrapping_add(1);
    }
    mask
}

const fn rule(crm: u32, op2: u32, keep: u64) -> Rule {
    Rule {
        crm,
        op2,
        keep,
        at_most: &[],
    }
}

/// Every bit of an AArch32 register.
const ALL_32: u64 = 0xffff_ffff;

/// `PARange`: 36 bits, the size of a guest's physical address space.
const PA_RANGE: u64 = 1;
const _: () = assert!(IPA_LIMIT.0 == 1 << 36);

/// `ID_AA64PFR0_EL1`'s and `ID_PFR1_EL1`'s GIC system register fields.
const PFR0_GIC: (usize, u32) = (index(4, 0), 24);
const ID_PFR1_GIC: (usize, u32) = (index(1, 1), 28);

/// Field positions: Arm ARM DDI 0487, D24.2. Registers not listed read as zero.
static RULES: [Rule; 34] = [
    // ID_PFR0: State0-3, CSV2, DIT; not AMU, RAS.
    Rule {
        crm: 1,
        op2: 0,
        keep: fields([0, 4, 8, 12, 16, 24]),
        at_most: &[(16, 1)],
    },
    // ID_PFR1: ProgMod, MProgMod, GenTimer, GIC; not Security, Virtualization.
    Rule {
        crm: 1,
        op2: 1,
        keep: fields([0, 8, 16, 28]),
        at_most: &[(28, 1)],
    },
    // ID_DFR0: CopDbg; not trace, PerfMon.
    rule(1, 2, fields([0])),
    // ID_MMFR0-3.
    rule(1, 4, ALL_32),
    rule(1, 5, ALL_32),
    rule(1, 6, ALL_32),
    rule(1, 7, ALL_32),
    // ID_ISAR0-5, ID_MMFR4, ID_ISAR6.
    rule(2, 0, ALL_32),
    rule(2, 1, ALL_32),
    rule(2, 2, ALL_32),
    rule(2, 3, ALL_32),
    rule(2, 4, ALL_32),
    rule(2, 5, ALL_32),
    rule(2, 6, ALL_32),
    rule(2, 7, ALL_32),
    // MVFR0-2; ID_PFR2: CSV3, SSBS; ID_MMFR5: ETS.
    rule(3, 0, ALL_32),
    rule(3, 1, ALL_32),
    rule(3, 2, ALL_32),
    rule(3, 4, fields([0, 4])),
    rule(3, 6, fields([0])),
    // PFR0: EL0, EL1 (AArch64 only: HCR_EL2.RW), FP, AdvSIMD, GIC, DIT, CSV2 (1: without SCXTNUM,
    // which would need HCR_EL2.EnSCXT), CSV3; not EL2, EL3, RAS, SVE, MPAM, AMU.
    Rule {
        crm: 4,
        op2: 0,
        keep: fields([0, 4, 16, 20, 24, 48, 56, 60]),
        at_most: &[(4, 1), (24, 1), (56, 1)],
    },
    // PFR1: BT, SSBS; not MTE, SME, NMI.
    rule(4, 1, fields([0, 4])),
    // DFR0: DebugVer, BRPs, WRPs, CTX_CMPs, DoubleLock; not trace, PMU, SPE, BRBE.
    rule(5, 0, fields([0, 12, 20, 28, 36])),
    // ISAR0: all but TME.
    rule(6, 0, !fields([24])),
    // ISAR1: DPB, JSCVT, FCMA, LRCPC, FRINTTS, SB, SPECRES, BF16, DGH, I8MM; not pointer
    // authentication (APA, API, GPA, GPI), whose keys HCR_EL2.API and APK withhold, XS, LS64.
    rule(6, 1, fields([0, 12, 16, 20, 32, 36, 40, 44, 48, 52])),
    // ISAR2: WFxT, RPRES, BC, CLRBHB; not GPA3, APA3, MOPS.
    rule(6, 2, fields([0, 4, 20, 28])),
    // MMFR0: PARange, ASIDBits, BigEnd, BigEndEL0, the granules (without 52-bit addresses); not
    // SNSMem, stage 2's granules, ExS, FGT, ECV.
    Rule {
        crm: 7,
        op2: 0,
        keep: fields([0, 4, 8, 16, 20, 24, 28]),
        at_most: &[(0, PA_RANGE), (20, 1), (28, 0)],
    },
    // MMFR1: HAFDBS, HPDS, PAN, ETS, AFP, nTLBPA; not VMIDBits, VH, LO, SpecSEI, XNX, TWED, HCX.
    rule(7, 1, fields([0, 12, 20, 36, 44, 48])),
    // MMFR2: CnP, UAO, LSM, VARange, CCIDX, ST, AT, IDS, TTL, BBM, E0PD; not IESB, NV, FWB, EVT.
    rule(7, 2, fields([0, 4, 8, 16, 20, 28, 32, 36, 48, 52, 60])),
    // ISAR3, DFR1, AFR0-1, ZFR0, SMFR0, MMFR3-4: nothing. Named, for the reader's sake.
    rule(6, 3, 0),
    rule(5, 1, 0),
    rule(4, 4, 0),
    rule(4, 5, 0),
    rule(7, 3, 0),
];

#[expect(
    clippy::arithmetic_side_effects,
    reason = "crm is 1 to 7 and op2 0 to 7 wherever it is called"
)]
const fn index(crm: u32, op2: u32) -> usize {
    (crm as usize - 1) * 8 + op2 as usize
}

/// The ID registers as a guest reads them, made once at boot.
#[derive(Debug)]
pub struct IdRegisters([u64; COUNT]);

impl IdRegisters {
    /// From the core's own: `read(crm, op2)` reads `S3_0_C0_C<crm>_<op2>`.
    #[must_use]
    pub fn new(version: Version, read: impl Fn(u32, u32) -> u64) -> Self {
        let mut values = [0; COUNT];
        for rule in &RULES {
            let mut value = read(rule.crm, rule.op2) & rule.keep;
            for &(shift, most) in rule.at_most {
                let field = value.wrapping_shr(shift) & 0xf;
                // From 8 on, fields that can be negative are: "not there" stays as it is.
                if field > most && field < 8 {
                    value ^= (field ^ most).wrapping_shl(shift);
                }
            }
            if let Some(shown) = values.get_mut(index(rule.crm, rule.op2)) {
                *shown = value;
            }
        }
        if version == Version::V2 {
            // No system registers for the interrupt controller, though the core may have them.
            for (register, shift) in [PFR0_GIC, ID_PFR1_GIC] {
                if let Some(shown) = values.get_mut(register) {
                    *shown &= !0xf_u64.wrapping_shl(shift);
                }
            }
        }
        Self(values)
    }

    /// What a guest reads from `register`; `None` if it is not in the ID space.
    #[must_use]
    pub fn get(&self, register: SystemRegister) -> Option<u64> {
        let is_id = register.op0() == 3 && register.op1() == 0 && register.crn() == 0;
        if !is_id || !(1..=7).contains(&register.crm()) {
            return None;
        }
        self.0.get(index(register.crm(), register.op2())).copied()
    }
}
