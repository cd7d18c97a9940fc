//! What keeps a guest from steering what EL2 executes speculatively: `harden`.
//!
//! A core predicts branches by what was executed before, whoever executed it. A guest can so make EL2 run, without
//! effect but on caches, code of the guest's choice. Two defences are known on the cores Ballast has been written for
//! (docs/errata.md): firmware's call, which forgets targets and history, and as many taken branches as the core's
//! history holds, which leave no guest's history. Neither is free, so it is a guest's property.

use crate::board::Board;
use crate::psci;
use crate::smccc::{SMCCC_ARCH_FEATURES, SMCCC_VERSION};

/// `SMCCC_ARCH_WORKAROUND_1` (DEN0028, 7.5): forgets branch targets (CVE-2017-5715).
pub const SMCCC_ARCH_WORKAROUND_1: u32 = 0x8000_8000;
/// `SMCCC_ARCH_WORKAROUND_3`: forgets branch targets and history (CVE-2022-23960), which is all that
/// [`SMCCC_ARCH_WORKAROUND_1`] does and more.
pub const SMCCC_ARCH_WORKAROUND_3: u32 = 0x8000_3fff;
/// First version of SMCCC whose calls of this kind keep x4 and up.
const SMCCC_1_1: i64 = 0x1_0001;

/// The branches that the loop in `vectors.S` takes; enough for those of [`needs_branches`].
pub const BRANCHES: u8 = 8;

/// Whether a core with this `compatible` is one whose history [`BRANCHES`] branches replace (Arm's notice on
/// CVE-2022-23960: k = 8).
#[must_use]
pub fn needs_branches(compatible: &str) -> bool {
    matches!(compatible, "arm,cortex-a57" | "arm,cortex-a72")
}

/// Why no guest can be hardened on `board`: the first core for which no sequence is known.
#[must_use]
pub fn unknown_core(board: &Board) -> Option<&str> {
    let mut names = board.cores.iter().map(|core| core.compatible.as_str());
    names.find(|name| !needs_branches(name))
}

/// The call by which the board's firmware forgets what the predictor has learnt; `smc(function, x1)` is x0 of its
/// answer. Only for firmware with standard PSCI 0.2 or later that listens to SMC.
pub fn firmware_workaround(mut smc: impl FnMut(u32, u32) -> i64) -> Option<u32> {
    // A function that does not exist is answered with a negative number (DEN0022, 5.15; DEN0028, 7.3).
    if smc(psci::PSCI_FEATURES, SMCCC_VERSION) < 0 || smc(SMCCC_VERSION, 0) < SMCCC_1_1 {
        return None;
    }
    // 0: supported, and required on this core. 1: not required, so nothing need be called.
    [SMCCC_ARCH_WORKAROUND_3, SMCCC_ARCH_WORKAROUND_1]
        .into_iter()
        .find(|&workaround| smc(SMCCC_ARCH_FEATURES, workaround) == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Partitions;
    use crate::dt::DeviceTree;
    use crate::testing::{Guest, flag, merge};
    use alloc::string::ToString;
    use alloc::vec::Vec;

    /// Firmware of SMCCC `version` that announces it or not, and supports `calls`.
    fn firmware(announced: bool, version: i64, calls: &[u32]) -> impl FnMut(u32, u32) -> i64 {
        move |function, argument| match (function, argument) {
            (psci::PSCI_FEATURES, SMCCC_VERSION) => i64::from(announced) - 1,
            (SMCCC_VERSION, _) if announced => version,
            (SMCCC_ARCH_FEATURES, call) if version >= SMCCC_1_1 && calls.contains(&call) => 0,
            (SMCCC_ARCH_FEATURES, _) if version >= SMCCC_1_1 => -1,
            _ => panic!("{function:#x} was called, which need not exist"),
        }
    }

    #[test]
    fn the_stronger_call_is_chosen_and_none_that_is_not_there() {
        let both = [SMCCC_ARCH_WORKAROUND_1, SMCCC_ARCH_WORKAROUND_3];
        let chosen = |announced, version, calls: &[u32]| {
            firmware_workaround(firmware(announced, version, calls))
        };
        assert_eq!(
            chosen(true, SMCCC_1_1, &both),
            Some(SMCCC_ARCH_WORKAROUND_3)
        );
        assert_eq!(
            chosen(true, 0x1_0004, &both[..1]),
            Some(SMCCC_ARCH_WORKAROUND_1)
        );
        assert_eq!(chosen(true, SMCCC_1_1, &[]), None);
        assert_eq!(chosen(true, 0x1_0000, &both), None);
        assert_eq!(chosen(false, 0, &both), None);
    }

    #[test]
    fn a_call_that_is_not_required_is_not_made() {
        let not_required = |function, _| match function {
            psci::PSCI_FEATURES => 0,
            SMCCC_VERSION => SMCCC_1_1,
            _ => 1,
        };
        assert_eq!(firmware_workaround(not_required), None);
    }

    #[test]
    fn harden_is_refused_where_nothing_is_known_to_do() {
        let dtb = merge(&[Guest::new("rtos", 1).with("harden", flag())]);
        let tree = DeviceTree::new(&dtb).unwrap();
        let mut board = Board::from_dt(&tree).unwrap();
        assert!(Partitions::parse(&tree, &board).unwrap().guests[0].harden);
        board.cores[1].compatible = "arm,cortex-a76".into();
        let refusals = Partitions::parse(&tree, &board).unwrap_err();
        let lines: Vec<_> = refusals.iter().map(ToString::to_string).collect();
        assert_eq!(
            lines,
            [
                "/ballast/rtos@1: harden: knows nothing to do on this board's arm,cortex-a76; \
              remove it; docs/errata.md says what is known"
            ]
        );
    }
}
