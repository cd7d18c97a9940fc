use proptest::prelude::*;

use super::*;
use crate::addr::MIB;
use crate::machine::RAM_BASE;
use crate::testing::arm64_image;

fn range(start: u64, size: u64) -> IpaRange {
    IpaRange {
        start: Ipa(start),
        size,
    }
}

fn memory(size: u64) -> Memory<'static> {
    Memory {
        ram: IpaRange {
            start: RAM_BASE,
            size,
        },
        extra: &[],
    }
}

fn plain(file: &[u8]) -> Result<Kernel, ImageError> {
    recognise(file, LoadOptions::default(), RAM_BASE)
}

/// A program header: type, offset, vaddr, paddr, file size, memory size.
type Program = (u32, u64, u64, u64, u64, u64);

fn elf(entry: u64, programs: &[Program]) -> Vec<u8> {
    let mut file = vec![0; 64];
    file[..6].copy_from_slice(b"\x7fELF\x02\x01");
    file[16..18].copy_from_slice(&2_u16.to_le_bytes());
    file[18..20].copy_from_slice(&183_u16.to_le_bytes());
    file[24..32].copy_from_slice(&entry.to_le_bytes());
    file[32..40].copy_from_slice(&64_u64.to_le_bytes());
    file[54..56].copy_from_slice(&56_u16.to_le_bytes());
    file[56..58].copy_from_slice(&u16::try_from(programs.len()).unwrap().to_le_bytes());
    for (kind, offset, vaddr, paddr, copied, size) in programs {
        file.extend(kind.to_le_bytes());
        file.extend([0; 4]);
        for field in [offset, vaddr, paddr, copied, size, &0x1000] {
            file.extend(field.to_le_bytes());
        }
    }
    file.resize(4096, 0xaa);
    file
}

#[test]
fn image_goes_text_offset_from_the_base() {
    let kernel = plain(&arm64_image(5000, 0x1234, 0x3000, 0b1010)).unwrap();
    assert_eq!(kernel.entry, Ipa(0x4000_1234));
    let zero_fill = 0x3000 - 5000;
    assert_eq!(
        kernel.segments,
        [Segment {
            ipa: Ipa(0x4000_1234),
            source: 0..5000,
            zero_fill
        }]
    );
    assert!(!kernel.is_linux_sized());
    // From before 3.17: no size, and the offset is 512 KiB.
    let old = plain(&arm64_image(5000, 0, 0, 0)).unwrap();
    assert_eq!(
        (old.entry, old.segments[0].zero_fill),
        (Ipa(0x4008_0000), 0)
    );
    // A file longer than it says is loaded whole.
    let long = plain(&arm64_image(5000, 0, 100, 0)).unwrap();
    assert_eq!(long.segments[0].range(), range(0x4000_0000, 5000));
}

#[test]
fn header_fields_out_of_range_are_refused() {
    assert_eq!(
        plain(&arm64_image(100, u64::MAX, 1, 0)),
        Err(ImageError::Addresses)
    );
    assert_eq!(
        plain(&arm64_image(100, 0, u64::MAX, 0)),
        Err(ImageError::Addresses)
    );
    assert_eq!(
        plain(&arm64_image(100, 0, 100, 1)),
        Err(ImageError::BigEndian)
    );
}

#[test]
fn elf_is_loaded_by_physical_address() {
    let load = 1;
    let file = elf(
        0xffff_0000_0000_0040,
        &[
            (
                load,
                0x1000 - 0x100,
                0xffff_0000_0000_0000,
                0x4008_0000,
                0x100,
                0x2000,
            ),
            (6, 0, 0, 0, 0, 0),
            (load, 0, 0xffff_0000_0010_0000, 0x4010_0000, 0, 0x1000),
        ],
    );
    let kernel = plain(&file).unwrap();
    assert_eq!((kernel.kind, kernel.entry), (Kind::Elf, Ipa(0x4008_0040)));
    let segments = [
        Segment {
            ipa: Ipa(0x4008_0000),
            source: 0xf00..0x1000,
            zero_fill: 0x1f00,
        },
        Segment {
            ipa: Ipa(0x4010_0000),
            source: 0..0,
            zero_fill: 0x1000,
        },
    ];
    assert_eq!(kernel.segments, segments);
}

#[test]
fn elf_that_cannot_be_loaded() {
    let good = elf(0x4000_0000, &[(1, 0, 0x4000_0000, 0x4000_0000, 16, 16)]);
    assert!(plain(&good).is_ok());
    let changed = |at: usize, value: u8| {
        let mut file = good.clone();
        file[at] = value;
        plain(&file).unwrap_err().to_string()
    };
    assert_eq!(changed(4, 1), "is an ELF file of 32 bits");
    assert_eq!(changed(5, 2), "is an ELF file for a big-endian machine");
    assert_eq!(
        changed(18, 62),
        "is an ELF file for another processor than AArch64"
    );
    assert_eq!(
        changed(16, 1),
        "is an ELF file that is not linked (a relocatable object or core file)"
    );
    assert_eq!(changed(64, 3), "is an ELF file that needs a dynamic linker");
    assert_eq!(changed(64, 4), "is an ELF file with nothing to load");
    assert_eq!(changed(64 + 34, 1), "is an ELF file that is cut short");
    assert_eq!(
        changed(64 + 40, 8),
        "is an ELF file with a segment smaller than its contents"
    );
}

