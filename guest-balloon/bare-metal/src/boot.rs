//! The first instructions of every core: arm64 Image header, MMU on, stack, Rust.
//!
//! Entered as the arm64 boot protocol says (Linux `Documentation/arch/arm64/booting.rst`): x0 = DTB, MMU
//! and caches off, interrupts masked, EL1. Nothing is written before the MMU is on, so no cache
//! maintenance is needed: the translation table is constant data of the image.

use core::arch::global_asm;

use crate::cpu::{MAX_CPUS, STACK_SIZE};
use crate::mmu;

/// The boot stacks, one per core, used for the core's whole life.
#[repr(C, align(4096))]
struct Stacks(core::cell::UnsafeCell<[[u8; STACK_SIZE]; MAX_CPUS]>);

// SAFETY: never accessed from Rust; each core uses its own element as its stack.
unsafe impl Sync for Stacks {}

static STACKS: Stacks = Stacks(core::cell::UnsafeCell::new([[0; STACK_SIZE]; MAX_CPUS]));

global_asm!(
    r#"
    .section .text.head, "ax"
    .global _start
_start:
    b       boot_entry              // code0
    nop                             // code1
    .quad   0x80000                 // text_offset
    .quad   __image_size            // image_size, .bss included
    .quad   0x2                     // flags: little-endian, 4 KiB pages, near the base of RAM
    .quad   0, 0, 0
    .ascii  "ARM\x64"
    .long   0

boot_entry:
    mov     x19, x0
    bl      enable_mmu
    // Linked for the generic guest machine's RAM; elsewhere every address in the data is off by as much
    // (R_AARCH64_RELATIVE, the only kind there is: place, kind, address as linked).
    adrp    x1, __rela_start
    add     x1, x1, :lo12:__rela_start
    adrp    x2, __rela_end
    add     x2, x2, :lo12:__rela_end
    adrp    x3, __image_start
    mov     x4, #0x40080000
    sub     x3, x3, x4
2:  cmp     x1, x2
    b.hs    3f
    ldp     x4, x5, [x1], #16
    ldr     x5, [x1], #8
    add     x5, x5, x3
    str     x5, [x4, x3]
    b       2b
3:  adrp    x1, __bss_start
    add     x1, x1, :lo12:__bss_start
    adrp    x2, __bss_end
    add     x2, x2, :lo12:__bss_end
0:  cmp     x1, x2
    b.hs    1f
    stp     xzr, xzr, [x1], #16
    b       0b
1:  mov     x20, #0
    b       enter_rust

    // Secondary cores come here by CPU_ON, x0 = context = the core's index.
    .global secondary_entry
secondary_entry:
    // The other registers must be zero; what they hold, ORed, goes to Rust in x1.
    .irp    n, 2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30
    orr     x1, x1, x\n
    .endr
    mov     x19, x1
    mov     x20, x0
    bl      enable_mmu

enter_rust:
    msr     tpidr_el1, x20
    adrp    x1, {stacks}
    add     x1, x1, :lo12:{stacks}
    mov     x2, #{stack_size}
    add     x3, x20, #1
    madd    x1, x2, x3, x1
    mov     sp, x1
    adrp    x1, vectors
    add     x1, x1, :lo12:vectors
    msr     vbar_el1, x1
    isb
    mov     x29, xzr
    mov     x30, xzr
    mov     x0, x20
    mov     x1, x19
    b       {rust_main}

    // Clobbers x1, x2. Arm ARM DDI 0487 D8.2 (enabling stage 1): table, attributes, TLB clean, then M and C.
enable_mmu:
    ldr     x1, ={mair}
    msr     mair_el1, x1
    ldr     x1, ={tcr}
    mrs     x2, id_aa64mmfr0_el1
    bfi     x1, x2, #32, #3         // IPS = PARange
    msr     tcr_el1, x1
    adrp    x1, {table}
    add     x1, x1, :lo12:{table}
    msr     ttbr0_el1, x1
    tlbi    vmalle1
    ic      iallu
    dsb     nsh
    isb
    ldr     x1, ={sctlr}
    msr     sctlr_el1, x1
    isb
    ret
    .ltorg
"#,
    stacks = sym STACKS,
    stack_size = const STACK_SIZE,
    rust_main = sym rust_main,
    mair = const mmu::MAIR,
    tcr = const mmu::TCR,
    sctlr = const mmu::SCTLR,
    table = sym mmu::LEVEL1,
);

unsafe extern "C" {
    /// Where CPU_ON starts a core; never called from Rust.
    fn secondary_entry();
}

/// The entry address for CPU_ON.
pub fn secondary_entry_address() -> u64 {
    secondary_entry as *const () as u64
}

/// First Rust function of each core: core 0 gets the DTB in `value`, the others what the registers that must be zero at their start held (ORed).
extern "C" fn rust_main(cpu: u64, value: u64) -> ! {
    if cpu == 0 {
        crate::start(value)
    } else {
        crate::smp::started(value)
    }
}
