//! A vCPU's own state: nobody else's values in it, none of its own lost to a trap, and states it must not get into.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

use super::super::{Outcome, Why, why};
use crate::machine::Machine;
use crate::mmu::{self, GIB, Mapping};
use crate::probe::{self, syndrome};
use crate::smccc::{self, psci};
use crate::{cpu, ensure, gic, memory, println, smp, traces};

/// S7, P4, S10, H4.
pub fn all(machine: &Machine) -> Outcome {
    s7(machine)?;
    p4(machine)?;
    s10()?;
    below(machine)
}

const FPCR: u64 = 0x07c0_0000;
const FPSR: u64 = 0x0800_009f;

fn set_fp_controls(fpcr: u64, fpsr: u64) {
    // SAFETY: no code of this guest uses FP.
    unsafe {
        asm!("msr s3_3_c4_c4_0, {}", "msr s3_3_c4_c4_1, {}", in(reg) fpcr, in(reg) fpsr, options(nostack))
    };
}

fn fp_controls() -> (u64, u64) {
    let (fpcr, fpsr);
    // SAFETY: reads.
    unsafe {
        asm!("mrs {}, s3_3_c4_c4_0", "mrs {}, s3_3_c4_c4_1", out(reg) fpcr, out(reg) fpsr, options(nostack))
    };
    (fpcr, fpsr)
}

/// Every kind of exit while all of FP holds `pattern`: whether it still does afterwards.
fn keeps_fp(pattern: u64, rounds: u32) -> Result<(), Why> {
    traces::allow_fp();
    traces::fill_fp(pattern);
    set_fp_controls(FPCR, FPSR);
    for _ in 0..rounds {
        psci::call(psci::function::VERSION, 0, 0, 0);
        smccc::hvc([0xc600_0003, 1, 2, 3, 4]);
        smccc::smc([0x8400_00ff, 0, 0, 0, 0]);
        gic::get().distributor().read32(gic::distributor::TYPER);
        gic::get().send_sgi(2, 0);
        let _ = probe::read(0x3000_0000, 8);
    }
    let found = traces::read_fp();
    let controls = fp_controls();
    ensure!(
        found.iter().all(|word| *word == pattern),
        "core {}: FP holds {:#x}, not {pattern:#x}",
        cpu::index(),
        found.iter().find(|word| **word != pattern).unwrap_or(&0)
    );
    ensure!(controls == (FPCR, FPSR), "FPCR and FPSR are {controls:x?}");
    Ok(())
}

/// How core 1 got on: 0 not done, 1 well, 2 not.
static SECOND: AtomicU64 = AtomicU64::new(0);

fn start_second(machine: &Machine, work: smp::Work, as_it_is: bool) -> Result<(), Why> {
    let &mpidr = machine
        .cpus
        .get(1)
        .ok_or_else(|| why(format_args!("needs two cores")))?;
    SECOND.store(0, Ordering::Release);
    let entry = crate::boot::secondary_entry_address();
    let answer = if as_it_is {
        smp::start_as_it_is(1, mpidr, entry, work)
    } else {
        smp::start(1, mpidr, work)
    };
    ensure!(answer == 0, "CPU_ON of core 1: {answer}");
    Ok(())
}

fn second_is_off(machine: &Machine) -> bool {
    cpu::wait_until_us(10_000_000, || {
        machine.cpus.get(1).is_some_and(|&cpu| smp::is_off(cpu))
    })
}

/// S7: two vCPUs with patterns of their own in all of FP, through every kind of exit; FP switched off is a fault of
/// the guest's own.
fn s7(machine: &Machine) -> Outcome {
    const ROUNDS: u32 = 200;
    /// FP access trapped by CPACR_EL1.
    const FP_TRAPPED: u64 = 0x07;
    start_second(
        machine,
        |_| {
            let kept = keeps_fp(0x2222_aaaa_5555_2222, ROUNDS);
            SECOND.store(1 + u64::from(kept.is_err()), Ordering::Release);
        },
        false,
    )?;
    keeps_fp(0x1111_bbbb_6666_1111, ROUNDS)?;
    ensure!(second_is_off(machine), "core 1 does not stop");
    ensure!(SECOND.load(Ordering::Acquire) == 1, "core 1 lost FP values");
    // SAFETY: no code of this guest uses FP; `fmov x0, d0` is stepped over.
    let trapped = unsafe {
        asm!("msr cpacr_el1, xzr", "isb", options(nostack));
        probe::run(&[0x9e66_0000], 0)
    };
    ensure!(
        trapped.is_err_and(|esr| syndrome::class(esr) == FP_TRAPPED),
        "FP switched off: {trapped:x?}"
    );
    Ok(())
}

