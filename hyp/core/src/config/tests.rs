use super::*;
use crate::addr::{MIB, PaRange};
use crate::plan::check;
use crate::testing::{
    Branch, Guest, VIRT_V2, VIRT_V3, archive, arm64_image, cells, flag, header, merge, merge_into,
    text, with_nodes,
};

/// The lines with which these guests are refused on a board of 1 GiB and 4 cores; no archive.
fn refused(guests: &[Guest]) -> Vec<String> {
    lines(&merge(guests))
}

fn lines(dtb: &[u8]) -> Vec<String> {
    check(dtb, None, &[])
        .refusals
        .iter()
        .map(ToString::to_string)
        .collect()
}

fn guest() -> Guest {
    Guest::new("rtos", 1)
}

/// One guest with one property is refused with exactly this line.
#[track_caller]
fn one(name: &str, value: crate::testing::Value, line: &str) {
    assert_eq!(refused(&[guest().with(name, value)]), [line]);
}

#[test]
fn defaults() {
    let dtb = merge(&[guest()]);
    let tree = DeviceTree::new(&dtb).unwrap();
    let board = Board::from_dt(&tree).unwrap();
    let partitions = Partitions::parse(&tree, &board).unwrap();
    assert_eq!(partitions.scrub, ScrubConfig::default());
    let [guest] = partitions.guests.as_slice() else {
        panic!("not one guest")
    };
    assert_eq!(
        (guest.number, guest.name.as_str(), guest.node.as_str()),
        (1, "rtos", "/ballast/rtos@1")
    );
    assert_eq!(
        (
            guest.kernel.as_str(),
            &guest.ramdisk,
            guest.bootargs.as_str()
        ),
        ("rtos", &None, "")
    );
    let size = 64 * MIB;
    assert_eq!(
        guest.memory,
        MemoryConfig {
            boot_bytes: size,
            min_bytes: size,
            max_bytes: size
        }
    );
    assert_eq!(
        guest.cpus,
        CpuConfig {
            boot: 1,
            min: 1,
            max: 1,
            list: vec![]
        }
    );
    assert_eq!((guest.shares, guest.realtime), (100, false));
    assert_eq!(
        (guest.load_address, guest.entry, guest.dtb_address),
        (None, None, None)
    );
}

#[test]
fn everything_at_once() {
    let full = guest()
        .with("ramdisk", text(&["disk"]))
        .with("bootargs", text(&["console=ttyAMA0"]))
        .with("memory-mib", cells(&[96]))
        .with("memory-min-mib", cells(&[32]))
        .with("memory-max-mib", cells(&[256]))
        .with("cpus", cells(&[2]))
        .with("cpus-min", cells(&[1]))
        .with("cpus-max", cells(&[3]))
        .with("cpu-list", cells(&[3, 1]))
        .with("shares", cells(&[300]))
        .with("devices", text(&["/pl031@9010000", "/pl061@9030000"]))
        .with("load-address", cells(&[0x4008_0000]))
        .with("entry", cells(&[0, 0x4008_0004]))
        .with("dtb-address", cells(&[0x4000_0000]))
        .with("extra-ram", cells(&[0, 0, 0, 0x10_0000]))
        .with("raz-windows", cells(&[0, 0x0a00_0000, 0, 0x4000]));
    let mut global = header();
    global.push(("scrub-at-boot", flag()));
    global.push(("scrub-mib-s", cells(&[400])));
    // In the order that a merge leaves: reversed.
    let dtb = merge_into(VIRT_V3, &global, &[Guest::new("second", 2), full]);
    let tree = DeviceTree::new(&dtb).unwrap();
    let board = Board::from_dt(&tree).unwrap();
    let partitions = Partitions::parse(&tree, &board).unwrap();
    assert_eq!(
        partitions.scrub,
        ScrubConfig {
            at_boot: true,
            mib_s: Some(400)
        }
    );
    let [guest, second] = partitions.guests.as_slice() else {
        panic!("not two guests")
    };
    assert_eq!((guest.number, second.number), (1, 2));
    let memory = MemoryConfig {
        boot_bytes: 96 * MIB,
        min_bytes: 32 * MIB,
        max_bytes: 256 * MIB,
    };
    assert_eq!(guest.memory, memory);
    assert_eq!(
        guest.cpus,
        CpuConfig {
            boot: 2,
            min: 1,
            max: 3,
            list: vec![3, 1]
        }
    );
    assert_eq!(guest.entry, Some(Ipa(0x4008_0004)));
    assert_eq!(
        guest.extra_ram,
        [IpaRange {
            start: Ipa(0),
            size: 0x10_0000
        }]
    );
    assert_eq!(
        guest.raz_windows,
        [IpaRange {
            start: Ipa(0x0a00_0000),
            size: 0x4000
        }]
    );
    let [clock, gpio] = guest.devices.as_slice() else {
        panic!("not two devices")
    };
    assert_eq!(
        (clock.name.as_str(), clock.clocks_hz.as_slice()),
        ("pl031@9010000", [24_000_000].as_slice())
    );
    assert_eq!(
        clock
            .interrupts
            .iter()
            .map(|interrupt| interrupt.intid)
            .collect::<Vec<_>>(),
        [34]
    );
    assert_eq!(
        gpio.regions,
        [PaRange {
            start: crate::addr::Pa(0x903_0000),
            size: 0x1000
        }]
    );
    let names: Vec<&str> = gpio
        .properties
        .iter()
        .map(|(name, _)| name.as_str())
        .collect();
    assert!(
        names.contains(&"gpio-controller")
            && names.contains(&"clock-names")
            && !names.contains(&"reg")
    );
}

