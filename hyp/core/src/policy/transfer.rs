//! One move of memory and cores from guest to guest, all of it or none.
//!
//! A transfer asks the giver first, and the taker only when everything is there. What has not happened in
//! time is undone: giving may take half of the time, taking another quarter, and the rest is for going back.
//! So by the deadline either both have what was agreed or both have what they had. Only a guest that stops
//! answering while it should go back can leave a transfer [`Phase::Stranded`]: Ballast takes nothing by
//! force, and what such a guest has given stays its own to take again.
//!
//! A guest is in one open transfer at a time, and a second one is refused and not queued. Nobody waits
//! for anybody, so two opposite requests cannot deadlock, and a guest never has two targets.

use crate::addr::PAGES_PER_BLOCK;
use crate::limits::MAX_GUESTS;

/// Transfers that are kept: open ones, and the last finished ones.
pub const KEPT: usize = MAX_GUESTS;

/// Memory and cores of a guest, or a difference of them.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Holding {
    /// Pages.
    pub pages: u64,
    /// Cores.
    pub cpus: u32,
}

impl Holding {
    fn plus(self, more: Self) -> Option<Self> {
        Some(Self {
            pages: self.pages.checked_add(more.pages)?,
            cpus: self.cpus.checked_add(more.cpus)?,
        })
    }

    fn minus(self, less: Self) -> Option<Self> {
        Some(Self {
            pages: self.pages.checked_sub(less.pages)?,
            cpus: self.cpus.checked_sub(less.cpus)?,
        })
    }

    /// As much of both, to within a block that a guest of whole blocks cannot move.
    const fn is_at_least(self, other: Self) -> bool {
        self.pages.saturating_add(PAGES_PER_BLOCK as u64) > other.pages && self.cpus >= other.cpus
    }

    const fn is_at_most(self, other: Self) -> bool {
        other.is_at_least(self)
    }

    const fn is_at(self, other: Self) -> bool {
        self.is_at_least(other) && self.is_at_most(other)
    }
}

/// One side of a transfer: a guest and its bounds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Side {
    /// Index of the guest.
    pub guest: usize,
    /// What it has.
    pub has: Holding,
    /// Its guaranteed minimum.
    pub min: Holding,
    /// Its maximum.
    pub max: Holding,
}

/// Why a transfer was not begun. Nothing has changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// It moves nothing, or from a guest to itself.
    Nothing,
    /// This guest is in another transfer.
    Busy(usize),
    /// The giver would fall below its minimum.
    BelowMinimum,
    /// The taker would have more than its maximum.
    AboveMaximum,
    /// The deadline is over.
    TooLate,
}

/// How far a transfer has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// The giver gives.
    Giving,
    /// The giver has given; the taker takes.
    Taking,
    /// Both go back to what they had.
    Returning,
    /// All of it has happened.
    Done,
    /// None of it has happened.
    RolledBack,
    /// A guest does not answer and has not gone back.
    Stranded,
}

impl Phase {
    /// Something is still to happen.
    #[must_use]
    pub const fn is_open(self) -> bool {
        matches!(self, Self::Giving | Self::Taking | Self::Returning)
    }

    /// The word for it in output.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Giving => "giving",
            Self::Taking => "taking",
            Self::Returning => "returning",
            Self::Done => "done",
            Self::RolledBack => "rolled-back",
            Self::Stranded => "stranded",
        }
    }
}

/// A transfer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Transfer {
    /// Its number: they count up from 1.
    pub id: u32,
    /// Index of the guest that gives.
    pub from: usize,
    /// Index of the guest that gets.
    pub to: usize,
    /// What moves.
    pub amount: Holding,
    /// How far it has come.
    pub phase: Phase,
    /// When it was begun.
    pub began_us: u64,
    /// When it has happened or not.
    pub deadline_us: u64,
    from_before: Holding,
    to_before: Holding,
}

impl Transfer {
    /// What the giver and the taker shall have now. Amounts were checked when it was begun.
    fn targets(&self) -> (Holding, Holding) {
        let given = self.from_before.minus(self.amount);
        let taken = self.to_before.plus(self.amount);
        let (given, taken) = (
            given.unwrap_or(self.from_before),
            taken.unwrap_or(self.to_before),
        );
        match self.phase {
            Phase::Giving => (given, self.to_before),
            Phase::Taking | Phase::Done => (given, taken),
            Phase::Returning | Phase::RolledBack | Phase::Stranded => {
                (self.from_before, self.to_before)
            }
        }
    }

