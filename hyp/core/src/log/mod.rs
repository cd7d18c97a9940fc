//! What happened: a bounded record of events, kept as data and put into words only when read.
//!
//! What happens all the time while guests compete for memory (targets, and that they were reached) has a part of the
//! record of its own, so that it drives nothing rarer out.
//!
//! The log has a lock of its own that is held for a copy. It is written where guests start, stop
//! and change, never on a path that a guest can take at will, such as an exit.

mod event;

use alloc::boxed::Box;

pub(crate) use event::Name;
pub use event::{Direction, Event, Origin};

/// Events kept.
pub const CAPACITY: usize = 256;

/// An event as it was recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Counts events since boot, from 0: a gap is what was overwritten.
    pub sequence: u64,
    /// CNTVCT_EL0 when it was recorded.
    pub ticks: u64,
    /// What happened.
    pub event: Event,
}

/// The newest events of a kind.
#[derive(Debug)]
struct Ring {
    entries: Box<[Option<Entry>]>,
    /// Where the next one goes.
    next: usize,
}

impl Ring {
    fn new(capacity: usize) -> Self {
        Self {
            entries: core::iter::repeat_with(|| None)
                .take(capacity.max(1))
                .collect(),
            next: 0,
        }
    }

    fn push(&mut self, entry: Entry) {
        if let Some(slot) = self.entries.get_mut(self.next) {
            *slot = Some(entry);
        }
        let next = self.next.saturating_add(1);
        self.next = if next < self.entries.len() { next } else { 0 };
    }

    /// The oldest from this sequence number on.
    fn from(&self, sequence: u64) -> Option<Entry> {
        let (older, newer) = self.entries.split_at_checked(self.next)?;
        let mut ordered = newer.iter().chain(older).flatten();
        ordered.find(|entry| entry.sequence >= sequence).copied()
    }
}

/// The newest [`CAPACITY`] events: half of it common ones, the other half all others.
#[derive(Debug)]
pub struct EventLog {
    common: Ring,
    rare: Ring,
    next: u64,
}

impl EventLog {
    /// An empty log.
    #[must_use]
    pub fn new() -> Self {
        Self::with_capacity(CAPACITY)
    }

    fn with_capacity(capacity: usize) -> Self {
        let common = capacity.div_euclid(2);
        Self {
            common: Ring::new(common),
            rare: Ring::new(capacity.saturating_sub(common)),
            next: 0,
        }
    }

    /// Records `event` at `ticks` (CNTVCT_EL0), in place of the oldest of its kind if there is no room.
    pub fn record(&mut self, ticks: u64, event: Event) {
        let entry = Entry {
            sequence: self.next,
            ticks,
            event,
        };
        self.next = self.next.wrapping_add(1);
        if event.is_common() {
            self.common.push(entry);
        } else {
            self.rare.push(entry);
        }
    }

    /// The oldest event kept whose sequence number is `sequence` or later. A later number means
    /// that those between are gone.
    #[must_use]
    pub fn from(&self, sequence: u64) -> Option<Entry> {
        let either = [self.common.from(sequence), self.rare.from(sequence)];
        let either = either.into_iter().flatten();
        either.min_by_key(|entry| entry.sequence)
    }
}

impl Default for EventLog {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::console::Label;
    use crate::console::Labels;

    #[test]
    fn the_oldest_go_and_the_gap_shows() {
        let mut log = EventLog::with_capacity(8);
        assert_eq!(log.from(0), None);
        for guest in 0..10 {
            log.record(u64::from(guest), Event::Unresponsive { guest });
        }
        let mut from = 0;
        let mut kept = Vec::new();
        while let Some(entry) = log.from(from) {
            from = entry.sequence + 1;
            kept.push((entry.sequence, entry.ticks));
        }
        assert_eq!(kept, [(6, 6), (7, 7), (8, 8), (9, 9)]);
    }

    #[test]
    fn competing_guests_drive_nothing_rarer_out() {
        let mut log = EventLog::with_capacity(8);
        log.record(0, Event::Unresponsive { guest: 1 });
        for _ in 0..100 {
            let (guest, by) = (0, Origin::Ballast);
            let memory_kib = 1024;
            log.record(
                1,
                Event::Target {
                    guest,
                    memory_kib,
                    by,
                },
            );
        }
        log.record(2, Event::Responsive { guest: 1 });
        let mut from = 0;
        let mut kept = Vec::new();
        while let Some(entry) = log.from(from) {
            from = entry.sequence + 1;
            kept.push(entry.sequence);
        }
        assert_eq!(kept, [0, 97, 98, 99, 100, 101]);
    }

    #[test]
    fn events_are_key_value_lines() {
        let mut labels = Labels::new();
        labels.push(Label::new(3, "linux-a"));
        let text = |event: Event| event.describe(&labels).to_string();
        assert_eq!(
            text(Event::Moved {
                guest: 0,
                direction: Direction::Reserve,
                memory_kib: 2048,
                us: 17
            }),
            "event=reserved guest=3 name=linux-a kib=2048 us=17"
        );
        assert_eq!(
            text(Event::Fault {
                guest: 1,
                vcpu: 0,
                syndrome: 0x9600_0010,
                ipa: 0
            }),
            "event=fault guest=? name=? vcpu=0 esr=0x96000010 ipa=0x0"
        );
    }
}