#[test]
fn partitions_node() {
    assert_eq!(
        lines(VIRT_V2),
        [
            "/ballast: is missing, so there are no guests; merge a partitions overlay into the device tree"
        ]
    );
    assert_eq!(
        lines(&merge(&[])),
        ["/ballast: has no guests; add a node with compatible = \"ballast,guest\""]
    );
    let global = [
        ("compatible", text(&["ballast,partition"])),
        ("#address-cells", cells(&[2])),
        ("scrub_at_boot", flag()),
        ("scrub-at-boot", cells(&[1])),
        ("scrub-mib-s", cells(&[0])),
    ];
    assert_eq!(
        lines(&merge_into(VIRT_V3, &global, &[guest()])),
        [
            "/ballast: scrub_at_boot: is no property of this binding; did you mean scrub-at-boot?",
            "/ballast: compatible = \"ballast,partition\": does not name \"ballast,partitions\"; write compatible = \"ballast,partitions\"",
            "/ballast: #address-cells = <2>: does not fit the guests' reg; write #address-cells = <1>",
            "/ballast: #size-cells: is missing; write #size-cells = <0>",
            "/ballast: scrub-at-boot = <1>: has a value; write scrub-at-boot; to turn it on, or leave it out",
            "/ballast: scrub-mib-s = <0>: is no bandwidth in MiB a second; choose one from 1 to 65536, or leave it out for no limit",
        ]
    );
}

#[test]
fn numbers_and_names() {
    one(
        "reg",
        cells(&[2]),
        "/ballast/rtos@1: reg = <2>: is not the unit address of rtos@1; call the node rtos@2",
    );
    assert_eq!(
        refused(&[Guest::new("rtos", 10).named("rtos@a")]),
        ["/ballast/rtos@a: reg = <10>: is no guest number; choose one from 1 to 9"]
    );
    assert_eq!(
        refused(&[guest().without("reg")]),
        [
            "/ballast/rtos@1: reg: is missing; write reg = <N>, N from 1 to 9: the guest's number and place in the order"
        ]
    );
    assert_eq!(
        refused(&[guest(), Guest::new("other", 1)]),
        [
            "/ballast/other@1: reg = <1>: is also the number of /ballast/rtos@1; choose another number from 1 to 9"
        ]
    );
    assert_eq!(
        refused(&[guest(), Guest::new("rtos", 2)]),
        [
            "/ballast/rtos@2: has the same name as /ballast/rtos@1; give each guest a name of its own"
        ]
    );
    for name in ["ballast", "Ballast"] {
        assert_eq!(
            refused(&[Guest::new(name, 1)]),
            [format!(
                "/ballast/{name}@1: has the name that Ballast's own lines carry on the console; rename it"
            )]
        );
    }
    for name in ["1st", "a]b"] {
        let mut dtb = merge(&[Guest::new(&"x".repeat(name.len()), 1)]);
        let is_end = |bytes: &[u8]| bytes == b"xx@1";
        let at = dtb.windows(4).position(is_end).unwrap() + 2 - name.len();
        dtb[at..at + name.len()].copy_from_slice(name.as_bytes());
        assert_eq!(
            lines(&dtb),
            [format!(
                "/ballast/{name}@1: is no guest name: a letter first, at most 31 letters, digits and ,._+-; rename it"
            )]
        );
    }
    assert!(refused(&[Guest::new("a,1._+-Z", 1)]).is_empty());
    assert_eq!(
        refused(&[guest().without("compatible")]),
        [
            "/ballast/rtos@1: compatible: does not name \"ballast,guest\"; write compatible = \"ballast,guest\""
        ]
    );
}

