//! Making a guest's tables: everything that will ever be needed, allocated and linked at boot.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicU32, Ordering};

use super::{Descriptor, IPA_BITS, Memory, Placed, Stage2, Table};
use crate::addr::{BLOCK_SIZE, GIB, Ipa, PAGE_SIZE, Pa};

/// Device registers the guest may touch itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DeviceMapping {
    /// Where the guest sees them; whole pages.
    pub ipa: Ipa,
    /// Where they are; whole pages.
    pub pa: Pa,
    /// How many bytes; whole pages.
    pub bytes: u64,
}

/// What a guest's IPA space holds.
#[derive(Clone, Copy, Debug)]
pub struct Layout<'a> {
    /// The start of its RAM, a multiple of 2 MiB.
    pub ram: Ipa,
    /// The most RAM it may ever have, a multiple of 2 MiB.
    pub ram_bytes: u64,
    /// Devices that are passed through.
    pub devices: &'a [DeviceMapping],
}

/// Why a layout cannot be built.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LayoutError {
    /// RAM does not start or end at a multiple of 2 MiB, or there is none.
    RamAlignment,
    /// RAM or this device lies beyond the IPA space.
    BeyondIpaSpace(Ipa),
    /// This device is not whole pages.
    DeviceAlignment(Ipa),
    /// This device overlaps RAM or another device.
    Overlap(Ipa),
}

impl fmt::Display for LayoutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RamAlignment => write!(f, "RAM is not whole 2 MiB blocks"),
            Self::BeyondIpaSpace(ipa) => {
                write!(f, "{ipa} lies beyond {IPA_BITS} bits of guest address")
            }
            Self::DeviceAlignment(ipa) => write!(f, "the device at {ipa} is not whole 4 KiB pages"),
            Self::Overlap(ipa) => write!(f, "the device at {ipa} overlaps RAM or another device"),
        }
    }
}

impl Stage2 {
    /// Tables for `layout`, devices mapped and RAM empty. `pa_of` says where the hardware finds a
    /// table that was just allocated.
    ///
    /// # Errors
    /// See [`LayoutError`].
    pub fn new(layout: &Layout<'_>, pa_of: impl Fn(&Table) -> Pa) -> Result<Self, LayoutError> {
        let ram_end = end_of(layout.ram, layout.ram_bytes)?;
        if layout.ram_bytes == 0
            || !layout.ram.is_aligned(BLOCK_SIZE)
            || !layout.ram_bytes.is_multiple_of(BLOCK_SIZE)
        {
            return Err(LayoutError::RamAlignment);
        }
        let place = |number| {
            let table = Box::new(Table::new());
            Placed {
                number,
                pa: pa_of(&table),
                table,
            }
        };
        let ram_gib = layout.ram.0 / GIB;
        let mut stage2 = Self {
            root: place(0),
            ram: (ram_gib..ram_end.div_ceil(GIB)).map(place).collect(),
            ram_gib,
            device_l2: Box::default(),
            device_l3: Box::default(),
            retired: AtomicU32::new(0),
        };
        for placed in &stage2.ram {
            stage2
                .root
                .table
                .entry(placed.number)
                .store(Descriptor::table(placed.pa).0, Ordering::Relaxed);
        }
        let (mut level2, mut level3) = (Vec::new(), Vec::new());
        for device in layout.devices {
            let end = end_of(device.ipa, device.bytes)?;
            if (device.ipa.0 | device.pa.0 | device.bytes) & (PAGE_SIZE - 1) != 0 {
                return Err(LayoutError::DeviceAlignment(device.ipa));
            }
            // The 2 MiB blocks at RAM's ends are RAM's alone, being whole.
            if device.ipa.0 < ram_end && layout.ram.0 < end {
                return Err(LayoutError::Overlap(device.ipa));
            }
            stage2.map_device(device, end, &mut level2, &mut level3, &place)?;
        }
        stage2.device_l2 = level2.into_boxed_slice();
        stage2.device_l3 = level3.into_boxed_slice();
        Ok(stage2)
    }

    fn map_device(
        &self,
        device: &DeviceMapping,
        end: u64,
        level2: &mut Vec<Placed>,
        level3: &mut Vec<Placed>,
        place: &impl Fn(u64) -> Placed,
    ) -> Result<(), LayoutError> {
        let mut ipa = device.ipa;
        while ipa.0 < end {
            let pa = Pa(device.pa.0 + (ipa.0 - device.ipa.0));
            let gib = ipa.0 / GIB;
            let in_ram = self.ram_table(gib);
            let placed = match in_ram {
                Some(placed) => placed,
                None => {
                    let (placed, is_new) = find_or_place(level2, gib, place);
                    if is_new {
                        let entry = self.root.table.entry(gib);
                        entry.store(Descriptor::table(placed.pa).0, Ordering::Relaxed);
                    }
                    placed
                }
            };
            let entry = placed.table.entry(ipa.block());
            let old = Descriptor(entry.load(Ordering::Relaxed));
            let whole = ipa.is_aligned(BLOCK_SIZE)
                && pa.is_aligned(BLOCK_SIZE)
                && end - ipa.0 >= BLOCK_SIZE;
            if old.is_block() || (whole && old.is_valid()) {
                return Err(LayoutError::Overlap(device.ipa));
            }
            if whole {
                entry.store(Descriptor::block(pa, Memory::Device).0, Ordering::Relaxed);
                ipa = Ipa(ipa.0 + BLOCK_SIZE);
                continue;
            }
            let (table, _) = find_or_place(level3, ipa.block(), place);
            entry.store(Descriptor::table(table.pa).0, Ordering::Relaxed);
            let entry = table.table.entry(ipa.page());
            if entry.load(Ordering::Relaxed) != 0 {
                return Err(LayoutError::Overlap(device.ipa));
            }
            entry.store(Descriptor::page(pa, Memory::Device).0, Ordering::Relaxed);
            ipa = Ipa(ipa.0 + PAGE_SIZE);
        }
        Ok(())
    }
}

fn find_or_place<'a>(
    tables: &'a mut Vec<Placed>,
    number: u64,
    place: &impl Fn(u64) -> Placed,
) -> (&'a Placed, bool) {
    let found = tables.iter().position(|placed| placed.number == number);
    let index = found.unwrap_or_else(|| {
        tables.push(place(number));
        tables.len() - 1
    });
    #[expect(clippy::indexing_slicing, reason = "found or just pushed")]
    (&tables[index], found.is_none())
}

fn end_of(start: Ipa, bytes: u64) -> Result<u64, LayoutError> {
    let end = start
        .0
        .checked_add(bytes)
        .filter(|&end| end <= 1 << IPA_BITS);
    end.ok_or(LayoutError::BeyondIpaSpace(start))
}
