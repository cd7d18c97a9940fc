//! Instructions written at run time: those that the assembler has no name for, by their encoding.
//!
//! Tests walk through whole spaces of them, of which most must be UNDEFINED: too many for code of their own, so they are
//! written to a page, made fetchable and called.

use core::arch::asm;
use core::sync::atomic::Ordering;

use super::{catching, syndrome};
use crate::tests::{Why, why};
use crate::{cpu, ensure, memory};

/// An instruction that accesses a system register, or a SYS, by its encoding: x0 is the general register.
#[derive(Clone, Copy, Debug)]
pub struct Encoding {
    /// 1 for SYS and SYSL, 2 and 3 for registers.
    pub op0: u32,
    /// Op1.
    pub op1: u32,
    /// CRn.
    pub crn: u32,
    /// CRm.
    pub crm: u32,
    /// Op2.
    pub op2: u32,
}

impl Encoding {
    /// `S<op0>_<op1>_C<crn>_C<crm>_<op2>`.
    pub const fn new(op0: u32, op1: u32, crn: u32, crm: u32, op2: u32) -> Self {
        Self {
            op0,
            op1,
            crn,
            crm,
            op2,
        }
    }

    /// All encodings with this op0 and op1.
    pub fn all(op0: u32, op1: u32) -> impl Iterator<Item = Self> + Clone {
        (0..1 << 11).map(move |n| Self::new(op0, op1, n >> 7, n >> 3 & 15, n & 7))
    }

    const fn fields(self) -> u32 {
        self.op0 << 19 | self.op1 << 16 | self.crn << 12 | self.crm << 8 | self.op2 << 5
    }

    /// MRS or SYSL to x0.
    pub const fn read(self) -> u32 {
        0xd520_0000 | self.fields()
    }

    /// MSR or SYS from x0.
    pub const fn write(self) -> u32 {
        0xd500_0000 | self.fields()
    }
}

const RET: u32 = 0xd65f_03c0;

/// Runs instructions, one after the other, with x0 = `x0` before the first: x0 after the last, or the syndrome of the
/// last that faulted.
///
/// # Safety
/// They change x0 alone, and nothing that this code rests on.
pub unsafe fn run(instructions: &[u32], x0: u64) -> Result<u64, u64> {
    let page = memory::scratch_code();
    memory::write_code(page, instructions);
    memory::write_code_at(page, instructions.len(), RET);
    synchronise_page(page, instructions.len() + 1);
    let mut value = x0;
    // SAFETY: the caller's promise, and a return behind them.
    catching(|| unsafe {
        asm!("blr {a}", a = in(reg) page, inout("x0") value, clobber_abi("C"));
    })?;
    Ok(value)
}

/// Reads a system register; the syndrome if it is undefined.
pub fn read_register(register: Encoding) -> Result<u64, u64> {
    // SAFETY: reading has no side effect on what this guest rests on.
    unsafe { run(&[register.read()], 0) }
}

/// Instructions run at once.
const BATCH: usize = 1000;

/// Runs instructions with x0 = `x0`, of which each must be UNDEFINED for the guest (class 0): how many there were.
///
/// # Safety
/// Should one not be undefined it changes nothing that this code rests on.
pub unsafe fn all_undefined(instructions: impl Iterator<Item = u32>, x0: u64) -> Result<u64, Why> {
    let this = cpu::this();
    let mut instructions = instructions.peekable();
    let mut all = 0;
    let mut batch = heapless::Vec::<u32, BATCH>::new();
    while instructions.peek().is_some() {
        batch.clear();
        batch.extend(instructions.by_ref().take(BATCH));
        let before = this.faults.load(Ordering::Acquire);
        this.classes.store(0, Ordering::Release);
        // SAFETY: the caller's promise.
        let _ = unsafe { run(&batch, x0) };
        let faults = this.faults.load(Ordering::Acquire) - before;
        let classes = this.classes.load(Ordering::Acquire);
        if (faults, classes) == (batch.len() as u64, 1 << syndrome::UNKNOWN) {
            all += faults;
            continue;
        }
        for &instruction in &batch {
            // SAFETY: as above.
            let found = unsafe { run(&[instruction], x0) };
            ensure!(
                found.is_err_and(|esr| syndrome::class(esr) == syndrome::UNKNOWN),
                "{instruction:#x} is not undefined: {found:x?}"
            );
        }
        return Err(why(format_args!(
            "{faults} faults of classes {classes:#x} in {}",
            batch.len()
        )));
    }
    Ok(all)
}

/// Makes `count` instructions at the start of a page fetchable.
fn synchronise_page(page: u64, count: usize) {
    /// The smallest line there is.
    const LINE: u64 = 16;
    for line in 0..=(count as u64 * 4) / LINE {
        synchronise_code(page + line * LINE);
    }
}

/// Makes instructions just written to a page fetchable (Arm ARM DDI 0487 B2.4.4).
pub fn synchronise_code(address: u64) {
    // SAFETY: cache maintenance by address changes no contents.
    unsafe {
        asm!("dc cvau, {a}", "dsb ish", "ic ivau, {a}", "dsb ish", "isb", a = in(reg) address, options(nostack))
    };
}
