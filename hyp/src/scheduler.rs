//! The resource scheduler's hands: what the policy hears of, when it is asked, and how its targets are set.
//!
//! The policy is asked on whatever core the reason arose, or by that core's EL2 timer, which is armed only
//! while the policy wants to be asked again. A guest's calls only leave a note and arm the timer, so that a guest
//! that reports without end makes the policy run every [`LEAST_APART_US`] and not with each call.
//!
//! Lock order: the policy's is inside the console's and outside the pool's and the guests'.

mod cpus;
mod moves;
mod step;
mod tracks;

use alloc::boxed::Box;
use alloc::vec;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use ballast_abi::function;
use ballast_core::addr::PAGE_SIZE;
use ballast_core::config::PolicyConfig;
use ballast_core::log::{Event, Origin};
use ballast_core::monitor::Refused;
use ballast_core::policy::transfer::Transfers;
use ballast_core::policy::{Entitlement, Mode, Move, Observed, Policy, Settings};
use ballast_core::timeline::End;
use cpus::Cpus;
use spin::mutex::{TicketMutex, TicketMutexGuard};
use tracks::{Ended, Tracks};

use crate::aarch64::timer;
use crate::guest::Guest;
use crate::percpu::PerCpu;
use crate::system::System;

/// Between two looks of the policy that guests cause.
const LEAST_APART_US: u64 = 10_000;
const NEVER: u64 = u64::MAX;
const KIB_PER_PAGE: u64 = PAGE_SIZE / 1024;

/// The policy and when it is due.
pub struct Scheduler {
    state: TicketMutex<State>,
    /// When the policy is to be asked, in microseconds.
    due_us: AtomicU64,
    /// When it was asked last.
    stepped_us: AtomicU64,
    /// Guests that are unresponsive, one bit each: their calls are looked at.
    unresponsive: AtomicU32,
    /// The last transfers, with their times.
    pub ended: Ended,
}

struct State {
    policy: Policy,
    cpus: Cpus,
    transfers: Transfers,
    tracks: Tracks,
    observed: Box<[Observed]>,
    asked_us: u64,
    /// When the last round of sampling began.
    sampled_us: u64,
}

impl Scheduler {
    /// The policy for these guests.
    pub fn new(config: &PolicyConfig, guests: &[Guest]) -> Self {
        let settings = Settings {
            tax: config.tax,
            ..Settings::default()
        };
        let entitlements: Box<[Entitlement]> = guests
            .iter()
            .map(|guest| {
                let config = &guest.plan.config;
                Entitlement {
                    min_pages: config.memory.min_bytes / PAGE_SIZE,
                    max_pages: guest.memory.max_pages(),
                    shares: config.shares,
                    fixed: config.realtime,
                }
            })
            .collect();
        let nothing = Observed {
            memory_pages: 0,
            target_pages: 0,
            can_move: false,
            cpus: 0,
            target_cpus: 0,
            in_transfer: false,
            touched: None,
        };
        let mut policy = Policy::new(settings, &entitlements);
        policy.set_mode(config.mode, 0);
        Self {
            state: TicketMutex::new(State {
                policy,
                cpus: Cpus::new(settings.tax, guests),
                transfers: Transfers::default(),
                tracks: Tracks::new(guests.len()),
                observed: vec![nothing; guests.len()].into_boxed_slice(),
                asked_us: 0,
                sampled_us: 0,
            }),
            due_us: AtomicU64::new(NEVER),
            stepped_us: AtomicU64::new(0),
            unresponsive: AtomicU32::new(0),
            ended: Ended::default(),
        }
    }

    /// Who decides.
    pub fn mode(&self) -> Mode {
        self.state.lock().policy.mode()
    }

    /// Whether a guest has missed its deadlines.
    pub fn is_unresponsive(&self, guest: &Guest) -> bool {
        self.unresponsive.load(Ordering::Relaxed) & (1 << guest.index) != 0
    }

    /// The move a guest's memory is in, and the time now.
    pub fn open_move(&self, system: &System, guest: &Guest) -> Option<(Move, u64)> {
        let open = self.state.lock().policy.open_move(guest.index)?;
        Some((open, system.now_us()))
    }

    /// From now on `mode` decides.
    pub fn set_mode(&self, system: &System, cpu: &PerCpu, mode: Mode) {
        let now_us = system.now_us();
        self.state.lock().policy.set_mode(mode, now_us);
        self.step(system, cpu);
    }

    /// Somebody else has set a target; `by` a control guest or the operator.
    pub fn requested(&self, system: &System, cpu: &PerCpu, by: Origin) {
        if by == Origin::Control {
            self.state.lock().policy.requested(system.now_us());
        }
        self.step(system, cpu);
    }

