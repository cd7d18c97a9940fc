//! Calls by HVC and SMC, told apart by their function identifier (SMCCC, DEN0028).
//!
//! Both conduits mean the same here and nothing is ever passed on to firmware. What is not known is
//! answered [`NOT_SUPPORTED`], whatever its arguments.

use crate::psci::{self, Guest, Psci};
use crate::speculation::{SMCCC_ARCH_WORKAROUND_1, SMCCC_ARCH_WORKAROUND_3};

/// `SMCCC_VERSION`: 1.2.
const SMCCC_1_2: u64 = 1 << 16 | 2;

/// The answer to an unknown function, in x0.
pub const NOT_SUPPORTED: u64 = u64::MAX;

/// A workaround's call need not be made on this core.
const NOT_REQUIRED: u64 = 1;

/// The caller's SVE state need not be kept (SMCCC 1.3); it is no part of the function's number.
const SVE_HINT: u32 = 1 << 16;

/// First function of the Arm Architecture Calls.
pub(crate) const SMCCC_VERSION: u32 = 0x8000_0000;
pub(crate) const SMCCC_ARCH_FEATURES: u32 = 0x8000_0001;
const SMCCC_ARCH_WORKAROUND_2: u32 = 0x8000_7fff;
/// Vendor-specific hypervisor service: number of calls and revision; the UID is in the ABI.
const HYPERVISOR_CALL_COUNT: u32 = 0x8600_ff00;
const HYPERVISOR_REVISION: u32 = 0x8600_ff03;
/// The balloon's calls, a run of 256 (`ballast_abi::function`).
const BALLOON: u32 = 0xc600_0000;
/// How many of them there are: from [`ballast_abi::function::VERSION`] to GOODBYE, the two of channels, the two of the monitor. The self-test's is not there for guests that are not for it.
const BALLOON_CALLS: u64 = (ballast_abi::function::GOODBYE & 0xff) as u64 + 4;

/// Owning entity with the "fast" and "64-bit" flags: bits 31:24 of a function identifier. There are
/// no yielding calls.
mod service {
    pub const ARCH: u32 = 0x80;
    pub const STANDARD_32: u32 = 0x84;
    pub const STANDARD_64: u32 = 0xc4;
    pub const HYPERVISOR_32: u32 = 0x86;
    pub const HYPERVISOR_64: u32 = 0xc6;
}

/// What a call comes to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// x0 is this; no other register changes.
    Return(u64),
    /// w0 to w3 are these.
    ReturnWords([u32; 4]),
    /// A call of the balloon interface: the function's full identifier. Arguments are in x1 to x4.
    Balloon(u32),
    /// Wait for an interrupt as WFI does, then x0 = 0.
    Standby,
    /// Start `vcpu`, whose state is "on pending", on `core`; x0 = 0 for the caller.
    Start {
        /// The vCPU to start.
        vcpu: usize,
        /// The core [`Guest::take_core`] gave for it.
        core: usize,
        /// First instruction, an IPA; the MMU is off.
        entry: u64,
        /// x0 of the started vCPU.
        context: u64,
    },
    /// The caller goes off and does not return.
    Stop,
    /// The guest ends.
    SystemOff,
    /// The guest starts anew.
    SystemReset,
}

/// The answer, for x0, to a call that only asks what there is: no state, no effects, so the shell needs to save
/// next to nothing for it. `None` for every other call, which is [`dispatch`]'s.
#[inline]
#[must_use]
pub const fn query(function: u64, argument: u64) -> Option<u64> {
    psci::query(low_word(function) & !SVE_HINT, argument)
}

/// Decodes and, as far as it needs nothing of the machine, carries out a call by vCPU `caller`:
/// `function` is x0, `arguments` are x1 to x3.
#[inline]
pub fn dispatch<G: Guest>(
    function: u64,
    arguments: [u64; 3],
    caller: usize,
    psci: &Psci,
    workarounds: &Workarounds,
    guest: &G,
) -> Action {
    // The identifier is w0 (DEN0028, 2.7): the upper half means nothing.
    let function = low_word(function) & !SVE_HINT;
    match function >> 24 {
        service::STANDARD_32 | service::STANDARD_64 => {
            psci.call(function, arguments, caller, guest)
        }
        service::HYPERVISOR_64 if function & !0xff == BALLOON => Action::Balloon(function),
        service::HYPERVISOR_32 => hypervisor_service(function),
        service::ARCH => architecture_call(function, arguments[0], workarounds),
        _ => Action::Return(NOT_SUPPORTED),
    }
}

