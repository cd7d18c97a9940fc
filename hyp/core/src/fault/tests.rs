#![allow(clippy::unwrap_used)]
use super::*;
use crate::addr::Ipa;

const NZCV: u64 = 0xa << 28;
const SPAN: u64 = 1 << 23;

fn context(pstate: u64) -> Context {
    Context {
        pc: 0x4008_1234,
        pstate,
        vbar_el1: 0xffff_8000_0801_0800,
        sctlr_el1: SPAN,
    }
}

/// Stage-2 translation fault at level 3 of a store.
const WRITE_FAULT: Abort = Abort(0x24 << 26 | 1 << 25 | 1 << 6 | 0x07);

#[test]
fn the_vector_depends_on_where_it_came_from() {
    let vector = |pstate| context(pstate).undefined(0).pc - 0xffff_8000_0801_0800;
    assert_eq!(vector(0b0100), 0x000, "EL1t");
    assert_eq!(vector(0b0101), 0x200, "EL1h");
    assert_eq!(vector(0b0000), 0x400, "EL0");
    for mode in [0x10, 0x1f, 0x30] {
        assert_eq!(vector(mode), 0x600, "AArch32 EL0");
    }
}

#[test]
fn an_external_abort_says_what_was_done() {
    let el1 = context(NZCV | 0x3c5).external_abort(Access::Data, WRITE_FAULT, 0xdead_0008);
    assert_eq!(el1.esr_el1, 0x25 << 26 | 1 << 25 | 1 << 6 | 0x10);
    assert_eq!((el1.far_el1, el1.elr_el1), (Some(0xdead_0008), 0x4008_1234));
    assert_eq!(el1.spsr_el1, NZCV | 0x3c5);
    let el0 = context(0).external_abort(Access::Data, WRITE_FAULT, 0);
    assert_eq!(el0.esr_el1 >> 26, 0x24);
    let fetch = context(5).external_abort(Access::Instruction, WRITE_FAULT, 0);
    assert_eq!(fetch.esr_el1, 0x21 << 26 | 1 << 25 | 0x10);
    assert_eq!(
        context(0x10)
            .external_abort(Access::Instruction, WRITE_FAULT, 0)
            .esr_el1
            >> 26,
        0x20
    );
}

/// M3: a table walk's fault is told as one.
#[test]
fn a_table_walk_has_its_own_status() {
    let walk = Abort(WRITE_FAULT.0 | 1 << 7);
    let esr = context(5).external_abort(Access::Data, walk, 0).esr_el1;
    assert_eq!(esr & 0x3c, 0x14);
    assert_eq!(esr & 1 << 7, 0, "S1PTW is stage 2's");
}

#[test]
fn an_undefined_instruction_has_no_syndrome() {
    let injected = context(5).undefined(0x18 << 26 | 1 << 25 | 0x3a_3001);
    assert_eq!((injected.esr_el1, injected.far_el1), (1 << 25, None));
    assert_eq!(
        context(0x30).undefined(0x03 << 26).esr_el1,
        0,
        "T32, 16 bits"
    );
}

#[test]
fn the_handlers_pstate_is_the_architectures() {
    let dit = 1 << 24;
    let gone = 1 << 25 | 1 << 23 | 1 << 21 | 1 << 20 | 3 << 10;
    let injected = context(NZCV | dit | gone).undefined(0);
    assert_eq!(
        injected.pstate,
        NZCV | dit | 0x3c5,
        "flags and DIT stay; UAO, SS, IL, BTYPE do not"
    );
    let mut from = context(1 << 22);
    assert_eq!(from.undefined(0).pstate, 1 << 22 | 0x3c5);
    from.pstate = 0;
    assert_eq!(from.undefined(0).pstate, 0x3c5);
    from.sctlr_el1 = 0;
    assert_eq!(
        from.undefined(0).pstate,
        1 << 22 | 0x3c5,
        "SPAN clear: PAN is set"
    );
    from.sctlr_el1 = SPAN | 1 << 44;
    assert_eq!(from.undefined(0).pstate, 1 << 12 | 0x3c5, "DSSBS");
}

#[test]
fn a_report_reads_as_a_sentence() {
    let report = FaultReport {
        vcpu: 1,
        esr: 0x24 << 26 | 1 << 25 | 1 << 24 | 2 << 22 | 1 << 6 | 0x07,
        pc: 0x4008_1234,
        pstate: 0x3c5,
        far: 0x0a00_0010,
        ipa: Some(Ipa(0x0a00_0010)),
        owner: Some("nobody"),
    };
    assert_eq!(
        report.to_string(),
        "vCPU 1: 4-byte write at IPA 0xa000010 (nobody), VA 0xa000010: nothing mapped; \
         pc 0x40081234 in EL1, esr 0x93800047"
    );
    let walk = FaultReport {
        esr: report.esr | 1 << 7,
        owner: None,
        ..report
    };
    assert!(
        walk.to_string()
            .starts_with("vCPU 1: stage-1 table walk at IPA")
    );
    for class in 0..64 {
        let report = FaultReport {
            esr: class << 26,
            ..report
        };
        assert!(report.to_string().len() > 20, "{class:#x}");
    }
}
