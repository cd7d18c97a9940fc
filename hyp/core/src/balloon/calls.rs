//! The interface's calls: which there are, and what each may do at once.

use core::sync::atomic::Ordering;

use ballast_abi::{LIST_ENTRIES, Order, Status, feature, function};
use spin::mutex::{SpinMutexGuard, TicketMutex};

use super::hw::Hardware;
use super::{Counter, Driver, GuestMemory, Ledger, Outcome, Reported, Via};
use crate::addr::{Ipa, PAGE_SIZE};
use crate::frames::{GuestSet, Pool};

impl GuestMemory {
    /// Carries out the hypercall `function` (w0) with the arguments in x1 to x4; `None` if it is not
    /// one of this interface.
    #[inline]
    pub fn call(
        &self,
        pool: &TicketMutex<Pool>,
        hw: &mut impl Hardware,
        function: u32,
        args: [u64; 4],
    ) -> Option<Outcome> {
        self.call_via(pool, hw, function, args, Via::Page)
    }

    /// The same as a message asks for it, whose list is in `entries`: statuses are written there.
    pub fn call_by_message(
        &self,
        pool: &TicketMutex<Pool>,
        hw: &mut impl Hardware,
        function: u32,
        args: [u64; 4],
        entries: &mut [u64],
    ) -> Option<Outcome> {
        self.call_via(pool, hw, function, args, Via::Message(entries))
    }

    fn call_via(
        &self,
        pool: &TicketMutex<Pool>,
        hw: &mut impl Hardware,
        function: u32,
        args: [u64; 4],
        via: Via<'_>,
    ) -> Option<Outcome> {
        let [x1, x2, x3, x4] = args;
        Some(match function {
            function::RESERVE | function::RELEASE => match self.transaction() {
                Ok(mut ledger) => {
                    let is_reserve = function == function::RESERVE;
                    self.move_list(&mut ledger, pool, hw, is_reserve, x1, x2, via)
                }
                Err(status) => {
                    let [reserve, release] = &self.stats.turned_away;
                    let turned_away = if function == function::RESERVE {
                        reserve
                    } else {
                        release
                    };
                    turned_away.add_shared(1);
                    Outcome::status(status)
                }
            },
            function::TARGET => {
                let target = self.target.fetch();
                let word = u64::from(target.cpus) << 32 | u64::from(target.sequence);
                Outcome::new(
                    Status::Success,
                    [target.reserve_pages, word, target.deadline],
                )
            }
            function::HELLO => match self.transaction() {
                Ok(mut ledger) => self.hello(&mut ledger, hw, x1, x2, &via),
                Err(status) => Outcome::status(status),
            },
            function::QUERY => match self.transaction() {
                Ok(ledger) => self.query(&ledger, hw, Ipa(x1)),
                Err(status) => Outcome::status(status),
            },
            function::GOODBYE => match self.transaction() {
                Ok(mut ledger) => Outcome::status(self.goodbye(&mut ledger, x1)),
                Err(status) => Outcome::status(status),
            },
            function::PRESSURE => {
                // What the guest was configured with it may have back, if it is there, in runs that it can take.
                let least = u64::from(self.least_pages.load(Ordering::Relaxed)).max(1);
                let (free, backed) = {
                    let pool = pool.lock();
                    let guest = self.guest();
                    (pool.free_for(guest), pool.counts().of(guest))
                };
                let whole = |pages: u64| pages - pages % least;
                let need = x1.min(whole(free.into())).next_multiple_of(least);
                let floor = self.max_pages.saturating_sub(self.config.memory_pages);
                // A target on the way to which the guest came into trouble is given up. Should another call be in
                // progress, what it has done so far counts.
                let reserved = whole(self.max_pages.saturating_sub(backed.into()));
                let target = self.target.relieve(need, floor, reserved);
                Outcome::new(Status::Success, [target, 0, 0])
            }
            function::REPORT if x3 & 0xffff_ffff > 1000 => {
                Outcome::status(Status::InvalidParameters)
            }
            function::REPORT => {
                let pressure = x3 as u32;
                self.report.set_runnable((x3 >> 32) as u32);
                self.report.set(Reported {
                    free_pages: x1,
                    available_pages: x2,
                    pressure,
                    refaults: x4,
                });
                Outcome::status(Status::Success)
            }
            function::VERSION => {
                Outcome::new(Status::Success, [u64::from(ballast_abi::VERSION), 0, 0])
            }
            function::FEATURES => {
                let cpus = if self.config.cpu_targets {
                    feature::CPUS
                } else {
                    0
                };
                let blocks = if self.config.identity {
                    feature::WHOLE_BLOCKS
                } else {
                    0
                };
                let features = blocks
                    | feature::MEMORY
                    | feature::PRESSURE
                    | feature::REPORT
                    | feature::CHANNELS
                    | feature::RUN_QUEUE
                    | feature::GRANULE
                    | cpus;
                Outcome::new(Status::Success, [features, 0, 0])
            }
            function::UID => {
                let [w0, w1, w2, w3] = ballast_abi::UID;
                let registers = [u64::from(w0), u64::from(w1), u64::from(w2), u64::from(w3)];
                Outcome {
                    registers,
                    wake: GuestSet::EMPTY,
                    relocate: GuestSet::EMPTY,
                }
            }
            _ => return None,
        })
    }

