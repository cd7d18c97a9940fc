// The way in: image header, EL2 stage-1 tables for the image alone, MMU on, Rust.
//
// Runs with the MMU off at whatever address the loader chose, so every reference is PC-relative
// (adrp), and writes nothing outside the image: the loader's DTB or initrd may stand right behind it.

.equ PAGE_TABLE,   0x3                          // table descriptor
.equ PAGE_RX,      0x7c7                        // page, AF, inner shareable, read-only, MAIR index 1
.equ PAGE_RO,      0x7c7 | (1 << 54)            // the same, execute never
.equ PAGE_RW,      0x747 | (1 << 54)            // read-write, execute never
.equ MAIR_VALUE,   0x44ff04                     // 0: Device-nGnRE, 1: Normal write-back, 2: Normal non-cacheable, 3: Device-nGnRnE
// 39-bit addresses, walks write-back inner shareable, RES1 bits (DDI 0487, D19.2.139 TCR_EL2)
.equ TCR_VALUE,    25 | (1 << 8) | (1 << 10) | (3 << 12) | (1 << 23) | (1 << 31)
// RES1 bits plus WXN (19), I (12), SA (3), C (2), M (0) (DDI 0487, D19.2.123 SCTLR_EL2)
.equ SCTLR_VALUE,  0x30c50830 | (1 << 19) | (1 << 12) | (1 << 3) | (1 << 2) | 1
.equ SCTLR_OFF,    0x30c50830
.equ SPIN_CORES,   8                            // limits::MAX_CORES
.equ HCR_BOOT,     1 << 31                      // EL1 is AArch64; no VHE, no trap yet

.section .head, "ax"
.global image_head
image_head:
    b       primary_entry                       // code0
    .long   0                                   // code1
    .quad   0                                   // text_offset
    .quad   image_end - image_head              // image_size
    .quad   0xa                                 // little endian, 4 KiB pages, any 2 MiB aligned base
    .quad   0, 0, 0
    .ascii  "ARM\x64"
    .long   0