    /// When the phase ends if nothing happens.
    fn phase_ends_us(&self) -> u64 {
        let quarter = self.deadline_us.saturating_sub(self.began_us) / 4;
        match self.phase {
            Phase::Giving => self.began_us.saturating_add(2 * quarter),
            Phase::Taking => self.began_us.saturating_add(3 * quarter),
            _ => self.deadline_us,
        }
    }

    fn look(&mut self, now_us: u64, from: Holding, to: Holding) {
        let (from_target, to_target) = self.targets();
        let is_late = now_us >= self.phase_ends_us();
        self.phase = match self.phase {
            Phase::Giving if from.is_at_most(from_target) => Phase::Taking,
            Phase::Taking if to.is_at_least(to_target) => Phase::Done,
            Phase::Giving | Phase::Taking if is_late => Phase::Returning,
            Phase::Returning if from.is_at(from_target) && to.is_at(to_target) => Phase::RolledBack,
            Phase::Returning if is_late => Phase::Stranded,
            same => same,
        };
    }
}

/// Every transfer that is open, and the last finished ones.
#[derive(Debug, Default)]
pub struct Transfers {
    slots: heapless::Vec<Transfer, KEPT>,
    last_id: u32,
}

impl Transfers {
    /// Begins to move `amount`; it is done or undone at `deadline_us`. The number of the transfer.
    ///
    /// # Errors
    /// See [`Refused`].
    pub fn begin(
        &mut self,
        from: Side,
        to: Side,
        amount: Holding,
        now_us: u64,
        deadline_us: u64,
    ) -> Result<u32, Refused> {
        if amount == Holding::default() || from.guest == to.guest {
            return Err(Refused::Nothing);
        }
        if let Some(busy) = [from.guest, to.guest]
            .into_iter()
            .find(|guest| self.of(*guest).is_some())
        {
            return Err(Refused::Busy(busy));
        }
        let leaves = from.has.minus(amount);
        if !leaves.is_some_and(|left| left.pages >= from.min.pages && left.cpus >= from.min.cpus) {
            return Err(Refused::BelowMinimum);
        }
        let has = to.has.plus(amount);
        if !has.is_some_and(|has| has.pages <= to.max.pages && has.cpus <= to.max.cpus) {
            return Err(Refused::AboveMaximum);
        }
        if deadline_us <= now_us {
            return Err(Refused::TooLate);
        }
        if self.slots.is_full() {
            // Open ones have two guests each, so there is a finished one.
            let oldest = self.slots.iter().position(|slot| !slot.phase.is_open());
            self.slots.remove(oldest.unwrap_or(0));
        }
        self.last_id = self.last_id.wrapping_add(1);
        let transfer = Transfer {
            id: self.last_id,
            from: from.guest,
            to: to.guest,
            amount,
            phase: Phase::Giving,
            began_us: now_us,
            deadline_us,
            from_before: from.has,
            to_before: to.has,
        };
        self.slots
            .push(transfer)
            .map_err(|_| Refused::Busy(from.guest))?;
        Ok(self.last_id)
    }

    /// Goes on with every open transfer. `has` says what a guest has. When to look again if nothing is heard;
    /// `None` if none is open.
    pub fn step(&mut self, now_us: u64, has: impl Fn(usize) -> Holding) -> Option<u64> {
        for slot in self.slots.iter_mut().filter(|slot| slot.phase.is_open()) {
            slot.look(now_us, has(slot.from), has(slot.to));
        }
        let open = self.slots.iter().filter(|slot| slot.phase.is_open());
        open.map(Transfer::phase_ends_us).min()
    }

    /// The open transfer that a guest is in.
    #[must_use]
    pub fn of(&self, guest: usize) -> Option<&Transfer> {
        let mut open = self.slots.iter().filter(|slot| slot.phase.is_open());
        open.find(|slot| slot.from == guest || slot.to == guest)
    }

    /// What a guest shall have, by the last transfer it was in that is still kept.
    #[must_use]
    pub fn target(&self, guest: usize) -> Option<Holding> {
        let mut last = self.slots.iter().rev();
        let slot = last.find(|slot| slot.from == guest || slot.to == guest)?;
        let (from, to) = slot.targets();
        Some(if slot.from == guest { from } else { to })
    }

    /// The transfers, the oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &Transfer> {
        self.slots.iter()
    }
}
