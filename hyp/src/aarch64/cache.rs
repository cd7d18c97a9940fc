//! Cache maintenance by address and the bulk operations on mapped guest pages.

use core::arch::asm;

use ballast_core::addr::PAGE_SIZE;

/// Data cache line size in bytes (CTR_EL0.DminLine).
#[inline]
fn line() -> u64 {
    let ctr: u64;
    // SAFETY: reads a constant.
    unsafe { asm!("mrs {}, CTR_EL0", out(reg) ctr, options(nomem, nostack, preserves_flags)) };
    4 << ((ctr >> 16) & 0xf)
}

/// Cleans and invalidates `size` mapped bytes at `start` to the point of coherency, for a reader with
/// its caches off (DDI 0487, D7.5.9). Completion is included.
pub fn clean_and_invalidate(start: u64, size: u64) {
    let line = line();
    let mut at = start & !(line - 1);
    if line == 64 {
        // Loading a guest is mostly this: eight lines a turn.
        while at + 8 * 64 <= start + size {
            // SAFETY: what is invalidated has been written back, so no value changes; all eight are mapped.
            unsafe {
                asm!(
                    ".rept 8",
                    "dc civac, {at}",
                    "add {at}, {at}, #64",
                    ".endr",
                    at = inout(reg) at,
                    options(nostack, preserves_flags)
                );
            }
        }
    }
    while at < start + size {
        // SAFETY: what is invalidated has been written back, so no value changes. `at` is mapped.
        unsafe { asm!("dc civac, {}", in(reg) at, options(nostack, preserves_flags)) };
        at += line;
    }
    // SAFETY: a barrier.
    unsafe { asm!("dsb sy", options(nostack, preserves_flags)) };
}

/// Makes instruction fetch of all cores forget what it cached (new code at old addresses).
pub fn invalidate_instructions() {
    // SAFETY: dropping cached instructions changes no value.
    unsafe {
        asm!(
            "ic ialluis",
            "dsb ish",
            "isb",
            options(nostack, preserves_flags)
        )
    };
}

/// Zeroes one mapped page and cleans and invalidates it to the point of coherency, line by line:
/// the next owner may look at it through a non-cacheable alias (DDI 0487, B2.8 mismatched
/// attributes). No barrier: the caller ends its run of pages with one.
///
/// # Safety
/// `page` must be the page-aligned address of a page mapped read-write that nothing else uses.
#[inline]
pub unsafe fn scrub_page(page: u64) {
    let dczid: u64;
    // SAFETY: reads a constant.
    unsafe { asm!("mrs {}, DCZID_EL0", out(reg) dczid, options(nomem, nostack, preserves_flags)) };
    if dczid & 0x1f == 4 && line() == 64 {
        // 64-byte DC ZVA blocks and lines, the case on every Cortex-A of interest: all of the page's.
        // SAFETY: the page is by contract ours to write.
        unsafe {
            asm!(
                ".rept 63",
                "dc zva, {at}",
                "dc civac, {at}",
                "add {at}, {at}, #64",
                ".endr",
                "dc zva, {at}",
                "dc civac, {at}",
                at = inout(reg) page => _,
                options(nostack, preserves_flags)
            );
        }
        return;
    }
    let end = page + PAGE_SIZE;
    let line = line();
    let mut at = page;
    while at < end {
        // SAFETY: `at..at + 16` lies in the page, by contract ours to write.
        unsafe { asm!("stp xzr, xzr, [{}]", in(reg) at, options(nostack, preserves_flags)) };
        at += 16;
    }
    at = page;
    while at < end {
        // SAFETY: as in `clean_and_invalidate`; the page holds only the zeroes just written.
        unsafe { asm!("dc civac, {}", in(reg) at, options(nostack, preserves_flags)) };
        at += line;
    }
}

/// Zeroes `size` bytes at `start`, by whole cache lines where it can.
///
/// # Safety
/// The bytes must be mapped read-write as Normal memory and used by nothing else.
pub unsafe fn zero(start: *mut u8, size: usize) {
    const LINE: usize = 64;
    let dczid: u64;
    // SAFETY: reads a constant.
    unsafe { asm!("mrs {}, DCZID_EL0", out(reg) dczid, options(nomem, nostack, preserves_flags)) };
    if dczid & 0x1f != 4 || size < 4 * LINE {
        // SAFETY: by contract.
        unsafe { start.write_bytes(0, size) };
        return;
    }
    let head = start.align_offset(LINE);
    let lines = (size - head) / LINE;
    // SAFETY: by contract; head, lines and tail lie within the bytes.
    unsafe {
        start.write_bytes(0, head);
        let mut line = start.add(head);
        // The frame table is most of what boot zeroes: eight lines a turn.
        for _ in 0..lines / 8 {
            asm!(
                ".rept 8",
                "dc zva, {line}",
                "add {line}, {line}, #64",
                ".endr",
                line = inout(reg) line,
                options(nostack, preserves_flags)
            );
        }
        for _ in 0..lines % 8 {
            asm!("dc zva, {}", in(reg) line, options(nostack, preserves_flags));
            line = line.add(LINE);
        }
        line.write_bytes(0, size - head - lines * LINE);
    }
}

