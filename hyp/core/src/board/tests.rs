mod rpi4;

use super::*;
use crate::addr::{MIB, Pa};
use crate::dt::{BlobError, FirstLook};
use crate::testing::{
    Branch, Mutator, TWO_LINUX, VIRT_V2, VIRT_V3, blob, cells, flag, rounds, text,
};

fn range(start: u64, size: u64) -> PaRange {
    PaRange {
        start: Pa(start),
        size,
    }
}

fn board(blob: &[u8]) -> Board {
    Board::from_dt(&DeviceTree::new(blob).unwrap()).unwrap()
}

#[test]
fn qemu_virt_with_gicv3() {
    let board = board(VIRT_V3);
    assert_eq!(board.model, "linux,dummy-virt");
    assert_eq!(board.ram, [range(0x4000_0000, 1024 * MIB)]);
    assert!(board.reserved.is_empty() && board.initrd.is_none());
    let mpidrs: Vec<u64> = board.cores.iter().map(|core| core.mpidr).collect();
    assert_eq!(mpidrs, [0, 1, 2, 3]);
    assert!(
        board
            .cores
            .iter()
            .all(|core| core.enable == EnableMethod::Psci && core.compatible == "arm,cortex-a72")
    );
    assert_eq!(
        board.psci,
        Some(Psci {
            smc: true,
            cpu_on: 0xc400_0003,
            standard: true
        })
    );
    let gic = Gic::V3 {
        gicd: range(0x800_0000, 0x1_0000),
        redistributors: vec![range(0x80a_0000, 0xf6_0000)],
        stride: 0x2_0000,
        maintenance: 25,
    };
    assert_eq!(board.gic, gic);
    let console = board.console.unwrap();
    assert_eq!(
        (console.registers, console.intid),
        (range(0x900_0000, 0x1000), Some(33))
    );
    assert_eq!(console.clock_hz, Some(24_000_000));
    assert_eq!(
        board.timer,
        Timer {
            el1_physical: 30,
            el1_virtual: 27,
            el2_physical: 26
        }
    );
}

#[test]
fn qemu_virt_with_gicv2() {
    let Gic::V2 {
        gicd,
        gicc,
        gich,
        gicv,
        maintenance,
    } = board(VIRT_V2).gic
    else {
        panic!("not a GICv2")
    };
    let starts = [gicd, gicc, gich, gicv].map(|block| block.start.0);
    assert_eq!(starts, [0x800_0000, 0x801_0000, 0x803_0000, 0x804_0000]);
    assert_eq!(maintenance, 25);
}

/// Where a first look finds room behind the image at `image`, which the board agrees is free.
fn room(blob: &[u8], image: PaRange) -> Option<PaRange> {
    let look = FirstLook::new(blob).ok()?;
    let place = look.place(look.heap_bytes(), image, &[image])?;
    if let Ok(tree) = DeviceTree::new(blob)
        && let Ok(board) = Board::from_dt(&tree)
    {
        let holds = |ram: &PaRange| ram.start <= place.start && place.end() <= ram.end();
        assert!(board.ram.iter().any(holds), "{place:x?} is not in RAM");
        let mut taken = board.reserved.iter().chain(&board.initrd).chain([&image]);
        assert!(
            !taken.any(|range| range.overlaps(place)),
            "{place:x?} is taken"
        );
    }
    Some(place)
}

