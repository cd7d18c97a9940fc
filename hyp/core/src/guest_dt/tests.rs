use super::*;
use crate::addr::{Ipa, MIB, Pa, PaRange};
use crate::board::{Board, Gic};
use crate::config::Partitions;
use crate::dt::DeviceTree;
use crate::testing::{Guest, VIRT_V3, cells, header, merge_into, text};

fn machine(gic_version: u8) -> GuestMachine<'static> {
    GuestMachine {
        name: "linux-a",
        gic_version,
        cpus: 3,
        cpu_compatible: "arm,cortex-a72",
        machine: &Machine::VIRT,
        ram: &[IpaRange {
            start: Ipa(0x4000_0000),
            size: 512 * MIB,
        }],
        backed_bytes: 256 * MIB,
        extra_ram: &[IpaRange {
            start: Ipa(0),
            size: 0x10_0000,
        }],
        bootargs: "console=ttyAMA0",
        ramdisk: Some(IpaRange {
            start: Ipa(0x4400_0000),
            size: 0x1234,
        }),
        devices: &[],
        board: None,
        channels: &[],
    }
}

fn range(start: u64, size: u64) -> PaRange {
    PaRange {
        start: Pa(start),
        size,
    }
}

/// What is written is a board to the code that reads boards.
#[test]
fn reads_back() {
    let dtb = build(&machine(3), Vec::new());
    let tree = DeviceTree::new(&dtb).unwrap();
    assert_eq!(tree.root().str("model"), Ok(Some("Ballast guest linux-a")));
    assert!(tree.root().is_compatible("linux,dummy-virt"));
    let chosen = tree.find("/chosen").unwrap();
    assert_eq!(chosen.str("bootargs"), Ok(Some("console=ttyAMA0")));
    assert_eq!(chosen.u64("linux,initrd-start"), Ok(Some(0x4400_0000)));
    assert_eq!(chosen.u64("linux,initrd-end"), Ok(Some(0x4400_1234)));
    let memory: Vec<_> = tree
        .root()
        .children()
        .filter(|node| node.base_name() == "memory")
        .map(|node| node.regions().unwrap()[0])
        .collect();
    assert_eq!(memory, [range(0x4000_0000, 512 * MIB), range(0, 0x10_0000)]);
    let cpus: Vec<_> = tree
        .find("/cpus")
        .unwrap()
        .children()
        .map(|cpu| cpu.reg().unwrap()[0].start)
        .collect();
    assert_eq!(cpus, [0, 1, 2]);
    let gic = crate::board::gic_node(&tree).unwrap();
    assert_eq!(
        gic.regions().unwrap(),
        [range(0x800_0000, 0x1_0000), range(0x80a_0000, 3 * 0x2_0000)]
    );
    let console = crate::board::find_console(&tree).unwrap();
    assert_eq!(
        (console.registers.start, console.intid, console.clock_hz),
        (Pa(0x900_0000), Some(33), Some(24_000_000))
    );
    assert_eq!(tree.find("/psci").unwrap().str("method"), Ok(Some("hvc")));
    let timer: Vec<_> = tree
        .find("/timer")
        .unwrap()
        .interrupts(gic)
        .unwrap()
        .iter()
        .map(|one| (one.intid, one.level))
        .collect();
    assert_eq!(timer, [(29, true), (30, true), (27, true), (26, true)]);
}

#[test]
fn gicv2() {
    let dtb = build(&machine(2), Vec::new());
    let tree = DeviceTree::new(&dtb).unwrap();
    let gic = crate::board::gic_node(&tree).unwrap();
    assert_eq!(
        gic.regions().unwrap(),
        [range(0x800_0000, 0x1000), range(0x801_0000, 0x2000)]
    );
    // The flags name the three CPUs and a level.
    let timer = tree.find("/timer").unwrap().property("interrupts").unwrap();
    assert_eq!(timer.cells().unwrap().nth(2), Some(0x704));
}

