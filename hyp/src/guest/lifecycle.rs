//! Starting, stopping and resetting a guest, whatever its vCPUs are doing.
//!
//! A guest stops when its last core has left it. Each core counts twice: as one that may run the guest, from
//! when it is chosen (at the guest's start, or by CPU_ON) until it runs it no more, and as one of the guest's
//! until it is clean and given back, so nothing of one life is under way when the next begins. Whoever asks for a
//! stop sets the phase and asks each core. The core that takes the last of the first counts away makes the guest's
//! devices quiet, while the core is still nobody else's; the one that takes the last of the second completes the
//! stop, exactly once, and hands the rest (building the guest anew) to the core of vCPU 0. Nobody waits for anybody.

use core::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use ballast_core::log::Origin;

use super::Guest;
use crate::percpu::{self, PerCpu, request};
use crate::system::System;

/// Where a guest is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Phase {
    /// No vCPU runs; memory may still be its own.
    Stopped = 0,
    /// Its image is being put in place.
    Loading = 1,
    /// At least vCPU 0 was started.
    Running = 2,
    /// Its cores were asked to leave.
    Stopping = 3,
}

/// What follows a stop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum After {
    /// It turned itself off (PSCI SYSTEM_OFF, or its last CPU off).
    PoweredOff = 0,
    /// It starts anew.
    Reset = 1,
    /// The operator stopped it.
    Operator = 2,
    /// It did what could not be answered; the report is in the log.
    Fault = 3,
}

/// [`Phase`] (bits 1:0), [`After`] (3:2) and who asked (6:4), which change together: whoever sees a
/// stop sees what it is for.
#[derive(Clone, Copy)]
struct Life(u8);

impl Life {
    const fn new(phase: Phase, after: After, by: Origin) -> Self {
        Self(phase as u8 | (after as u8) << 2 | (by as u8 & 7) << 4)
    }

    const fn phase(self) -> Phase {
        match self.0 & 3 {
            1 => Phase::Loading,
            2 => Phase::Running,
            3 => Phase::Stopping,
            _ => Phase::Stopped,
        }
    }

    const fn after(self) -> After {
        match self.0 >> 2 & 3 {
            1 => After::Reset,
            2 => After::Operator,
            3 => After::Fault,
            _ => After::PoweredOff,
        }
    }

    const fn by(self) -> Origin {
        match self.0 >> 4 & 7 {
            0 => Origin::Boot,
            1 => Origin::Monitor,
            2 => Origin::Guest,
            3 => Origin::Control,
            _ => Origin::Ballast,
        }
    }
}

/// How far a guest's life is, and on how many cores.
pub struct State {
    life: AtomicU8,
    /// Cores that run one of its vCPUs, were chosen to, or are still leaving, in 15:0; those of them that may still
    /// run it, in 31:16.
    cores: AtomicU32,
}

/// In [`State::cores`].
const ONE_CORE: u32 = 1;
const ONE_INSIDE: u32 = 1 << 16;
const CORES: u32 = ONE_INSIDE - 1;

impl Default for State {
    fn default() -> Self {
        let life = Life::new(Phase::Stopped, After::Operator, Origin::Boot);
        Self {
            life: AtomicU8::new(life.0),
            cores: AtomicU32::new(0),
        }
    }
}

impl State {
    fn life(&self) -> Life {
        Life(self.life.load(Ordering::SeqCst))
    }

    /// To what `next` makes of the life now, if that is in phase `from`. What it was before.
    fn change(&self, from: Phase, next: impl Fn(Life) -> Life) -> Option<Life> {
        let changed = self
            .life
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |now| {
                let now = Life(now);
                (now.phase() == from).then(|| next(now).0)
            });
        changed.ok().map(Life)
    }
}

impl Guest {
    /// The phase now.
    pub fn phase(&self) -> Phase {
        self.state.life().phase()
    }

    /// What the last stop was for.
    pub fn after_stop(&self) -> After {
        self.state.life().after()
    }

    /// Who asked for the last start or stop.
    pub fn asked_by(&self) -> Origin {
        self.state.life().by()
    }

