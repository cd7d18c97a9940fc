//! What is known of devices by their `compatible`: who does DMA, who has power over the whole board.

use crate::dt::Node;

/// Devices with which Ballast resets the board and turns it off: never a guest's.
const BOARD_POWER: [&str; 4] = [
    "brcm,bcm2835-pm-wdt",
    "brcm,bcm2835-pm",
    "brcm,bcm2711-pm",
    "brcm,bcm2712-pm",
];

/// Devices known to have no DMA of their own. All others are taken to be masters.
const NO_DMA: [&str; 46] = [
    "arm,pl010",
    "arm,pl011",
    "arm,pl031",
    "arm,pl061",
    "arm,sp804",
    "arm,sp805",
    "arm,sbsa-uart",
    "cfi-flash",
    // These ask the DMA controller for transfers, at most, and it has a procedure of its own.
    "brcm,bcm2711-gpio",
    "brcm,bcm2711-i2c",
    "brcm,bcm2711-rng200",
    "brcm,bcm2835-aux",
    "brcm,bcm2835-aux-spi",
    "brcm,bcm2835-aux-uart",
    "brcm,bcm2835-gpiomem",
    "brcm,bcm2835-i2c",
    "brcm,bcm2835-i2s",
    "brcm,bcm2835-pwm",
    "brcm,bcm2835-rng",
    "brcm,bcm2835-sdhost",
    "brcm,bcm2835-spi",
    // Clocks, timers, interrupt controllers, sensors.
    "brcm,bcm2711-avs-monitor",
    "brcm,bcm2711-cprman",
    "brcm,bcm2711-l2-intc",
    "brcm,bcm2835-cprman",
    "brcm,bcm2835-system-timer",
    "brcm,bcm2836-l1-intc",
    "brcm,brcm2711-dvp",
    "brcm,l2-intc",
    // A GENET's bus to its PHY: the GENET does the DMA.
    "brcm,genet-mdio-v5",
    // What is displayed they get from the HVS, through wires, and sound from the DMA controller.
    "brcm,bcm2711-dsi1",
    "brcm,bcm2711-hdmi-i2c",
    "brcm,bcm2711-hdmi0",
    "brcm,bcm2711-hdmi1",
    "brcm,bcm2711-pixelvalve0",
    "brcm,bcm2711-pixelvalve1",
    "brcm,bcm2711-pixelvalve2",
    "brcm,bcm2711-pixelvalve3",
    "brcm,bcm2711-pixelvalve4",
    "brcm,bcm2711-vec",
    "brcm,bcm2835-dpi",
    "brcm,bcm2835-hdmi",
    "brcm,bcm2835-pixelvalve0",
    "brcm,bcm2835-pixelvalve1",
    "brcm,bcm2835-pixelvalve2",
    "brcm,bcm2835-vec",
];

/// Devices that act on what others use, too: the firmware's mailbox, clocks, DMA controllers, the
/// interrupt and timer control of all cores (BCM2711 ARM Peripherals; QEMU's `fw_cfg` does DMA as told).
const POWERS: [&str; 10] = [
    "brcm,bcm2835-mbox",
    "raspberrypi,bcm2835-firmware",
    "brcm,bcm2711-vchiq",
    "brcm,bcm2835-vchiq",
    "brcm,bcm2711-cprman",
    "brcm,bcm2835-cprman",
    "brcm,bcm2711-dma",
    "brcm,bcm2835-dma",
    "brcm,bcm2836-l1-intc",
    "qemu,fw-cfg-mmio",
];

/// Whether a device is not known to have no DMA.
pub(super) fn may_do_dma(node: Node<'_>) -> bool {
    !is_one_of(node, &NO_DMA)
}

/// Whether a device acts on what others use, too.
pub(super) fn has_board_power(node: Node<'_>) -> bool {
    is_one_of(node, &POWERS)
}

/// Whether a device turns the board off and resets it.
pub(crate) fn is_board_power(node: Node<'_>) -> bool {
    is_one_of(node, &BOARD_POWER)
}

fn is_one_of(node: Node<'_>, names: &[&str]) -> bool {
    names.iter().any(|name| node.is_compatible(name))
}
