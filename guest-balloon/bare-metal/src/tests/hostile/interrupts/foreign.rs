//! Interrupts, cores and redistributors that are not the guest's: it asks for them, and gets nothing.
//!
//! After each it still has all that is its own.

use core::sync::atomic::Ordering;

use super::{MARK, is_external, marks, still_works};
use crate::gic::{self, distributor as d};
use crate::machine::{GicKind, Machine};
use crate::probe::{self, Encoding};
use crate::tests::Outcome;
use crate::{cpu, ensure};

/// G3: interrupts that are not the guest's: Ballast's timer and the maintenance interrupt, PPIs 26 and 25, pended and
/// enabled, are at most virtual ones of its own; SPIs likewise. The victim's and Ballast's go on all the while.
pub(super) fn g3() -> Outcome {
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
pub(super) fn g4(machine: &Machine) -> Outcome {
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

/// G7: redistributors of others read zero or abort; what LPIs would need reads zero and keeps nothing; there is no ITS.
pub(super) fn g7(redistributors: u64, own: u64) -> Outcome {
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
pub(super) fn g8() -> Outcome {
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
