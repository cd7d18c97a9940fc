//! Ballast to guest. Never rate limited: a guest that gets memory back needs it.
//!
//! Blocks first. Where Ballast has no block, more are most likely on their way (another guest is giving them):
//! small runs would break up this guest's blocks for good, so they are asked for only when no interrupt has
//! announced more memory for a quarter of a second, or the guest is in trouble.

use ballast_abi::{EntryStatus, LIST_ENTRIES, Order};

use super::{Driver, Next, State, orders};
use crate::exchange::{Batch, Direction};
use crate::front::{Clock, Hypercall, PageSource};

/// How long blocks are waited for: 1/4 s.
const BLOCKS_FRACTION: u64 = 4;

impl Driver {
    /// One batch of up to `need` pages.
    pub(super) fn release<F>(&mut self, front: &mut F, need: u64) -> Next
    where
        F: Hypercall + PageSource + Clock,
    {
        if self.release_order != Order::Block && front.now() < self.small_runs_from {
            return Next::WaitUntil(self.small_runs_from);
        }
        let mut batch = Batch::new(Direction::Release);
        let mut left = need;
        for &order in orders(self.least)
            .iter()
            .filter(|&&order| order <= self.release_order)
        {
            while left >= order.pages() && batch.room() > LIST_ENTRIES - self.release_entries {
                let Some(ipa) = front.pick(order) else { break };
                batch.push(front, ipa, order);
                left -= order.pages();
            }
        }
        if batch.is_empty() {
            self.release_blocked = true;
            return Next::Idle;
        }
        self.counters.batches += 1;
        let (mut done, mut refused) = (0, 0);
        let (mut over_target, mut backed_already) = (false, false);
        let mut none_of: Option<Order> = None;
        let answer = batch.run(
            front,
            self.epoch,
            |front, ipa, order, status| match status {
                EntryStatus::Done => {
                    front.give(ipa, order);
                    done += order.pages();
                }
                // A single page that is backed is the guest's; a larger run is tried by its parts.
                EntryStatus::AlreadyBacked if order == Order::Page => {
                    front.give(ipa, order);
                    done += 1;
                    refused += 1;
                }
                other => {
                    front.hold(ipa, order);
                    match other {
                        EntryStatus::NoMemory => {
                            none_of = Some(none_of.map_or(order, |least| least.min(order)))
                        }
                        EntryStatus::OverTarget => over_target = true,
                        EntryStatus::AlreadyBacked => backed_already = true,
                        EntryStatus::Untouched => {}
                        _ => refused += 1,
                    }
                }
            },
        );
        front.settle();
        self.reserved_pages = self.reserved_pages.saturating_sub(done);
        self.counters.released_pages += done;
        self.counters.refused += refused;
        self.counters.no_memory += u64::from(none_of.is_some());
        if answer.is_err() {
            let now = front.now();
            return self.judge(answer, now);
        }
        if let Some(order) = none_of.or(backed_already.then_some(self.release_order)) {
            let now = front.now();
            self.go_smaller(order, now);
        } else if over_target {
            self.retarget(front);
        } else if done == 0 {
            self.release_blocked = true;
        } else {
            self.release_entries = (self.release_entries * 4).min(LIST_ENTRIES);
        }
        Next::Again
    }

    /// Ballast has no free memory of this order: tries the next smaller one, with a single run, because held
    /// runs are split for it; after the smallest, waits for the interrupt that says there is some again.
    fn go_smaller(&mut self, order: Order, now: u64) {
        match orders(self.least).iter().find(|&&next| next < order) {
            Some(&next) => {
                self.release_order = next;
                self.release_entries = 1;
                let is_urgent = now < self.urgent_until;
                if order == Order::Block && !is_urgent && self.state == State::Active {
                    self.small_runs_from =
                        now.saturating_add(self.rate.ticks_per_second() / BLOCKS_FRACTION);
                }
            }
            None => self.release_blocked = true,
        }
    }

    /// The target has changed meanwhile, or a drain has met it.
    fn retarget(&mut self, front: &mut impl Hypercall) {
        let before = (self.sequence, self.target_pages);
        if self.state == State::Active {
            self.on_interrupt(front);
        }
        if before == (self.sequence, self.target_pages) {
            self.release_blocked = true;
        }
    }
}
