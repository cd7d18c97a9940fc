//! What the operations of a guest cost, in instructions.
//!
//! Meant for QEMU with `-icount shift=0,sleep=off -cpu cortex-a72,cntfrq=1000000000`: the virtual counter then
//! advances by one per instruction, so differences are instruction counts, the same on every run. The cost of an
//! operation is the median of 512 counter differences around it, less that of an empty pair. Nothing is printed
//! before all is measured.

mod cores;
mod exits;
mod memory;
mod messages;
mod traps;

use core::arch::asm;

use aarch64_cpu::registers::{CNTVCT_EL0, Readable};
use heapless::Vec;

use crate::machine::Machine;
use crate::tests::{Outcome, Why};
use crate::{cpu, println};

/// Times each operation is measured.
const SAMPLES: usize = 512;

/// What results are in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Unit {
    /// Ticks of the counter: instructions where it counts those.
    Ticks,
    /// The core's cycles, for a counter much slower than the core: those of its PMU, EL2's included. What begins on
    /// one core and ends on another, or at a time, is taken by the counter and converted; of such samples the mean,
    /// which is finer than a tick.
    Cycles,
}

/// Cycles of this core, in EL1 and EL2, if the PMU is this guest's.
pub fn cycles() -> u64 {
    let cycles: u64;
    // SAFETY: reads a counter, in order with what is around it.
    unsafe { asm!("isb", "mrs {}, pmccntr_el0", out(reg) cycles, options(nomem, nostack)) };
    cycles
}

/// Starts this core's cycle counter; its frequency in Hz.
fn start_cycles() -> u64 {
    /// PMCCFILTR_EL0.NSH: EL2's too (DDI 0487, D19.4.2).
    const WITH_EL2: u64 = 1 << 27;
    /// PMCR_EL0: on, from 0, 64 bits.
    const ON: u64 = 1 | 1 << 2 | 1 << 6;
    // SAFETY: the core's own counter, which nobody else uses.
    unsafe {
        asm!("msr pmccfiltr_el0, {}", "msr pmcntenset_el0, {}", "msr pmcr_el0, {}", "isb",
             in(reg) WITH_EL2, in(reg) 1_u64 << 31, in(reg) ON, options(nomem, nostack));
    }
    let (ticks, before) = (cpu::counter(), cycles());
    cpu::delay_us(20_000);
    let (ticks, spent) = (cpu::counter() - ticks, cycles() - before);
    spent * cpu::frequency() / ticks.max(1)
}

/// Results, printed at the end.
pub struct Results {
    /// By name, in their unit.
    pub all: Vec<(&'static str, u64), 40>,
    unit: Unit,
    /// The core's cycles in a second, if they are what is measured.
    pub core_hz: u64,
    /// Cost of an empty pair of counter reads.
    empty: u64,
}

impl Results {
    const fn ticks() -> Self {
        Self {
            all: Vec::new(),
            unit: Unit::Ticks,
            core_hz: 0,
            empty: 0,
        }
    }

    /// The counter that a result is taken by which begins and ends on this core.
    fn now(&self) -> u64 {
        match self.unit {
            Unit::Ticks => CNTVCT_EL0.get(),
            Unit::Cycles => cycles(),
        }
    }

    /// A line for each.
    pub fn print(&self) {
        for (name, value) in &self.all {
            println!("MEASURE {name} {value}");
        }
    }

    /// A result.
    fn add(&mut self, name: &'static str, value: u64) {
        // A fixed list of measurements: there is room.
        let _ = self.all.push((name, value));
    }

    /// The median of [`SAMPLES`] runs of `measure`, by [`Results::now`]'s counter, less an empty pair.
    fn median(&mut self, name: &'static str, mut measure: impl FnMut() -> u64) {
        let mut samples = [0; SAMPLES];
        samples.fill_with(&mut measure);
        samples.sort_unstable();
        self.add(name, samples[SAMPLES / 2].saturating_sub(self.empty));
    }

    /// The same by the virtual counter, whatever the unit.
    fn by_counter(&mut self, name: &'static str, mut measure: impl FnMut() -> u64) {
        if self.unit == Unit::Ticks {
            return self.median(name, measure);
        }
        let mut ticks = 0;
        for _ in 0..SAMPLES {
            ticks += measure();
        }
        self.add(
            name,
            ticks * self.core_hz / cpu::frequency() / SAMPLES as u64,
        );
    }
}

/// Measures traps and, with a second core, what goes between the two.
pub fn run(machine: &Machine) -> Outcome {
    let mut results = Results::ticks();
    traps::measure(machine, &mut results)?;
    if let Some(&mpidr) = machine.cpus.get(1) {
        cores::measure(mpidr, &mut results)?;
    }
    results.print();
    Ok(())
}

/// Measures memory moves, on one core: a second one's instructions would count too (an emulator runs them in turns).
pub fn run_memory(machine: &Machine) -> Outcome {
    let mut results = Results::ticks();
    memory::measure(machine, &mut results)?;
    results.print();
    Ok(())
}

/// Measures the balloon interface as messages, on one core.
pub fn run_messages(machine: &Machine) -> Outcome {
    let mut results = Results::ticks();
    messages::measure(machine, &mut results)?;
    results.print();
    Ok(())
}

/// Measures the longest exit.
pub fn run_exits(machine: &Machine) -> Outcome {
    let mut results = Results::ticks();
    exits::measure(machine, &mut results)?;
    results.print();
    Ok(())
}

/// Measures everything, in cycles: on a board whose PMU is this guest's.
pub fn on_board(machine: &Machine) -> Result<Results, Why> {
    let mut results = Results::ticks();
    results.unit = Unit::Cycles;
    results.core_hz = start_cycles();
    traps::measure(machine, &mut results)?;
    if let Some(&mpidr) = machine.cpus.get(1) {
        cores::measure(mpidr, &mut results)?;
    }
    memory::measure(machine, &mut results)?;
    Ok(results)
}
