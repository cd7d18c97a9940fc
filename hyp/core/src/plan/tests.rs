mod backing;
mod channels;
mod own;

use super::*;
use crate::addr::{MIB, Pa};
use crate::dt::DeviceTree;
use crate::machine::RAM_BASE;
use crate::testing::{Guest, Mutator, TWO_LINUX, archive, arm64_image, cells, flag, rounds, text};

/// What Ballast holds in these tests.
const HELD: [PaRange; 1] = [PaRange {
    start: Pa(0x4020_0000),
    size: 2 * MIB,
}];

#[test]
fn two_linux_guests_of_the_example() {
    let linux = arm64_image(8 << 20, 0, 9 << 20, 0b1010);
    let files = archive(&[("linux", &linux), ("linux-initrd", b"ramdisk")]);
    let report = check(TWO_LINUX, Some(&files), &HELD);
    assert_eq!((report.refusals, report.warnings), (vec![], vec![]));
    let plan = report.plan.unwrap();
    assert_eq!(
        plan.free.iter().map(|range| range.size).sum::<u64>(),
        1534 * MIB
    );
    let [a, b] = plan.guests.as_slice() else {
        panic!("not two guests")
    };
    assert_eq!(
        (a.config.name.as_str(), b.config.name.as_str()),
        ("linux-a", "linux-b")
    );
    assert_eq!(
        (a.cores.as_slice(), b.cores.as_slice()),
        ([0].as_slice(), [1].as_slice())
    );
    assert_eq!(a.config.memory.max_bytes, 1024 * MIB);
    assert_eq!(a.kernel.entry, RAM_BASE);
    assert_eq!(a.placement.dtb.start, Ipa(0x40a0_0000));
    assert_eq!(
        a.placement.ramdisk,
        Some(IpaRange {
            start: Ipa(0x40a1_0000),
            size: 7
        })
    );

    let tree = DeviceTree::new(TWO_LINUX).unwrap();
    let board = Board::from_dt(&tree).unwrap();
    let dtb = a
        .device_tree(&board, &tree, a.config.memory.boot_bytes, Vec::new())
        .unwrap();
    let tree = DeviceTree::new(&dtb).unwrap();
    let balloon = tree.find("/reserved-memory/boot-balloon").unwrap();
    assert_eq!(
        balloon.regions().unwrap(),
        [PaRange {
            start: Pa(0x6000_0000),
            size: 512 * MIB
        }]
    );
}

/// No device tree and no archive makes the boot panic, and each is either started with or refused
/// with words. `BALLAST_FUZZ=200000` for a long run.
#[test]
fn mutations_end_in_a_plan_or_an_answer() {
    let everything = crate::testing::merge(&[
        Guest::new("b", 2).with("devices", text(&["/pl061@9030000"])),
        Guest::new("a", 1)
            .with("cpus", cells(&[2]))
            .with("cpu-list", cells(&[2, 3]))
            .with("devices", text(&["/pl031@9010000"]))
            .with("extra-ram", cells(&[0, 0, 0, 0x1000]))
            .with("raz-windows", cells(&[0, 0x0a00_0000, 0, 0x1000]))
            .with("dtb-address", cells(&[0, 0x4300_0000])),
    ]);
    let kernel = arm64_image(4096, 0, 1 << 20, 0);
    let files = archive(&[
        ("linux", &kernel),
        ("linux-initrd", b"x"),
        ("rtos", &kernel),
    ]);
    let mut mutator = Mutator(0x08a1_1a57);
    let mut started = 0;
    let rounds = rounds(5000);
    for round in 0..rounds {
        let mut dtb = [TWO_LINUX, &everything][(round % 2) as usize].to_vec();
        let mut files = files.clone();
        match round % 8 {
            7 => mutator.mutate(&mut files),
            _ => mutator.mutate(&mut dtb),
        }
        let report = check(&dtb, Some(&files), &HELD);
        match report.plan {
            Some(plan) => {
                assert!(report.refusals.is_empty());
                for guest in &plan.guests {
                    DeviceTree::new(&guest.dtb).unwrap();
                }
                started += 1;
            }
            None => {
                for refusal in report.refusals.iter().chain(&report.warnings) {
                    assert!(
                        !refusal.node.is_empty() && !refusal.problem.is_empty(),
                        "{refusal:?}"
                    );
                    assert!(!refusal.to_string().contains('\n'), "{refusal:?}");
                }
                assert!(!report.refusals.is_empty());
            }
        }
    }
    // Both outcomes are reached, or the test says nothing.
    assert!(
        started > rounds / 20 && started < rounds * 19 / 20,
        "{started} of {rounds} started"
    );
}

/// The lines with which these guests are refused on 1 GiB of which 510 blocks are left.
fn refused(guests: &[Guest]) -> Vec<String> {
    let held = [PaRange {
        start: Pa(0x4000_0000),
        size: 3 * MIB,
    }];
    let refusals = check(&crate::testing::merge(guests), None, &held).refusals;
    refusals.iter().map(ToString::to_string).collect()
}

