//! Faults given to a guest: the state it takes an exception with, computed as the hardware would
//! (Arm ARM DDI 0487, AArch64.TakeException), and the words for one that has to be stopped.

mod report;
#[cfg(test)]
mod tests;

pub use report::FaultReport;

use crate::exit::Abort;

/// What an injection depends on: the guest at the faulting instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Context {
    /// `ELR_EL2`: the instruction.
    pub pc: u64,
    /// `SPSR_EL2`: its PSTATE.
    pub pstate: u64,
    /// `VBAR_EL1`.
    pub vbar_el1: u64,
    /// `SCTLR_EL1`.
    pub sctlr_el1: u64,
}

/// The guest at the first instruction of its handler: registers to write before resuming.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Injection {
    /// To `ELR_EL2`: the vector.
    pub pc: u64,
    /// To `SPSR_EL2`: the handler's PSTATE.
    pub pstate: u64,
    /// To `ELR_EL1`: the faulting instruction.
    pub elr_el1: u64,
    /// To `SPSR_EL1`: its PSTATE.
    pub spsr_el1: u64,
    /// To `ESR_EL1`.
    pub esr_el1: u64,
    /// To `FAR_EL1`; `None` leaves it.
    pub far_el1: Option<u64>,
}

/// What kind of access is aborted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Load, store, or cache maintenance.
    Data,
    /// Instruction fetch.
    Instruction,
}

/// Exception classes of `ESR_EL1`, for an exception from EL0; from EL1 an abort's is one more.
const EC_UNKNOWN: u64 = 0x00;
const EC_INSTRUCTION_ABORT: u64 = 0x20;
const EC_DATA_ABORT: u64 = 0x24;

/// Where the fields of `ESR_ELx` are.
const EC_SHIFT: u32 = 26;
const IL: u64 = 1 << 25;
/// CM and WnR, which an injected data abort keeps.
const CM_WNR: u64 = 1 << 8 | 1 << 6;

/// DFSC/IFSC: synchronous external abort, not on a table walk.
const EXTERNAL: u64 = 0x10;
/// The same on a stage-1 table walk at level 3. The syndrome of the stage-2 fault has stage 2's
/// level, so which level of stage 1 it was is not known; a handler distinguishes none of them.
const EXTERNAL_ON_WALK: u64 = 0x17;

/// PSTATE bits as in an SPSR.
mod pstate {
    /// N, Z, C, V and DIT: unchanged by an exception.
    pub const KEPT: u64 = 0xf << 28 | 1 << 24;
    pub const PAN: u64 = 1 << 22;
    pub const SSBS: u64 = 1 << 12;
    pub const DAIF: u64 = 0xf << 6;
    pub const EL1H: u64 = 0b00101;
    /// M[4]: AArch32.
    pub const AARCH32: u64 = 1 << 4;
    /// M[3:2]: exception level.
    pub const EL: u64 = 0b1100;
    /// M[0]: which stack pointer.
    pub const SP: u64 = 1;
}

/// `SCTLR_EL1.SPAN`: exceptions leave PSTATE.PAN as it is.
const SCTLR_SPAN: u64 = 1 << 23;
/// `SCTLR_EL1.DSSBS`: PSTATE.SSBS after an exception.
const SCTLR_DSSBS: u64 = 1 << 44;

impl Context {
    const fn is_el0(&self) -> bool {
        self.pstate & (pstate::EL | pstate::AARCH32) != 0b0100
    }

    /// Offset of the synchronous vector (D1.3.1.2).
    const fn vector(&self) -> u64 {
        if self.pstate & pstate::AARCH32 != 0 {
            0x600
        } else if self.is_el0() {
            0x400
        } else if self.pstate & pstate::SP != 0 {
            0x200
        } else {
            0
        }
    }

    /// The guest takes a synchronous exception to EL1 with syndrome `esr_el1`.
    const fn take(&self, esr_el1: u64, far_el1: Option<u64>) -> Injection {
        let mut new = self.pstate & (pstate::KEPT | pstate::PAN) | pstate::DAIF | pstate::EL1H;
        if self.sctlr_el1 & SCTLR_SPAN == 0 {
            new |= pstate::PAN;
        }
        if self.sctlr_el1 & SCTLR_DSSBS != 0 {
            new |= pstate::SSBS;
        }
        Injection {
            pc: (self.vbar_el1 & !0x7ff).wrapping_add(self.vector()),
            pstate: new,
            elr_el1: self.pc,
            spsr_el1: self.pstate,
            esr_el1,
            far_el1,
        }
    }

    /// The instruction is UNDEFINED for the guest. `esr_el2` is the trap's (IL is kept).
    #[must_use]
    pub const fn undefined(&self, esr_el2: u64) -> Injection {
        self.take(EC_UNKNOWN << EC_SHIFT | esr_el2 & IL, None)
    }

    /// The access gets a synchronous external abort, as from a bus where nothing answers: what is
    /// at that address is nobody's, or not the guest's. `abort` is the stage-2 fault, `far_el2` its
    /// virtual address.
    #[must_use]
    pub const fn external_abort(&self, access: Access, abort: Abort, far_el2: u64) -> Injection {
        let (class, kept) = match access {
            Access::Data => (EC_DATA_ABORT, abort.0 & CM_WNR),
            Access::Instruction => (EC_INSTRUCTION_ABORT, 0),
        };
        let same_level = if self.is_el0() { 0 } else { 1 };
        let status = if abort.is_table_walk() {
            EXTERNAL_ON_WALK
        } else {
            EXTERNAL
        };
        self.take(
            (class | same_level) << EC_SHIFT | IL | kept | status,
            Some(far_el2),
        )
    }
}
