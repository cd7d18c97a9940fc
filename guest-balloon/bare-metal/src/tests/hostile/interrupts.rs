//! The interrupt controller: whose interrupts, whose cores, and everything in the wrong order. (G1, every register, is
//! in [`super::registers`].)

mod foreign;
mod own;

use core::sync::atomic::Ordering;

use foreign::{g3, g4, g7, g8};
pub use own::set_mode;
use own::{g2, g5, g6, g10};

use super::super::{Outcome, basic};
use crate::gic;
use crate::machine::{GicKind, Machine};
use crate::probe::syndrome;
use crate::{cpu, ensure};

/// SGIs that a test sends and counts.
const MARK: u32 = 9;

/// G2 to G8, G10.
pub fn all(machine: &Machine) -> Outcome {
    match machine.gic {
        GicKind::V2 { cpu, .. } => g2(cpu)?,
        GicKind::V3 { redistributors, .. } => {
            g7(redistributors.0, machine.cpus.len() as u64)?;
            g8()?;
        }
    }
    g3()?;
    g4(machine)?;
    g10(machine)?;
    g6()?;
    g5(machine)?;
    basic::timer()
}

fn is_external(found: Result<u64, u64>) -> bool {
    found.is_err_and(|esr| {
        syndrome::class(esr) == syndrome::DATA_ABORT && syndrome::status(esr) == syndrome::EXTERNAL
    })
}

/// SGIs [`MARK`] that a core has taken.
fn marks(core: usize) -> u32 {
    cpu::of(core).sgis[MARK as usize].load(Ordering::Acquire)
}

/// Everything is as it was: an SGI to itself arrives, once.
fn still_works(after: &str) -> Outcome {
    let before = marks(0);
    gic::get().send_sgi(MARK, 0);
    let arrived = cpu::wait_until_us(2_000_000, || marks(0) != before);
    ensure!(
        arrived && marks(0) == before + 1,
        "{after}: {} SGIs arrived of one",
        marks(0) - before
    );
    Ok(())
}