#[test]
fn what_is_not_backed_belongs_to_the_balloon() {
    let dtb = build(&machine(3), Vec::new());
    let tree = DeviceTree::new(&dtb).unwrap();
    let balloon = tree
        .root()
        .children()
        .find(|node| node.is_compatible("ballast,balloon"))
        .unwrap();
    let gic = crate::board::gic_node(&tree).unwrap();
    let interrupt = balloon.interrupts(gic).unwrap()[0];
    assert_eq!(
        (interrupt.intid, interrupt.level, balloon.str("method")),
        (44, true, Ok(Some("hvc")))
    );
    let region = tree
        .by_phandle(balloon.u32("memory-region").unwrap().unwrap())
        .unwrap();
    assert!(region.is_compatible("ballast,boot-balloon") && region.property("no-map").is_none());
    assert_eq!(region.parent().unwrap().name(), "reserved-memory");
    assert_eq!(region.regions().unwrap(), [range(0x5000_0000, 256 * MIB)]);

    let full = GuestMachine {
        backed_bytes: 512 * MIB,
        ..machine(3)
    };
    let dtb = build(&full, Vec::new());
    let tree = DeviceTree::new(&dtb).unwrap();
    assert_eq!(tree.find("/reserved-memory"), None);
    assert!(
        tree.find("/balloon")
            .unwrap()
            .property("memory-region")
            .is_none()
    );
}

/// A device of the board keeps its place, interrupts, clock rates and what is its own.
#[test]
fn devices_of_the_board() {
    let guest = Guest::new("rtos", 1)
        .with("devices", text(&["/pl061@9030000"]))
        .with("cpus", cells(&[2]));
    let merged = merge_into(VIRT_V3, &header(), &[guest]);
    let tree = DeviceTree::new(&merged).unwrap();
    let board = Board::from_dt(&tree).unwrap();
    assert!(matches!(board.gic, Gic::V3 { .. }));
    let partitions = Partitions::parse(&tree, &board).unwrap();
    let devices = &partitions.guests[0].devices;
    let dtb = build(
        &GuestMachine {
            devices,
            ..machine(3)
        },
        Vec::new(),
    );
    let tree = DeviceTree::new(&dtb).unwrap();
    let gpio = tree.find("/pl061@9030000").unwrap();
    assert_eq!(gpio.regions().unwrap(), [range(0x903_0000, 0x1000)]);
    let gic = crate::board::gic_node(&tree).unwrap();
    assert_eq!(gpio.interrupts(gic).unwrap()[0].intid, 39);
    assert_eq!(gpio.u32("#gpio-cells"), Ok(Some(2)));
    assert!(gpio.is_compatible("arm,primecell") && gpio.property("phandle").is_none());
    let clock = tree
        .by_phandle(gpio.u32("clocks").unwrap().unwrap())
        .unwrap();
    assert_eq!(
        (
            clock.is_compatible("fixed-clock"),
            clock.u32("clock-frequency")
        ),
        (true, Ok(Some(24_000_000)))
    );
    assert_eq!(gpio.str("clock-names"), Ok(Some("apb_pclk")));
}

/// The tree that the primary guest `guest` gets on this board of 1 GiB.
fn primary(board: &[u8], guests: &[Guest]) -> (Vec<u8>, crate::plan::GuestPlan) {
    let dtb = merge_into(board, &header(), guests);
    let kernel = crate::testing::arm64_image(4096, 0, 1 << 20, 0);
    let files = crate::testing::archive(&[("rtos", &kernel)]);
    let image = range(0x4020_0000, 2 * MIB);
    let report = crate::plan::check(&dtb, Some(&files), &[image]);
    assert_eq!(report.refusals, vec![]);
    let mut guests = report.plan.unwrap().guests;
    let guest = guests.remove(0);
    (guest.dtb.clone(), guest)
}

fn primary_guest() -> Guest {
    let guest = Guest::new("primary", 1)
        .with("primary", crate::testing::flag())
        .with("dma", text(&["trusted"]))
        .with("board", text(&["trusted"]));
    guest
        .with("memory-max-mib", cells(&[128]))
        .with("cpus", cells(&[2]))
}