#[test]
fn property_names() {
    one(
        "memory-max",
        cells(&[64]),
        "/ballast/rtos@1: memory-max = <64>: is no property of this binding; did you mean memory-max-mib?",
    );
    one(
        "colour",
        text(&["blue"]),
        "/ballast/rtos@1: colour = \"blue\": is no property of this binding; remove it; docs/binding.md lists all properties",
    );
    one(
        "housekeeping",
        flag(),
        "/ballast/rtos@1: housekeeping: is not supported yet; remove it",
    );
}

#[test]
fn types() {
    one(
        "kernel",
        cells(&[1]),
        "/ballast/rtos@1: kernel = <1>: is not one string; write it as \"...\"",
    );
    one(
        "memory-mib",
        text(&["64"]),
        "/ballast/rtos@1: memory-mib = \"64\": is not made of 32-bit cells; write it as <...>",
    );
    one(
        "cpus",
        cells(&[1, 2]),
        "/ballast/rtos@1: cpus = <1 2>: is not one 32-bit cell; write it as <N>",
    );
    one(
        "realtime",
        cells(&[1]),
        "/ballast/rtos@1: realtime = <1>: has a value; write realtime; to turn it on, or leave it out",
    );
    one(
        "load-address",
        cells(&[0, 1, 2]),
        "/ballast/rtos@1: load-address = <0 1 2>: is neither one nor two 32-bit cells; write it as <N> or <HIGH LOW>",
    );
}

#[test]
fn memory() {
    assert_eq!(
        refused(&[guest().without("memory-mib")]),
        [
            "/ballast/rtos@1: memory-mib: is missing; write memory-mib = <N>, the RAM to boot with, in MiB"
        ]
    );
    one(
        "memory-mib",
        cells(&[63]),
        "/ballast/rtos@1: memory-mib = <63>: is not a multiple of 2 MiB from 4 on; write memory-mib = <64>",
    );
    one(
        "memory-min-mib",
        cells(&[66]),
        "/ballast/rtos@1: memory-min-mib = <66>: is above memory-mib = <64>; choose at most 64, or raise memory-mib",
    );
    one(
        "memory-max-mib",
        cells(&[62]),
        "/ballast/rtos@1: memory-max-mib = <62>: is below memory-mib = <64>; choose at least 64, or lower memory-mib",
    );
    one(
        "memory-max-mib",
        cells(&[64 << 10]),
        "/ballast/rtos@1: memory-max-mib = <0x10000>: is beyond the guest's address space; choose at most 64512",
    );
    assert_eq!(
        refused(&[
            guest().with("memory-mib", cells(&[512])),
            Guest::new("b", 2).with("memory-mib", cells(&[514]))
        ]),
        [
            "/ballast: memory-mib: guests ask for 1026 MiB (rtos 512, b 514), the board has 1024 MiB for them; \
          lower memory-mib by 2 MiB in all; memory-max-mib may stay"
        ]
    );
    let grown = guest()
        .with("memory-max-mib", cells(&[2048]))
        .with("cpus-max", cells(&[5]));
    let warnings = check(&merge(&[grown]), None, &[]).warnings;
    assert_eq!(
        warnings.iter().map(ToString::to_string).collect::<Vec<_>>(),
        [
            "/ballast/rtos@1: memory-max-mib = <2048>: is above the 1024 MiB that the board has for all guests; lower it",
            "/ballast/rtos@1: cpus-max = <5>: is above the 4 cores that the board has for all guests; lower it",
        ]
    );
}

