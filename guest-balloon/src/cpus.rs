//! CPUs as a balloon: the guest's online CPUs follow the CPU target.
//!
//! While more are online than the target says, the highest-numbered one goes offline by the guest's own means; one
//! that will not go (busy, pinned) is passed over for the next lower. While fewer are, offline ones come online,
//! lowest first, until Ballast denies one: then it has no core for this guest, and its interrupt comes when it has.
//!
//! Apart from [`Driver`], which is only asked for the target, because hotplug is slow (tens of milliseconds a CPU):
//! a front with threads gives each its own, one without calls the two by turns. Either way one move never waits
//! for the other to end.
//!
//! The speed follows the guest: after a round in which no CPU would move it is left alone for at least as long as
//! the round took, and for twice as long each time, up to a second. At rest there is no call and no timer.

use crate::driver::{Driver, Next};
use crate::front::Clock;
use crate::rate::BackOff;

/// A CPU as its guest sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CpuState {
    /// There is none of this number, or it is none that could be started or stopped.
    Absent,
    /// It does not run.
    Offline,
    /// It runs.
    Online,
}

/// Why a CPU did not move.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CpuError {
    /// Ballast (PSCI's CPU_ON) answered DENIED: the guest has no core for it.
    Denied,
    /// The guest could not do it, or not now.
    Failed,
}

/// The guest's CPU hotplug. The calls may take their time and may be made on any CPU.
pub trait CpuSource {
    /// CPUs have numbers below this.
    fn cpus(&self) -> u32;

    /// What a CPU does now.
    fn cpu_state(&self, cpu: u32) -> CpuState;

    /// Stops an online CPU: it has called CPU_OFF when this returns with success. Never asked of the last one.
    fn take_offline(&mut self, cpu: u32) -> Result<(), CpuError>;

    /// Starts an offline CPU.
    fn bring_online(&mut self, cpu: u32) -> Result<(), CpuError>;
}

/// What has happened to CPUs so far.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct CpuCounters {
    /// CPUs taken offline.
    pub taken_offline: u64,
    /// CPUs brought online.
    pub brought_online: u64,
    /// Answers DENIED.
    pub denied: u64,
    /// CPUs that would not move.
    pub failed: u64,
}

/// The way of the move in progress.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    Down,
    Up,
}

/// The driver of the CPU target.
#[derive(Debug)]
pub struct Cpus {
    /// CPUs that shall be online; 0: whatever is.
    target: u32,
    /// Sequence of the target followed last.
    sequence: Option<u32>,
    /// Ballast has no core to give until the next target.
    denied: bool,
    /// The round in progress: its way, when it began, and the CPU tried last.
    round: Option<(Way, u64, u32)>,
    not_before: u64,
    back_off: BackOff,
    counters: CpuCounters,
}

impl Default for Cpus {
    fn default() -> Self {
        Self::new()
    }
}