    /// How many vCPUs are on, those included that are just coming or going.
    pub fn vcpus_on(&self) -> u32 {
        self.state.cores.load(Ordering::Relaxed) & CORES
    }

    /// Whether its cores were asked to leave.
    pub fn is_stopping(&self) -> bool {
        self.phase() == Phase::Stopping
    }

    /// Asks for a stopped guest to be loaded and started. False if it is not stopped, or its devices are not
    /// quiet.
    pub fn start(&self, system: &System, cpu: &PerCpu, by: Origin) -> bool {
        if !self.is_quiet() {
            return false;
        }
        let loading = |now: Life| Life::new(Phase::Loading, now.after(), by);
        if self.state.change(Phase::Stopped, loading).is_none() {
            return false;
        }
        // A guest that is stopped uses none of its cores, and it has at least one.
        let Some(core) = system.cores.take(self.index, 0) else {
            self.load_failed();
            return false;
        };
        percpu::assign(core, self.index, 0);
        percpu::post(cpu.gic, core, request::LOAD);
        true
    }

    /// Its image is in place: the core of vCPU 0, which asks, may enter.
    pub fn loaded(&self) {
        self.core_chosen();
        let running = |now: Life| Life::new(Phase::Running, now.after(), now.by());
        let _ = self.state.change(Phase::Loading, running);
    }

    /// Loading failed: stopped, with the reason in the log.
    pub fn load_failed(&self) {
        let stopped = |now: Life| Life::new(Phase::Stopped, After::Fault, now.by());
        let _ = self.state.change(Phase::Loading, stopped);
    }

    /// Asks all its cores to leave. False if it is not running (a stop that is under way stands).
    pub fn stop(&self, system: &System, cpu: &PerCpu, after: After, by: Origin) -> bool {
        let stopping = |_| Life::new(Phase::Stopping, after, by);
        if self.state.change(Phase::Running, stopping).is_none() {
            return false;
        }
        for core in system.cores.granted(self.index).iter() {
            percpu::post(cpu.gic, core, request::STOP);
        }
        true
    }

    /// A core is about to be asked to enter. Called before it is asked, by a core that counts itself
    /// (or by [`Guest::loaded`]): so the guest cannot stop in between.
    pub fn core_chosen(&self) {
        self.state
            .cores
            .fetch_add(ONE_CORE | ONE_INSIDE, Ordering::SeqCst);
    }

    /// Whether a core that was chosen may enter. If not, the guest is being stopped: the core
    /// [leaves](Guest::leaving). A stop that comes later finds it by its request.
    pub fn may_enter(&self) -> bool {
        self.phase() == Phase::Running
    }

    /// The calling core will not run the guest any more, and is still the guest's: to be called before it is given
    /// back. If it is the last, nobody is there to turn a vCPU on, and the guest's devices are made quiet, which may take
    /// as long as their procedures' limits say.
    pub fn leaving(&self, cpu: &PerCpu) {
        let before = self.state.cores.fetch_sub(ONE_INSIDE, Ordering::SeqCst);
        if before / ONE_INSIDE != 1 {
            return;
        }
        // If nobody has asked for it, the guest itself has turned off its last vCPU.
        let off = |_| Life::new(Phase::Stopping, After::PoweredOff, Origin::Guest);
        let _ = self.state.change(Phase::Running, off);
        if let Some(dog) = &self.watchdog {
            dog.reset();
        }
        self.quiesce(cpu);
    }

    /// The calling core is clean and has left the guest, whose vCPU is off and has given the core back.
    pub fn left(&self, system: &System, cpu: &PerCpu) {
        if self.state.cores.fetch_sub(ONE_CORE, Ordering::SeqCst) & CORES != 1 {
            return;
        }
        // What others are told and keep of this life, before the next can begin.
        system.guest_stopping(self, cpu);
        let stopped = |now: Life| Life::new(Phase::Stopped, now.after(), now.by());
        let Some(life) = self.state.change(Phase::Stopping, stopped) else {
            return;
        };
        // From here on an operator's start may have begun the next: `life` is the one that ended.
        system.guest_stopped(self, cpu, life.after(), life.by());
        if life.after() == After::Reset {
            self.start(system, cpu, life.by());
        }
    }
}
