//! Memory that guests share: what is refused, and where it is placed.

use super::*;
use crate::addr::{BLOCK_SIZE, PAGE_SIZE};
use crate::board::subtract;
use crate::config::Access;
use crate::testing::text;

/// Shared memory between guests 1 and 2.
fn shared(name: &str, size: u32) -> Guest {
    let node = Guest::new("x", 1).named(name);
    ["reg", "kernel", "memory-mib"]
        .iter()
        .fold(node, |node, name| node.without(name))
        .with("compatible", text(&["ballast,shared-memory"]))
        .with("size", cells(&[size]))
        .with("guests", cells(&[1, 2]))
        .with("access", text(&["read-write", "read-only"]))
}

fn two_guests_and(more: &[Guest]) -> Vec<u8> {
    let mut all = vec![Guest::new("linux", 1), Guest::new("rtos", 2)];
    all.extend_from_slice(more);
    crate::testing::merge(&all)
}

fn planned(dtb: &[u8]) -> BootPlan {
    let kernel = arm64_image(4096, 0, 1 << 20, 0);
    let report = check(dtb, Some(&archive(&[("rtos", &kernel)])), &[]);
    assert_eq!(report.refusals, []);
    report.plan.unwrap()
}

fn lines(nodes: &[Guest]) -> Vec<String> {
    let report = check(&two_guests_and(nodes), None, &[]);
    report.refusals.iter().map(ToString::to_string).collect()
}

/// One node with one property otherwise is refused with exactly this line.
#[track_caller]
fn one(name: &str, value: crate::testing::Value, line: &str) {
    assert_eq!(lines(&[shared("ring", 0x1000).with(name, value)]), [line]);
}

#[test]
fn wrong_nodes_are_refused() {
    one(
        "size",
        cells(&[0x1001]),
        "/ballast/ring: size = <4097>: is not whole pages of 4096 bytes, up to 0x4000000; write size = <0x2000>",
    );
    for (size, shown, up) in [(0, "0", 0x1000), (0x400_1000, "0x4001000", 0x400_0000)] {
        one(
            "size",
            cells(&[size]),
            &format!(
                "/ballast/ring: size = <{shown}>: is not whole pages of 4096 bytes, up to 0x4000000; write size = <{up:#x}>"
            ),
        );
    }
    let guests = "write guests = <A B>, the numbers of two guests";
    for (cells_, shown, problem) in [
        (&[1][..], "<1>", "does not name two guests"),
        (&[1, 2, 3], "<1 2 3>", "does not name two guests"),
        (&[2, 2], "<2 2>", "names one guest twice"),
    ] {
        let line = format!("/ballast/ring: guests = {shown}: {problem}; {guests}");
        one("guests", cells(cells_), &line);
    }
    one(
        "guests",
        cells(&[1, 3]),
        "/ballast/ring: guests = <1 3>: names guest 3, which there is not; name two guests of this configuration",
    );
    one(
        "guests",
        cells(&[1, 258]),
        "/ballast/ring: guests = <1 258>: names a guest that there is not; guests have numbers from 1 to 9",
    );
    let access =
        "write access = \"read-write\", \"read-only\", what the first and the second guest may do";
    for words in [
        &["read-write"][..],
        &["read-write", "rw"],
        &["read-write"; 3],
    ] {
        let shown = words.join("\", \"");
        let line = format!(
            "/ballast/ring: access = \"{shown}\": is not one right for each of the two guests; {access}"
        );
        one("access", text(words), &line);
    }
    one(
        "access",
        text(&["read-only", "read-only"]),
        &format!(
            "/ballast/ring: access = \"read-only\", \"read-only\": lets nobody write; {access}"
        ),
    );
    one(
        "reg",
        cells(&[1]),
        "/ballast/ring: reg = <1>: is no property of this binding; remove it; docs/binding.md lists all properties",
    );
    for missing in ["size", "guests", "access"] {
        let said = lines(&[shared("ring", 0x1000).without(missing)]);
        assert!(
            said.len() == 1 && said[0].starts_with(&format!("/ballast/ring: {missing}: ")),
            "{said:?}"
        );
    }
    assert_eq!(
        lines(&[shared("ring@1", 0x1000)]),
        [
            "/ballast/ring@1: is no channel name: a letter first, at most 31 letters, digits and ,._+-; call it ring"
        ]
    );
}

#[test]
fn addresses_that_are_taken_are_refused() {
    one(
        "address",
        cells(&[0x0900_0000]),
        "/ballast/ring: address = <0x9000000>: lies on the console UART (0x9000000-0x9001000); \
         choose another address, or leave it out",
    );
    one(
        "address",
        cells(&[0x4200_0000]),
        "/ballast/ring: address = <0x42000000>: lies on RAM up to memory-max-mib (0x40000000-0x44000000); \
         choose another address, or leave it out",
    );
    one(
        "address",
        cells(&[0x5000_0800]),
        "/ballast/ring: address = <0x50000800>: is not aligned for 0x1000 bytes; use a multiple of 0x1000",
    );
    one(
        "address",
        cells(&[0x10, 0]),
        "/ballast/ring: address = <16 0>: is beyond the guest's address space; choose one below 0x1000000000",
    );
    let at = |name, address| shared(name, 0x20_0000).with("address", cells(&[address]));
    assert_eq!(
        lines(&[at("a", 0x5000_0000), at("b", 0x5000_0000)]),
        [
            "/ballast/b: address = <0x50000000>: lies on other shared memory (0x50000000-0x50200000); \
             choose another address, or leave it out"
        ]
    );
}