#[test]
fn cores() {
    one(
        "cpus",
        cells(&[9]),
        "/ballast/rtos@1: cpus = <9>: is no number of CPUs a guest can have; choose one from 1 to 8",
    );
    one(
        "cpus-min",
        cells(&[2]),
        "/ballast/rtos@1: cpus-min = <2>: is above cpus = <1>; choose at most 1, or raise cpus",
    );
    let two = guest().with("cpus", cells(&[2]));
    assert_eq!(
        refused(&[two.clone().with("cpus-max", cells(&[1]))]),
        ["/ballast/rtos@1: cpus-max = <1>: is below cpus = <2>; choose at least 2, or lower cpus"]
    );
    assert_eq!(
        refused(&[two.clone().with("cpu-list", cells(&[0]))]),
        [
            "/ballast/rtos@1: cpu-list = <0>: does not list one core for each of cpus = <2>; list at least 2"
        ]
    );
    assert_eq!(
        refused(&[two.clone().with("cpu-list", cells(&[0, 4]))]),
        [
            "/ballast/rtos@1: cpu-list = <0 4>: names a core that the board does not have, it has 4; choose from 0 to 3"
        ]
    );
    assert_eq!(
        refused(&[two.clone().with("cpu-list", cells(&[1, 1]))]),
        ["/ballast/rtos@1: cpu-list = <1 1>: names a core twice; name each once",]
    );
    let other = Guest::new("b", 2).with("cpu-list", cells(&[1]));
    assert_eq!(
        refused(&[two.clone().with("cpu-list", cells(&[0, 1])), other]),
        [
            "/ballast/b@2: cpu-list = <1>: has core 1, which /ballast/rtos@1 has too; give each core to one guest"
        ]
    );
    assert_eq!(
        refused(&[two.clone(), Guest::new("b", 2).with("cpus", cells(&[3]))]),
        [
            "/ballast: cpus: guests ask for 5 cores, the board has 4 (rtos 2, b 3); lower cpus of some guests"
        ]
    );
    assert_eq!(
        refused(&[two.with("cpus-max", cells(&[3])).with("realtime", flag())]),
        [
            "/ballast/rtos@1: cpus-max = <3>: contradicts realtime, which fixes memory and cores; remove one of the two"
        ]
    );
    let busy = guest()
        .with("scrub-when-idle", flag())
        .with("realtime", flag());
    assert_eq!(
        refused(&[busy]),
        [
            "/ballast/rtos@1: scrub-when-idle: contradicts realtime, whose cores do nothing else; remove one of the two"
        ]
    );
}

#[test]
fn addresses() {
    one(
        "entry",
        cells(&[0x4000_0000]),
        "/ballast/rtos@1: entry = <0x40000000>: needs load-address; add load-address for a raw binary, or remove entry",
    );
    one(
        "dtb-address",
        cells(&[0x4000_0004]),
        "/ballast/rtos@1: dtb-address = <0x40000004>: is not aligned to 8 bytes, for a device tree of up to 64 KiB; use a multiple of 8",
    );
    one(
        "dtb-address",
        cells(&[0x10, 0]),
        "/ballast/rtos@1: dtb-address = <16 0>: is beyond the guest's address space; choose one below 0x1000000000",
    );
    one(
        "extra-ram",
        cells(&[0, 0, 0]),
        "/ballast/rtos@1: extra-ram = <0 0 0>: is not made of address and size pairs; write an address and a size of two cells each, as in <0x0 0x80000000 0x0 0x100000>",
    );
    one(
        "extra-ram",
        cells(&[0, 0x800, 0, 0x1000]),
        "/ballast/rtos@1: extra-ram = <0 2048 0 4096>: has a range (0x800, 0x1000 bytes) that is not of whole pages below 0x1000000000; use multiples of 0x1000",
    );
    one(
        "extra-ram",
        cells(&[0, 0x4200_0000, 0, 0x1000]),
        "/ballast/rtos@1: extra-ram = <0 0x42000000 0 4096>: lies on the guest's RAM up to memory-max-mib (0x42000000-0x42001000); choose another address",
    );
    one(
        "raz-windows",
        cells(&[0, 0x0900_0000, 0, 0x1000]),
        "/ballast/rtos@1: raz-windows = <0 0x9000000 0 4096>: lies on the console UART (0x9000000-0x9001000); choose another address",
    );
}

