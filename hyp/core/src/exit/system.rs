//! Trapped accesses to system registers.

use super::Register;
use core::fmt;

/// The encoding of a system register.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SystemRegister(u32);

/// Where the syndrome has the encoding: Op0 21:20, Op2 19:17, Op1 16:14, CRn 13:10, CRm 4:1.
const ENCODING: u64 = 0x003f_fc1e;

impl SystemRegister {
    /// The register `S<op0>_<op1>_C<crn>_C<crm>_<op2>`.
    #[must_use]
    pub const fn new(op0: u32, op1: u32, crn: u32, crm: u32, op2: u32) -> Self {
        Self(op0 << 20 | op2 << 17 | op1 << 14 | crn << 10 | crm << 1)
    }

    /// Op0: 1 system instruction, 2 debug, 3 the rest.
    #[must_use]
    pub const fn op0(self) -> u32 {
        self.0 >> 20 & 3
    }

    /// Op1.
    #[must_use]
    pub const fn op1(self) -> u32 {
        self.0 >> 14 & 7
    }

    /// CRn.
    #[must_use]
    pub const fn crn(self) -> u32 {
        self.0 >> 10 & 15
    }

    /// CRm.
    #[must_use]
    pub const fn crm(self) -> u32 {
        self.0 >> 1 & 15
    }

    /// Op2.
    #[must_use]
    pub const fn op2(self) -> u32 {
        self.0 >> 17 & 7
    }
}

impl fmt::Debug for SystemRegister {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for SystemRegister {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "S{}_{}_C{}_C{}_{}",
            self.op0(),
            self.op1(),
            self.crn(),
            self.crm(),
            self.op2()
        )
    }
}

/// Which way a trapped access goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// MRS: into the general-purpose register.
    Read,
    /// MSR or SYS: out of it.
    Write,
}

/// `ESR_EL2` of a trapped MSR, MRS or SYS (EC 0x18).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SystemAccess(pub u64);

impl SystemAccess {
    /// The register named.
    #[inline]
    #[must_use]
    pub const fn system_register(self) -> SystemRegister {
        SystemRegister((self.0 & ENCODING) as u32)
    }

    /// Rt: the general-purpose register, 31 for the zero register.
    #[inline]
    #[must_use]
    pub const fn register(self) -> Register {
        (self.0 >> 5 & 31).to_le_bytes()[0]
    }

    /// Read or write.
    #[inline]
    #[must_use]
    pub const fn direction(self) -> Direction {
        if self.0 & 1 != 0 {
            Direction::Read
        } else {
            Direction::Write
        }
    }
}
