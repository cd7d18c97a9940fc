//! Guests that found too little, and when they are told that there is more.

use super::{GuestId, GuestSet, Pool};
use crate::addr::PAGES_PER_BLOCK;

/// Pages that become free before those who want some are told, unless a transfer ends with fewer.
pub const TELL_PAGES: u32 = PAGES_PER_BLOCK as u32;

impl Pool {
    /// Remembers that `guest` found too little; it is in a later [`Pool::take_wanting`].
    pub const fn set_wanting(&mut self, guest: GuestId) {
        self.wanting.insert(guest);
        // What it missed may be no more than frames that are being scrubbed at this moment.
        self.tell_at_once |= self.scrubbing != 0;
    }

    /// Whether `guest` found too little and has not been told of more since.
    #[must_use]
    pub const fn is_wanting(&self, guest: GuestId) -> bool {
        self.wanting.contains(guest)
    }

    /// Forgets that `guest` wanted memory.
    pub const fn clear_wanting(&mut self, guest: GuestId) {
        self.wanting.remove(guest);
    }

    /// Those to be told that frames have become free, each once: claimants of their own, the others of any.
    pub const fn take_wanting(&mut self) -> GuestSet {
        let ready = core::mem::replace(&mut self.ready, GuestSet::EMPTY);
        if self.available() == 0 {
            return ready;
        }
        self.untold_pages = 0;
        self.tell_at_once = false;
        ready.union(core::mem::replace(&mut self.wanting, GuestSet::EMPTY))
    }

    /// The same after `pages` have become free, but not for every few of them: a guest that gives a page
    /// and takes it back, over and over, would make the others run for it each time. They are told once
    /// [`TELL_PAGES`] have come together, or when `is_complete`: a transfer has reached its target.
    pub fn take_wanting_after(&mut self, pages: u32, is_complete: bool) -> GuestSet {
        let ready = core::mem::replace(&mut self.ready, GuestSet::EMPTY);
        if self.wanting.is_empty() {
            self.untold_pages = 0;
            return ready;
        }
        self.untold_pages = self.untold_pages.saturating_add(pages);
        if is_complete || self.tell_at_once || self.untold_pages >= TELL_PAGES {
            ready.union(self.take_wanting())
        } else {
            ready
        }
    }
}
