//! What the memory mechanism needs of the machine. The shell implements these for one guest on one
//! core; the tests implement them over fake memory and a fake TLB.

use crate::addr::Pa;

/// Word access to one page of physical memory at a time: level-3 tables and the list page, which are
/// guest frames and not mapped at EL2 but for the core's window.
///
/// Every `page` is 4 KiB aligned and every index below 512. Accesses are single 64-bit accesses
/// through a cacheable inner-shareable mapping, as the table walk's are (VTCR_EL2.{SH0,ORGN0,IRGN0}).
/// Calls for the same page follow one another: an implementation that remembers the page its window
/// shows makes each a compare and an access.
pub trait Window {
    /// The word at `index`.
    fn read(&mut self, page: Pa, index: usize) -> u64;

    /// Writes the word at `index`.
    fn write(&mut self, page: Pa, index: usize, word: u64);

    /// Writes `count` words from `index` on: `first`, `first + step`, `first + 2 * step`...
    fn fill(&mut self, page: Pa, index: usize, count: usize, first: u64, step: u64);

    /// Whether the `count` words from `index` on are `first`, `first + step`...
    #[inline]
    fn holds(&mut self, page: Pa, index: usize, count: usize, first: u64, step: u64) -> bool {
        let mut expected = first;
        let end = index.wrapping_add(count);
        let mut at = index;
        while at < end {
            if self.read(page, at) != expected {
                return false;
            }
            expected = expected.wrapping_add(step);
            at = at.wrapping_add(1);
        }
        true
    }

    /// Copies the first `words.len()` words of the page out.
    fn read_page(&mut self, page: Pa, words: &mut [u64]);

    /// Copies `words` to the start of the page.
    fn write_page(&mut self, page: Pa, words: &[u64]);
}

/// The machine, as seen by one guest's memory calls. No lock of the core is held in any of these.
pub trait Hardware: Window {
    /// Makes the table writes so far visible to every core's table walks: `DSB ISHST` (Arm ARM
    /// DDI 0487, D8.2.6: a walk is an observer of the shareability domain).
    fn publish_tables(&mut self);

    /// Invalidates every stage-1 and stage-2 translation of this guest on every core, and waits until
    /// the accesses that used them are complete: `DSB ISHST; TLBI VMALLS12E1IS; DSB ISH; ISB`
    /// (DDI 0487, D8.17). VTTBR_EL2 must hold this guest's VMID: so either the core runs this guest,
    /// or none does and the shell sets it first.
    fn invalidate_guest(&mut self);

    /// Copies the page at `from`, which no guest can write now, to that at `to`. The source is cleaned and
    /// invalidated to the point of coherency first, because a guest may have written through a non-cacheable alias;
    /// the destination afterwards, because one may read through such. Complete with
    /// [`Hardware::finish_copies`].
    fn copy_page(&mut self, from: Pa, to: Pa);

    /// Completes the maintenance of the pages copied, and invalidates the instruction caches: the
    /// destination may be fetched from.
    fn finish_copies(&mut self);

    /// CNTVCT: for what the operator is told of how long things took.
    fn counter(&mut self) -> u64;

    /// Whether this core has an interrupt to take (ISR_EL1): long work stops for it.
    fn is_interrupted(&mut self) -> bool;

    /// Zeroes `pages` pages from `first` on (within one 2 MiB block) and cleans and invalidates them
    /// to the point of coherency, because a guest may hold a non-cacheable alias; then invalidates the
    /// instruction caches, as the frames' next user must not execute the last one's code.
    fn scrub(&mut self, first: Pa, pages: usize);

    /// The same for up to `pages` pages, at least one, until an interrupt waits for this core; returns how many.
    fn scrub_watching(&mut self, first: Pa, pages: u16) -> u16;
}
