//! Where ramdisk and device tree go, given the kernel.

use super::{ImageError, Kernel};
use crate::addr::{BLOCK_SIZE, Ipa, IpaRange, PAGE_SIZE};

/// Bytes kept for a generated device tree. Behind the kernel it starts at a 2 MiB boundary and crosses
/// none, as the boot protocol asks.
pub const DTB_SLOT_BYTES: u64 = 0x1_0000;

/// Bytes kept for the board's own device tree, which a primary guest sees.
pub const BOARD_DTB_SLOT_BYTES: u64 = 0x8_0000;

/// The room for a guest's device tree.
#[derive(Clone, Copy, Debug)]
pub struct DtbSlot {
    /// Where, if that is configured.
    pub address: Option<Ipa>,
    /// How much.
    pub bytes: u64,
}

/// The memory a guest boots with.
#[derive(Clone, Copy, Debug)]
pub struct Memory<'a> {
    /// RAM from the base on, as far as it is backed at boot.
    pub ram: IpaRange,
    /// Further banks (`extra-ram`).
    pub extra: &'a [IpaRange],
}

impl Memory<'_> {
    fn holds(&self, range: IpaRange) -> bool {
        self.ram.contains(range) || self.extra.iter().any(|bank| bank.contains(range))
    }
}

/// Where everything beside the kernel goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Placement {
    /// Where the device tree goes; x0 at the entry.
    pub dtb: IpaRange,
    /// The ramdisk.
    pub ramdisk: Option<IpaRange>,
}

/// Places device tree and ramdisk behind the kernel, from the next 2 MiB boundary on: close, so that a small guest
/// needs no more than it says and a shrinking one has its pinned pages together. An address of the `slot` overrides.
///
/// # Errors
/// Something does not fit or lies on something else.
pub fn place(
    kernel: &Kernel,
    ramdisk_bytes: Option<u64>,
    slot: DtbSlot,
    memory: Memory<'_>,
) -> Result<Placement, ImageError> {
    let fits = |what, range: IpaRange| {
        let error = ImageError::DoesNotFit {
            what,
            range,
            memory: memory.ram,
        };
        if memory.holds(range) {
            Ok(())
        } else {
            Err(error)
        }
    };
    let mut end = memory.ram.start;
    for (number, segment) in kernel.segments.iter().enumerate() {
        let range = segment.range();
        fits("the kernel", range)?;
        if memory.ram.contains(range) {
            end = end.max(range.end());
        }
        if kernel
            .segments
            .iter()
            .take(number)
            .any(|other| other.range().overlaps(range))
        {
            return Err(ImageError::Overlap {
                what: "a segment",
                with: "segment before it",
                range,
            });
        }
    }
    fits(
        "the kernel's entry",
        IpaRange {
            start: kernel.entry,
            size: 4,
        },
    )?;

    let after = end.align_up(BLOCK_SIZE).ok_or(ImageError::Addresses)?;
    let dtb = IpaRange {
        start: slot.address.unwrap_or(after),
        size: slot.bytes,
    };
    fits("the device tree", dtb)?;
    if kernel
        .segments
        .iter()
        .any(|segment| segment.range().overlaps(dtb))
    {
        return Err(ImageError::Overlap {
            what: "the device tree",
            with: "kernel",
            range: dtb,
        });
    }
    let ramdisk = match ramdisk_bytes {
        None => None,
        Some(size) => {
            let mut start = after;
            if dtb.overlaps(IpaRange { start, size }) {
                start = dtb.end().align_up(PAGE_SIZE).ok_or(ImageError::Addresses)?;
            }
            let range = IpaRange { start, size };
            if start.checked_add(size).is_none() || !memory.ram.contains(range) {
                return Err(ImageError::DoesNotFit {
                    what: "the ramdisk",
                    range,
                    memory: memory.ram,
                });
            }
            Some(range)
        }
    };
    Ok(Placement { dtb, ramdisk })
}