/// Copies `count` words, each by one access.
///
/// # Safety
/// Both sides must be mapped, aligned to 8, and not overlap; `to` must be the caller's to write.
pub unsafe fn copy_words(to: *mut u64, from: *const u64, count: usize) {
    unsafe extern "C" {
        // `memory.S`; pairs of registers are two single-copy atomic accesses (DDI 0487, B2.2.1).
        fn copy_bytes(to: *mut u64, from: *const u64, bytes: usize);
    }
    // SAFETY: passed on.
    unsafe { copy_bytes(to, from, count * size_of::<u64>()) }
}

/// Copies one mapped page to another by way of the point of coherency: the source's lines are cleaned
/// and invalidated first, so that what a guest wrote through a non-cacheable alias is what is copied (and
/// what it wrote through the caches too), and the destination's afterwards (DDI 0487, B2.8 mismatched
/// attributes; D7.5.9.1 for maintenance and accesses of one line, which stay in program order). No
/// barrier behind it: the caller ends its run of pages with [`finish_scrub`].
///
/// # Safety
/// Both must be page-aligned addresses of different pages mapped read-write as Normal memory; nothing
/// else writes the source, and nothing else uses the destination.
pub unsafe fn relocate_page(from: u64, to: u64) {
    if line() != 64 {
        clean_and_invalidate(from, PAGE_SIZE);
        // SAFETY: by contract.
        unsafe {
            copy_words(
                core::ptr::with_exposed_provenance_mut(to as usize),
                core::ptr::with_exposed_provenance(from as usize),
                PAGE_SIZE as usize / size_of::<u64>(),
            );
        }
        clean_and_invalidate(to, PAGE_SIZE);
        return;
    }
    let end = from + PAGE_SIZE;
    let mut at = from;
    while at < end {
        // SAFETY: sixteen lines of the source; what is invalidated is written back first.
        unsafe {
            asm!(
                ".rept 16",
                "dc civac, {at}",
                "add {at}, {at}, #64",
                ".endr",
                at = inout(reg) at,
                options(nostack, preserves_flags)
            );
        }
    }
    // SAFETY: a barrier, then loads of the source and stores to the destination within their pages, by
    // contract; each destination line is cleaned after its last store, in program order with it.
    unsafe {
        asm!(
            "dsb sy",
            "2:",
            ".rept 16",
            "ldp {c}, {d}, [{from}, #16]",
            "ldp {e}, {f}, [{from}, #32]",
            "ldp {g}, {h}, [{from}, #48]",
            "ldp {a}, {b}, [{from}], #64",
            "stp {a}, {b}, [{to}, #64]!",
            "stp {c}, {d}, [{to}, #16]",
            "stp {e}, {f}, [{to}, #32]",
            "stp {g}, {h}, [{to}, #48]",
            "dc civac, {to}",
            ".endr",
            "cmp {from}, {end}",
            "b.lo 2b",
            from = inout(reg) from => _,
            to = inout(reg) to - 64 => _,
            end = in(reg) end,
            a = out(reg) _,
            b = out(reg) _,
            c = out(reg) _,
            d = out(reg) _,
            e = out(reg) _,
            f = out(reg) _,
            g = out(reg) _,
            h = out(reg) _,
            options(nostack)
        );
    }
}

/// Whether a page holds what is written to it, through the caches at `page` and past them at `alias`, and each way
/// sees what the other has written once the lines in between are cleaned and invalidated (DDI 0487, B2.8 mismatched
/// attributes). It is zero afterwards, with [`finish_scrub`] still to come.
///
/// # Safety
/// Both must be page-aligned addresses of one page mapped read-write as Normal memory, `alias` non-cacheable, which
/// nothing else uses.
pub unsafe fn check_page(page: u64, alias: u64, seed: u64) -> bool {
    /// Past the caches one word of each 64 bytes.
    const STEP: u64 = 64;
    let word = |offset: u64| (seed ^ offset).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let at = |address: u64| core::ptr::with_exposed_provenance_mut::<u64>(address as usize);
    let mut holds = true;
    // SAFETY: all accesses are aligned words of the page, by contract ours alone.
    unsafe {
        for offset in (0..PAGE_SIZE).step_by(8) {
            at(page + offset).write_volatile(word(offset));
        }
        clean_and_invalidate(page, PAGE_SIZE);
        for offset in (0..PAGE_SIZE).step_by(STEP as usize) {
            // Another word of each line, so that all eight are looked at.
            let offset = offset + (offset / STEP % 8) * 8;
            holds &= at(alias + offset).read_volatile() == word(offset);
            at(alias + offset).write_volatile(!word(offset));
        }
        // What may have been fetched meanwhile is old.
        clean_and_invalidate(page, PAGE_SIZE);
        for offset in (0..PAGE_SIZE).step_by(8) {
            let is_changed = offset % STEP == (offset / STEP % 8) * 8;
            let expected = if is_changed {
                !word(offset)
            } else {
                word(offset)
            };
            holds &= at(page + offset).read_volatile() == expected;
        }
        scrub_page(page);
    }
    holds
}

/// Ends a run of [`scrub_page`] whose pages have held no instructions since the caches were last told: maintenance
/// complete.
pub fn finish_zeroing() {
    // SAFETY: a barrier.
    unsafe { asm!("dsb sy", options(nostack, preserves_flags)) };
}

/// Ends a run of [`scrub_page`] or [`relocate_page`]: maintenance complete, and no stale instructions of the former owner.
pub fn finish_scrub() {
    // SAFETY: barriers and I-cache invalidation change no value (DDI 0487, D7.5.9.2).
    unsafe { asm!("dsb sy", options(nostack, preserves_flags)) };
    invalidate_instructions();
}
