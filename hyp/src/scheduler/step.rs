//! One look of the policy: what it is shown of every guest, and what is done of all that it says, the rounds of sampling
//! among it.
//!
//! Apart from the reasons for which it is asked, since a look is the same whichever it was.

use core::sync::atomic::Ordering;

use ballast_core::log::{Direction, Event, Origin};
use ballast_core::policy::{Observed, Seen};

use super::{KIB_PER_PAGE, NEVER, Scheduler, State, moves};
use crate::guest::Guest;
use crate::guest::hardware::Machine;
use crate::guest::lifecycle::Phase;
use crate::percpu::{self, PerCpu, request};
use crate::system::System;

/// Between two times that guests are asked what they use, while others lack memory.
const ASK_EVERY_US: u64 = 1_000_000;
/// How long blocks are watched, while guests compete: long enough for a guest to come by all that it uses.
const SAMPLE_US: u64 = 8_000_000;

impl Scheduler {
    /// Asks the policy, and does what it says.
    pub(super) fn step(&self, system: &System, cpu: &PerCpu) {
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
        let next_transfer_us = moves::look(system, transfers, now_us);
        tracks.look(system);
        let wake = moves::carry_out(system, cpu, transfers, tracks);
        let kept = system.pool.lock().kept();
        for (guest, seen) in system.guests.iter().zip(&mut *observed) {
            *seen = Observed {
                memory_pages: counts.of(guest.memory.guest()).into(),
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
        let is_done = guest.memory.sample(&mut Machine(cpu), now, least);
        cpu.window.close();
        if !is_done {
            // When the call that is in progress has ended: none of a guest's takes long.
            percpu::post(cpu.gic, cpu.index, request::SAMPLE);
        }
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
}
