//! The Raspberry Pi 4 with 1, 2, 4 and 8 GB, as its firmware describes it: consoles, power, RAM.
//!
//! The tree is written here, from `broadcom/bcm2711-rpi-4-b.dtb` of Debian's Linux 6.12 less every device that
//! these tests do not look at, with what firmware adds to it. The whole tree goes through the same code in
//! `cargo xtask test` on QEMU's raspi4b.

use super::*;
use crate::addr::GIB;
use crate::plan::check;
use crate::testing::{Guest, archive, arm64_image, header, merge_into};

/// What the VideoCore keeps below 1 GiB on stock firmware.
const VIDEOCORE: u64 = 76 * MIB;

fn node(name: &'static str, compatible: &[&str], reg: &[u32]) -> Branch {
    let properties = vec![("compatible", text(compatible)), ("reg", cells(reg))];
    Branch(name, properties, vec![])
}

fn with(mut branch: Branch, name: &'static str, value: crate::testing::Value) -> Branch {
    branch.1.push((name, value));
    branch
}

fn soc(serial: Vec<Branch>) -> Branch {
    let group = |name, phandle, pins: &[u32], function: u32| {
        let properties = vec![
            ("brcm,pins", cells(pins)),
            ("brcm,function", cells(&[function])),
            ("phandle", cells(&[phandle])),
        ];
        Branch(name, properties, vec![])
    };
    let mut gpio = node(
        "gpio@7e200000",
        &["brcm,bcm2711-gpio"],
        &[0x7e20_0000, 0xb4],
    );
    gpio.2 = vec![
        group("uart0-ctsrts-gpio30", 8, &[30, 31], 7),
        group("uart0-gpio32", 9, &[32, 33], 7),
        group("uart1-gpio14", 13, &[14, 15], 2),
        group("uart0-gpio14", 0x46, &[14, 15], 4),
    ];
    let gic_reg = [
        0x4004_1000,
        0x1000,
        0x4004_2000,
        0x2000,
        0x4004_4000,
        0x2000,
        0x4004_6000,
        0x2000,
    ];
    let gic = node("interrupt-controller@40041000", &["arm,gic-400"], &gic_reg);
    let gic = with(gic, "interrupt-controller", flag());
    let gic = with(gic, "interrupts", cells(&[1, 9, 0xf04]));
    let gic = with(gic, "phandle", cells(&[1]));
    let pm_reg = [0x7e10_0000, 0x114, 0x7e00_a000, 0x24, 0x7ec1_1000, 0x20];
    let pm = ["brcm,bcm2711-pm", "brcm,bcm2835-pm-wdt"];
    let ranges = [
        0x7e00_0000,
        0,
        0xfe00_0000,
        0x180_0000,
        0x7c00_0000,
        0,
        0xfc00_0000,
        0x200_0000,
        0x4000_0000,
        0,
        0xff80_0000,
        0x80_0000,
    ];
    let mut children = vec![
        gpio,
        node("aux@7e215000", &["brcm,bcm2835-aux"], &[0x7e21_5000, 8]),
        node("watchdog@7e100000", &pm, &pm_reg),
        gic,
    ];
    children.extend(serial);
    Branch(
        "soc",
        vec![
            ("compatible", text(&["simple-bus"])),
            ("#address-cells", cells(&[1])),
            ("#size-cells", cells(&[1])),
            ("ranges", cells(&ranges)),
        ],
        children,
    )
}

fn pl011(pinctrl: &[u32]) -> Branch {
    let uart = node(
        "serial@7e201000",
        &["arm,pl011", "arm,primecell"],
        &[0x7e20_1000, 0x200],
    );
    let uart = with(uart, "interrupts", cells(&[0, 121, 4]));
    with(uart, "pinctrl-0", cells(pinctrl))
}

fn mini() -> Branch {
    let uart = node(
        "serial@7e215040",
        &["brcm,bcm2835-aux-uart"],
        &[0x7e21_5040, 0x40],
    );
    let uart = with(uart, "interrupts", cells(&[0, 93, 4]));
    with(uart, "pinctrl-0", cells(&[13]))
}

