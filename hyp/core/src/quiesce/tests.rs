use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use super::*;
use crate::dt::DeviceTree;
use crate::testing::{Branch, blob, cells, flag, text};

/// How a model of a device answers a write.
type React = fn(&mut BTreeMap<u32, u32>, u32, u32);

/// A device as a map of registers, whose reaction to a write shows after `delay` reads.
struct Model {
    registers: BTreeMap<u32, u32>,
    react: React,
    pending: Vec<(u32, u32, u32)>,
    delay: u32,
    /// Offsets that answer with an abort.
    absent: Vec<u32>,
    written: Vec<(u32, u32)>,
    window: Range<u32>,
    elapsed_us: u64,
}

impl Model {
    fn new(quiesce: &Quiesce, registers: &[(u32, u32)], react: React) -> Self {
        Self {
            registers: registers.iter().copied().collect(),
            react,
            pending: Vec::new(),
            delay: 3,
            absent: Vec::new(),
            written: Vec::new(),
            window: quiesce.procedure.window.clone(),
            elapsed_us: 0,
        }
    }

    fn check(&self, offset: u32) -> Option<()> {
        assert!(
            self.window.contains(&offset) && offset.is_multiple_of(4),
            "{offset:#x} is outside {:x?}",
            self.window
        );
        (!self.absent.contains(&offset)).then_some(())
    }
}

impl Registers for Model {
    fn read(&mut self, offset: u32) -> Option<u32> {
        self.check(offset)?;
        for (_, _, left) in &mut self.pending {
            *left = left.saturating_sub(1);
        }
        let due: Vec<_> = self.pending.extract_if(.., |one| one.2 == 0).collect();
        for (offset, value, _) in due {
            (self.react)(&mut self.registers, offset, value);
        }
        Some(*self.registers.get(&offset).unwrap_or(&0))
    }

    fn write(&mut self, offset: u32, value: u32) -> Option<()> {
        self.check(offset)?;
        self.written.push((offset, value));
        self.registers.insert(offset, value);
        self.pending.push((offset, value, self.delay));
        Some(())
    }

    fn elapsed_us(&mut self) -> u64 {
        self.elapsed_us += 50;
        self.elapsed_us
    }

    fn message(&mut self, words: &[u32]) -> Option<u32> {
        assert!(words[0] as usize <= 4 * words.len() && words[1] == 0);
        Some(0xc123_4560)
    }
}

fn of(compatible: &str) -> Quiesce {
    let kind = table::KINDS.iter().find(|k| k.compatible == compatible);
    Quiesce {
        procedure: kind.unwrap().procedure,
        instances: 1,
    }
}