#[test]
fn too_much_is_refused() {
    let many: Vec<Guest> = (0..17).map(|n| shared(&format!("c{n}"), 0x1000)).collect();
    assert!(
        lines(&many).contains(
            &"/ballast: has 17 pieces of shared memory, more than the 16 that there can be; \
              use one for several purposes"
                .to_string()
        )
    );
    // 13 of 64 MiB do not fit between 0x1000_0000 and RAM, nor beside the guests on the board.
    let large: Vec<Guest> = (0..13)
        .map(|n| shared(&format!("c{n}"), 0x400_0000))
        .collect();
    let said = lines(&large);
    assert!(
        said.iter().any(|line| line.contains("finds no room at")),
        "{said:?}"
    );
    let wide = Guest::new("linux", 1).with("memory-mib", cells(&[1020]));
    let dtb = crate::testing::merge(&[wide, Guest::new("rtos", 2), shared("ring", 0x20_0000)]);
    let said = check(&dtb, None, &[]).refusals;
    assert!(
        said[0].problem.contains("the board has 1022 MiB for them"),
        "{said:?}"
    );
}

#[test]
fn each_has_a_place_of_its_own() {
    let nodes = [
        shared("telemetry", 0x30_0000).with("guests", cells(&[2, 1])),
        shared("setpoints", 0x1000),
        shared("fixed", 0x2000).with("address", cells(&[0x5000_0000])),
        shared("off", 0x1000).with("status", text(&["disabled"])),
    ];
    let plan = planned(&two_guests_and(&nodes));
    let ends: Vec<_> = plan
        .channels
        .iter()
        .map(|channel| {
            let [one, two] = &channel.ends;
            assert_eq!((one.ipa, one.spi), (two.ipa, two.spi));
            assert_eq!((one.pa, two.pa), (channel.pa.start, channel.pa.start));
            assert_eq!(one.ipa.size, channel.pa.size);
            let rights = (one.guest, one.access, two.guest, two.access);
            (
                one.label.as_str(),
                one.number,
                one.ipa.start.0,
                one.spi,
                rights,
            )
        })
        .collect();
    let rights = |one, two| (one, Access::ReadWrite, two, Access::ReadOnly);
    assert_eq!(
        ends,
        [
            ("fixed", 0, 0x5000_0000, 192, rights(0, 1)),
            ("setpoints", 1, 0x1000_0000, 193, rights(0, 1)),
            ("telemetry", 2, 0x1020_0000, 194, rights(1, 0)),
        ]
    );
    // On the board they overlap nothing, least of all what the guests' RAM comes from.
    let places: Vec<PaRange> = plan.channels.iter().map(|channel| channel.pa).collect();
    for (index, place) in places.iter().enumerate() {
        assert!(place.start.is_aligned(PAGE_SIZE));
        assert!(!plan.free.iter().any(|free| free.overlaps(*place)));
        assert!(!places[..index].iter().any(|other| other.overlaps(*place)));
    }
    assert!(places[2].start.is_aligned(BLOCK_SIZE));
    let all: Vec<PaRange> = plan.free.iter().chain(&places).copied().collect();
    let board = [PaRange {
        start: Pa(0x4000_0000),
        size: 1 << 30,
    }];
    assert_eq!(subtract(&board, &all), [], "nothing was lost");

    // And the guests are told.
    for guest in &plan.guests {
        let tree = DeviceTree::new(&guest.dtb).unwrap();
        let node = tree.find("/shared-memory@10000000").unwrap();
        assert!(node.is_compatible("ballast,shared-memory"));
        assert_eq!(node.str("label"), Ok(Some("setpoints")));
        assert_eq!(node.u32("ballast,channel"), Ok(Some(1)));
        assert_eq!(
            node.property("read-only").is_some(),
            guest.config.number == 2
        );
        let interrupts = node.property("interrupts").unwrap().cells().unwrap();
        assert_eq!(interrupts.collect::<Vec<_>>(), [0, 193, 1]);
        let reg = node.property("reg").unwrap().cells().unwrap();
        assert_eq!(reg.collect::<Vec<_>>(), [0, 0x1000_0000, 0, 0x1000]);
    }
}

/// What is less than a block comes out of a part of one that no guest could have.
#[test]
fn small_ones_cost_no_block() {
    let kernel = arm64_image(4096, 0, 1 << 20, 0);
    let dtb = two_guests_and(&[shared("one", 0x3000), shared("two", 0x1000)]);
    // Ballast holds all but the last 20 KiB of a block.
    let held = [PaRange {
        start: Pa(0x4020_0000),
        size: BLOCK_SIZE - 0x5000,
    }];
    let report = check(&dtb, Some(&archive(&[("rtos", &kernel)])), &held);
    let plan = report.plan.unwrap();
    let places: Vec<_> = plan.channels.iter().map(|c| c.pa.start.0).collect();
    assert_eq!(places, [0x403f_b000, 0x403f_e000]);
}

/// A guest whose RAM is where the board has it has shared memory there too.
#[test]
fn identity_guests_have_it_where_the_board_has_it() {
    let dtb = crate::testing::merge(&[
        Guest::new("linux", 1).with("dma", text(&["trusted"])),
        Guest::new("rtos", 2),
        shared("ring", 0x1000),
    ]);
    let plan = planned(&dtb);
    let [channel] = plan.channels.as_slice() else {
        panic!("not one channel")
    };
    let [linux, rtos] = &channel.ends;
    assert_eq!(linux.ipa.start.0, channel.pa.start.0);
    assert_eq!(rtos.ipa.start.0, 0x1000_0000);
    let claims_it = |ram: &IpaRange| ram.overlaps(linux.ipa);
    assert!(!plan.guests[0].ram.iter().any(claims_it));
}
