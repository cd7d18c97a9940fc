//! Guest to Ballast.

use ballast_abi::{EntryStatus, Order};

use super::{Driver, Next, orders};
use crate::exchange::{Batch, Direction};
use crate::front::{Clock, Hypercall, PageSource};

/// Runs asked from the allocator at a time (on the stack: a kernel's is small).
const CHUNK: usize = 32;
/// Requests for blocks that may fail before smaller runs are asked for: the allocator's compaction gets
/// these back-offs (10 to 80 ms) to make blocks, since small runs cost everybody more for as long as they live.
const BLOCK_PATIENCE: u32 = 4;
/// How long smaller runs are asked for then: 1/8 s.
const NO_BLOCKS_FRACTION: u64 = 8;

impl Driver {
    /// One batch of up to `need` pages.
    pub(super) fn reserve<F>(&mut self, front: &mut F, need: u64, now: u64) -> Next
    where
        F: Hypercall + PageSource + Clock,
    {
        let limit = self.whole(need.min(front.headroom_pages()));
        if limit == 0 {
            self.counters.floor += 1;
            return Next::WaitUntil(self.rate.back_off_until(now));
        }
        let allowance = self.rate.allowance(now);
        if allowance == 0 {
            return Next::WaitUntil(self.rate.next_allowance_at());
        }
        let mut batch = Batch::new(Direction::Reserve);
        self.fill(front, &mut batch, limit, allowance, now);
        if batch.is_empty() {
            return Next::WaitUntil(self.rate.back_off_until(now));
        }
        self.counters.batches += 1;
        let (mut done, mut refused) = (0, 0);
        let (mut wrong_order, mut below_minimum) = (false, false);
        let answer = batch.run(
            front,
            self.epoch,
            |front, ipa, order, status| match status {
                EntryStatus::Done => {
                    front.hold(ipa, order);
                    done += order.pages();
                }
                // It was never there: nobody may touch it, so it is held like the others.
                EntryStatus::NotBacked => {
                    front.hold(ipa, order);
                    done += order.pages();
                    refused += 1;
                }
                other => {
                    front.give(ipa, order);
                    match other {
                        EntryStatus::WrongOrder => wrong_order = true,
                        EntryStatus::BelowMinimum => below_minimum = true,
                        EntryStatus::Untouched => {}
                        _ => refused += 1,
                    }
                }
            },
        );
        front.settle();
        self.reserved_pages += done;
        self.counters.reserved_pages += done;
        self.counters.refused += refused;
        if wrong_order {
            self.least = Order::Block;
        }
        self.reserve_blocked |= below_minimum;
        if answer.is_ok() && done == 0 && !wrong_order {
            // Everything refused: asking for the same again would never end.
            return Next::WaitUntil(self.rate.back_off_until(now));
        }
        self.judge(answer, now)
    }

    /// Takes up to `limit` pages from the allocator into the batch, about `allowance` (the last run may be
    /// larger), blocks first.
    fn fill<F>(&mut self, front: &mut F, batch: &mut Batch, limit: u64, allowance: u64, now: u64)
    where
        F: Hypercall + PageSource,
    {
        let (mut left, mut allowance) = (limit, allowance);
        let mut ipas = [0; CHUNK];
        for &order in orders(self.least) {
            if order == Order::Block && now < self.no_blocks_until {
                continue;
            }
            let mut failed = false;
            while !failed && allowance > 0 && left >= order.pages() && batch.room() > 0 {
                let runs = (left / order.pages()).min(allowance.div_ceil(order.pages()));
                let runs = usize::try_from(runs)
                    .unwrap_or(CHUNK)
                    .min(batch.room())
                    .min(CHUNK);
                let ipas = ipas.get_mut(..runs).unwrap_or_default();
                let taken = front.take(order, ipas);
                failed = taken.runs < runs;
                for &ipa in ipas.iter().take(taken.runs) {
                    batch.push(front, ipa, order);
                }
                let pages = order.pages() * taken.runs as u64;
                // That there is no large run is fragmentation, not want, as long as there are small ones.
                let strained = taken.strained && (taken.runs > 0 || order == self.granule);
                self.counters.strained += u64::from(strained);
                self.rate.took(pages, strained);
                left -= pages.min(left);
                allowance = allowance.saturating_sub(pages);
            }
            if order == Order::Block && !self.may_go_smaller(failed, now) {
                return;
            }
        }
    }

    /// After a request for blocks: whether smaller runs may be asked for in this batch. If not, the failure is
    /// strain; if so, whether there are small runs tells.
    fn may_go_smaller(&mut self, failed: bool, now: u64) -> bool {
        if !failed {
            self.block_failures = 0;
            return true;
        }
        self.block_failures = self.block_failures.saturating_add(1);
        if self.least == Order::Block || self.block_failures < BLOCK_PATIENCE {
            self.counters.strained += 1;
            self.rate.took(0, true);
            return false;
        }
        self.no_blocks_until =
            now.saturating_add(self.rate.ticks_per_second() / NO_BLOCKS_FRACTION);
        true
    }
}
