//! System registers and features that are not the guest's, and those that look like somebody else's. QEMU models
//! neither caches nor speculation, so what hides behind them is not seen here.

use core::sync::atomic::{AtomicU64, Ordering};

use aarch64_cpu::registers::{MDSCR_EL1, MIDR_EL1, MPIDR_EL1, Readable, Writeable};

use super::super::{Outcome, basic};
use super::features;
use crate::machine::Machine;
use crate::probe::{self, Encoding, syndrome};
use crate::smccc::{self, psci};
use crate::{cpu, ensure, gic, println, smp};

/// S2, S3, S4, S8, S9, S13, S14.
pub fn all(machine: &Machine) -> Outcome {
    s2(machine)?;
    s3()?;
    s4()?;
    features::s8()?;
    s9(machine)?;
    s13()?;
    s14()?;
    basic::timer()
}

/// A register that is there.
pub fn register(register: Encoding) -> Result<u64, super::super::Why> {
    probe::read_register(register)
        .map_err(|esr| super::super::why(format_args!("{register:?}: {esr:#x}")))
}

/// Writes `value`, then reads.
fn written(register: Encoding, value: u64) -> Result<u64, u64> {
    // SAFETY: the registers of these tests change nothing that this code rests on.
    unsafe { probe::run(&[register.write()], value) }?;
    probe::read_register(register)
}

/// S2: the auxiliary control register reads zero and ignores writes; nothing implementation-defined is there. QEMU has
/// trapped those (HCR_EL2.TIDCP) since 8.1 only: before, what it has of them must at least not change.
fn s2(machine: &Machine) -> Outcome {
    const ACTLR: Encoding = Encoding::new(3, 0, 1, 0, 1);
    ensure!(register(ACTLR)? == 0, "ACTLR_EL1 is not hidden");
    let found = written(ACTLR, u64::MAX);
    ensure!(found == Ok(0), "ACTLR_EL1 after a write: {found:x?}");
    let own = (0..8)
        .flat_map(|op1| Encoding::all(3, op1))
        .filter(|e| matches!(e.crn, 11 | 15));
    let mut shown = 0;
    if machine.arg("tidcp") == Some("yes") {
        // SAFETY: should one be there, a zero in it is what the emulator has.
        let count = unsafe { probe::all_undefined(own.clone().map(Encoding::read), 0) }?;
        // SAFETY: as above.
        unsafe { probe::all_undefined(own.map(Encoding::write), 0) }?;
        println!("s2: {count} implementation-defined registers undefined");
        return Ok(());
    }
    for register in own {
        let Ok(before) = probe::read_register(register) else {
            continue;
        };
        shown += 1;
        let after = written(register, !before);
        ensure!(
            after == Ok(before) || after.is_err(),
            "{register:?} was {before:#x}, is {after:x?}"
        );
    }
    println!("s2: the emulator shows {shown} implementation-defined registers");
    Ok(())
}

/// S3: the PMU is not there: no register of it, and the ID register says so.
fn s3() -> Outcome {
    const DFR0: Encoding = Encoding::new(3, 0, 0, 5, 0);
    ensure!(register(DFR0)? >> 8 & 0xf == 0, "a PMU is announced");
    let of_pmu = |e: &Encoding| match (e.op1, e.crn) {
        (3, 9) => e.crm >= 12,
        (3, 14) => e.crm >= 8,
        (0, 9) => e.crm == 14,
        _ => false,
    };
    let registers = [0, 3]
        .into_iter()
        .flat_map(|op1| Encoding::all(3, op1))
        .filter(of_pmu);
    // SAFETY: should one be there, writing all ones sets counters and enables that nobody uses.
    unsafe { probe::all_undefined(registers.clone().map(Encoding::read), 0) }?;
    // SAFETY: as above.
    let count = unsafe { probe::all_undefined(registers.map(Encoding::write), u64::MAX) }?;
    println!("s3: {count} registers of the PMU undefined");
    Ok(())
}

static WATCHED: AtomicU64 = AtomicU64::new(0);

macro_rules! write_registers {
    ($($name:literal = $value:expr),*) => {
        // SAFETY: breakpoints and watchpoints are this guest's own, and no test but this uses them.
        unsafe { $( core::arch::asm!(concat!("msr ", $name, ", {}"), "isb", in(reg) $value, options(nostack)); )* }
    };
}

/// Debug exceptions of this EL on, or off.
fn debug(is_on: bool) {
    /// MDSCR_EL1.KDE and MDE.
    const KDE_MDE: u64 = 1 << 13 | 1 << 15;
    MDSCR_EL1.set(if is_on { KDE_MDE } else { 0 });
    // SAFETY: the handler knows debug exceptions.
    unsafe {
        if is_on {
            core::arch::asm!("isb", "msr daifclr, #8", options(nostack));
        } else {
            core::arch::asm!("msr daifset, #8", options(nostack));
        }
    }
}

