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
//!
//! What the giver has given and the taker not yet taken is kept for them ([`Transfers::kept`]): were it anybody's,
//! there might be nothing to go back to. A guest that stops or is reset leaves its transfer, and the other goes
//! back; so does a giver that says PRESSURE.

mod holding;

use alloc::vec::Vec;

pub use holding::{Holding, Kept};

use crate::limits::MAX_GUESTS;

/// Transfers that are kept: open ones, and the last finished ones.
pub const KEPT: usize = MAX_GUESTS;

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

/// Why a transfer goes back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause {
    /// Not all of it has happened in time.
    Deadline,
    /// A guest has stopped, or was reset.
    Stopped,
    /// The giver is in trouble.
    Pressure,
}

impl Cause {
    /// The word for it in output.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Deadline => "deadline",
            Self::Stopped => "stopped",
            Self::Pressure => "pressure",
        }
    }
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
    /// When it ended, if it has.
    pub ended_us: Option<u64>,
    /// Why it goes back, if it does.
    pub cause: Option<Cause>,
    from_before: Holding,
    to_before: Holding,
    to_max: Holding,
    /// A guest that has stopped since has nothing to go back to.
    from_is_gone: bool,
    to_is_gone: bool,
    /// Stranded, and what it had is no longer kept for it.
    is_written_off: bool,
    /// The phase is new since it was last asked for.
    is_news: bool,
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
    #[must_use]
    pub fn phase_ends_us(&self) -> u64 {
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
        let is_back = (self.from_is_gone || from.is_at(from_target))
            && (self.to_is_gone || to.is_at(to_target));
        match self.phase {
            Phase::Giving if from.is_at_most(from_target) => self.enter(Phase::Taking, now_us),
            Phase::Taking if to.is_at_least(to_target) => self.enter(Phase::Done, now_us),
            Phase::Giving | Phase::Taking if is_late => self.go_back(Cause::Deadline, now_us),
            Phase::Returning | Phase::Stranded if is_back => self.enter(Phase::RolledBack, now_us),
            Phase::Returning if is_late => self.enter(Phase::Stranded, now_us),
            _ => {}
        }
    }

    fn enter(&mut self, phase: Phase, now_us: u64) {
        self.phase = phase;
        self.is_news = true;
        self.ended_us = (!phase.is_open()).then_some(now_us);
    }

    fn go_back(&mut self, cause: Cause, now_us: u64) {
        self.cause = Some(cause);
        self.enter(Phase::Returning, now_us);
    }

    /// Something may still happen: it is open, or a guest may still go back.
    const fn is_watched(&self) -> bool {
        self.phase.is_open() || matches!(self.phase, Phase::Stranded) && !self.is_written_off
    }

    const fn has(&self, guest: usize) -> bool {
        self.from == guest || self.to == guest
    }

    /// What the giver and the taker shall have, unless they have stopped since.
    #[must_use]
    pub fn wishes(&self) -> [Option<(usize, Holding)>; 2] {
        let (from, to) = self.targets();
        [
            (!self.from_is_gone).then_some((self.from, from)),
            (!self.to_is_gone).then_some((self.to, to)),
        ]
    }

    /// What the giver has given and the taker taken, when they have this.
    #[must_use]
    pub fn progress(&self, from: Holding, to: Holding) -> [Holding; 2] {
        let part = |before: Holding, now: Holding| Holding {
            pages: now.pages.saturating_sub(before.pages),
            cpus: now.cpus.saturating_sub(before.cpus),
        };
        [part(from, self.from_before), part(self.to_before, to)]
    }
}

/// Every transfer that is open, and the last finished ones.
#[derive(Debug)]
pub struct Transfers {
    /// At most [`KEPT`], for which there is room from the beginning.
    slots: Vec<Transfer>,
    last_id: u32,
}

impl Default for Transfers {
    fn default() -> Self {
        Self {
            slots: Vec::with_capacity(KEPT),
            last_id: 0,
        }
    }
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
        if self.slots.len() >= KEPT {
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
            ended_us: None,
            cause: None,
            from_before: from.has,
            to_before: to.has,
            to_max: to.max,
            from_is_gone: false,
            to_is_gone: false,
            is_written_off: false,
            is_news: true,
        };
        // Whatever an earlier one still waited for from them, this is what they shall have now.
        self.write_off(from.guest);
        self.write_off(to.guest);
        self.slots.push(transfer);
        Ok(self.last_id)
    }

    /// Goes on with every open transfer. `has` says what a guest has. When to look again if nothing is heard;
    /// `None` if none is open.
    pub fn step(&mut self, now_us: u64, has: impl Fn(usize) -> Holding) -> Option<u64> {
        for slot in self.slots.iter_mut().filter(|slot| slot.is_watched()) {
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

    /// A guest has stopped: it leaves its transfer, and the other goes back.
    pub fn stopped(&mut self, guest: usize, now_us: u64) {
        for slot in self.slots.iter_mut().filter(|slot| slot.is_watched()) {
            slot.from_is_gone |= slot.from == guest;
            slot.to_is_gone |= slot.to == guest;
            if slot.has(guest) && matches!(slot.phase, Phase::Giving | Phase::Taking) {
                slot.go_back(Cause::Stopped, now_us);
            }
        }
    }

    /// A guest is in trouble, and its target is `pages` now. A giver gets back what it gave; a taker may keep what
    /// it got for that reason.
    pub fn trouble(&mut self, guest: usize, pages: u64, now_us: u64) {
        let mut open = self.slots.iter_mut().filter(|slot| slot.phase.is_open());
        let Some(slot) = open.find(|slot| slot.has(guest)) else {
            return;
        };
        let is_under_way = matches!(slot.phase, Phase::Giving | Phase::Taking);
        if slot.from == guest {
            if is_under_way {
                slot.go_back(Cause::Pressure, now_us);
            }
            slot.from_before.pages = slot.from_before.pages.max(pages);
        } else {
            let (_, target) = slot.targets();
            let more = pages.saturating_sub(target.pages);
            let most = slot.to_max.pages.saturating_sub(slot.amount.pages);
            let raised = slot.to_before.pages.saturating_add(more).min(most);
            slot.to_before.pages = slot.to_before.pages.max(raised);
        }
        slot.is_news = true;
    }

    /// Somebody else decides now what a guest shall have: a stranded transfer waits for it no longer.
    pub fn write_off(&mut self, guest: usize) {
        for slot in self.slots.iter_mut().filter(|slot| slot.has(guest)) {
            slot.is_written_off |= slot.phase == Phase::Stranded;
        }
    }

    /// What is kept for transfers.
    pub fn kept(&self) -> impl Iterator<Item = Kept> {
        let watched = self.slots.iter().filter(|slot| slot.is_watched());
        watched.map(|slot| Kept {
            giver: slot.from,
            taker: slot.to,
            holder: if slot.phase == Phase::Taking {
                slot.to
            } else {
                slot.from
            },
            giver_before: slot.from_before,
            // What one that begins anew has is no part of what was given.
            taker_before: if slot.to_is_gone {
                Holding {
                    pages: u64::MAX,
                    cpus: u32::MAX,
                }
            } else {
                slot.to_before
            },
            most: if slot.from_is_gone {
                Holding::default()
            } else {
                slot.amount
            },
        })
    }

    /// A transfer whose phase is new, each phase once.
    pub fn take_news(&mut self) -> Option<Transfer> {
        let news = self.slots.iter_mut().find(|slot| slot.is_news)?;
        news.is_news = false;
        Some(*news)
    }

    /// The transfers, the oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &Transfer> {
        self.slots.iter()
    }
}
