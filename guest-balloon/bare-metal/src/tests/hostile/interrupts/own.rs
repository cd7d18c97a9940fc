//! The guest's own interrupts, used as no driver would: every register, all at once, and ends in the wrong order.
//!
//! It may do that to itself; what it must not do is to lose an interrupt afterwards, or to disturb anybody else.

use core::arch::asm;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use super::{is_external, still_works};
use crate::cpu::{self, MAX_CPUS};
use crate::gic::{self, distributor as d};
use crate::machine::Machine;
use crate::tests::Outcome;
use crate::{ensure, println, probe, smp};

/// G2: every register of GICv2's CPU interface, which is the hardware's for this guest alone, in every width; and what
/// lies behind it.
pub(super) fn g2(interface: u64) -> Outcome {
    cpu::mask_irqs();
    for offset in (0..0x2000).step_by(4) {
        for width in [4, 8, 1, 2, 16] {
            // SAFETY: registers of the guest's own interface; interrupts are masked.
            let _ = unsafe { probe::write(interface + offset, width, u64::MAX) };
            let _ = probe::read(interface + offset, width);
            // SAFETY: as above.
            let _ = unsafe { probe::write(interface + offset, width, 0) };
        }
    }
    for beyond in (interface + 0x2000..interface + 0x1_0000).step_by(0x1000) {
        let found = probe::read(beyond, 4);
        ensure!(is_external(found), "read of {beyond:#x}: {found:x?}");
    }
    restore();
    still_works("G2")
}

/// G10: the trigger of an own, enabled interrupt flips while it is pended: it comes, and it comes no more once it is
/// disabled.
pub(super) fn g10(machine: &Machine) -> Outcome {
    let gic = gic::get();
    let Some(balloon) = &machine.balloon else {
        return Ok(());
    };
    let (word, bit) = (
        balloon.interrupt as usize / 32 * 4,
        1 << (balloon.interrupt % 32),
    );
    let config = d::ICFGR + balloon.interrupt as usize / 16 * 4;
    let edge = 0b10 << (balloon.interrupt % 16 * 2);
    let before = cpu::this().interrupts.load(Ordering::Acquire);
    for round in 0..200 {
        gic.enable(balloon.interrupt);
        gic.distributor().write32(config, [edge, 0][round % 2]);
        // The handler disables it, so it comes once for each round.
        gic.distributor().write32(d::ISPENDR + word, bit);
        gic.distributor().write32(config, [0, edge][round % 2]);
        gic.distributor().write32(d::ICPENDR + word, bit);
    }
    gic.disable(balloon.interrupt);
    gic.distributor().write32(config, 0);
    let taken = cpu::this().interrupts.load(Ordering::Acquire) - before;
    ensure!(
        (1..=400).contains(&taken),
        "{taken} interrupts in 200 rounds"
    );
    let calm = cpu::this().interrupts.load(Ordering::Acquire);
    cpu::delay_us(1_000);
    let late = cpu::this().interrupts.load(Ordering::Acquire) - calm;
    ensure!(late == 0, "{late} interrupts came after it was disabled");
    still_works("G10")
}

/// G6: ends of what is not active, in the wrong order, of INTIDs that cannot be; end-of-interrupt modes and priority
/// masks that flip. Afterwards all sixteen SGIs arrive.
pub(super) fn g6() -> Outcome {
    let gic = gic::get();
    cpu::mask_irqs();
    for round in 0..100_u32 {
        for id in [1, 5] {
            gic.send_sgi(id, 0);
        }
        let one = gic.acknowledge();
        for wrong in [1020, 1021, 1022, 1023, 1019, 500, 33, 27, 15] {
            gic.end(wrong);
            deactivate(wrong);
        }
        gic.let_through([0, 0xff, 0x80][round as usize % 3]);
        set_mode(round % 2 == 0);
        let two = gic.acknowledge();
        for acknowledged in [one, two, one, two] {
            if acknowledged & 0x3ff < gic::SPECIAL {
                gic.end(acknowledged);
                deactivate(acknowledged);
            }
        }
    }
    set_mode(false);
    restore();
    all_sgis("G6")
}

