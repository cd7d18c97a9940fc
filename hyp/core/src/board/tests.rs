#![allow(missing_docs)]

use super::*;
use crate::addr::{MIB, Pa};

const VIRT_V2: &[u8] = include_bytes!("../../tests/data/qemu-virt-gicv2.dtb");
const VIRT_V3: &[u8] = include_bytes!("../../tests/data/qemu-virt-gicv3.dtb");

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
