//! Stage 2: one guest's translation of IPA to PA.
//!
//! 4 KiB granule, 39-bit IPA, start at level 1. The level-1 and level-2 tables are allocated at boot
//! for all that the guest may ever have, so table memory cannot run out. A level-3 table of RAM is
//! one of the guest's own frames, read and written through the shell's [`Window`]; those of devices and
//! of banks of RAM beside the balloon's come from the boot allocation and stay.
//!
//! The level-2 entries of RAM are always true. A level-1 entry that maps a whole 1 GiB is only a
//! shorter way to what the level-2 table below it says as well, and is replaced by that table before
//! anything in it changes.
//!
//! # Who may do what
//!
//! Only the holder of the guest's transaction changes entries ([`crate::balloon`]). Any trap may
//! read them at any time ([`Stage2::judge`]): entries are single atomic words, and an invalid one
//! says in bits that the hardware ignores whether the guest owns the IPA and the entry is merely in
//! transition. So a stage-2 abort is judged without a lock and never waits.
//!
//! A valid entry is replaced by a different valid one through break-before-make only (Arm ARM
//! DDI 0487, D8.16.1): [`Broken`] and [`Clean`] are types, and only the TLB invalidation turns
//! one into the other. An invalid entry needs none, as the hardware does not cache it.
#![cfg_attr(
    not(test),
    expect(
        clippy::arithmetic_side_effects,
        reason = "addresses are below 2^39 (IPA) and 2^48 (PA), checked by `Stage2::new` and by the pool"
    )
)]

pub mod descriptor;
mod layout;
#[cfg(test)]
mod tests;
mod watch;

use alloc::boxed::Box;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

pub use descriptor::{Descriptor, Memory, is_bbm_safe, vtcr};
pub(crate) use layout::Bank;
pub use layout::{DeviceMapping, Layout, LayoutError};
pub(crate) use watch::{Accessed, ROUNDS};

use crate::addr::{BLOCK_SIZE, GIB, Ipa, PAGE_SIZE, PAGES_PER_BLOCK, Pa};
use crate::balloon::hw::{Hardware, Window};

/// Bits of an IPA: the whole of level 1 with one table.
pub const IPA_BITS: u32 = 39;

/// A translation table as the hardware reads it.
#[repr(C, align(4096))]
pub struct Table([AtomicU64; PAGES_PER_BLOCK]);

impl Table {
    /// A table that maps nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self([const { AtomicU64::new(0) }; PAGES_PER_BLOCK])
    }

    /// The entry at the low nine bits of `index`.
    #[expect(clippy::indexing_slicing, reason = "nine bits index 512 entries")]
    const fn entry(&self, index: u64) -> &AtomicU64 {
        &self.0[index_in_table(index)]
    }
}

impl Default for Table {
    fn default() -> Self {
        Self::new()
    }
}

/// A table with the physical address at which the hardware finds it.
struct Placed {
    /// Level 2: IPA / 1 GiB. Level 3: IPA / 2 MiB.
    number: u64,
    pa: Pa,
    table: Box<Table>,
}

/// One guest's stage-2 tables. See the [module](self).
pub struct Stage2 {
    root: Placed,
    /// Level 2 of the guest's RAM, by GiB from the first on; `None` where there is no RAM.
    ram: Box<[Option<Placed>]>,
    /// The first GiB of RAM.
    ram_gib: u64,
    /// Level 2 of GiBs that hold devices or banks, and none of RAM.
    fixed_l2: Box<[Placed]>,
    /// Level 3 of devices and of banks that are not whole blocks.
    fixed_l3: Box<[Placed]>,
    /// Counts level-3 tables of RAM that were taken out of use; see [`Stage2::judge`].
    retired: AtomicU32,
}

/// What a stage-2 translation fault means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// The guest owns the IPA; the entry was in transition, or is valid by now. Return and let the
    /// access fault again or succeed.
    Refault,
    /// Not the guest's: an abort is injected (or a device model is asked).
    NotOwned,
}

/// A level-1 or level-2 entry that was made invalid, while TLBs may still hold what it said.
#[must_use = "the guest faults on this entry until it is made again"]
pub struct Broken<'a> {
    entry: &'a AtomicU64,
}

/// An invalid entry that no TLB holds anything of: it may be written.
#[must_use = "the guest faults on this entry until it is made again"]
pub struct Clean<'a> {
    entry: &'a AtomicU64,
}

impl<'a> Broken<'a> {
    /// The step between break and make.
    pub fn invalidate(self, hw: &mut impl Hardware) -> Clean<'a> {
        hw.invalidate_guest();
        Clean { entry: self.entry }
    }
}

impl Clean<'_> {
    /// Writes the new entry. The table it may point to is published first, so no walk sees it
    /// half-written.
    pub fn make(self, new: Descriptor, hw: &mut impl Hardware) {
        hw.publish_tables();
        debug_assert!(is_bbm_safe(load(self.entry), new));
        self.entry.store(new.0, Ordering::Release);
    }
}

