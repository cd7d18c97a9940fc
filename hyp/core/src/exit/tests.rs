#![allow(clippy::unwrap_used)]
use super::*;
use crate::addr::Ipa;

/// ESR_EL2 as QEMU and hardware give it for `ldr w3, [x1]` to an unmapped page: EC 0x24, IL, ISV,
/// SAS word, SRT 3, translation fault level 3.
const LOAD_W3: u64 = 0x24 << 26 | 1 << 25 | 1 << 24 | 2 << 22 | 3 << 16 | 0x07;

fn abort(esr: u64) -> Abort {
    match decode(esr) {
        Exit::DataAbort(abort) => abort,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_plain_load_is_decoded() {
    let abort = abort(LOAD_W3);
    assert_eq!(abort.fault(), AccessFault::Translation);
    assert!(!abort.is_table_walk());
    let access = abort.access().unwrap();
    assert_eq!(
        (access.width(), access.register(), access.is_write()),
        (Width::Word, 3, false)
    );
    assert_eq!(access.loaded(0xffff_ffff_8000_0001), 0x8000_0001);
}

#[test]
fn nothing_is_emulated_without_a_valid_syndrome() {
    assert_eq!(abort(LOAD_W3 & !(1 << 24)).access(), None, "ISV clear");
    assert_eq!(abort(LOAD_W3 | 1 << 7).access(), None, "table walk");
    assert_eq!(abort(LOAD_W3 | 1 << 8).access(), None, "cache maintenance");
}

#[test]
fn loads_extend_as_the_instruction_does() {
    let sse = 1 << 21;
    let sf = 1 << 15;
    let width = |sas: u64| LOAD_W3 & !(3 << 22) | sas << 22;
    let loaded = |esr: u64, value| abort(esr).access().unwrap().loaded(value);
    assert_eq!(loaded(width(0), 0x1ff), 0xff, "ldrb");
    assert_eq!(loaded(width(0) | sse, 0x80), 0xffff_ff80, "ldrsb w");
    assert_eq!(
        loaded(width(0) | sse | sf, 0x80),
        0xffff_ffff_ffff_ff80,
        "ldrsb x"
    );
    assert_eq!(
        loaded(width(1) | sse | sf, 0x7fff),
        0x7fff,
        "ldrsh x, positive"
    );
    assert_eq!(
        loaded(width(2) | sse | sf, 0x8000_0000),
        0xffff_ffff_8000_0000,
        "ldrsw"
    );
    assert_eq!(loaded(width(3) | sf, u64::MAX), u64::MAX, "ldr x");
    let store = abort(width(1) | 1 << 6).access().unwrap();
    assert!(store.is_write());
    assert_eq!(store.stored(0x1234_5678), 0x5678);
}

#[test]
fn status_codes_map_to_kinds() {
    let fault = |code| Abort(code).fault();
    for level in 0..4 {
        assert_eq!(fault(level), AccessFault::AddressSize);
        assert_eq!(fault(4 + level), AccessFault::Translation);
        assert_eq!(fault(8 + level), AccessFault::AccessFlag);
        assert_eq!(fault(12 + level), AccessFault::Permission);
        assert_eq!(fault(0x14 + level), AccessFault::External);
        assert_eq!(fault(0x1c + level), AccessFault::External);
    }
    assert_eq!(fault(0x10), AccessFault::External);
    for code in [0x11, 0x21, 0x30, 0x34, 0x35] {
        assert_eq!(fault(code), AccessFault::Other, "{code:#x}");
    }
}

#[test]
fn the_ipa_comes_from_both_fault_registers() {
    assert_eq!(
        Abort::ipa(0x0008_0100, 0xffff_8000_0000_0f04),
        Ipa(0x0801_0f04)
    );
    assert_eq!(
        Abort::ipa(u64::MAX, 0),
        Ipa(0x000f_ffff_ffff_f000),
        "52 bits at most"
    );
}

#[test]
fn a_trapped_register_access_is_named() {
    // MSR ICC_SGI1R_EL1 (S3_0_C12_C11_5), x7.
    let register = SystemRegister::new(3, 0, 12, 11, 5);
    let esr = 0x18 << 26 | 1 << 25 | 3 << 20 | 5 << 17 | 12 << 10 | 7 << 5 | 11 << 1;
    let Exit::System(access) = decode(esr) else {
        panic!()
    };
    assert_eq!(access.system_register().to_string(), "S3_0_C12_C11_5");
    assert_eq!(access.system_register(), register);
    assert_eq!(
        (access.register(), access.direction()),
        (7, Direction::Write)
    );
    assert_eq!(SystemAccess(esr | 1).direction(), Direction::Read);
}

#[test]
fn every_class_ends_somewhere() {
    for class in 0..64_u64 {
        let exit = decode(class << 26);
        let known = [0x01, 0x16, 0x17, 0x18, 0x20, 0x24].contains(&class);
        assert_eq!(exit != Exit::Undefined, known, "{class:#x}");
    }
    assert_eq!(instruction_bytes(0), 2);
    assert_eq!(instruction_bytes(1 << 25), 4);
}
