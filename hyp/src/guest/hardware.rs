//! The machine as the memory mechanism sees it: this core's window, the TLBs, the scrubber.

use ballast_core::addr::{PAGE_SIZE, Pa};
use ballast_core::balloon::hw::{Hardware, Window};

use crate::aarch64::window::Slot;
use crate::aarch64::{cache, registers, tlb};
use crate::percpu::PerCpu;

/// [`Hardware`] on the calling core. VTTBR_EL2 holds the VMID of the guest whose memory is changed:
/// the core runs that guest, or loads it while none of its vCPUs runs.
pub struct Machine<'a>(pub &'a PerCpu);

const PAGE_WORDS: usize = PAGE_SIZE as usize / size_of::<u64>();

impl Machine<'_> {
    /// Whether the frame at `pa`, which is the caller's alone, holds what it is given; it is zero afterwards.
    pub fn check_frame(&self, pa: Pa) -> bool {
        let page = self.0.window.show(Slot::Page, pa);
        let alias = self.0.window.show(Slot::Alias, pa);
        // SAFETY: the window shows the page twice, read-write, on this core alone; nobody else has the frame.
        let holds = unsafe {
            cache::check_page(
                page.as_ptr().expose_provenance() as u64,
                alias.as_ptr().expose_provenance() as u64,
                pa.0,
            )
        };
        cache::finish_scrub();
        holds
    }

    /// The words of a page, through the window.
    fn words(&self, page: Pa) -> &[core::cell::Cell<u64>; 512] {
        let shown = self.0.window.show(Slot::Table, page);
        // SAFETY: the window shows a whole page of RAM, mapped read-write, at an address that only
        // this core uses and that stays shown until the next `show` of the slot, which needs this
        // borrow to have ended. `Cell` makes no claim about who else writes the memory; accesses are
        // single aligned 64-bit ones.
        unsafe { shown.cast().as_ref() }
    }

    /// Zeroes a page out of the caches; `finish_scrub` ends a run of them.
    fn scrub_page(&self, page: Pa) {
        let shown = self.0.window.show(Slot::Page, page);
        // SAFETY: the frame mechanism hands over only frames that are nobody's and in no TLB, and the
        // window shows this one read-write on this core alone.
        unsafe { cache::scrub_page(shown.as_ptr().expose_provenance() as u64) };
    }
}

impl Window for Machine<'_> {
    #[inline]
    #[expect(clippy::indexing_slicing, reason = "masked to the 512 there are")]
    fn read(&mut self, page: Pa, index: usize) -> u64 {
        self.words(page)[index & 511].get()
    }

    #[inline]
    #[expect(clippy::indexing_slicing, reason = "masked to the 512 there are")]
    fn write(&mut self, page: Pa, index: usize, word: u64) {
        self.words(page)[index & 511].set(word);
    }

    fn fill(&mut self, page: Pa, index: usize, count: usize, first: u64, step: u64) {
        let mut word = first;
        for slot in self.words(page).iter().skip(index).take(count) {
            slot.set(word);
            word = word.wrapping_add(step);
        }
    }

    fn holds(&mut self, page: Pa, index: usize, count: usize, first: u64, step: u64) -> bool {
        let mut expected = first;
        let mut words = self.words(page).iter().skip(index).take(count);
        words.all(|word| {
            let is_expected = word.get() == expected;
            expected = expected.wrapping_add(step);
            is_expected
        })
    }

    fn read_page(&mut self, page: Pa, words: &mut [u64]) {
        let from = self.words(page).as_ptr();
        let count = words.len().min(PAGE_WORDS);
        // SAFETY: both sides hold `count` words: the page is shown, `words` is borrowed for it. What a
        // guest writes at the same time is read or not, word by word.
        unsafe { cache::copy_words(words.as_mut_ptr(), from.cast(), count) };
    }

    fn write_page(&mut self, page: Pa, words: &[u64]) {
        let to = self.words(page).as_ptr();
        let count = words.len().min(PAGE_WORDS);
        // SAFETY: as above.
        unsafe { cache::copy_words(to.cast_mut().cast(), words.as_ptr(), count) };
    }
}

