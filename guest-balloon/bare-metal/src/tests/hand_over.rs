//! Cores that come and go: one that leaves is left as dirty as a guest can make it, one that comes must be as new.

use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use aarch64_cpu::registers::{CNTV_CTL_EL0, CNTV_CVAL_EL0, Writeable};
use ballast_balloon::abi::function;

use super::{Outcome, why};
use crate::gic::{self, VIRTUAL_TIMER, distributor as d};
use crate::machine::Machine;
use crate::smccc::{self, psci};
use crate::{cpu, ensure, println, smp};

/// The core that comes and goes.
const OTHER: usize = 1;
/// The physical timer's PPI.
const PHYSICAL_TIMER: u32 = 30;

global_asm!(
    r#"
    // As secondary_entry. What it ORs from the general registers, x1 has from all others that a guest can see and
    // that must be zero when a core starts.
    .section .text.probing_entry, "ax"
    .arch_extension fp
    .arch_extension simd
    .macro gather name
    mrs     x2, \name
    orr     x1, x1, x2
    .endm
    .global probing_entry
probing_entry:
    orr     x1, x1, x2
    gather  cpacr_el1
    mov     x2, #(3 << 20)
    msr     cpacr_el1, x2
    isb
    .irp    n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
    fmov    x2, d\n
    orr     x1, x1, x2
    fmov    x2, v\n\().d[1]
    orr     x1, x1, x2
    .endr
    gather  fpcr
    gather  fpsr
    msr     cpacr_el1, xzr
    .irp    n, 0,1,2,3,4,5
    gather  dbgbvr\n\()_el1
    gather  dbgbcr\n\()_el1
    .endr
    .irp    n, 0,1,2,3
    gather  dbgwvr\n\()_el1
    gather  dbgwcr\n\()_el1
    .endr
    gather  mdscr_el1
    gather  mdccint_el1
    gather  cntv_ctl_el0
    gather  cntv_cval_el0
    gather  cntp_ctl_el0
    gather  cntp_cval_el0
    gather  cntkctl_el1
    gather  tpidr_el0
    gather  tpidr_el1
    gather  tpidrro_el0
    gather  contextidr_el1
    gather  vbar_el1
    gather  ttbr0_el1
    gather  ttbr1_el1
    gather  tcr_el1
    gather  mair_el1
    gather  esr_el1
    gather  far_el1
    gather  par_el1
    gather  elr_el1
    gather  spsr_el1
    gather  sp_el0
    gather  csselr_el1
    mrs     x2, sctlr_el1
    and     x2, x2, #1
    orr     x1, x1, x2
    mov     x2, sp
    orr     x1, x1, x2
    mov     x2, #0
    b       secondary_entry
    .arch_extension nosimd
    .arch_extension nofp
"#
);

unsafe extern "C" {
    fn probing_entry();
}

static GO_OFF: AtomicBool = AtomicBool::new(false);
/// Distributor state, then interface state, that the last start found.
static FOUND: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];
static CHECKED: AtomicU64 = AtomicU64::new(0);
static PINGED: AtomicU64 = AtomicU64::new(0);

/// How many CPUs this guest shall have.
fn target() -> u64 {
    smccc::hvc([function::TARGET.into(), 0, 0, 0, 0])[2] >> 32
}

/// The other core's work: looks, lives, and leaves with everything set that can be.
fn live_and_soil(_: usize) {
    let gic = gic::get();
    let private = gic.private();
    let mut left = private.read32(d::ISENABLER) & 0xffff_0000;
    for register in [d::ISPENDR, d::ISACTIVER] {
        left |= private.read32(register);
    }
    for word in 0..8 {
        left |= private.read32(d::IPRIORITYR + 4 * word);
    }
    FOUND[0].store(left.into(), Ordering::Relaxed);
    FOUND[1].store(gic.interface_leftovers().into(), Ordering::Relaxed);
    gic.init_core();
    cpu::unmask_irqs();
    gic.enable(VIRTUAL_TIMER);
    let this = cpu::this();
    let (ticks, pings) = (
        this.timer_ticks.load(Ordering::Acquire),
        this.sgis[1].load(Ordering::Acquire),
    );
    CNTV_CVAL_EL0.set(cpu::counter() + cpu::frequency() / 1000);
    CNTV_CTL_EL0.write(CNTV_CTL_EL0::ENABLE::SET);
    CHECKED.fetch_add(1, Ordering::AcqRel);
    cpu::sleep_until(|| {
        this.timer_ticks.load(Ordering::Acquire) > ticks
            && this.sgis[1].load(Ordering::Acquire) > pings
    });
    PINGED.fetch_add(1, Ordering::AcqRel);
    while !GO_OFF.load(Ordering::Acquire) {
        cpu::relax();
    }
    soil(gic);
}

