//! Every register of the interrupt controller and every system register.

use core::sync::atomic::Ordering;

use super::super::{Outcome, basic};
use crate::gic::{self, distributor as d};
use crate::machine::{GicKind, Machine};
use crate::memory;
use crate::probe::{self, Random, WIDTHS};
use crate::{cpu, ensure, println};

/// G1: all ones, zero and noise into every offset of the distributor, in every width. The guest must live, and its
/// own interrupts work after a new start.
pub fn g1(machine: &Machine) -> Outcome {
    let distributor = gic::get().distributor().address(0);
    let size = if matches!(machine.gic, GicKind::V3 { .. }) {
        0x1_0000
    } else {
        0x1000
    };
    let mut random = Random(0x0bad_cafe_dead_beef);
    cpu::mask_irqs();
    let mut refused = 0_u64;
    for offset in (0..size).step_by(4) {
        for width in WIDTHS {
            for value in [u64::MAX, 0, random.next()] {
                // SAFETY: the distributor is no RAM; software-generated interrupts to itself are masked.
                let wrote = unsafe { probe::write(distributor + offset, width, value) };
                refused += u64::from(wrote.is_err())
                    + u64::from(probe::read(distributor + offset, width).is_err());
            }
        }
        // Unaligned.
        refused += u64::from(probe::read(distributor + offset + 1, 4).is_err());
    }
    println!("{refused} accesses refused");
    let own: u32 = (1..32)
        .map(|word| {
            let registers = gic::get().distributor();
            registers.write32(d::ISENABLER + word * 4, u32::MAX);
            registers.read32(d::ISENABLER + word * 4).count_ones()
        })
        .sum();
    println!("{own} SPIs can be enabled");
    calm_down();
    gic::get().init_core();
    cpu::unmask_irqs();
    basic::timer()
}

/// Disables, unpends and deactivates everything, and drains what is pending at the CPU interface.
fn calm_down() {
    let gic = gic::get();
    for word in 0..32 {
        for base in [d::ICENABLER, d::ICPENDR, d::ICACTIVER] {
            gic.distributor().write32(base + word * 4, u32::MAX);
        }
    }
    for base in [d::ICENABLER, d::ICPENDR, d::ICACTIVER] {
        gic.private().write32(base, u32::MAX);
    }
    // Group 0 is what `init_core` of a GICv2 expects; that of a GICv3 sets its own.
    for word in 0..32 {
        gic.distributor().write32(d::IGROUPR + word * 4, 0);
    }
    gic.reset_distributor();
    for _ in 0..2048 {
        let acknowledged = gic.acknowledge();
        if acknowledged & 0x3ff >= gic::SPECIAL {
            break;
        }
        gic.end(acknowledged);
    }
}

/// S1: reads every system register encoding and writes back what it read. Each gives a value or is undefined.
pub fn s1() -> Outcome {
    const RET: u32 = 0xd65f_03c0;
    // op0 from 2 on: bit 19 is op0<0>, bit 20 always set; L (bit 21) reads.
    const MRS_X0: u32 = 0xd530_0000;
    const MSR_X0: u32 = 0xd510_0000;
    let scratch = memory::scratch_code();
    let (mut values, mut undefined) = (0_u32, 0_u32);
    for encoding in 0..1_u32 << 15 {
        // op0<0> | op1 | CRn | CRm | op2 in bits 19:5.
        let field = encoding << 5;
        let is_own_state = is_vital(encoding);
        memory::write_code(scratch, &[MRS_X0 | field, RET]);
        probe::synchronise_code(scratch);
        // SAFETY: two instructions that return; one that is undefined is stepped over.
        match unsafe { probe::call(scratch) } {
            Ok(_) => values += 1,
            Err(_) => {
                undefined += 1;
                continue;
            }
        }
        if is_own_state {
            continue;
        }
        memory::write_code(scratch, &[MRS_X0 | field, MSR_X0 | field, RET]);
        probe::synchronise_code(scratch);
        // SAFETY: writes what was read, and registers whose write acts whatever the value are left out above.
        let _ = unsafe { probe::call(scratch) };
    }
    println!("{values} registers read, {undefined} undefined");
    ensure!(
        values > 100 && undefined > 10_000,
        "{values} read, {undefined} undefined"
    );
    ensure!(
        cpu::this().faults.load(Ordering::Acquire) >= u64::from(undefined),
        "some faults were lost"
    );
    basic::timer()
}

/// Registers whose writing would end this test by itself: what the vectors need, and what acts on a write.
fn is_vital(encoding: u32) -> bool {
    let (op0, op1, crn) = (2 + (encoding >> 14), encoding >> 11 & 7, encoding >> 7 & 15);
    // Debug and the CPU interface are read only; of EL1's own, ELR/SPSR/SP (CRn 4) belong to the vectors.
    op0 == 2 || crn == 12 || crn == 4 && op1 == 0
}
