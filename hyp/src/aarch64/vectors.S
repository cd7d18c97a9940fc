// EL2 exception vectors.
//
// While a guest runs, SP_EL2 points at this core's `Frame` (traps.rs): 31 registers. An exit saves
// only what the Rust ABI lets a callee change (x0-x18, x30), unless it has to do with one of the
// others. ELR_EL2 and SPSR_EL2 stay in their registers: EL2 takes no exception while it serves
// one, apart from its own bugs, which end in `el2_fault`.

.macro vector name
    .balign 128
    b       \name
.endm

.macro save_caller
    stp     x0, x1, [sp, #0]
    stp     x2, x3, [sp, #16]
    stp     x4, x5, [sp, #32]
    stp     x6, x7, [sp, #48]
    stp     x8, x9, [sp, #64]
    stp     x10, x11, [sp, #80]
    stp     x12, x13, [sp, #96]
    stp     x14, x15, [sp, #112]
    stp     x16, x17, [sp, #128]
    str     x18, [sp, #144]
    str     x30, [sp, #240]
.endm

.macro restore_caller
    ldr     x30, [sp, #240]
    ldr     x18, [sp, #144]
    ldp     x16, x17, [sp, #128]
    ldp     x14, x15, [sp, #112]
    ldp     x12, x13, [sp, #96]
    ldp     x10, x11, [sp, #80]
    ldp     x8, x9, [sp, #64]
    ldp     x6, x7, [sp, #48]
    ldp     x4, x5, [sp, #32]
    ldp     x2, x3, [sp, #16]
    ldp     x0, x1, [sp, #0]
.endm

// Nothing behind it is executed speculatively (straight-line speculation, CVE-2020-13844).
.macro return_to_guest
    eret
    dsb     nsh
    isb
.endm

// From EL2 itself: a bug of ours, but for what device.S does in a guest's stead or lets in on purpose.
.macro vectors_of_el2
    vector  el2_fault_entry
    vector  el2_fault_entry
    vector  el2_fault_entry
    vector  el2_fault_entry
    vector  el2_sync_entry
    vector  el2_fault_entry
    vector  el2_fault_entry
    vector  el2_serror_entry
.endm

// From a guest: in AArch64, then its AArch32 EL0.
.macro vectors_of_guests entry
    .rept 2
    \entry  guest_sync
    \entry  guest_irq
    \entry  guest_irq
    \entry  guest_serror
    .endr
.endm

// The branch history is EL2's own behind this (CVE-2022-23960): as many taken branches as a Cortex-A57 or
// A72 remembers (speculation.rs). The flags it changes are EL2's.
.macro behind_branches name
    .balign 128
    str     x0, [sp, #0]
    mov     x0, #{branches}
1:  b       2f
2:  subs    x0, x0, #1
    b.ne    1b
    dsb     nsh
    isb
    ldr     x0, [sp, #0]
    b       \name
.endm

// Firmware forgets what the predictor has learnt, history and targets (DEN0028, 7.7 and 7.9). x0 to x3 may change.
.macro behind_firmware name
    .balign 128
    stp     x0, x1, [sp, #0]
    stp     x2, x3, [sp, #16]
    adrp    x0, firmware_workaround
    ldr     w0, [x0, #:lo12:firmware_workaround]
    smc     #0
    ldp     x2, x3, [sp, #16]
    ldp     x0, x1, [sp, #0]
    b       \name
.endm

.section .text.vectors, "ax"
.balign 2048
.global el2_vectors
el2_vectors:
    vectors_of_el2
    vectors_of_guests vector
.balign 2048
.global el2_vectors_behind_branches
el2_vectors_behind_branches:
    vectors_of_el2
    vectors_of_guests behind_branches
.balign 2048
.global el2_vectors_behind_firmware
el2_vectors_behind_firmware:
    vectors_of_el2
    vectors_of_guests behind_firmware

guest_sync:
    save_caller
    mrs     x1, ESR_EL2
    mov     x0, sp
    lsr     x2, x1, #27
    cmp     x2, #(0x16 >> 1)                    // HVC or SMC from AArch64: 0x16, 0x17
    b.ne    1f
    tbnz    x1, #26, 4f
    bl      rust_hypercall
resume_caller:
    restore_caller
    return_to_guest
1:  lsr     x2, x1, #26
    cmp     x2, #0x24                           // data abort: register in ISS.SRT
    b.ne    2f
    ubfx    x3, x1, #16, #5
    sub     w3, w3, #19
    cmp     w3, #29 - 19
    b.ls    guest_sync_full
    bl      rust_data_abort
    restore_caller
    return_to_guest
2:  cmp     x2, #0x18                           // system register: register in ISS.Rt
    b.ne    guest_sync_full
    ubfx    x3, x1, #5, #5
    sub     w3, w3, #19
    cmp     w3, #29 - 19
    b.ls    guest_sync_full
    bl      rust_system_register
    restore_caller
    return_to_guest
4:  bl      rust_smc
    b       resume_caller

guest_irq:
    save_caller
    mov     x0, sp
    bl      rust_interrupt
    restore_caller
    return_to_guest

guest_serror:
    save_caller
    mrs     x1, ESR_EL2
    mov     x0, sp
    stp     x19, x20, [sp, #152]
    stp     x21, x22, [sp, #168]
    stp     x23, x24, [sp, #184]
    stp     x25, x26, [sp, #200]
    stp     x27, x28, [sp, #216]
    str     x29, [sp, #232]
    bl      rust_serror
    b       resume_full

guest_sync_full:
    stp     x19, x20, [sp, #152]
    stp     x21, x22, [sp, #168]
    stp     x23, x24, [sp, #184]
    stp     x25, x26, [sp, #200]
    stp     x27, x28, [sp, #216]
    str     x29, [sp, #232]
    bl      rust_sync
resume_full:
    ldr     x29, [sp, #232]
    ldp     x27, x28, [sp, #216]
    ldp     x25, x26, [sp, #200]
    ldp     x23, x24, [sp, #184]
    ldp     x21, x22, [sp, #168]
    ldp     x19, x20, [sp, #152]
    b       resume_caller

// A synchronous exception in EL2. One of the instructions in device.S took an external abort, and goes on
// at device_fault; or it is a fault of ours, in which no register's value is of use any more.
el2_sync_entry:
    mrs     x16, ELR_EL2
    ldr     x17, =device_first
    cmp     x16, x17
    b.lo    el2_fault_entry
    ldr     x17, =device_last
    cmp     x16, x17
    b.hs    el2_fault_entry
    ldr     x17, =device_fault
    msr     ELR_EL2, x17
    return_to_guest

// An SError in EL2, which masks them: let in by take_serror, or a fault of ours.
el2_serror_entry:
    mrs     x16, ELR_EL2
    ldr     x17, =serror_first
    cmp     x16, x17
    b.lo    el2_fault_entry
    ldr     x17, =serror_last
    cmp     x16, x17
    b.hi    el2_fault_entry
    mrs     x0, ESR_EL2
    mrs     x16, SPSR_EL2
    orr     x16, x16, #1 << 8                   // masked again
    msr     SPSR_EL2, x16
    return_to_guest

// A fault in EL2. SP may be the cause, so switch to the emergency stack first; SP_EL0 (the guest's,
// lost anyway) holds x0 meanwhile.
el2_fault_entry:
    msr     SP_EL0, x0
    mrs     x0, TPIDR_EL2
    cbz     x0, 1f
    ldr     x0, [x0]                            // PerCpu.emergency_top
    mov     sp, x0
    b       2f
1:  ldr     x0, =boot_stack_top
    mov     sp, x0
2:  mrs     x0, ESR_EL2
    mrs     x1, ELR_EL2
    mrs     x2, FAR_EL2
    bl      rust_el2_fault
3:  wfe
    b       3b

// Zeroes the FP and SIMD registers, which EL2 does not use.
.global reset_fp
reset_fp:
.arch_extension fp
.arch_extension simd
    movi    v0.2d, #0
    movi    v1.2d, #0
    movi    v2.2d, #0
    movi    v3.2d, #0
    movi    v4.2d, #0
    movi    v5.2d, #0
    movi    v6.2d, #0
    movi    v7.2d, #0
    movi    v8.2d, #0
    movi    v9.2d, #0
    movi    v10.2d, #0
    movi    v11.2d, #0
    movi    v12.2d, #0
    movi    v13.2d, #0
    movi    v14.2d, #0
    movi    v15.2d, #0
    movi    v16.2d, #0
    movi    v17.2d, #0
    movi    v18.2d, #0
    movi    v19.2d, #0
    movi    v20.2d, #0
    movi    v21.2d, #0
    movi    v22.2d, #0
    movi    v23.2d, #0
    movi    v24.2d, #0
    movi    v25.2d, #0
    movi    v26.2d, #0
    movi    v27.2d, #0
    movi    v28.2d, #0
    movi    v29.2d, #0
    movi    v30.2d, #0
    movi    v31.2d, #0
    msr     FPCR, xzr
    msr     FPSR, xzr
.arch_extension nosimd
.arch_extension nofp
    ret

// Enters a guest for the first time: x0 = entry, x1 = SPSR, x2 = the guest's x0, x3 = frame address.
// Every other general register is zero; FP and SIMD are since reset_fp.
.global enter_guest
enter_guest:
    msr     ELR_EL2, x0
    msr     SPSR_EL2, x1
    mov     sp, x3
    mov     x0, x2
    mov     x1, #0
    mov     x2, #0
    mov     x3, #0
    mov     x4, #0
    mov     x5, #0
    mov     x6, #0
    mov     x7, #0
    mov     x8, #0
    mov     x9, #0
    mov     x10, #0
    mov     x11, #0
    mov     x12, #0
    mov     x13, #0
    mov     x14, #0
    mov     x15, #0
    mov     x16, #0
    mov     x17, #0
    mov     x18, #0
    mov     x19, #0
    mov     x20, #0
    mov     x21, #0
    mov     x22, #0
    mov     x23, #0
    mov     x24, #0
    mov     x25, #0
    mov     x26, #0
    mov     x27, #0
    mov     x28, #0
    mov     x29, #0
    mov     x30, #0
    return_to_guest

// Forgets the stack and continues in the core's run loop. x0 = stack top.
.global restart_core
restart_core:
    mov     sp, x0
    mov     x29, xzr
    mov     x30, xzr
    b       rust_core_loop