    /// For a target by hand: the guest is in no move. What an earlier one still keeps for it is to be written off
    /// once the target is accepted.
    fn outside_moves(&self, guest: &Guest) -> Result<TicketMutexGuard<'_, State>, Refused> {
        let state = self.state.lock();
        match state.transfers.of(guest.index) {
            Some(open) => Err(Refused::InMove(open.id)),
            None => Ok(state),
        }
    }

    /// A guest shall have `pages` of memory; `by` a control guest or the operator.
    ///
    /// # Errors
    /// It is in a move, which sets its target.
    pub fn set_memory(
        &self,
        system: &System,
        cpu: &PerCpu,
        guest: &Guest,
        pages: u64,
        by: Origin,
    ) -> Result<(), Refused> {
        let mut state = self.outside_moves(guest)?;
        state.transfers.write_off(guest.index);
        state.tracks.aim(system, guest, pages, 0, by, 0);
        drop(state);
        guest.update_balloon(cpu);
        self.requested(system, cpu, by);
        Ok(())
    }

    /// A guest shall have `cpus` cores; `by` a control guest or the operator.
    ///
    /// # Errors
    /// It is in a move, which sets its target, or it cannot have so many.
    pub fn set_cpus(
        &self,
        system: &System,
        cpu: &PerCpu,
        guest: &Guest,
        cpus: u32,
        by: Origin,
    ) -> Result<(), Refused> {
        let mut state = self.outside_moves(guest)?;
        system
            .set_cpus(cpu, guest, cpus, by)
            .map_err(Refused::Cores)?;
        state.transfers.write_off(guest.index);
        drop(state);
        self.requested(system, cpu, by);
        Ok(())
    }

    /// A core has changed hands: whoever waits for that need not wait for the timer.
    pub fn cores_moved(&self, system: &System) {
        if self.due_us.load(Ordering::Relaxed) != NEVER {
            self.wait_until(system, self.not_too_soon(system.now_us()));
        }
    }

    /// A guest has stopped.
    pub fn stopped(&self, system: &System, cpu: &PerCpu, guest: &Guest) {
        let mut state = self.state.lock();
        state.policy.stopped(guest.index);
        state.cpus.restarted(guest);
        state.transfers.stopped(guest.index, system.now_us());
        state.tracks.end(system, guest, End::Stopped);
        drop(state);
        self.unresponsive
            .fetch_and(!(1 << guest.index), Ordering::Relaxed);
        self.step(system, cpu);
    }

    /// A guest has made `call` of the balloon interface, successfully, with `x1` as its first argument.
    pub fn called(&self, system: &System, guest: &Guest, call: u32, x1: u64) {
        let now_us = system.now_us();
        match call {
            function::REPORT => {
                let memory = system.pages_of(guest);
                let mut state = self.state.lock();
                state
                    .policy
                    .report(guest.index, memory, guest.memory.report.get(), now_us);
                state.cpus.report(system, guest, now_us);
                let is_manual = state.policy.mode() == Mode::Manual;
                drop(state);
                if !is_manual {
                    self.wait_until(system, self.not_too_soon(now_us));
                }
            }
            function::PRESSURE => {
                let memory = system.pages_of(guest);
                let mut state = self.state.lock();
                state.policy.pressure(guest.index, memory, x1, now_us);
                state
                    .transfers
                    .trouble(guest.index, guest.target_pages(), now_us);
                drop(state);
                self.wait_until(system, self.not_too_soon(now_us));
            }
            function::HELLO => {
                let mut state = self.state.lock();
                state.policy.restarted(guest.index);
                state.cpus.restarted(guest);
                // What it was asked for it is asked for still.
                let is_asked = state.policy.open_move(guest.index).is_some();
                drop(state);
                if is_asked {
                    self.wait_until(system, self.not_too_soon(now_us));
                }
            }
            function::TARGET if self.is_unresponsive(guest) => self.recover(system, guest, now_us),
            // Its target reached: whoever waits for that need not wait for the timer.
            function::RESERVE | function::RELEASE
                if self.is_unresponsive(guest)
                    || self.due_us.load(Ordering::Relaxed) != NEVER
                        && system.pages_of(guest) == guest.target_pages() =>
            {
                self.wait_until(system, self.not_too_soon(now_us));
            }
            _ => {}
        }
    }

    /// An unresponsive guest has fetched its target.
    fn recover(&self, system: &System, guest: &Guest, now_us: u64) {
        let has_recovered = self.state.lock().policy.answered(guest.index);
        self.unresponsive
            .fetch_and(!(1 << guest.index), Ordering::Relaxed);
        if has_recovered {
            system.record(Event::Responsive {
                guest: guest.index as u8,
            });
            self.wait_until(system, self.not_too_soon(now_us));
        }
    }

    /// This core's EL2 timer has fired.
    pub fn timer(&self, system: &System, cpu: &PerCpu) {
        let due_us = self.due_us.load(Ordering::Relaxed);
        if due_us == NEVER {
            return;
        }
        if due_us <= system.now_us() {
            self.step(system, cpu);
        } else {
            system.arm(due_us);
        }
    }

    /// A guest's call may have the policy asked then.
    fn not_too_soon(&self, now_us: u64) -> u64 {
        let stepped_us = self.stepped_us.load(Ordering::Relaxed);
        now_us.max(stepped_us.saturating_add(LEAST_APART_US))
    }

    /// Has the policy asked at `at_us`, or sooner if it is due sooner.
    fn wait_until(&self, system: &System, at_us: u64) {
        if self.due_us.fetch_min(at_us, Ordering::Relaxed) > at_us {
            system.arm(at_us);
        }
    }
}

impl Guest {
    /// Pages that it shall have.
    fn target_pages(&self) -> u64 {
        self.memory
            .max_pages()
            .saturating_sub(self.memory.target.reserve_pages())
    }
}

impl System {
    /// Time since the counter began, in microseconds.
    fn now_us(&self) -> u64 {
        let ticks = u128::from(crate::boot::counter());
        (ticks * 1_000_000 / u128::from(self.frequency.max(1))) as u64
    }

    /// The counter at that time.
    fn ticks(&self, at_us: u64) -> u64 {
        (u128::from(at_us) * u128::from(self.frequency)).div_ceil(1_000_000) as u64
    }

    /// Has this core's timer fire at that time.
    fn arm(&self, at_us: u64) {
        timer::arm(self.ticks(at_us));
    }

    /// Pages of memory that the guest has.
    pub fn pages_of(&self, guest: &Guest) -> u64 {
        let pool = self.pool.lock();
        pool.counts().of(guest.memory.guest()).into()
    }
}
