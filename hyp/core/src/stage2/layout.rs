//! Making a guest's tables: everything that will ever be needed, allocated and linked at boot.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicU32, Ordering};

use super::{Descriptor, IPA_BITS, Memory, Placed, Stage2, Table};
use crate::addr::{BLOCK_SHIFT, BLOCK_SIZE, GIB, Ipa, IpaRange, PAGE_SIZE, PAGES_PER_BLOCK, Pa};
use crate::limits::MAX_RAM_RANGES;

/// What is mapped for as long as the guest exists and is none of its own memory: device registers that the guest
/// may touch itself, memory that it shares.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DeviceMapping {
    /// Where the guest sees them; whole pages.
    pub ipa: Ipa,
    /// Where they are; whole pages.
    pub pa: Pa,
    /// How many bytes; whole pages.
    pub bytes: u64,
    /// How.
    pub memory: Memory,
}

/// What a guest's IPA space holds.
#[derive(Clone, Copy, Debug)]
pub struct Layout<'a> {
    /// The most RAM it may ever have, in filling order: ascending ranges of whole 2 MiB, at most
    /// [`MAX_RAM_RANGES`].
    pub ram: &'a [IpaRange],
    /// Banks of RAM beside that, in whole pages: backed as long as the guest exists, and no part of the
    /// balloon.
    pub banks: &'a [IpaRange],
    /// Devices that are passed through, and memory that is shared with another guest.
    pub devices: &'a [DeviceMapping],
}

/// The part of a bank that lies in one 2 MiB block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Bank {
    /// IPA / 2 MiB.
    pub ipa_block: u32,
    /// First page in the block.
    pub first: u16,
    /// Pages, not 0.
    pub pages: u16,
}

impl Bank {
    /// The parts of `ranges`, block by block.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "IPAs below 2^39; pages of a block"
    )]
    pub fn parts(ranges: &[IpaRange]) -> impl Iterator<Item = Self> {
        ranges.iter().flat_map(|range| {
            let (mut at, end) = (range.start.page(), Ipa(range.start.0 + range.size).page());
            core::iter::from_fn(move || {
                let next = end.min((at | (PAGES_PER_BLOCK as u64 - 1)) + 1);
                let first = at as u16 & (PAGES_PER_BLOCK as u16 - 1);
                let part = Self {
                    ipa_block: (at >> 9) as u32,
                    first,
                    pages: (next - at) as u16,
                };
                at = next;
                (part.pages != 0).then_some(part)
            })
        })
    }

    pub const fn is_block(self) -> bool {
        self.pages as usize == PAGES_PER_BLOCK
    }

    pub const fn ipa(self) -> Ipa {
        Ipa(((self.ipa_block as u64) << BLOCK_SHIFT) + self.first as u64 * PAGE_SIZE)
    }
}

/// Why a layout cannot be built.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LayoutError {
    /// RAM is not 1 to [`MAX_RAM_RANGES`] ranges of whole 2 MiB, each above the one before.
    RamAlignment,
    /// RAM, this bank or this device lies beyond the IPA space.
    BeyondIpaSpace(Ipa),
    /// This bank or device is not whole pages.
    Alignment(Ipa),
    /// This bank or device overlaps RAM, a bank or a device.
    Overlap(Ipa),
}

