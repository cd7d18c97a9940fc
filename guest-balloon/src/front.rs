//! What a front provides.

use ballast_abi::{Entry, Order};

/// The way to Ballast: the HVC instruction and the list page.
pub trait Hypercall {
    /// Makes the call (x0 = `function`, then x1 to x4); x0 to x3 as returned. The list page may have changed.
    fn call_with(&mut self, function: u32, arguments: [u64; 4]) -> [u64; 4];

    /// The same with x1 and x2 alone.
    fn call(&mut self, function: u32, x1: u64, x2: u64) -> [u64; 4] {
        self.call_with(function, [x1, x2, 0, 0])
    }

    /// IPA of the list page: 4 KiB of the guest's own ordinary memory, for this driver alone, mapped cacheable.
    fn list_ipa(&self) -> u64;

    /// Reads an entry of the list page; `index` is less than [`ballast_abi::LIST_ENTRIES`].
    fn entry(&self, index: usize) -> Entry;

    /// Writes an entry.
    fn set_entry(&mut self, index: usize, entry: Entry);
}

/// What one request to the guest's allocator brought.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Taken {
    /// Runs written, from the start of the slice.
    pub runs: usize,
    /// The allocator had to reclaim or compact, or failed: the sign to slow down.
    pub strained: bool,
}

/// The guest's allocator and the record of the runs that are reserved.
///
/// All page counts are of the interface's pages of 4 KiB. A run is `order.pages()` of them, aligned to its size, and
/// none is smaller than the guest's own page. It is in one of three places: in the allocator, in
/// the list page (the core passes it between the others), or *held*. A held run is not backed and must never
/// be touched.
pub trait PageSource {
    /// The guest's own page: of 4, 16 or 64 KiB. Always the same.
    fn granule(&self) -> Order {
        Order::Page
    }

    /// Pages that the guest can give before it reaches its own floor.
    fn headroom_pages(&mut self) -> u64;

    /// Takes up to `ipas.len()` runs from the allocator and writes their IPAs. Must not reclaim hard and must
    /// not go below the guest's emergency reserves.
    fn take(&mut self, order: Order, ipas: &mut [u64]) -> Taken;

    /// Gives a backed run to the allocator: one that was taken and refused by Ballast, or one released.
    fn give(&mut self, ipa: u64, order: Order);

    /// Records a run as held. It may have been taken and reserved, or, after [`Driver::hello`], never been
    /// in this driver's hands (the boot balloon, or a predecessor's).
    ///
    /// [`Driver::hello`]: crate::Driver::hello
    fn hold(&mut self, ipa: u64, order: Order);

    /// Picks a held run of this order and forgets it; splits a larger one if there is none of this order.
    fn pick(&mut self, order: Order) -> Option<u64>;

    /// The `index`-th range of RAM the guest may ever have: IPA and pages, multiples of the guest's own page.
    /// `None` behind the last.
    fn ram(&self, index: usize) -> Option<(u64, u64)>;

    /// A batch is over: time to do once what would be dear per page (accounting).
    fn settle(&mut self) {}
}

/// Time.
pub trait Clock {
    /// A monotonic counter; CNTVCT where the deadline of the target is to mean anything.
    fn now(&self) -> u64;

    /// Its ticks in a second.
    fn ticks_per_second(&self) -> u64;
}
