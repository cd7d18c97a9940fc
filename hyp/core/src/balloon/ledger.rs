//! The ledger: what is backed and by whose driver, seen by nobody but the holder of the guest's transaction.
//!
//! Calls and steps borrow its parts apart. What others have to know of the driver while a call holds them is copied to
//! [`super::GuestMemory`], each time it changes.

use alloc::boxed::Box;

use ballast_abi::{LIST_ENTRIES, Order};

use super::{gather, lifecycle, relocate, sample};
use crate::addr::{Ipa, Pa};
use crate::frames::handover::BATCH_WORDS;

/// What only the holder of the transaction sees.
pub(super) struct Ledger {
    pub driver: Option<Driver>,
    pub epoch: u32,
    pub backed_pages: u64,
    /// For each 2 MiB of RAM in filling order that has a level-3 table: what is in it.
    pub tables: Box<[TableRecord]>,
    /// The list, as copied in.
    pub list: Box<[u64; LIST_ENTRIES]>,
    /// Storage for the batch of unmapped pages, and for a table on its way.
    pub batch: Box<[u64; BATCH_WORDS]>,
    pub rebuild: Option<lifecycle::Rebuild>,
    pub transfer: Option<relocate::Transfer>,
    pub gather: gather::Gather,
    pub round: sample::Round,
}

/// The driver that said HELLO last.
#[derive(Clone, Copy)]
pub(super) struct Driver {
    pub list_ipa: Ipa,
    pub list: Pa,
    /// The guest's own page.
    pub granule: Order,
}

impl Driver {
    /// It sends its lists in messages: no page is pinned.
    pub const fn by_message(granule: Order) -> Self {
        Self {
            list_ipa: Ipa(u64::MAX),
            list: Pa(u64::MAX),
            granule,
        }
    }

    pub const fn is_by_message(self) -> bool {
        self.list.0 == u64::MAX
    }
}

/// What is in one level-3 table of RAM.
#[derive(Clone, Copy, Default)]
pub(super) struct TableRecord {
    /// Valid entries; never 0 while the table exists.
    pub mapped: u16,
    /// Those that are not the page's home frame.
    pub away: u16,
    /// The table lies in the home block of its 2 MiB: see [`crate::frames`].
    pub home: bool,
}

/// Heap for each 2 MiB of a guest's maximum, beside the stage-2 tables.
pub(crate) const RECORD_BYTES: u64 = size_of::<TableRecord>() as u64;
