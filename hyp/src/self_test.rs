//! What EL2 does for a guest that tests the board (`self-test;`): registers as only EL2 sees them, where the guest's
//! pages are, and patterns in RAM that no guest has.
//!
//! Nobody else is on the board, so nothing here is in anybody's way; each call is bounded all the same.

use ballast_abi::{Status, self_test};
use ballast_core::addr::{BLOCK_SIZE, Ipa, PAGE_SIZE, Pa};

use crate::aarch64::registers::{self, read};
use crate::gic::Version;
use crate::guest::Guest;
use crate::guest::hardware::Machine;
use crate::mmio::gicv3::interface;
use crate::percpu::PerCpu;
use crate::system::System;
use crate::traps::Frame;

/// Frames that one call walks: some 6,000 instructions each.
const FRAMES: u64 = 8;
/// Blocks that it passes over.
const BLOCKS: usize = 64;

/// Carries out SELF_TEST for `guest`.
#[cold]
pub fn call(system: &System, cpu: &PerCpu, guest: &Guest, frame: &mut Frame) {
    let [_, what, argument, ..] = frame.x;
    let (status, values) = if guest.plan.config.self_test {
        match what {
            self_test::FACT => one(fact(system, cpu, argument)),
            self_test::RAM => ram(system, argument),
            self_test::FRAME => page(cpu, guest, argument),
            self_test::WALK => (Status::Success, walk(system, cpu, Pa(argument))),
            _ => (Status::InvalidParameters, [0; 3]),
        }
    } else {
        (Status::NotSupported, [0; 3])
    };
    cpu.window.close();
    let results = [status.to_register()].into_iter().chain(values);
    // What does not exist changes no register but x0.
    let count = if status == Status::NotSupported { 1 } else { 4 };
    for (register, result) in frame.x.iter_mut().zip(results.take(count)) {
        *register = result;
    }
}

const fn one(value: Option<u64>) -> (Status, [u64; 3]) {
    match value {
        Some(value) => (Status::Success, [value, 0, 0]),
        None => (Status::InvalidParameters, [0; 3]),
    }
}

/// Fact `number`, in the order of [`self_test::FACTS`].
fn fact(system: &System, cpu: &PerCpu, number: u64) -> Option<u64> {
    /// CSSELR_EL1 (DDI 0487, D19.2.35): level less one in 3:1, instruction cache in 0.
    const SELECTED: [u64; 3] = [0, 1, 1 << 1];
    let name = self_test::FACTS.get(usize::try_from(number).ok()?)?;
    let id = registers::read_id;
    Some(match *name {
        "midr_el1" => read!("MIDR_EL1"),
        "mpidr_el1" => read!("MPIDR_EL1"),
        "revidr_el1" => read!("REVIDR_EL1"),
        "ctr_el0" => read!("CTR_EL0"),
        "dczid_el0" => read!("DCZID_EL0"),
        "clidr_el1" => read!("CLIDR_EL1"),
        "ccsidr_l1d" => registers::cache_geometry(SELECTED[0]),
        "ccsidr_l1i" => registers::cache_geometry(SELECTED[1]),
        "ccsidr_l2" => registers::cache_geometry(SELECTED[2]),
        "id_aa64pfr0_el1" => id(4, 0),
        "id_aa64dfr0_el1" => id(5, 0),
        "id_aa64isar0_el1" => id(6, 0),
        "id_aa64mmfr0_el1" => id(7, 0),
        "id_aa64mmfr1_el1" => id(7, 1),
        "sctlr_el2" => read!("SCTLR_EL2"),
        "hcr_el2" => read!("HCR_EL2"),
        "mdcr_el2" => read!("MDCR_EL2"),
        "cptr_el2" => read!("CPTR_EL2"),
        "vtcr_el2" => read!("VTCR_EL2"),
        "cntfrq_el0" => read!("CNTFRQ_EL0"),
        "pmcr_el0" => read!("PMCR_EL0"),
        "gic_vtr" => match cpu.gic.version() {
            Version::V2(gic) => gic.vtr().into(),
            Version::V3(_) => interface::vtr(),
        },
        "gicd_typer" => match cpu.gic.version() {
            Version::V2(gic) => gic.typer().into(),
            Version::V3(gic) => gic.typer().into(),
        },
        "gic_iidr" => match cpu.gic.version() {
            Version::V2(gic) => gic.iidr().into(),
            Version::V3(_) => 0,
        },
        "own_bytes" => system.own_bytes,
        "list_registers" => cpu.gic.list_registers.into(),
        _ => return None,
    })
}

fn ram(system: &System, number: u64) -> (Status, [u64; 3]) {
    let ranges = &system.board.ram;
    match usize::try_from(number).ok().and_then(|n| ranges.get(n)) {
        Some(range) => (Status::Success, [range.start.0, range.size, 0]),
        None => (Status::InvalidParameters, [0; 3]),
    }
}

/// Where the guest's page at `ipa` is.
fn page(cpu: &PerCpu, guest: &Guest, ipa: u64) -> (Status, [u64; 3]) {
    let ipa = Ipa(ipa).align_down(PAGE_SIZE);
    let is_ram = guest
        .plan
        .ram
        .iter()
        .any(|range| range.offset_of(ipa).is_some());
    let pa = is_ram
        .then(|| guest.memory.stage2.translate(&mut Machine(cpu), ipa))
        .flatten();
    match pa {
        Some(pa) => (Status::Success, [pa.0, 0, 0]),
        None => (Status::InvalidAddress, [0; 3]),
    }
}

/// Walks up to [`FRAMES`] free frames from `from` on: where to go on, how many were walked, and the first that failed.
fn walk(system: &System, cpu: &PerCpu, from: Pa) -> [u64; 3] {
    let mut next = from.align_down(PAGE_SIZE);
    for _ in 0..BLOCKS {
        // Within a block it was free a moment ago; else the next there is.
        let block = {
            let mut pool = system.pool.lock();
            let inside = next.align_down(BLOCK_SIZE);
            let start = if inside == next {
                pool.block_from(next)
            } else {
                Some(inside)
            };
            let Some(start) = start else {
                return [self_test::WALKED, 0, 0];
            };
            next = next.max(start);
            pool.claim_free_block(start)
        };
        let Some(block) = block else {
            let Some(end) = next.align_down(BLOCK_SIZE).0.checked_add(BLOCK_SIZE) else {
                return [self_test::WALKED, 0, 0];
            };
            next = Pa(end);
            continue;
        };
        let end = block.pa().0 + BLOCK_SIZE;
        let (mut walked, mut failed) = (0, 0);
        while walked < FRAMES && next.0 < end {
            if !Machine(cpu).check_frame(next) && failed == 0 {
                failed = next.0;
            }
            walked += 1;
            next = Pa(next.0 + PAGE_SIZE);
        }
        system.pool.lock().put_free_block(block);
        return [next.0, walked, failed];
    }
    [next.0, 0, 0]
}