#[test]
fn devices() {
    let line = |value: &str, rest: &str| format!("/ballast/rtos@1: devices = \"{value}\": {rest}");
    let dma = "may do DMA, which reaches all memory of the board, as it has no IOMMU; \
               write dma = \"trusted\" if the guest is trusted with that, or name a device without DMA";
    let cases = [
        ("/virtio_mmio@a003e00", dma),
        (
            "/nothing@1",
            "is no node of the board; give the full path of a device in the board's device tree",
        ),
        (
            "pl031@9010000",
            "is no node of the board; give the full path of a device in the board's device tree",
        ),
        (
            "/gpio-keys",
            "has no registers; name a device with a reg property",
        ),
        (
            "/pl011@9000000",
            "is the console UART, which Ballast drives; remove it",
        ),
    ];
    for (path, rest) in cases {
        assert_eq!(
            refused(&[guest().with("devices", text(&[path]))]),
            [line(path, rest)]
        );
    }
    let clock = "/pl031@9010000";
    assert_eq!(
        refused(&[guest().with("devices", text(&[clock, clock]))]),
        [line(clock, "is listed twice; list it once")]
    );
    let first = guest().with("devices", text(&[clock]));
    assert_eq!(
        refused(&[
            first.clone(),
            Guest::new("b", 2).with("devices", text(&[clock]))
        ]),
        [
            "/ballast/b@2: devices = \"/pl031@9010000\": is already given to /ballast/rtos@1; give it to one guest"
        ]
    );
    assert!(refused(&[first]).is_empty());
}

/// A GPIO controller, which does no DMA.
fn gpio(name: &'static str, address: u32, interrupt: [u32; 3]) -> Branch {
    let properties = vec![
        ("compatible", text(&["arm,pl061"])),
        ("reg", cells(&[0, address, 0, 0x800])),
        ("interrupts", cells(&interrupt)),
    ];
    Branch(name, properties, vec![])
}

/// What Ballast drives itself cannot be given; neighbours that nobody has are named.
#[test]
fn devices_beside_others() {
    let board = with_nodes(
        VIRT_V3,
        &[
            gpio("a@9040000", 0x904_0000, [0, 9, 4]),
            gpio("b@9040800", 0x904_0800, [0, 10, 4]),
            gpio("c@9050000", 0x905_0000, [0, 9, 4]),
            gpio("balloon@9060000", 0x906_0000, [0, 12, 4]),
            gpio("uart@9070000", 0x907_0000, [0, 1, 4]),
            gpio("private@9080000", 0x908_0000, [1, 5, 4]),
            gpio("far@9090000", 0x909_0000, [0, 230, 4]),
            gpio("low@80b0000", 0x80b_0000, [0, 20, 4]),
            gpio("ram@40000000", 0x4000_0000, [0, 20, 4]),
            gpio("gic@8000800", 0x800_0800, [0, 20, 4]),
        ],
    );
    let report = |guests: &[Guest]| check(&merge_into(&board, &header(), guests), None, &[]);
    let line = |refusals: &[Refusal]| {
        refusals
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join("\n")
    };
    let with = |path: &str| guest().with("devices", text(&[path]));
    let alone = report(&[with("/a@9040000")]);
    assert_eq!(
        (
            line(&alone.refusals).as_str(),
            line(&alone.warnings).as_str()
        ),
        (
            "",
            "/ballast/rtos@1: devices = \"/a@9040000\": also gives access to /b@9040800, which is in the same 4 KiB page"
        )
    );
    let both = report(&[guest().with("devices", text(&["/a@9040000", "/b@9040800"]))]);
    assert_eq!((both.refusals, both.warnings), (vec![], vec![]));
    let own = [
        (
            "/balloon@9060000",
            "has interrupt 44, which Ballast's own devices use in every guest; remove it",
        ),
        (
            "/uart@9070000",
            "has interrupt 33, which Ballast's own devices use in every guest; remove it",
        ),
        (
            "/private@9080000",
            "has a private interrupt (21); name a device with SPIs",
        ),
        (
            "/far@9090000",
            "has interrupt 262, beyond the 256 that a guest's interrupt controller has; remove it",
        ),
        (
            "/low@80b0000",
            "is the interrupt controller, which Ballast drives; remove it",
        ),
        ("/ram@40000000", "is RAM; use memory-mib or extra-ram"),
        (
            "/gic@8000800",
            "is the interrupt controller, which Ballast drives; remove it",
        ),
    ];
    for (path, rest) in own {
        let expected = format!("/ballast/rtos@1: devices = \"{path}\": {rest}");
        assert_eq!(line(&report(&[with(path)]).refusals), expected);
    }
    // In the guest's address space a bank lies where the device is.
    let bank = with("/a@9040000").with("extra-ram", cells(&[0, 0x904_0000, 0, 0x1000]));
    assert_eq!(
        line(&report(&[bank]).refusals),
        "/ballast/rtos@1: devices = \"/a@9040000\": has /a@9040000 at 0x9040000, where a range of extra-ram is in the \
         guest; remove the device, or move what it lies on"
    );
}

