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
    .macro bench_vectors_by counter
    .space  0x280, 0
    mrs     x9, \counter
    mrs     x11, spsr_el1
    orr     x11, x11, #0x80
    msr     spsr_el1, x11
    eret
    .balign 2048
    .endm

    .section .text.bench_vectors, "ax"
    .balign 2048
    .global bench_vectors
bench_vectors:
    bench_vectors_by cntvct_el0
    .global bench_vectors_cycles
bench_vectors_cycles:
    bench_vectors_by pmccntr_el0
"#
);

unsafe extern "C" {
    fn bench_vectors();
    fn bench_vectors_cycles();
}

/// A private interrupt that nothing raises.
const UNUSED_PPI: u32 = 20;

/// What is measured on one core, by one of its counters.
struct Operations {
    pair: fn() -> u64,
    hvc: fn(function: u64, argument: u64) -> u64,
    smc: fn(function: u64) -> u64,
    read: fn(address: u64) -> u64,
    write: fn(address: u64, value: u32) -> u64,
    sgi_to_self: fn() -> u64,
}

/// Counter difference around one instruction sequence. `$counter` is read behind `$sync`.
macro_rules! timed {
    ($sync:literal, $counter:literal, $asm:literal ; $($operands:tt)*) => {{
        let (before, after): (u64, u64);
        // SAFETY: calls that change only the registers listed, and registers of the interrupt controller whose
        // values are written back as they were.
        unsafe {
            asm!($sync, concat!("mrs {before}, ", $counter), $asm, $sync, concat!("mrs {after}, ", $counter),
                 before = out(reg) before, after = out(reg) after, $($operands)* options(nostack))
        };
        after - before
    }};
}

/// [`Operations`] by `$counter`, which `$vectors` read, too.
macro_rules! operations {
    ($sync:literal, $counter:literal, $vectors:ident) => {
        Operations {
            pair: || timed!($sync, $counter, "";),
            hvc: |function, argument| {
                timed!($sync, $counter, "hvc #0"; inout("x0") function => _, inout("x1") argument => _, out("x2") _,
                       out("x3") _,)
            },
            smc: |function| {
                timed!($sync, $counter, "smc #0"; inout("x0") function => _, out("x1") _, out("x2") _, out("x3") _,)
            },
            read: |address| {
                timed!($sync, $counter, "ldr {v:w}, [{a}]"; v = out(reg) _, a = in(reg) address,)
            },
            write: |address, value| {
                timed!($sync, $counter, "str {v:w}, [{a}]"; v = in(reg) value, a = in(reg) address,)
            },
            sgi_to_self: || {
                with_vectors($vectors as *const () as u64, || {
                    let (sent, handled): (u64, u64);
                    // SAFETY: sends SGI 1 to this core; the vectors above write x9 and x11 alone.
                    unsafe {
                        match gic::get() {
                            Gic::V3(_) => asm!(
                                "msr daifclr, #2", "mov x9, #0", $sync, concat!("mrs {sent}, ", $counter),
                                "msr icc_sgi1r_el1, {value}", "2: cbz x9, 2b",
                                sent = out(reg) sent, value = in(reg) 1_u64 << 24 | 1 << cpu::index(),
                                out("x9") handled, out("x11") _, options(nostack)
                            ),
                            Gic::V2(gic) => asm!(
                                "msr daifclr, #2", "mov x9, #0", $sync, concat!("mrs {sent}, ", $counter),
                                "str {value:w}, [{address}]", "2: cbz x9, 2b",
                                sent = out(reg) sent, value = in(reg) 1_u32 << (16 + cpu::index()) | 1,
                                address = in(reg) gic.distributor.address(distributor::SGIR),
                                out("x9") handled, out("x11") _, options(nostack)
                            ),
                        }
                    }
                    end_interrupt();
                    handled - sent
                })
            },
        }
    };
}

/// By the virtual counter, which counts instructions in some emulators.
const TICKS: Operations = operations!("", "cntvct_el0", bench_vectors);
/// By the core's cycle counter.
const CYCLES: Operations = operations!("isb", "pmccntr_el0", bench_vectors_cycles);

/// Runs `action` with these timing vectors; interrupts are masked before and after.
fn with_vectors(vectors: u64, action: impl FnOnce() -> u64) -> u64 {
    cpu::mask_irqs();
    let usual = VBAR_EL1.get();
    VBAR_EL1.set(vectors);
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
    with_vectors(bench_vectors as *const () as u64, || {
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
    let Operations {
        pair,
        hvc,
        smc,
        read,
        write,
        sgi_to_self,
    } = match results.unit {
        Unit::Ticks => TICKS,
        Unit::Cycles => CYCLES,
    };
    results.median("empty_pair", pair);
    results.empty = results.all.last().map_or(0, |(_, value)| *value);

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
    results.by_counter("timer_spinning", || timer(Wait::Spin));
    let sleep = match results.unit {
        Unit::Ticks => Wait::Sleep,
        Unit::Cycles => Wait::SleepMasked,
    };
    results.by_counter("timer_wfi", || timer(sleep));
    cpu::unmask_irqs();
    ensure!(
        cpu::this().faults.load(Ordering::Relaxed) == faults,
        "something faulted"
    );
    Ok(())
}
