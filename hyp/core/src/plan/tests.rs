use super::*;
use crate::addr::{MIB, Pa};
use crate::dt::DeviceTree;
use crate::testing::{Guest, Mutator, TWO_LINUX, archive, arm64_image, cells, rounds, text};

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
    let dtb = a.device_tree(&board, a.config.memory.boot_bytes).unwrap();
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

#[test]
fn banks_come_out_of_rests_first() {
    let banks = cells(&[0, 0, 0, 0x8_0000, 0, 0x1000_0000, 0, 0x30_0000]);
    let dtb = crate::testing::merge(&[Guest::new("rtos", 1).with("extra-ram", banks)]);
    let kernel = arm64_image(4096, 0, 1 << 20, 0);
    // Leaves 1 MiB before the next whole block, which holds the first bank; the second breaks the end.
    let held = [PaRange {
        start: Pa(0x4000_0000),
        size: 3 * MIB,
    }];
    let report = check(&dtb, Some(&archive(&[("rtos", &kernel)])), &held);
    let plan = report.plan.unwrap();
    let pieces = [(0x4030_0000, 0x8_0000), (0x7fd0_0000, 0x30_0000)];
    let expected = pieces.map(|(start, size)| PaRange {
        start: Pa(start),
        size,
    });
    assert_eq!(plan.guests[0].banks, expected);
    assert_eq!(
        plan.free,
        [PaRange {
            start: Pa(0x4038_0000),
            size: 0x3f98_0000
        }]
    );
}

#[test]
fn a_bank_beyond_the_board_is_refused() {
    let banks = cells(&[2, 0, 0, 0x4000_1000]);
    let dtb = crate::testing::merge(&[Guest::new("rtos", 1).with("extra-ram", banks)]);
    let refusals = check(&dtb, None, &[]).refusals;
    assert_eq!(
        refusals.iter().map(ToString::to_string).collect::<Vec<_>>(),
        [
            "/ballast/rtos@1: extra-ram: has a bank of 1048580 KiB, more than the board has in one piece; make it smaller"
        ]
    );
}
