//! The interrupt controller: whose interrupts, whose cores, and everything in the wrong order. (G1, every register, is
//! in [`super::registers`].)

use core::arch::asm;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use super::super::{Outcome, basic};
use crate::cpu::{self, MAX_CPUS};
use crate::gic::{self, distributor as d};
use crate::machine::{GicKind, Machine};
use crate::probe::{self, Encoding, syndrome};
use crate::{ensure, println, smp};

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

/// G2: every register of GICv2's CPU interface, which is the hardware's for this guest alone, in every width; and what
/// lies behind it.
fn g2(interface: u64) -> Outcome {
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

/// G3: interrupts that are not the guest's: Ballast's timer and the maintenance interrupt, PPIs 26 and 25, pended and
/// enabled, are at most virtual ones of its own; SPIs likewise. The victim's and Ballast's go on all the while.
fn g3() -> Outcome {
    let gic = gic::get();
    cpu::mask_irqs();
    let before = cpu::this().interrupts.load(Ordering::Acquire);
    for round in 0..50 {
        for intid in [25, 26, 28, 29, 40, 60, 100, 150, 200, 255] {
            let registers = if intid < 32 {
                gic.private()
            } else {
                gic.distributor()
            };
            gic.enable(intid);
            let (word, bit) = (intid as usize / 32 * 4, 1 << (intid % 32));
            registers.write32(d::ISPENDR + word, bit);
            registers.write32([d::ICENABLER, d::ISACTIVER][round % 2] + word, bit);
            registers.write32(d::ICPENDR + word, bit);
            registers.write32(d::ICACTIVER + word, bit);
            gic.disable(intid);
        }
    }
    cpu::unmask_irqs();
    cpu::delay_us(1_000);
    let taken = cpu::this().interrupts.load(Ordering::Acquire) - before;
    ensure!(taken == 0, "{taken} interrupts came of foreign ones");
    still_works("G3")
}

/// G4: targets that the guest has not: masked out, and never reached. (The victim counts what it gets, too.)
fn g4(machine: &Machine) -> Outcome {
    let gic = gic::get();
    let spi = machine
        .balloon
        .as_ref()
        .map_or(33, |balloon| balloon.interrupt);
    let own = (1_u32 << machine.cpus.len()) - 1;
    match machine.gic {
        GicKind::V2 { .. } => {
            let targets = d::ITARGETSR + spi as usize;
            gic.distributor().write8(targets, 0xff);
            let found = gic.distributor().read32(targets & !3) >> (targets % 4 * 8) & 0xff;
            ensure!(
                found == own,
                "ITARGETSR shows targets {found:#x}, the guest has {own:#x}"
            );
            let before = marks(0);
            // The list with all but the sender, then with the sender too: of those that are on, it alone.
            for list in [0xfe, 0xff] {
                gic.distributor().write32(d::SGIR, list << 16 | MARK);
            }
            ensure!(
                cpu::wait_until_us(1_000_000, || marks(0) == before + 1),
                "{} SGIs arrived of one",
                marks(0) - before
            );
        }
        GicKind::V3 { .. } => {
            let router = d::IROUTER + spi as usize * 8;
            // Nobody; another cluster; "any", which this controller has not.
            for route in [0x7f, 0x1_00, 0xff_00ff_ffff, 1 << 31] {
                gic.distributor().write64(router, route);
                gic.distributor()
                    .write32(d::ISPENDR + spi as usize / 32 * 4, 1 << (spi % 32));
                gic.distributor()
                    .write32(d::ICPENDR + spi as usize / 32 * 4, 1 << (spi % 32));
            }
            gic.distributor().write64(router, 0);
            let found = gic.distributor().read64(router);
            ensure!(found == 0, "IROUTER is {found:#x}, not 0");
        }
    }
    still_works("G4")
}

/// G10: the trigger of an own, enabled interrupt flips while it is pended: it comes, and it comes no more once it is
/// disabled.
fn g10(machine: &Machine) -> Outcome {
    let gic = gic::get();
    let Some(balloon) = &machine.balloon else {
        return Ok(());
    };
    let (word, bit) = (
        balloon.interrupt as usize / 32 * 4,
        1 << (balloon.interrupt % 32),
    );
    let config = 0xc00 + balloon.interrupt as usize / 16 * 4;
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
fn g6() -> Outcome {
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
fn set_mode(drops_only: bool) {
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
fn g5(machine: &Machine) -> Outcome {
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

/// G7: redistributors of others read zero or abort; what LPIs would need reads zero and keeps nothing; there is no ITS.
fn g7(redistributors: u64, own: u64) -> Outcome {
    const STRIDE: u64 = 0x2_0000;
    const FRAME: u64 = 0x1_0000;
    const CTLR: u64 = 0;
    const PROPBASER: u64 = 0x70;
    const PENDBASER: u64 = 0x78;
    for vcpu in own..8 {
        for offset in [8, 0x14, FRAME + 0x100, FRAME + 0x400] {
            let at = redistributors + vcpu * STRIDE + offset;
            // SAFETY: registers, not memory.
            let _ = unsafe { probe::write(at, 4, u64::MAX) };
            let found = probe::read(at, 4);
            ensure!(
                found == Ok(0) || is_external(found),
                "{at:#x} of no vCPU: {found:x?}"
            );
        }
    }
    for vcpu in 0..own {
        for (offset, width) in [(CTLR, 4), (PROPBASER, 8), (PENDBASER, 8)] {
            let at = redistributors + vcpu * STRIDE + offset;
            // SAFETY: as above; an address in RAM that is not this guest's, and every enable.
            let wrote = unsafe { probe::write(at, width, 0x4000_0000 | 0x7ff) };
            let found = probe::read(at, width);
            ensure!(wrote.is_ok() && found == Ok(0), "{at:#x} keeps {found:x?}");
        }
    }
    for its in [0x0808_0000, 0x0809_0000, 0x0809_0040] {
        let found = probe::read(its, 8);
        ensure!(is_external(found), "an ITS at {its:#x}: {found:x?}");
    }
    Ok(())
}

/// G8: SGIs to affinities that no vCPU has, by every SGI register, arrive nowhere; group 0's registers are the guest's
/// own; system register access cannot be switched off for others.
fn g8() -> Outcome {
    const SGI1R: Encoding = Encoding::new(3, 0, 12, 11, 5);
    const ASGI1R: Encoding = Encoding::new(3, 0, 12, 11, 6);
    const SGI0R: Encoding = Encoding::new(3, 0, 12, 11, 7);
    const IGRPEN0: Encoding = Encoding::new(3, 0, 12, 12, 6);
    const IAR0: Encoding = Encoding::new(3, 0, 12, 8, 0);
    const SRE: Encoding = Encoding::new(3, 0, 12, 12, 5);
    let send = |register: Encoding, value: u64| {
        // SAFETY: sends interrupts, or not.
        unsafe { probe::run(&[register.write()], value | u64::from(MARK) << 24) }
    };
    let before = marks(0);
    // Aff1, Aff2, Aff3, RS; everybody but the sender; cores that are not there.
    for value in [
        1 << 16,
        1 << 32,
        1 << 48,
        1 << 44,
        0xf << 44,
        1 << 40,
        0xfff8,
        0x00ff_0000_00ff_0000,
    ] {
        let value = if value & (1 << 40) != 0 || value == 0xfff8 {
            value
        } else {
            value | 1
        };
        for register in [SGI1R, ASGI1R, SGI0R] {
            let sent = send(register, value);
            ensure!(sent.is_ok(), "{register:?} of {value:#x}: {sent:x?}");
        }
    }
    // Group 0 only, and these SGIs are of group 1.
    for register in [ASGI1R, SGI0R] {
        let sent = send(register, 1);
        ensure!(sent.is_ok(), "{register:?}: {sent:x?}");
    }
    cpu::delay_us(1_000);
    ensure!(
        marks(0) == before,
        "{} SGIs arrived of none",
        marks(0) - before
    );
    // SAFETY: the guest's own groups.
    let switched = unsafe { probe::run(&[IGRPEN0.write()], 1) };
    let pending = probe::read_register(IAR0);
    ensure!(
        switched.is_ok() && pending == Ok(1023),
        "group 0: {switched:x?}, pending {pending:x?}"
    );
    // SAFETY: as above; put back by `init_core` where it can be.
    let _ = unsafe { probe::run(&[IGRPEN0.write(), SRE.write()], 0) };
    // SAFETY: as above.
    let _ = unsafe { probe::run(&[SRE.write()], 7) };
    still_works("G8")
}
