//! What takes two cores.
//!
//! QEMU runs the cores in turns, and the instructions of both count as time. So these figures are sums over both
//! cores: from the instruction that asks to the first one on the other core, plus what was left of the asking
//! core's trap if QEMU turned to the other core in the middle of it.

use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use aarch64_cpu::registers::{
    CNTV_CTL_EL0, CNTV_CVAL_EL0, CNTVCT_EL0, Readable, TPIDR_EL0, Writeable,
};

use super::Results;
use crate::gic;
use crate::tests::Outcome;
use crate::{cpu, ensure, smp};

global_asm!(
    r#"
    // The ordinary vectors, but the counter is noted in TPIDR_EL0 as an interrupt arrives.
    .section .text.stamping_vectors, "ax"
    .balign 2048
    .global stamping_vectors
stamping_vectors:
    .irp    offset, 0x000,0x080,0x100,0x180,0x200
    .balign 128
    b       vectors + \offset
    .endr
    .balign 128                     // IRQ from the current EL with its own stack
    msr     tpidrro_el0, x0
    mrs     x0, cntvct_el0
    msr     tpidr_el0, x0
    mrs     x0, tpidrro_el0
    b       vectors + 0x280
    .irp    offset, 0x300,0x380,0x400,0x480,0x500,0x580,0x600,0x680,0x700,0x780
    .balign 128
    b       vectors + \offset
    .endr
    .balign 128

    // As secondary_entry; the counter is noted in the same way.
    .global stamping_entry
stamping_entry:
    mrs     x1, cntvct_el0
    msr     tpidr_el0, x1
    mov     x1, #0
    b       secondary_entry
"#
);

unsafe extern "C" {
    fn stamping_vectors();
    fn stamping_entry();
}

/// The other core.
const OTHER: usize = 1;
/// Time for it to come to rest.
const REST: u64 = 50_000;

/// The counter at the other core's last start or interrupt.
static ARRIVED: AtomicU64 = AtomicU64::new(0);
/// The counter when it went to sleep after that.
static RESTED: AtomicU64 = AtomicU64::new(0);
static GO_OFF: AtomicBool = AtomicBool::new(false);

/// The other core: asleep but for SGIs.
fn respond(_: usize) {
    // SAFETY: a whole vector table, each entry of which ends in that of the table before.
    unsafe { asm!("msr vbar_el1, {}", "isb", in(reg) stamping_vectors as *const () as u64) };
    loop {
        ARRIVED.store(TPIDR_EL0.get(), Ordering::Release);
        cpu::mask_irqs();
        if GO_OFF.load(Ordering::Acquire) {
            return;
        }
        RESTED.store(CNTVCT_EL0.get(), Ordering::Release);
        aarch64_cpu::asm::wfi();
        cpu::unmask_irqs();
    }
}

/// Sleeps until the other core rests.
fn rest() {
    let this = cpu::this();
    let ticks = this.timer_ticks.load(Ordering::Acquire);
    CNTV_CVAL_EL0.set(CNTVCT_EL0.get() + REST);
    CNTV_CTL_EL0.write(CNTV_CTL_EL0::ENABLE::SET);
    cpu::sleep_until(|| this.timer_ticks.load(Ordering::Acquire) != ticks);
}

/// Both cores' instructions until the other one shows that `ask` worked.
fn sum(ask: impl FnOnce()) -> u64 {
    let before = CNTVCT_EL0.get();
    ask();
    let after = CNTVCT_EL0.get();
    rest();
    let arrived = ARRIVED.load(Ordering::Acquire);
    if after < arrived {
        // With this core's way to sleep, some ten instructions.
        arrived - before
    } else {
        // The other core ran in the middle of it, up to its sleep.
        (after - before) - (RESTED.load(Ordering::Acquire) - arrived)
    }
}

fn stop(mpidr: u64) -> bool {
    GO_OFF.store(true, Ordering::Release);
    gic::get().send_sgi(2, OTHER);
    let is_off = (0..100).any(|_| {
        rest();
        smp::is_off(mpidr)
    });
    GO_OFF.store(false, Ordering::Release);
    is_off
}

/// CPU_ON, and SGIs to the other core, which has MPIDR affinity `mpidr`.
pub fn measure(mpidr: u64, results: &mut Results) -> Outcome {
    let entry = stamping_entry as *const () as u64;
    let mut well = true;
    cpu::unmask_irqs();
    results.by_counter("cpu_on", || {
        let cost = sum(|| well &= smp::start_at(OTHER, mpidr, entry, respond) == 0);
        well = well && stop(mpidr);
        cost
    });
    ensure!(well, "CPU_ON or CPU_OFF of core {OTHER} fails");
    let answer = smp::start_at(OTHER, mpidr, entry, respond);
    ensure!(answer == 0, "CPU_ON: {answer}");
    rest();
    results.by_counter("sgi_to_other", || sum(|| gic::get().send_sgi(1, OTHER)));
    ensure!(stop(mpidr), "core {OTHER} does not stop");
    Ok(())
}
