//! A guest of a few MiB and the Ballast under it, both as simple as they can be while still judging every move.

mod cores;
mod front;

use ballast_abi::{Entry, EntryStatus, LIST_ENTRIES, Order, PAGE_SIZE, Status};

use crate::{Driver, Next};

pub use cores::Cores;

pub const RAM_BASE: u64 = 0x4000_0000;
pub const TICKS_PER_SECOND: u64 = 1_000_000;

/// Where a page of the guest is, as the guest sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Page {
    /// In the allocator.
    Free,
    /// The guest uses it.
    Used,
    /// Between allocator and record: in the list page.
    Listed,
    /// In the record.
    Held,
}

/// Everything outside the driver.
pub struct World {
    pub now: u64,
    // Ballast.
    pub backed: Vec<bool>,
    /// Pages that are not.
    missing: u64,
    pub epoch: u64,
    pub target: u64,
    pub sequence: u32,
    pub fetched: u32,
    pub pool_pages: u64,
    /// The pool has no whole blocks.
    pub pool_fragmented: bool,
    pub wanting: bool,
    pub minimum_pages: u64,
    pub blocks_only: bool,
    /// What the driver's HELLO said.
    announced: Order,
    /// Entries that Ballast does at a time.
    pub work_bound: u64,
    /// Answers BUSY so many times.
    pub busy: u32,
    pub calls: u64,
    pub takes_run_queue: bool,
    pub reports: Vec<[u64; 4]>,
    list: [Entry; LIST_ENTRIES],
    // The guest.
    /// Its own page.
    pub granule: Order,
    pub pages: Vec<Page>,
    pub held: Vec<(u64, Order)>,
    pub floor_pages: u64,
    /// Pages a second that the allocator delivers, if it is limited.
    pub allocator_rate: Option<u64>,
    allocator_tokens: f64,
    allocator_at: u64,
    pub asked: u64,
    pub failed_requests: u64,
    /// Free pages of each block, to find runs quickly; `None` when a test has changed `pages` itself.
    free: Option<Vec<usize>>,
    /// Where the last search ended, by order / 4.
    hints: [usize; 3],
    pub cores: Cores,
}

impl World {
    /// A guest of `blocks` 2 MiB blocks of which the first `backed_blocks` are backed.
    pub fn new(blocks: usize, backed_blocks: usize) -> Self {
        let total = blocks * 512;
        let backed = backed_blocks * 512;
        let mut pages = vec![Page::Free; total];
        // What is not backed is a boot balloon: in nobody's hands until it is held.
        pages[backed..].fill(Page::Listed);
        pages[0] = Page::Used;
        Self {
            now: 1,
            backed: (0..total).map(|page| page < backed).collect(),
            missing: (total - backed) as u64,
            epoch: 0,
            target: (total - backed) as u64,
            sequence: 1,
            fetched: 0,
            pool_pages: 0,
            pool_fragmented: false,
            wanting: false,
            minimum_pages: 0,
            blocks_only: false,
            announced: Order::Page,
            granule: Order::Page,
            work_bound: u64::MAX,
            busy: 0,
            calls: 0,
            takes_run_queue: true,
            reports: Vec::new(),
            list: [Entry(0); LIST_ENTRIES],
            pages,
            held: Vec::new(),
            floor_pages: 0,
            allocator_rate: None,
            allocator_tokens: 0.0,
            allocator_at: 0,
            asked: 0,
            failed_requests: 0,
            free: None,
            hints: [0; 3],
            cores: Cores::default(),
        }
    }

    /// A guest with pages of its own of this size.
    pub fn with_granule(granule: Order, blocks: usize, backed_blocks: usize) -> Self {
        let mut world = Self::new(blocks, backed_blocks);
        world.granule = granule;
        world.pages[..granule.pages() as usize].fill(Page::Used);
        world
    }

    pub fn driver(&mut self) -> Driver {
        let mut driver = Driver::new(self);
        driver.hello(self).unwrap();
        driver
    }

    pub fn set_target(&mut self, pages: u64) {
        self.target = pages;
        self.sequence += 1;
    }

    /// Frames come to the pool: who wants some is told.
    pub fn grow_pool(&mut self, pages: u64) {
        self.pool_pages += pages;
        if core::mem::take(&mut self.wanting) {
            self.sequence += 1;
        }
    }

    pub fn interrupt_is_asserted(&self) -> bool {
        self.sequence != self.fetched
    }

    pub fn not_backed(&self) -> u64 {
        self.backed.iter().filter(|&&backed| !backed).count() as u64
    }

    /// Runs driver and time until `end` or rest; whether it came to rest.
    pub fn run(&mut self, driver: &mut Driver, end: u64) -> bool {
        while self.now < end {
            if self.interrupt_is_asserted() {
                driver.on_interrupt(self);
            }
            match driver.step(self) {
                Next::Idle if self.interrupt_is_asserted() => {}
                Next::Idle => return true,
                Next::Again => self.now += 1,
                Next::WaitUntil(at) => self.now = at.max(self.now + 1),
            }
        }
        false
    }

