//! Vectors and handlers.
//!
//! Interrupt handlers only count (atomics of [`crate::cpu::PerCpu`]); what follows from them is done
//! by the code that waits. Synchronous exceptions are either expected by a test, counted and stepped over, or the end.

use core::arch::global_asm;
use core::ops::Range;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use aarch64_cpu::registers::{CNTV_CTL_EL0, ESR_EL1, FAR_EL1, Readable, Writeable};

use ballast_balloon::abi::channel::MAX_CHANNELS;
use ballast_balloon::abi::device_tree::CHANNEL_SPI;

use crate::{cpu, gic};

global_asm!(
    r#"
    .macro  VECTOR kind
    .balign 128
    sub     sp, sp, #272
    stp     x0, x1, [sp]
    mov     x0, #\kind
    b       save_and_handle
    .endm

    .section .text.vectors, "ax"
    .balign 2048
    .global vectors
vectors:
    .irp    kind, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15
    VECTOR  \kind
    .endr

    .balign 128
save_and_handle:
    stp     x2, x3, [sp, #16]
    stp     x4, x5, [sp, #32]
    stp     x6, x7, [sp, #48]
    stp     x8, x9, [sp, #64]
    stp     x10, x11, [sp, #80]
    stp     x12, x13, [sp, #96]
    stp     x14, x15, [sp, #112]
    stp     x16, x17, [sp, #128]
    stp     x18, x19, [sp, #144]
    stp     x20, x21, [sp, #160]
    stp     x22, x23, [sp, #176]
    stp     x24, x25, [sp, #192]
    stp     x26, x27, [sp, #208]
    stp     x28, x29, [sp, #224]
    mrs     x1, elr_el1
    mrs     x2, spsr_el1
    stp     x30, x1, [sp, #240]
    str     x2, [sp, #256]
    mov     x1, sp
    bl      {handle}
    ldp     x30, x1, [sp, #240]
    ldr     x2, [sp, #256]
    msr     elr_el1, x1
    msr     spsr_el1, x2
    ldp     x2, x3, [sp, #16]
    ldp     x4, x5, [sp, #32]
    ldp     x6, x7, [sp, #48]
    ldp     x8, x9, [sp, #64]
    ldp     x10, x11, [sp, #80]
    ldp     x12, x13, [sp, #96]
    ldp     x14, x15, [sp, #112]
    ldp     x16, x17, [sp, #128]
    ldp     x18, x19, [sp, #144]
    ldp     x20, x21, [sp, #160]
    ldp     x22, x23, [sp, #176]
    ldp     x24, x25, [sp, #192]
    ldp     x26, x27, [sp, #208]
    ldp     x28, x29, [sp, #224]
    ldp     x0, x1, [sp]
    add     sp, sp, #272
    eret
"#,
    handle = sym handle,
);

/// The interrupted context, as the vectors save it.
#[repr(C)]
pub struct Frame {
    /// x0 to x30.
    pub x: [u64; 31],
    /// Where it was interrupted.
    pub elr: u64,
    /// Its PSTATE.
    pub spsr: u64,
    _pad: u64,
}

/// The balloon's interrupt (INTID), 0 for none.
pub static BALLOON_INTERRUPT: AtomicU64 = AtomicU64::new(0);
/// Set by the balloon's interrupt, which is disabled until the target has been fetched.
pub static BALLOON_CALLS: AtomicBool = AtomicBool::new(false);

/// The doorbells of channels, which are edges.
const CHANNEL_INTIDS: Range<u32> = CHANNEL_SPI + 32..CHANNEL_SPI + 32 + MAX_CHANNELS as u32;
/// Interrupts of each channel so far.
pub static RUNG: [AtomicU64; MAX_CHANNELS] = [const { AtomicU64::new(0) }; MAX_CHANNELS];

/// The interrupt (INTID) of the device that a test has, 0 for none.
pub static DEVICE_INTERRUPT: AtomicU32 = AtomicU32::new(0);
/// How often it came.
pub static DEVICE_CALLS: AtomicU32 = AtomicU32::new(0);
/// Address of the register that silences the device when it is written zero; 0 for none.
pub static DEVICE_QUIET: AtomicU64 = AtomicU64::new(0);

/// Vector of an interrupt from the current EL with its own stack.
const IRQ_HERE: u64 = 5;
/// Vector of a synchronous exception from there.
const SYNC_HERE: u64 = 4;
/// Vectors of a synchronous exception from EL0, in AArch64 and in AArch32.
const SYNC_BELOW: [u64; 2] = [8, 12];

/// Exception classes (Arm ARM DDI 0487 D17.2.37) after which the handler does more than step.
mod class {
    pub const ILLEGAL_STATE: u64 = 0x0e;
    pub const BREAKPOINT_HERE: u64 = 0x31;
    pub const STEP_HERE: u64 = 0x33;
    pub const WATCHPOINT_HERE: u64 = 0x35;
}

/// PSTATE.SS and PSTATE.IL.
const SPSR_SS_IL: u64 = 1 << 21 | 1 << 20;

extern "C" fn handle(kind: u64, frame: &mut Frame) {
    match kind {
        IRQ_HERE => interrupt(),
        SYNC_HERE => synchronous(frame),
        _ if SYNC_BELOW.contains(&kind) => from_below(frame),
        _ => unexpected(kind, frame),
    }
}

fn interrupt() {
    let gic = gic::get();
    let acknowledged = gic.acknowledge();
    let intid = acknowledged & 0x3ff;
    if intid >= gic::SPECIAL {
        return;
    }
    let this = cpu::this();
    cpu::bump(&this.interrupts);
    match intid {
        0..=15 => {
            this.sgis[intid as usize].fetch_add(1, Ordering::AcqRel);
        }
        gic::VIRTUAL_TIMER => {
            this.timer_at.store(cpu::counter(), Ordering::Relaxed);
            cpu::bump(&this.timer_ticks);
            // Level-triggered: off until the waiter sets the next.
            CNTV_CTL_EL0.set(0);
            aarch64_cpu::asm::barrier::isb(aarch64_cpu::asm::barrier::SY);
        }
        other if u64::from(other) == BALLOON_INTERRUPT.load(Ordering::Relaxed) => {
            gic.disable(other);
            BALLOON_CALLS.store(true, Ordering::Release);
        }
        other if CHANNEL_INTIDS.contains(&other) => {
            RUNG[(other - CHANNEL_INTIDS.start) as usize].fetch_add(1, Ordering::AcqRel);
        }
        other if other == DEVICE_INTERRUPT.load(Ordering::Relaxed) => {
            let quiet = DEVICE_QUIET.load(Ordering::Relaxed);
            if quiet != 0 {
                // SAFETY: a 32-bit register of a device that is this guest's, as the test that gave it says.
                unsafe { crate::mmio::Mmio::new(quiet) }.write32(0, 0);
            }
            DEVICE_CALLS.fetch_add(1, Ordering::AcqRel);
        }
        // A level nobody lowers would come for ever.
        other => gic.disable(other),
    }
    gic.end(acknowledged);
}

fn synchronous(frame: &mut Frame) {
    let this = cpu::this();
    let esr = ESR_EL1.get();
    if !this.expect_fault.load(Ordering::Relaxed) {
        unexpected(SYNC_HERE, frame);
    }
    note(esr, frame);
    // An instruction abort returns to the caller, anything else steps over the instruction.
    frame.elr = match esr >> 26 & 0x3f {
        0x20 | 0x21 => frame.x[30],
        class::ILLEGAL_STATE => frame.elr,
        // The debug exceptions of a test come once.
        class::BREAKPOINT_HERE | class::STEP_HERE | class::WATCHPOINT_HERE => {
            // SAFETY: no debug exceptions any more, which nothing but their tests uses.
            unsafe { core::arch::asm!("msr mdscr_el1, xzr", "isb", options(nomem, nostack)) };
            frame.elr
        }
        _ => frame.elr + 4,
    };
    frame.spsr &= !SPSR_SS_IL;
}

/// For the test that caused it.
fn note(esr: u64, frame: &Frame) {
    let this = cpu::this();
    cpu::bump(&this.faults);
    this.last_esr.store(esr, Ordering::Relaxed);
    this.last_elr.store(frame.elr, Ordering::Relaxed);
    this.last_x1.store(frame.x[1], Ordering::Relaxed);
    this.classes
        .fetch_or(1 << (esr >> 26 & 0x3f), Ordering::Relaxed);
}

/// Whatever code of EL0 does ends there: back to where [`crate::probe::enter`] was left.
fn from_below(frame: &mut Frame) {
    /// EL1h, all masked.
    const EL1H_MASKED: u64 = 0x3c5;
    note(ESR_EL1.get(), frame);
    frame.elr = crate::probe::after_enter();
    frame.spsr = EL1H_MASKED;
}

fn unexpected(kind: u64, frame: &Frame) -> ! {
    crate::die(format_args!(
        "unexpected exception {kind} on core {}: ESR {:#x} FAR {:#x} ELR {:#x} SPSR {:#x} LR {:#x}",
        cpu::index(),
        ESR_EL1.get(),
        FAR_EL1.get(),
        frame.elr,
        frame.spsr,
        frame.x[30],
    ))
}
