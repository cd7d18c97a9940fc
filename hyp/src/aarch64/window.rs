//! A core's window: the only way EL2 sees guest memory, one page at a time.
//!
//! Each core has its own virtual addresses and its own level-3 table for them, so changing an entry
//! needs no other core. Slots are independent of each other; a slot remembers what it shows, and
//! re-showing the same page costs one comparison.
#![expect(
    clippy::indexing_slicing,
    reason = "slots are numbered by `Slot`, below `SLOTS`"
)]

use core::cell::Cell;
use core::ptr::NonNull;
use core::sync::atomic::Ordering;

use aarch64_cpu::asm::barrier;
use ballast_core::addr::{PAGE_SIZE, Pa};

use super::mmu::{Kind, Table};
use super::tlb;
use crate::layout;

/// What a slot is used for. One slot each, so that two uses never fight over one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub enum Slot {
    /// A page being read, written or scrubbed.
    Page = 0,
    /// A level-3 table of stage 2.
    Table = 1,
    /// A second page, for copies.
    Other = 2,
    /// The page of `Page` once more, past the caches.
    Alias = 3,
}

impl Slot {
    const fn kind(index: usize) -> Kind {
        if index == Self::Alias as usize {
            Kind::Uncached
        } else {
            Kind::Memory
        }
    }
}

const SLOTS: usize = 4;
const NOTHING: u64 = u64::MAX;

/// The calling core's window. Not `Sync`: it lives in per-core data.
pub struct Window {
    table: &'static Table,
    base: u64,
    shown: [Cell<u64>; SLOTS],
}

impl Window {
    /// The window of core `index`, whose level-3 table `mmu::map_core` returned.
    pub fn new(index: usize, table: &'static Table) -> Self {
        Self {
            table,
            base: layout::WINDOW_BASE + index as u64 * layout::WINDOW_SLOT,
            shown: [const { Cell::new(NOTHING) }; SLOTS],
        }
    }

    /// Shows the page of `pa` in `slot` and returns its EL2 address.
    #[inline]
    pub fn show(&self, slot: Slot, pa: Pa) -> NonNull<u8> {
        let index = slot as usize;
        let va = self.base + index as u64 * PAGE_SIZE;
        let page = pa.0 & !(PAGE_SIZE - 1);
        if self.shown[index].get() != page {
            self.change(index, va, page);
        }
        // `va` is never null: the window lies far above 0.
        NonNull::new(core::ptr::with_exposed_provenance_mut(va as usize))
            .unwrap_or(NonNull::dangling())
    }

    fn change(&self, index: usize, va: u64, page: u64) {
        let entry = self.table.entry(index as u64);
        if self.shown[index].get() != NOTHING {
            // Break before make (DDI 0487, D8.16.1): local, because no other core uses the address.
            entry.store(0, Ordering::Relaxed);
            barrier::dsb(barrier::NSHST);
            tlb::invalidate_el2_page_local(va);
        }
        entry.store(page | Slot::kind(index).page(), Ordering::Relaxed);
        barrier::dsb(barrier::NSHST);
        barrier::isb(barrier::SY);
        self.shown[index].set(page);
    }

    /// Takes everything out of the window.
    pub fn close(&self) {
        for index in 0..SLOTS {
            if self.shown[index].get() == NOTHING {
                continue;
            }
            self.table.entry(index as u64).store(0, Ordering::Relaxed);
            barrier::dsb(barrier::NSHST);
            tlb::invalidate_el2_page_local(self.base + index as u64 * PAGE_SIZE);
            self.shown[index].set(NOTHING);
        }
    }
}
