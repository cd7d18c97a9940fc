//! The bound on the work of one call: an estimate in instructions, from these constants, against one
//! limit. When it is used up the call returns what it has done and the driver calls again.
//!
//! The costs are upper estimates for a Cortex-A72 build, so that the longest stay in EL2 keeps below
//! 60,000 instructions; `docs/` has the measured ones.

/// What one call may use. A single entry that was begun may overshoot by less than 10,000.
pub const CALL_LIMIT: u32 = 48_000;
/// One list entry, order 0 or 9, mapped or unmapped in place.
pub const ENTRY: u32 = 90;
/// Each of the 16 pages of an order-4 entry.
pub const RUN_PAGE: u32 = 25;
/// One page of a stretch of pages at home.
pub const STRETCH_PAGE: u32 = 60;
/// A stretch as such.
pub const STRETCH: u32 = 150;
/// Zeroing and cleaning one page.
pub const SCRUB_PAGE: u32 = 180;
/// A block entry replaced by a level-3 table, or back.
pub const SPLIT: u32 = 2_000;
/// A level-1 entry replaced by its level-2 table.
pub const OPEN_GIB: u32 = 300;
/// A level-3 table made empty, for an absent block.
pub const NEW_TABLE: u32 = 1_500;
/// A level-3 table moved to another frame.
pub const MOVE_TABLE: u32 = 5_000;
/// All pages of a split block unmapped.
pub const UNMAP_TABLE: u32 = 24_000;
/// One level-2 entry looked at.
pub const LOOK_BLOCK: u32 = 20;
/// One level-3 entry looked at.
pub const LOOK_PAGE: u32 = 15;
/// Pages scrubbed in one call, at most.
pub const SCRUB_MOST: u16 = 256;

/// What is left of a call's work.
pub(super) struct Budget {
    left: u32,
}

impl Budget {
    pub(super) const fn new() -> Self {
        Self { left: CALL_LIMIT }
    }

    pub(super) const fn spend(&mut self, cost: u32) {
        self.left = self.left.saturating_sub(cost);
    }

    pub(super) const fn left(&self) -> u32 {
        self.left
    }

    pub(super) const fn is_spent(&self) -> bool {
        self.left == 0
    }

    /// Whether `cost` more is within the limit.
    pub(super) const fn covers(&self, cost: u32) -> bool {
        self.left >= cost
    }

    /// How many pages may still be scrubbed; 0 if too few are left to be worth the trouble.
    pub(super) const fn scrub_pages(&self) -> u16 {
        const LEAST: u32 = 16;
        // At most CALL_LIMIT / SCRUB_PAGE.
        let pages = self.left / SCRUB_PAGE;
        if pages < LEAST {
            0
        } else if pages < SCRUB_MOST as u32 {
            (pages & 0xffff) as u16
        } else {
            SCRUB_MOST
        }
    }
}
