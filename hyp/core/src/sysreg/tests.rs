#![allow(clippy::unwrap_used)]
use super::*;

/// ID registers of a Cortex-A72 r0p3 (TRM, chapter 4), those that matter here.
fn a72(crm: u32, op2: u32) -> u64 {
    match (crm, op2) {
        (4, 0) => 0x0100_2222,
        (5, 0) => 0x1030_5106,
        (6, 0) => 0x0001_1120,
        (7, 0) => 0x0000_1124,
        (1, 1) => 0x1001_1011,
        (1, 2) => 0x0301_0066,
        _ => 0,
    }
}

/// A core that has everything.
fn all(_: u32, _: u32) -> u64 {
    0x7777_7777_7777_7777
}

fn id(ids: &IdRegisters, crm: u32, op2: u32) -> u64 {
    ids.get(SystemRegister::new(3, 0, 0, crm, op2)).unwrap()
}

#[test]
fn an_a72_keeps_what_a_guest_may_use() {
    let ids = IdRegisters::new(Version::V3, a72);
    assert_eq!(
        id(&ids, 4, 0),
        0x0100_0012,
        "EL0 both, EL1 AArch64, GIC; no EL2, EL3"
    );
    assert_eq!(id(&ids, 5, 0), 0x1030_5006, "no PMU");
    assert_eq!(id(&ids, 6, 0), 0x0001_1120, "crypto and CRC stay");
    assert_eq!(id(&ids, 7, 0), 0x121, "36 bits; no secure memory");
    assert_eq!(id(&ids, 1, 2), 6);
    // A Cortex-A76 has pages of 16 KiB besides, and the guest sees that.
    let a76 = IdRegisters::new(Version::V3, |_, _| 0x0010_1122);
    assert_eq!(id(&a76, 7, 0), 0x0010_0121);
    let ids = IdRegisters::new(Version::V2, a72);
    assert_eq!(id(&ids, 4, 0) >> 24 & 15, 0);
    assert_eq!(id(&ids, 1, 1), 0x0001_0001);
}

/// S8: what is not switched is not shown.
#[test]
fn features_that_are_not_switched_are_hidden() {
    let ids = IdRegisters::new(Version::V3, all);
    let field = |crm, op2, shift: u32| id(&ids, crm, op2) >> shift & 15;
    for (crm, op2, shift, what) in [
        (4, 0, 8, "EL2"),
        (4, 0, 12, "EL3"),
        (4, 0, 28, "RAS"),
        (4, 0, 32, "SVE"),
        (4, 0, 40, "MPAM"),
        (4, 0, 44, "AMU"),
        (4, 1, 8, "MTE"),
        (4, 1, 24, "SME"),
        (4, 4, 0, "ZFR0"),
        (4, 5, 0, "SMFR0"),
        (5, 0, 4, "trace"),
        (5, 0, 8, "PMU"),
        (5, 0, 32, "SPE"),
        (6, 1, 4, "APA"),
        (6, 1, 8, "API"),
        (6, 1, 24, "GPA"),
        (6, 1, 28, "GPI"),
        (6, 2, 8, "GPA3"),
        (6, 2, 12, "APA3"),
        (6, 2, 16, "MOPS"),
        (7, 0, 56, "FGT"),
        (7, 0, 60, "ECV"),
        (7, 1, 8, "VH"),
        (7, 1, 16, "LO"),
        (7, 1, 40, "HCX"),
        (7, 3, 0, "TCRX"),
        (1, 2, 24, "PerfMon"),
    ] {
        assert_eq!(field(crm, op2, shift), 0, "{what}");
    }
    assert_eq!(field(4, 0, 56), 1, "CSV2 without SCXTNUM");
    assert_eq!((field(7, 0, 0), field(7, 0, 28)), (1, 0));
    assert_eq!(field(7, 0, 20), 1, "16 KiB pages, without 52-bit addresses");
    // "Not implemented" is not made to mean something else.
    let ids = IdRegisters::new(Version::V3, |_, _| u64::MAX);
    assert_eq!(id(&ids, 7, 0) >> 28 & 15, 15);
    assert_eq!(id(&ids, 4, 0) >> 16 & 0xff, 0xff);
}

#[test]
fn controls_follow_the_core() {
    let controls = Controls::new(6, a72);
    assert_eq!(controls.hcr_el2, 0x803c_003f);
    assert_eq!(controls.mdcr_el2, 0xc66);
    assert_eq!(
        (controls.cptr_el2, controls.cnthctl_el2, controls.hstr_el2),
        (0x33ff, 3, 0)
    );
    assert!(!controls.has_hcrx && !controls.has_fine_grained_traps);
    let controls = Controls::new(31, all);
    assert_eq!(
        controls.hcr_el2 & (1 << 35 | 1 << 36 | 1 << 58),
        1 << 35 | 1 << 36 | 1 << 58
    );
    assert_eq!(
        controls.hcr_el2 & (1 << 40 | 1 << 41 | 1 << 34 | 1 << 27 | 1 << 22 | 0b11 << 13),
        0
    );
    assert_eq!(controls.cptr_el2, 0x33ff | 1 << 20 | 1 << 30);
    assert!(controls.has_hcrx && controls.has_fine_grained_traps);
}

/// S1, S2, S3: every encoding ends in a verdict; few are more than UNDEFINED.
#[test]
fn every_register_has_a_verdict() {
    let ids = IdRegisters::new(Version::V3, a72);
    let mut special = Vec::new();
    for op0 in 0..4 {
        for op1 in 0..8 {
            for crn in 0..16 {
                for crm in 0..16 {
                    for op2 in 0..8 {
                        let register = SystemRegister::new(op0, op1, crn, crm, op2);
                        for direction in [Direction::Read, Direction::Write] {
                            let verdict = judge(register, direction, &ids, Version::V3);
                            if verdict != Verdict::Undefined && ids.get(register).is_none() {
                                special.push((register.to_string(), direction));
                            }
                        }
                    }
                }
            }
        }
    }
    assert_eq!(special.len(), 12, "{special:?}");
    let undefined = |op0, op1, crn, crm, op2| {
        for direction in [Direction::Read, Direction::Write] {
            let register = SystemRegister::new(op0, op1, crn, crm, op2);
            assert_eq!(
                judge(register, direction, &ids, Version::V3),
                Verdict::Undefined
            );
        }
    };
    undefined(3, 3, 9, 12, 0); // PMCR_EL0
    undefined(3, 1, 15, 2, 0); // CPUACTLR_EL1
    undefined(3, 1, 11, 0, 2); // L2CTLR_EL1
    undefined(3, 0, 5, 3, 0); // ERRIDR_EL1
}

/// G8: SGI registers exist with GICv3 only, and are write-only.
#[test]
fn sgi_registers() {
    let ids = IdRegisters::new(Version::V3, a72);
    let sgi1 = SystemRegister::new(3, 0, 12, 11, 5);
    let sgi0 = SystemRegister::new(3, 0, 12, 11, 7);
    assert_eq!(
        judge(sgi1, Direction::Write, &ids, Version::V3),
        Verdict::SendSgi(SgiRegister::Sgi1)
    );
    assert_eq!(
        judge(sgi0, Direction::Write, &ids, Version::V3),
        Verdict::SendSgi(SgiRegister::Group0)
    );
    assert_eq!(
        judge(sgi1, Direction::Read, &ids, Version::V3),
        Verdict::Undefined
    );
    assert_eq!(
        judge(sgi1, Direction::Write, &ids, Version::V2),
        Verdict::Undefined
    );
}
