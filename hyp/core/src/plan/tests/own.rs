//! The heap that is planned is what the tables take.

use core::cell::Cell;

use super::*;
use crate::addr::GIB;
use crate::balloon::{GuestMemory, MemoryConfig};
use crate::frames::GuestId;
use crate::machine::RAM_BASE;
use crate::stage2::Layout;

/// The heap for these guests on the board of 1 GiB.
fn heap(guests: &[Guest]) -> OwnMemory {
    let dtb = crate::testing::merge(guests);
    let tree = DeviceTree::new(&dtb).unwrap();
    let board = Board::from_dt(&tree).unwrap();
    let image = PaRange {
        start: Pa(0x4020_0000),
        size: 0x8_0000,
    };
    let own = OwnMemory::plan(&board, &tree, image, &[image]).unwrap();
    assert_eq!(own.heap.start, image.end());
    own
}

#[test]
fn it_grows_with_maximums_and_banks() {
    let bank = |at: u64, size: u64| IpaRange {
        start: Ipa(at),
        size,
    };
    let scattered: Vec<_> = (0..40).map(|n| bank(n << 30 | 0x1000, 0x1000)).collect();
    let across = [
        bank(0x1fff_f000, 0x2000),
        bank((3 << 30) - 0x1000, 2 * GIB + 0x2000),
    ];
    let small = heap(&[Guest::new("a", 1)]);
    for (max_mib, banks) in [
        (1024, &[][..]),
        (8192, &[]),
        (64512, &[]),
        (64, &scattered[2..]),
        (64, &across),
    ] {
        let words =
            |bank: &IpaRange| [bank.start.0 >> 32, bank.start.0, bank.size >> 32, bank.size];
        let list: Vec<u32> = banks
            .iter()
            .flat_map(words)
            .map(|word| word as u32)
            .collect();
        let mut guest = Guest::new("a", 1).with("memory-max-mib", cells(&[max_mib]));
        if !list.is_empty() {
            guest = guest.with("extra-ram", cells(&list));
        }
        let own = heap(&[guest]);
        let tables = Cell::new(0);
        let config = MemoryConfig {
            guest: GuestId::new(0).unwrap(),
            memory_pages: 0,
            min_pages: 0,
            identity: false,
            realtime: false,
            cpu_targets: false,
        };
        let layout = Layout {
            ram: &[IpaRange {
                start: RAM_BASE,
                size: u64::from(max_mib) * MIB,
            }],
            banks,
            devices: &[],
        };
        GuestMemory::new(config, &layout, |_| {
            tables.set(tables.get() + 4096);
            Pa(0x1000)
        })
        .unwrap();
        let records = u64::from(max_mib) / 2 * 6;
        // The smallest guest has a root, one table and 192 bytes of records, too.
        let needed = tables.get() + records - (2 * 4096 + 192);
        // Both parts of both heaps are rounded up to whole pages.
        let more = own.heap.size - small.heap.size + 2 * 4096;
        assert!(
            more >= needed,
            "{max_mib} MiB, {banks:?}: {more} < {needed}"
        );
        assert!(
            more <= 2 * needed.max(4096) + 0x4_0000,
            "{more} for {needed}"
        );
        assert_eq!(own.tables > small.tables, records >= TABLE_BYTES);
    }
}

/// Level 3 for each 2 MiB that a device has registers in, and level 2.
#[test]
fn it_grows_with_devices() {
    let without = heap(&[Guest::new("a", 1)]);
    let devices = text(&["/pl031@9010000", "/flash@0"]);
    let with = heap(&[Guest::new("a", 1).with("devices", devices)]);
    // Flash is two times 64 MiB, and its ends are tables if they are within a block.
    let least = 4 * 4096;
    assert!(
        with.heap.size >= without.heap.size + least,
        "{:#x} after {:#x}",
        with.heap.size,
        without.heap.size
    );
}

#[test]
fn a_board_too_small_for_it_is_refused() {
    let dtb = crate::testing::merge(&[Guest::new("a", 1)]);
    let tree = DeviceTree::new(&dtb).unwrap();
    let board = Board {
        ram: vec![PaRange {
            start: Pa(0x4000_0000),
            size: MIB / 4,
        }],
        ..Board::from_dt(&tree).unwrap()
    };
    let refusal = OwnMemory::plan(&board, &tree, PaRange::default(), &[]).unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "/memory: has no 344 KiB in one piece for Ballast itself; \
         use a board with more memory, or lower the guests' memory-max-mib"
    );
}