    /// The guest's transaction; BUSY while another call has it or a relocation is to have it, DENIED while the guest
    /// is rebuilt.
    fn transaction(&self) -> Result<SpinMutexGuard<'_, Ledger>, Status> {
        if self.yields_to_relocation() {
            return Err(Status::Busy);
        }
        let ledger = self.ledger.try_lock().ok_or(Status::Busy)?;
        if ledger.rebuild.is_some() {
            Err(Status::Denied)
        } else {
            Ok(ledger)
        }
    }

    /// The driver with this epoch leaves.
    fn goodbye(&self, ledger: &mut Ledger, epoch: u64) -> Status {
        if ledger.driver.is_none() {
            Status::NoDriver
        } else if epoch != u64::from(ledger.epoch) {
            Status::WrongEpoch
        } else {
            self.set_driver(ledger, None);
            Status::Success
        }
    }

    fn hello(
        &self,
        ledger: &mut Ledger,
        hw: &mut impl Hardware,
        list: u64,
        granule: u64,
        via: &Via<'_>,
    ) -> Outcome {
        let Some(granule) = u8::try_from(granule).ok().and_then(Order::new) else {
            return Outcome::status(Status::InvalidParameters);
        };
        let driver = match via {
            Via::Page => self.list_page(hw, list, granule),
            Via::Message(_) => (list == 0).then_some(Driver::by_message(granule)),
        };
        if driver.is_none() {
            return Outcome::status(Status::InvalidAddress);
        }
        self.set_driver(ledger, driver);
        ledger.epoch = ledger.epoch.wrapping_add(1);
        let missing = self.max_pages - ledger.backed_pages;
        Outcome::new(Status::Success, [u64::from(ledger.epoch), missing, 0])
    }

    /// A driver with its list at `list`, if that is a page of the guest's ordinary memory.
    fn list_page(&self, hw: &mut impl Hardware, list: u64, granule: Order) -> Option<Driver> {
        let list_ipa = Ipa(list);
        if !list_ipa.is_aligned(PAGE_SIZE) || !self.is_ram(list_ipa) {
            return None;
        }
        let list = self.stage2.translate(hw, list_ipa)?;
        Some(Driver {
            list_ipa,
            list,
            granule,
        })
    }

    /// RESERVE and RELEASE.
    #[expect(clippy::too_many_arguments, reason = "a call's, and where it works")]
    fn move_list(
        &self,
        ledger: &mut Ledger,
        pool: &TicketMutex<Pool>,
        hw: &mut impl Hardware,
        is_reserve: bool,
        n: u64,
        epoch: u64,
        mut via: Via<'_>,
    ) -> Outcome {
        let Some(driver) = ledger.driver else {
            return Outcome::status(Status::NoDriver);
        };
        if epoch != u64::from(ledger.epoch) {
            return Outcome::status(Status::WrongEpoch);
        }
        if driver.is_by_message() != matches!(via, Via::Message(_)) {
            // The right epoch on the wrong way: a guess.
            return Outcome::status(Status::Denied);
        }
        if n == 0 || n > LIST_ENTRIES as u64 {
            return Outcome::status(Status::InvalidParameters);
        }
        let (direction, done) = self.stats.direction(is_reserve);
        let done_before = done.iter().map(Counter::get).sum::<u64>();
        let Ledger {
            list,
            batch,
            tables,
            backed_pages,
            gather,
            ..
        } = ledger;
        let Some(entries) = list.get_mut(..n as usize) else {
            return Outcome::status(Status::InvalidParameters);
        };
        match &via {
            Via::Page => hw.read_page(driver.list, entries),
            Via::Message(given) if given.len() == entries.len() => entries.copy_from_slice(given),
            Via::Message(_) => return Outcome::status(Status::InvalidParameters),
        }
        let before = *backed_pages;
        self.trace.called(hw.counter());
        let (consumed, wake, mut relocate) = if is_reserve {
            self.reserve(pool, hw, driver, entries, batch, tables, backed_pages)
        } else {
            let (consumed, relocate) =
                self.release(pool, hw, driver, entries, batch, tables, backed_pages);
            if before != *backed_pages {
                self.trace.granted(hw.counter());
            }
            (consumed, GuestSet::EMPTY, relocate)
        };
        let judged = entries.get(..consumed).unwrap_or(&[]);
        match &mut via {
            Via::Page => hw.write_page(driver.list, judged),
            Via::Message(given) => {
                let pairs = given.iter_mut().zip(judged);
                pairs.for_each(|(word, judged)| *word = *judged);
            }
        }
        hw.publish_tables();
        direction.calls.add(1);
        let done = done.iter().map(Counter::get).sum::<u64>() - done_before;
        direction.refused.add(consumed as u64 - done);
        let pages = before.abs_diff(*backed_pages);
        let has_arrived = self.max_pages - *backed_pages == self.target.reserve_pages();
        if has_arrived && !self.config.realtime && pool.lock().has_tables(self.guest()) {
            gather.ask();
            relocate.insert(self.guest());
        }
        Outcome {
            wake,
            relocate,
            ..Outcome::new(Status::Success, [consumed as u64, pages, 0])
        }
    }
}
