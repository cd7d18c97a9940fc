//! Accesses outside the guest's map: each must end in an abort that the guest takes itself.

use core::sync::atomic::Ordering;

use super::super::Outcome;
use crate::machine::{GicKind, Machine};
use crate::mmu::{self, Mapping};
use crate::probe::{self, WIDTHS, syndrome};
use crate::{cpu, ensure, println};

const GIB: u64 = 1 << 30;

/// Whether the device tree says there is something.
fn is_mapped(machine: &Machine, address: u64) -> bool {
    let in_gic = match machine.gic {
        GicKind::V2 { distributor, cpu } => {
            (distributor..distributor + 0x1_0000).contains(&address)
                || (cpu..cpu + 0x1_0000).contains(&address)
        }
        GicKind::V3 {
            distributor,
            redistributors,
        } => {
            (distributor..distributor + 0x1_0000).contains(&address)
                // Of cores that this guest has not: may read as zero.
                || (redistributors.0..redistributors.0 + 8 * 0x2_0000).contains(&address)
        }
    };
    in_gic
        || (machine.uart..machine.uart + 0x1000).contains(&address)
        || machine.ram.iter().any(|ram| ram.contains(&address))
}

/// What an access outside the map must end in: an external abort, or, beyond the physical address size that the
/// guest is told, an address size fault of its own stage 1.
fn is_outside(address: u64, result: Result<u64, u64>) -> bool {
    let Err(esr) = result else { return false };
    let is_too_large = address >> mmu::physical_address_bits() != 0;
    syndrome::class(esr) == syndrome::DATA_ABORT
        && (syndrome::status(esr) == syndrome::EXTERNAL
            || is_too_large && syndrome::status(esr) < syndrome::ADDRESS_SIZE_END)
}

/// Reads and writes with every width at `address`: aborts taken, or why not.
fn aborts_at(address: u64) -> Result<u64, super::super::Why> {
    for width in WIDTHS {
        let found = probe::read(address, width);
        ensure!(
            is_outside(address, found),
            "{width}-byte read of {address:#x}: {found:x?}"
        );
        // SAFETY: outside the map.
        let found = unsafe { probe::write(address, width, u64::MAX) }.map(|()| 0);
        ensure!(
            is_outside(address, found),
            "{width}-byte write of {address:#x}: {found:x?}"
        );
    }
    Ok(2 * WIDTHS.len() as u64)
}

/// M1: all of the address space outside the map, by steps.
pub fn m1(machine: &Machine) -> Outcome {
    let mut aborts = 0;
    let first = cpu::this().faults.load(Ordering::Acquire);
    for address in (0..GIB)
        .step_by(256 << 10)
        .filter(|&a| !is_mapped(machine, a))
    {
        aborts += aborts_at(address)?;
    }
    for address in (GIB..mmu::SCRATCH_GIB * GIB)
        .step_by(128 << 20)
        .filter(|&a| !is_mapped(machine, a))
    {
        aborts += aborts_at(address)?;
    }
    let taken = cpu::this().faults.load(Ordering::Acquire) - first;
    ensure!(taken == aborts, "{taken} aborts for {aborts} accesses");
    println!("{aborts} aborts");
    Ok(())
}

/// M2: instruction fetch from nowhere and from a device.
pub fn m2(machine: &Machine) -> Outcome {
    let base = mmu::map_scratch(Mapping::Normal(0));
    for address in [machine.uart, 0x0800_0000, 0x3000_0000, 0] {
        // SAFETY: neither can be fetched.
        let found = unsafe { probe::call(base + address) };
        let aborted = matches!(found, Err(esr) if syndrome::class(esr) == syndrome::INSTRUCTION_ABORT
            && syndrome::status(esr) == syndrome::EXTERNAL);
        ensure!(aborted, "fetch from {address:#x}: {found:x?}");
    }
    Ok(())
}

/// M3: stage-1 tables where nothing or a device is.
pub fn m3(machine: &Machine) -> Outcome {
    let outside = machine.ram.iter().map(|ram| ram.end).max().unwrap_or(0);
    for table in [machine.uart, 0x0800_0000, outside, 0x3000_0000] {
        let address = mmu::map_scratch(Mapping::Table(table));
        let found = probe::read(address, 8);
        let on_walk = syndrome::EXTERNAL_ON_WALK..syndrome::EXTERNAL_ON_WALK + 4;
        let aborted = matches!(found, Err(esr) if syndrome::class(esr) == syndrome::DATA_ABORT
            && on_walk.contains(&syndrome::status(esr)));
        ensure!(aborted, "walk through {table:#x}: {found:x?}");
    }
    Ok(())
}

/// M5: addresses beyond what the guest is told there is.
pub fn m5() -> Outcome {
    for bit in 39..48 {
        let address = mmu::map_scratch(Mapping::Device(1 << bit));
        let found = probe::read(address, 8);
        ensure!(found.is_err(), "read of {:#x}: {found:x?}", 1_u64 << bit);
        // SAFETY: not in any RAM of this guest.
        let found = unsafe { probe::write(address, 8, 0) };
        ensure!(found.is_err(), "write of {:#x}: {found:x?}", 1_u64 << bit);
    }
    // AT on what stage 1 maps and stage 2 does not: no fault, no answer that harms.
    probe::translate(0x3000_0000);
    probe::translate(u64::MAX);
    Ok(())
}

/// The short form for other tests' neighbours: a thousand accesses outside the map, all injected.
pub fn fault(machine: &Machine) -> Outcome {
    let outside = machine.ram.iter().map(|ram| ram.end).max().unwrap_or(0);
    let mut aborts = 0;
    for page in 0..100 {
        aborts += aborts_at(outside + page * 4096)?;
    }
    println!("faults={aborts}");
    Ok(())
}