macro_rules! must_be_zero {
    ($($name:literal)*) => {
        /// The first of the registers that must be zero when a core starts and is not.
        fn first_left() -> Option<(&'static str, u64)> {
            $(
                let value: u64;
                // SAFETY: a read.
                unsafe { asm!(concat!("mrs {}, ", $name), out(reg) value, options(nomem, nostack)) };
                if value != 0 {
                    return Some(($name, value));
                }
            )*
            None
        }
    };
}

must_be_zero! {
    "tpidr_el0" "tpidrro_el0" "contextidr_el1" "par_el1" "afsr0_el1" "sp_el0" "ttbr1_el1" "mdscr_el1" "cntkctl_el1"
    "dbgbcr0_el1" "dbgbcr1_el1" "dbgwcr0_el1" "dbgwcr1_el1" "dbgbvr0_el1" "dbgwvr0_el1" "cntv_ctl_el0" "cntp_ctl_el0"
    "csselr_el1" "cpacr_el1" "amair_el1"
}

/// P4: a core that left values in FP, debug, timers, and everything else that it could, starts with none of them.
fn p4(machine: &Machine) -> Outcome {
    start_second(
        machine,
        |index| {
            // SAFETY: none of them changes how the rest of this core's life runs; debug exceptions are masked.
            unsafe {
                asm!(
                    "msr dbgbcr0_el1, {on}", "msr dbgwcr1_el1, {on}", "msr mdscr_el1, {mde}", "msr cntkctl_el1, {on}",
                    "msr csselr_el1, {on}", "msr par_el1, {on}",
                    on = in(reg) 0x1e5_u64 | 3, mde = in(reg) 1_u64 << 15, options(nostack)
                );
            }
            traces::leave(index);
        },
        false,
    )?;
    ensure!(
        second_is_off(machine),
        "core 1 does not stop after its first life"
    );
    start_second(
        machine,
        |_| {
            let left = first_left();
            traces::allow_fp();
            let controls = fp_controls();
            let fp = traces::read_fp().into_iter().find(|word| *word != 0);
            if let Some((name, value)) = left {
                println!("{name} starts as {value:#x}");
            }
            if fp.is_some() || controls != (0, 0) {
                println!("FP starts with {fp:x?}, FPCR and FPSR {controls:x?}");
            }
            let is_clean = left.is_none() && fp.is_none() && controls == (0, 0);
            SECOND.store(2 - u64::from(is_clean), Ordering::Release);
            gic::get().init_core();
            traces::tidy();
        },
        true,
    )?;
    ensure!(
        second_is_off(machine),
        "core 1 does not stop after its second life"
    );
    ensure!(
        SECOND.load(Ordering::Acquire) == 1,
        "core 1 found leftovers"
    );
    Ok(())
}

/// S10: a return to a state that this vCPU must not be in (EL2, EL3, AArch32 at EL1, reserved ones) is an illegal one:
/// it stays at EL1 and takes the exception there.
fn s10() -> Outcome {
    const DAIF: u64 = 0xf << 6;
    const ILLEGAL_STATE: u64 = 0x0e;
    for mode in [
        0x01, 0x02, 0x03, 0x06, 0x07, 0x08, 0x09, 0x0a, 0x0c, 0x0d, 0x0f,
    ]
    .into_iter()
    .chain([0x11, 0x12, 0x13, 0x16, 0x17, 0x1a, 0x1b, 0x1f])
    {
        // SAFETY: it goes on right behind the ERET.
        let esr = unsafe { probe::enter(probe::after_enter(), DAIF | mode, 0) };
        ensure!(
            esr != 0 && syndrome::class(esr) == ILLEGAL_STATE,
            "ERET to mode {mode:#x}: ESR {esr:#x}"
        );
    }
    Ok(())
}

/// Code at EL0, and what it must end in.
struct Below {
    what: &'static str,
    code: &'static [u32],
    /// M, and T where it applies.
    pstate: u64,
    /// Class at EL1.
    class: u64,
}

const AARCH64: u64 = 0;
const A32: u64 = 0x10;
const T32: u64 = 0x30;
const SVC64: u64 = 0x15;
const SVC32: u64 = 0x11;
const ABORT: u64 = 0x24;

