//! The procedures that are known, by `compatible`.

use super::{Action, Late, Means, Procedure, Step, Until, firmware};
use crate::dt::Node;

/// Devices of a kind.
pub struct Kind {
    /// What the board's tree calls them.
    pub compatible: &'static str,
    /// How they are made to stop.
    pub procedure: &'static Procedure,
    /// If they are several in one.
    pub channels: Option<Channels>,
}

/// Channels of a controller, of which firmware keeps some: `brcm,dma-channel-mask` has a bit for each that
/// is the system's.
#[derive(Clone, Copy)]
pub struct Channels {
    /// The first channel's bit.
    first: u32,
    /// Bytes of a channel's registers.
    stride: u64,
}

impl Channels {
    /// The channels of `node`, from bit 0 on; firmware may name some that another node has. `None` if the tree
    /// does not say which are the system's.
    pub fn of(self, node: Node<'_>) -> Option<u32> {
        let mask = node.u32("brcm,dma-channel-mask").ok()??;
        let mask = mask.checked_shr(self.first)?;
        let regions = node.regions().ok()?;
        let count = regions.first()?.size.checked_div(self.stride)?;
        let beyond = u32::try_from(count).ok().and_then(|n| 1_u32.checked_shl(n));
        Some(mask & beyond.map_or(u32::MAX, |bit| bit.wrapping_sub(1)))
    }
}

const fn kind(compatible: &'static str, procedure: &'static Procedure) -> Kind {
    Kind {
        compatible,
        procedure,
        channels: None,
    }
}

/// Every kind.
pub const KINDS: [Kind; 16] = [
    kind("virtio,mmio", &VIRTIO_MMIO),
    kind("brcm,bcm2711-emmc2", &SDHCI),
    kind("brcm,bcm2835-sdhci", &SDHCI),
    kind("brcm,bcm2835-mmc", &SDHCI),
    kind("brcm,sdhci-iproc", &SDHCI),
    kind("qemu,fw-cfg-mmio", &SYNCHRONOUS),
    Kind {
        compatible: "brcm,bcm2835-dma",
        procedure: &DMA,
        channels: Some(Channels {
            first: 0,
            stride: DMA_STRIDE as u64,
        }),
    },
    Kind {
        compatible: "brcm,bcm2711-dma",
        procedure: &DMA4,
        channels: Some(Channels {
            first: 11,
            stride: DMA_STRIDE as u64,
        }),
    },
    kind("brcm,bcm2835-usb", &DWC2),
    kind("brcm,bcm2708-usb", &DWC2),
    kind("brcm,bcm2711-pcie", &PCIE),
    kind("brcm,bcm2711-genet-v5", &GENET),
    kind("brcm,bcm2711-hvs", &HVS),
    kind("brcm,bcm2835-hvs", &HVS),
    kind("brcm,bcm2835-txp", &TXP),
    kind("brcm,bcm2835-mbox", &MAILBOX),
];

const fn step(action: Action) -> Step {
    Step {
        action,
        until: None,
    }
}

/// `action`, then wait for the bits `mask` of the register at `offset` to be `value`.
const fn wait(action: Action, offset: u32, mask: u32, value: u32, limit_us: u32) -> Step {
    Step {
        action,
        until: Some(Until {
            offset,
            mask,
            value,
            limit_us,
            late: Late::Fails,
        }),
    }
}

/// As long as Linux waits for an SD host controller.
const RESET_US: u32 = 100_000;

/// Writing zero to Status resets the device, which reads as zero once it is done (virtio 1.2, 4.2.2 and 2.4.2).
const VIRTIO_MMIO: Procedure = Procedure {
    name: "virtio status reset",
    window: 0x70..0x74,
    means: Means::Steps(&[wait(Action::Write(0x70, 0), 0x70, u32::MAX, 0, RESET_US)]),
};

/// Software Reset For All (SD Host Controller Simplified Specification 4.2, 2.2.15; as a 32-bit register with
/// the clock control in its lower half: BCM2711 ARM Peripherals).
const SDHCI: Procedure = Procedure {
    name: "SD host controller reset",
    window: 0x2c..0x30,
    means: Means::Steps(&[wait(
        Action::Write(0x2c, 1 << 24),
        0x2c,
        1 << 24,
        0,
        RESET_US,
    )]),
};

/// A transfer is begun and ended by one write of the guest (QEMU `docs/specs/fw_cfg.rst`).
const SYNCHRONOUS: Procedure = Procedure {
    name: "nothing is under way between accesses",
    window: 0..4,
    means: Means::Steps(&[]),
};

const DMA_STRIDE: u32 = 0x100;
/// Of one wait for a DMA channel: Linux has seen 20.
const DMA_US: u32 = 1_000;

