#![allow(missing_docs)]

use super::*;

/// What QEMU 7.2 dumps for `-M virt,virtualization=on,gic-version=3 -cpu cortex-a72 -smp 4 -m 1024`.
const VIRT_V3: &[u8] = include_bytes!("../../tests/data/qemu-virt-gicv3.dtb");

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
    assert_eq!(
        tree.find("/cpus")
            .unwrap()
            .children()
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