    /// Runs for so many seconds at most.
    pub fn run_seconds(&mut self, driver: &mut Driver, seconds: u64) -> bool {
        self.run(driver, self.now + seconds * TICKS_PER_SECOND)
    }

    /// What must hold whenever the driver is not in a call.
    pub fn check(&self, driver: &Driver) {
        let mut held = vec![false; self.pages.len()];
        for &(ipa, order) in &self.held {
            for page in Self::range(ipa, order) {
                assert!(
                    !core::mem::replace(&mut held[page], true),
                    "page {page} is held twice"
                );
            }
        }
        for (page, &state) in self.pages.iter().enumerate() {
            assert_ne!(state, Page::Listed, "page {page} was lost");
            assert_eq!(state == Page::Held, held[page], "record of page {page}");
            assert_eq!(
                self.backed[page],
                state != Page::Held,
                "backing of page {page}"
            );
        }
        assert_eq!(driver.reserved_pages(), self.not_backed());
        assert_eq!(self.missing, self.not_backed());
    }

    fn free(&mut self) -> &mut Vec<usize> {
        let count = |block: &[Page]| block.iter().filter(|&&page| page == Page::Free).count();
        self.free
            .get_or_insert_with(|| self.pages.chunks(512).map(count).collect())
    }

    /// A test changes what the guest itself does with its pages.
    pub fn guest(&mut self) -> &mut [Page] {
        self.free = None;
        &mut self.pages
    }

    fn find(&mut self, order: Order) -> Option<usize> {
        let size = order.pages() as usize;
        let blocks = self.pages.len() / 512;
        let hint = self.hints[order as usize / 4];
        for block in (0..blocks).map(|step| (hint + step) % blocks) {
            if self.free()[block] < size {
                continue;
            }
            let pages = &self.pages[block * 512..][..512];
            let free = |run: &[Page]| run.iter().all(|&page| page == Page::Free);
            if let Some(run) = pages.chunks(size).position(free) {
                self.hints[order as usize / 4] = block;
                return Some(block * 512 + run * size);
            }
        }
        None
    }

    pub fn range(ipa: u64, order: Order) -> core::ops::Range<usize> {
        let first = ((ipa - RAM_BASE) / PAGE_SIZE) as usize;
        first..first + order.pages() as usize
    }

    fn exchange(
        &mut self,
        n: u64,
        epoch: u64,
        mut judge: impl FnMut(&mut Self, Entry) -> EntryStatus,
    ) -> [u64; 4] {
        let fail = |status: Status| [status.to_register(), 0, 0, 0];
        if self.busy > 0 {
            self.busy -= 1;
            return fail(Status::Busy);
        }
        if self.epoch == 0 {
            return fail(Status::NoDriver);
        }
        if epoch != self.epoch {
            return fail(Status::WrongEpoch);
        }
        if n == 0 || n > LIST_ENTRIES as u64 {
            return fail(Status::InvalidParameters);
        }
        let consumed = n.min(self.work_bound);
        let mut done = 0;
        for index in 0..consumed as usize {
            let entry = self.list[index];
            let status = if entry.is_well_formed() {
                judge(self, entry)
            } else {
                EntryStatus::Malformed
            };
            if status == EntryStatus::Done {
                done += entry.order().unwrap().pages();
            }
            self.list[index] = entry.with_status(status);
        }
        [0, consumed, done, 0]
    }

    fn judge_reserve(&mut self, entry: Entry) -> EntryStatus {
        let order = entry.order().unwrap();
        assert!(entry.ipa().is_multiple_of(order.bytes()));
        let range = Self::range(entry.ipa(), order);
        assert!(
            order >= self.announced,
            "part of a page of the guest's was offered"
        );
        if self.blocks_only && order != Order::Block {
            return EntryStatus::WrongOrder;
        }
        if !self.backed[range.clone()].iter().all(|&backed| backed) {
            return EntryStatus::NotBacked;
        }
        let total = self.backed.len() as u64;
        if total - self.missing - order.pages() < self.minimum_pages {
            return EntryStatus::BelowMinimum;
        }
        for page in range {
            assert_eq!(
                self.pages[page],
                Page::Listed,
                "page {page} was handed over while in use"
            );
            self.backed[page] = false;
        }
        self.missing += order.pages();
        self.grow_pool(order.pages());
        EntryStatus::Done
    }

    fn judge_release(&mut self, entry: Entry) -> EntryStatus {
        let order = entry.order().unwrap();
        let range = Self::range(entry.ipa(), order);
        assert!(
            order >= self.announced,
            "part of a page of the guest's was asked for"
        );
        if self.backed[range.clone()].iter().any(|&backed| backed) {
            return EntryStatus::AlreadyBacked;
        }
        if self.missing < self.target + order.pages() {
            return EntryStatus::OverTarget;
        }
        if self.pool_pages < order.pages() || self.pool_fragmented && order == Order::Block {
            self.wanting = true;
            return EntryStatus::NoMemory;
        }
        self.pool_pages -= order.pages();
        self.missing -= order.pages();
        self.backed[range].fill(true);
        EntryStatus::Done
    }
}
