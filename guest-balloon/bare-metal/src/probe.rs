//! Accesses that are expected to fault, and calls with every register known: the tools of the hostile tests.

use core::arch::{asm, global_asm};
use core::sync::atomic::Ordering;

use crate::tests::{Why, why};
use crate::{cpu, ensure, memory};

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

/// Steps over one SMC that is answered by the hypervisor: where the step exception came, and where it should have.
pub fn step_over_smc() -> (u64, u64) {
    /// MDSCR_EL1.SS and KDE.
    const STEP: u64 = 1 | 1 << 13;
    /// EL1h, SS; A, I and F masked, D not.
    const SPSR: u64 = 0x1c5 | 1 << 21;
    let mut expected = 0_u64;
    cpu::this().last_elr.store(0, Ordering::Release);
    let _ = catching(|| {
        // SAFETY: debug exceptions are masked until the ERET; the handler switches stepping off; the call changes x0 to
        // x3 alone.
        unsafe {
            asm!(
                "mrs {daif}, daif",
                "msr daifset, #0xf",
                "msr mdscr_el1, {step}",
                "msr spsr_el1, {spsr}",
                "adr {at}, 1f",
                "msr elr_el1, {at}",
                "isb",
                "eret",
                "1: smc #0",
                "2: nop",
                "nop",
                "adr {at}, 2b",
                "msr mdscr_el1, xzr",
                "msr daif, {daif}",
                "isb",
                daif = out(reg) _, step = in(reg) STEP, spsr = in(reg) SPSR, at = out(reg) expected,
                inout("x0") 0x8400_0000_u64 => _, out("x1") _, out("x2") _, out("x3") _,
            );
        }
    });
    (cpu::this().last_elr.load(Ordering::Acquire), expected)
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

global_asm!(
    r#"
    .section .text.probe, "ax"
    // x0: where to, x1: PSTATE there, x2: x0 there.
enter_by_eret:
    sub     sp, sp, #96
    stp     x19, x20, [sp]
    stp     x21, x22, [sp, #16]
    stp     x23, x24, [sp, #32]
    stp     x25, x26, [sp, #48]
    stp     x27, x28, [sp, #64]
    stp     x29, x30, [sp, #80]
    msr     elr_el1, x0
    msr     spsr_el1, x1
    mov     x0, x2
    isb
    eret
after_eret:
    ldp     x19, x20, [sp]
    ldp     x21, x22, [sp, #16]
    ldp     x23, x24, [sp, #32]
    ldp     x25, x26, [sp, #48]
    ldp     x27, x28, [sp, #64]
    ldp     x29, x30, [sp, #80]
    add     sp, sp, #96
    ret
"#
);

unsafe extern "C" {
    fn enter_by_eret(pc: u64, pstate: u64, x0: u64);
    fn after_eret();
}

/// Where [`enter`] goes on after an exception.
pub fn after_enter() -> u64 {
    after_eret as *const () as u64
}

/// Returns from an exception to `pc` with PSTATE `pstate` and x0; the syndrome of the exception that ends it, or 0 if
/// there was none. Interrupts are masked meanwhile and as they were afterwards.
///
/// # Safety
/// What runs there keeps to x0 and x1 and to memory of the test's own; it ends in an exception that leads to
/// [`after_enter`], or is there already.
pub unsafe fn enter(pc: u64, pstate: u64, x0: u64) -> u64 {
    let daif: u64;
    // SAFETY: interrupts are masked here and put back below.
    unsafe { asm!("mrs {}, daif", "msr daifset, #0xf", out(reg) daif, options(nostack)) };
    // SAFETY: the caller's promise; the routine keeps what the procedure call standard asks for.
    let found = catching(|| unsafe { enter_by_eret(pc, pstate, x0) });
    // SAFETY: as it was.
    unsafe { asm!("msr daif, {}", in(reg) daif, options(nostack)) };
    found.err().unwrap_or(0)
}

/// Makes `count` instructions at the start of a page fetchable.
fn synchronise_page(page: u64, count: usize) {
    /// The smallest line there is.
    const LINE: u64 = 16;
    for line in 0..=(count as u64 * 4) / LINE {
        synchronise_code(page + line * LINE);
    }
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

/// Makes instructions just written to a page fetchable (Arm ARM DDI 0487 B2.4.4).
pub fn synchronise_code(address: u64) {
    // SAFETY: cache maintenance by address changes no contents.
    unsafe {
        asm!("dc cvau, {a}", "dsb ish", "ic ivau, {a}", "dsb ish", "isb", a = in(reg) address, options(nostack))
    };
}

/// Registers around a call: x0 to x30 and NZCV. x30 is the address of this structure itself.
#[repr(C)]
pub struct Registers {
    /// x0 to x30.
    pub x: [u64; 31],
    /// Condition flags.
    pub nzcv: u64,
}

global_asm!(
    r#"
    .macro CALL_ALL name, instruction, imm
\name:
    sub     sp, sp, #112
    stp     x19, x20, [sp]
    stp     x21, x22, [sp, #16]
    stp     x23, x24, [sp, #32]
    stp     x25, x26, [sp, #48]
    stp     x27, x28, [sp, #64]
    stp     x29, x30, [sp, #80]
    str     x0, [sp, #96]
    mov     x30, x0
    ldr     x1, [x30, #248]
    msr     nzcv, x1
    ldp     x0, x1, [x30]
    ldp     x2, x3, [x30, #16]
    ldp     x4, x5, [x30, #32]
    ldp     x6, x7, [x30, #48]
    ldp     x8, x9, [x30, #64]
    ldp     x10, x11, [x30, #80]
    ldp     x12, x13, [x30, #96]
    ldp     x14, x15, [x30, #112]
    ldp     x16, x17, [x30, #128]
    ldp     x18, x19, [x30, #144]
    ldp     x20, x21, [x30, #160]
    ldp     x22, x23, [x30, #176]
    ldp     x24, x25, [x30, #192]
    ldp     x26, x27, [x30, #208]
    ldp     x28, x29, [x30, #224]
    \instruction #\imm
    str     x30, [sp, #104]
    ldr     x30, [sp, #96]
    stp     x0, x1, [x30]
    stp     x2, x3, [x30, #16]
    stp     x4, x5, [x30, #32]
    stp     x6, x7, [x30, #48]
    stp     x8, x9, [x30, #64]
    stp     x10, x11, [x30, #80]
    stp     x12, x13, [x30, #96]
    stp     x14, x15, [x30, #112]
    stp     x16, x17, [x30, #128]
    stp     x18, x19, [x30, #144]
    stp     x20, x21, [x30, #160]
    stp     x22, x23, [x30, #176]
    stp     x24, x25, [x30, #192]
    stp     x26, x27, [x30, #208]
    stp     x28, x29, [x30, #224]
    mrs     x0, nzcv
    ldr     x1, [sp, #104]
    stp     x1, x0, [x30, #240]
    ldp     x19, x20, [sp]
    ldp     x21, x22, [sp, #16]
    ldp     x23, x24, [sp, #32]
    ldp     x25, x26, [sp, #48]
    ldp     x27, x28, [sp, #64]
    ldp     x29, x30, [sp, #80]
    add     sp, sp, #112
    ret
    .endm

    .section .text.probe, "ax"
    CALL_ALL hvc_0, hvc, 0
    CALL_ALL hvc_1, hvc, 1
    CALL_ALL hvc_4242, hvc, 0x4242
    CALL_ALL hvc_ffff, hvc, 0xffff
    CALL_ALL smc_0, smc, 0
"#
);

unsafe extern "C" {
    fn hvc_0(registers: *mut Registers);
    fn hvc_1(registers: *mut Registers);
    fn hvc_4242(registers: *mut Registers);
    fn hvc_ffff(registers: *mut Registers);
    fn smc_0(registers: *mut Registers);
}

/// A call instruction with its immediate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Call {
    /// `hvc #0`
    Hvc0,
    /// `hvc #1`
    Hvc1,
    /// `hvc #0x4242`
    Hvc4242,
    /// `hvc #0xffff`
    HvcFfff,
    /// `smc #0`
    Smc0,
}

/// Makes a call with all registers as given; they are then as it left them.
///
/// # Safety
/// The call gives away no memory that Rust uses.
pub unsafe fn call_with(call: Call, registers: &mut Registers) {
    registers.x[30] = &raw mut *registers as u64;
    // SAFETY: saves and restores what the procedure call standard asks for; the caller's promise for the rest.
    unsafe {
        match call {
            Call::Hvc0 => hvc_0(registers),
            Call::Hvc1 => hvc_1(registers),
            Call::Hvc4242 => hvc_4242(registers),
            Call::HvcFfff => hvc_ffff(registers),
            Call::Smc0 => smc_0(registers),
        }
    }
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