/// x0 or r0 is the address of the UART's flags; what is read there goes to x1 or r1.
const CASES: [Below; 10] = [
    Below {
        what: "hvc",
        code: &[0xd400_0002],
        pstate: AARCH64,
        class: 0,
    },
    Below {
        what: "smc",
        code: &[0xd400_0003],
        pstate: AARCH64,
        class: 0,
    },
    Below {
        what: "mrs hcr_el2",
        code: &[0xd53c_1100],
        pstate: AARCH64,
        class: 0,
    },
    Below {
        what: "mrs sctlr_el1",
        code: &[0xd538_1000],
        pstate: AARCH64,
        class: 0,
    },
    Below {
        what: "ldr w1, [x0]; svc",
        code: &[0xb940_0001, 0xd400_0001],
        pstate: AARCH64,
        class: SVC64,
    },
    Below {
        what: "A32 hvc",
        code: &[0xe140_0070],
        pstate: A32,
        class: 0,
    },
    Below {
        what: "A32 smc",
        code: &[0xe160_0070],
        pstate: A32,
        class: 0,
    },
    Below {
        what: "A32 ldr r1, [r0]; svc",
        code: &[0xe590_1000, 0xef00_0000],
        pstate: A32,
        class: SVC32,
    },
    // ldr r1, [r0]; svc: two instructions of two bytes.
    Below {
        what: "T32 ldr r1, [r0]; svc",
        code: &[0xdf00_6801],
        pstate: T32,
        class: SVC32,
    },
    // ldr.w r1, [r0]; svc; nop
    Below {
        what: "T32 ldr.w r1, [r0]; svc",
        code: &[0x1000_f8d0, 0xbf00_df00],
        pstate: T32,
        class: SVC32,
    },
];

/// H4 and the rest of S10: EL0, in AArch64 and in AArch32, cannot call, reaches no register of others, and its accesses
/// to a device that EL2 models are stepped over by the size of their instruction.
fn below(machine: &Machine) -> Outcome {
    const DAIF: u64 = 0xf << 6;
    /// GiB of addresses below 4 GiB in which this guest has nothing.
    const CODE_GIB: u64 = 2;
    const DEVICE_GIB: u64 = 3;
    const FLAGS: u64 = 0x18;
    /// Receive FIFO empty, transmit FIFO empty: what the flags of an idle UART say.
    const IDLE: u64 = 0x90;
    let page = memory::scratch_code();
    let code = mmu::map_gib(CODE_GIB, Mapping::UserNormal(page / GIB * GIB)) + page % GIB;
    let devices = mmu::map_gib(DEVICE_GIB, Mapping::UserDevice(0));
    let has_aarch32 = {
        use aarch64_cpu::registers::{ID_AA64PFR0_EL1, Readable};
        ID_AA64PFR0_EL1.get() & 0xf == 2
    };
    // What is printed has left before the flags are looked at.
    cpu::delay_us(20_000);
    for case in CASES
        .iter()
        .filter(|case| has_aarch32 || case.pstate == AARCH64)
    {
        memory::write_code(page, case.code);
        probe::synchronise_code(page);
        let at = devices + machine.uart + FLAGS;
        // SAFETY: one or two instructions of EL0 that end in an exception.
        let esr = unsafe { probe::enter(code, DAIF | case.pstate, at) };
        ensure!(
            esr != 0 && syndrome::class(esr) == case.class,
            "EL0, {}: ESR {esr:#x}",
            case.what
        );
        let read = cpu::this().last_x1.load(Ordering::Acquire);
        ensure!(
            !case.what.contains("ldr") || read & IDLE == IDLE,
            "EL0, {}: read {read:#x}",
            case.what
        );
    }
    // Nothing there: the abort is one from a lower level.
    memory::write_code(page, CASES[4].code);
    probe::synchronise_code(page);
    // SAFETY: as above.
    let esr = unsafe { probe::enter(code, DAIF, devices + 0x3000_0000) };
    ensure!(
        syndrome::class(esr) == ABORT && syndrome::status(esr) == syndrome::EXTERNAL,
        "EL0's access outside the map: ESR {esr:#x}"
    );
    for gib in [CODE_GIB, DEVICE_GIB] {
        mmu::map_gib(gib, Mapping::Identity);
    }
    Ok(())
}
