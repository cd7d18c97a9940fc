//! The simulated world as the driver sees it.

use ballast_abi::{Entry, Order, PAGE_SIZE, Status, UID, VERSION, feature, function};

use super::{Page, RAM_BASE, TICKS_PER_SECOND, World};
use crate::{Clock, Hypercall, PageSource, Taken};

impl Hypercall for World {
    fn call_with(&mut self, function: u32, arguments: [u64; 4]) -> [u64; 4] {
        let [x1, x2, ..] = arguments;
        self.calls += 1;
        match function {
            function::UID => UID.map(u64::from),
            function::VERSION => [0, u64::from(VERSION), 0, 0],
            function::FEATURES => {
                let blocks = if self.blocks_only {
                    feature::WHOLE_BLOCKS
                } else {
                    0
                };
                let cpus = if self.cores.target == 0 {
                    0
                } else {
                    feature::CPUS
                };
                let queue = if self.takes_run_queue {
                    feature::RUN_QUEUE
                } else {
                    0
                };
                let features = feature::MEMORY | feature::GRANULE | blocks | cpus | queue;
                [0, features, 0, 0]
            }
            function::REPORT => {
                self.reports.push(arguments);
                [0; 4]
            }
            function::HELLO => {
                assert_eq!(x1, RAM_BASE);
                self.announced = Order::new(x2 as u8).unwrap();
                self.epoch += 1;
                [0, self.epoch, self.not_backed(), 0]
            }
            function::TARGET => {
                self.fetched = self.sequence;
                let cpus = u64::from(self.cores.target) << 32;
                [0, self.target, cpus | u64::from(self.sequence), 0]
            }
            function::RESERVE => self.exchange(x1, x2, Self::judge_reserve),
            function::RELEASE => self.exchange(x1, x2, Self::judge_release),
            function::GOODBYE => {
                assert_eq!(x1, self.epoch);
                self.epoch = 0;
                [0; 4]
            }
            function::PRESSURE => {
                self.target = self.target.saturating_sub(x1);
                [0, self.target, 0, 0]
            }
            function::QUERY => {
                let first = ((x1 - RAM_BASE) / PAGE_SIZE) as usize;
                let backed = self.backed[first];
                let run = self.backed[first..]
                    .iter()
                    .take(700)
                    .take_while(|&&page| page == backed)
                    .count();
                [0, u64::from(backed), run as u64, 0]
            }
            _ => [Status::NotSupported.to_register(), 0, 0, 0],
        }
    }

    fn list_ipa(&self) -> u64 {
        RAM_BASE
    }

    fn entry(&self, index: usize) -> Entry {
        self.list[index]
    }

    fn set_entry(&mut self, index: usize, entry: Entry) {
        self.list[index] = entry;
    }
}

impl PageSource for World {
    fn granule(&self) -> Order {
        self.granule
    }

    fn headroom_pages(&mut self) -> u64 {
        let free = self
            .pages
            .iter()
            .filter(|&&page| page == Page::Free)
            .count() as u64;
        free.saturating_sub(self.floor_pages)
    }

    fn take(&mut self, order: Order, ipas: &mut [u64]) -> Taken {
        if let Some(rate) = self.allocator_rate {
            let seconds = (self.now - self.allocator_at) as f64 / TICKS_PER_SECOND as f64;
            // What it can save up: 50 ms.
            let most = (rate as f64 / 20.0).max(1.0);
            self.allocator_tokens = (self.allocator_tokens + rate as f64 * seconds).min(most);
            self.allocator_at = self.now;
        }
        assert!(order >= self.granule);
        let mut runs = 0;
        for slot in ipas.iter_mut() {
            self.asked += order.pages();
            if self.allocator_rate.is_some() && self.allocator_tokens < order.pages() as f64 {
                break;
            }
            let size = order.pages() as usize;
            let Some(first) = self.find(order) else {
                break;
            };
            self.pages[first..][..size].fill(Page::Listed);
            self.free()[first / 512] -= size;
            self.allocator_tokens -= order.pages() as f64;
            *slot = RAM_BASE + first as u64 * PAGE_SIZE;
            runs += 1;
        }
        let failed = runs < ipas.len();
        self.failed_requests += u64::from(failed);
        Taken {
            runs,
            strained: failed,
        }
    }

    fn give(&mut self, ipa: u64, order: Order) {
        for page in Self::range(ipa, order) {
            assert_eq!(self.pages[page], Page::Listed);
            assert!(
                self.backed[page],
                "page {page} is given to the allocator without being there"
            );
            self.pages[page] = Page::Free;
        }
        self.free()[Self::range(ipa, order).start / 512] += order.pages() as usize;
    }

    fn hold(&mut self, ipa: u64, order: Order) {
        assert!(order >= self.granule && ipa.is_multiple_of(order.bytes()));
        for page in Self::range(ipa, order) {
            assert_eq!(self.pages[page], Page::Listed);
            self.pages[page] = Page::Held;
        }
        self.held.push((ipa, order));
    }

    fn pick(&mut self, order: Order) -> Option<u64> {
        let candidate = |wanted| self.held.iter().position(|&(_, held)| held == wanted);
        let larger = Order::ALL.into_iter().filter(|&o| o >= order);
        let index = larger.filter_map(candidate).next()?;
        let (ipa, held) = self.held.swap_remove(index);
        let mut rest = ipa + order.bytes();
        while rest < ipa + held.bytes() {
            self.held.push((rest, order));
            rest += order.bytes();
        }
        for page in Self::range(ipa, order) {
            self.pages[page] = Page::Listed;
        }
        Some(ipa)
    }

    fn ram(&self, index: usize) -> Option<(u64, u64)> {
        (index == 0).then_some((RAM_BASE, self.pages.len() as u64))
    }
}

impl Clock for World {
    fn now(&self) -> u64 {
        self.now
    }

    fn ticks_per_second(&self) -> u64 {
        TICKS_PER_SECOND
    }
}
