//! This guest's own way of having fewer and more CPUs: each but the first does some work until it is told to leave,
//! and then switches itself off.

use core::sync::atomic::{AtomicBool, Ordering};

use ballast_balloon::{Clock, CpuError, CpuSource, CpuState};

use crate::cpu::{self, MAX_CPUS};
use crate::machine::Machine;
use crate::smccc::psci;
use crate::{gic, smp};

/// SGI that wakes a core which shall look around.
pub const LOOK: u32 = 3;

/// How long a core may take to come or to go. Generous: an emulator may give it little time.
const PATIENCE_US: u64 = 20_000_000;

static HERE: [AtomicBool; MAX_CPUS] = [const { AtomicBool::new(false) }; MAX_CPUS];
static LEAVES_TRACES: AtomicBool = AtomicBool::new(false);
static LEAVE: [AtomicBool; MAX_CPUS] = [const { AtomicBool::new(false) }; MAX_CPUS];

/// The other cores, and what they run.
#[derive(Debug)]
pub struct Hotplug<'m> {
    /// The machine they are of.
    pub machine: &'m Machine,
    /// Returns soon after [`must_leave`]; says [`arrived`] at its start.
    pub work: smp::Work,
}

/// A core has come up.
pub fn arrived(index: usize) {
    HERE[index].store(true, Ordering::Release);
}

/// Whether a core shall switch itself off.
pub fn must_leave(index: usize) -> bool {
    LEAVE[index].load(Ordering::Acquire)
}

/// Whether a core other than the first works.
pub fn is_here(index: usize) -> bool {
    HERE[index].load(Ordering::Acquire)
}

/// Whether a core that leaves writes [`crate::traces`].
pub fn leaves_traces() -> bool {
    LEAVES_TRACES.load(Ordering::Relaxed)
}

/// From now on cores do so.
pub fn leave_traces(yes: bool) {
    LEAVES_TRACES.store(yes, Ordering::Relaxed);
}

/// The highest-numbered core that works.
pub fn highest() -> usize {
    (1..MAX_CPUS)
        .rev()
        .find(|index| is_here(*index))
        .unwrap_or(0)
}

impl CpuSource for Hotplug<'_> {
    fn cpus(&self) -> u32 {
        self.machine.cpus.len() as u32
    }

    fn cpu_state(&self, cpu: u32) -> CpuState {
        match cpu as usize {
            0 => CpuState::Online,
            index if index >= self.machine.cpus.len() => CpuState::Absent,
            index if is_here(index) => CpuState::Online,
            _ => CpuState::Offline,
        }
    }

    fn take_offline(&mut self, cpu: u32) -> Result<(), CpuError> {
        let index = cpu as usize;
        let mpidr = *self.machine.cpus.get(index).ok_or(CpuError::Failed)?;
        if index == 0 {
            return Err(CpuError::Failed);
        }
        LEAVE[index].store(true, Ordering::Release);
        gic::get().send_sgi(LOOK, index);
        if !cpu::wait_until_us(PATIENCE_US, || smp::is_off(mpidr)) {
            return Err(CpuError::Failed);
        }
        HERE[index].store(false, Ordering::Release);
        Ok(())
    }

    fn bring_online(&mut self, cpu: u32) -> Result<(), CpuError> {
        let index = cpu as usize;
        let mpidr = *self.machine.cpus.get(index).ok_or(CpuError::Failed)?;
        LEAVE[index].store(false, Ordering::Release);
        match smp::start(index, mpidr, self.work) {
            0 | psci::error::ALREADY_ON | psci::error::ON_PENDING => {}
            psci::error::DENIED => return Err(CpuError::Denied),
            _ => return Err(CpuError::Failed),
        }
        if cpu::wait_until_us(PATIENCE_US, || is_here(index)) {
            Ok(())
        } else {
            Err(CpuError::Failed)
        }
    }
}

impl Clock for Hotplug<'_> {
    fn now(&self) -> u64 {
        cpu::counter()
    }

    fn ticks_per_second(&self) -> u64 {
        cpu::frequency()
    }
}
