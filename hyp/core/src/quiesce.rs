//! Making an assigned device stop reading and writing memory by itself.
//!
//! A guest whose devices do DMA is started again only when each has gone through the procedure named here:
//! else one of them might write over what the next life of the guest has in its place. A device without one
//! keeps the guest stopped and its memory its own.

use crate::dt::Node;

/// How a device is made to stop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Procedure {
    /// Its name.
    pub name: &'static str,
    /// What to do, in this order; nothing if the device does DMA only while the guest accesses it.
    pub steps: &'static [Step],
}

/// One write, and what it ends in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Step {
    /// Offset of a 32-bit register from the start of the device's first range.
    pub offset: u32,
    /// What is written.
    pub value: u32,
    /// These bits read zero when the device is done.
    pub until_clear: u32,
}

/// Bytes of registers that any procedure reaches.
pub const REACH: u64 = 0x100;

/// Writing zero to Status resets the device, which reads as zero once it is done (virtio 1.2, 4.2.2 and 2.4.2).
const VIRTIO_MMIO: Procedure = Procedure {
    name: "virtio status reset",
    steps: &[Step {
        offset: 0x70,
        value: 0,
        until_clear: u32::MAX,
    }],
};

/// Software Reset For All (SD Host Controller Simplified Specification 4.2, 2.2.15; as a 32-bit register with
/// the clock control in its lower half: BCM2711 ARM Peripherals).
const SDHCI: Procedure = Procedure {
    name: "SD host controller reset",
    steps: &[Step {
        offset: 0x2c,
        value: 1 << 24,
        until_clear: 1 << 24,
    }],
};

/// A transfer is begun and ended by one write of the guest (QEMU `docs/specs/fw_cfg.rst`).
const SYNCHRONOUS: Procedure = Procedure {
    name: "nothing is under way between accesses",
    steps: &[],
};

const TABLE: [(&str, &Procedure); 6] = [
    ("virtio,mmio", &VIRTIO_MMIO),
    ("brcm,bcm2711-emmc2", &SDHCI),
    ("brcm,bcm2835-sdhci", &SDHCI),
    ("brcm,bcm2835-mmc", &SDHCI),
    ("brcm,sdhci-iproc", &SDHCI),
    ("qemu,fw-cfg-mmio", &SYNCHRONOUS),
];

/// The procedure for a device, if one is known.
#[must_use]
pub fn procedure(node: Node<'_>) -> Option<&'static Procedure> {
    let known = TABLE.iter().find(|(name, _)| node.is_compatible(name));
    known.map(|(_, procedure)| *procedure)
}

/// The registers of a device.
pub trait Registers {
    /// Reads the 32-bit register at `offset`.
    fn read(&mut self, offset: u32) -> u32;
    /// Writes it.
    fn write(&mut self, offset: u32, value: u32);
    /// Whether there is still time to wait for the device. Called between two reads.
    fn may_wait(&mut self) -> bool;
}

impl Procedure {
    /// Carries it out. Whether the device is quiet now.
    pub fn run(&self, registers: &mut impl Registers) -> bool {
        self.steps.iter().all(|step| {
            registers.write(step.offset, step.value);
            loop {
                if registers.read(step.offset) & step.until_clear == 0 {
                    return true;
                }
                if !registers.may_wait() {
                    return false;
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One register that takes `delay` reads to finish a reset.
    struct Fake {
        offset: u32,
        value: u32,
        delay: u32,
        patience: u32,
    }

    impl Registers for Fake {
        fn read(&mut self, offset: u32) -> u32 {
            assert_eq!(offset, self.offset);
            match self.delay.checked_sub(1) {
                Some(left) => self.delay = left,
                None => self.value = 0,
            }
            self.value
        }

        fn write(&mut self, offset: u32, value: u32) {
            assert_eq!(offset, self.offset);
            self.value = value | 0x0f;
        }

        fn may_wait(&mut self) -> bool {
            self.patience = self.patience.saturating_sub(1);
            self.patience != 0
        }
    }

    #[test]
    fn it_waits_for_the_device_but_not_for_ever() {
        for (delay, quiet) in [(0, true), (5, true), (50, false)] {
            let mut device = Fake {
                offset: 0x70,
                value: 0x0f,
                delay,
                patience: 10,
            };
            assert_eq!(VIRTIO_MMIO.run(&mut device), quiet, "{delay}");
        }
    }

    #[test]
    fn only_the_bits_of_the_reset_count() {
        let mut device = Fake {
            offset: 0x2c,
            value: 0,
            delay: 3,
            patience: 10,
        };
        assert!(SDHCI.run(&mut device));
    }

    #[test]
    fn every_register_is_mapped() {
        let steps = TABLE.iter().flat_map(|(_, procedure)| procedure.steps);
        assert!(
            steps
                .into_iter()
                .all(|step| u64::from(step.offset) + 4 <= REACH && step.offset % 4 == 0)
        );
    }
}