impl Cpus {
    /// Without a target.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            target: 0,
            sequence: None,
            denied: false,
            round: None,
            not_before: 0,
            back_off: BackOff::new(),
            counters: CpuCounters {
                taken_offline: 0,
                brought_online: 0,
                denied: 0,
                failed: 0,
            },
        }
    }

    /// Follows the target that `driver` has fetched. To be called after [`Driver::hello`], [`Driver::on_interrupt`]
    /// and [`Driver::step`], and before [`Self::step`]. Whether it is a new one.
    pub fn follow(&mut self, driver: &Driver) -> bool {
        self.set_target(driver.cpu_target(), driver.sequence())
    }

    /// As [`Self::follow`], with the target (0: none) and its sequence number.
    pub fn set_target(&mut self, target: u32, sequence: u32) -> bool {
        if self.sequence == Some(sequence) {
            return false;
        }
        self.sequence = Some(sequence);
        // Sequences come for memory too, so a new one alone is no reason to try earlier.
        self.denied = false;
        if self.target != target {
            self.target = target;
            self.try_anew();
        }
        true
    }

    /// From now on brings all CPUs online that Ballast grants, whatever the target: [`Self::step`] until it is
    /// no longer [`Next::Again`].
    pub fn drain(&mut self) {
        self.target = u32::MAX;
        self.sequence = None;
        self.denied = false;
        self.try_anew();
    }

    /// CPUs that shall be online; 0: whatever is.
    #[must_use]
    pub const fn target(&self) -> u32 {
        self.target
    }

    /// What has happened so far.
    #[must_use]
    pub const fn counters(&self) -> CpuCounters {
        self.counters
    }

    /// Moves one CPU at most towards the target.
    pub fn step<F: CpuSource + Clock>(&mut self, front: &mut F) -> Next {
        let Some((way, surplus)) = self.wanted(front) else {
            self.try_anew();
            return Next::Idle;
        };
        if way == Way::Up && self.denied {
            return Next::Idle;
        }
        let now = front.now();
        if now < self.not_before {
            return Next::WaitUntil(self.not_before);
        }
        let (began, tried) = match self.round {
            Some((same, began, tried)) if same == way => (began, Some(tried)),
            _ => (now, None),
        };
        let Some(cpu) = candidate(front, way, tried) else {
            // Each has been tried: the guest is left alone for a while.
            return self.rest(front, began);
        };
        let answer = match way {
            Way::Down => front.take_offline(cpu),
            Way::Up => front.bring_online(cpu),
        };
        match answer {
            Ok(()) => {
                match way {
                    Way::Down => self.counters.taken_offline += 1,
                    Way::Up => self.counters.brought_online += 1,
                }
                self.back_off = BackOff::new();
                // Those that would not go are not asked again for the CPUs that are still to move: the round goes on.
                self.round = (surplus > 1).then_some((way, began, cpu));
                Next::Again
            }
            Err(CpuError::Denied) if way == Way::Up => {
                self.counters.denied += 1;
                self.denied = true;
                self.rest(front, began);
                Next::Idle
            }
            Err(_) => {
                self.counters.failed += 1;
                self.round = Some((way, began, cpu));
                Next::Again
            }
        }
    }

    /// Which way to go, and by how many CPUs; `None` at the target.
    fn wanted(&self, front: &impl CpuSource) -> Option<(Way, u32)> {
        let (mut online, mut offline) = (0, 0);
        for cpu in 0..front.cpus() {
            match front.cpu_state(cpu) {
                CpuState::Absent => {}
                CpuState::Offline => offline += 1,
                CpuState::Online => online += 1,
            }
        }
        match self.target {
            0 => None,
            target if online > target => Some((Way::Down, online - target)),
            target if online < target && offline > 0 => {
                Some((Way::Up, offline.min(target - online)))
            }
            _ => None,
        }
    }

    /// Ends a round that began then: nothing more for at least as long as it took.
    fn rest(&mut self, front: &impl Clock, began: u64) -> Next {
        let now = front.now();
        let took = now.saturating_sub(began);
        self.not_before = self
            .back_off
            .until(now, front.ticks_per_second())
            .max(now.saturating_add(took));
        self.round = None;
        Next::WaitUntil(self.not_before)
    }

    fn try_anew(&mut self) {
        self.round = None;
        self.not_before = 0;
        self.back_off = BackOff::new();
    }
}

/// The next CPU to ask in a round: the highest online one below the last, or the lowest offline one above it.
fn candidate(front: &impl CpuSource, way: Way, tried: Option<u32>) -> Option<u32> {
    let is = |cpu: &u32, state| front.cpu_state(*cpu) == state;
    match way {
        Way::Down => (0..tried.unwrap_or(front.cpus()))
            .rev()
            .find(|cpu| is(cpu, CpuState::Online)),
        Way::Up => {
            (tried.map_or(0, |cpu| cpu + 1)..front.cpus()).find(|cpu| is(cpu, CpuState::Offline))
        }
    }
}