#[test]
fn a_disabled_guest_is_not_there() {
    let off = Guest::new("rtos", 2)
        .with("status", text(&["disabled"]))
        .without("kernel");
    assert!(refused(&[guest(), off.clone()]).is_empty());
    assert_eq!(
        refused(&[off]),
        ["/ballast: has no guests; add a node with compatible = \"ballast,guest\""]
    );
}

/// What the boot archive decides.
mod files {
    use super::*;

    fn refused_with(guest: Guest, files: &[(&str, &[u8])]) -> Vec<String> {
        let report = check(&merge(&[guest]), Some(&archive(files)), &[]);
        assert_eq!(report.plan.is_some(), report.refusals.is_empty());
        report.refusals.iter().map(ToString::to_string).collect()
    }

    fn kernel(line: &str) -> [String; 1] {
        [format!("/ballast/rtos@1: kernel = \"rtos\": {line}")]
    }

    #[test]
    fn missing() {
        assert_eq!(
            refused_with(guest(), &[("linux", b""), ("disk", b"")]),
            kernel(
                "is not in the boot archive, which has linux, disk; add it, or correct the name"
            )
        );
        assert_eq!(
            refused_with(guest().with("ramdisk", text(&["disk"])), &[("rtos", b"")]),
            [
                "/ballast/rtos@1: ramdisk = \"disk\": is not in the boot archive, which has rtos; add it, or correct the name"
            ]
        );
    }

    #[test]
    fn other_kinds() {
        let cases: [(&[u8], &str); 4] = [
            (
                b"\x1f\x8b\x08",
                "is compressed with gzip; unpack it; `cargo xtask` does so for gzip when it makes the archive",
            ),
            (
                b"#!/bin/sh",
                "is a script, not an arm64 Image or an ELF64 file; give load-address (and entry) for a raw binary, or another file",
            ),
            (
                b"",
                "is empty, not an arm64 Image or an ELF64 file; give load-address (and entry) for a raw binary, or another file",
            ),
            (
                b"\x7fELF",
                "is an ELF file that is cut short; link it statically for AArch64, or give an arm64 Image",
            ),
        ];
        for (file, line) in cases {
            assert_eq!(refused_with(guest(), &[("rtos", file)]), kernel(line));
        }
        let big_endian = arm64_image(4096, 0, 4096, 1);
        assert_eq!(
            refused_with(guest(), &[("rtos", &big_endian)]),
            kernel("is a big-endian arm64 Image; build it little-endian")
        );
    }

    #[test]
    fn too_large() {
        let image = arm64_image(4096, 0, 80 << 20, 0);
        assert_eq!(
            refused_with(guest(), &[("rtos", &image)]),
            kernel(
                "does not fit: the kernel at 0x40000000-0x45000000 is not within the memory at boot, \
                 0x40000000-0x44000000; raise memory-mib, or link or load it within the guest's RAM"
            )
        );
        let image = arm64_image(4096, 0, 3 << 20, 0);
        assert_eq!(
            refused_with(
                guest().with("memory-min-mib", cells(&[4])),
                &[("rtos", &image)]
            ),
            [
                "/ballast/rtos@1: memory-min-mib = <4>: is too little to start \"rtos\" with after a reset: it does not fit: \
              the device tree at 0x40400000-0x40410000 is not within the memory at boot, 0x40000000-0x40400000; \
              raise memory-min-mib"
            ]
        );
    }