#[test]
fn a_first_look_finds_room() {
    let image = range(0x4020_0000, 0x8_1000);
    for tree in [VIRT_V2, VIRT_V3, TWO_LINUX] {
        let place = room(tree, image).unwrap();
        assert_eq!(place.start, image.end());
        assert!(place.size >= 0x9000);
    }
    // Behind the image lies a reservation, then too little room, then a reserved node; before it the spin table.
    let reserved = Branch(
        "reserved-memory",
        vec![
            ("#address-cells", cells(&[1])),
            ("#size-cells", cells(&[1])),
            ("ranges", flag()),
        ],
        vec![Branch(
            "x@10a000",
            vec![("reg", cells(&[0x10_a000, 0x1000]))],
            vec![],
        )],
    );
    let mut root = pi(vec![pi_core("cpu@0", 0)]);
    root.2.retain(|node| node.0 != "reserved-memory");
    root.2.push(reserved);
    let tree = blob(&root, &[(0x10_0000, 0x2800)]);
    let image = range(0x8_0000, 0x8_0000);
    assert_eq!(room(&tree, image).unwrap().start, Pa(0x10_b000));
    // RAM with a hole in it, and nothing but the lower part: in front of the image.
    root.2[2].1[1].1 = cells(&[0, 0, 0x10_0000]);
    root.2.retain(|node| node.0 != "memory@100000000");
    assert_eq!(room(&blob(&root, &[]), image).unwrap().start, Pa(0x1000));
}

#[test]
fn a_first_look_counts_what_reading_the_tree_takes() {
    let bytes = |tree: &[u8]| FirstLook::new(tree).unwrap().heap_bytes();
    let few = bytes(&blob(&pi(vec![]), &[]));
    let mut root = pi(vec![]);
    let many = [0, 0x1000, 0, 0x1000].repeat(1000);
    root.2
        .push(Branch("x", vec![("reg", cells(&many))], vec![]));
    assert!(bytes(&blob(&root, &[])) >= few + 70 * 1000);
    // More nodes than there may be need no more than those.
    let nodes = |count| {
        let mut root = pi(vec![]);
        root.2
            .extend((0..count).map(|_| Branch("x", vec![], vec![])));
        bytes(&blob(&root, &[]))
    };
    assert_eq!(nodes(4096), nodes(9000));
}

#[test]
fn a_first_look_leaves_ram_beyond_the_limit_alone() {
    let mut root = pi(vec![]);
    let memory = ("reg", cells(&[0xffff_ffff, 0xf000_0000, 0x1000_0000]));
    let kind = ("device_type", text(&["memory"]));
    root.2 = vec![Branch("memory@0", vec![kind, memory], vec![])];
    let look = FirstLook::new(&blob(&root, &[])).unwrap();
    assert_eq!(look.place(0x1000, range(0x8_0000, 0x8_0000), &[]), None);
}

#[test]
fn a_first_look_says_where_a_tree_is_malformed() {
    // The token behind the root's name.
    let structure = usize::from(VIRT_V3[11]) | usize::from(VIRT_V3[10]) << 8;
    let mut tree = VIRT_V3.to_vec();
    tree[structure + 11] = 7;
    let error = FirstLook::new(&tree).err();
    assert_eq!(error, Some(BlobError::BadStructure { offset: 8 }));
}

#[test]
fn a_first_look_agrees_with_the_board_whatever_the_tree() {
    let image = range(0x4020_0000, 0x8_1000);
    let mut random = Mutator(7);
    let mut found = 0;
    for round in 0..rounds(3000) {
        let mut tree = [TWO_LINUX, VIRT_V2][round as usize % 2].to_vec();
        random.mutate(&mut tree);
        found += u32::from(room(&tree, image).is_some());
    }
    assert!(found != 0);
}

#[test]
fn subtract_takes_whole_pages() {
    let ram = [
        range(0x4000_0000, 0x10_0000),
        range(0x4010_0000, 0x10_0000),
        range(0x8000_0000, 0x1800),
    ];
    let taken = [
        range(0x4000_0ffe, 4),
        range(0x401f_f000, 0x10_0000),
        range(0, 0x1000),
    ];
    let left = subtract(&ram, &taken);
    assert_eq!(
        left,
        [range(0x4000_2000, 0x1f_d000), range(0x8000_0000, 0x1000)]
    );
    assert!(subtract(&ram, &[range(0, u64::MAX)]).is_empty());
}

