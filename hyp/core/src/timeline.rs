//! When what happened in each transfer of memory: a bounded record, kept as counter values and put into words only
//! when read.
//!
//! A transfer is one guest's way to a target. Its guest's calls leave stamps in a [`Trace`], a few per batch; who sets
//! and watches targets makes a [`Record`] of them at the end.

use alloc::boxed::Box;
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

use ballast_abi::Order;

use crate::console::Label;
use crate::log::Origin;

/// Transfers kept.
pub const CAPACITY: usize = 64;

/// Stamps of a guest's transfer under way: values of CNTVCT_EL0, 0 for never. One writer at a time, the holder of the
/// guest's transaction.
#[derive(Debug, Default)]
pub struct Trace {
    first: AtomicU64,
    unmapped: AtomicU64,
    invalidated: AtomicU64,
    granted: AtomicU64,
}

impl Trace {
    /// A transfer begins.
    pub fn begin(&self) {
        for stamp in [
            &self.first,
            &self.unmapped,
            &self.invalidated,
            &self.granted,
        ] {
            stamp.store(0, Ordering::Relaxed);
        }
    }

    /// The guest has made a call for it.
    #[inline]
    pub(crate) fn called(&self, now: u64) {
        if self.first.load(Ordering::Relaxed) == 0 {
            self.first.store(now, Ordering::Relaxed);
        }
    }

    /// A batch is out of its tables.
    #[inline]
    pub(crate) fn unmapped(&self, now: u64) {
        self.unmapped.store(now, Ordering::Relaxed);
    }

    /// A batch is out of the TLBs.
    #[inline]
    pub(crate) fn invalidated(&self, now: u64) {
        self.invalidated.store(now, Ordering::Relaxed);
    }

    /// Pages were mapped for it.
    #[inline]
    pub(crate) fn granted(&self, now: u64) {
        self.granted.store(now, Ordering::Relaxed);
    }
}

/// How a transfer ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// At its target.
    Done,
    /// Another target was set on the way.
    Replaced,
    /// The guest stopped.
    Stopped,
}

impl End {
    /// The word for it in output.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Replaced => "replaced",
            Self::Stopped => "stopped",
        }
    }
}

/// One transfer. Times are values of CNTVCT_EL0, 0 for never.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record {
    /// Counts transfers since boot, from 0.
    pub sequence: u64,
    /// Index of the guest.
    pub guest: u8,
    /// The guest gives.
    pub is_giving: bool,
    /// How it ended.
    pub end: End,
    /// Who set the target.
    pub by: Origin,
    /// The move it is part of, 0 for none.
    pub move_id: u32,
    /// Memory at the beginning, in KiB.
    pub from_kib: u64,
    /// The target, in KiB.
    pub target_kib: u64,
    /// The target was set.
    pub targeted: u64,
    /// The guest's first call.
    pub first: u64,
    /// The last batch was out of the tables.
    pub unmapped: u64,
    /// And out of the TLBs.
    pub invalidated: u64,
    /// No free frame was left to be scrubbed.
    pub scrubbed: u64,
    /// The last pages were mapped.
    pub granted: u64,
    /// It ended.
    pub done: u64,
    /// KiB moved by list entries of 4 KiB, 16 KiB, 64 KiB and 2 MiB.
    pub kib: [u64; 4],
}

/// A transfer under way.
#[derive(Clone, Copy, Debug)]
pub struct Open {
    /// Index of the guest.
    pub guest: u8,
    /// Who set the target.
    pub by: Origin,
    /// The move it is part of, 0 for none.
    pub move_id: u32,
    /// Memory at the beginning, in KiB.
    pub from_kib: u64,
    /// The target, in KiB.
    pub target_kib: u64,
    /// When that was set.
    pub targeted: u64,
    /// List entries that had been done before, by order.
    pub entries: [u64; 4],
}

impl Open {
    /// The guest gives.
    #[must_use]
    pub const fn is_giving(&self) -> bool {
        self.target_kib < self.from_kib
    }
}

/// The last transfers.
#[derive(Debug)]
pub struct Timeline {
    records: Box<[Option<Record>]>,
    next: u64,
    /// Transfers of which the frames are not scrubbed yet.
    unscrubbed: bool,
}

impl Default for Timeline {
    fn default() -> Self {
        Self {
            records: core::iter::repeat_with(|| None).take(CAPACITY).collect(),
            next: 0,
            unscrubbed: false,
        }
    }
}

impl Timeline {
    /// A transfer ended at `now`; `entries` is what its guest has done since boot. While `is_clean` nothing waits to
    /// be scrubbed.
    pub fn end(
        &mut self,
        open: &Open,
        trace: &Trace,
        entries: [u64; 4],
        end: End,
        now: u64,
        is_clean: bool,
    ) {
        let stamp = |stamp: &AtomicU64| stamp.load(Ordering::Relaxed);
        let mut kib = [0; Order::ALL.len()];
        for (((kib, order), now), before) in kib
            .iter_mut()
            .zip(Order::ALL)
            .zip(entries)
            .zip(open.entries)
        {
            *kib = now.wrapping_sub(before).wrapping_mul(order.bytes() >> 10);
        }
        let last = stamp(&trace.invalidated).max(stamp(&trace.granted));
        let is_done = end == End::Done && last != 0;
        let record = Record {
            sequence: self.next,
            guest: open.guest,
            is_giving: open.is_giving(),
            end,
            by: open.by,
            move_id: open.move_id,
            from_kib: open.from_kib,
            target_kib: open.target_kib,
            targeted: open.targeted,
            first: stamp(&trace.first),
            unmapped: stamp(&trace.unmapped),
            invalidated: stamp(&trace.invalidated),
            scrubbed: if open.is_giving() && is_clean { now } else { 0 },
            granted: stamp(&trace.granted),
            // Whoever looks comes later than the last batch.
            done: if is_done { last } else { now },
            kib,
        };
        if let Some(slot) = self.slot(self.next) {
            *slot = Some(record);
            self.next = self.next.wrapping_add(1);
        }
        self.unscrubbed |= record.is_giving && !is_clean;
    }

