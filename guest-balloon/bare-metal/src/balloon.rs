//! The balloon driver core on this guest: allocator, list page, HVC, counter.
//!
//! Every page in the allocator holds a pattern. It is verified before a page is given away, and a page that comes
//! back must read zero.

use core::cell::UnsafeCell;

use ballast_balloon::abi::{Entry, LIST_ENTRIES, Order, PAGE_SIZE};
use ballast_balloon::{Clock, Driver, Hypercall, PageSource, Taken};

use crate::memory::{self, Mismatch};
use crate::pages::{Pages, State};
use crate::tests::{Outcome, why};
use crate::{cpu, ensure, smccc};

/// Pages that the driver leaves in the allocator.
const FLOOR_PAGES: u64 = 64;

/// The list page; `.bss` of the image, so ordinary memory of the guest.
#[repr(C, align(4096))]
pub struct ListPage(UnsafeCell<[u64; LIST_ENTRIES]>);

// SAFETY: accessed word by word with volatile accesses, which tests race on purpose.
unsafe impl Sync for ListPage {}

/// The list page of the balloon driver.
pub static LIST: ListPage = ListPage(UnsafeCell::new([0; LIST_ENTRIES]));
/// Another, for tests that need a second caller.
pub static OTHER_LIST: ListPage = ListPage(UnsafeCell::new([0; LIST_ENTRIES]));

impl ListPage {
    /// Its address, IPA and virtual.
    pub fn address(&self) -> u64 {
        self.0.get() as u64
    }

    /// Reads an entry.
    pub fn get(&self, index: usize) -> Entry {
        assert!(index < LIST_ENTRIES);
        // SAFETY: within the page.
        Entry(unsafe { (self.0.get() as *const u64).add(index).read_volatile() })
    }

    /// Writes an entry.
    pub fn set(&self, index: usize, entry: Entry) {
        assert!(index < LIST_ENTRIES);
        // SAFETY: within the page.
        unsafe {
            (self.0.get() as *mut u64)
                .add(index)
                .write_volatile(entry.0)
        };
    }
}

/// What the driver core needs.
pub struct Front {
    /// The allocator.
    pub pages: Pages<'static>,
    /// What makes this guest's pattern its own.
    pub seed: u64,
    /// The first page that held something else than it should.
    pub mismatch: Option<Mismatch>,
    /// Pages that came back and read zero.
    pub zero_pages: u64,
    /// Writes and verifies contents; off while costs are measured.
    pub contents: bool,
    /// Gives and takes single pages alone, and gives every other one first: as a guest whose memory is in pieces.
    pub is_scattered: bool,
}

impl Front {
    /// Over an allocator.
    pub fn new(pages: Pages<'static>, seed: u64) -> Self {
        Self {
            pages,
            seed,
            mismatch: None,
            zero_pages: 0,
            contents: true,
            is_scattered: false,
        }
    }

    /// Writes the pattern into all free pages.
    pub fn fill(&mut self) {
        for page in self.pages.addresses(State::Free) {
            // SAFETY: a page of the allocator, backed.
            unsafe { memory::fill(page, self.seed) };
        }
    }

    /// Verifies all free pages; how many there are.
    pub fn verify(&mut self) -> Result<u64, Mismatch> {
        let mut verified = 0;
        for page in self.pages.addresses(State::Free) {
            // SAFETY: as `fill`.
            unsafe { memory::verify(page, self.seed) }?;
            verified += 1;
        }
        Ok(verified)
    }

    /// Gives a run to the allocator that must read zero, whatever it held before.
    pub fn give_zeroed(&mut self, ipa: u64, order: Order) {
        for page in (ipa..ipa + order.bytes()).step_by(PAGE_SIZE as usize) {
            // SAFETY: a backed page in the caller's hands.
            let result = unsafe { memory::verify_zero(page) };
            self.note(result);
            // SAFETY: as above.
            unsafe { memory::fill(page, self.seed) };
        }
        self.pages.set(ipa, order, State::Free);
    }