/// The ranges that firmware leaves of `ram` bytes.
fn left_of(ram: u64) -> Vec<PaRange> {
    let mut ranges = vec![range(0, ram.min(GIB) - VIDEOCORE)];
    if ram > GIB {
        ranges.push(range(GIB, ram.min(0xfc00_0000) - GIB));
    }
    if ram > 4 * GIB {
        ranges.push(range(4 * GIB, ram - 4 * GIB));
    }
    ranges
}

/// Size is one cell, so what is beyond 4 GiB comes in halves.
fn reg(ranges: &[PaRange]) -> Vec<u32> {
    let halves = ranges.iter().flat_map(|range| {
        let first = range.size.min(2 * GIB);
        [
            (range.start.0, first),
            (range.start.0 + first, range.size - first),
        ]
    });
    let cells = halves
        .filter(|(_, size)| *size != 0)
        .flat_map(|(start, size)| [(start >> 32) as u32, start as u32, size as u32]);
    cells.collect()
}

fn board_tree(memory: Vec<Branch>, stdout: &str, serial0: &str, serial: Vec<Branch>) -> Vec<u8> {
    let mut root = pi((0..4)
        .map(|number| {
            pi_core(
                ["cpu@0", "cpu@1", "cpu@2", "cpu@3"][number as usize],
                number,
            )
        })
        .collect());
    root.2.retain(|child| {
        !child.0.starts_with("memory") && !matches!(child.0, "soc" | "aliases" | "chosen")
    });
    let serial1 = if serial0.ends_with("01000") {
        "/soc/serial@7e215040"
    } else {
        "/soc/serial@7e201000"
    };
    root.2.push(Branch(
        "aliases",
        vec![("serial0", text(&[serial0])), ("serial1", text(&[serial1]))],
        vec![],
    ));
    root.2.push(Branch(
        "chosen",
        vec![
            ("stdout-path", text(&[stdout])),
            ("linux,initrd-start", cells(&[0x2e00_0000])),
            ("linux,initrd-end", cells(&[0x2eff_0000])),
        ],
        vec![],
    ));
    root.2.extend(memory);
    root.2.push(soc(serial));
    // Stock firmware reserves the page of its spin table; the tree of a primary's blob must not lie there.
    blob(&root, &[(0, 0x1000)])
}

fn memory_node(name: &'static str, ranges: &[PaRange]) -> Branch {
    Branch(
        name,
        vec![
            ("device_type", text(&["memory"])),
            ("reg", cells(&reg(ranges))),
        ],
        vec![],
    )
}

/// As Debian's tree has it: serial0 is the PL011, which goes to the Bluetooth chip; the console is the mini-UART.
fn of_size(ram: u64) -> Vec<u8> {
    let memory = memory_node("memory@0", &left_of(ram));
    let uarts = vec![pl011(&[8, 9]), mini()];
    board_tree(
        vec![memory],
        "serial1:115200n8",
        "/soc/serial@7e201000",
        uarts,
    )
}

#[test]
fn every_size_is_read_and_partitioned() {
    let linux = arm64_image(8 << 20, 0, 9 << 20, 0b1010);
    let files = archive(&[("linux", &linux), ("rtos", &linux)]);
    for (gib, biggest) in [(1, 512), (2, 1536), (4, 3400), (8, 7400)] {
        let tree = of_size(gib * GIB);
        let found = board(&tree);
        assert_eq!(found.ram, left_of(gib * GIB), "{gib} GiB");
        assert!(found.reserved.contains(&range(0, 0x1000)));
        let devices = range(0xfc00_0000, 0x400_0000);
        assert!(found.ram.iter().all(|ram| !ram.overlaps(devices)));

        let guests = [
            Guest::new("linux", 1)
                .with("kernel", text(&["linux"]))
                .with("memory-mib", cells(&[biggest])),
            Guest::new("rtos", 2).with("memory-mib", cells(&[128])),
        ];
        let merged = merge_into(&tree, &header(), &guests);
        let held = [range(0x20_0000, 2 * MIB), range(0x2eff_0000, 0x2_0000)];
        let report = check(&merged, Some(&files), &held);
        assert_eq!(report.refusals, vec![], "{gib} GiB");
        let plan = report.plan.unwrap();
        // Nothing that firmware, Ballast or the loader holds is anybody's.
        let taken = found.reserved.iter().chain(&held).copied();
        for taken in taken.chain([range(0x2e00_0000, 0xff_0000)]) {
            assert!(
                plan.free.iter().all(|free| !free.overlaps(taken)),
                "{taken:?}"
            );
        }
        let free: u64 = plan.free.iter().map(|free| free.size).sum();
        assert!(free > gib * GIB - VIDEOCORE - 64 * MIB - (gib / 4) * 64 * MIB);

        // One MiB more than there is does not fit.
        let greedy = Guest::new("linux", 1)
            .with("kernel", text(&["linux"]))
            .with("memory-mib", cells(&[u32::try_from(free / MIB).unwrap()]));
        let merged = merge_into(&tree, &header(), &[greedy, guests[1].clone()]);
        assert!(!check(&merged, Some(&files), &held).refusals.is_empty());
    }
}