// x0 = DTB (Linux arm64 boot protocol).
primary_entry:
    mrs     x1, CurrentEL
    cmp     x1, #(2 << 2)
    b.ne    park                                // nothing can be said or done below EL2
    msr     DAIFSet, #0xf
    mov     x20, x0
    adrp    x21, image_head                     // physical load address

    // Tables: L1 | L2 image | L3 image | L2 identity | L3 identity (in .boot_tables, zero in the file).
    adrp    x1, boot_l1
    adrp    x2, boot_l2_image
    adrp    x3, boot_l3_image
    adrp    x4, boot_l2_ident
    adrp    x5, boot_l3_ident
    orr     x6, x2, #PAGE_TABLE
    str     x6, [x1, #(511 * 8)]                // IMAGE_BASE has level-1 index 511
    orr     x6, x3, #PAGE_TABLE
    str     x6, [x2]

    // The image, page by page, W^X.
    mov     x7, x21
    mov     x8, x3
    adrp    x9, image_rodata
    ldr     x10, =PAGE_RX
    bl      map_until
    adrp    x9, image_guard
    ldr     x10, =PAGE_RO
    bl      map_until
    adrp    x9, image_data                      // the guard page stays invalid
    add     x8, x8, #8
    mov     x7, x9
    adrp    x9, image_end
    ldr     x10, =PAGE_RW
    bl      map_until

    // The page this code runs in, at its physical address, until the jump.
    adrp    x7, switch_on
    ubfx    x6, x7, #30, #9
    orr     x8, x4, #PAGE_TABLE
    str     x8, [x1, x6, lsl #3]
    ubfx    x6, x7, #21, #9
    orr     x8, x5, #PAGE_TABLE
    str     x8, [x4, x6, lsl #3]
    ubfx    x6, x7, #12, #9
    ldr     x8, =PAGE_RX
    orr     x8, x8, x7
    str     x8, [x5, x6, lsl #3]

    // Written with the caches off: drop clean lines the loader may have left for the tables and the
    // rest of the data (DDI 0487, D7.5.9: mismatched attributes).
    dsb     sy
    adrp    x7, image_data
    adrp    x8, image_end
    mrs     x9, CTR_EL0
    ubfx    x9, x9, #16, #4
    mov     x10, #4
    lsl     x9, x10, x9
1:  dc      ivac, x7
    add     x7, x7, x9
    cmp     x7, x8
    b.lo    1b
    dsb     sy

    ldr     x30, =primary_high
    b       switch_on

// x7 = physical page, x8 = table slot, x9 = end, x10 = attributes.
map_until:
    cmp     x7, x9
    b.hs    2f
    orr     x11, x7, x10
    str     x11, [x8], #8
    add     x7, x7, #4096
    b       map_until
2:  ret

primary_high:
    ldr     x1, =boot_stack_top
    mov     sp, x1
    msr     TPIDR_EL2, xzr                      // no per-core data yet: faults use the boot stack
    ldr     x1, =el2_vectors
    msr     VBAR_EL2, x1
    isb
    mov     x0, x20
    mov     x1, x21
    mov     x29, xzr
    mov     x30, xzr
    b       rust_boot

// Secondary cores: x0 = core index (PSCI context id).
.global secondary_entry
secondary_entry:
    msr     DAIFSet, #0xf
    mov     x20, x0
    ldr     x30, =secondary_high
    b       switch_on

// Secondary cores from a spin table: nothing is handed over, so the core looks its number up by its
// affinity. Reads memory past the caches, as the MMU is off: the list has been cleaned to the PoC.
.global spin_entry
spin_entry:
    msr     DAIFSet, #0xf
    mrs     x1, MPIDR_EL1
    and     x2, x1, #0xff00000000
    and     x1, x1, #0xffffff
    orr     x1, x1, x2
    adrp    x2, spin_cores
    add     x2, x2, :lo12:spin_cores
    mov     x0, xzr
1:  ldr     x3, [x2, x0, lsl #3]
    cmp     x3, x1
    b.eq    secondary_entry
    add     x0, x0, #1
    cmp     x0, #SPIN_CORES
    b.ne    1b
    b       park

secondary_high:
    msr     TPIDR_EL2, xzr
    ldr     x1, =el2_vectors
    msr     VBAR_EL2, x1
    isb
    // stack_top(index): STACK_BASE + index * STACK_SLOT + 0x1000 + STACK_SIZE
    ldr     x1, =(0x7fc0000000 + 0x10000000 + 0x1000 + 0x6000)
    add     x1, x1, x20, lsl #16
    mov     sp, x1
    mov     x0, x20
    mov     x29, xzr
    mov     x30, xzr
    b       rust_secondary

// Turns the MMU on and continues at x30, a virtual address. One page, mapped one to one.
.balign 512
switch_on:
    ldr     x1, =HCR_BOOT
    msr     HCR_EL2, x1
    ldr     x1, =SCTLR_OFF
    msr     SCTLR_EL2, x1
    isb
    ldr     x1, =MAIR_VALUE
    msr     MAIR_EL2, x1
    ldr     x1, =TCR_VALUE
    mrs     x2, ID_AA64MMFR0_EL1
    and     x2, x2, #0xf                        // PARange, capped at 48 bits
    cmp     x2, #5
    mov     x3, #5
    csel    x2, x2, x3, ls
    bfi     x1, x2, #16, #3
    msr     TCR_EL2, x1
    adrp    x1, boot_l1
    msr     TTBR0_EL2, x1
    tlbi    ALLE2
    ic      iallu
    dsb     nsh
    isb
    ldr     x1, =SCTLR_VALUE
    msr     SCTLR_EL2, x1
    isb
    br      x30

park:
    wfe
    b       park
.ltorg

// The affinities of the cores by number, for `spin_entry`.
.section .data.spin_cores, "aw"
.balign 64
.global spin_cores
spin_cores:
.rept SPIN_CORES
    .quad   -1
.endr

.section .boot_tables, "aw"
.balign 4096
.global boot_l1
boot_l1:        .fill 512, 8, 0
.global boot_l2_image
boot_l2_image:  .fill 512, 8, 0
boot_l3_image:  .fill 512, 8, 0
.global boot_l2_ident
boot_l2_ident:  .fill 512, 8, 0
boot_l3_ident:  .fill 512, 8, 0
