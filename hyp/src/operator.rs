//! The monitor's hands: what an operator's command does to the system.

use core::sync::atomic::Ordering;

use ballast_abi::Order;
use ballast_core::addr::{MIB, PAGE_SIZE};
use ballast_core::balloon::{Calls, Counter};
use ballast_core::log::{Entry, Event};
use ballast_core::monitor::{
    Amount, DriverState, ExitCause, ExitCounts, GuestState, GuestStats, GuestStatus, HostStatus,
    MoveStatus, Operator, PowerAction, Refused, TransferCounts, TransferStatus,
};

use ballast_core::policy::Mode;
use ballast_core::policy::transfer::Holding;
use ballast_core::timeline::Record;

use crate::console::Shell;
use crate::guest::Guest;
use crate::guest::lifecycle::{After, Phase};

const KIB: u64 = 1024;
const KIB_PER_PAGE: u64 = PAGE_SIZE / KIB;

impl Guest {
    /// Its state in the operator's words.
    pub fn state(&self) -> GuestState {
        match (self.phase(), self.after_stop()) {
            (Phase::Loading, _) => GuestState::Starting,
            (Phase::Running, _) => GuestState::Running,
            (Phase::Stopping, _) => GuestState::Stopping,
            (Phase::Stopped, _) if !self.is_quiet() => GuestState::Quarantined,
            (Phase::Stopped, After::PoweredOff) => GuestState::Off,
            (Phase::Stopped, After::Fault) => GuestState::Faulted,
            (Phase::Stopped, After::Operator) => GuestState::Stopped,
            // In a moment.
            (Phase::Stopped, After::Reset) => GuestState::Starting,
        }
    }
}