/// What never moves must find memory that nobody claims.
#[test]
fn what_never_moves_needs_unclaimed_memory() {
    let mib = |guest: Guest, boot: u32, max: u32| {
        let guest = guest.with("memory-mib", cells(&[boot]));
        guest
            .with("memory-min-mib", cells(&[4]))
            .with("memory-max-mib", cells(&[max]))
    };
    let own = || mib(Guest::new("own", 1), 100, 1000).with("dma", text(&["trusted"]));
    let fixed = |boot| {
        let guest = Guest::new("fixed", 2).with("memory-mib", cells(&[boot]));
        guest.with("realtime", flag())
    };
    assert_eq!(refused(&[own(), fixed(20)]), [""; 0]);
    let line = "/ballast/fixed@2: memory-mib = <22>: needs 22 MiB that own cannot claim, as its frames never move, and \
                there are 20 MiB that nobody claims; lower memory-max-mib of own, or memory-mib here, by 2 MiB";
    assert_eq!(refused(&[own(), fixed(22)]), [line]);
    // Others come after, unless everybody is built at his start.
    let other = || mib(Guest::new("other", 3), 10, 100);
    assert_eq!(refused(&[own(), fixed(20), other()]), [""; 0]);
    let bank = |guest: Guest| guest.with("extra-ram", cells(&[0, 0x1000_0000, 0, 0x1000]));
    assert_eq!(refused(&[own(), fixed(18), bank(other())]), [""; 0]);
    let line = "/ballast/other@3: extra-ram: needs 2 MiB that own cannot claim, in whole 2 MiB, and its frames never \
                move, and there are 0 MiB that nobody claims; lower memory-max-mib of own, or extra-ram here, by 2 MiB";
    assert_eq!(refused(&[own(), fixed(20), bank(other())]), [line]);
    // Its own claim is unclaimed enough for a guest.
    assert_eq!(
        refused(&[own()
            .with("realtime", flag())
            .without("memory-min-mib")
            .without("memory-max-mib")]),
        [""; 0]
    );
}

#[test]
fn banks_count_in_whole_blocks() {
    // One block, two, and two for 8 KiB that lie across a boundary.
    let banks = cells(&[
        0,
        0,
        0,
        0x8_0000,
        0,
        0x1000_0000,
        0,
        0x30_0000,
        0,
        0x201f_f000,
        0,
        0x2000,
    ]);
    let rtos = Guest::new("rtos", 1).with("extra-ram", banks);
    let of = |mib| rtos.clone().with("memory-mib", cells(&[mib]));
    assert!(refused(&[of(1010)]).is_empty());
    assert_eq!(
        refused(&[of(948), Guest::new("b", 2)]),
        [
            "/ballast: extra-ram: guests ask for 1022 MiB (rtos 948 + 10 of extra-ram, b 64), the board has 1020 MiB for them; \
             lower extra-ram, which counts in whole 2 MiB, or memory-mib by 2 MiB in all"
        ]
    );
    assert_eq!(
        refused(&[of(1022)]),
        [
            "/ballast: memory-mib: guests ask for 1032 MiB (rtos 1022 + 10 of extra-ram), the board has 1020 MiB for them; \
             lower memory-mib by 12 MiB in all; memory-max-mib may stay"
        ]
    );
    let huge = cells(&[2, 0, 0, 0x4000_1000]);
    assert_eq!(
        refused(&[Guest::new("rtos", 1).with("extra-ram", huge)]),
        [
            "/ballast: extra-ram: guests ask for 1090 MiB (rtos 64 + 1026 of extra-ram), the board has 1020 MiB for them; \
             lower extra-ram, which counts in whole 2 MiB, or memory-mib by 70 MiB in all"
        ]
    );
}

/// A guest lists the CPUs it may get, and starts with fewer; one that is real-time does not.
#[test]
fn cpus_that_may_come_are_listed() {
    let growing = Guest::new("growing", 1)
        .with("cpus", cells(&[2]))
        .with("cpus-max", cells(&[4]));
    let fixed = Guest::new("fixed", 2)
        .with("realtime", flag())
        .with("cpu-list", cells(&[0]));
    let dtb = crate::testing::merge(&[growing, fixed]);
    let kernel = arm64_image(4096, 0, 1 << 20, 0);
    let report = check(&dtb, Some(&archive(&[("rtos", &kernel)])), &[]);
    assert_eq!((report.refusals, report.warnings), (vec![], vec![]));
    let guests = report.plan.unwrap().guests;
    let cpus = |guest: &GuestPlan| {
        let tree = DeviceTree::new(&guest.dtb).unwrap();
        let cpus = tree.find("/cpus").unwrap().children();
        cpus.filter(|node| node.base_name() == "cpu").count()
    };
    assert_eq!(
        guests.iter().map(cpus).collect::<Vec<_>>(),
        [4, 1],
        "in the device tree"
    );
    assert_eq!(
        guests.iter().map(|guest| &guest.cores).collect::<Vec<_>>(),
        [&[1, 2][..], &[0]],
        "to start on"
    );
    assert_eq!(
        guests
            .iter()
            .map(|guest| guest.config.realtime)
            .collect::<Vec<_>>(),
        [false, true]
    );
}
