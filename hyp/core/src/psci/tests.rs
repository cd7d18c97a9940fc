#![allow(clippy::unwrap_used)]
use super::*;
use crate::cores::FreeCores;
use crate::smccc::{Workarounds, dispatch};
use std::sync::atomic::AtomicUsize;

const CPU_ON: u64 = 0xc400_0003;
const AFFINITY_INFO: u64 = 0xc400_0004;
const ENTRY: u64 = 0x4008_0000;

struct Ram(FreeCores);

impl Guest for Ram {
    fn is_ram(&self, entry: Ipa) -> bool {
        (0x4000_0000..0x5000_0000).contains(&entry.0)
    }

    fn take_core(&self, vcpu: usize) -> Option<usize> {
        self.0.take(vcpu)
    }
}

/// vCPU 0 of 4 runs on core 0; core 5 is granted.
fn guest() -> (Psci, Ram) {
    let psci = Psci::new(4);
    assert!(psci.claim(0) && !psci.claim(0) && !psci.claim(4));
    psci.set_on(0);
    (psci, Ram(FreeCores::new(1 << 5)))
}

fn call(psci: &Psci, ram: &Ram, function: u64, arguments: [u64; 3]) -> Action {
    dispatch(function, arguments, 0, psci, &Workarounds::new(0, 0), ram)
}

fn status(psci: &Psci, ram: &Ram, function: u64, arguments: [u64; 3]) -> i64 {
    match call(psci, ram, function, arguments) {
        Action::Return(x0) => x0.cast_signed(),
        other => panic!("{function:#x}: {other:?}"),
    }
}

#[test]
fn a_cpu_is_started_once() {
    let (psci, ram) = guest();
    let start = Action::Start {
        vcpu: 2,
        core: 5,
        entry: ENTRY,
        context: 7,
    };
    assert_eq!(call(&psci, &ram, CPU_ON, [2, ENTRY, 7]), start);
    assert_eq!(status(&psci, &ram, AFFINITY_INFO, [2, 0, 0]), 2);
    assert_eq!(status(&psci, &ram, CPU_ON, [2, ENTRY, 7]), -5);
    psci.set_on(2);
    assert_eq!(status(&psci, &ram, CPU_ON, [2, ENTRY, 7]), -4);
    assert_eq!(status(&psci, &ram, AFFINITY_INFO, [2, 0, 0]), 0);
    psci.set_off(2);
    assert_eq!(status(&psci, &ram, AFFINITY_INFO, [2, 0, 0]), 1);
    ram.0.put(5);
    assert_eq!(call(&psci, &ram, CPU_ON, [2, ENTRY, 7]), start);
}

/// P1: whose CPU is named.
#[test]
fn only_own_and_granted_cpus_start() {
    let (psci, ram) = guest();
    assert_eq!(status(&psci, &ram, CPU_ON, [0, ENTRY, 0]), -4, "self");
    for target in [
        4,
        0xff,
        0x101,
        1 << 16 | 1,
        1 << 32 | 1,
        1 << 31 | 1,
        1 << 30 | 1,
        1 << 40 | 1,
        1 << 63 | 1,
    ] {
        assert_eq!(
            status(&psci, &ram, CPU_ON, [target, ENTRY, 0]),
            -2,
            "{target:#x}"
        );
        assert_eq!(
            status(&psci, &ram, AFFINITY_INFO, [target, 0, 0]),
            -2,
            "{target:#x}"
        );
    }
    assert!(matches!(
        call(&psci, &ram, CPU_ON, [1, ENTRY, 0]),
        Action::Start {
            vcpu: 1,
            core: 5,
            ..
        }
    ));
    assert_eq!(
        status(&psci, &ram, CPU_ON, [3, ENTRY, 0]),
        -3,
        "own, but no core is granted"
    );
    assert_eq!(psci.state(3), Some(CpuState::Off));
}

/// P2: where it would start.
#[test]
fn the_entry_must_be_in_ram() {
    let (psci, ram) = guest();
    for entry in [
        0,
        0x0900_0000,
        0x3fff_fffc,
        0x5000_0000,
        ENTRY + 1,
        ENTRY + 2,
        u64::MAX - 3,
    ] {
        assert_eq!(status(&psci, &ram, CPU_ON, [1, entry, 0]), -9, "{entry:#x}");
    }
    assert_eq!(psci.state(1), Some(CpuState::Off));
    assert_eq!(ram.0.mask(), 1 << 5);
}

