//! Cores that change hands: what [`ballast_core::cores`] decided, told to the guests and to the log.
//!
//! A core is cleaned before it is put back ([`crate::run::leave`]) and sleeps in EL2 until a guest that was granted it
//! starts a vCPU there. Nothing is done to the core itself by another.

use ballast_core::cores::{Move, Moves, Refused};
use ballast_core::log::{Event, Origin};

use crate::guest::{Guest, messages};
use crate::percpu::PerCpu;
use crate::system::System;

impl System {
    /// `guest` shall have `cpus` cores: those that are free, or that it does not use, move at once, the others when
    /// their guests give them up. Its driver is told, and so is that of each guest that is given one.
    ///
    /// # Errors
    /// Why it was not asked for; the old target stands.
    pub fn set_cpus(
        &self,
        cpu: &PerCpu,
        guest: &Guest,
        cpus: u32,
        by: Origin,
    ) -> Result<(), Refused> {
        let tell = |cpus| guest.memory.target.set_cpus(cpus);
        let moves = self.cores.set_target(guest.index, cpus, tell)?;
        self.record(Event::CpuTarget {
            guest: guest.index as u8,
            cpus: cpus as u8,
            by,
        });
        self.tell_moves(cpu, &moves);
        guest.update_balloon(cpu);
        Ok(())
    }

    /// `guest` has left the calling core, or will not enter it, and the core is clean.
    pub fn put_back(&self, cpu: &PerCpu, guest: &Guest) {
        let moves = self.cores.put_back(guest.index, cpu.index);
        if !moves.is_empty() {
            self.tell_moves(cpu, &moves);
            self.scheduler.cores_moved(self);
        }
    }

    /// Tells who is concerned.
    pub fn tell_moves(&self, cpu: &PerCpu, moves: &Moves) {
        for step in moves {
            match *step {
                Move::Taken { guest, core, left } => {
                    self.record(Event::CoreTaken {
                        guest: guest as u8,
                        core: core as u8,
                        cpus: left,
                    });
                    // It may have been the one that was to do it.
                    if let Some(guest) = self.guests.get(guest)
                        && (guest.memory.has_to_relocate() || messages::has_work(cpu, guest))
                    {
                        guest.ask_to_relocate(self, cpu);
                    }
                }
                Move::Granted { guest, core, has } => {
                    self.record(Event::CoreGranted {
                        guest: guest as u8,
                        core: core as u8,
                        cpus: has,
                    });
                    if let Some(guest) = self.guests.get(guest) {
                        // What it was denied works now.
                        guest.memory.target.bump();
                        guest.update_balloon(cpu);
                    }
                }
            }
        }
        if !moves.is_empty() {
            self.route_own();
        }
    }

    /// Routes the interrupts that EL2 serves for everybody to a core that no guest has, else to one of the first guest's
    /// that is not `realtime`, else to the first.
    pub fn route_own(&self) {
        let free = (0..self.board.cores.len()).find(|core| self.cores.holder(*core).is_none());
        let ordinary = self.guests.iter().find(|guest| !guest.plan.config.realtime);
        let core = free
            .or_else(|| self.cores.granted(ordinary?.index).iter().next())
            .unwrap_or(0);
        let console = self.board.console.as_ref();
        if let Some(console) = console.and_then(|console| console.intid) {
            self.gic.route(console, core);
        }
        self.gic.route_lines(core);
    }
}
