//! Making an assigned device stop reading and writing memory by itself.
//!
//! A guest whose devices do DMA is started again only when each has gone through the procedure named here:
//! else one of them might write over what the next life of the guest has in its place. A device without one
//! keeps the guest stopped and its memory its own.
//!
//! A procedure is data: a bounded sequence of register accesses, each wait with a limit of its own. The shell
//! lends the registers ([`Registers`]), the host tests a model of the device.

mod firmware;
mod table;
#[cfg(test)]
mod tests;

use core::ops::Range;

use crate::dt::Node;

/// How devices of a kind are made to stop.
#[derive(PartialEq, Eq, Debug)]
pub struct Procedure {
    /// Its name.
    pub name: &'static str,
    /// The registers that it reaches, as offsets from the start of the device's first range: multiples of 4.
    pub window: Range<u32>,
    /// What it does.
    pub means: Means,
}

/// What a procedure does.
#[derive(PartialEq, Eq, Debug)]
pub enum Means {
    /// These steps, in this order; none if the device does DMA only while the guest accesses it.
    Steps(&'static [Step]),
    /// These steps for each instance, whose registers begin so many bytes after those of the one before.
    Each {
        /// Bytes from one instance's registers to the next one's.
        stride: u32,
        /// For an instance.
        steps: &'static [Step],
    },
    /// The firmware's mailbox is asked something, and what it answers before that is dropped: [`firmware`].
    Firmware,
}

/// One access, and what is waited for after it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Step {
    /// What is done.
    pub action: Action,
    /// What is waited for then.
    pub until: Option<Until>,
}

/// One access to a 32-bit register. Offsets count from the start of the device's first range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// This value is written.
    Write(u32, u32),
    /// These bits of the register are cleared.
    Clear(u32, u32),
    /// These bits of the register are set.
    Set(u32, u32),
    /// None.
    Nothing,
}

/// A register's bits are waited for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Until {
    /// Of the register.
    pub offset: u32,
    /// The bits that count; none to wait for the limit's time alone.
    pub mask: u32,
    /// What they become.
    pub value: u32,
    /// For how long, in microseconds.
    pub limit_us: u32,
    /// What follows if they do not.
    pub late: Late,
}

/// What follows when a device takes longer than it may.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Late {
    /// It has not stopped.
    Fails,
    /// The next step, which does not depend on it.
    GoesOn,
}

/// How one device is made to stop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Quiesce {
    /// The procedure.
    pub procedure: &'static Procedure,
    /// The instances in the device that are the guest's, a bit each.
    pub instances: u32,
}

/// The registers of a device, and the time.
pub trait Registers {
    /// Reads the 32-bit register at `offset`; `None` if the device answers with an external abort.
    fn read(&mut self, offset: u32) -> Option<u32>;
    /// Writes it; `None` as for a read.
    fn write(&mut self, offset: u32, value: u32) -> Option<()>;
    /// Microseconds since the device was begun with. Called between two reads: other work may be done here.
    fn elapsed_us(&mut self) -> u64;
    /// Puts a message of at most 64 bytes for the firmware into memory of Ballast's own, until the next one. The
    /// address that the firmware knows it by; `None` if it reaches no such memory.
    fn message(&mut self, words: &[u32]) -> Option<u32>;
}

/// The procedure for a device, if one is known and all that it needs.
#[must_use]
pub fn procedure(node: Node<'_>) -> Option<Quiesce> {
    let known = table::KINDS
        .iter()
        .find(|kind| node.is_compatible(kind.compatible))?;
    let instances = match known.channels {
        None => 1,
        Some(channels) => channels.of(node)?,
    };
    let is_all_there = match known.procedure.means {
        Means::Each { .. } => true,
        Means::Steps(_) | Means::Firmware => {
            let regions = node.regions().ok()?;
            regions.first()?.size >= known.procedure.window.end.into()
        }
    };
    if !is_all_there || known.procedure.means == Means::Firmware && firmware::writes_on(node) {
        return None;
    }
    Some(Quiesce {
        procedure: known.procedure,
        instances,
    })
}

impl Quiesce {
    /// Whether nothing has to be done.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        matches!(self.procedure.means, Means::Steps(&[]))
    }

    /// Carries it out. Whether the device is quiet now. Takes [`Quiesce::limit_us`] at most.
    pub fn run(&self, registers: &mut impl Registers) -> bool {
        let result = match self.procedure.means {
            Means::Steps(steps) => run_steps(registers, 0, steps),
            Means::Each { stride, steps } => (0..u32::BITS)
                .filter(|instance| self.instances >> instance & 1 != 0)
                .try_for_each(|instance| {
                    run_steps(registers, instance.saturating_mul(stride), steps)
                }),
            Means::Firmware => firmware::drain(registers),
        };
        result.is_some()
    }

    /// The longest that it takes, in microseconds.
    #[must_use]
    pub fn limit_us(&self) -> u64 {
        let of = |steps: &[Step]| {
            let waits = steps.iter().filter_map(|step| step.until);
            waits.fold(0_u64, |sum, until| {
                sum.saturating_add(until.limit_us.into())
            })
        };
        match self.procedure.means {
            Means::Steps(steps) => of(steps),
            Means::Each { steps, .. } => {
                of(steps).saturating_mul(self.instances.count_ones().into())
            }
            Means::Firmware => firmware::LIMIT_US,
        }
    }
}

/// `None` if the device does not stop.
fn run_steps(registers: &mut impl Registers, base: u32, steps: &[Step]) -> Option<()> {
    for step in steps {
        let at = |offset: u32| base.wrapping_add(offset);
        match step.action {
            Action::Write(offset, value) => registers.write(at(offset), value)?,
            Action::Clear(offset, bits) => {
                let old = registers.read(at(offset))?;
                registers.write(at(offset), old & !bits)?;
            }
            Action::Set(offset, bits) => {
                let old = registers.read(at(offset))?;
                registers.write(at(offset), old | bits)?;
            }
            Action::Nothing => {}
        }
        let Some(until) = step.until else { continue };
        let end_us = registers.elapsed_us().saturating_add(until.limit_us.into());
        loop {
            let is_reached =
                until.mask != 0 && registers.read(at(until.offset))? & until.mask == until.value;
            if is_reached {
                break;
            }
            if registers.elapsed_us() >= end_us {
                match until.late {
                    Late::Fails => return None,
                    Late::GoesOn => break,
                }
            }
        }
    }
    Some(())
}