#[test]
fn a_32_bit_call_has_32_bit_arguments() {
    let (psci, ram) = guest();
    let junk = 0xdead_beef_0000_0000;
    let started = call(
        &psci,
        &ram,
        junk | 0x8400_0003,
        [junk | 1, junk | ENTRY, junk | 9],
    );
    assert_eq!(
        started,
        Action::Start {
            vcpu: 1,
            core: 5,
            entry: ENTRY,
            context: 9
        }
    );
    assert_eq!(
        status(&psci, &ram, junk | CPU_ON, [junk | 1, ENTRY, 0]),
        -2,
        "but not a 64-bit call"
    );
}

/// P3: the race has one winner.
#[test]
fn concurrent_calls_have_one_winner() {
    for _ in 0..if cfg!(miri) { 3 } else { 200 } {
        let psci = Psci::new(2);
        let ram = Ram(FreeCores::new(0xff));
        let winners = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| match call(&psci, &ram, CPU_ON, [1, ENTRY, 0]) {
                    Action::Start { .. } => {
                        winners.fetch_add(1, Ordering::Relaxed);
                        psci.set_on(1);
                    }
                    Action::Return(x0) => assert!([-4, -5].contains(&x0.cast_signed())),
                    other => panic!("{other:?}"),
                });
            }
        });
        assert_eq!(winners.load(Ordering::Relaxed), 1);
        assert_eq!(ram.0.mask().count_ones(), 7, "one core taken");
    }
}

/// P5, P6 and P7.
#[test]
fn the_other_calls() {
    let (psci, ram) = guest();
    assert_eq!(call(&psci, &ram, 0x8400_0002, [0; 3]), Action::Stop);
    psci.set_off(0);
    for level in 1..5 {
        assert_eq!(status(&psci, &ram, AFFINITY_INFO, [0, level, 0]), -2);
    }
    assert_eq!(status(&psci, &ram, 0x8400_0006, [0; 3]), 2);
    assert_eq!(call(&psci, &ram, 0x8400_0008, [0; 3]), Action::SystemOff);
    assert_eq!(call(&psci, &ram, 0x8400_0009, [0; 3]), Action::SystemReset);
    assert_eq!(call(&psci, &ram, 0xc400_0012, [0; 3]), Action::SystemReset);
    assert_eq!(status(&psci, &ram, 0xc400_0012, [1 << 31, 0, 0]), -2);
    assert_eq!(
        call(&psci, &ram, 0xc400_0001, [0x1234, 3, 0]),
        Action::Standby
    );
    assert_eq!(
        call(&psci, &ram, 0xc400_0001, [1 << 16, ENTRY, 0]),
        Action::Standby
    );
    assert_eq!(status(&psci, &ram, 0xc400_0001, [1 << 16, 3, 0]), -9);
    for reserved in [1 << 17, 1 << 23, 1 << 26, 1 << 31, 1 << 32] {
        assert_eq!(
            status(&psci, &ram, 0xc400_0001, [reserved, 0, 0]),
            -2,
            "{reserved:#x}"
        );
    }
}

#[test]
fn what_features_advertises_exists_and_nothing_else() {
    let (psci, ram) = guest();
    for bits in [0x8400_0000_u64, 0xc400_0000] {
        for number in 0..0x400 {
            let function = bits | number;
            let advertised = status(&psci, &ram, 0x8400_000a, [function, 0, 0]) == 0;
            let answered = call(&psci, &ram, function, [u64::MAX; 3])
                != Action::Return(NOT_SUPPORTED)
                || function == 0x8400_000a;
            assert_eq!(advertised, answered, "{function:#x}");
        }
    }
    assert_eq!(
        status(&psci, &ram, 0x8400_000a, [0x8000_0000, 0, 0]),
        0,
        "SMCCC_VERSION"
    );
    assert_eq!(status(&psci, &ram, 0x8400_000a, [0x8000_0001, 0, 0]), -1);
    assert_eq!(status(&psci, &ram, 0x8400_0000, [0; 3]), 0x1_0001);
    assert_eq!(
        status(&psci, &ram, 0xc400_0000, [0; 3]),
        -1,
        "PSCI_VERSION is a 32-bit call"
    );
}

#[test]
fn features_knows_exactly_the_functions_that_exist() {
    for number in 0..0x40 {
        for function in [FUNCTION_BASE + number, (FUNCTION_BASE + number) | IS_64_BIT] {
            let exists = Function::decode(function).is_some();
            assert_eq!(features(function) == 0, exists, "{function:#x}");
        }
    }
}