    fn note(&mut self, result: Result<(), Mismatch>) {
        if let Err(mismatch) = result {
            self.mismatch.get_or_insert(mismatch);
        }
    }
}

impl Hypercall for Front {
    fn call_with(&mut self, function: u32, [x1, x2, x3, x4]: [u64; 4]) -> [u64; 4] {
        smccc::hvc([function.into(), x1, x2, x3, x4])
    }

    fn list_ipa(&self) -> u64 {
        LIST.address()
    }

    fn entry(&self, index: usize) -> Entry {
        LIST.get(index)
    }

    fn set_entry(&mut self, index: usize, entry: Entry) {
        LIST.set(index, entry);
    }
}

impl PageSource for Front {
    fn headroom_pages(&mut self) -> u64 {
        self.pages.count(State::Free).saturating_sub(FLOOR_PAGES)
    }

    fn take(&mut self, order: Order, ipas: &mut [u64]) -> Taken {
        let mut runs = 0;
        for slot in ipas.iter_mut() {
            let picked = match (self.is_scattered, order) {
                (true, Order::Page) => self.pages.pick_scattered(),
                (true, _) => None,
                (false, _) => self.pages.pick(State::Free, order),
            };
            let Some(address) = picked else {
                break;
            };
            if self.contents {
                for page in (address..address + order.bytes()).step_by(PAGE_SIZE as usize) {
                    // SAFETY: a page that was just in the allocator.
                    let result = unsafe { memory::verify(page, self.seed) };
                    self.note(result);
                }
            }
            *slot = address;
            runs += 1;
        }
        Taken {
            runs,
            strained: runs < ipas.len(),
        }
    }

    fn give(&mut self, ipa: u64, order: Order) {
        if self.contents {
            for page in (ipa..ipa + order.bytes()).step_by(PAGE_SIZE as usize) {
                // A page that Ballast refused still holds the pattern.
                // SAFETY: a backed page in the driver's hands.
                let result = unsafe {
                    memory::verify_zero(page)
                        .or_else(|zero| memory::verify(page, self.seed).map_err(|_| zero))
                };
                self.zero_pages += u64::from(result.is_ok());
                self.note(result);
                // SAFETY: as above.
                unsafe { memory::fill(page, self.seed) };
            }
        }
        self.pages.set(ipa, order, State::Free);
    }

    fn hold(&mut self, ipa: u64, order: Order) {
        self.pages.set(ipa, order, State::Held);
    }

    fn pick(&mut self, order: Order) -> Option<u64> {
        if self.is_scattered && order != Order::Page {
            return None;
        }
        self.pages.pick(State::Held, order)
    }

    fn ram(&self, index: usize) -> Option<(u64, u64)> {
        (index == 0).then(|| self.pages.range())
    }
}

impl Clock for Front {
    fn now(&self) -> u64 {
        cpu::counter()
    }

    fn ticks_per_second(&self) -> u64 {
        cpu::frequency()
    }
}

/// What is in the guest's hands is all that Ballast accounts to it, and all of it is as it was left.
pub fn audit(front: &mut Front, driver: &Driver) -> Outcome {
    if let Some(Mismatch {
        address,
        found,
        expected,
    }) = front.mismatch
    {
        return Err(why(format_args!(
            "at {address:#x} {found:#x}, not {expected:#x}, when it changed hands"
        )));
    }
    let held = front.pages.count(State::Held);
    ensure!(
        held == driver.reserved_pages(),
        "{held} pages held, {} reserved",
        driver.reserved_pages()
    );
    match front.verify() {
        Ok(_) => Ok(()),
        Err(Mismatch {
            address,
            found,
            expected,
        }) => Err(why(format_args!(
            "at {address:#x} {found:#x}, not {expected:#x}, while it was ours"
        ))),
    }
}
