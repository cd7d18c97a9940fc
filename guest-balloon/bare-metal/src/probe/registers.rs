//! Calls of the hypervisor with every register known, before and after.
//!
//! The compiler's own calls could not tell which register a call changed, so each call instruction has a routine in
//! assembly that loads all of them and stores all of them.

use core::arch::global_asm;

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
"#,
    callee_saved!("stp"),
    r#"
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
"#,
    callee_saved!("ldp"),
    r#"
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