fn hypervisor_service(function: u32) -> Action {
    match function {
        ballast_abi::function::UID => Action::ReturnWords(ballast_abi::UID),
        HYPERVISOR_CALL_COUNT => Action::Return(BALLOON_CALLS),
        HYPERVISOR_REVISION => Action::ReturnWords([
            ballast_abi::VERSION >> 16,
            ballast_abi::VERSION & 0xffff,
            0,
            0,
        ]),
        _ => Action::Return(NOT_SUPPORTED),
    }
}

fn architecture_call(function: u32, argument: u64, workarounds: &Workarounds) -> Action {
    let answer = match function {
        SMCCC_VERSION => SMCCC_1_2,
        SMCCC_ARCH_FEATURES => match low_word(argument) {
            SMCCC_VERSION | SMCCC_ARCH_FEATURES => 0,
            SMCCC_ARCH_WORKAROUND_1 => workarounds.branch_target,
            SMCCC_ARCH_WORKAROUND_2 => workarounds.store_bypass,
            SMCCC_ARCH_WORKAROUND_3 => workarounds.branch_history,
            _ => NOT_SUPPORTED,
        },
        // Where they are not required, calling them is harmless (DEN0028, 7.5): nothing to do.
        SMCCC_ARCH_WORKAROUND_1 if workarounds.branch_target == NOT_REQUIRED => 0,
        SMCCC_ARCH_WORKAROUND_2 if workarounds.store_bypass == NOT_REQUIRED => 0,
        SMCCC_ARCH_WORKAROUND_3 if workarounds.branch_history == NOT_REQUIRED => 0,
        _ => NOT_SUPPORTED,
    };
    Action::Return(answer)
}

/// What `SMCCC_ARCH_FEATURES` says of the speculation workarounds on this core: not required, or
/// not supported, which tells the guest that it may be exposed. Ballast offers none of the calls
/// (docs/errata.md).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Workarounds {
    /// `WORKAROUND_1`: branch target injection (CVE-2017-5715).
    branch_target: u64,
    /// `WORKAROUND_2`: speculative store bypass (CVE-2018-3639).
    store_bypass: u64,
    /// `WORKAROUND_3`: branch history injection (CVE-2022-23960).
    branch_history: u64,
}

impl Workarounds {
    /// From the core's `MIDR_EL1` and `ID_AA64PFR0_EL1`.
    ///
    /// A core is safe if it says so (CSV2) or if Arm lists it as not affected: in-order cores that
    /// do not speculate that far. `WORKAROUND_2` is not required only on those: a core with
    /// FEAT_SSBS is told so by its own ID register and needs no firmware's word.
    #[must_use]
    pub const fn new(midr_el1: u64, id_aa64pfr0_el1: u64) -> Self {
        const fn verdict(is_safe: bool) -> u64 {
            if is_safe { NOT_REQUIRED } else { NOT_SUPPORTED }
        }
        // Implementer Arm (31:24), part number (15:4).
        let is_arm = midr_el1 >> 24 & 0xff == 0x41;
        let part = midr_el1 >> 4 & 0xfff;
        // Cortex-A53, A35, A55, A510, A520.
        let in_order = is_arm && matches!(part, 0xd03..=0xd05 | 0xd46 | 0xd80);
        let csv2 = id_aa64pfr0_el1 >> 56 & 15;
        Self {
            branch_target: verdict(in_order || csv2 != 0),
            store_bypass: verdict(in_order && matches!(part, 0xd03..=0xd05)),
            branch_history: verdict(in_order || csv2 >= 3),
        }
    }
}

/// Whether `PSCI_FEATURES` has to know `function`, which is not PSCI's: a guest learns in this way
/// that there is an SMCCC to ask (DEN0022, 5.15).
#[must_use]
pub const fn is_announced_by_psci(function: u32) -> bool {
    function == SMCCC_VERSION
}

/// Bits 31:0: all that a 32-bit argument is.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "the point of it")]
pub(crate) const fn low_word(value: u64) -> u32 {
    value as u32
}

const _: () = assert!(
    ballast_abi::function::VERSION & !0xff == BALLOON
        && ballast_abi::function::GOODBYE & !0xff == BALLOON
);

#[cfg(test)]
mod tests;