#[test]
fn memory_in_several_nodes_is_the_same() {
    let ranges = left_of(8 * GIB);
    let nodes = ["memory@0", "memory@40000000", "ram@100000000"];
    let nodes = nodes.iter().zip(&ranges);
    let nodes = nodes
        .map(|(name, range)| memory_node(name, &[*range]))
        .rev();
    let uarts = vec![pl011(&[8, 9]), mini()];
    let tree = board_tree(nodes.collect(), "serial1", "/soc/serial@7e201000", uarts);
    assert_eq!(board(&tree).ram, ranges);
}

fn console(tree: &[u8]) -> Console {
    find_console(&DeviceTree::new(tree).unwrap()).unwrap()
}

fn pin(number: u8, function: u8, pull: u8) -> Pin {
    Pin {
        number,
        function,
        pull,
    }
}

#[test]
fn the_console_is_the_mini_uart_at_the_header() {
    let console = console(&of_size(GIB));
    let aux = range(0xfe21_5000, 8);
    assert_eq!(console.uart, Uart::Mini { aux });
    assert_eq!(console.registers, range(0xfe21_5040, 0x40));
    assert_eq!((console.intid, console.baud), (Some(125), 115_200));
    let pins = console.pins.clone().unwrap();
    assert_eq!(pins.gpio, range(0xfe20_0000, 0xb4));
    assert_eq!(pins.pins, [pin(14, 2, 0), pin(15, 2, 1)]);
    // 500 MHz / (8 * 542) = 115,313 bits a second: within 0.1 %.
    assert_eq!(console.mini_divisor(), 542);
}

#[test]
fn a_pl011_chosen_as_console_leaves_the_bluetooth_chip() {
    let tree = |stdout, serial0, pinctrl: &[u32]| {
        let memory = memory_node("memory@0", &left_of(GIB));
        board_tree(vec![memory], stdout, serial0, vec![pl011(pinctrl), mini()])
    };
    // Wired to the chip in the tree, and as firmware's `disable-bt` overlay rewires it.
    for (pinctrl, pull) in [(&[8, 9][..], 1), (&[0x46][..], 1)] {
        let console = console(&tree("serial0:1500000n8", "/soc/serial@7e201000", pinctrl));
        assert_eq!(console.uart, Uart::Pl011);
        assert_eq!((console.intid, console.baud), (Some(153), 1_500_000));
        assert_eq!(
            console.pins.clone().unwrap().pins,
            [pin(14, 4, 0), pin(15, 4, pull)]
        );
        // 48 MHz / (16 * 2).
        assert_eq!(console.pl011_divisor(), (2, 0));
    }
    // Firmware's own choice of the alias decides, not the name.
    let renamed = tree("serial0", "/soc/serial@7e215040", &[8, 9]);
    assert!(matches!(console(&renamed).uart, Uart::Mini { .. }));
    // Raspberry Pi OS's tree has no stdout-path that leads anywhere: firmware's choice again.
    let without = tree("", "/soc/serial@7e215040", &[8, 9]);
    assert!(matches!(console(&without).uart, Uart::Mini { .. }));
    // Nothing that Ballast drives at either: the first PL011 there is.
    let elsewhere = console(&tree("/soc/gpio@7e200000", "/soc/gpio@7e200000", &[8, 9]));
    assert_eq!((elsewhere.uart, elsewhere.baud), (Uart::Pl011, 115_200));
    assert_eq!(elsewhere.pl011_divisor(), (26, 3));
}

