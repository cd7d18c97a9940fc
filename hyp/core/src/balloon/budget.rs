//! The bound on the work of one call: an estimate in instructions, from these constants, against one
//! limit. What the rest of the limit does not cover is not begun; the call returns what it has done and
//! the driver calls again. Every single thing is covered by an unused limit, so each call gets on.
//!
//! The costs are upper estimates, from counts of an optimised build for AArch64 (and a TLB
//! invalidation counted as its few instructions), so that the longest stay in EL2 for one call is
//! below 60,000 instructions.

use ballast_abi::{Entry, Order};

use crate::frames::LOOK_FRAMES;

/// What one call may use.
pub const CALL_LIMIT: u32 = 56_000;
/// One word of the list, copied in and its status copied out.
pub const LIST_WORD: u32 = 8;
/// A whole block in a stretch of them.
pub const BLOCK: u32 = 100;
/// A stretch of pages as such, the change of the window to its table included.
pub const STRETCH: u32 = 500;
/// One entry in a stretch of pages.
pub const STRETCH_ENTRY: u32 = 45;
/// One page in a stretch.
pub const STRETCH_PAGE: u32 = 18;
/// One list entry by itself.
pub const ENTRY: u32 = 900;
/// Each page of an entry by itself.
pub const RUN_PAGE: u32 = 280;
/// Zeroing and cleaning one page: three instructions for each of 64 lines, and showing it in the window.
pub const SCRUB_PAGE: u32 = 250;
/// A block entry replaced by a level-3 table, or back.
pub const SPLIT: u32 = 3_000;
/// A level-1 entry replaced by its level-2 table.
pub const OPEN_GIB: u32 = 300;
/// A level-3 table made empty, for an absent block.
pub const NEW_TABLE: u32 = 2_500;
/// A level-3 table moved to another frame.
pub const MOVE_TABLE: u32 = 6_000;
/// The most that one entry of up to 16 pages by itself may cost.
pub const RUN_MOST: u32 = ENTRY + 16 * (RUN_PAGE + SCRUB_PAGE) + MOVE_TABLE + OPEN_GIB;
/// The same for one page, or for a block but for [`UNMAP_TABLE`] and scrubbing.
pub const PAGE_MOST: u32 = ENTRY + RUN_PAGE + SCRUB_PAGE + MOVE_TABLE + OPEN_GIB;
/// All pages of a split block unmapped.
pub const UNMAP_TABLE: u32 = 48_000;
/// One level-2 entry looked at.
pub const LOOK_BLOCK: u32 = 20;
/// One level-3 entry looked at.
pub const LOOK_PAGE: u32 = 15;
/// One page relocated: 64 lines cleaned twice and copied.
pub const RELOCATE_PAGE: u32 = 1_000;
/// A run of pages relocated, as such: what comes next found out, entries, an invalidation, windows.
pub const RELOCATE_RUN: u32 = 2_500;
/// Who else has frames in a block that is to be gathered: each frame's user, twice.
pub const LOOK_STRAYS: u32 = 15_000;
/// One frame of a wanted block looked at: whose it is.
pub const LOOK_FRAME: u32 = 30;
/// The most that one piece of a relocation may cost.
pub const RELOCATE_MOST: u32 = RELOCATE_RUN + 16 * RELOCATE_PAGE + LOOK_FRAMES as u32 * LOOK_FRAME;
/// Pages scrubbed in one call, at most.
pub const SCRUB_MOST: u16 = 256;

const _: () = assert!(CALL_LIMIT >= 512 * LIST_WORD + ENTRY + OPEN_GIB + UNMAP_TABLE);

/// What is left of a call's work.
pub(super) struct Budget {
    left: u32,
}

impl Budget {
    /// For a call over a list of `words`.
    pub(super) const fn new(words: usize) -> Self {
        // At most 512 words.
        Self {
            left: CALL_LIMIT.saturating_sub((words & 0xfff) as u32 * LIST_WORD),
        }
    }

    /// Spends what one entry by itself costs at least, if what it may cost at most is covered.
    pub(super) fn begin_entry(&mut self, entry: Entry) -> bool {
        let is_run = matches!(entry.order(), Some(Order::Pages4 | Order::Pages16));
        let is_covered = self.covers(if is_run { RUN_MOST } else { PAGE_MOST });
        if is_covered {
            self.spend(ENTRY);
        }
        is_covered
    }

    pub(super) const fn spend(&mut self, cost: u32) {
        self.left = self.left.saturating_sub(cost);
    }

    /// What is left.
    pub(super) const fn left(&self) -> u32 {
        self.left
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
