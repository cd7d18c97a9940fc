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
use crate::println;
use crate::tests::Outcome;

/// Times each operation is measured.
const SAMPLES: usize = 512;

/// Results, printed at the end.
pub struct Results {
    all: Vec<(&'static str, u64), 40>,
    /// Cost of an empty pair of counter reads.
    empty: u64,
}

impl Results {
    const fn new() -> Self {
        Self {
            all: Vec::new(),
            empty: 0,
        }
    }

    fn print(&self) {
        for (name, value) in &self.all {
            println!("MEASURE {name} {value}");
        }
    }

    fn add(&mut self, name: &'static str, value: u64) {
        // A fixed list of measurements: there is room.
        let _ = self.all.push((name, value));
    }

    /// Median of [`SAMPLES`] runs of `measure`, less an empty pair.
    fn median(&mut self, name: &'static str, mut measure: impl FnMut() -> u64) {
        let mut samples = [0; SAMPLES];
        samples.fill_with(&mut measure);
        samples.sort_unstable();
        self.add(name, samples[SAMPLES / 2].saturating_sub(self.empty));
    }
}

/// Measures traps and, with a second core, what goes between the two.
pub fn run(machine: &Machine) -> Outcome {
    let mut results = Results::new();
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
    let mut results = Results::new();
    memory::measure(machine, &mut results)?;
    results.print();
    Ok(())
}