#[test]
fn a_tree_that_cannot_be_read_still_names_its_console() {
    let mut tree = of_size(GIB);
    assert_eq!(last_resort_console(&tree), None);
    tree.extend(b"raspberrypi,4-model-b\0brcm,bcm2711\0");
    tree[23] = 1;
    assert!(DeviceTree::new(&tree).is_err());
    let console = last_resort_console(&tree).unwrap();
    assert_eq!(console.registers, range(0xfe21_5040, 0x40));
    assert!(last_resort_console(VIRT_V3).is_some());
    assert_eq!(last_resort_console(b""), None);
}

#[test]
fn the_board_is_turned_off_by_its_pm_block_or_by_psci() {
    let pm = range(0xfe10_0000, 0x114);
    assert_eq!(board(&of_size(GIB)).power, Some(Power::Pm(pm)));
    assert_eq!(board(VIRT_V2).power, Some(Power::Psci));
}

#[test]
fn a_spin_table_is_kept_whoever_forgets_to_reserve_it() {
    let root = pi((0..2)
        .map(|number| pi_core(["cpu@0", "cpu@1"][number as usize], number))
        .collect());
    assert!(
        board(&blob(&root, &[]))
            .reserved
            .contains(&range(0, 0x1000))
    );
    let mut odd = pi_core("cpu@0", 0);
    odd.1[2].1 = cells(&[0, 0xd9]);
    assert_eq!(
        refused(&pi(vec![odd])),
        "/cpus/cpu@0: cpu-release-addr = <0 217>: is no physical address of eight aligned bytes"
    );
}

/// The tree of a primary guest on a board of 2 GiB with the console on the mini-UART.
fn primary_tree(more: impl Fn(Guest) -> Guest) -> (Vec<u8>, crate::config::GuestConfig) {
    let linux = arm64_image(8 << 20, 0, 9 << 20, 0b1010);
    let files = archive(&[("linux", &linux)]);
    let guest = Guest::new("linux", 1)
        .with("kernel", text(&["linux"]))
        .with("primary", flag())
        .with("dma", text(&["trusted"]))
        .with("board", text(&["trusted"]))
        .with("memory-mib", cells(&[512]));
    let merged = merge_into(&of_size(2 * GIB), &header(), &[more(guest)]);
    let held = [range(0x20_0000, 2 * MIB), range(0x2eff_0000, 0x2_0000)];
    let report = check(&merged, Some(&files), &held);
    assert_eq!(report.refusals, vec![]);
    let guest = report.plan.unwrap().guests.remove(0);
    (guest.dtb, guest.config)
}

/// The board's own watchdog stays Ballast's; in its place the guest has one that is emulated, without the power
/// domains of the block.
#[test]
fn a_primary_guest_has_a_watchdog_in_the_boards_place() {
    let (dtb, config) = primary_tree(|guest| guest.with("watchdog", flag()));
    let tree = DeviceTree::new(&dtb).unwrap();
    let node = tree.find("/soc/watchdog@7e100000").unwrap();
    assert!(node.is_enabled() && node.is_compatible("brcm,bcm2835-pm-wdt"));
    assert!(!node.is_compatible("brcm,bcm2711-pm"));
    assert_eq!(node.regions().unwrap(), [range(0xfe10_0000, 0x114)]);
    let (kind, place) = config.machine.watchdog.unwrap();
    assert_eq!(
        (kind, place.start.0),
        (crate::watchdog::Kind::Pm, 0xfe10_0000)
    );
    let pages = crate::config::device_pages(&config);
    assert!(
        !pages
            .iter()
            .any(|page| page.overlaps(range(0xfe10_0000, 0x1000)))
    );

    let (dtb, _) = primary_tree(|guest| guest);
    let tree = DeviceTree::new(&dtb).unwrap();
    assert!(!tree.find("/soc/watchdog@7e100000").unwrap().is_enabled());
}

