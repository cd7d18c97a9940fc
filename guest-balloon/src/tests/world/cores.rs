//! The guest's CPUs, and the cores that Ballast has granted for them.

use super::World;
use crate::{CpuError, CpuSource, CpuState, Cpus, Driver, Next};

/// CPUs and cores; none and no target at first.
#[derive(Default)]
pub struct Cores {
    pub target: u32,
    /// Granted to the guest, in use or not.
    pub granted: u32,
    pub state: Vec<CpuState>,
    /// CPUs that will not go offline, and those that will not come online.
    pub pinned: Vec<u32>,
    pub broken: Vec<u32>,
    /// Ticks that a move or a failure to move takes.
    pub slow: u64,
    /// When each call was made, and of which CPU.
    pub asked: Vec<(u64, u32)>,
    /// Somebody was denied a core.
    pub wanting: bool,
}

impl Cores {
    /// So many CPUs, of which the first `online` run on as many cores.
    pub fn new(cpus: u32, online: u32) -> Self {
        let state = |cpu| {
            if cpu < online {
                CpuState::Online
            } else {
                CpuState::Offline
            }
        };
        Self {
            target: online,
            granted: online,
            state: (0..cpus).map(state).collect(),
            slow: 1,
            ..Self::default()
        }
    }

    pub fn online(&self) -> u32 {
        let online = |state: &&CpuState| **state == CpuState::Online;
        self.state.iter().filter(online).count() as u32
    }

    /// One letter each, from CPU 0 on.
    pub fn picture(&self) -> String {
        let letter = |state: &CpuState| match state {
            CpuState::Absent => ' ',
            CpuState::Offline => '.',
            CpuState::Online => 'X',
        };
        self.state.iter().map(letter).collect()
    }
}

impl World {
    /// A target as the monitor sets it: cores above what is granted come at once.
    pub fn set_cpus(&mut self, target: u32) {
        self.cores.target = target;
        self.cores.granted = self.cores.granted.max(target);
        self.sequence += 1;
    }

    /// The same while no core is free.
    pub fn want_cpus(&mut self, target: u32) {
        self.cores.target = target;
        self.sequence += 1;
    }

    /// Cores become free for this guest.
    pub fn grant(&mut self, cores: u32) {
        self.cores.granted = (self.cores.granted + cores).min(self.cores.target);
        if core::mem::take(&mut self.cores.wanting) {
            self.sequence += 1;
        }
    }

    /// Runs both drivers by turns, as a front without threads does, until `end` or rest; whether they came to rest.
    pub fn run_both(&mut self, driver: &mut Driver, cpus: &mut Cpus, end: u64) -> bool {
        while self.now < end {
            if self.interrupt_is_asserted() {
                driver.on_interrupt(self);
            }
            let memory = driver.step(self);
            cpus.follow(driver);
            let moved = cpus.step(self);
            match (memory, moved) {
                (Next::Idle, Next::Idle) if !self.interrupt_is_asserted() => return true,
                (Next::WaitUntil(at), Next::Idle) | (Next::Idle, Next::WaitUntil(at)) => {
                    self.now = at.max(self.now + 1);
                }
                (Next::WaitUntil(one), Next::WaitUntil(other)) => {
                    self.now = one.min(other).max(self.now + 1);
                }
                _ => self.now += 1,
            }
        }
        false
    }
}

impl CpuSource for World {
    fn cpus(&self) -> u32 {
        self.cores.state.len() as u32
    }

    fn cpu_state(&self, cpu: u32) -> CpuState {
        self.cores.state[cpu as usize]
    }

    fn take_offline(&mut self, cpu: u32) -> Result<(), CpuError> {
        self.cores.asked.push((self.now, cpu));
        self.now += self.cores.slow;
        assert_eq!(self.cpu_state(cpu), CpuState::Online);
        assert!(self.cores.online() > 1, "the last CPU was asked for");
        assert!(
            self.cores.online() > self.cores.target,
            "CPU {cpu} was asked for below the target"
        );
        if self.cores.pinned.contains(&cpu) {
            return Err(CpuError::Failed);
        }
        self.cores.state[cpu as usize] = CpuState::Offline;
        // CPU_OFF takes the core back while the guest has more than it shall.
        if self.cores.granted > self.cores.target {
            self.cores.granted -= 1;
        }
        Ok(())
    }

    fn bring_online(&mut self, cpu: u32) -> Result<(), CpuError> {
        self.cores.asked.push((self.now, cpu));
        self.now += self.cores.slow;
        assert_eq!(self.cpu_state(cpu), CpuState::Offline);
        if self.cores.broken.contains(&cpu) {
            return Err(CpuError::Failed);
        }
        if self.cores.online() >= self.cores.granted {
            self.cores.wanting = true;
            return Err(CpuError::Denied);
        }
        self.cores.state[cpu as usize] = CpuState::Online;
        Ok(())
    }
}
