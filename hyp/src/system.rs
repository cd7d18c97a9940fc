//! Everything that is shared by the cores once the guests run.

use alloc::boxed::Box;
use core::sync::atomic::{AtomicBool, Ordering};

use ballast_core::balloon::Scrubber;
use ballast_core::board::Board;
use ballast_core::config::OnReset;
use ballast_core::cores::Cores;
use ballast_core::dt::DeviceTree;
use ballast_core::frames::{GuestSet, Pool};
use ballast_core::log::{Event, EventLog, Origin};
use ballast_core::monitor::Session;
use ballast_core::sysreg::IdRegisters;
use spin::Once;
use spin::mutex::TicketMutex;

use crate::channels::Channels;
use crate::console::Terminal;
use crate::gic::Gic;
use crate::guest::Guest;
use crate::guest::lifecycle::{After, Phase};
use crate::percpu::PerCpu;
use crate::power;
use crate::scheduler::Scheduler;

/// The board and its guests.
pub struct System {
    /// The board.
    pub board: Board,
    /// Its device tree, partitions merged in.
    pub tree: &'static DeviceTree<'static>,
    /// Its interrupt controller.
    pub gic: &'static Gic,
    /// The boot archive: every guest's pristine images.
    pub archive: &'static [u8],
    /// The guests, by index.
    pub guests: Box<[Guest]>,
    /// Who has which core.
    pub cores: Cores,
    /// What guests share, and their doorbells.
    pub channels: Channels,
    /// Who should have how much memory.
    pub scheduler: Scheduler,
    /// What idle cores scrub.
    pub scrubber: Scrubber,
    /// The frame table.
    pub pool: TicketMutex<Pool>,
    /// The ID registers as guests read them.
    pub ids: IdRegisters,
    /// VTCR_EL2 of every guest.
    pub vtcr: u64,
    /// The multiplexed console.
    pub terminal: Box<Terminal>,
    /// Each guest's conversation with the monitor, if it may have one.
    pub sessions: Box<[Option<TicketMutex<Session>>]>,
    /// What happened.
    pub log: TicketMutex<EventLog>,
    /// Bytes of RAM that Ballast keeps, the boot archive apart.
    pub own_bytes: u64,
    /// Ticks a second of the counter.
    pub frequency: u64,
}

static SYSTEM: Once<System> = Once::new();
static ENDING: AtomicBool = AtomicBool::new(false);

/// Makes `system` the system; once, before any guest starts.
pub fn install(system: System) -> &'static System {
    SYSTEM.call_once(|| system)
}

/// The system; `None` during boot.
#[inline]
pub fn get() -> Option<&'static System> {
    SYSTEM.get()
}

impl System {
    /// Records what happened, at this time.
    pub fn record(&self, event: Event) {
        self.log.lock().record(crate::boot::counter(), event);
    }

    /// Ticks of the counter in nanoseconds.
    pub fn ticks_to_ns(&self, ticks: u64) -> u64 {
        let ns = u128::from(ticks) * 1_000_000_000 / u128::from(self.frequency.max(1));
        u64::try_from(ns).unwrap_or(u64::MAX)
    }

    /// The guest that has core `core`.
    pub fn holder(&'static self, core: usize) -> Option<&'static Guest> {
        self.guests.get(self.cores.holder(core)?)
    }

    /// Tells these guests' drivers to look again: memory they had wanted is free.
    pub fn wake(&self, cpu: &PerCpu, guests: GuestSet) {
        if guests.is_empty() {
            return;
        }
        for guest in guests.iter().filter_map(|id| self.guests.get(id.index())) {
            guest.memory.target.bump();
            guest.update_balloon(cpu);
        }
    }

    /// Asks these guests, each on a core of its own, to move frames that others want back.
    pub fn relocate(&self, cpu: &PerCpu, guests: GuestSet) {
        if guests.is_empty() {
            return;
        }
        for guest in guests.iter().filter_map(|id| self.guests.get(id.index())) {
            guest.memory.ask_to_relocate();
            guest.ask_to_relocate(self, cpu);
        }
    }

    /// A guest's last core has left it, which still counts as one that is stopping.
    pub fn guest_stopping(&self, guest: &Guest, cpu: &PerCpu) {
        self.tell_stopped(cpu, guest);
        self.scheduler.stopped(self, cpu, guest);
    }

    /// A guest has stopped, because of `after` that `by` asked for.
    pub fn guest_stopped(&self, guest: &Guest, cpu: &PerCpu, after: After, by: Origin) {
        let index = guest.index as u8;
        let name = &guest.plan.config.name;
        match after {
            After::Reset => {
                self.record(Event::Reset { guest: index, by });
                self.terminal.say(format_args!("{name}: reset"));
            }
            After::PoweredOff => {
                self.record(Event::Stopped {
                    guest: index,
                    by: Origin::Guest,
                });
                self.terminal.say(format_args!("{name}: powered off"));
            }
            After::Operator => {
                self.record(Event::Stopped {
                    guest: index,
                    by: Origin::Monitor,
                });
                self.terminal.say(format_args!("{name}: stopped"));
            }
            After::Fault => self.record(Event::Stopped {
                guest: index,
                by: Origin::Ballast,
            }),
        }
        match guest.loud() {
            None => {}
            Some((device, None)) => self.terminal.say(format_args!(
                "{name}: stays stopped and keeps its memory: {device} may still write to it, and nobody knows \
                 how to stop it"
            )),
            Some((device, Some(tried))) => self.terminal.say(format_args!(
                "{name}: stays stopped and keeps its memory: {device} may still write to it, since it does not \
                 stop ({tried})"
            )),
        }
        if guest.plan.config.on_reset == OnReset::Board && by == Origin::Guest {
            match after {
                After::Reset => self.end(power::Action::Reset, "on-reset: the board is reset"),
                After::PoweredOff => {
                    self.end(power::Action::Off, "on-reset: the board is turned off")
                }
                After::Operator | After::Fault => {}
            }
        }
        let all_off = self.guests.iter().all(|guest| {
            guest.phase() == Phase::Stopped && guest.after_stop() == After::PoweredOff
        });
        if all_off {
            self.end(power::Action::Off, "every guest is off");
        }
        self.terminal.pump(self, cpu);
    }

    /// Turns the board off or resets it, once the console is drained; without a way to do it, says so.
    fn end(&self, action: power::Action, why: &str) {
        if ENDING.swap(true, Ordering::AcqRel) {
            return;
        }
        self.terminal.say(format_args!("{why}"));
        self.terminal.drain(self);
        power::perform(action);
    }
}