/// The DMA controllers' channels 0 to 10 (BCM2711 ARM Peripherals, 4.2.1.2): CS without ACTIVE pauses the
/// channel; RESET (31, which clears itself) then ends it. What it had written comes to its end before (`WAITING_FOR_OUTSTANDING_WRITES`,
/// 6); a channel that waits for a device that is silent has nothing outstanding and may not say so, so
/// the reset does not wait for that. What counts is that afterwards it neither runs (0) nor writes.
const DMA: Procedure = Procedure {
    name: "reset of the system's DMA channels",
    window: 0..0x1000 - DMA_STRIDE,
    means: Means::Each {
        stride: DMA_STRIDE,
        steps: &[
            Step {
                action: Action::Write(0x00, 0),
                until: Some(Until {
                    offset: 0x00,
                    mask: 1 << 6 | 1,
                    value: 0,
                    limit_us: DMA_US,
                    late: Late::GoesOn,
                }),
            },
            wait(
                Action::Write(0x00, 1 << 31),
                0x00,
                1 << 31 | 1 << 6 | 1,
                0,
                DMA_US,
            ),
        ],
    },
};

/// The channels 11 to 14, with 40-bit addresses (BCM2711 ARM Peripherals, 4.2.1.3): paused, then CS as after a
/// reset and the reset itself in DEBUG (23). `OUTSTANDING_TRANSACTIONS` is bit 25 of CS.
const DMA4: Procedure = Procedure {
    name: "reset of the system's DMA4 channels",
    window: 0..4 * DMA_STRIDE,
    means: Means::Each {
        stride: DMA_STRIDE,
        steps: &[
            Step {
                action: Action::Clear(0x00, 1),
                until: Some(Until {
                    offset: 0x00,
                    mask: 1 << 25,
                    value: 0,
                    limit_us: DMA_US,
                    late: Late::GoesOn,
                }),
            },
            step(Action::Write(0x00, 0)),
            wait(Action::Set(0x0c, 1 << 23), 0x00, 1 << 25 | 1, 0, DMA_US),
        ],
    },
};

/// The Synopsys DWC2 USB controller: GAHBCFG without DMA and interrupts, then the core's soft reset in GRSTCTL
/// (0), which ends every transaction on the AHB after its last data phase; AHBIDLE (31) says that there is none.
/// Cores from 4.20a on report the end otherwise; the BCM2711 has 2.80a.
const DWC2: Procedure = Procedure {
    name: "DWC2 core reset",
    window: 0x08..0x14,
    means: Means::Steps(&[
        step(Action::Write(0x08, 0)),
        wait(Action::Set(0x10, 1), 0x10, 1, 0, 10_000),
        wait(Action::Nothing, 0x10, 1 << 31, 1 << 31, 10_000),
    ]),
};

/// The PCIe root complex with what is behind it, such as the xHCI of a Raspberry Pi 4: `RGR1_SW_INIT_1` asserts
/// PERST (0), so that no endpoint masters the bus; a millisecond later, when what they had sent has long
/// arrived, the bridge itself is held in reset (1). The block's other registers abort while it is: so they
/// are not touched, lest the guest itself has put it there. Its driver takes it out again.
const PCIE: Procedure = Procedure {
    name: "PCIe fundamental reset",
    window: 0x9210..0x9214,
    means: Means::Steps(&[
        wait(Action::Set(0x9210, 1), 0x9210, 1, 1, 1_000),
        Step {
            action: Action::Nothing,
            until: Some(Until {
                offset: 0x9210,
                mask: 0,
                value: 0,
                limit_us: 1_000,
                late: Late::GoesOn,
            }),
        },
        wait(Action::Set(0x9210, 2), 0x9210, 3, 3, 1_000),
    ]),
};

/// GENET v5: the MAC takes nothing more from the wire (UMAC_CMD's receive enable, 1), the transmit and then the
/// receive DMA's control loses its enable (0) until its status says disabled (0), the MAC's transmitter is
/// turned off (0). The DMAs' blocks are 256 descriptors of 12 bytes and 17 rings of 64 behind 0x4000 and 0x2000.
const GENET: Procedure = Procedure {
    name: "GENET DMA disable",
    window: 0x808..0x504c,
    means: Means::Steps(&[
        step(Action::Clear(0x808, 1 << 1)),
        wait(Action::Clear(0x5044, 1), 0x5048, 1, 1, 10_000),
        wait(Action::Clear(0x3044, 1), 0x3048, 1, 1, 10_000),
        step(Action::Clear(0x808, 1)),
    ]),
};

/// The hardware video scaler, which reads what is displayed: SCALER_DISPCTRL's enable (31). A line that is
/// being read is over long before the millisecond is.
const HVS: Procedure = Procedure {
    name: "HVS disable",
    window: 0..4,
    means: Means::Steps(&[
        wait(Action::Clear(0, 1 << 31), 0, 1 << 31, 0, 1_000),
        Step {
            action: Action::Nothing,
            until: Some(Until {
                offset: 0,
                mask: 0,
                value: 0,
                limit_us: 1_000,
                late: Late::GoesOn,
            }),
        },
    ]),
};

/// The transposer, which writes a displayed picture to memory: TXP_DST_CTRL's abort (14) until it is not busy (1),
/// then power down (21).
const TXP: Procedure = Procedure {
    name: "TXP abort",
    window: 0x0c..0x10,
    means: Means::Steps(&[
        wait(Action::Write(0x0c, 1 << 14), 0x0c, 1 << 1, 0, RESET_US),
        step(Action::Write(0x0c, 1 << 21)),
    ]),
};

/// See [`firmware`].
const MAILBOX: Procedure = Procedure {
    name: "firmware answers Ballast in turn",
    window: 0..firmware::END,
    means: Means::Firmware,
};
