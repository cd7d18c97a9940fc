//! Calls, the interrupt controller and the timer.

use core::arch::{asm, global_asm};
use core::sync::atomic::Ordering;

use aarch64_cpu::registers::{
    CNTV_CTL_EL0, CNTV_CVAL_EL0, CNTVCT_EL0, Readable, VBAR_EL1, Writeable,
};

use super::{Results, Unit};
use crate::gic::{self, Gic, distributor};
use crate::machine::Machine;
use crate::smccc::psci::function;
use crate::tests::Outcome;
use crate::{cpu, ensure};

global_asm!(
    r#"
    // Vectors while an interrupt is timed: the first instruction of the handler reads the counter into x9, for
    // which the interrupted code waits; interrupts are masked on return, so that it is taken once.
    .section .text.bench_vectors, "ax"
    .balign 2048
    .global bench_vectors
bench_vectors:
    .space  0x280, 0
    mrs     x9, cntvct_el0
    mrs     x11, spsr_el1
    orr     x11, x11, #0x80
    msr     spsr_el1, x11
    eret
    .balign 2048
"#
);

unsafe extern "C" {
    fn bench_vectors();
}

/// A private interrupt that nothing raises.
const UNUSED_PPI: u32 = 20;

/// Counter difference around one instruction sequence.
macro_rules! timed {
    ($($asm:literal),* ; $($operands:tt)*) => {{
        let (before, after): (u64, u64);
        // SAFETY: calls that change only the registers listed, and registers of the interrupt controller whose
        // values are written back as they were.
        unsafe {
            asm!("mrs {before}, cntvct_el0", $($asm,)* "mrs {after}, cntvct_el0",
                 before = out(reg) before, after = out(reg) after, $($operands)* options(nostack))
        };
        after - before
    }};
}

fn hvc(function: u64, argument: u64) -> u64 {
    timed!("hvc #0"; inout("x0") function => _, inout("x1") argument => _, out("x2") _, out("x3") _,)
}

fn smc(function: u64) -> u64 {
    timed!("smc #0"; inout("x0") function => _, out("x1") _, out("x2") _, out("x3") _,)
}

fn read(address: u64) -> u64 {
    timed!("ldr {v:w}, [{a}]"; v = out(reg) _, a = in(reg) address,)
}

fn write(address: u64, value: u32) -> u64 {
    timed!("str {v:w}, [{a}]"; v = in(reg) value, a = in(reg) address,)
}

/// Runs `action` with the timing vectors; interrupts are masked before and after.
fn with_bench_vectors(action: impl FnOnce() -> u64) -> u64 {
    cpu::mask_irqs();
    let usual = VBAR_EL1.get();
    VBAR_EL1.set(bench_vectors as *const () as u64);
    aarch64_cpu::asm::barrier::isb(aarch64_cpu::asm::barrier::SY);
    let result = action();
    VBAR_EL1.set(usual);
    aarch64_cpu::asm::barrier::isb(aarch64_cpu::asm::barrier::SY);
    result
}

/// Takes and ends the interrupt that was timed.
fn end_interrupt() {
    let acknowledged = gic::get().acknowledge();
    gic::get().end(acknowledged);
}

fn sgi_to_self() -> u64 {
    with_bench_vectors(|| {
        let (sent, handled): (u64, u64);
        // SAFETY: sends SGI 1 to this core; the vectors above write x9 and x11 alone.
        unsafe {
            match gic::get() {
                Gic::V3(_) => asm!(
                    "msr daifclr, #2", "mov x9, #0", "mrs {sent}, cntvct_el0",
                    "msr icc_sgi1r_el1, {value}", "0: cbz x9, 0b",
                    sent = out(reg) sent, value = in(reg) 1_u64 << 24 | 1 << cpu::index(),
                    out("x9") handled, out("x11") _, options(nostack)
                ),
                Gic::V2(gic) => asm!(
                    "msr daifclr, #2", "mov x9, #0", "mrs {sent}, cntvct_el0",
                    "str {value:w}, [{address}]", "0: cbz x9, 0b",
                    sent = out(reg) sent, value = in(reg) 1_u32 << (16 + cpu::index()) | 1,
                    address = in(reg) gic.distributor.address(distributor::SGIR),
                    out("x9") handled, out("x11") _, options(nostack)
                ),
            }
        }
        end_interrupt();
        handled - sent
    })
}

