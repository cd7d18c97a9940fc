use super::*;
use crate::addr::{MIB, Pa};
use crate::testing::{TWO_LINUX, archive, arm64_image};

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
