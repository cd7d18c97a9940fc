//! System registers a guest reaches for and that Ballast keeps: which traps are set
//! ([`Controls`]), what the ID registers say ([`IdRegisters`]) and what becomes of an access that
//! trapped ([`judge`]).
//!
//! A guest has its core to itself, so registers of EL1 need no trap: they are its own until its
//! core changes hands, when the shell resets them. Trapped are those that reach beyond the core or
//! beyond the guest: power, implementation-defined controls, features nobody would switch.

mod controls;
mod id;
#[cfg(test)]
mod tests;

pub use controls::Controls;
pub use id::IdRegisters;

use crate::exit::{Direction, SystemAccess, SystemRegister};
use crate::vgic::{SgiRegister, Version};

/// What becomes of a trapped access to a system register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// A write that sends an SGI: [`Vgic::send_sgi`](crate::vgic::Vgic::send_sgi),
    /// then step.
    SendSgi(SgiRegister),
    /// A read gives this, then step.
    Value(u64),
    /// A write does nothing, then step.
    Ignore,
    /// The guest has no such register: UNDEFINED for it.
    Undefined,
}

/// Registers with a verdict of their own.
mod register {
    use super::SystemRegister;

    /// `ACTLR_EL1`: trapped by TACR.
    pub const ACTLR: SystemRegister = SystemRegister::new(3, 0, 1, 0, 1);
    /// `ICC_SGI1R_EL1`, `ICC_ASGI1R_EL1`, `ICC_SGI0R_EL1`: trapped by IMO and FMO.
    pub const SGI1R: SystemRegister = SystemRegister::new(3, 0, 12, 11, 5);
    pub const ASGI1R: SystemRegister = SystemRegister::new(3, 0, 12, 11, 6);
    pub const SGI0R: SystemRegister = SystemRegister::new(3, 0, 12, 11, 7);
    /// `MDRAR_EL1`: trapped by TDRA.
    pub const MDRAR: SystemRegister = SystemRegister::new(2, 0, 1, 0, 0);
    /// `OSLAR_EL1`, `OSLSR_EL1`, `OSDLR_EL1`, `DBGPRCR_EL1`: trapped by TDOSA.
    pub const OSLAR: SystemRegister = SystemRegister::new(2, 0, 1, 0, 4);
    pub const OSLSR: SystemRegister = SystemRegister::new(2, 0, 1, 1, 4);
    pub const OSDLR: SystemRegister = SystemRegister::new(2, 0, 1, 3, 4);
    pub const DBGPRCR: SystemRegister = SystemRegister::new(2, 0, 1, 4, 4);
}

/// `OSLSR_EL1`: an OS lock exists (OSLM = 0b10, in bits 3 and 0) and is not locked. The real one is
/// unlocked by the shell and stays so.
const OS_LOCK_OPEN: u64 = 1 << 3;

/// Whether this is a write of `ICC_SGI1R_EL1`, which a GICv3's guests do all the time: [`judge`] says the same.
#[inline(always)]
#[must_use]
pub fn is_sgi1r_write(access: SystemAccess) -> bool {
    access.system_register() == register::SGI1R && access.direction() == Direction::Write
}

/// What becomes of a trapped access, given the ID registers and interrupt controller that the guest
/// sees. What is in no list is UNDEFINED: the PMU, tracing, RAS, LORegions, and the
/// implementation-defined registers (TIDCP), with which a guest could slow or stop other cores.
#[inline]
#[must_use]
pub fn judge(
    accessed: SystemRegister,
    direction: Direction,
    ids: &IdRegisters,
    version: Version,
) -> Verdict {
    use Direction::{Read, Write};
    match (accessed, direction, version) {
        (register::SGI1R, Write, Version::V3) => Verdict::SendSgi(SgiRegister::Sgi1),
        (register::SGI0R | register::ASGI1R, Write, Version::V3) => {
            Verdict::SendSgi(SgiRegister::Group0)
        }
        (register::ACTLR | register::OSDLR | register::DBGPRCR | register::MDRAR, Read, _) => {
            Verdict::Value(0)
        }
        (register::OSLSR, Read, _) => Verdict::Value(OS_LOCK_OPEN),
        (register::ACTLR | register::OSDLR | register::DBGPRCR | register::OSLAR, Write, _) => {
            Verdict::Ignore
        }
        (_, Read, _) => ids.get(accessed).map_or(Verdict::Undefined, Verdict::Value),
        _ => Verdict::Undefined,
    }
}