impl Operator for Shell<'_> {
    fn host(&self) -> HostStatus {
        let counts = *self.system.pool.lock().counts();
        let granted = |guest: &Guest| self.system.cores.granted(guest.index).len();
        let used: usize = self.system.guests.iter().map(granted).sum();
        HostStatus {
            free_kib: u64::from(counts.free()) * KIB_PER_PAGE,
            zeroed_kib: u64::from(counts.zero) * KIB_PER_PAGE,
            dirty_kib: u64::from(counts.dirty) * KIB_PER_PAGE,
            own_kib: self.system.own_bytes / KIB,
            cores_used: used as u8,
            cores: self.system.board.cores.len() as u8,
            uptime_s: crate::boot::counter() / self.system.frequency.max(1),
            policy: self.system.scheduler.mode(),
            idle_scrubbed_kib: self.system.scrubber.pages.get() * KIB_PER_PAGE,
        }
    }

    fn guest(&self, guest: usize) -> GuestStatus {
        let guest = self.named(guest);
        let config = &guest.plan.config;
        let pages = self.system.pages_of(guest);
        let target = guest.memory.max_pages() - guest.memory.target.reserve_pages();
        GuestStatus {
            state: guest.state(),
            memory_kib: pages * KIB_PER_PAGE,
            target_kib: target * KIB_PER_PAGE,
            min_kib: config.memory.min_bytes / KIB,
            max_kib: config.memory.max_bytes / KIB,
            driver: self.driver(guest, pages, target),
            cpus_on: guest.vcpus_on() as u8,
            cpus_max: config.cpus.max as u8,
            cpus_min: config.cpus.min as u8,
            cpus_target: self.system.cores.target(guest.index) as u8,
            cores: self.system.cores.granted(guest.index),
        }
    }

    fn stats(&self, guest: usize) -> GuestStats {
        let guest = self.named(guest);
        let mut exits = ExitCounts::default();
        for vcpu in &guest.counts {
            for cause in ExitCause::ALL {
                exits.set(cause, exits.get(cause).wrapping_add(vcpu.get(cause)));
            }
        }
        let stats = &guest.memory.stats;
        let [busy_reserving, busy_releasing] = &stats.turned_away;
        let transfer = |calls: &Calls, busy: &Counter, entries: &[Counter; 4]| {
            let entries = entries.each_ref().map(Counter::get);
            let pages = Order::ALL
                .iter()
                .zip(entries)
                .map(|(order, done)| order.pages() * done);
            TransferCounts {
                calls: calls.calls.get(),
                busy: busy.get(),
                entries,
                refused: calls.refused.get(),
                pages: pages.sum(),
            }
        };
        // While a call is in progress nobody can tell; the next look will.
        let (split_blocks, unmerged) = guest.memory.split_blocks().unwrap_or_default();
        GuestStats {
            exits,
            injected: guest.injected.load(Ordering::Relaxed),
            maintenance: guest.maintained.load(Ordering::Relaxed),
            reserve: transfer(&stats.reserve, busy_reserving, &stats.reserved),
            release: transfer(&stats.release, busy_releasing, &stats.released),
            splits: stats.splits.get(),
            relocated_pages: stats.relocated_pages.get(),
            relocation_ns: self.system.ticks_to_ns(stats.relocation_ticks.get()),
            gathered: stats.gathered.get(),
            split_blocks: split_blocks.into(),
            unmerged: unmerged.into(),
            pauses: stats.pauses.get(),
            pause_ns: self.system.ticks_to_ns(stats.pause_ticks.get()),
            longest_pause_ns: self.system.ticks_to_ns(stats.longest_pause_ticks.get()),
            merges: stats.merges.get(),
            scrubbed_pages: stats.scrubbed_pages.get(),
            watched_blocks: guest.memory.sample.watched_blocks.get(),
            accessed_blocks: guest.memory.sample.accessed_blocks.get(),
            report: guest.memory.report.get(),
            runnable_milli: guest.memory.report.runnable(),
            console: guest.uart.lock().counts(),
        }
    }

    fn log_from(&self, sequence: u64) -> Option<Entry> {
        self.system.log.lock().from(sequence)
    }

    fn set_memory(&self, guest: usize, mib: u64) -> Result<(), Refused> {
        let guest = self.named(guest);
        let memory = &guest.plan.config.memory;
        if guest.plan.config.realtime {
            return Err(Refused::Fixed);
        }
        if mib < memory.min_bytes / MIB {
            return Err(Refused::BelowMinimum(memory.min_bytes / MIB));
        }
        if mib > memory.max_bytes / MIB {
            return Err(Refused::AboveMaximum(memory.max_bytes / MIB));
        }
        // Starting sets the target to what the configuration says: one set before that would be lost.
        if guest.phase() != Phase::Running {
            return Err(Refused::State(guest.state()));
        }
        let pages = mib * MIB / PAGE_SIZE;
        self.system
            .scheduler
            .set_memory(self.system, self.cpu, guest, pages, self.by)
    }

    fn event_from(&self, sequence: u64) -> Option<Record> {
        self.system.scheduler.ended.from(sequence)
    }

    fn move_between(
        &self,
        from: usize,
        to: usize,
        amount: Amount,
    ) -> Result<u32, (usize, Refused)> {
        let guests = [self.named(from), self.named(to)];
        let moved = Holding {
            pages: amount.mib.saturating_mul(MIB / PAGE_SIZE),
            cpus: amount.cpus,
        };
        let id = self.system.scheduler.begin_move(
            self.system,
            self.cpu,
            guests,
            moved,
            amount.seconds,
        )?;
        self.system
            .scheduler
            .requested(self.system, self.cpu, self.by);
        Ok(id)
    }

    fn move_status(&self, nth: usize) -> Option<MoveStatus> {
        self.system.scheduler.move_status(self.system, nth)
    }

    fn set_cpus(&self, guest: usize, cpus: u32) -> Result<(), Refused> {
        let guest = self.named(guest);
        self.system
            .scheduler
            .set_cpus(self.system, self.cpu, guest, cpus, self.by)
    }

    fn set_policy(&self, mode: Mode) {
        self.system.scheduler.set_mode(self.system, self.cpu, mode);
        self.system.record(Event::Policy { mode, by: self.by });
    }

    fn transfer(&self, guest: usize) -> Option<TransferStatus> {
        let guest = self.named(guest);
        let (open, now_us) = self.system.scheduler.open_move(self.system, guest)?;
        Some(TransferStatus {
            from_kib: open.from_pages * KIB_PER_PAGE,
            memory_kib: self.system.pages_of(guest) * KIB_PER_PAGE,
            target_kib: open.target_pages * KIB_PER_PAGE,
            since_ms: now_us.saturating_sub(open.began_us) / 1000,
            left_ms: open.deadline_us.saturating_sub(now_us) / 1000,
        })
    }

    fn power(&self, guest: usize, action: PowerAction) -> Result<(), Refused> {
        let guest = self.named(guest);
        if guest.phase() == Phase::Stopped && action != PowerAction::Stop && !guest.is_quiet() {
            return Err(Refused::Devices);
        }
        let done = match action {
            PowerAction::Start => guest.start(self.system, self.cpu, self.by),
            PowerAction::Stop => guest.stop(self.system, self.cpu, After::Operator, self.by),
            PowerAction::Reset => {
                guest.stop(self.system, self.cpu, After::Reset, self.by)
                    || guest.start(self.system, self.cpu, self.by)
            }
        };
        if done {
            Ok(())
        } else {
            Err(Refused::State(guest.state()))
        }
    }
}

impl Shell<'_> {
    /// What the guest's balloon driver is doing, as far as its calls tell.
    fn driver(&self, guest: &Guest, pages: u64, target: u64) -> DriverState {
        if !guest.memory.has_driver() {
            DriverState::None
        } else if self.system.scheduler.is_unresponsive(guest) {
            DriverState::Unresponsive
        } else if self.system.pool.lock().is_wanting(guest.memory.guest()) {
            DriverState::Waiting
        } else if pages != target {
            DriverState::Moving
        } else {
            DriverState::Ready
        }
    }
}
