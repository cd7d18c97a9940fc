//! What the operations of a guest cost, in instructions.
//!
//! Meant for QEMU with `-icount shift=0,sleep=off -cpu cortex-a72,cntfrq=1000000000`: the virtual counter then
//! advances by one per instruction, so differences are instruction counts, the same on every run. The cost of an
//! operation is the median of 512 counter differences around it, less that of an empty pair. Nothing is printed
//! before all is measured.

mod cores;
mod memory;
mod traps;

use heapless::Vec;

use crate::machine::Machine;
use crate::tests::{Outcome, Why};
use crate::{cpu, println};

/// Times each operation is measured.
const SAMPLES: usize = 512;

/// What results are in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Unit {
    /// Ticks of the counter: instructions where it counts those. Of samples the median.
    Ticks,
    /// Nanoseconds, for a counter much slower than the core. Of samples the mean, which is finer than a tick.
    Nanoseconds,
}

/// Results, printed at the end.
pub struct Results {
    /// By name, in their unit.
    pub all: Vec<(&'static str, u64), 40>,
    unit: Unit,
    /// Cost of an empty pair of counter reads.
    empty: u64,
}

impl Results {
    const fn new(unit: Unit) -> Self {
        Self {
            all: Vec::new(),
            unit,
            empty: 0,
        }
    }

    /// A line for each.
    pub fn print(&self) {
        for (name, value) in &self.all {
            println!("MEASURE {name} {value}");
        }
    }

    /// A result in ticks.
    fn add(&mut self, name: &'static str, ticks: u64) {
        let value = match self.unit {
            Unit::Ticks => ticks,
            Unit::Nanoseconds => ticks * 1_000_000_000 / cpu::frequency(),
        };
        self.push(name, value);
    }

    /// A result in the unit.
    fn push(&mut self, name: &'static str, value: u64) {
        // A fixed list of measurements: there is room.
        let _ = self.all.push((name, value));
    }

    /// What samples in ticks come to.
    fn of_samples(&self, samples: &mut [u64; SAMPLES]) -> u64 {
        match self.unit {
            Unit::Ticks => {
                samples.sort_unstable();
                samples[SAMPLES / 2]
            }
            Unit::Nanoseconds => {
                let sum: u64 = samples.iter().sum();
                sum * 1_000_000_000 / cpu::frequency() / SAMPLES as u64
            }
        }
    }

    /// [`SAMPLES`] runs of `measure`, less an empty pair.
    fn median(&mut self, name: &'static str, mut measure: impl FnMut() -> u64) {
        let mut samples = [0; SAMPLES];
        samples.fill_with(&mut measure);
        let value = self.of_samples(&mut samples);
        self.push(name, value.saturating_sub(self.empty));
    }
}

/// Measures traps and, with a second core, what goes between the two.
pub fn run(machine: &Machine) -> Outcome {
    let mut results = Results::new(Unit::Ticks);
    results.add("first_instruction", crate::start::first_instruction_at());
    traps::measure(machine, &mut results)?;
    if let Some(&mpidr) = machine.cpus.get(1) {
        cores::measure(mpidr, &mut results)?;
    }
    results.print();
    Ok(())
}

/// Measures memory moves, on one core: a second one's instructions would count too (an emulator runs them in turns).
pub fn run_memory(machine: &Machine) -> Outcome {
    let mut results = Results::new(Unit::Ticks);
    memory::measure(machine, &mut results)?;
    results.print();
    Ok(())
}

/// Measures everything, in nanoseconds: on a board.
pub fn on_board(machine: &Machine) -> Result<Results, Why> {
    let mut results = Results::new(Unit::Nanoseconds);
    traps::measure(machine, &mut results)?;
    if let Some(&mpidr) = machine.cpus.get(1) {
        cores::measure(mpidr, &mut results)?;
    }
    memory::measure(machine, &mut results)?;
    Ok(results)
}