fn soil(gic: gic::Gic) {
    const PATTERN: u64 = 0xa5a5_5a5a_a5a5_5a5a;
    cpu::mask_irqs();
    // One timer fires and is left active, the other's latch is set; an SGI is left active, another pending.
    gic.enable(VIRTUAL_TIMER);
    CNTV_CVAL_EL0.set(1);
    CNTV_CTL_EL0.write(CNTV_CTL_EL0::ENABLE::SET);
    cpu::delay_us(200);
    gic.acknowledge();
    let private = gic.private();
    private.write8(d::IPRIORITYR + 6, 0x20);
    gic.send_sgi(6, OTHER);
    cpu::delay_us(200);
    gic.acknowledge();
    gic.send_sgi(7, OTHER);
    // Disabled, or it would be taken and not stay a latch.
    gic.disable(PHYSICAL_TIMER);
    private.write32(d::ISPENDR, 1 << PHYSICAL_TIMER);
    // SAFETY: the core goes off and uses none of these before: FP belongs to nobody here, no debug exception is taken
    // (MDSCR_EL1.KDE is clear), interrupts are masked.
    unsafe {
        asm!(
            ".arch_extension fp",
            ".arch_extension simd",
            "mov {t}, #(3 << 20)",
            "msr cpacr_el1, {t}",
            "isb",
            ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31",
            "dup v\\n\\().2d, {p}",
            ".endr",
            "mov {t}, #0x9f",
            "msr fpsr, {t}",
            "mov {t}, #0x07c00000",
            "msr fpcr, {t}",
            ".irp n, 0,1,2,3,4,5",
            "msr dbgbvr\\n\\()_el1, {a}",
            "mov {t}, #0x1e4",
            "msr dbgbcr\\n\\()_el1, {t}",
            ".endr",
            ".irp n, 0,1,2,3",
            "msr dbgwvr\\n\\()_el1, {a}",
            "mov {t}, #0x1ffc",
            "msr dbgwcr\\n\\()_el1, {t}",
            ".endr",
            "mov {t}, #0x8000",
            "msr mdscr_el1, {t}",
            "msr cntp_cval_el0, {a}",
            "mov {t}, #3",
            "msr cntp_ctl_el0, {t}",
            "msr cntkctl_el1, {t}",
            "msr tpidr_el0, {p}",
            "msr tpidrro_el0, {p}",
            "msr contextidr_el1, {t}",
            "msr esr_el1, {t}",
            "msr far_el1, {p}",
            "msr elr_el1, {p}",
            "msr spsr_el1, {t}",
            "msr sp_el0, {p}",
            "msr csselr_el1, {t}",
            ".arch_extension nosimd",
            ".arch_extension nofp",
            p = in(reg) PATTERN, a = in(reg) 0x0000_5a5a_5a5a_5a58_u64, t = out(reg) _,
            options(nostack)
        );
    }
}

/// Follows its CPU target with one core, which leaves dirty and must come clean, `checks` times.
pub fn hand_over(machine: &Machine) -> Outcome {
    let checks = machine.arg_number("checks").unwrap_or(1);
    let &mpidr = machine
        .cpus
        .get(OTHER)
        .ok_or_else(|| why(format_args!("needs two CPUs")))?;
    let entry = probing_entry as *const () as u64;
    let mut denied = 0_u64;
    loop {
        let done = CHECKED.load(Ordering::Acquire);
        GO_OFF.store(false, Ordering::Release);
        let answer = smp::start_as_it_is(OTHER, mpidr, entry, live_and_soil);
        if answer == psci::error::DENIED {
            ensure!(done < checks || machine.arg("last").is_none(), "denied");
            if done >= checks {
                return linger();
            }
            denied += 1;
            cpu::delay_us(2_000);
            continue;
        }
        ensure!(answer == 0, "CPU_ON: {answer}");
        let checked = || CHECKED.load(Ordering::Acquire) > done;
        ensure!(cpu::wait_until_us(5_000_000, checked), "it does not come");
        let (registers, found) = (
            smp::leftovers(OTHER),
            FOUND.each_ref().map(|found| found.load(Ordering::Relaxed)),
        );
        ensure!(
            registers == 0 && found == [0, 0],
            "left behind: registers {registers:#x}, GIC {found:x?}"
        );
        gic::get().send_sgi(1, OTHER);
        let pinged = || PINGED.load(Ordering::Acquire) > done;
        ensure!(cpu::wait_until_us(5_000_000, pinged), "no interrupt comes");
        println!("clean {} after {denied} refusals", done + 1);
        if done + 1 == checks && machine.arg("last").is_some() {
            return linger();
        }
        while target() > 1 {
            cpu::delay_us(1_000);
        }
        GO_OFF.store(true, Ordering::Release);
        let off = || smp::is_off(mpidr);
        ensure!(cpu::wait_until_us(5_000_000, off), "it does not go");
    }
}

/// Until whoever types has turned to what this guest says.
fn linger() -> Outcome {
    cpu::delay_us(2_000_000);
    Ok(())
}

/// Work that ends at once.
const fn leave(_: usize) {}

/// Turns all its CPUs on as fast as it can, granted or not, for `seconds`; those that start go off again. Whatever its
/// target, only what may be answered is answered.
pub fn storm(machine: &Machine) -> Outcome {
    let seconds = machine.arg_number("seconds").unwrap_or(5);
    let end = cpu::counter() + seconds * cpu::frequency();
    let (mut started, mut denied) = (0_u64, 0_u64);
    while cpu::counter() < end {
        for (index, &mpidr) in machine.cpus.iter().enumerate().skip(1) {
            match smp::start(index, mpidr, leave) {
                0 => started += 1,
                psci::error::DENIED => denied += 1,
                psci::error::ALREADY_ON | psci::error::ON_PENDING => {}
                other => return Err(why(format_args!("CPU_ON of {index}: {other}"))),
            }
        }
    }
    ensure!(
        started > 0 && denied > 0,
        "{started} started, {denied} denied"
    );
    println!("{started} started, {denied} denied");
    Ok(())
}
