use super::*;
use crate::addr::Pa;
use crate::testing::{Branch, TWO_LINUX, VIRT_V2, VIRT_V3, blob, cells, flag, text};

#[test]
fn reads_what_qemu_writes() {
    let tree = DeviceTree::new(VIRT_V3).unwrap();
    let uart = tree.find("/pl011@9000000").unwrap();
    assert_eq!(tree.find("/pl011:115200n8"), Some(uart));
    assert_eq!(uart.path(), "/pl011@9000000");
    assert_eq!(
        uart.regions().unwrap(),
        [PaRange {
            start: Pa(0x900_0000),
            size: 0x1000
        }]
    );
    assert!(uart.is_compatible("arm,primecell") && !uart.is_compatible("arm,pl01"));
    let gic = uart.interrupt_parent().unwrap();
    assert_eq!(gic.name(), "intc@8000000");
    let spi = Interrupt {
        kind: InterruptKind::Spi,
        intid: 33,
        level: true,
    };
    assert_eq!(uart.interrupts(gic).unwrap(), [spi]);
    assert_eq!(tree.root().name(), "/");
    let cpus = tree.find("/cpus").unwrap();
    assert_eq!(
        cpus.children()
            .filter(|node| node.base_name() == "cpu")
            .count(),
        4
    );
    assert_eq!(
        tree.find("/intc/its").unwrap().regions().unwrap()[0].start,
        Pa(0x808_0000)
    );
    assert_eq!(tree.find("/no/such"), None);
}

/// The index holds what the `fdt` crate's own walk finds, for trees made by QEMU, dtc and vm-fdt.
#[test]
fn agrees_with_the_fdt_crate() {
    for bytes in [
        VIRT_V2,
        VIRT_V3,
        TWO_LINUX,
        &blob(&pi(), &[(0, 0x1000), (0x3000, 0x800)]),
    ] {
        let tree = DeviceTree::new(bytes).unwrap();
        let fdt = fdt::Fdt::new(bytes).unwrap();
        assert_eq!(tree.nodes().count(), fdt.all_nodes().count());
        for (ours, theirs) in tree.nodes().zip(fdt.all_nodes()) {
            assert_eq!(ours.name(), theirs.name);
            let properties: Vec<_> = ours
                .properties()
                .map(|property| (property.name, property.value))
                .collect();
            assert_eq!(
                properties,
                theirs
                    .properties()
                    .map(|property| (property.name, property.value))
                    .collect::<Vec<_>>()
            );
            let children: Vec<_> = ours.children().map(Node::name).collect();
            assert_eq!(
                children,
                theirs
                    .children()
                    .map(|child| child.name)
                    .collect::<Vec<_>>()
            );
        }
    }
}

/// The parts of a Raspberry Pi 4's tree that differ in kind from QEMU virt's.
fn pi() -> Branch {
    let uart = Branch(
        "serial@7e201000",
        vec![
            ("reg", cells(&[0x7e20_1000, 0x200])),
            ("interrupts", cells(&[0, 121, 4])),
            ("phandle", cells(&[7])),
        ],
        vec![],
    );
    let odd = Branch("odd@10", vec![("reg", cells(&[0x10, 4]))], vec![]);
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
                    0x7c00_0000,
                    0,
                    0xfc00_0000,
                    0x200_0000,
                ]),
            ),
            ("interrupt-parent", cells(&[1])),
        ],
        vec![uart, odd],
    );
    let isolated = Branch(
        "i2c",
        vec![],
        vec![Branch("chip@3", vec![("reg", cells(&[0, 3, 1]))], vec![])],
    );
    let wide = Branch(
        "pcie",
        vec![
            ("#address-cells", cells(&[3])),
            ("#size-cells", cells(&[2])),
            ("ranges", flag()),
        ],
        vec![Branch(
            "usb@1",
            vec![("reg", cells(&[0, 0, 1, 0, 4]))],
            vec![],
        )],
    );
    let gic = Branch(
        "gic@40041000",
        vec![("phandle", cells(&[1])), ("interrupt-controller", flag())],
        vec![],
    );
    let extended = Branch(
        "timer@1",
        vec![("interrupts-extended", cells(&[1, 1, 14, 0xf08, 7, 0, 1, 4]))],
        vec![],
    );
    let aliases = Branch(
        "aliases",
        vec![("serial0", text(&["/soc/serial@7e201000"]))],
        vec![],
    );
    Branch(
        "",
        vec![
            ("#address-cells", cells(&[2])),
            ("#size-cells", cells(&[1])),
        ],
        vec![aliases, soc, isolated, wide, gic, extended],
    )
}

