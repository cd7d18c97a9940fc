//! Moves of memory and cores from guest to guest, all of each or nothing: see `ballast_core::policy::transfer`.

use ballast_core::addr::{PAGE_SIZE, PAGES_PER_BLOCK};
use ballast_core::cores;
use ballast_core::frames::{self, GuestId, GuestSet};
use ballast_core::limits::MAX_GUESTS;
use ballast_core::log::{Event, Origin};
use ballast_core::monitor::{self, MoveStatus};
use ballast_core::policy::transfer::{Holding, Phase, Refused, Side, Transfer, Transfers};

use super::tracks::Tracks;
use super::{KIB_PER_PAGE, Scheduler};
use crate::guest::Guest;
use crate::guest::lifecycle;
use crate::percpu::PerCpu;
use crate::system::System;

/// Between two looks at an open transfer of which nothing is heard.
const LOOK_US: u64 = 250_000;
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
        let sides = [from, to].map(|guest| side(system, guest));
        let [giver, taker] = sides;
        let id = state
            .transfers
            .begin(giver, taker, amount, now_us, deadline_us)
            .map_err(|refused| match refused {
                Refused::Nothing | Refused::TooLate => (from.index, monitor::Refused::Nothing),
                Refused::Busy(guest) => (guest, monitor::Refused::Busy),
                Refused::BelowMinimum if giver.has.cpus < amount.cpus + giver.min.cpus => {
                    let least = cores::Refused::BelowMinimum(giver.min.cpus as u8);
                    (from.index, monitor::Refused::Cores(least))
                }
                Refused::BelowMinimum => (
                    from.index,
                    monitor::Refused::BelowMinimum(mib(giver.min.pages)),
                ),
                Refused::AboveMaximum if taker.has.cpus + amount.cpus > taker.max.cpus => {
                    let most = cores::Refused::AboveMaximum(taker.max.cpus as u8);
                    (to.index, monitor::Refused::Cores(most))
                }
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
        let has_cores = system.cores.granted(guest.index).len();
        if system.pages_of(guest).abs_diff(guest.target_pages()) >= BLOCK
            || has_cores != system.cores.target(guest.index) as usize
        {
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

/// Looks how far the transfers have come. When to look again, if any is open.
pub(super) fn look(system: &System, transfers: &mut Transfers, now_us: u64) -> Option<u64> {
    // A core that was granted has been taken when the guest uses it.
    let mut takes = [false; MAX_GUESTS];
    let taking = transfers.iter().filter(|slot| slot.phase == Phase::Taking);
    for slot in taking.filter(|slot| slot.amount.cpus != 0) {
        if let Some(takes) = takes.get_mut(slot.to) {
            *takes = true;
        }
    }
    let next_us = transfers.step(now_us, |index| {
        let Some(guest) = system.guests.get(index) else {
            return Holding::default();
        };
        let mut has = system.holding(guest);
        if takes.get(index) == Some(&true) {
            has.cpus = has.cpus.min(guest.vcpus_on());
        }
        has
    });
    Some(next_us?.min(now_us.saturating_add(LOOK_US)))
}

/// Carries out what is new about the transfers: keeps what is theirs, then asks the guests. Whom to tell that
/// memory is free.
pub(super) fn carry_out(
    system: &System,
    cpu: &PerCpu,
    transfers: &mut Transfers,
    tracks: &mut Tracks,
) -> GuestSet {
    let mut has_ended = false;
    while let Some(transfer) = transfers.take_news() {
        keep(system, cpu, transfers);
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
        ask(system, cpu, &transfer, tracks);
        has_ended |= !transfer.phase.is_open();
    }
    if has_ended {
        keep(system, cpu, transfers);
        system.pool.lock().take_wanting()
    } else {
        GuestSet::EMPTY
    }
}

fn keep(system: &System, cpu: &PerCpu, transfers: &Transfers) {
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
    let count = |holding: Holding| u8::try_from(holding.cpus).unwrap_or(u8::MAX);
    let kept = transfers.kept().map(|kept| cores::Kept {
        giver: kept.giver,
        giver_had: count(kept.giver_before),
        taker: kept.taker,
        taker_had: count(kept.taker_before),
        most: count(kept.most),
        holder: kept.holder,
    });
    let moves = system.cores.keep(kept);
    if !moves.is_empty() {
        system.tell_moves(cpu, &moves);
    }
}

/// Sets the targets of both, each if it is another now.
fn ask(system: &System, cpu: &PerCpu, transfer: &Transfer, tracks: &mut Tracks) {
    for (guest, wish) in transfer.wishes().into_iter().flatten() {
        let Some(guest) = system.guests.get(guest) else {
            continue;
        };
        if guest.target_pages() != wish.pages {
            let deadline = system.ticks(transfer.phase_ends_us());
            tracks.aim(
                system,
                guest,
                wish.pages,
                deadline,
                Origin::Ballast,
                transfer.id,
            );
        }
        if system.cores.target(guest.index) != wish.cpus {
            // It is within the guest's bounds: that was seen when the transfer began.
            let _ = system.set_cpus(cpu, guest, wish.cpus, Origin::Ballast);
        }
    }
}

fn side(system: &System, guest: &Guest) -> Side {
    let config = &guest.plan.config;
    Side {
        guest: guest.index,
        has: Holding {
            pages: guest.target_pages(),
            cpus: system.cores.target(guest.index),
        },
        min: Holding {
            pages: config.memory.min_bytes / PAGE_SIZE,
            cpus: config.cpus.min,
        },
        max: Holding {
            pages: guest.memory.max_pages(),
            cpus: config.cpus.max,
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
            cpus: self.cores.granted(guest.index).len() as u32,
        }
    }
}
