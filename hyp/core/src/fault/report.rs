//! Why a guest was stopped, in words.

use core::fmt;

use crate::addr::Ipa;
use crate::exit::{Abort, AccessFault, Exit, decode, exception_class};

/// A fault for the console: which vCPU did what where, and whose address it is.
#[derive(Clone, Copy, Debug)]
pub struct FaultReport<'a> {
    /// The vCPU.
    pub vcpu: usize,
    /// `ESR_EL2`.
    pub esr: u64,
    /// `ELR_EL2`.
    pub pc: u64,
    /// `SPSR_EL2`.
    pub pstate: u64,
    /// `FAR_EL2`.
    pub far: u64,
    /// The faulting IPA where it is known.
    pub ipa: Option<Ipa>,
    /// Who owns that address, as the frame table and the machine's map say.
    pub owner: Option<&'a str>,
}

impl fmt::Display for FaultReport<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "vCPU {}: ", self.vcpu)?;
        match decode(self.esr) {
            Exit::DataAbort(abort) => self.describe_data(f, abort)?,
            Exit::InstructionAbort(abort) => {
                f.write_str("instruction fetch")?;
                self.describe_address(f, abort)?;
            }
            Exit::System(access) => write!(f, "access to {}", access.system_register())?,
            _ => f.write_str(class_name(exception_class(self.esr)))?,
        }
        write!(
            f,
            "; pc {:#x} in {}, esr {:#x}",
            self.pc,
            level(self.pstate),
            self.esr
        )
    }
}

impl FaultReport<'_> {
    fn describe_data(&self, f: &mut fmt::Formatter<'_>, abort: Abort) -> fmt::Result {
        if abort.is_table_walk() {
            f.write_str("stage-1 table walk")?;
        } else if abort.is_cache_maintenance() {
            f.write_str("cache maintenance")?;
        } else {
            if let Some(access) = abort.access() {
                write!(f, "{}-byte ", access.width().bytes())?;
            }
            f.write_str(if abort.is_write() { "write" } else { "read" })?;
        }
        self.describe_address(f, abort)
    }

    fn describe_address(&self, f: &mut fmt::Formatter<'_>, abort: Abort) -> fmt::Result {
        if let Some(ipa) = self.ipa {
            write!(f, " at IPA {ipa}")?;
        }
        if let Some(owner) = self.owner {
            write!(f, " ({owner})")?;
        }
        if !abort.far_is_invalid() {
            write!(f, ", VA {:#x}", self.far)?;
        }
        write!(f, ": {}", fault_name(abort))
    }
}

const fn fault_name(abort: Abort) -> &'static str {
    match abort.fault() {
        AccessFault::AddressSize => "address beyond the guest's IPA space",
        AccessFault::Translation => "nothing mapped",
        AccessFault::AccessFlag => "access flag fault",
        AccessFault::Permission => "not permitted",
        AccessFault::External => "external abort",
        AccessFault::Other => match abort.status_code() {
            0x21 => "alignment fault",
            0x30 => "TLB conflict",
            0x34 | 0x35 => "exclusive or atomic access where there can be none",
            _ => "memory fault",
        },
    }
}

const fn level(pstate: u64) -> &'static str {
    match pstate & 0x1f {
        0 => "EL0",
        4 | 5 => "EL1",
        16.. => "EL0 (AArch32)",
        _ => "no level a guest has",
    }
}

/// Exception classes that may be met (D24.2.40).
const fn class_name(class: u64) -> &'static str {
    match class {
        0x00 => "unknown reason",
        0x01 => "WFI or WFE",
        0x03..=0x06 | 0x08 | 0x0c => "AArch32 coprocessor access",
        0x07 => "FP or SIMD access",
        0x09 => "pointer authentication",
        0x0e => "illegal execution state",
        0x15..=0x16 => "HVC",
        0x13 | 0x17 => "SMC",
        0x19 => "SVE access",
        0x1d => "SME access",
        0x22 => "misaligned PC",
        0x26 => "misaligned SP",
        0x2f => "SError",
        0x30..=0x3f => "debug exception",
        _ => "exception class not known",
    }
}
