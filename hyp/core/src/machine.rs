//! The machine a guest sees: QEMU virt's memory map (`hw/arm/virt.c`), so that any system with a
//! QEMU virt port runs unmodified; for a `primary` guest the board's. The interrupt controller's
//! version is the board's in both.

use alloc::vec::Vec;

use ballast_abi::device_tree::BALLOON_SPI;

use crate::addr::{GIB, Ipa, IpaRange};
use crate::limits::MAX_VCPUS;
use crate::vgic::IntId;
use crate::watchdog::Kind;

/// Where a guest has what Ballast emulates for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Machine {
    /// GIC distributor.
    pub gicd: IpaRange,
    /// GICv2 CPU interface: the hardware's virtual interface is mapped here. Empty with a GICv3.
    pub gicc: IpaRange,
    /// GICv3 redistributors, one after the other by vCPU. Empty with a GICv2.
    pub gicr: IpaRange,
    /// The emulated PL011: whole pages.
    pub uart: IpaRange,
    /// Its interrupt.
    pub uart_intid: IntId,
    /// The second PL011, whose other end is the balloon's (`user-balloon`). Empty if there is none.
    pub messages: IpaRange,
    /// Its interrupt.
    pub messages_intid: IntId,
    /// The balloon's interrupt.
    pub balloon_intid: IntId,
    /// Its watchdog, if it has one.
    pub watchdog: Option<(Kind, IpaRange)>,
}

impl Machine {
    /// QEMU virt's map.
    pub const VIRT: Self = Self {
        gicd: GICD,
        gicc: GICC,
        gicr: GICR,
        uart: UART,
        uart_intid: spi(UART_SPI),
        messages: NOTHING,
        messages_intid: spi(MESSAGES_SPI),
        balloon_intid: spi(BALLOON_SPI),
        watchdog: None,
    };

    /// What is emulated or mapped here, with its name.
    #[must_use]
    pub fn fixed(&self) -> Vec<(IpaRange, &'static str)> {
        let all = [
            (self.gicd, "the GIC distributor"),
            (self.gicc, "the GIC CPU interface"),
            (self.gicr, "the GIC redistributors"),
            (self.uart, "the console UART"),
            (self.messages, "the balloon's UART"),
            (
                self.watchdog
                    .map_or_else(IpaRange::default, |(_, range)| range),
                "the watchdog",
            ),
        ];
        all.into_iter()
            .filter(|(range, _)| range.size != 0)
            .collect()
    }
}

/// INTID of SPI `number`, below 224.
#[expect(
    clippy::cast_possible_truncation,
    clippy::arithmetic_side_effects,
    reason = "constants of this crate, evaluated at compile time"
)]
const fn spi(number: u32) -> IntId {
    IntId((number + SPI_BASE) as u8)
}

/// Base of RAM, unless it lies where the board has it. A guest's maximum follows without a hole.
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

/// Arm's generic watchdog: control frame, refresh frame. QEMU virt has nothing here.
pub const WATCHDOG: IpaRange = IpaRange {
    start: Ipa(0x0b00_0000),
    size: Kind::Generic.bytes(),
};

/// SPI of the emulated PL011 (INTID 33).
pub const UART_SPI: u32 = 1;

/// The second emulated PL011, where QEMU virt has its second UART.
pub const MESSAGES: IpaRange = IpaRange {
    start: Ipa(0x0904_0000),
    size: 0x1000,
};

/// SPI of the second emulated PL011 (INTID 40).
pub const MESSAGES_SPI: u32 = 8;

const NOTHING: IpaRange = IpaRange {
    start: Ipa(0),
    size: 0,
};

/// Frequency of the emulated PL011's clock, in Hz; nothing depends on it.
pub const UART_CLOCK_HZ: u32 = 24_000_000;

/// Where memory that guests share is placed: QEMU virt has its PCIe window here, which no guest has.
pub const SHARED: IpaRange = IpaRange {
    start: Ipa(0x1000_0000),
    size: 0x2f00_0000,
};

/// INTID of SPI 0.
pub const SPI_BASE: u32 = 32;

/// PPI numbers (INTID less 16) of the generic timer: secure, non-secure, virtual, hypervisor.
pub const TIMER_PPIS: [u32; 4] = [13, 14, 11, 10];