/// A Raspberry Pi 4 of 8 GiB as its firmware describes it, shortened.
fn pi(cpus: Vec<Branch>) -> Branch {
    let uart = Branch(
        "serial@7e201000",
        vec![
            ("compatible", text(&["arm,pl011", "arm,primecell"])),
            ("reg", cells(&[0x7e20_1000, 0x200])),
            ("interrupts", cells(&[0, 121, 4])),
        ],
        vec![],
    );
    let gic = Branch(
        "interrupt-controller@40041000",
        vec![
            ("compatible", text(&["arm,gic-400"])),
            ("interrupt-controller", flag()),
            (
                "reg",
                cells(&[
                    0x4004_1000,
                    0x1000,
                    0x4004_2000,
                    0x2000,
                    0x4004_4000,
                    0x2000,
                    0x4004_6000,
                    0x2000,
                ]),
            ),
            ("interrupts", cells(&[1, 9, 0xf04])),
            ("phandle", cells(&[1])),
        ],
        vec![],
    );
    let soc = Branch(
        "soc",
        vec![
            ("#address-cells", cells(&[1])),
            ("#size-cells", cells(&[1])),
            (
                "ranges",
                cells(&[
                    0x7e00_0000,
                    0,
                    0xfe00_0000,
                    0x180_0000,
                    0x4000_0000,
                    0,
                    0xff80_0000,
                    0x80_0000,
                ]),
            ),
        ],
        vec![uart, gic],
    );
    let timer = Branch(
        "timer",
        vec![
            ("compatible", text(&["arm,armv8-timer"])),
            (
                "interrupts",
                cells(&[1, 13, 0xf08, 1, 14, 0xf08, 1, 11, 0xf08, 1, 10, 0xf08]),
            ),
        ],
        vec![],
    );
    let memory = |name, reg: &[u32]| {
        Branch(
            name,
            vec![("device_type", text(&["memory"])), ("reg", cells(reg))],
            vec![],
        )
    };
    let reserved = Branch(
        "reserved-memory",
        vec![
            ("#address-cells", cells(&[2])),
            ("#size-cells", cells(&[1])),
            ("ranges", flag()),
        ],
        vec![
            Branch(
                "nvram@3ef63000",
                vec![("reg", cells(&[0, 0x3ef6_3000, 0x80]))],
                vec![],
            ),
            Branch("linux,cma", vec![("size", cells(&[0x400_0000]))], vec![]),
        ],
    );
    let chosen = Branch(
        "chosen",
        vec![
            ("stdout-path", text(&["serial0:115200n8"])),
            ("linux,initrd-start", cells(&[0x2e00_0000])),
            ("linux,initrd-end", cells(&[0, 0x2e80_0000])),
        ],
        vec![],
    );
    let cpu_bus = vec![
        ("#address-cells", cells(&[1])),
        ("#size-cells", cells(&[0])),
    ];
    Branch(
        "",
        vec![
            ("model", text(&["Raspberry Pi 4 Model B Rev 1.4"])),
            ("#address-cells", cells(&[2])),
            ("#size-cells", cells(&[1])),
            ("interrupt-parent", cells(&[1])),
        ],
        vec![
            Branch(
                "aliases",
                vec![("serial0", text(&["/soc/serial@7e201000"]))],
                vec![],
            ),
            chosen,
            memory(
                "memory@0",
                &[0, 0, 0x3b40_0000, 0, 0x4000_0000, 0xbc00_0000],
            ),
            memory(
                "memory@100000000",
                &[1, 0, 0x8000_0000, 1, 0x8000_0000, 0x8000_0000],
            ),
            reserved,
            soc,
            timer,
            Branch("cpus", cpu_bus, cpus),
        ],
    )
}

fn pi_core(name: &'static str, number: u32) -> Branch {
    let properties = vec![
        ("reg", cells(&[number])),
        ("enable-method", text(&["spin-table"])),
        ("cpu-release-addr", cells(&[0, 0xd8 + 8 * number])),
        ("compatible", text(&["arm,cortex-a72"])),
    ];
    Branch(name, properties, vec![])
}

