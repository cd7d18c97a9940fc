//! System registers: EL2's own set-up for each core, and the state a vCPU starts in.

use core::arch::asm;

use aarch64_cpu::asm::barrier;
use aarch64_cpu::registers::{
    CNTHCTL_EL2, CNTVOFF_EL2, HCR_EL2, MDCR_EL2, MIDR_EL1, VBAR_EL2, VMPIDR_EL2, VTCR_EL2,
    VTTBR_EL2,
};
use tock_registers::interfaces::{Readable, Writeable};

unsafe extern "C" {
    static el2_vectors: u8;
}

macro_rules! write {
    ($($name:literal = $value:expr),* $(,)?) => {
        // SAFETY: registers of the guest's own state, or of EL2's traps on the guest: none changes how
        // EL2 itself runs. Which value is right is the caller's subject.
        unsafe { $(asm!(concat!("msr ", $name, ", {}"), in(reg) $value as u64, options(nomem, nostack, preserves_flags));)* }
    };
}

/// One system register, by its assembler name.
macro_rules! read {
    ($name:literal) => {{
        let value: u64;
        // SAFETY: reading has no side effect on any register this is used for.
        unsafe { core::arch::asm!(concat!("mrs {}, ", $name), out(reg) value, options(nomem, nostack, preserves_flags)) };
        value
    }};
}
pub(crate) use read;

/// Vectors and traps of this core; no guest yet.
pub fn init_core() {
    VBAR_EL2.set((&raw const el2_vectors).expose_provenance() as u64);
    barrier::isb(barrier::SY);
}
