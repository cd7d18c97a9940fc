use super::*;
use crate::addr::Ipa;
use proptest::prelude::*;

struct Nothing;

impl Guest for Nothing {
    fn is_ram(&self, _: Ipa) -> bool {
        false
    }

    fn take_core(&self, _: usize) -> Option<usize> {
        None
    }
}

const A72: u64 = 0x410f_d083;
const A53: u64 = 0x410f_d034;

fn call_on(midr: u64, function: u64, arguments: [u64; 3]) -> Action {
    let psci = Psci::new(1);
    assert!(psci.claim(0));
    psci.set_on(0);
    dispatch(
        function,
        arguments,
        0,
        &psci,
        &Workarounds::new(midr, 0),
        &Nothing,
    )
}

fn call(function: u64, arguments: [u64; 3]) -> Action {
    call_on(A72, function, arguments)
}

#[test]
fn versions_and_identity() {
    assert_eq!(call(0x8000_0000, [0; 3]), Action::Return(0x1_0002));
    assert_eq!(
        call(0x8600_ff01, [0; 3]),
        Action::ReturnWords(ballast_abi::UID)
    );
    assert_eq!(call(0x8600_ff03, [0; 3]), Action::ReturnWords([1, 2, 0, 0]));
    assert_eq!(call(0x8600_ff00, [0; 3]), Action::Return(14));
}

#[test]
fn balloon_calls_go_to_the_balloon() {
    for number in 0..0x100 {
        assert_eq!(
            call(0xc600_0000 | number, [0; 3]),
            Action::Balloon(0xc600_0000 | number as u32)
        );
        assert_eq!(
            call(0x8600_0000 | number, [0; 3]),
            Action::Return(NOT_SUPPORTED),
            "SMC32"
        );
        assert_eq!(
            call(0x4600_0000 | number, [0; 3]),
            Action::Return(NOT_SUPPORTED),
            "yielding"
        );
    }
    assert_eq!(call(0xc600_0101, [0; 3]), Action::Return(NOT_SUPPORTED));
    assert_eq!(
        call(0xc601_0001, [0; 3]),
        Action::Balloon(0xc600_0001),
        "SVE hint"
    );
}

/// S14: what a core is told depends on what it is.
#[test]
fn workarounds_are_answered_honestly() {
    let asked = |midr, id: u64| call_on(midr, 0x8000_0001, [id | 0xffff_0000 << 32, 0, 0]);
    for id in [0x8000_8000, 0x8000_7fff, 0x8000_3fff] {
        assert_eq!(asked(A72, id), Action::Return(NOT_SUPPORTED), "{id:#x}");
        assert_eq!(call_on(A72, id, [0; 3]), Action::Return(NOT_SUPPORTED));
        assert_eq!(asked(A53, id), Action::Return(1), "{id:#x}");
        assert_eq!(call_on(A53, id, [0; 3]), Action::Return(0));
    }
    assert_eq!(
        asked(A53, 0x8000_0002),
        Action::Return(NOT_SUPPORTED),
        "SOC_ID"
    );
    let csv2 = |value: u64| Workarounds::new(A72, value << 56);
    assert_eq!(
        (csv2(1).branch_target, csv2(1).branch_history),
        (NOT_REQUIRED, NOT_SUPPORTED)
    );
    assert_eq!(csv2(3).branch_history, NOT_REQUIRED);
    assert_eq!(csv2(3).store_bypass, NOT_SUPPORTED);
}

proptest! {
    /// H1, H2, H3: anything at all has an answer, and the upper half of x0 never matters.
    #[test]
    fn every_call_is_answered(function in any::<u64>(), arguments in any::<[u64; 3]>()) {
        prop_assert_eq!(call(function, arguments), call(function & 0xffff_ffff, arguments));
        let low = function & 0xffff_ffff;
        if low >> 31 == 0 {
            prop_assert_eq!(call(low, arguments), Action::Return(NOT_SUPPORTED));
        }
    }
}