impl Stage2 {
    /// The root table's address, for VTTBR_EL2.BADDR.
    #[must_use]
    pub const fn root(&self) -> Pa {
        self.root.pa
    }

    /// What IPA `ipa` translates to now.
    pub fn translate(&self, window: &mut impl Window, ipa: Ipa) -> Option<Pa> {
        let level2 = self.level2(ipa)?;
        let entry = load(level2);
        if entry.is_block() {
            return Some(Pa(entry.output().0 | (ipa.0 & (BLOCK_SIZE - 1))));
        }
        if !entry.is_table() {
            return None;
        }
        let page = self.level3(window, entry, ipa);
        page.is_valid()
            .then(|| Pa(page.output().0 | (ipa.0 & (PAGE_SIZE - 1))))
    }

    /// Judges a stage-2 *translation* fault at `ipa` (of an access, a fetch or a stage-1 walk). Takes
    /// no lock and never waits. Other kinds of stage-2 fault (permission, address size) are the
    /// guest's own: nothing here is ever changed to cause one.
    pub fn judge(&self, window: &mut impl Window, ipa: Ipa) -> Verdict {
        let retired = self.retired.load(Ordering::Acquire);
        let Some(level2) = self.level2(ipa) else {
            return Verdict::NotOwned;
        };
        let entry = load(level2);
        if entry == Descriptor::NOT_OWNED {
            return Verdict::NotOwned;
        }
        if !entry.is_table() || self.level3(window, entry, ipa) != Descriptor::NOT_OWNED {
            return Verdict::Refault;
        }
        // The level-3 table is a guest frame. Had it been retired between the two reads, the second
        // would have read whatever its next owner keeps there, and says nothing.
        core::sync::atomic::fence(Ordering::Acquire);
        if self.retired.load(Ordering::Relaxed) == retired {
            Verdict::NotOwned
        } else {
            Verdict::Refault
        }
    }

    /// The level-2 entry for `ipa`, in RAM or devices.
    fn level2(&self, ipa: Ipa) -> Option<&AtomicU64> {
        let gib = ipa.0 / GIB;
        let device = || self.fixed_l2.iter().find(|placed| placed.number == gib);
        let placed = self.ram_table(gib).or_else(device)?;
        Some(placed.table.entry(ipa.block()))
    }

    /// The level-3 entry for `ipa` in the table that `entry` points to.
    fn level3(&self, window: &mut impl Window, entry: Descriptor, ipa: Ipa) -> Descriptor {
        let number = ipa.block();
        match self.fixed_l3.iter().find(|placed| placed.number == number) {
            Some(placed) => load(placed.table.entry(ipa.page())),
            None => Descriptor(window.read(entry.output(), index_in_table(ipa.page()))),
        }
    }
}

/// The level-2 entries of one GiB of RAM.
#[derive(Clone, Copy)]
pub(crate) struct Row<'a>(&'a Table);

impl Row<'_> {
    /// Makes a block entry say "not owned"; returns the block, or `None` if the entry is no block.
    #[inline]
    pub fn unmap_block(self, ipa_block: u32) -> Option<Pa> {
        let slot = self.0.entry(u64::from(ipa_block));
        let entry = load(slot);
        if !entry.is_block() {
            return None;
        }
        slot.store(Descriptor::NOT_OWNED.0, Ordering::Release);
        Some(entry.output())
    }

    /// Whether nothing is mapped.
    #[inline]
    pub fn is_free(self, ipa_block: u32) -> bool {
        load(self.0.entry(u64::from(ipa_block))) == Descriptor::NOT_OWNED
    }

    /// Maps a block where nothing is mapped.
    #[inline]
    pub fn map_block(self, ipa_block: u32, pa: Pa) {
        let entry = Descriptor::block(pa, Memory::Normal);
        self.0
            .entry(u64::from(ipa_block))
            .store(entry.0, Ordering::Release);
    }
}

/// Changes: for the holder of the guest's transaction.
impl Stage2 {
    /// The level-2 entry of the RAM block at IPA / 2 MiB = `ipa_block`.
    #[inline]
    pub(crate) fn ram_entry(&self, ipa_block: u32) -> Descriptor {
        self.ram_slot(ipa_block).map_or(Descriptor::NOT_OWNED, load)
    }

    #[inline]
    fn ram_slot(&self, ipa_block: u32) -> Option<&AtomicU64> {
        let placed = self.ram_table(u64::from(ipa_block >> 9))?;
        Some(placed.table.entry(u64::from(ipa_block)))
    }

    /// The level-2 table of RAM's GiB number `gib`.
    #[inline]
    fn ram_table(&self, gib: u64) -> Option<&Placed> {
        self.ram
            .get(usize::try_from(gib.wrapping_sub(self.ram_gib)).ok()?)?
            .as_ref()
    }

    /// Writes an entry that is invalid now.
    #[inline]
    pub(crate) fn map(&self, ipa_block: u32, new: Descriptor) {
        if let Some(slot) = self.ram_slot(ipa_block) {
            debug_assert!(is_bbm_safe(load(slot), new));
            slot.store(new.0, Ordering::Release);
        }
    }