/// Stock command lines name the mini-UART; the emulated PL011 has its number.
#[test]
fn a_primary_guests_console_is_what_its_command_line_says() {
    let line = text(&["console=ttyS0,115200 console=tty1 rootwait"]);
    let (dtb, _) = primary_tree(|guest| guest.with("bootargs", line.clone()));
    let tree = DeviceTree::new(&dtb).unwrap();
    let chosen = tree.find("/chosen").unwrap();
    let expected = "console=ttyAMA1,115200 console=tty1 rootwait";
    assert_eq!(chosen.str("bootargs"), Ok(Some(expected)));
    let aliases = tree.find("/aliases").unwrap();
    assert_eq!(aliases.str("serial1"), chosen.str("stdout-path"));
}

/// What nobody could turn on, and what the configuration says the guest does without.
#[test]
fn a_primary_guest_does_without_some_devices() {
    let path = "/soc/aux@7e215000";
    let has = |config: &crate::config::GuestConfig, path: &str| {
        config.devices.iter().any(|device| device.path == path)
    };
    let (_, config) = primary_tree(|guest| guest);
    assert!(has(&config, path));
    let (dtb, config) = primary_tree(|guest| guest.with("withhold", text(&[path])));
    assert!(!has(&config, path));
    let tree = DeviceTree::new(&dtb).unwrap();
    assert!(!tree.find(path).unwrap().is_enabled());
}

/// A primary guest has RAM on both sides of the devices in pieces that one cell can say, and a console of its
/// own wherever the board's is.
#[test]
fn a_primary_guest_on_every_size() {
    let linux = arm64_image(8 << 20, 0, 9 << 20, 0b1010);
    let files = archive(&[("linux", &linux)]);
    for (gib, most) in [(1, 700), (2, 1700), (4, 3600), (8, 7700)] {
        let tree = of_size(gib * GIB);
        let guest = Guest::new("linux", 1)
            .with("kernel", text(&["linux"]))
            .with("primary", flag())
            .with("dma", text(&["trusted"]))
            .with("board", text(&["trusted"]))
            .with("memory-mib", cells(&[512]))
            .with("memory-max-mib", cells(&[most]));
        let merged = merge_into(&tree, &header(), &[guest]);
        let held = [range(0x20_0000, 2 * MIB), range(0x2eff_0000, 0x2_0000)];
        let report = check(&merged, Some(&files), &held);
        assert_eq!(report.refusals, vec![], "{gib} GiB");
        let plan = report.plan.unwrap();
        let guest = &plan.guests[0];
        let sees = DeviceTree::new(&guest.dtb).unwrap();
        let memory = sees.find("/memory").unwrap().regions().unwrap();
        let sum = |ranges: &[PaRange]| ranges.iter().map(|range| range.size).sum::<u64>();
        assert_eq!(sum(&memory), u64::from(most) * MIB);
        let is_free = |range: &PaRange| {
            let mut free = plan.free.iter();
            free.any(|free| free.start <= range.start && range.end() <= free.end())
        };
        assert!(memory.iter().all(is_free), "{memory:?}");
        let parent = sees.find("/reserved-memory").unwrap();
        let balloons: Vec<_> = parent
            .children()
            .filter(|node| node.base_name() == "boot-balloon")
            .flat_map(|node| node.regions().unwrap())
            .collect();
        assert_eq!(sum(&balloons), u64::from(most - 512) * MIB);

        // The board's console is the mini-UART, whose place has no room for a PL011.
        let chosen = sees.find("/chosen").unwrap();
        let path = chosen.str("stdout-path").unwrap().unwrap();
        let console = sees.find(path).unwrap();
        assert!(console.is_compatible("arm,pl011"), "{path}");
        let uart = guest.config.machine.uart;
        assert_eq!(console.regions().unwrap(), [range(uart.start.0, uart.size)]);
        assert!(!sees.find("/soc/serial@7e215040").unwrap().is_enabled());
        assert!(sees.find("/soc/serial@7e201000").unwrap().is_enabled());
        let aliases = sees.find("/aliases").unwrap();
        assert_eq!(aliases.str("serial1"), Ok(Some(path)));
        let gic = crate::board::gic_node(&sees).unwrap();
        let interrupts = console.interrupts(gic).unwrap();
        let balloon = sees.find("/balloon").unwrap().interrupts(gic).unwrap();
        assert_ne!(interrupts[0].intid, balloon[0].intid);
    }
}