fn node(
    name: &'static str,
    compatible: &str,
    reg: [u32; 2],
    more: &[(&'static str, u32)],
) -> Branch {
    let mut properties = alloc::vec![("compatible", text(&[compatible])), ("reg", cells(&reg))];
    properties.extend(more.iter().map(|(name, value)| (*name, cells(&[*value]))));
    Branch(name, properties, alloc::vec![])
}

fn tree(children: Vec<Branch>) -> Vec<u8> {
    let soc = alloc::vec![
        ("#address-cells", cells(&[1])),
        ("#size-cells", cells(&[1])),
        ("ranges", flag()),
    ];
    let root = alloc::vec![
        ("#address-cells", cells(&[1])),
        ("#size-cells", cells(&[1]))
    ];
    blob(
        &Branch("", root, alloc::vec![Branch("soc", soc, children)]),
        &[],
    )
}

#[test]
fn it_waits_for_the_device_but_not_for_ever() {
    let quiesce = of("virtio,mmio");
    for (delay, is_quiet) in [(0, true), (5, true), (50_000, false)] {
        let react: React = |registers, offset, value| {
            assert_eq!((offset, value), (0x70, 0));
            registers.insert(0x70, 0);
        };
        let mut device = Model::new(&quiesce, &[(0x70, 0xf)], react);
        device.delay = delay;
        // Until it has done it the device still shows what it did before.
        let mut device = Slow(device);
        assert_eq!(quiesce.run(&mut device), is_quiet, "{delay}");
        assert!(device.0.elapsed_us <= quiesce.limit_us() + 1_000);
    }
}

/// Shows what was written only when it has reacted.
struct Slow(Model);

impl Registers for Slow {
    fn read(&mut self, offset: u32) -> Option<u32> {
        let value = self.0.read(offset)?;
        let waits = self.0.pending.iter().any(|(at, ..)| *at == offset);
        Some(if waits { 0xf } else { value })
    }
    fn write(&mut self, offset: u32, value: u32) -> Option<()> {
        self.0.write(offset, value)
    }
    fn elapsed_us(&mut self) -> u64 {
        self.0.elapsed_us()
    }
    fn message(&mut self, words: &[u32]) -> Option<u32> {
        self.0.message(words)
    }
}

#[test]
fn only_the_bits_of_the_reset_count() {
    let quiesce = of("brcm,bcm2711-emmc2");
    let mut device = Model::new(&quiesce, &[(0x2c, 7)], |registers, offset, value| {
        registers.insert(offset, value & !(1 << 24) | 0x0e);
    });
    assert!(quiesce.run(&mut device));
    assert_eq!(device.written, [(0x2c, 1 << 24)]);
}

#[test]
fn every_procedure_keeps_to_its_window_and_a_second() {
    let steps = |kind: &table::Kind| match kind.procedure.means {
        Means::Steps(steps) => (0, steps),
        Means::Each { stride, steps } => (stride, steps),
        Means::Firmware => (0, &[][..]),
    };
    for kind in &table::KINDS {
        let (stride, steps) = steps(kind);
        // DMA4 has four channels, the others eleven.
        let last = match kind.compatible {
            "brcm,bcm2835-dma" => 10 * stride,
            "brcm,bcm2711-dma" => 3 * stride,
            _ => 0,
        };
        for step in steps {
            let offsets = match step.action {
                Action::Write(at, _) | Action::Clear(at, _) | Action::Set(at, _) => Some(at),
                Action::Nothing => None,
            };
            let waits = step.until.map(|until| until.offset);
            for offset in offsets.into_iter().chain(waits) {
                let window = &kind.procedure.window;
                assert!(offset >= window.start && offset + last + 4 <= window.end);
                assert!(offset % 4 == 0 && window.start % 4 == 0);
            }
        }
        let instances = if last == 0 { 1 } else { 0x7ff };
        let quiesce = Quiesce {
            procedure: kind.procedure,
            instances,
        };
        assert!(quiesce.limit_us() <= 1_000_000, "{}", kind.compatible);
    }
}

#[test]
fn a_device_that_aborts_is_not_quiet() {
    for kind in &table::KINDS {
        let quiesce = of(kind.compatible);
        if quiesce.is_empty() {
            continue;
        }
        let mut device = Model::new(&quiesce, &[], |_, _, _| {});
        device.absent = quiesce.procedure.window.clone().step_by(4).collect();
        assert!(!quiesce.run(&mut device), "{}", kind.compatible);
    }
}

#[test]
fn a_device_that_never_reacts_ends_in_time() {
    for kind in &table::KINDS {
        let quiesce = of(kind.compatible);
        // All ones: nothing that is waited for to clear does, and firmware's mailboxes are empty and full.
        let mut device = Model::new(&quiesce, &[], |_, _, _| {});
        let ones = quiesce.procedure.window.clone().step_by(4);
        device.registers = ones.map(|offset| (offset, u32::MAX)).collect();
        let _ = quiesce.run(&mut device);
        assert!(
            device.elapsed_us <= quiesce.limit_us() + 50 * 12,
            "{}: {}",
            kind.compatible,
            device.elapsed_us
        );
    }
}

/// CS of a channel: paused when ACTIVE is taken away, reset by bit 31.
fn dma_channel(registers: &mut BTreeMap<u32, u32>, offset: u32, value: u32) {
    assert_eq!(offset % 0x100, 0, "only CS is written");
    let cs = if value & 1 << 31 != 0 {
        0
    } else {
        value & !(1 << 6)
    };
    registers.insert(offset, cs);
}

#[test]
fn the_systems_dma_channels_are_reset_and_no_other() {
    let blob = tree(alloc::vec![node(
        "dma@1000",
        "brcm,bcm2835-dma",
        [0x1000, 0xb00],
        &[("brcm,dma-channel-mask", 0x7f35)],
    )]);
    let tree = DeviceTree::new(&blob).unwrap();
    let quiesce = procedure(tree.find("/soc/dma@1000").unwrap()).unwrap();
    assert_eq!(quiesce.instances, 0x735);
    let running: Vec<_> = (0..11).map(|n| (n * 0x100, 0x41)).collect();
    let mut device = Model::new(&quiesce, &running, dma_channel);
    assert!(quiesce.run(&mut device));
    for channel in 0..11 {
        let cs = device.registers[&(channel * 0x100)];
        let is_firmwares = 0x735 >> channel & 1 == 0;
        assert_eq!(cs, if is_firmwares { 0x41 } else { 0 }, "channel {channel}");
    }
}

#[test]
fn a_dma_channel_that_waits_for_a_silent_device_is_reset_all_the_same() {
    let quiesce = of("brcm,bcm2835-dma");
    let mut device = Model::new(&quiesce, &[(0, 0x41)], |registers, offset, value| {
        let cs = if value & 1 << 31 != 0 {
            0
        } else {
            value | 1 << 6
        };
        registers.insert(offset, cs);
    });
    assert!(quiesce.run(&mut device));
    // One that goes on writing after the reset is not quiet.
    let mut device = Model::new(&quiesce, &[(0, 0x41)], |registers, offset, value| {
        registers.insert(offset, value | 1 << 6);
    });
    assert!(!quiesce.run(&mut device));
}

#[test]
fn dma4_channels_are_numbered_from_eleven() {
    let dma4 = |mask| {
        let blob = tree(alloc::vec![node(
            "dma@1b00",
            "brcm,bcm2711-dma",
            [0x1b00, 0x400],
            &[("brcm,dma-channel-mask", mask)],
        )]);
        let tree = DeviceTree::new(&blob).unwrap();
        procedure(tree.find("/soc/dma@1b00").unwrap()).unwrap()
    };
    let quiesce = dma4(0x7000);
    assert_eq!(quiesce.instances, 0b1110);
    let running: Vec<_> = (0..4).map(|n| (n * 0x100, 1 << 25 | 1)).collect();
    let mut device = Model::new(&quiesce, &running, |registers, offset, value| {
        match offset % 0x100 {
            0 => registers.insert(offset, value & !(1 << 25)),
            0xc => {
                assert_eq!(value, 1 << 23);
                registers.insert(offset - 0xc, 0);
                registers.insert(offset, 0)
            }
            _ => panic!("{offset:#x}"),
        };
    });
    assert!(quiesce.run(&mut device));
    assert_eq!(
        device.registers[&0],
        1 << 25 | 1,
        "channel 11 is firmware's"
    );
    assert!((1..4).all(|n| device.registers[&(n * 0x100)] == 0));
    assert_eq!(dma4(0x7ff).instances, 0);
}

#[test]
fn without_a_mask_the_dma_channels_are_nobodys() {
    let blob = tree(alloc::vec![node(
        "dma@1000",
        "brcm,bcm2835-dma",
        [0x1000, 0xb00],
        &[],
    )]);
    let tree = DeviceTree::new(&blob).unwrap();
    assert_eq!(procedure(tree.find("/soc/dma@1000").unwrap()), None);
}

#[test]
fn usb_is_reset_until_its_bus_is_idle() {
    let quiesce = of("brcm,bcm2835-usb");
    let mut device = Model::new(
        &quiesce,
        &[(0x08, 0x31), (0x10, 0)],
        |registers, offset, value| {
            if offset == 0x10 {
                registers.insert(offset, value & !1 | 1 << 31);
            }
        },
    );
    assert!(quiesce.run(&mut device));
    assert_eq!(device.written, [(0x08, 0), (0x10, 1)]);
    // The bus is never idle.
    let mut device = Model::new(&quiesce, &[], |registers, offset, value| {
        registers.insert(offset, value & !1);
    });
    assert!(!quiesce.run(&mut device));
}

#[test]
fn pcie_endpoints_are_reset_before_the_bridge() {
    let quiesce = of("brcm,bcm2711-pcie");
    let mut device = Model::new(&quiesce, &[(0x9210, 0)], |_, _, _| {});
    assert!(quiesce.run(&mut device));
    assert_eq!(device.written, [(0x9210, 1), (0x9210, 3)]);
    assert!(
        device.elapsed_us >= 1_000,
        "what was sent has time to arrive"
    );
    // A bridge that the guest has put into reset itself stays there.
    let mut device = Model::new(&quiesce, &[(0x9210, 3)], |_, _, _| {});
    assert!(quiesce.run(&mut device));
    assert_eq!(device.registers[&0x9210], 3);
}

#[test]
fn ethernet_stops_receiving_before_its_dma_is_turned_off() {
    let quiesce = of("brcm,bcm2711-genet-v5");
    let running = [(0x808, 0x0100_0003), (0x5044, 0x3_ffff), (0x3044, 0x3_ffff)];
    let react: React = |registers, offset, value| {
        if [0x5044, 0x3044].contains(&offset) {
            registers.insert(offset + 4, !value & 1);
        }
    };
    let mut device = Model::new(&quiesce, &running, react);
    assert!(quiesce.run(&mut device));
    let expected = [
        (0x808, 0x0100_0001),
        (0x5044, 0x3_fffe),
        (0x3044, 0x3_fffe),
        (0x808, 0x0100_0000),
    ];
    assert_eq!(device.written, expected);
    let mut device = Model::new(&quiesce, &running, |registers, offset, _| {
        if offset == 0x5044 {
            registers.insert(0x5048, 1);
        }
    });
    assert!(!quiesce.run(&mut device), "the receiver does not stop");
}

#[test]
fn the_display_is_turned_off() {
    let quiesce = of("brcm,bcm2711-hvs");
    let mut device = Model::new(&quiesce, &[(0, 0x8000_00ff)], |_, _, _| {});
    assert!(quiesce.run(&mut device));
    assert_eq!(device.written, [(0, 0xff)]);

    let quiesce = of("brcm,bcm2835-txp");
    let mut device = Model::new(&quiesce, &[(0x0c, 3)], |registers, offset, value| {
        assert_eq!(offset, 0x0c);
        registers.insert(offset, value & !2);
    });
    assert!(quiesce.run(&mut device));
    assert_eq!(device.written, [(0x0c, 1 << 14), (0x0c, 1 << 21)]);
}

/// Firmware with answers to a guest in its mailbox, and requests of it that are still to be answered.
struct Firmware {
    /// Answers that wait.
    answers: Vec<u32>,
    /// Requests not yet answered, in order.
    requests: Vec<u32>,
    /// Reads until it answers the next.
    delay: u32,
    reads: u32,
    elapsed_us: u64,
}

impl Registers for Firmware {
    fn read(&mut self, offset: u32) -> Option<u32> {
        self.reads += 1;
        // It answers in turn while there is room for answers.
        if self.reads.is_multiple_of(self.delay)
            && self.answers.len() < 4
            && !self.requests.is_empty()
        {
            self.answers.push(self.requests.remove(0));
        }
        Some(match offset {
            0x00 => self.answers.remove(0),
            0x18 => u32::from(self.answers.is_empty()) << 30,
            0x38 => u32::from(self.requests.len() >= 8) << 31,
            _ => panic!("{offset:#x}"),
        })
    }

    fn write(&mut self, offset: u32, value: u32) -> Option<()> {
        assert_eq!(offset, 0x20);
        assert!(self.requests.len() < 8);
        self.requests.push(value);
        Some(())
    }

    fn elapsed_us(&mut self) -> u64 {
        self.elapsed_us += 10;
        self.elapsed_us
    }

    fn message(&mut self, _: &[u32]) -> Option<u32> {
        Some(0xc020_0040)
    }
}

#[test]
fn firmware_has_answered_the_guest_when_it_answers_ballast() {
    for (delay, is_quiet) in [(1, true), (7, true), (1_000_000, false)] {
        let mut firmware = Firmware {
            answers: alloc::vec![0xc100_0008, 0xc100_0018, 0xc100_0028, 0xc100_0038],
            requests: (4..12).map(|n| 0xc100_0008 + n * 0x10).collect(),
            delay,
            reads: 0,
            elapsed_us: 0,
        };
        let quiesce = of("brcm,bcm2835-mbox");
        assert_eq!(quiesce.run(&mut firmware), is_quiet, "{delay}");
        assert!(!is_quiet || firmware.requests.is_empty() && firmware.answers.is_empty());
        assert!(firmware.elapsed_us <= quiesce.limit_us() + 10);
    }
}

#[test]
fn firmware_that_writes_a_touch_buffer_is_not_quiet() {
    let mailbox = || node("mailbox@b880", "brcm,bcm2835-mbox", [0xb880, 0x40], &[]);
    let has = |children| {
        let blob = tree(children);
        let tree = DeviceTree::new(&blob).unwrap();
        procedure(tree.find("/soc/mailbox@b880").unwrap()).is_some()
    };
    assert!(has(alloc::vec![mailbox()]));
    let touch = node("ts@0", "raspberrypi,firmware-ts", [0, 4], &[]);
    assert!(!has(alloc::vec![mailbox(), touch]));
}