#[test]
fn translates_bus_addresses() {
    let bytes = blob(&pi(), &[(0, 0x1000)]);
    let tree = DeviceTree::new(&bytes).unwrap();
    assert_eq!(
        tree.reservations(),
        [PaRange {
            start: Pa(0),
            size: 0x1000
        }]
    );
    let uart = tree.find("serial0:115200").unwrap();
    assert_eq!(
        uart.reg().unwrap(),
        [BusRange {
            start: 0x7e20_1000,
            size: 0x200
        }]
    );
    assert_eq!(
        uart.regions().unwrap(),
        [PaRange {
            start: Pa(0xfe20_1000),
            size: 0x200
        }]
    );
    assert_eq!(tree.by_phandle(7), Some(uart));
    let refused = |path: &str| tree.find(path).unwrap().regions().unwrap_err().to_string();
    assert_eq!(
        refused("/soc/odd"),
        "/soc/odd@10: reg = <16 4>: is not in the CPU's address space"
    );
    assert_eq!(
        refused("/i2c/chip"),
        "/i2c/chip@3: reg = <0 3 1>: is not in the CPU's address space"
    );
    assert_eq!(
        refused("/pcie/usb"),
        "/pcie/usb@1: reg = <0 0 1 0 4>: is on a bus whose addresses or sizes are not of one or two cells; \
         name a device directly on the memory bus"
    );
}

#[test]
fn interrupts_of_the_gic_only() {
    let bytes = blob(&pi(), &[]);
    let tree = DeviceTree::new(&bytes).unwrap();
    let gic = tree.find("/gic").unwrap();
    let uart = tree.find("serial0").unwrap();
    assert_eq!(
        uart.interrupts(gic).unwrap(),
        [Interrupt {
            kind: InterruptKind::Spi,
            intid: 153,
            level: true
        }]
    );
    assert!(
        uart.interrupts(uart)
            .unwrap_err()
            .problem
            .contains("another interrupt controller")
    );
    assert!(
        tree.find("/timer")
            .unwrap()
            .interrupts(gic)
            .unwrap_err()
            .problem
            .contains("another interrupt controller")
    );
    assert_eq!(tree.find("/aliases").unwrap().interrupts(gic).unwrap(), []);
}

#[test]
fn values_as_written() {
    let long = [0x1_0000; 9];
    let root = Branch(
        "",
        vec![
            ("text", text(&["a b"])),
            ("list", text(&["a", "b"])),
            ("zero", cells(&[0])),
            ("long", cells(&long)),
            ("flag", flag()),
            ("empty", text(&[""])),
        ],
        vec![],
    );
    let bytes = blob(&root, &[]);
    let tree = DeviceTree::new(&bytes).unwrap();
    let source = |name: &str| tree.root().property(name).unwrap().as_source();
    assert_eq!(
        (source("text").as_str(), source("list").as_str()),
        ("\"a b\"", "\"a\", \"b\"")
    );
    assert_eq!(
        (
            source("zero").as_str(),
            source("flag").as_str(),
            source("empty").as_str()
        ),
        ("<0>", "", "\"\"")
    );
    assert!(source("long").ends_with(" 0x10000 ...>"));
    let root = tree.root();
    assert_eq!(
        (root.u32("zero"), root.u64("zero"), root.u32("none")),
        (Ok(Some(0)), Ok(Some(0)), Ok(None))
    );
    assert_eq!(
        root.str("list").unwrap_err().to_string(),
        "/: list = \"a\", \"b\": is not one string; write it as \"...\""
    );
    assert_eq!(
        root.require("none").unwrap_err().to_string(),
        "/: none: is missing; add it"
    );
}