#[test]
fn a_primary_guest_sees_the_board() {
    use crate::testing::VIRT_V2;
    for board in [VIRT_V2, VIRT_V3] {
        let original = DeviceTree::new(board).unwrap();
        let other = Guest::new("other", 2).with("devices", text(&["/pl061@9030000"]));
        let (dtb, guest) = primary(board, &[other, primary_guest()]);
        assert!(dtb.len() <= most_bytes(&original));
        let tree = DeviceTree::new(&dtb).unwrap();
        assert!(tree.root().is_compatible("linux,dummy-virt"));
        assert!(tree.find("/ballast").is_none() && tree.reservations().is_empty());

        // Memory in its place, what is not there yet as a boot balloon.
        let memory = tree.find("/memory").unwrap().regions().unwrap();
        let total: u64 = memory.iter().map(|range| range.size).sum();
        assert_eq!(total, 128 * MIB);
        assert_eq!(memory[0].start, Pa(0x4000_0000));
        assert_eq!(memory[1].start, Pa(0x4040_0000));
        let balloon = tree.find("/balloon").unwrap();
        let region = balloon.u32("memory-region").unwrap().unwrap();
        let region = tree.by_phandle(region).unwrap();
        assert!(region.is_compatible(BOOT_BALLOON_COMPATIBLE));
        assert_eq!(region.regions().unwrap(), [range(0x4420_0000, 64 * MIB)]);

        // The machine.
        assert_eq!(tree.find("/psci").unwrap().str("method"), Ok(Some("hvc")));
        let cpus: Vec<_> = tree.find("/cpus").unwrap().children().collect();
        let cores: Vec<_> = cpus.iter().filter(|cpu| cpu.base_name() == "cpu").collect();
        assert_eq!(cores.len(), 2);
        assert_eq!(cores[1].str("enable-method"), Ok(Some("psci")));
        let gic = crate::board::gic_node(&tree).unwrap();
        assert_eq!(balloon.interrupt_parent(), Ok(gic));
        assert!(gic.property("interrupts").is_none());
        assert_eq!(gic.children().count(), 0);
        let blocks = gic.regions().unwrap();
        let machine = &guest.config.machine;
        let second = if machine.gicc.size != 0 {
            range(0x0801_0000, 0x2000)
        } else {
            range(0x080a_0000, 2 * 0x2_0000)
        };
        assert_eq!(blocks[1], second);
        let chosen = tree.find("/chosen").unwrap();
        let console = chosen.str("stdout-path").unwrap().unwrap();
        assert_eq!(console, "/pl011@9000000");
        assert!(tree.find(console).unwrap().is_compatible("arm,pl011"));

        // Devices, with what they refer to.
        let disk = tree.find("/virtio_mmio@a003e00").unwrap();
        let there = original.find("/virtio_mmio@a003e00").unwrap();
        assert!(disk.is_enabled());
        assert_eq!(disk.regions(), there.regions());
        assert_eq!(
            disk.interrupts(gic).unwrap(),
            there
                .interrupts(crate::board::gic_node(&original).unwrap())
                .unwrap()
        );
        assert!(!tree.find("/pl061@9030000").unwrap().is_enabled());
        assert!(!tree.find("/pcie").unwrap().is_enabled(), "beyond 64 GiB");
        assert!(!tree.find("/pmu").unwrap().is_enabled());
        let rtc = tree.find("/pl031@9010000").unwrap();
        assert!(rtc.is_enabled());
        let clock = rtc.u32("clocks").unwrap().unwrap();
        assert!(tree.by_phandle(clock).unwrap().is_compatible("fixed-clock"));

        let pages = crate::config::device_pages(&guest.config);
        assert!(pages.contains(&range(0x0a00_0000, 0x4000)));
        let uart = range(0x0900_0000, 0x1000);
        assert!(!pages.iter().any(|page| page.overlaps(uart)));
        assert!(pages.is_sorted_by(|a, b| a.end() <= b.start));
        assert!(
            guest
                .config
                .devices
                .iter()
                .all(|device| device.path != "/pl061@9030000")
        );
    }
}

/// A watchdog where the map has nothing, in the guest's own tree and in the board's.
#[test]
fn a_watchdog_is_there_when_it_is_asked_for() {
    let guest = GuestMachine {
        machine: &crate::machine::Machine {
            watchdog: Some((Kind::Generic, crate::machine::WATCHDOG)),
            ..crate::machine::Machine::VIRT
        },
        ..machine(3)
    };
    let (of_board, _) = primary(
        VIRT_V3,
        &[primary_guest().with("watchdog", crate::testing::flag())],
    );
    for dtb in [build(&guest, Vec::new()), of_board] {
        let tree = DeviceTree::new(&dtb).unwrap();
        let node = tree.find("/watchdog@b000000").unwrap();
        assert!(node.is_compatible("arm,sbsa-gwdt"));
        let frames = [range(0x0b00_0000, 0x1000), range(0x0b00_1000, 0x1000)];
        assert_eq!(node.regions().unwrap(), frames);
    }
    let dtb = build(&machine(3), Vec::new());
    let tree = DeviceTree::new(&dtb).unwrap();
    assert!(tree.find("/watchdog@b000000").is_none());
}

/// What another guest has is out of the primary guest's reach.
#[test]
fn the_boards_gaps_stay_gaps() {
    let (_, guest) = primary(VIRT_V3, &[primary_guest()]);
    let pages = crate::config::device_pages(&guest.config);
    let hole = range(0x0c00_0000, 0x3400_0000);
    assert!(!pages.iter().any(|page| page.overlaps(hole)), "{pages:?}");
}