    /// Linux needs 64 MiB and its page structs; a small system does not.
    #[test]
    fn linux_floor() {
        let linux = arm64_image(4096, 0, 30 << 20, 0);
        let files: [(&str, &[u8]); 1] = [("rtos", &linux)];
        let grown = guest().with("memory-max-mib", cells(&[640]));
        assert_eq!(
            refused_with(grown.clone(), &files),
            [
                "/ballast/rtos@1: memory-mib = <64>: is too little for Linux with memory-max-mib = <640>: \
              it needs 64 + 640/64 = 74 MiB; write memory-mib = <74> or more, or lower memory-max-mib"
            ]
        );
        let low = grown
            .clone()
            .with("memory-mib", cells(&[128]))
            .with("memory-min-mib", cells(&[72]));
        assert_eq!(
            refused_with(low, &files),
            [
                "/ballast/rtos@1: memory-min-mib = <72>: is too little for Linux with memory-max-mib = <640>: \
              it needs 64 + 640/64 = 74 MiB; write memory-min-mib = <74> or more, or lower memory-max-mib"
            ]
        );
        let small = arm64_image(4096, 0, 1 << 20, 0);
        let sixteen = grown.with("memory-mib", cells(&[16]));
        assert!(refused_with(sixteen, &[("rtos", &small)]).is_empty());
    }
}

/// The binding's documentation has every property.
#[test]
fn documented() {
    let binding = include_str!("../../../../docs/binding.md");
    let guest = guest::PROPERTIES
        .iter()
        .chain(&GLOBAL_PROPERTIES)
        .chain(&channel::PROPERTIES);
    for name in guest.map(names::Known::name) {
        assert!(
            binding.contains(&format!("`{name}`")),
            "{name} is not in docs/binding.md"
        );
    }
}

#[test]
fn user_balloon() {
    let small = guest().with("user-balloon", cells(&[]));
    let dtb = merge(core::slice::from_ref(&small));
    let tree = DeviceTree::new(&dtb).unwrap();
    let board = Board::from_dt(&tree).unwrap();
    let config = Partitions::parse(&tree, &board).unwrap().guests.remove(0);
    assert_eq!(config.machine.messages, crate::machine::MESSAGES);
    let grows = small.clone().with("memory-max-mib", cells(&[256]));
    let said = refused(&[grows]);
    assert!(
        said[0].contains("less than its maximum of 256 MiB"),
        "{said:?}"
    );
    assert!(said[0].contains("memory-mib = <256>"), "{said:?}");
    let primary = small
        .clone()
        .with("primary", cells(&[]))
        .with("dma", text(&["trusted"]))
        .with("board", text(&["trusted"]));
    let said = refused(&[primary]);
    assert!(said[0].contains("has the board's UARTs"), "{said:?}");
    let window = cells(&[0, 0x0904_0000, 0, 0x1000]);
    let said = refused(&[small.with("raz-windows", window)]);
    assert!(said[0].contains("lies on the balloon's UART"), "{said:?}");
}

#[test]
fn a_guest_that_tests_the_board_is_alone() {
    let test = || guest().with("self-test", flag());
    let parse = |guests: &[Guest]| {
        let dtb = merge(guests);
        let tree = DeviceTree::new(&dtb).unwrap();
        let board = Board::from_dt(&tree).unwrap();
        Partitions::parse(&tree, &board)
            .map(|partitions| partitions.guests)
            .map_err(|refusals| {
                let lines: Vec<String> = refusals.iter().map(ToString::to_string).collect();
                lines.join("\n")
            })
    };
    // A device that does DMA needs no trust, and the guest's RAM is not the board's.
    let alone = test().with("devices", text(&["/virtio_mmio@a003e00"]));
    let found = parse(&[alone]).unwrap();
    assert!(found[0].self_test && !found[0].is_identity());
    let refused = parse(&[test(), Guest::new("second", 2)]).unwrap_err();
    assert!(
        refused.contains("self-test") && refused.contains("needs the board to itself"),
        "{refused}"
    );
    let primary = test()
        .with("primary", flag())
        .with("dma", text(&["trusted"]))
        .with("board", text(&["trusted"]));
    let refused = parse(&[primary]).unwrap_err();
    assert!(refused.contains("is of no use"), "{refused}");
}