/// How the timer's interrupt is waited for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Wait {
    Spin,
    /// For a core that is never held up: an interrupt that comes just before WFI would not end it.
    Sleep,
    /// Interrupts are let in once WFI has ended.
    SleepMasked,
}

fn timer(wait: Wait) -> u64 {
    with_bench_vectors(|| {
        let due = CNTVCT_EL0.get() + 5000;
        CNTV_CVAL_EL0.set(due);
        CNTV_CTL_EL0.write(CNTV_CTL_EL0::ENABLE::SET);
        let handled: u64;
        // SAFETY: waits for the timer's interrupt; the vectors write x9 and x11 alone.
        unsafe {
            match wait {
                Wait::Sleep => asm!("mov x9, #0", "msr daifclr, #2", "0: wfi", "cbz x9, 0b",
                     out("x9") handled, out("x11") _, options(nostack)),
                Wait::SleepMasked => {
                    asm!("mov x9, #0", "0: wfi", "msr daifclr, #2", "isb", "msr daifset, #2", "cbz x9, 0b",
                     out("x9") handled, out("x11") _, options(nostack))
                }
                Wait::Spin => asm!("mov x9, #0", "msr daifclr, #2", "0: cbz x9, 0b",
                     out("x9") handled, out("x11") _, options(nostack)),
            }
        }
        CNTV_CTL_EL0.set(0);
        end_interrupt();
        handled - due
    })
}

/// Everything that traps or interrupts.
pub fn measure(machine: &Machine, results: &mut Results) -> Outcome {
    let faults = cpu::this().faults.load(Ordering::Relaxed);
    let mut pair = [0; super::SAMPLES];
    pair.fill_with(|| timed!(;));
    results.empty = results.of_samples(&mut pair);
    results.push("empty_pair", results.empty);

    if !machine.psci_by_smc {
        results.median("hvc_psci_version", || hvc(function::VERSION, 0));
        results.median("hvc_psci_features", || {
            hvc(function::FEATURES, function::CPU_ON)
        });
    }
    if machine.balloon.is_some() || machine.psci_by_smc {
        results.median("smc_psci_version", || smc(function::VERSION));
    }
    let gic = gic::get();
    let typer = gic.distributor().address(distributor::TYPER);
    results.median("gicd_typer_read", || read(typer));
    let enabler = gic.private().address(distributor::ISENABLER);
    results.median("isenabler0_read", || read(enabler));
    let disabler = gic.private().address(distributor::ICENABLER);
    results.median("isenabler0_write", || {
        write(disabler, 1 << UNUSED_PPI);
        write(enabler, 1 << UNUSED_PPI)
    });
    write(disabler, 1 << UNUSED_PPI);
    let priority = gic.private().address(distributor::IPRIORITYR);
    results.median("ipriorityr0_write", || write(priority, 0xa0a0_a0a0));

    gic.enable(gic::VIRTUAL_TIMER);
    results.median("sgi_to_self", sgi_to_self);
    results.median("timer_spinning", || timer(Wait::Spin));
    let sleep = match results.unit {
        Unit::Ticks => Wait::Sleep,
        Unit::Nanoseconds => Wait::SleepMasked,
    };
    results.median("timer_wfi", || timer(sleep));
    cpu::unmask_irqs();
    ensure!(
        cpu::this().faults.load(Ordering::Relaxed) == faults,
        "something faulted"
    );
    Ok(())
}
