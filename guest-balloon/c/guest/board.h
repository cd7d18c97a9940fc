/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The generic guest machine (QEMU virt's map), as much of it as this guest uses: console, interrupts, PSCI. Interrupts
 * stay masked at the core: WFI wakes for them all the same, and the loop acknowledges them.
 */
#ifndef BOARD_H
#define BOARD_H

#include <stdint.h>

#define UART 0x09000000ul
#define GICD 0x08000000ul
#define GICC 0x08010000ul
#define GICR 0x080a0000ul
/* Where the table in start.S shows the first GiB as RAM. */
#define SHARED 0x80000000ul
#define SPI(n) ((n) + 32u)
#define NO_INTERRUPT 1020u

static inline volatile uint32_t *reg(uint64_t address)
{
	return (volatile uint32_t *)address;
}

static inline void print(const char *text)
{
	while (*text)
		*reg(UART) = (uint32_t)*text++;
}

static inline void print_number(uint64_t number)
{
	char digits[21] = { 0 };
	int at = 20;

	do
		digits[--at] = '0' + (char)(number % 10);
	while (number /= 10);
	print(digits + at);
}

__attribute__((noreturn)) static inline void power_off(void)
{
	register uint64_t x0 __asm__("x0") = 0x84000008; /* PSCI SYSTEM_OFF */

	for (;;)
		__asm__ volatile("hvc #0" : "+r"(x0) : : "x1", "x2", "x3", "memory");
}

/* Whether the interrupt controller is a GICv3: it has system registers (ID_AA64PFR0_EL1.GIC). */
static inline int is_gicv3(void)
{
	uint64_t features;

	__asm__("mrs %0, ID_AA64PFR0_EL1" : "=r"(features));
	return features >> 24 & 15;
}

static inline void gic_init(void)
{
	if (is_gicv3()) {
		__asm__ volatile("msr S3_0_C12_C12_5, %0\n isb" : : "r"(7ul));	/* ICC_SRE_EL1 */
		__asm__ volatile("msr S3_0_C4_C6_0, %0" : : "r"(0xfful));	/* ICC_PMR_EL1 */
		__asm__ volatile("msr S3_0_C12_C12_7, %0\n isb" : : "r"(1ul));	/* ICC_IGRPEN1_EL1 */
		*reg(GICD) = 1 << 4 | 1 << 1;					/* ARE, group 1 */
	} else {
		*reg(GICC + 4) = 0xff;
		*reg(GICC) = 1;
		*reg(GICD) = 1;
	}
}

/* Enables a shared interrupt on this core, in group 1, at priority 0x80. */
static inline void gic_enable(uint32_t interrupt)
{
	if (is_gicv3()) {
		*reg(GICD + 0x80 + interrupt / 32 * 4) |= 1u << interrupt % 32;
		*(volatile uint64_t *)(GICD + 0x6000 + interrupt * 8ul) = 0;
	} else {
		*(volatile uint8_t *)(GICD + 0x800 + interrupt) = 1;
	}
	*(volatile uint8_t *)(GICD + 0x400 + interrupt) = 0x80;
	*reg(GICD + 0x100 + interrupt / 32 * 4) = 1u << interrupt % 32;
}

/* The interrupt that is pending, which is active from now on; from NO_INTERRUPT on there is none. */
static inline uint32_t gic_acknowledge(void)
{
	uint64_t interrupt;

	if (!is_gicv3())
		return *reg(GICC + 12) & 0x3ff;
	__asm__ volatile("mrs %0, S3_0_C12_C12_0\n dsb sy" : "=r"(interrupt));	/* ICC_IAR1_EL1 */
	return (uint32_t)interrupt;
}

static inline void gic_end(uint32_t interrupt)
{
	if (is_gicv3())
		__asm__ volatile("msr S3_0_C12_C12_1, %0\n isb" : : "r"((uint64_t)interrupt)); /* ICC_EOIR1_EL1 */
	else
		*reg(GICC + 16) = interrupt;
}

static inline void sleep(void)
{
	__asm__ volatile("dsb sy\n wfi" : : : "memory");
}

#endif