    /// Nothing is left to be scrubbed.
    pub fn scrubbed(&mut self, now: u64) {
        if !core::mem::replace(&mut self.unscrubbed, false) {
            return;
        }
        let records = self.records.iter_mut().flatten();
        for record in records.filter(|record| record.is_giving && record.scrubbed == 0) {
            record.scrubbed = now;
        }
    }

    /// Whether frames of a transfer are still to be scrubbed.
    #[must_use]
    pub const fn waits_for_scrub(&self) -> bool {
        self.unscrubbed
    }

    /// The oldest transfer kept whose number is `sequence` or later.
    #[must_use]
    pub fn from(&self, sequence: u64) -> Option<Record> {
        let records = self.records.iter().flatten();
        let later = records.filter(|record| record.sequence >= sequence);
        later.min_by_key(|record| record.sequence).copied()
    }

    fn slot(&mut self, sequence: u64) -> Option<&mut Option<Record>> {
        let capacity = u64::try_from(self.records.len()).ok()?;
        let index = usize::try_from(sequence.checked_rem(capacity)?).ok()?;
        self.records.get_mut(index)
    }
}

impl Record {
    /// The transfer's line; times in nanoseconds of the counter, which has so many ticks a second.
    #[must_use]
    pub fn line<'a>(&'a self, label: &'a Label, ticks_per_second: u64) -> impl fmt::Display + 'a {
        Line {
            record: self,
            label,
            ticks_per_second,
        }
    }
}

struct Line<'a> {
    record: &'a Record,
    label: &'a Label,
    ticks_per_second: u64,
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let record = self.record;
        let ns = |ticks: u64| {
            u128::from(ticks)
                .saturating_mul(1_000_000_000)
                .checked_div(self.ticks_per_second.into())
                .unwrap_or(0)
        };
        let [by_4k, by_16k, by_64k, by_2m] = record.kib;
        write!(
            f,
            "transfer={} guest={} name={} direction={} state={} by={} move={} from-kib={} target-kib={} \
             target-ns={} first-ns={} unmap-ns={} tlb-ns={} scrub-ns={} grant-ns={} done-ns={} \
             kib-4k={by_4k} kib-16k={by_16k} kib-64k={by_64k} kib-2m={by_2m}",
            record.sequence,
            self.label.number(),
            self.label.name(),
            if record.is_giving { "give" } else { "take" },
            record.end.name(),
            record.by.name(),
            record.move_id,
            record.from_kib,
            record.target_kib,
            ns(record.targeted),
            ns(record.first),
            ns(record.unmapped),
            ns(record.invalidated),
            ns(record.scrubbed),
            ns(record.granted),
            ns(record.done),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(from_kib: u64, target_kib: u64) -> Open {
        Open {
            guest: 0,
            by: Origin::Monitor,
            move_id: 3,
            from_kib,
            target_kib,
            targeted: 10,
            entries: [1, 7, 0, 2],
        }
    }

    #[test]
    fn a_line_tells_each_phase() {
        let mut timeline = Timeline::default();
        let trace = Trace::default();
        trace.called(7);
        trace.begin();
        trace.called(20);
        trace.called(30);
        trace.unmapped(25);
        trace.invalidated(26);
        timeline.end(
            &open(8192, 2048),
            &trace,
            [3, 10, 1, 4],
            End::Done,
            40,
            false,
        );
        timeline.end(
            &open(2048, 8192),
            &trace,
            [1, 7, 0, 2],
            End::Stopped,
            50,
            false,
        );
        let label = Label::new(1, "linux-a");
        assert!(timeline.waits_for_scrub());
        timeline.scrubbed(60);
        timeline.scrubbed(70);
        let first = timeline.from(0).unwrap();
        assert_eq!(
            first.line(&label, 1_000_000_000).to_string(),
            "transfer=0 guest=1 name=linux-a direction=give state=done by=monitor move=3 from-kib=8192 \
             target-kib=2048 target-ns=10 first-ns=20 unmap-ns=25 tlb-ns=26 scrub-ns=60 grant-ns=0 done-ns=26 \
             kib-4k=8 kib-16k=48 kib-64k=64 kib-2m=4096"
        );
        let second = timeline.from(1).unwrap();
        assert_eq!(
            (second.end, second.done, second.scrubbed),
            (End::Stopped, 50, 0)
        );
        assert_eq!(timeline.from(2), None);
    }

    #[test]
    fn the_oldest_go() {
        let mut timeline = Timeline::default();
        for _ in 0..CAPACITY + 5 {
            timeline.end(&open(1, 2), &Trace::default(), [0; 4], End::Done, 1, true);
        }
        assert_eq!(timeline.from(0).map(|record| record.sequence), Some(5));
    }
}
