// SPDX-License-Identifier: MIT OR Apache-2.0
// arm64 Image header, MMU, stack, C. Entered at EL1 with MMU and caches off (Linux booting.rst). Nothing is written
// before the MMU is on: the table is constant data of the image.

	.section .text.head, "ax"
	.global _start
_start:
	b	entry
	nop
	.quad	0x80000			// text_offset
	.quad	__image_size		// image_size, .bss and stack included
	.quad	0x2			// little-endian, 4 KiB pages, near the base of RAM
	.quad	0, 0, 0
	.ascii	"ARM\x64"
	.long	0

entry:
	mov	x0, #0xff00		// attribute 0: device nGnRnE; 1: normal, write-back
	msr	MAIR_EL1, x0
	// 36 bits of addresses, 4 KiB granule, inner shareable, write-back; no TTBR1 (DDI 0487, TCR_EL1).
	ldr	x0, =(28 | 1 << 8 | 1 << 10 | 3 << 12 | 1 << 23 | 1 << 32)
	msr	TCR_EL1, x0
	adrp	x0, level1
	add	x0, x0, :lo12:level1
	msr	TTBR0_EL1, x0
	tlbi	vmalle1
	dsb	nsh
	isb
	mrs	x0, SCTLR_EL1
	mov	x1, #(1 | 1 << 2)	// M, C
	orr	x0, x0, x1
	orr	x0, x0, #(1 << 12)	// I
	msr	SCTLR_EL1, x0
	isb
	adrp	x0, __bss_start
	add	x0, x0, :lo12:__bss_start
	adrp	x1, __bss_end
	add	x1, x1, :lo12:__bss_end
1:	cmp	x0, x1
	b.hs	2f
	str	xzr, [x0], #8
	b	1b
2:	adrp	x0, __stack_top
	add	x0, x0, :lo12:__stack_top
	mov	sp, x0
	bl	main
3:	wfi
	b	3b

// One entry for each GiB: devices and channels in the first, RAM in the second. Channels are RAM, and lie from
// 0x1000_0000 on: the third entry shows the first GiB once more, as RAM.
	.section .rodata
	.balign	4096
level1:
	.quad	0x00000000 | 1 << 54 | 1 << 53 | 1 << 10 | 0 << 2 | 1	// UXN, PXN, AF, device
	.quad	0x40000000 | 1 << 54 | 1 << 10 | 3 << 8 | 1 << 2 | 1		// UXN, AF, inner shareable, normal
	.quad	0x00000000 | 1 << 54 | 1 << 53 | 1 << 10 | 3 << 8 | 1 << 2 | 1
	.fill	61, 8, 0
