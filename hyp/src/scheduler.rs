//! The resource scheduler's hands: what the policy hears of, when it is asked, and how its targets are set.
//!
//! The policy is asked on whatever core the reason arose, or by that core's EL2 timer, which is armed only
//! while the policy wants to be asked again. A guest's calls only leave a note and arm the timer, so that a guest
//! that reports without end makes the policy run every [`LEAST_APART_US`] and not with each call.
//!
//! Lock order: the policy's is inside the console's and outside the pool's and the guests'.

mod cpus;
mod moves;
mod tracks;

use alloc::boxed::Box;
use alloc::vec;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use ballast_abi::function;
use ballast_core::addr::PAGE_SIZE;
use ballast_core::config::PolicyConfig;
use ballast_core::log::{Direction, Event, Origin};
use ballast_core::monitor::Refused;
use ballast_core::policy::transfer::Transfers;
use ballast_core::policy::{Entitlement, Mode, Move, Observed, Policy, Seen, Settings};
use ballast_core::timeline::End;
use cpus::Cpus;
use spin::mutex::{TicketMutex, TicketMutexGuard};
use tracks::{Ended, Tracks};

use crate::aarch64::timer;
use crate::guest::Guest;
use crate::guest::hardware::Machine;
use crate::guest::lifecycle::Phase;
use crate::percpu::{self, PerCpu, request};
use crate::system::System;

/// Between two looks of the policy that guests cause.
const LEAST_APART_US: u64 = 10_000;
/// Between two times that guests are asked what they use, while others lack memory.
const ASK_EVERY_US: u64 = 1_000_000;
/// How long blocks are watched, while guests compete: long enough for a guest to come by all that it uses.
const SAMPLE_US: u64 = 8_000_000;
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

    /// Asks the policy, and does what it says.
    fn step(&self, system: &System, cpu: &PerCpu) {
        let mut state = self.state.lock();
        let State {
            policy,
            cpus,
            transfers,
            tracks,
            observed,
            asked_us,
            sampled_us,
        } = &mut *state;
        let now_us = system.now_us();
        self.due_us.store(NEVER, Ordering::Relaxed);
        self.stepped_us.store(now_us, Ordering::Relaxed);
        let now = crate::boot::counter();
        // A round that a call was in the way of does not undo what was seen.
        let oldest = system.ticks(2 * SAMPLE_US);
        let counts = *system.pool.lock().counts();
        let pages = |guest: usize| counts.guests.get(guest).copied().unwrap_or(0).into();
        let next_transfer_us = moves::look(system, transfers, now_us);
        tracks.look(system);
        let wake = moves::carry_out(system, cpu, transfers, tracks);
        let kept = system.pool.lock().kept();
        for (guest, seen) in system.guests.iter().zip(&mut *observed) {
            *seen = Observed {
                memory_pages: pages(guest.index),
                target_pages: guest.target_pages(),
                can_move: guest.phase() == Phase::Running && guest.memory.has_driver(),
                cpus: system.cores.granted(guest.index).len() as u32,
                target_cpus: system.cores.target(guest.index),
                in_transfer: transfers.of(guest.index).is_some(),
                touched: guest.memory.sample.touched(now, oldest),
            };
        }
        let free = counts.free().saturating_sub(kept);
        let decision = policy.step(now_us, observed, free.into());
        for notice in policy.notices() {
            self.note(system, notice.guest, notice.seen, now_us, observed);
        }
        for change in policy.changes() {
            if let Some(guest) = system.guests.get(change.guest) {
                tracks.aim(system, guest, change.target_pages, 0, Origin::Ballast, 0);
            }
        }
        let of_cpus = cpus.step(system, cpu, policy.mode(), observed, now_us);
        let asks =
            (decision.sample || of_cpus.sample) && now_us >= asked_us.saturating_add(ASK_EVERY_US);
        if asks {
            *asked_us = now_us;
        }
        let samples = decision.sample && now_us >= sampled_us.saturating_add(SAMPLE_US);
        if samples {
            *sampled_us = now_us;
        }
        for (guest, seen) in system.guests.iter().zip(&*observed) {
            if !seen.can_move || guest.plan.config.realtime {
                continue;
            }
            if let Some(deadline_us) = policy.deadline_us(guest.index)
                && !seen.in_transfer
            {
                guest.memory.target.set_deadline(system.ticks(deadline_us));
            }
            if samples {
                guest.ask_to_sample(cpu);
            }
            // Whoever fetches its target says what it uses, too.
            if asks && !guest.memory.target.is_pending() {
                guest.memory.target.bump();
            }
            guest.update_balloon(cpu);
        }
        let next_sample_us = sampled_us.saturating_add(SAMPLE_US);
        let next_sample_us = decision.sample.then_some(next_sample_us);
        drop(state);
        system.wake(cpu, wake);
        let next = [
            decision.next_us,
            of_cpus.next_us,
            next_transfer_us,
            next_sample_us,
        ];
        let next = next.into_iter().flatten();
        if let Some(next_us) = next.min() {
            self.wait_until(system, next_us);
        }
    }

    /// Ends a round of sampling of the guest on this core, and begins the next.
    pub fn sample(&self, system: &System, cpu: &PerCpu, guest: &Guest) {
        // One asked a little early would leave the round out.
        let least = system.ticks(SAMPLE_US - SAMPLE_US / 8);
        let now = crate::boot::counter();
        guest.memory.sample(&mut Machine(cpu), now, least);
        cpu.window.close();
    }

    /// What a guest did goes to the log.
    fn note(&self, system: &System, index: usize, seen: Seen, now_us: u64, observed: &[Observed]) {
        let Some(guest) = system.guests.get(index) else {
            return;
        };
        let index = guest.index as u8;
        match seen {
            Seen::Arrived(done) => system.record(Event::Moved {
                guest: index,
                direction: if done.is_giving() {
                    Direction::Reserve
                } else {
                    Direction::Release
                },
                memory_kib: done.from_pages.abs_diff(done.target_pages) * KIB_PER_PAGE,
                us: now_us.saturating_sub(done.began_us),
            }),
            Seen::GivenUp => {
                self.unresponsive
                    .fetch_or(1 << guest.index, Ordering::Relaxed);
                system.record(Event::Unresponsive { guest: index });
            }
            Seen::InVain => {
                let lacks = observed.get(guest.index).map_or(0, |seen| {
                    seen.target_pages.saturating_sub(seen.memory_pages)
                });
                system.record(Event::Waiting {
                    guest: index,
                    memory_kib: lacks * KIB_PER_PAGE,
                });
            }
            Seen::Recovered => {
                self.unresponsive
                    .fetch_and(!(1 << guest.index), Ordering::Relaxed);
                system.record(Event::Responsive { guest: index });
                guest.memory.target.bump();
            }
            // It is asked once more, with its new deadline.
            Seen::Late => guest.memory.target.bump(),
            Seen::Rest | Seen::Moving => {}
        }
    }
}

impl Guest {
    /// Asks a core that runs one of its vCPUs to sample. None does: then there is nothing to see.
    fn ask_to_sample(&self, cpu: &PerCpu) {
        let mut vcpus = 0..self.plan.config.cpus.max as usize;
        if let Some(core) = vcpus.find_map(|vcpu| self.core_of.get(vcpu)) {
            percpu::post(cpu.gic, core, request::SAMPLE);
        }
    }

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
        let pages = pool.counts().guests.get(guest.index).copied();
        pages.unwrap_or(0).into()
    }
}
