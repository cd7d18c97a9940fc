//! The only place that touches RAM by address: patterns, zeroes, and memory carved out for tables.
//!
//! The pages it is asked about belong to no Rust object: they are the allocator's, between the image and the end
//! of RAM.

use core::sync::atomic::AtomicU32;

use ballast_balloon::abi::PAGE_SIZE;

const WORDS: u64 = PAGE_SIZE / 8;

/// What a word of an own page holds: different in each place, guest and generation.
const fn word(address: u64, seed: u64) -> u64 {
    (address ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// A page that did not hold what it should.
#[derive(Clone, Copy, Debug)]
pub struct Mismatch {
    /// The word's address.
    pub address: u64,
    /// What it held.
    pub found: u64,
    /// What it should have held.
    pub expected: u64,
}

/// Writes the pattern into a page.
///
/// # Safety
/// The page is RAM, mapped, backed, and no Rust object lies in it.
pub unsafe fn fill(page: u64, seed: u64) {
    for index in 0..WORDS {
        let address = page + index * 8;
        // SAFETY: within the page.
        unsafe { (address as *mut u64).write_volatile(word(address, seed)) };
    }
}

/// Checks that a page holds the pattern.
///
/// # Safety
/// As [`fill`].
pub unsafe fn verify(page: u64, seed: u64) -> Result<(), Mismatch> {
    // SAFETY: the caller's promise.
    unsafe { compare(page, |address| word(address, seed)) }
}

/// Checks that a page reads zero.
///
/// # Safety
/// As [`fill`].
pub unsafe fn verify_zero(page: u64) -> Result<(), Mismatch> {
    // SAFETY: the caller's promise.
    unsafe { compare(page, |_| 0) }
}

unsafe fn compare(page: u64, expected: impl Fn(u64) -> u64) -> Result<(), Mismatch> {
    for index in 0..WORDS {
        let address = page + index * 8;
        // SAFETY: within the page, by the caller's promise.
        let found = unsafe { (address as *const u64).read_volatile() };
        let expected = expected(address);
        if found != expected {
            return Err(Mismatch {
                address,
                found,
                expected,
            });
        }
    }
    Ok(())
}

/// A slice of `len` elements of `value` at `address`, for ever.
///
/// # Safety
/// The memory is RAM, mapped, backed, aligned for `T`, and nobody else uses it from now on.
pub unsafe fn carve<T: Copy>(address: u64, len: usize, value: T) -> &'static mut [T] {
    let start = address as *mut T;
    for index in 0..len {
        // SAFETY: within the memory, by the caller's promise.
        unsafe { start.add(index).write(value) };
    }
    // SAFETY: written above; nobody else uses it.
    unsafe { core::slice::from_raw_parts_mut(start, len) }
}

/// Memory shared with another guest, as words.
///
/// # Safety
/// The memory is mapped as RAM is, for ever, aligned to a word, and no other Rust object lies there.
pub unsafe fn shared(address: u64, bytes: u64) -> &'static [AtomicU32] {
    // SAFETY: the caller's promise. Whoever writes it, here or there, does so by single aligned stores; of memory that
    // this guest may not write only loads are made.
    unsafe { core::slice::from_raw_parts(address as *const AtomicU32, bytes as usize / 4) }
}

unsafe extern "C" {
    static __image_start: u8;
    static __image_end: u8;
}

/// Where the image lies, `.bss` and stacks included.
pub fn image() -> core::ops::Range<u64> {
    (&raw const __image_start) as u64..(&raw const __image_end) as u64
}

/// A page of the image that tests put instructions in.
#[repr(C, align(4096))]
struct Code(core::cell::UnsafeCell<[u32; 1024]>);

// SAFETY: written by one core at a time, through volatile writes.
unsafe impl Sync for Code {}

static CODE: Code = Code(core::cell::UnsafeCell::new([0; 1024]));

/// Where [`write_code`] puts instructions: normal, executable memory.
pub fn scratch_code() -> u64 {
    CODE.0.get() as u64
}

/// Puts one instruction behind others.
pub fn write_code_at(page: u64, index: usize, instruction: u32) {
    assert!(page == scratch_code() && index < 1024);
    // SAFETY: within the page, checked above.
    unsafe { (page as *mut u32).add(index).write_volatile(instruction) };
}

/// Puts instructions at the start of the page of [`scratch_code`], not yet fetchable.
pub fn write_code(page: u64, instructions: &[u32]) {
    assert!(page == scratch_code() && instructions.len() <= 1024);
    for (index, &instruction) in instructions.iter().enumerate() {
        // SAFETY: within the page, checked above.
        unsafe { (page as *mut u32).add(index).write_volatile(instruction) };
    }
}