/// A blob of this structure block, with the one property name "a".
fn raw(structure: &[u32]) -> Vec<u8> {
    let size = u32::try_from(structure.len() * 4).unwrap();
    let header = [
        0xd00d_feed,
        56 + size + 2,
        56,
        56 + size,
        40,
        17,
        16,
        0,
        2,
        size,
    ];
    let mut bytes: Vec<u8> = header
        .iter()
        .chain(&[0; 4])
        .chain(structure)
        .flat_map(|word| word.to_be_bytes())
        .collect();
    bytes.extend(b"a\0");
    bytes
}

#[test]
fn malformed_structure() {
    const ROOT: [u32; 2] = [1, 0];
    let name = u32::from_be_bytes(*b"x\0\0\0");
    let error = |structure: &[u32]| DeviceTree::new(&raw(&[&ROOT, structure].concat())).err();
    let bad = |offset| Some(BlobError::BadStructure { offset });
    assert_eq!(error(&[2, 9]), None);
    // NOPs may stand anywhere.
    assert_eq!(error(&[4, 3, 0, 0, 4, 1, name, 4, 2, 4, 2, 4, 9]), None);
    assert_eq!(error(&[2]), bad(12));
    assert_eq!(error(&[9]), bad(8));
    assert_eq!(error(&[2, 2, 9]), bad(12));
    assert_eq!(error(&[2, 1, name, 2, 9]), bad(12));
    assert_eq!(error(&[1, name, 2, 3, 0, 0, 2, 9]), bad(20));
    assert_eq!(error(&[3, 8, 0, 0, 2, 9]), bad(28));
    assert_eq!(error(&[3, u32::MAX, 0, 2, 9]), bad(8));
    assert_eq!(error(&[3, 0, 1, 2, 9]), Some(BlobError::BadName));
    assert_eq!(error(&[3, 0, 2, 2, 9]), Some(BlobError::BadName));
    assert_eq!(error(&[1, 0, 2, 2, 9]), Some(BlobError::BadName));
    assert_eq!(
        error(&[1, u32::from_be_bytes(*b"a/b\0"), 2, 2, 9]),
        Some(BlobError::BadName)
    );
    assert_eq!(
        error(&[1, u32::from_be_bytes(*b"aaaa")]),
        Some(BlobError::BadName)
    );
    assert_eq!(error(&[5]), bad(8));
    let deep: Vec<u32> = [1, name].repeat(32);
    assert_eq!(error(&deep), Some(BlobError::TooDeep));
    let many: Vec<u32> = [1, name, 2].repeat(4096);
    assert_eq!(error(&many), Some(BlobError::TooManyNodes));
}

#[test]
fn malformed_header() {
    let good = raw(&[1, 0, 2, 9]);
    let changed = |word: usize, value: u32| {
        let mut bytes = good.clone();
        bytes[word * 4..word * 4 + 4].copy_from_slice(&value.to_be_bytes());
        DeviceTree::new(&bytes).err()
    };
    assert_eq!(changed(0, 0), Some(BlobError::BadMagic));
    assert_eq!(changed(1, 75), Some(BlobError::TooShort));
    assert_eq!(changed(1, 39), Some(BlobError::TooShort));
    assert_eq!(changed(2, u32::MAX), Some(BlobError::BadLayout));
    assert_eq!(changed(2, 57), Some(BlobError::BadLayout));
    assert_eq!(changed(3, 73), Some(BlobError::BadLayout));
    assert_eq!(changed(4, u32::MAX), Some(BlobError::BadLayout));
    assert_eq!(changed(4, 60), Some(BlobError::BadReservations));
    assert_eq!(changed(5, 16), Some(BlobError::BadVersion));
    assert_eq!(changed(6, 18), Some(BlobError::BadVersion));
    assert_eq!(
        DeviceTree::new(&good[..39]).err(),
        Some(BlobError::TooShort)
    );
    assert_eq!(
        DeviceTree::new(&[good.clone(), vec![0xff; 64]].concat()).err(),
        None
    );
}