#[test]
fn a_board_unlike_qemu() {
    let root = pi(vec![
        pi_core("cpu@0", 0),
        pi_core("cpu@1", 1),
        Branch("l2-cache0", vec![], vec![]),
    ]);
    let board = board(&blob(&root, &[(0, 0x1000), (0x3b40_0800, 0x100)]));
    assert_eq!(board.model, "Raspberry Pi 4 Model B Rev 1.4");
    let ram = [
        range(0, 0x3b40_0000),
        range(0x4000_0000, 0xbc00_0000),
        range(0x1_0000_0000, 0x1_0000_0000),
    ];
    assert_eq!(board.ram, ram);
    let reserved = [
        range(0, 0x1000),
        range(0x3b40_0000, 0x1000),
        range(0x3ef6_3000, 0x1000),
    ];
    assert_eq!(board.reserved, reserved);
    assert_eq!(board.initrd, Some(range(0x2e00_0000, 0x80_0000)));
    assert_eq!(board.cores[1].enable, EnableMethod::SpinTable(0xe0));
    assert_eq!((board.cores.len(), board.psci), (2, None));
    let console = board.console.unwrap();
    assert_eq!(
        (console.registers, console.intid, console.clock_hz),
        (range(0xfe20_1000, 0x200), Some(153), None)
    );
    assert_eq!(
        board.gic.blocks().iter().map(|block| block.start.0).min(),
        Some(0xff84_1000)
    );
}

fn refused(root: &Branch) -> String {
    Board::from_dt(&DeviceTree::new(&blob(root, &[])).unwrap())
        .unwrap_err()
        .to_string()
}

#[test]
fn boards_that_cannot_be_used() {
    let good = || pi(vec![pi_core("cpu@0", 0)]);
    let without = |name: &str| {
        let mut root = good();
        root.2.retain(|child| child.0 != name);
        refused(&root)
    };
    assert_eq!(without("cpus"), "/cpus: is missing");
    assert_eq!(
        without("timer"),
        "device tree: has no node compatible with \"arm,armv8-timer\""
    );
    assert_eq!(
        without("soc"),
        "device tree: has no interrupt controller that is a GICv2 or a GICv3; use a board with one of these"
    );
    let mut root = good();
    root.2.retain(|child| !child.0.starts_with("memory"));
    assert_eq!(refused(&root), "/memory: is missing or has no range");

    let twin = pi(vec![pi_core("cpu@0", 0), pi_core("cpu@1", 0)]);
    assert_eq!(
        refused(&twin),
        "/cpus/cpu@1: reg = <0>: is no affinity of MPIDR_EL1, or another core's"
    );
    let mut unknown = pi_core("cpu@0", 0);
    unknown.1[1].1 = text(&["mailbox"]);
    assert_eq!(
        refused(&pi(vec![unknown])),
        "/cpus/cpu@0: enable-method: is \"mailbox\", which Ballast does not know; use psci or spin-table"
    );
    // QEMU without virtualization=on: no GICH and GICV, no maintenance interrupt.
    let mut plain = good();
    let gic = &mut plain.2[5].2[1].1;
    gic.retain(|(name, _)| *name != "interrupts");
    assert_eq!(
        refused(&plain),
        "/soc/interrupt-controller@40041000: interrupts: has no maintenance interrupt, so no virtualization \
         extensions; on QEMU virt add virtualization=on to -M"
    );
}

#[test]
fn cores_beyond_the_limit_stay_off() {
    const NAMES: [&str; 10] = [
        "cpu@0", "cpu@1", "cpu@2", "cpu@3", "cpu@4", "cpu@5", "cpu@6", "cpu@7", "cpu@8", "cpu@9",
    ];
    let root = pi(NAMES
        .iter()
        .zip(0..)
        .map(|(name, number)| pi_core(name, number))
        .collect());
    let board = board(&blob(&root, &[]));
    assert_eq!((board.cores.len(), board.unused_cores), (8, 2));
}
