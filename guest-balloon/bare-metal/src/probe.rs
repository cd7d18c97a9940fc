//! Accesses that are expected to fault, and calls with every register known: the tools of the hostile tests.

/// Stores (`stp`) or loads (`ldp`) at SP what a routine in assembly has to keep (AAPCS64): x19 to x30, 96 bytes.
#[rustfmt::skip]
macro_rules! callee_saved {
    ($pair:literal) => {
        concat!(
            $pair, " x19, x20, [sp]\n",
            $pair, " x21, x22, [sp, #16]\n",
            $pair, " x23, x24, [sp, #32]\n",
            $pair, " x25, x26, [sp, #48]\n",
            $pair, " x27, x28, [sp, #64]\n",
            $pair, " x29, x30, [sp, #80]",
        )
    };
}

mod eret;
mod instructions;
mod registers;

use core::arch::asm;
use core::sync::atomic::Ordering;

pub use eret::{after_enter, enter, step_over_smc};
pub use instructions::{Encoding, all_undefined, read_register, run, synchronise_code};
pub use registers::{Call, Registers, call_with};

use crate::cpu;

/// Syndrome fields (Arm ARM DDI 0487 D17.2.37).
pub mod syndrome {
    /// Data abort from the same EL.
    pub const DATA_ABORT: u64 = 0x25;
    /// Instruction abort from the same EL.
    pub const INSTRUCTION_ABORT: u64 = 0x21;
    /// Undefined instructions and registers, and whatever else has no class.
    pub const UNKNOWN: u64 = 0;
    /// Alignment fault.
    pub const ALIGNMENT: u64 = 0x21;
    /// Address size faults are those below this.
    pub const ADDRESS_SIZE_END: u64 = 4;
    /// Synchronous external abort, not on a table walk.
    pub const EXTERNAL: u64 = 0x10;
    /// The same on a table walk, level 0; levels count up from it.
    pub const EXTERNAL_ON_WALK: u64 = 0x14;

    /// Exception class.
    pub const fn class(esr: u64) -> u64 {
        esr >> 26 & 0x3f
    }

    /// Fault status code of an abort.
    pub const fn status(esr: u64) -> u64 {
        esr & 0x3f
    }
}

/// Runs `action`; the syndrome if it faulted.
fn catching(action: impl FnOnce()) -> Result<(), u64> {
    let this = cpu::this();
    let before = this.faults.load(Ordering::Acquire);
    this.expect_fault.store(true, Ordering::Release);
    action();
    // A faulting store may be reported late only as an SError, which is unexpected; here all are synchronous.
    this.expect_fault.store(false, Ordering::Release);
    if this.faults.load(Ordering::Acquire) == before {
        Ok(())
    } else {
        Err(this.last_esr.load(Ordering::Relaxed))
    }
}

/// Runs `action`, which is to fault once; the syndrome if it did.
pub fn expecting_one(action: impl FnOnce()) -> Result<(), u64> {
    catching(action)
}

/// Widths of an access in bytes.
pub const WIDTHS: [u32; 5] = [1, 2, 4, 8, 16];

/// Reads `width` bytes; the syndrome if that faults.
pub fn read(address: u64, width: u32) -> Result<u64, u64> {
    let mut value = 0_u64;
    // SAFETY: a load changes no memory; if it faults it is stepped over (`exception::synchronous`).
    catching(|| unsafe {
        match width {
            1 => {
                asm!("ldrb {v:w}, [{a}]", v = inout(reg) value, a = in(reg) address, options(nostack))
            }
            2 => {
                asm!("ldrh {v:w}, [{a}]", v = inout(reg) value, a = in(reg) address, options(nostack))
            }
            4 => {
                asm!("ldr {v:w}, [{a}]", v = inout(reg) value, a = in(reg) address, options(nostack))
            }
            8 => {
                asm!("ldr {v}, [{a}]", v = inout(reg) value, a = in(reg) address, options(nostack))
            }
            _ => {
                asm!("ldp {v}, {w}, [{a}]", v = inout(reg) value, w = out(reg) _, a = in(reg) address, options(nostack))
            }
        }
    })?;
    Ok(value)
}

/// Writes `width` bytes of `value` (twice for 16); the syndrome if that faults.
///
/// # Safety
/// If the address is RAM of this guest, no Rust object lies there.
pub unsafe fn write(address: u64, width: u32, value: u64) -> Result<(), u64> {
    // SAFETY: the caller's promise; a fault is stepped over.
    catching(|| unsafe {
        match width {
            1 => {
                asm!("strb {v:w}, [{a}]", v = in(reg) value, a = in(reg) address, options(nostack))
            }
            2 => {
                asm!("strh {v:w}, [{a}]", v = in(reg) value, a = in(reg) address, options(nostack))
            }
            4 => asm!("str {v:w}, [{a}]", v = in(reg) value, a = in(reg) address, options(nostack)),
            8 => asm!("str {v}, [{a}]", v = in(reg) value, a = in(reg) address, options(nostack)),
            _ => {
                asm!("stp {v}, {v}, [{a}]", v = in(reg) value, a = in(reg) address, options(nostack))
            }
        }
    })
}

/// Stores by LDXR and STXR what is there already; the syndrome if that faults.
pub fn store_exclusive(address: u64) -> Result<(), u64> {
    // SAFETY: memory keeps its content, if the store succeeds at all.
    catching(|| unsafe {
        asm!("ldxr {v}, [{a}]", "stxr {s:w}, {v}, [{a}]", v = out(reg) _, s = out(reg) _, a = in(reg) address,
            options(nostack))
    })
}

/// Zeroes the block of `address` by DC ZVA; the syndrome if that faults. For memory that cannot be written.
pub fn zero_line(address: u64) -> Result<(), u64> {
    // SAFETY: the tests' own promise: no Rust object lies in memory that cannot be written.
    catching(|| unsafe { asm!("dc zva, {a}", a = in(reg) address, options(nostack)) })
}

/// Calls the code at `address`; the syndrome if fetching it faults.
///
/// # Safety
/// What lies there either cannot be fetched or is a function of no arguments that keeps the procedure call standard.
pub unsafe fn call(address: u64) -> Result<u64, u64> {
    let mut value = 0_u64;
    // SAFETY: the caller's promise. An instruction abort returns to the link register.
    catching(|| unsafe {
        asm!("blr {a}", a = in(reg) address, inout("x0") value, clobber_abi("C"));
    })?;
    Ok(value)
}

/// Asks the hardware to translate (AT S1E1R) and gives PAR_EL1.
pub fn translate(address: u64) -> u64 {
    let par;
    // SAFETY: changes PAR_EL1 alone.
    unsafe {
        asm!("at s1e1r, {a}", "isb", "mrs {p}, par_el1", a = in(reg) address, p = out(reg) par, options(nostack))
    };
    par
}

/// Numbers that look random (xorshift64*), the same on every run.
pub struct Random(pub u64);

impl Random {
    /// The next.
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}
