//! Why a guest left for EL2: the syndrome register, decoded (Arm ARM DDI 0487, D24.2.40).
//!
//! Pure functions over register values. Every class ends in exactly one of: resume, inject a fault
//! into the guest, stop the guest; a class that is not known here is the guest's to be told of, not
//! EL2's to fail on.

mod abort;
mod system;
#[cfg(test)]
mod tests;

pub use abort::{Abort, AccessFault, DataAccess, Width};
pub use system::{Direction, SystemAccess, SystemRegister};

/// A synchronous exception from a lower level, `ESR_EL2` by class.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    /// HVC from AArch64 EL1. `ELR_EL2` points behind it already.
    Hvc,
    /// SMC from AArch64 EL1, trapped by `HCR_EL2.TSC`: `ELR_EL2` points at it and has to be stepped.
    Smc,
    /// Stage-2 fault of a load or store.
    DataAbort(Abort),
    /// Stage-2 fault of an instruction fetch.
    InstructionAbort(Abort),
    /// MSR, MRS or SYS that is trapped.
    System(SystemAccess),
    /// WFI or WFE that is trapped (`HCR_EL2.TWI`, `TWE`): step and resume.
    Wait,
    /// An instruction the guest is told not to have: UNDEFINED for it. FP, SVE and SME accesses,
    /// pointer authentication, AArch32 coprocessor accesses of EL0, and classes not known here.
    Undefined,
}

/// `ESR_EL2.IL`: a 32-bit instruction.
const IL: u64 = 1 << 25;

/// Decodes `ESR_EL2` of a synchronous exception from EL1 or EL0.
#[inline]
#[must_use]
pub const fn decode(esr_el2: u64) -> Exit {
    match exception_class(esr_el2) {
        0x16 => Exit::Hvc,
        0x24 => Exit::DataAbort(Abort(esr_el2)),
        0x18 => Exit::System(SystemAccess(esr_el2)),
        0x17 => Exit::Smc,
        0x20 => Exit::InstructionAbort(Abort(esr_el2)),
        0x01 => Exit::Wait,
        _ => Exit::Undefined,
    }
}

/// `ESR_ELx.EC`.
#[inline]
#[must_use]
pub const fn exception_class(esr: u64) -> u64 {
    esr >> 26 & 0x3f
}

/// Bytes of the instruction that trapped, which resuming behind it skips: 2 for T32 at EL0.
#[inline]
#[must_use]
pub const fn instruction_bytes(esr_el2: u64) -> u64 {
    if esr_el2 & IL == 0 { 2 } else { 4 }
}

/// A register number in a syndrome or an instruction; 31 is the zero register.
pub type Register = u8;