    /// Makes an entry say "not owned". What it mapped goes into an `Unmapped` batch.
    #[inline]
    pub(crate) fn unmap(&self, ipa_block: u32) {
        if let Some(slot) = self.ram_slot(ipa_block) {
            slot.store(Descriptor::NOT_OWNED.0, Ordering::Release);
        }
    }

    /// The level-2 entries of RAM's GiB number `gib`.
    #[inline]
    pub(crate) fn ram_row(&self, gib: u32) -> Option<Row<'_>> {
        Some(Row(&self.ram_table(u64::from(gib))?.table))
    }

    /// Breaks a level-2 entry of RAM: the guest owns it still, and refaults until it is made.
    pub(crate) fn break_entry(&self, ipa_block: u32) -> Option<Broken<'_>> {
        let entry = self.ram_slot(ipa_block)?;
        entry.store(Descriptor::IN_TRANSITION.0, Ordering::Release);
        Some(Broken { entry })
    }

    /// If one level-1 entry maps the whole GiB around `ipa_block`, replaces it by its level-2 table.
    #[inline]
    pub(crate) fn open_gib(&self, ipa_block: u32, hw: &mut impl Hardware) -> bool {
        let gib = u64::from(ipa_block >> 9);
        let entry = self.root.table.entry(gib);
        if !load(entry).is_block() {
            return false;
        }
        let Some(placed) = self.ram_table(gib) else {
            return false;
        };
        entry.store(Descriptor::IN_TRANSITION.0, Ordering::Release);
        Broken { entry }
            .invalidate(hw)
            .make(Descriptor::table(placed.pa), hw);
        true
    }

    /// At boot, before the guest runs: maps the whole GiB at IPA / 1 GiB = `gib` by one entry.
    pub(crate) fn close_gib(&self, gib: u32, pa: Pa) {
        let gib = u64::from(gib);
        let mut block = Descriptor::block(pa, Memory::Normal).0;
        let Some(placed) = self.ram_table(gib) else {
            return;
        };
        self.root.table.entry(gib).store(block, Ordering::Release);
        for entry in &placed.table.0 {
            entry.store(block, Ordering::Relaxed);
            block += BLOCK_SIZE;
        }
    }

    /// Maps the pages of a bank in the block at `pa`. Nothing is mapped there.
    pub(crate) fn map_bank(&self, bank: Bank, pa: Pa) {
        if bank.is_block() {
            if let Some(slot) = self.level2(bank.ipa()) {
                slot.store(Descriptor::block(pa, Memory::Normal).0, Ordering::Release);
            }
            return;
        }
        for (slot, offset) in self.bank_slots(bank) {
            let page = Descriptor::page(Pa(pa.0 + offset), Memory::Normal);
            slot.store(page.0, Ordering::Release);
        }
    }

    /// Unmaps a bank and returns the block it was in; `None` if it is not mapped.
    pub(crate) fn unmap_bank(&self, bank: Bank) -> Option<Pa> {
        let mut block = None;
        if bank.is_block() {
            let slot = self.level2(bank.ipa())?;
            let entry = Descriptor(slot.swap(Descriptor::NOT_OWNED.0, Ordering::AcqRel));
            block = entry.is_block().then(|| entry.output());
        } else {
            for (slot, offset) in self.bank_slots(bank) {
                let entry = Descriptor(slot.swap(Descriptor::NOT_OWNED.0, Ordering::AcqRel));
                if entry.is_valid() {
                    block = Some(Pa(entry.output().0 - offset));
                }
            }
        }
        block
    }

    /// Whether a bank is mapped.
    pub(crate) fn has_bank(&self, bank: Bank) -> bool {
        let slot = if bank.is_block() {
            self.level2(bank.ipa())
        } else {
            self.bank_slots(bank).next().map(|(slot, _)| slot)
        };
        slot.is_some_and(|slot| load(slot).is_valid())
    }

    /// The level-3 entries of a bank that is no whole block, with the pages' offsets in the block.
    fn bank_slots(&self, bank: Bank) -> impl Iterator<Item = (&AtomicU64, u64)> {
        let number = u64::from(bank.ipa_block);
        let placed = self
            .fixed_l3
            .iter()
            .find(move |placed| placed.number == number);
        placed.into_iter().flat_map(move |placed| {
            let pages = u64::from(bank.first)..u64::from(bank.first) + u64::from(bank.pages);
            pages.map(|page| (placed.table.entry(page), page * PAGE_SIZE))
        })
    }

    /// To be called when a level-3 table of RAM is out of use, before its frame is used otherwise.
    pub(crate) fn retire_table(&self) {
        self.retired.fetch_add(1, Ordering::AcqRel);
    }
}

/// The low nine bits.
#[expect(clippy::cast_possible_truncation, reason = "masked to nine bits")]
const fn index_in_table(number: u64) -> usize {
    number as usize & (PAGES_PER_BLOCK - 1)
}

fn load(entry: &AtomicU64) -> Descriptor {
    Descriptor(entry.load(Ordering::Acquire))
}