/// All SGIs to itself: each arrives.
fn all_sgis(after: &str) -> Outcome {
    let taken =
        || core::array::from_fn::<u32, 16, _>(|id| cpu::this().sgis[id].load(Ordering::Acquire));
    let before = taken();
    (0..16).for_each(|id| gic::get().send_sgi(id, 0));
    let arrived = || (0..16).all(|id| taken()[id] > before[id]);
    ensure!(
        cpu::wait_until_us(2_000_000, arrived),
        "{after}: of all SGIs arrived {:?}, before {before:?}",
        taken()
    );
    Ok(())
}

/// Sets the CPU interface up again, whatever was done to it, and lets everything in.
fn restore() {
    let gic = gic::get();
    gic.reset_distributor();
    gic.init_core();
    for base in [d::ICACTIVER, d::ICPENDR] {
        gic.private().write32(base, u32::MAX);
    }
    cpu::unmask_irqs();
}

/// GICv2's DIR; ICC_DIR_EL1.
fn deactivate(intid: u32) {
    match gic::get() {
        gic::Gic::V2(gic) => gic.cpu.write32(0x1000, intid),
        gic::Gic::V3(_) => {
            // SAFETY: deactivates, no more.
            unsafe {
                asm!("msr icc_dir_el1, {}", "isb", in(reg) u64::from(intid), options(nostack))
            };
        }
    }
}

/// Whether the end of an interrupt only drops its priority (EOImode).
pub fn set_mode(drops_only: bool) {
    match gic::get() {
        gic::Gic::V2(gic) => gic.cpu.write32(0, 1 | u32::from(drops_only) << 9),
        gic::Gic::V3(_) => {
            let control = u64::from(drops_only) << 1;
            // SAFETY: the mode alone.
            unsafe { asm!("msr icc_ctlr_el1, {}", "isb", in(reg) control, options(nostack)) };
        }
    }
}

static GO_ON: AtomicBool = AtomicBool::new(false);
static READY: AtomicU32 = AtomicU32::new(0);

/// Sends every SGI to everybody and ends none: what was acknowledged, the first of them.
fn flood() -> u32 {
    let gic = gic::get();
    cpu::mask_irqs();
    READY.fetch_add(1, Ordering::AcqRel);
    let mut active = gic::SPECIAL;
    for round in 0..40 {
        for id in 0..16 {
            for target in 0..MAX_CPUS.min(4) {
                gic.send_sgi(id, target);
            }
        }
        let acknowledged = if round % 8 == 0 {
            gic.acknowledge()
        } else {
            gic::SPECIAL
        };
        if acknowledged & 0x3ff < gic::SPECIAL {
            active = acknowledged;
        }
    }
    READY.fetch_add(1, Ordering::AcqRel);
    active
}

/// Ends it, and lets in what is still pending.
fn ebb(active: u32) {
    let gic = gic::get();
    if active & 0x3ff < gic::SPECIAL {
        gic.end(active);
    }
    cpu::unmask_irqs();
    cpu::delay_us(5_000);
}

fn storm(_: usize) {
    let active = flood();
    cpu::wait_until_us(10_000_000, || GO_ON.load(Ordering::Acquire));
    ebb(active);
}

/// G5: more pending than there are list registers, on all vCPUs at once, none ended: nothing breaks, nobody else is
/// disturbed, and all SGIs arrive when it is over.
pub(super) fn g5(machine: &Machine) -> Outcome {
    let mut cores = heapless::Vec::<u64, 8>::new();
    for (index, &mpidr) in machine.cpus.iter().enumerate().skip(1) {
        let answer = smp::start(index, mpidr, storm);
        ensure!(answer == 0, "CPU_ON of core {index}: {answer}");
        let _ = cores.push(mpidr);
    }
    let all = 2 * (cores.len() as u32 + 1);
    let active = flood();
    let stormed = cpu::wait_until_us(20_000_000, || READY.load(Ordering::Acquire) == all);
    ensure!(stormed, "{} of {all} steps", READY.load(Ordering::Acquire));
    GO_ON.store(true, Ordering::Release);
    ebb(active);
    for mpidr in cores {
        let is_off = cpu::wait_until_us(10_000_000, || smp::is_off(mpidr));
        ensure!(is_off, "core {mpidr} is stuck after the storm");
    }
    println!("g5: a storm of SGIs");
    all_sgis("G5")
}