/// S4: locks and power requests of debugging do nothing; a watchpoint on all of EL2's addresses never fires while EL2
/// works, one on the guest's own does; a single step over an instruction that EL2 emulates stops right behind it.
fn s4() -> Outcome {
    // MDRAR; OSDLR; DBGPRCR; then OSLSR, which says "a lock, and open" whatever is written to OSLAR.
    for (crm, op2) in [(0, 0), (3, 4), (4, 4)] {
        let name = Encoding::new(2, 0, 1, crm, op2);
        // QEMU has no DBGPRCR_EL1 to trap.
        if crm == 4 && probe::read_register(name).is_err() {
            continue;
        }
        let found = register(name)?;
        ensure!(found == 0, "{name:?} is {found:#x}");
        if crm != 0 {
            let found = written(name, u64::MAX);
            ensure!(found == Ok(0), "{name:?} after a write: {found:x?}");
        }
    }
    // SAFETY: a lock that only stops debuggers.
    let locked = unsafe { probe::run(&[Encoding::new(2, 0, 1, 0, 4).write()], 1) };
    let status = register(Encoding::new(2, 0, 1, 1, 4))?;
    ensure!(
        locked.is_ok() && status == 8,
        "OS lock: {locked:x?}, OSLSR {status:#x}"
    );

    /// 2 GiB of addresses: the whole of what EL2 has.
    const MASK_2G: u64 = 31 << 24;
    const EL2_BASE: u64 = 0x7f_8000_0000;
    /// HMC and SSC: at EL2 alone; at EL2, EL1 and EL0 with PAC 0b11 (Arm ARM DDI 0487 D2.8.5).
    const AT_EL2: u64 = 1 << 13 | 0b11 << 14;
    const AT_ALL: u64 = 1 << 13 | 0b01 << 14 | 0b11 << 1;
    /// E, every byte, loads and stores.
    const ON: u64 = 1 | 0xff << 5 | 0b11 << 3;
    let faults = || cpu::this().faults.load(Ordering::Acquire);
    for levels in [AT_EL2, AT_ALL] {
        write_registers!(
            "dbgwvr0_el1" = EL2_BASE,
            "dbgwcr0_el1" = ON | MASK_2G | levels
        );
        let before = faults();
        debug(true);
        let version = psci::call32(psci::function::VERSION, 0, 0, 0);
        let typer = gic::get().distributor().read32(gic::distributor::TYPER);
        gic::get().send_sgi(3, 0);
        let unknown = smccc::smc([0xdead_beef, 0, 0, 0, 0]);
        debug(false);
        ensure!(faults() == before, "a watchpoint on EL2's data fired");
        ensure!(
            version > 0 && typer != 0 && unknown[0] == u64::MAX,
            "PSCI {version:#x}, TYPER {typer:#x}, unknown call {unknown:x?}"
        );
    }
    let watched = (&raw const WATCHED) as u64;
    write_registers!("dbgwvr0_el1" = watched, "dbgwcr0_el1" = ON | 0b01 << 1);
    let before = faults();
    let fired = probe::expecting_one(|| {
        debug(true);
        WATCHED.store(1, Ordering::Release);
        debug(false);
    });
    write_registers!("dbgwcr0_el1" = 0_u64);
    ensure!(
        faults() == before + 1 && fired.is_err_and(|esr| syndrome::class(esr) == 0x35),
        "the watchpoint on own data: {fired:x?}, {} faults",
        faults() - before
    );
    let (stopped, expected) = probe::step_over_smc();
    ensure!(
        stopped == expected,
        "stepped to {stopped:#x}, not {expected:#x}"
    );
    println!("s4: watchpoints and steps stay here");
    Ok(())
}

static SECOND: [AtomicU64; 3] = [const { AtomicU64::new(0) }; 3];
const CSSELR: Encoding = Encoding::new(3, 2, 0, 0, 0);

fn select(level: u64) {
    // SAFETY: selects what CCSIDR_EL1 shows, no more.
    unsafe { core::arch::asm!("msr csselr_el1, {}", "isb", in(reg) level, options(nostack)) };
}

fn selected() -> u64 {
    let value;
    // SAFETY: a read.
    unsafe { core::arch::asm!("mrs {}, csselr_el1", out(reg) value, options(nostack)) };
    value
}

/// Core 1: its own identity, and a selection of its own that nobody changes.
fn look_at_second(_: usize) {
    SECOND[0].store(MPIDR_EL1.get(), Ordering::Release);
    SECOND[1].store(MIDR_EL1.get(), Ordering::Release);
    select(2);
    SECOND[2].store(1, Ordering::Release);
    cpu::wait_until_us(5_000_000, || SECOND[2].load(Ordering::Acquire) == 2);
    SECOND[2].store(0x100 | selected(), Ordering::Release);
}