#[test]
fn trust() {
    let trusted = guest()
        .with("dma", text(&["trusted"]))
        .with("on-reset", text(&["board"]))
        .with("devices", text(&["/virtio_mmio@a003e00"]));
    let parse = |guest: Guest| {
        let dtb = merge(&[guest]);
        let tree = DeviceTree::new(&dtb).unwrap();
        let board = Board::from_dt(&tree).unwrap();
        Partitions::parse(&tree, &board).unwrap().guests.remove(0)
    };
    let config = parse(trusted.clone());
    assert!(config.is_identity() && config.dma_trusted && !config.board_trusted);
    assert_eq!(config.on_reset, OnReset::Board);
    let config = parse(guest().with("board", text(&["trusted"])));
    assert!(!config.is_identity() && config.board_trusted);
    assert_eq!(config.on_reset, OnReset::Guest);

    let bank = cells(&[0, 0, 0, 0x10_0000]);
    let line = "/ballast/rtos@1: extra-ram = <0 0 0 0x100000>: \
                is not to be had by a guest whose RAM lies where the board has it; remove it";
    assert_eq!(refused(&[trusted.clone().with("extra-ram", bank)]), [line]);
    let firmware = text(&["/fw-cfg@9020000"]);
    let line = "/ballast/rtos@1: devices = \"/fw-cfg@9020000\": has power over the whole board; \
                write board = \"trusted\" if the guest is trusted with that, or remove it";
    assert_eq!(refused(&[trusted.with("devices", firmware)]), [line]);
    one(
        "dma",
        text(&["yes"]),
        "/ballast/rtos@1: dma = \"yes\": is not \"trusted\"; write dma = \"trusted\", or leave it out",
    );
    one(
        "on-reset",
        text(&["nothing"]),
        "/ballast/rtos@1: on-reset = \"nothing\": is neither \"guest\" nor \"board\"; \
         write on-reset = \"guest\" or \"board\"",
    );
}

#[test]
fn primary() {
    let trusted = |name: &str, number| {
        Guest::new(name, number)
            .with("primary", flag())
            .with("dma", text(&["trusted"]))
            .with("board", text(&["trusted"]))
    };
    assert_eq!(refused(&[trusted("a", 1)]), [""; 0]);
    let line = "/ballast/b@2: primary: is also said of /ballast/a@1, and the board's devices go to one guest; \
                remove it from /ballast/b@2, which may be given devices by path";
    assert_eq!(refused(&[trusted("a", 1), trusted("b", 2)]), [line]);
    let line = "/ballast/a@1: devices = \"/pl031@9010000\": is not needed: a primary guest has every device that \
                no other guest has; remove it";
    let devices = text(&["/pl031@9010000"]);
    assert_eq!(refused(&[trusted("a", 1).with("devices", devices)]), [line]);
    let lines = [
        "/ballast/a@1: dma: is missing: /fw-cfg@9020000 may do DMA, which reaches all memory of the board, as it has \
         no IOMMU; write dma = \"trusted\" if this guest is trusted with that",
        "/ballast/a@1: board: is missing: /fw-cfg@9020000 has power over the whole board; \
         write board = \"trusted\" if this guest is trusted with that",
    ];
    assert_eq!(
        refused(&[trusted("a", 1).without("dma").without("board")]),
        lines
    );

    let line = "/ballast/a@1: withhold = \"/nowhere\": is no node of the board; \
                give the full path of a device in the board's device tree";
    let withheld = |guest: Guest, path| guest.with("withhold", text(&[path]));
    assert_eq!(refused(&[withheld(trusted("a", 1), "/nowhere")]), [line]);
    let line = "/ballast/a@1: withhold = \"/fw-cfg@9020000\": is for a primary guest; \
                others have only what devices names; remove it";
    assert_eq!(
        refused(&[withheld(Guest::new("a", 1), "/fw-cfg@9020000")]),
        [line]
    );
    // Without it nothing has power over the board.
    let alone = trusted("a", 1).without("board");
    assert_eq!(refused(&[withheld(alone, "/fw-cfg@9020000")]), [""; 0]);

    // Claims are disjoint, and up to the maximum.
    let big = |guest: Guest| guest.with("memory-max-mib", cells(&[600]));
    let other = Guest::new("b", 2).with("dma", text(&["trusted"]));
    let line = "/ballast/b@2: memory-max-mib = <600>: is more than the 424 MiB of the board's memory that a does not \
                claim, and this guest has its memory where the board has it; \
                lower memory-max-mib, of others that claim memory too";
    assert_eq!(refused(&[big(trusted("a", 1)), big(other)]), [line]);
}