impl Hardware for Machine<'_> {
    fn publish_tables(&mut self) {
        aarch64_cpu::asm::barrier::dsb(aarch64_cpu::asm::barrier::ISHST);
    }

    fn invalidate_guest(&mut self) {
        tlb::invalidate_guest();
    }

    fn copy_page(&mut self, from: Pa, to: Pa) {
        let from = self.0.window.show(Slot::Other, from);
        let to = self.0.window.show(Slot::Page, to);
        // SAFETY: the window shows both read-write, on this core alone; no guest reaches either, because the source's
        // entries are broken and out of every TLB, and the destination is mapped nowhere yet.
        unsafe {
            cache::relocate_page(
                from.as_ptr().expose_provenance() as u64,
                to.as_ptr().expose_provenance() as u64,
            );
        }
    }

    fn finish_copies(&mut self) {
        cache::finish_scrub();
    }

    fn counter(&mut self) -> u64 {
        crate::boot::counter()
    }

    fn is_interrupted(&mut self) -> bool {
        registers::is_interrupted()
    }

    fn scrub(&mut self, first: Pa, pages: usize) {
        for page in 0..pages as u64 {
            self.scrub_page(Pa(first.0 + page * PAGE_SIZE));
        }
        cache::finish_scrub();
    }

    fn scrub_watching(&mut self, first: Pa, pages: u16) -> u16 {
        let mut done = 0;
        while done < pages.max(1) {
            self.scrub_page(Pa(first.0 + u64::from(done) * PAGE_SIZE));
            done += 1;
            if registers::is_interrupted() {
                break;
            }
        }
        cache::finish_scrub();
        done
    }
}

/// Copies `bytes` to `offset` of the guest page at `page` and moves them out of the caches to the point
/// of coherency: the guest starts with its caches off, and finds none of this in them when it turns
/// them on (Linux `booting.rst`; DDI 0487, D7.5.9).
pub fn copy_in(cpu: &PerCpu, page: Pa, offset: usize, bytes: &[u8]) {
    let room = (PAGE_SIZE as usize).saturating_sub(offset);
    let bytes = bytes.get(..bytes.len().min(room)).unwrap_or(&[]);
    let shown = cpu.window.show(Slot::Other, page).as_ptr();
    // SAFETY: the window shows a whole page read-write; `offset + len` is within it; the source is the
    // boot archive or heap, which the window never shows.
    unsafe {
        let to = shown.add(offset);
        to.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
        cache::clean_and_invalidate(to.expose_provenance() as u64, bytes.len() as u64);
    }
}

/// Cleans and invalidates the guest page at `page` to the point of coherency.
pub fn clean_and_invalidate(cpu: &PerCpu, page: Pa) {
    let shown = cpu.window.show(Slot::Other, page).as_ptr();
    cache::clean_and_invalidate(shown.expose_provenance() as u64, PAGE_SIZE);
}

/// Zeroes `count` bytes from `offset` of the guest page at `page`, as [`copy_in`].
pub fn zero(cpu: &PerCpu, page: Pa, offset: usize, count: usize) {
    let count = count.min((PAGE_SIZE as usize).saturating_sub(offset));
    let shown = cpu.window.show(Slot::Other, page).as_ptr();
    if count == PAGE_SIZE as usize {
        // SAFETY: as in `copy_in`; the whole page.
        unsafe { cache::scrub_page(shown.expose_provenance() as u64) };
        // The loader ends with the instruction caches.
        cache::finish_zeroing();
        return;
    }
    // SAFETY: as in `copy_in`.
    unsafe {
        let to = shown.add(offset);
        to.write_bytes(0, count);
        cache::clean_and_invalidate(to.expose_provenance() as u64, count as u64);
    }
}
