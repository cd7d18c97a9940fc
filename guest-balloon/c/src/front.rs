//! The front: C functions for the guest's allocator, and the instructions that Rust makes itself.

use core::arch::asm;

use ballast_balloon::abi::{Entry, LIST_ENTRIES, Order};
use ballast_balloon::{Clock, Hypercall, PageSource, Taken};

unsafe extern "C" {
    // Safe to call with any argument from the context in which the guest calls this library.
    safe fn ballast_front_granule() -> u32;
    safe fn ballast_front_headroom() -> u64;
    fn ballast_front_take(order: u32, ipas: *mut u64, runs: u32, strained: *mut bool) -> u32;
    safe fn ballast_front_give(ipa: u64, order: u32);
    safe fn ballast_front_hold(ipa: u64, order: u32);
    fn ballast_front_pick(order: u32, ipa: *mut u64) -> bool;
    fn ballast_front_ram(index: u32, ipa: *mut u64, pages: *mut u64) -> bool;
    safe fn ballast_front_settle();
}

/// The list page; everything else is behind the C functions.
#[derive(Debug)]
pub struct Front {
    list: *mut u64,
    list_ipa: u64,
}

impl Front {
    /// # Safety
    /// `list` is a page of the guest's own, mapped cacheable, used by nobody else as long as this lives;
    /// `list_ipa` is its physical address.
    pub unsafe fn new(list: *mut u64, list_ipa: u64) -> Self {
        Self { list, list_ipa }
    }

    fn slot(&self, index: usize) -> *mut u64 {
        // Wrapping, and masked to the page, so that no index leaves it.
        self.list.wrapping_add(index % LIST_ENTRIES)
    }
}

impl Hypercall for Front {
    fn call_with(&mut self, function: u32, [x1, x2, x3, x4]: [u64; 4]) -> [u64; 4] {
        let (mut r0, mut r1, mut r2, mut r3) = (u64::from(function), x1, x2, x3);
        // SAFETY: SMCCC 1.2 (DEN0028 section 2.6): x0..x3 are results, x4..x17 are preserved. The pages the
        // call moves belong to no Rust object; the list page is read anew after it (memory is clobbered).
        unsafe {
            asm!("hvc #0", inout("x0") r0, inout("x1") r1, inout("x2") r2, inout("x3") r3, in("x4") x4,
                options(nostack));
        }
        [r0, r1, r2, r3]
    }

    fn list_ipa(&self) -> u64 {
        self.list_ipa
    }

    fn entry(&self, index: usize) -> Entry {
        // SAFETY: within the page that `new` was given. Volatile: Ballast writes it.
        Entry(unsafe { self.slot(index).read_volatile() })
    }

    fn set_entry(&mut self, index: usize, entry: Entry) {
        // SAFETY: as `entry`.
        unsafe { self.slot(index).write_volatile(entry.0) }
    }
}

impl PageSource for Front {
    fn granule(&self) -> Order {
        let order = u8::try_from(ballast_front_granule()).ok();
        order.and_then(Order::new).unwrap_or(Order::Page)
    }

    fn headroom_pages(&mut self) -> u64 {
        ballast_front_headroom()
    }

    fn take(&mut self, order: Order, ipas: &mut [u64]) -> Taken {
        let mut strained = false;
        let wanted = u32::try_from(ipas.len()).unwrap_or(u32::MAX);
        // SAFETY: the C side writes at most `wanted` elements and one bool.
        let runs = unsafe {
            ballast_front_take(order as u32, ipas.as_mut_ptr(), wanted, &raw mut strained)
        };
        Taken {
            runs: (runs as usize).min(ipas.len()),
            strained,
        }
    }

    fn give(&mut self, ipa: u64, order: Order) {
        ballast_front_give(ipa, order as u32);
    }

    fn hold(&mut self, ipa: u64, order: Order) {
        ballast_front_hold(ipa, order as u32);
    }

    fn pick(&mut self, order: Order) -> Option<u64> {
        let mut ipa = 0;
        // SAFETY: the C side writes one u64.
        unsafe { ballast_front_pick(order as u32, &raw mut ipa) }.then_some(ipa)
    }

    fn ram(&self, index: usize) -> Option<(u64, u64)> {
        let (mut ipa, mut pages) = (0, 0);
        let index = u32::try_from(index).ok()?;
        // SAFETY: the C side writes two u64.
        unsafe { ballast_front_ram(index, &raw mut ipa, &raw mut pages) }.then_some((ipa, pages))
    }

    fn settle(&mut self) {
        ballast_front_settle();
    }
}

impl Clock for Front {
    fn now(&self) -> u64 {
        counter()
    }

    fn ticks_per_second(&self) -> u64 {
        frequency()
    }
}

/// The virtual counter.
pub fn counter() -> u64 {
    let now;
    // SAFETY: reading the virtual counter (Arm ARM DDI 0487 D12.2.1). No `nomem`: it stays in its place among the
    // calls it times.
    unsafe { asm!("isb", "mrs {}, cntvct_el0", out(reg) now, options(nostack, preserves_flags)) };
    now
}

/// Its ticks in a second.
pub fn frequency() -> u64 {
    let frequency;
    // SAFETY: reading a constant.
    unsafe {
        asm!("mrs {}, cntfrq_el0", out(reg) frequency, options(nomem, nostack, preserves_flags))
    };
    frequency
}
