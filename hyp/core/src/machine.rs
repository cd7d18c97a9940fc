//! The machine every guest sees: QEMU virt's memory map (`hw/arm/virt.c`), so that any system with a
//! QEMU virt port runs unmodified. The interrupt controller's version is the board's.

use crate::addr::{GIB, Ipa, IpaRange};
use crate::limits::MAX_VCPUS;

/// Base of RAM. A guest's maximum follows from here on without a hole.
pub const RAM_BASE: Ipa = Ipa(0x4000_0000);

/// First IPA no guest has anything at: 36 bits, one level-1 table of 64 entries.
pub const IPA_LIMIT: Ipa = Ipa(64 * GIB);

/// GIC distributor, 64 KiB (GICv3) or its first 4 KiB (GICv2).
pub const GICD: IpaRange = IpaRange {
    start: Ipa(0x0800_0000),
    size: 0x1_0000,
};

/// GICv2 CPU interface: the hardware's virtual interface is mapped here.
pub const GICC: IpaRange = IpaRange {
    start: Ipa(0x0801_0000),
    size: 0x2000,
};

/// Base of the GICv3 redistributors, one after the other by vCPU.
pub const GICR_BASE: Ipa = Ipa(0x080a_0000);

/// Bytes of one redistributor: RD_base and SGI_base (IHI 0069, 12.10).
pub const GICR_STRIDE: u64 = 0x2_0000;

/// The redistributors of as many vCPUs as a guest can have.
pub const GICR: IpaRange = IpaRange {
    start: GICR_BASE,
    size: GICR_STRIDE * MAX_VCPUS as u64,
};

/// The emulated PL011.
pub const UART: IpaRange = IpaRange {
    start: Ipa(0x0900_0000),
    size: 0x1000,
};

/// SPI of the emulated PL011 (INTID 33).
pub const UART_SPI: u32 = 1;

/// Frequency of the emulated PL011's clock, in Hz; nothing depends on it.
pub const UART_CLOCK_HZ: u32 = 24_000_000;

/// INTID of SPI 0.
pub const SPI_BASE: u32 = 32;

/// PPI numbers (INTID less 16) of the generic timer: secure, non-secure, virtual, hypervisor.
pub const TIMER_PPIS: [u32; 4] = [13, 14, 11, 10];

/// What Ballast emulates or maps in every guest, apart from RAM.
pub const FIXED: [(IpaRange, &str); 4] = [
    (GICD, "the GIC distributor"),
    (GICC, "the GIC CPU interface"),
    (GICR, "the GIC redistributors"),
    (UART, "the console UART"),
];
