//! The pool's lock while a list is gone through.

use spin::mutex::{TicketMutex, TicketMutexGuard};

use crate::frames::Pool;

/// Entries for which the pool's lock is held at a time.
const ENTRIES_PER_LOCK: usize = 32;

/// The pool's lock, taken when it is needed and held over a bounded number of entries.
pub(super) struct PoolSection<'a> {
    pool: &'a TicketMutex<Pool>,
    guard: Option<TicketMutexGuard<'a, Pool>>,
    /// Entries since it was taken.
    entries: usize,
}

impl<'a> PoolSection<'a> {
    pub(super) const fn new(pool: &'a TicketMutex<Pool>) -> Self {
        Self {
            pool,
            guard: None,
            entries: 0,
        }
    }

    #[inline]
    pub(super) fn get(&mut self) -> &mut Pool {
        self.guard.get_or_insert_with(|| self.pool.lock())
    }

    /// Before anything that must not be done under the lock.
    #[inline]
    pub(super) fn leave(&mut self) {
        self.guard = None;
        self.entries = 0;
    }

    #[inline]
    pub(super) fn end_of_entry(&mut self) {
        self.end_of_entries(1);
    }

    /// How many entries more the lock may be held.
    #[inline]
    pub(super) const fn entries_left(&self) -> usize {
        ENTRIES_PER_LOCK.saturating_sub(self.entries)
    }

    #[inline]
    pub(super) fn end_of_entries(&mut self, entries: usize) {
        self.entries += entries;
        if self.entries >= ENTRIES_PER_LOCK {
            self.leave();
        }
    }
}