impl fmt::Display for LayoutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RamAlignment => write!(
                f,
                "RAM is not 1 to {MAX_RAM_RANGES} ascending ranges of whole 2 MiB blocks"
            ),
            Self::BeyondIpaSpace(ipa) => {
                write!(f, "{ipa} lies beyond {IPA_BITS} bits of guest address")
            }
            Self::Alignment(ipa) => write!(f, "what is at {ipa} is not whole 4 KiB pages"),
            Self::Overlap(ipa) => write!(f, "what is at {ipa} overlaps RAM or something else"),
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
        check_ram(layout.ram)?;
        let overlaps_ram = |start: Ipa, size| {
            let range = IpaRange { start, size };
            layout.ram.iter().any(|ram| ram.overlaps(range))
        };
        let place = |number| {
            let table = Box::new(Table::new());
            Placed {
                number,
                pa: pa_of(&table),
                table,
            }
        };
        let gib = |ipa: Ipa| ipa.0 / GIB;
        let ram_gib = layout.ram.first().map_or(0, |first| gib(first.start));
        let ram_end = layout.ram.last().map_or(0, |last| last.end().0);
        let has_ram = |number: u64| overlaps_ram(Ipa(number * GIB), GIB);
        let mut stage2 = Self {
            root: place(0),
            ram: (ram_gib..ram_end.div_ceil(GIB))
                .map(|number| has_ram(number).then(|| place(number)))
                .collect(),
            ram_gib,
            fixed_l2: Box::default(),
            fixed_l3: Box::default(),
            retired: AtomicU32::new(0),
        };
        for placed in stage2.ram.iter().flatten() {
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
                return Err(LayoutError::Alignment(device.ipa));
            }
            // The 2 MiB blocks at RAM's ends are RAM's alone, being whole.
            if overlaps_ram(device.ipa, device.bytes) {
                return Err(LayoutError::Overlap(device.ipa));
            }
            stage2.map_device(device, end, &mut level2, &mut level3, &place)?;
        }
        for bank in layout.banks {
            end_of(bank.start, bank.size)?;
            if (bank.start.0 | bank.size) & (PAGE_SIZE - 1) != 0 {
                return Err(LayoutError::Alignment(bank.start));
            }
            if overlaps_ram(bank.start, bank.size) {
                return Err(LayoutError::Overlap(bank.start));
            }
        }
        for bank in Bank::parts(layout.banks) {
            stage2.place_bank(bank, &mut level2, &mut level3, &place)?;
        }
        stage2.fixed_l2 = level2.into_boxed_slice();
        stage2.fixed_l3 = level3.into_boxed_slice();
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
            let placed = self.place_level2(ipa, level2, place);
            let entry = placed.table.entry(ipa.block());
            let old = Descriptor(entry.load(Ordering::Relaxed));
            let whole = ipa.is_aligned(BLOCK_SIZE)
                && pa.is_aligned(BLOCK_SIZE)
                && end - ipa.0 >= BLOCK_SIZE;
            if old.is_block() || (whole && old.is_valid()) {
                return Err(LayoutError::Overlap(device.ipa));
            }
            if whole {
                entry.store(Descriptor::block(pa, device.memory).0, Ordering::Relaxed);
                ipa = Ipa(ipa.0 + BLOCK_SIZE);
                continue;
            }
            let (table, _) = find_or_place(level3, ipa.block(), place);
            entry.store(Descriptor::table(table.pa).0, Ordering::Relaxed);
            let entry = table.table.entry(ipa.page());
            if entry.load(Ordering::Relaxed) != 0 {
                return Err(LayoutError::Overlap(device.ipa));
            }
            entry.store(Descriptor::page(pa, device.memory).0, Ordering::Relaxed);
            ipa = Ipa(ipa.0 + PAGE_SIZE);
        }
        Ok(())
    }
}

impl Stage2 {
    /// The level-2 table for `ipa`, linked.
    fn place_level2<'a>(
        &'a self,
        ipa: Ipa,
        level2: &'a mut Vec<Placed>,
        place: &impl Fn(u64) -> Placed,
    ) -> &'a Placed {
        let gib = ipa.0 / GIB;
        if let Some(placed) = self.ram_table(gib) {
            return placed;
        }
        let (placed, is_new) = find_or_place(level2, gib, place);
        if is_new {
            let entry = self.root.table.entry(gib);
            entry.store(Descriptor::table(placed.pa).0, Ordering::Relaxed);
        }
        placed
    }

    /// Makes the tables for a bank, which stays unmapped for now.
    fn place_bank(
        &self,
        bank: Bank,
        level2: &mut Vec<Placed>,
        level3: &mut Vec<Placed>,
        place: &impl Fn(u64) -> Placed,
    ) -> Result<(), LayoutError> {
        let overlap = Err(LayoutError::Overlap(bank.ipa()));
        let number = u64::from(bank.ipa_block);
        let entry = self
            .place_level2(bank.ipa(), level2, place)
            .table
            .entry(number);
        let old = Descriptor(entry.load(Ordering::Relaxed));
        if bank.is_block() {
            return if old.is_valid() { overlap } else { Ok(()) };
        }
        if old.is_block() {
            return overlap;
        }
        let (placed, _) = find_or_place(level3, number, place);
        entry.store(Descriptor::table(placed.pa).0, Ordering::Relaxed);
        let mut pages = u64::from(bank.first)..u64::from(bank.first) + u64::from(bank.pages);
        let is_free = pages.all(|page| placed.table.entry(page).load(Ordering::Relaxed) == 0);
        if is_free { Ok(()) } else { overlap }
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

/// RAM is as [`Layout::ram`] says.
fn check_ram(ram: &[IpaRange]) -> Result<(), LayoutError> {
    if ram.is_empty() || ram.len() > MAX_RAM_RANGES {
        return Err(LayoutError::RamAlignment);
    }
    let mut before = 0;
    for range in ram {
        let end = end_of(range.start, range.size)?;
        let is_whole = range.start.is_aligned(BLOCK_SIZE) && range.size.is_multiple_of(BLOCK_SIZE);
        if range.size == 0 || !is_whole || range.start.0 < before {
            return Err(LayoutError::RamAlignment);
        }
        before = end;
    }
    Ok(())
}

fn end_of(start: Ipa, bytes: u64) -> Result<u64, LayoutError> {
    let end = start
        .0
        .checked_add(bytes)
        .filter(|&end| end <= 1 << IPA_BITS);
    end.ok_or(LayoutError::BeyondIpaSpace(start))
}
