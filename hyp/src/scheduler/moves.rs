//! Moves of memory and cores from guest to guest, all of each or nothing: see `ballast_core::policy::transfer`.

use ballast_core::addr::PAGES_PER_BLOCK;
use ballast_core::frames::{self, GuestId, GuestSet};
use ballast_core::log::{Event, Origin};
use ballast_core::monitor::{self, MoveStatus};
use ballast_core::policy::transfer::{Holding, Phase, Refused, Side, Transfer, Transfers};

use super::{KIB_PER_PAGE, Scheduler};
use crate::guest::Guest;
use crate::guest::lifecycle;
use crate::percpu::PerCpu;
use crate::system::System;

/// Pages in a block: a guest nearer than that to its target is at it.
const BLOCK: u64 = PAGES_PER_BLOCK as u64;

impl Scheduler {
    /// Begins to move `amount` from one guest to another; it is done or undone after `seconds`. Its number.
    ///
    /// # Errors
    /// Which guest is in the way, and why.
    pub fn begin_move(
        &self,
        system: &System,
        cpu: &PerCpu,
        [from, to]: [&Guest; 2],
        amount: Holding,
        seconds: u32,
    ) -> Result<u32, (usize, monitor::Refused)> {
        let mut state = self.state.lock();
        for guest in [from, to] {
            if let Some(open) = state.transfers.of(guest.index) {
                return Err((guest.index, monitor::Refused::InMove(open.id)));
            }
            self.may_move(system, guest)
                .map_err(|why| (guest.index, why))?;
        }
        let now_us = system.now_us();
        let deadline_us = now_us.saturating_add(u64::from(seconds) * 1_000_000);
        let sides = [from, to].map(side);
        let [giver, taker] = sides;
        let id = state
            .transfers
            .begin(giver, taker, amount, now_us, deadline_us)
            .map_err(|refused| match refused {
                Refused::Nothing | Refused::TooLate => (from.index, monitor::Refused::Nothing),
                Refused::Busy(guest) => (guest, monitor::Refused::Busy),
                Refused::BelowMinimum => (
                    from.index,
                    monitor::Refused::BelowMinimum(mib(giver.min.pages)),
                ),
                Refused::AboveMaximum => (
                    to.index,
                    monitor::Refused::AboveMaximum(mib(taker.max.pages)),
                ),
            })?;
        drop(state);
        self.step(system, cpu);
        Ok(id)
    }

    /// Whether a guest can be asked to give or take.
    fn may_move(&self, system: &System, guest: &Guest) -> Result<(), monitor::Refused> {
        if guest.plan.config.realtime {
            return Err(monitor::Refused::Fixed);
        }
        if guest.phase() != lifecycle::Phase::Running {
            return Err(monitor::Refused::State(guest.state()));
        }
        if !guest.memory.has_driver() || self.is_unresponsive(guest) {
            return Err(monitor::Refused::NoAnswer);
        }
        if system.pages_of(guest).abs_diff(guest.target_pages()) >= BLOCK {
            return Err(monitor::Refused::Moving);
        }
        Ok(())
    }

    /// The `nth` of the moves that are kept, the oldest first.
    pub fn move_status(&self, system: &System, nth: usize) -> Option<MoveStatus> {
        let state = self.state.lock();
        let transfer = state.transfers.iter().nth(nth)?;
        let now_us = system.now_us();
        let has = |guest: usize| system.guests.get(guest).map(|guest| system.holding(guest));
        let [given, taken] = transfer.progress(has(transfer.from)?, has(transfer.to)?);
        let part = |now: Holding| match transfer.phase {
            Phase::Done => transfer.amount,
            Phase::RolledBack => Holding::default(),
            _ => now,
        };
        let ended_us = transfer.ended_us.unwrap_or(now_us);
        Some(MoveStatus {
            id: transfer.id,
            from: transfer.from,
            to: transfer.to,
            memory_kib: transfer.amount.pages * KIB_PER_PAGE,
            cpus: transfer.amount.cpus,
            phase: transfer.phase,
            cause: transfer.cause,
            given_kib: part(given).pages * KIB_PER_PAGE,
            taken_kib: part(taken).pages * KIB_PER_PAGE,
            since_ms: ended_us.saturating_sub(transfer.began_us) / 1000,
            left_ms: if transfer.phase.is_open() {
                transfer.deadline_us.saturating_sub(now_us) / 1000
            } else {
                0
            },
        })
    }
}

/// Carries out what is new about the transfers: keeps what is theirs, then asks the guests. Whom to tell that
/// memory is free.
pub(super) fn carry_out(system: &System, transfers: &mut Transfers) -> GuestSet {
    let mut has_ended = false;
    while let Some(transfer) = transfers.take_news() {
        keep(system, transfers);
        system.record(Event::Move {
            id: transfer.id,
            from: transfer.from as u8,
            to: transfer.to as u8,
            memory_kib: transfer.amount.pages * KIB_PER_PAGE,
            cpus: transfer.amount.cpus as u8,
            phase: transfer.phase,
            cause: transfer.cause,
        });
        // At its end, too: it may have gone back before anybody was asked to.
        ask(system, &transfer);
        has_ended |= !transfer.phase.is_open();
    }
    if has_ended {
        keep(system, transfers);
        system.pool.lock().take_wanting()
    } else {
        GuestSet::EMPTY
    }
}

fn keep(system: &System, transfers: &Transfers) {
    let pages = |holding: Holding| u32::try_from(holding.pages).unwrap_or(u32::MAX);
    let kept = transfers.kept().filter_map(|kept| {
        Some(frames::Kept {
            giver: GuestId::new(kept.giver)?,
            giver_pages: pages(kept.giver_before),
            taker: GuestId::new(kept.taker)?,
            taker_pages: pages(kept.taker_before),
            most_pages: pages(kept.most),
            holder: GuestId::new(kept.holder)?,
        })
    });
    system.pool.lock().keep(kept);
}

/// Sets the targets of both, each if it is another now.
fn ask(system: &System, transfer: &Transfer) {
    for (guest, wish) in transfer.wishes().into_iter().flatten() {
        let Some(guest) = system.guests.get(guest) else {
            continue;
        };
        if guest.target_pages() != wish.pages {
            let reserve = guest.memory.max_pages().saturating_sub(wish.pages);
            let deadline = system.ticks(transfer.phase_ends_us());
            guest.memory.target.set_reserve_pages(reserve, deadline);
            system.record(Event::Target {
                guest: guest.index as u8,
                memory_kib: wish.pages * KIB_PER_PAGE,
                by: Origin::Ballast,
            });
        }
    }
}

fn side(guest: &Guest) -> Side {
    let config = &guest.plan.config;
    Side {
        guest: guest.index,
        has: Holding {
            pages: guest.target_pages(),
            cpus: 0,
        },
        min: Holding {
            pages: config.memory.min_bytes / ballast_core::addr::PAGE_SIZE,
            cpus: 0,
        },
        max: Holding {
            pages: guest.memory.max_pages(),
            cpus: 0,
        },
    }
}

const fn mib(pages: u64) -> u64 {
    pages * KIB_PER_PAGE / 1024
}

impl System {
    /// What a guest has.
    pub(super) fn holding(&self, guest: &Guest) -> Holding {
        Holding {
            pages: self.pages_of(guest),
            cpus: 0,
        }
    }
}
