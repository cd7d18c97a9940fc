//! A guest's watchdog: emulated registers, one deadline in EL2's own timer, and only while the guest has it
//! armed.
//!
//! The timer is that of the core on which the guest has written last. A guest that feeds its watchdog moves the
//! deadline away from what the timer is set to: it then fires once, finds nothing due and is set anew. So a fed
//! watchdog costs one interrupt in each of its periods, and an unarmed one nothing.

use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use ballast_core::exit::Width;
use ballast_core::limits::MAX_CORES;
use ballast_core::log::{Event, Origin};
use ballast_core::watchdog::{Expired, Kind, Watchdog};
use spin::mutex::TicketMutex;

use super::Guest;
use super::lifecycle::After;
use crate::aarch64::timer;
use crate::percpu::PerCpu;
use crate::system::System;

/// Of a deadline: none.
const NEVER: u64 = u64::MAX;

/// The watchdog, and where its deadline is kept.
pub struct Dog {
    /// Taken by the guest's accesses and by the timer, for a few instructions, with no other lock held.
    model: TicketMutex<Watchdog>,
    /// When it ends, in ticks. Changed with the lock held.
    deadline: AtomicU64,
    /// The core whose timer is set for it.
    core: AtomicUsize,
}

impl Dog {
    /// One that is not armed.
    pub fn new(kind: Kind) -> Self {
        Self {
            model: TicketMutex::new(Watchdog::new(kind, crate::boot::frequency())),
            deadline: AtomicU64::new(NEVER),
            core: AtomicUsize::new(MAX_CORES),
        }
    }

    /// A load, or a store of `value`.
    pub fn access(&self, cpu: &PerCpu, offset: u32, width: Width, value: Option<u64>) -> u64 {
        let now = crate::boot::counter();
        let mut model = self.model.lock();
        let Some(value) = value else {
            return model.read(offset, width, now);
        };
        model.write(offset, width, value, now);
        let deadline = model.deadline();
        self.deadline
            .store(deadline.unwrap_or(NEVER), Ordering::Relaxed);
        self.core.store(cpu.index, Ordering::Relaxed);
        drop(model);
        if let Some(at) = deadline {
            timer::arm(at);
        }
        0
    }

    /// As after power-on.
    pub fn reset(&self) {
        let mut model = self.model.lock();
        model.reset();
        self.deadline.store(NEVER, Ordering::Relaxed);
    }

    /// What its end by `now` asks for; else this core's timer is set again, if it is its.
    fn tick(&self, cpu: &PerCpu, now: u64) -> Option<Expired> {
        let deadline = self.deadline.load(Ordering::Relaxed);
        if deadline == NEVER {
            return None;
        }
        if now >= deadline {
            let mut model = self.model.lock();
            let expired = model.expire(now);
            if expired.is_some() {
                self.deadline.store(NEVER, Ordering::Relaxed);
                return expired;
            }
        }
        // Whoever has fed it since has set a timer, too.
        if self.core.load(Ordering::Relaxed) == cpu.index {
            timer::arm(self.deadline.load(Ordering::Relaxed));
        }
        None
    }
}

impl Guest {
    /// This core's timer has fired and is off, at `now`.
    pub fn tick_watchdog(&self, system: &System, cpu: &PerCpu, now: u64) {
        let Some(expired) = self.watchdog.as_ref().and_then(|dog| dog.tick(cpu, now)) else {
            return;
        };
        let after = match expired {
            Expired::Reset => After::Reset,
            Expired::PowerOff => After::PoweredOff,
        };
        // As if it had asked itself: its `on-reset` says what that means.
        if self.stop(system, cpu, after, Origin::Guest) {
            system.record(Event::Watchdog {
                guest: self.index as u8,
            });
            system.terminal.say(format_args!(
                "{}: its watchdog has expired",
                self.plan.config.name
            ));
            system.terminal.pump(system, cpu);
        }
    }
}
