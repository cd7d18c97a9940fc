//! Starting, stopping and resetting a guest, whatever its vCPUs are doing.
//!
//! A guest stops when its last core has left it. Whoever asks sets the phase and asks each core;
//! the core that takes the last `running` bit away completes the stop, exactly once, and hands the
//! rest (building the guest anew) to the core of vCPU 0. Nobody waits for anybody.

use core::sync::atomic::Ordering;

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

impl Guest {
    /// The phase now.
    pub fn phase(&self) -> Phase {
        match self.phase.load(Ordering::SeqCst) {
            1 => Phase::Loading,
            2 => Phase::Running,
            3 => Phase::Stopping,
            _ => Phase::Stopped,
        }
    }

    /// What the last stop was for.
    pub fn after_stop(&self) -> After {
        match self.after_stop.load(Ordering::Relaxed) {
            1 => After::Reset,
            2 => After::Operator,
            3 => After::Fault,
            _ => After::PoweredOff,
        }
    }

    fn change(&self, from: Phase, to: Phase) -> bool {
        self.phase
            .compare_exchange(from as u8, to as u8, Ordering::SeqCst, Ordering::SeqCst)
            .is_ok()
    }

    /// Who asked for the last start or stop.
    pub fn asked_by(&self) -> Origin {
        match self.asked_by.load(Ordering::Relaxed) {
            0 => Origin::Boot,
            1 => Origin::Monitor,
            2 => Origin::Guest,
            _ => Origin::Ballast,
        }
    }

    /// Whether its cores were asked to leave.
    pub fn is_stopping(&self) -> bool {
        self.phase() == Phase::Stopping
    }

    /// Asks for a stopped guest to be loaded and started. False if it is not stopped.
    pub fn start(&self, cpu: &PerCpu, by: Origin) -> bool {
        let Some(core) = self.cores.first() else {
            return false;
        };
        if !self.change(Phase::Stopped, Phase::Loading) {
            return false;
        }
        self.asked_by.store(by as u8, Ordering::Relaxed);
        percpu::post(cpu.gic, *core, request::LOAD);
        true
    }

    /// Its image is in place: the core of vCPU 0 may enter.
    pub fn loaded(&self) {
        self.phase.store(Phase::Running as u8, Ordering::Release);
    }

    /// Loading failed: stopped, with the reason in the log.
    pub fn load_failed(&self) {
        self.after_stop.store(After::Fault as u8, Ordering::Relaxed);
        self.phase.store(Phase::Stopped as u8, Ordering::Release);
    }

    /// Asks all its cores to leave. False if it is not running (a stop that is under way stands).
    pub fn stop(&self, system: &System, cpu: &PerCpu, after: After, by: Origin) -> bool {
        if !self.change(Phase::Running, Phase::Stopping) {
            return false;
        }
        self.after_stop.store(after as u8, Ordering::SeqCst);
        self.asked_by.store(by as u8, Ordering::Relaxed);
        for core in &self.cores {
            percpu::post(cpu.gic, *core, request::STOP);
        }
        if self.running.load(Ordering::SeqCst) == 0 {
            self.complete_stop(system, cpu);
        }
        true
    }

    /// `vcpu`'s core is about to enter. False if the guest is being stopped: stay out.
    pub fn enter(&self, system: &System, cpu: &PerCpu, vcpu: usize) -> bool {
        // Bit first, phase second; `stop` does it the other way round, so one sees the other.
        self.running.fetch_or(1 << vcpu, Ordering::SeqCst);
        if self.phase.load(Ordering::SeqCst) == Phase::Running as u8 {
            return true;
        }
        self.left(system, cpu, vcpu);
        false
    }

    /// `vcpu`'s core has left the guest and cleaned up.
    pub fn left(&self, system: &System, cpu: &PerCpu, vcpu: usize) {
        let before = self.running.fetch_and(!(1 << vcpu), Ordering::SeqCst);
        if before == 1 << vcpu && self.phase() == Phase::Stopping {
            self.complete_stop(system, cpu);
        }
    }

    fn complete_stop(&self, system: &System, cpu: &PerCpu) {
        if !self.change(Phase::Stopping, Phase::Stopped) {
            return;
        }
        system.guest_stopped(self, cpu);
        if self.after_stop() == After::Reset {
            self.start(cpu, self.asked_by());
        }
    }
}
