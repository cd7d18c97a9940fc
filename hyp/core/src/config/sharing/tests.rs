//! Boards on which devices share pages and interrupts, divided in every way and refused in some.

use super::*;
use crate::config::Partitions;
use crate::mediate::{Access, Effect};
use crate::plan::{Report, check};
use crate::testing::{
    Branch, Guest, VIRT_V2, VIRT_V3, Value, cells, header, merge_into, text, with_nodes,
};

fn device(
    name: &'static str,
    compatible: &'static str,
    registers: [u32; 2],
    interrupts: &[u32],
    more: Vec<(&'static str, Value)>,
) -> Branch {
    let [address, size] = registers;
    let mut properties = vec![
        ("compatible", text(&[compatible])),
        ("reg", cells(&[0, address, 0, size])),
        ("interrupts", cells(interrupts)),
    ];
    properties.extend(more);
    Branch(name, properties, vec![])
}

/// A Raspberry Pi 4's UARTs, AUX and GPIO, at their places, on a board that has the rest.
fn pi() -> Vec<u8> {
    pi_with(vec![])
}

/// The same whose first UART comes out at pins 0 and 1.
fn routed_pi() -> Vec<u8> {
    pi_with(vec![
        ("pinctrl-names", text(&["default"])),
        ("pinctrl-0", cells(&[0x77, 0x79])),
    ])
}

fn pi_with(first: Vec<(&'static str, Value)>) -> Vec<u8> {
    let uart = |name, address, mut more: Vec<(&'static str, Value)>| {
        more.push(("clocks", cells(&[0x78, 19, 0x78, 20])));
        device(name, "arm,pl011", [address, 0x200], &[0, 121, 4], more)
    };
    let generic = Branch(
        "uart2-ctsrts-gpio2",
        vec![("phandle", cells(&[0x79]))],
        vec![Branch(
            "pin-cts",
            vec![
                ("pins", text(&["gpio2"])),
                ("function", text(&["alt4"])),
                ("bias-pull-up", crate::testing::flag()),
            ],
            vec![],
        )],
    );
    let group = Branch(
        "uart2-gpio0",
        vec![
            ("brcm,pins", cells(&[0, 1])),
            ("brcm,function", cells(&[3])),
            ("phandle", cells(&[0x77])),
        ],
        vec![],
    );
    let mut gpio = device(
        "gpio@fe200000",
        "brcm,bcm2711-gpio",
        [0xfe20_0000, 0xb4],
        &[0, 113, 4, 0, 114, 4, 0, 115, 4, 0, 116, 4],
        vec![
            ("gpio-ranges", cells(&[6, 0, 0, 58])),
            ("#gpio-cells", cells(&[2])),
        ],
    );
    gpio.2.extend([group, generic]);
    with_nodes(
        VIRT_V2,
        &[
            Branch(
                "cprman@fe101000",
                vec![
                    ("compatible", text(&["brcm,bcm2711-cprman"])),
                    ("#clock-cells", cells(&[1])),
                    ("phandle", cells(&[0x78])),
                ],
                vec![],
            ),
            uart("serial@fe201400", 0xfe20_1400, first),
            uart("serial@fe201600", 0xfe20_1600, vec![]),
            device(
                "aux@fe215000",
                "brcm,bcm2835-aux",
                [0xfe21_5000, 8],
                &[],
                vec![],
            ),
            device(
                "serial@fe215040",
                "brcm,bcm2835-aux-uart",
                [0xfe21_5040, 0x40],
                &[0, 93, 4],
                vec![],
            ),
            device(
                "spi@fe215080",
                "brcm,bcm2835-aux-spi",
                [0xfe21_5080, 0x40],
                &[0, 93, 4],
                vec![],
            ),
            gpio,
        ],
    )
}

fn report(board: &[u8], guests: &[Guest]) -> Report {
    check(&merge_into(board, &header(), guests), None, &[])
}

fn refused(board: &[u8], guests: &[Guest]) -> String {
    let refusals = report(board, guests).refusals;
    let lines: Vec<String> = refusals.iter().map(ToString::to_string).collect();
    lines.join("\n")
}

fn parsed(board: &[u8], guests: &[Guest]) -> Vec<GuestConfig> {
    let dtb = merge_into(board, &header(), guests);
    let tree = DeviceTree::new(&dtb).unwrap();
    let board = Board::from_dt(&tree).unwrap();
    Partitions::parse(&tree, &board).unwrap().guests
}

fn a() -> Guest {
    Guest::new("a", 1)
}

fn b() -> Guest {
    Guest::new("b", 2)
}

fn with(guest: Guest, paths: &[&str]) -> Guest {
    guest.with("devices", text(paths))
}

fn device_part(first: u16, last: u16) -> Part {
    Part {
        first,
        last,
        what: What::Device,
    }
}

#[test]
fn uarts_of_one_page_go_to_two_guests() {
    let guests = [
        with(a(), &["/serial@fe201400"]),
        with(b(), &["/serial@fe201600"]),
    ];
    let found = parsed(&pi(), &guests);
    let pages: Vec<_> = found
        .iter()
        .map(|guest| (&*guest.mediated.pages, &*guest.mediated.interrupts))
        .collect();
    let page = |part| {
        vec![Page {
            start: Pa(0xfe20_1000),
            parts: vec![part],
        }]
    };
    let first = page(device_part(0x400, 0x5ff));
    let second = page(device_part(0x600, 0x7ff));
    assert_eq!(pages, [(&*first, &[153][..]), (&*second, &[153][..])]);
    assert!(found.iter().all(|guest| device_pages(guest).is_empty()));
    // The clocks that firmware sets stand in the guest's tree as fixed ones.
    let clocks = |guest: &GuestConfig| guest.devices[0].clocks_hz.clone();
    assert!(
        found
            .iter()
            .all(|guest| clocks(guest) == [48_000_000, 500_000_000])
    );
    let report = report(&pi(), &guests);
    assert!(report.refusals.is_empty() && report.warnings.is_empty());
    assert_eq!(
        report.notes,
        [
            "the page at 0xfe201000 is trapped for a, b: each access costs some 250 instructions of Ballast",
            "interrupt 153 is shared by a, b: it goes to each of them, and the next waits until all have handled it, \
             at most 1000 us; one that does not end comes once in that time"
        ]
    );
}

/// One guest alone has what it asked for mapped, and the interrupt linked.
#[test]
fn what_one_guest_holds_is_not_trapped() {
    let [guest] = &parsed(
        &pi(),
        &[with(a(), &["/serial@fe201400", "/serial@fe201600"])],
    )[..] else {
        panic!("not one guest")
    };
    assert_eq!(guest.mediated, crate::mediate::Mediated::default());
    let page = PaRange {
        start: Pa(0xfe20_1000),
        size: PAGE_SIZE,
    };
    assert_eq!(device_pages(guest), [page]);
    assert!(
        report(&pi(), &[with(a(), &["/serial@fe201400"])])
            .notes
            .is_empty()
    );
}

/// The console's registers and interrupt as the first of the UARTs' page.
fn moved_console(board: &[u8]) -> Vec<u8> {
    let mut board = board.to_vec();
    let mut replace = |old: &[u32], new: &[u32]| {
        let bytes = |cells: &[u32]| -> Vec<u8> {
            cells.iter().flat_map(|cell| cell.to_be_bytes()).collect()
        };
        let (old, new) = (bytes(old), bytes(new));
        let at = board.windows(old.len()).position(|window| *window == *old);
        let at = at.unwrap();
        board[at..at + new.len()].copy_from_slice(&new);
    };
    replace(&[0, 0x900_0000, 0, 0x1000], &[0, 0xfe20_1000, 0, 0x200]);
    replace(&[0, 1, 4], &[0, 121, 4]);
    board
}

/// Ballast's console is a holder like another. Here it is the first of the page.
#[test]
fn a_page_is_shared_with_ballast() {
    let board = moved_console(&pi());
    let [guest] = &parsed(&board, &[with(a(), &["/serial@fe201400"])])[..] else {
        panic!("not one guest")
    };
    assert_eq!(guest.mediated.pages.len(), 1);
    assert_eq!(guest.mediated.pages[0].parts, [device_part(0x400, 0x5ff)]);
    assert_eq!(
        refused(&board, &[with(a(), &["/pl011@9000000"])]),
        "/ballast/a@1: devices = \"/pl011@9000000\": is the console UART, which Ballast drives; remove it"
    );
    let notes = report(&board, &[with(a(), &["/serial@fe201400"])]).notes;
    assert!(notes[0].contains("trapped for a, Ballast:"), "{notes:?}");
}

#[test]
fn blocks_of_aux_have_their_own_switch() {
    let guests = [
        with(a(), &["/serial@fe215040"]),
        with(b(), &["/spi@fe215080"]),
    ];
    let found = parsed(&pi(), &guests);
    let aux = |bits| Part {
        first: 0,
        last: 7,
        what: What::Aux(bits),
    };
    assert_eq!(
        found[0].mediated.pages[0].parts,
        [aux(0b01), device_part(0x40, 0x7f)]
    );
    assert_eq!(
        found[1].mediated.pages[0].parts,
        [aux(0b10), device_part(0x80, 0xbf)]
    );
    assert_eq!(found[0].mediated.interrupts, [125]);
    // Who has the switch itself has the bits that nobody else has.
    let switch = with(a(), &["/aux@fe215000", "/serial@fe215040"]);
    let found = parsed(&pi(), &[switch.clone(), with(b(), &["/spi@fe215080"])]);
    assert_eq!(
        found[0].mediated.pages[0].parts,
        [aux(0b101), device_part(0x40, 0x7f)]
    );
    assert!(parsed(&pi(), &[switch])[0].mediated.pages.is_empty());
}

/// A primary guest beside one with a UART of the console's page and a pin.
#[test]
fn a_primary_guest_has_the_rest() {
    let board = moved_console(&pi());
    let trusted = || text(&["trusted"]);
    let primary = a()
        .with("primary", crate::testing::flag())
        .with("dma", trusted())
        .with("board", trusted());
    let second = with(b(), &["/serial@fe201600"]).with("gpios", cells(&[17]));
    let found = parsed(&board, &[primary, second]);
    let page = |address| {
        let mut pages = found[0].mediated.pages.iter();
        pages
            .find(|page| page.start.0 == address)
            .unwrap()
            .parts
            .clone()
    };
    let console = Part {
        first: 0,
        last: 0x1ff,
        what: What::Console,
    };
    assert_eq!(page(0xfe20_1000), [console, device_part(0x400, 0x5ff)]);
    assert_eq!(found[0].machine.uart.size, 0x200);
    assert_eq!(page(0xfe20_0000)[0].what, What::Gpio);
    assert_eq!(
        found[0].mediated.gpio.pins(),
        ((1 << 58) - 1) & !(1 << 17 | 0b11 << 14)
    );
    assert_eq!(found[0].mediated.interrupts, [145, 146, 147, 148, 153]);
    assert!(device_pages(&found[0]).iter().all(|mapped| {
        let pages = &found[0].mediated.pages;
        !pages
            .iter()
            .any(|page| mapped.start <= page.start && page.start < mapped.end())
    }));
}

#[test]
fn pins_go_to_several_guests() {
    let guests = [
        with(a(), &["/serial@fe201400"]).with("gpios", cells(&[0, 1, 2, 17])),
        b().with("gpios", cells(&[27])),
        with(Guest::new("c", 3), &["/gpio@fe200000"]),
    ];
    let found = parsed(&routed_pi(), &guests);
    let pins: Vec<u64> = found
        .iter()
        .map(|guest| guest.mediated.gpio.pins())
        .collect();
    let taken = 0b111 | 1 << 17 | 1 << 27 | 1 << 14 | 1 << 15;
    let rest = ((1 << 58) - 1) & !taken;
    assert_eq!(pins, [0b111 | 1 << 17, 1 << 27, rest]);
    for guest in &found {
        assert_eq!(guest.mediated.interrupts, [145, 146, 147, 148]);
        let page = guest
            .mediated
            .pages
            .iter()
            .find(|page| page.start.0 == 0xfe20_0000);
        let gpio = Part {
            first: 0,
            last: 0xf3,
            what: What::Gpio,
        };
        assert_eq!(page.unwrap().parts, [gpio]);
    }
    // uart2's pins may be its own, in its function; no other alternate function is to be had.
    let select = |guest: usize, register: u16, value: u64| match found[guest]
        .mediated
        .gpio
        .access(register, Access::Store(value))
    {
        Effect::Merge { value, mask, .. } => (mask, value),
        _ => (0, 0),
    };
    assert_eq!(select(0, 0x00, 0o333), (0o777, 0o333));
    assert_eq!(select(0, 0x00, 0o444), (0, 0));
    assert_eq!(select(1, 0x08, 0o4000_0000), (0, 0));
    assert_eq!(select(1, 0x08, 0o1000_0000), (0o7000_0000, 0o1000_0000));
    // The one with the controller itself may choose.
    assert_eq!(select(2, 0x08, 0o4), (0o7707777777, 0o4));
    // What a guest's Linux is told.
    let node = found[0]
        .devices
        .iter()
        .find(|device| device.path == "/gpio@fe200000")
        .unwrap();
    let property = |name: &str| node.properties.iter().find(|(own, _)| own == name);
    let expected: Vec<u8> = [3_u32, 14, 18, 40]
        .iter()
        .flat_map(|cell| cell.to_be_bytes())
        .collect();
    assert_eq!(property("gpio-reserved-ranges").unwrap().1, expected);
    assert!(property("gpio-ranges").is_none() && property("#gpio-cells").is_some());
}

/// The groups of pins of a guest's device go into its tree, below its GPIO controller.
#[test]
fn groups_of_pins_go_with_the_device() {
    let guest = with(a(), &["/serial@fe201400"]).with("gpios", cells(&[0, 1, 2]));
    let [guest] = &parsed(&routed_pi(), &[guest])[..] else {
        panic!("not one guest")
    };
    let machine = crate::guest_dt::GuestMachine {
        name: "a",
        gic_version: 2,
        cpus: 1,
        cpu_compatible: "arm,cortex-a72",
        machine: &guest.machine,
        ram: &[],
        backed_bytes: 0,
        extra_ram: &[],
        bootargs: "",
        ramdisk: None,
        devices: &guest.devices,
        board: None,
        channels: &[],
    };
    let dtb = crate::guest_dt::build(&machine, Vec::new());
    let tree = DeviceTree::new(&dtb).unwrap();
    let uart = tree.find("/serial@fe201400").unwrap();
    assert_eq!(uart.str("pinctrl-names").unwrap(), Some("default"));
    let phandles = uart.property("pinctrl-0").unwrap().cells().unwrap();
    let groups: Vec<_> = phandles
        .map(|phandle| tree.by_phandle(phandle).unwrap())
        .collect();
    let paths: Vec<String> = groups.iter().map(|group| group.path()).collect();
    assert_eq!(
        paths,
        [
            "/gpio@fe200000/uart2-gpio0",
            "/gpio@fe200000/uart2-ctsrts-gpio2"
        ]
    );
    let pins = groups[0].property("brcm,pins").unwrap().cells().unwrap();
    assert_eq!(pins.collect::<Vec<_>>(), [0, 1]);
    let part = groups[1].child("pin-cts").unwrap();
    assert_eq!(part.str("pins").unwrap(), Some("gpio2"));
    assert!(part.property("bias-pull-up").is_some());
}

/// A device that comes out at pins of others is none that its guest could use.
#[test]
fn a_device_whose_pins_are_anothers_is_refused() {
    let line = |rest: &str| {
        format!(
            "/ballast/a@1: devices = \"/serial@fe201400\": comes out at pins 0, 1, 2 by its pinctrl properties, and \
             {rest}, or route the device to other pins by an overlay"
        )
    };
    let uart = || with(a(), &["/serial@fe201400"]);
    assert_eq!(
        refused(&routed_pi(), &[uart()]),
        line("0, 1, 2 are not this guest's; add 0 1 2 to gpios")
    );
    let some = uart().with("gpios", cells(&[0, 2, 17]));
    let other = b().with("gpios", cells(&[1]));
    assert_eq!(
        refused(&routed_pi(), &[some.clone(), other]),
        line("1 is not this guest's (1 of /ballast/b@2); add 1 to gpios")
    );
    assert_eq!(
        refused(&routed_pi(), &[some]),
        line("1 is not this guest's; add 1 to gpios")
    );
    // The board's tree routes what a primary guest has.
    let trusted = || text(&["trusted"]);
    let primary = a()
        .with("primary", crate::testing::flag())
        .with("dma", trusted())
        .with("board", trusted());
    assert_eq!(refused(&routed_pi(), &[primary]), "");
}

#[test]
fn pins_that_cannot_be_given() {
    let gpios = |pins: &[u32]| a().with("gpios", cells(pins));
    let line = |value: &str, rest: &str| format!("/ballast/a@1: gpios = {value}: {rest}");
    let cases = [
        (
            gpios(&[58]),
            line("<58>", "58 is no pin; choose from 0 to 57"),
        ),
        (
            gpios(&[u32::MAX]),
            line("<0xffffffff>", "4294967295 is no pin; choose from 0 to 57"),
        ),
        (
            gpios(&[4, 4]),
            line("<4 4>", "pin 4 is listed twice; list it once"),
        ),
        (
            gpios(&[14]),
            line(
                "<14>",
                "pin 14 carries Ballast's console; choose another pin",
            ),
        ),
        (
            with(gpios(&[4]), &["/gpio@fe200000"]),
            line(
                "<4>",
                "stands beside /gpio@fe200000, with which the guest has every pin that no other has; remove one of the two",
            ),
        ),
    ];
    for (guest, expected) in cases {
        assert_eq!(refused(&pi(), &[guest]), expected);
    }
    assert_eq!(
        refused(&pi(), &[gpios(&[17, 27]), b().with("gpios", cells(&[27]))]),
        "/ballast/b@2: gpios = <27>: pin 27 is already given to /ballast/a@1; choose another pin"
    );
    let both = with(b(), &["/gpio@fe200000"]);
    let all = with(a(), &["/gpio@fe200000"]);
    assert_eq!(
        refused(&pi(), &[all, both]),
        "/ballast/b@2: devices = \"/gpio@fe200000\": is already given to /ballast/a@1; give it to one guest"
    );
    assert_eq!(
        refused(VIRT_V3, &[gpios(&[4])]),
        line(
            "<4>",
            "needs a GPIO controller that can be split by pins, which this board has not; remove it"
        )
    );
}

/// Registers that overlap and edges cannot be divided, whoever the two holders are.
#[test]
fn what_cannot_be_divided_is_refused() {
    let half = |name, address, size, interrupt: [u32; 3]| {
        device(name, "arm,pl061", [address, size], &interrupt, vec![])
    };
    let board = with_nodes(
        VIRT_V3,
        &[
            half("a@9040000", 0x904_0000, 0x800, [0, 9, 4]),
            half("b@90407fc", 0x904_07fc, 0x800, [0, 10, 4]),
            half("c@9050000", 0x905_0000, 0x800, [0, 9, 1]),
            half("console@9000800", 0x900_0800, 0x100, [0, 11, 4]),
        ],
    );
    assert_eq!(
        refused(
            &board,
            &[with(a(), &["/a@9040000"]), with(b(), &["/b@90407fc"])]
        ),
        "/ballast/b@2: devices = \"/b@90407fc\": cannot be separated from /a@9040000 of /ballast/a@1: their registers \
         overlap, and how such a block is shared is not known; give both to one guest, or only one of them away"
    );
    assert_eq!(
        refused(
            &board,
            &[with(a(), &["/a@9040000"]), with(b(), &["/c@9050000"])]
        ),
        "/ballast/b@2: devices = \"/c@9050000\": cannot be separated from /a@9040000 of /ballast/a@1: they share \
         interrupt 41, and only level-sensitive ones can be divided; give both to one guest, or only one of them away"
    );
    assert_eq!(
        refused(&board, &[with(a(), &["/console@9000800"])]),
        "/ballast/a@1: devices = \"/console@9000800\": has /console@9000800 at 0x9000000, where the console UART is in \
         the guest; remove the device, or move what it lies on\n\
         /ballast/a@1: devices = \"/console@9000800\": cannot be separated from /pl011@9000000 of Ballast: their \
         registers overlap, and how such a block is shared is not known; give both to one guest, or only one of them \
         away"
    );
}

/// A neighbour that nobody was given and that may do DMA is out of reach of a guest that is not trusted.
#[test]
fn a_master_that_nobody_holds_is_trapped_away() {
    let board = with_nodes(
        VIRT_V3,
        &[
            device(
                "a@9040000",
                "arm,pl061",
                [0x904_0000, 0x800],
                &[0, 9, 4],
                vec![],
            ),
            device(
                "dma@9040800",
                "some,master",
                [0x904_0800, 0x800],
                &[0, 10, 4],
                vec![],
            ),
        ],
    );
    let found = parsed(&board, &[with(a(), &["/a@9040000"])]);
    assert_eq!(found[0].mediated.pages[0].parts, [device_part(0, 0x7ff)]);
    assert!(found[0].mediated.interrupts.is_empty());
}