#[test]
fn raw_goes_where_it_is_told() {
    let options = LoadOptions {
        load_address: Some(Ipa(0x4000_1000)),
        entry: None,
    };
    let kernel = recognise(b"\x00\x00\x00\x14", options, RAM_BASE).unwrap();
    assert_eq!((kernel.kind, kernel.entry), (Kind::Raw, Ipa(0x4000_1000)));
    let options = LoadOptions {
        entry: Some(Ipa(0x4000_1004)),
        ..options
    };
    assert_eq!(
        recognise(&[0; 8], options, RAM_BASE).unwrap().entry,
        Ipa(0x4000_1004)
    );
    // Its own header does not matter then, but nobody unpacks it.
    let image = arm64_image(100, 0, 100, 1);
    assert_eq!(
        recognise(&image, options, RAM_BASE).unwrap().kind,
        Kind::Raw
    );
    let packed = recognise(b"\x1f\x8b", options, RAM_BASE);
    assert_eq!(packed, Err(ImageError::Compressed("gzip")));
}

#[test]
fn names_what_was_found() {
    let found = |file: &[u8]| match plain(file) {
        Err(ImageError::Unknown(what)) => what,
        other => panic!("{other:?}"),
    };
    assert_eq!(found(b"MZ\0\0zimg"), "a compressed EFI (zboot) kernel");
    assert_eq!(found(b"\xd0\x0d\xfe\xed"), "a device tree or FIT image");
    assert_eq!(
        found(&[0x14, 1, 0x2f]),
        "of an unknown kind (it starts with 14 01 2f)"
    );
}

fn slot(address: Option<Ipa>) -> DtbSlot {
    DtbSlot {
        address,
        bytes: DTB_SLOT_BYTES,
    }
}

#[test]
fn device_tree_and_ramdisk_stand_behind_the_kernel() {
    let kernel = plain(&arm64_image(100, 0, 3 * MIB, 0)).unwrap();
    let placement = place(&kernel, Some(5 * MIB), slot(None), memory(64 * MIB)).unwrap();
    assert_eq!(placement.dtb, range(0x4040_0000, 0x1_0000));
    assert_eq!(placement.ramdisk, Some(range(0x4041_0000, 5 * MIB)));
    let fixed = place(
        &kernel,
        Some(5 * MIB),
        slot(Some(Ipa(0x4300_0008))),
        memory(64 * MIB),
    )
    .unwrap();
    assert_eq!(fixed.dtb, range(0x4300_0008, 0x1_0000));
    assert_eq!(fixed.ramdisk, Some(range(0x4040_0000, 5 * MIB)));
}

#[test]
fn device_tree_at_the_base_of_ram() {
    let high = plain(&arm64_image(100, 0x20_0000, MIB, 0)).unwrap();
    let base = place(&high, None, slot(Some(RAM_BASE)), memory(64 * MIB)).unwrap();
    assert_eq!(base.dtb.start, RAM_BASE);
    let low = plain(&arm64_image(100, 0, MIB, 0)).unwrap();
    let error = place(&low, None, slot(Some(RAM_BASE)), memory(64 * MIB)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "does not fit: the device tree at 0x40000000-0x40010000 would lie on the kernel"
    );
}

#[test]
fn banks_beside_the_ram_hold_kernels_too() {
    let file = elf(
        0x40,
        &[
            (1, 0, 0, 0, 0x100, 0x1000),
            (1, 0, 0x4000_0000, 0x4000_0000, 16, 0x2000),
        ],
    );
    let kernel = plain(&file).unwrap();
    let extra = [range(0, 0x10_0000)];
    let with = Memory {
        extra: &extra,
        ..memory(16 * MIB)
    };
    assert_eq!(
        place(&kernel, None, slot(None), with).unwrap().dtb.start,
        Ipa(0x4020_0000)
    );
    assert!(matches!(
        place(&kernel, None, slot(None), memory(16 * MIB)),
        Err(ImageError::DoesNotFit { .. })
    ));
}

#[test]
fn segments_on_each_other_are_refused() {
    let load = |paddr: u64| (1, 0, paddr, paddr, 16, 0x2000);
    let kernel = plain(&elf(0x4000_0000, &[load(0x4000_0000), load(0x4000_1000)])).unwrap();
    let error = place(&kernel, None, slot(None), memory(16 * MIB)).unwrap_err();
    assert!(matches!(error, ImageError::Overlap { .. }), "{error}");
}

proptest! {
    /// Whatever the file holds: no panic, and what is placed lies within the memory and apart.
    #[test]
    fn placed_apart_or_refused(
        start in prop::sample::select(vec![arm64_image(200, 0x8_0000, 0x10_0000, 0), elf(0x4000_0000, &[(1, 0, 0x4000_0000, 0x4000_0000, 64, 0x8000)])]),
        changes in prop::collection::vec((0_usize..200, any::<u8>()), 0..6),
        cut in 0_usize..4200,
        ramdisk in prop::option::of(prop_oneof![0_u64..0x100_0000, any::<u64>()]),
        dtb in prop::option::of(prop_oneof![0x4000_0000_u64..0x4200_0000, any::<u64>()]),
    ) {
        let mut file = start;
        for (at, value) in changes {
            file[at] = value;
        }
        file.truncate(cut);
        let memory = memory(32 * MIB);
        if let Ok(kernel) = plain(&file)
            && let Ok(placement) = place(&kernel, ramdisk, slot(dtb.map(Ipa)), memory)
        {
            let mut all: Vec<IpaRange> = kernel.segments.iter().map(Segment::range).collect();
            all.push(placement.dtb);
            all.extend(placement.ramdisk);
            for (index, one) in all.iter().enumerate() {
                prop_assert!(memory.ram.contains(*one));
                prop_assert!(!all[..index].iter().any(|other| other.overlaps(*one)), "{all:?}");
            }
        }
    }
}
