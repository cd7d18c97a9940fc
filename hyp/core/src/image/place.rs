//! Where ramdisk and device tree go, given the kernel.

use super::{ImageError, Kernel};
use crate::addr::{BLOCK_SIZE, Ipa, IpaRange, PAGE_SIZE};

/// Bytes kept for the guest's device tree. Aligned to its size, so it crosses no 2 MiB boundary, as
/// the boot protocol asks.
pub const DTB_SLOT_BYTES: u64 = 0x1_0000;

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
/// needs no more than it says and a shrinking one has its pinned pages together. `dtb_address` overrides.
///
/// # Errors
/// Something does not fit or lies on something else.
pub fn place(
    kernel: &Kernel,
    ramdisk_bytes: Option<u64>,
    dtb_address: Option<Ipa>,
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
        start: dtb_address.unwrap_or(after),
        size: DTB_SLOT_BYTES,
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