/// S9: what the ID registers say: of the vCPU, not of the core; no feature that traps or that nobody switches; none
/// can be written; the cache selection is each vCPU's own.
fn s9(machine: &Machine) -> Outcome {
    /// RES1, no other bit: not multithreaded, affinity 0.0.0.
    const FIRST: u64 = 1 << 31;
    ensure!(
        MPIDR_EL1.get() == FIRST,
        "MPIDR_EL1 is {:#x}",
        MPIDR_EL1.get()
    );
    // CRm, Op2, lowest bit of a field: EL2, EL3, RAS, SVE, AMU; MTE, SME; TraceVer, PMUVer, PMSVer, TraceFilt; APA,
    // API, GPA, GPI; FGT; VH, LO, HCX.
    const HIDDEN: [(u32, u32, &[u32]); 6] = [
        (4, 0, &[8, 12, 28, 32, 44]),
        (4, 1, &[8, 24]),
        (5, 0, &[4, 8, 32, 40]),
        (6, 1, &[4, 8, 24, 28]),
        (7, 0, &[56]),
        (7, 1, &[8, 16, 40]),
    ];
    for (crm, op2, fields) in HIDDEN {
        let value = register(Encoding::new(3, 0, 0, crm, op2))?;
        for &field in fields {
            ensure!(
                value >> field & 0xf == 0,
                "ID register C{crm}_{op2} shows {value:#x}"
            );
        }
    }
    let ids = Encoding::all(3, 0).filter(|e| e.crn == 0 && e.crm <= 7);
    for id in ids.clone().filter(|e| e.crm > 0) {
        register(id)?;
    }
    // SAFETY: none of them can be written.
    unsafe { probe::all_undefined(ids.map(Encoding::write), 0) }?;
    for level in 0..14 {
        select(level);
        register(Encoding::new(3, 1, 0, 0, 0))?;
    }
    select(0);
    let Some(&second) = machine.cpus.get(1) else {
        return Ok(());
    };
    let answer = smp::start(1, second, look_at_second);
    ensure!(answer == 0, "CPU_ON of core 1: {answer}");
    let is_there = || SECOND[2].load(Ordering::Acquire) == 1;
    ensure!(
        cpu::wait_until_us(5_000_000, is_there),
        "core 1 says nothing"
    );
    let mine = register(CSSELR)?;
    SECOND[2].store(2, Ordering::Release);
    let is_off = cpu::wait_until_us(5_000_000, || smp::is_off(second));
    let [mpidr, midr, selection] = SECOND.each_ref().map(|word| word.load(Ordering::Acquire));
    ensure!(
        is_off && mpidr == FIRST | 1 && midr == MIDR_EL1.get(),
        "core 1 has MPIDR {mpidr:#x}, MIDR {midr:#x}"
    );
    ensure!(
        mine == 0 && selection == 0x102,
        "CSSELR_EL1 is {mine:#x} here, {selection:#x} there"
    );
    println!("s9: MIDR {midr:#x}");
    Ok(())
}

/// S13: registers and instructions of EL2 and EL3, and of a kernel under virtualisation, are undefined: op1 from 4 on,
/// with SYS too (AT S12E1R, TLBI ALLE1, IPAS2E1, VMALLS12E1).
fn s13() -> Outcome {
    let mut count = 0;
    for (op0, op1) in (1..4).flat_map(|op0| (4..8).map(move |op1| (op0, op1))) {
        // SAFETY: should a register be there, zero in it is what QEMU has or turns off what this guest has not.
        count += unsafe { probe::all_undefined(Encoding::all(op0, op1).map(Encoding::read), 0) }?;
        // SAFETY: as above.
        count += unsafe { probe::all_undefined(Encoding::all(op0, op1).map(Encoding::write), 0) }?;
    }
    println!("s13: {count} instructions of higher levels undefined");
    Ok(())
}

/// S14: what is said of speculation agrees with the core: a workaround is offered and works, is not needed, or is not
/// there. Whether a mitigation is one QEMU cannot show.
fn s14() -> Outcome {
    const FEATURES: u64 = 0x8000_0001;
    const WORKAROUNDS: [u64; 3] = [0x8000_8000, 0x8000_7fff, 0x8000_3fff];
    const CORTEX_A72: u64 = 0xd08;
    let csv2 = register(Encoding::new(3, 0, 0, 4, 0))? >> 56 & 0xf;
    for (number, call) in (1..).zip(WORKAROUNDS) {
        let said = smccc::hvc([FEATURES, call, 0, 0, 0])[0].cast_signed();
        ensure!((-1..=1).contains(&said), "WORKAROUND_{number}: {said}");
        let answer = smccc::hvc([call, 0, 0, 0, 0])[0].cast_signed();
        ensure!(
            answer == if said < 0 { -1 } else { 0 },
            "WORKAROUND_{number} is {said}, calling it gives {answer}"
        );
        let is_exposed = MIDR_EL1.get() >> 4 & 0xfff == CORTEX_A72 && csv2 == 0;
        ensure!(
            !is_exposed || said != 1,
            "WORKAROUND_{number}: this core is said to be safe"
        );
    }
    Ok(())
}
