//! One batch over the list page: fill, call until all of it is consumed, settle each entry.

use ballast_abi::{Entry, EntryStatus, LIST_ENTRIES, Order, Status, function};

use crate::front::Hypercall;

/// BUSY answers in a row before a batch is taken back: another core of this guest is in a call, which is
/// bounded work.
const BUSY_RETRIES: u32 = 64;

/// Which way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Direction {
    /// Guest to Ballast.
    Reserve,
    /// Ballast to guest.
    Release,
}

/// The entries written so far.
pub(crate) struct Batch {
    direction: Direction,
    len: usize,
}

impl Batch {
    pub(crate) fn new(direction: Direction) -> Self {
        Self { direction, len: 0 }
    }

    pub(crate) fn room(&self) -> usize {
        LIST_ENTRIES - self.len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds a run; there must be room.
    pub(crate) fn push(&mut self, front: &mut impl Hypercall, ipa: u64, order: Order) {
        front.set_entry(self.len, Entry::new(ipa, order));
        self.len += 1;
    }

    /// Makes the calls. `each` gets every entry with what became of it: `Untouched` if Ballast did not come
    /// to it, which is so for all that are left when the answer is an error.
    pub(crate) fn run<F: Hypercall>(
        self,
        front: &mut F,
        epoch: u64,
        mut each: impl FnMut(&mut F, u64, Order, EntryStatus),
    ) -> Result<(), Status> {
        let function = match self.direction {
            Direction::Reserve => function::RESERVE,
            Direction::Release => function::RELEASE,
        };
        let mut left = self.len;
        let mut busy = 0;
        let mut answer = Ok(());
        while left > 0 {
            let [x0, consumed, ..] = front.call(function, left as u64, epoch);
            let consumed = usize::try_from(consumed).unwrap_or(left).min(left);
            match Status::from_register(x0) {
                Some(Status::Success) if consumed > 0 => busy = 0,
                // Nothing consumed and nothing wrong: the same as busy, or it would never end.
                Some(Status::Success | Status::Busy) if busy < BUSY_RETRIES => {
                    busy += 1;
                    continue;
                }
                Some(Status::Success) => answer = Err(Status::Busy),
                status => answer = Err(status.unwrap_or(Status::NotSupported)),
            }
            let settled = if answer.is_ok() { consumed } else { left };
            for index in 0..settled {
                let entry = front.entry(index);
                let order = entry.order().unwrap_or(Order::Page);
                let status = match answer {
                    Ok(()) => entry.status().unwrap_or(EntryStatus::Malformed),
                    Err(_) => EntryStatus::Untouched,
                };
                each(front, entry.ipa(), order, status);
            }
            // The rest moves to the front of the list for the next call.
            for index in settled..left {
                let entry = front.entry(index);
                front.set_entry(index - settled, entry);
            }
            left -= settled;
        }
        answer
    }
}
