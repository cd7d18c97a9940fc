//! Guests that waste time as hard as they can, and a victim that measures what it notices of it. The bound is one on
//! starvation: under emulation, with more cores than the machine has, a finer one would measure the machine. What one
//! stay in EL2 costs is counted by `cargo xtask bench` and bounded on the host.

use core::arch::asm;
use core::sync::atomic::{AtomicBool, Ordering};

use aarch64_cpu::registers::{
    CNTP_CTL_EL0, CNTP_CVAL_EL0, CNTV_CTL_EL0, CNTV_CVAL_EL0, Readable, Writeable,
};

use ballast_balloon::abi::PAGE_SIZE;

use super::super::{Outcome, basic};
use crate::machine::Machine;
use crate::mmu::{self, Mapping};
use crate::smccc::{self, psci};
use crate::{cpu, ensure, gic, memory, println, probe, smp};

/// A way to waste time, once.
type Kind = (&'static str, fn(&Machine));

/// What each vCPU repeats for a while.
const KINDS: [Kind; 10] = [
    ("device accesses", |machine| {
        let _ = probe::read(machine.uart + 0x18, 4);
    }),
    ("aborts", |_| {
        let _ = probe::read(0x3000_0000, 8);
    }),
    ("calls", |_| {
        psci::call(psci::function::VERSION, 0, 0, 0);
        smccc::hvc([0xc600_0005, 512, 1, 0, 0]);
    }),
    ("SGIs", |_| {
        for id in 8..16 {
            gic::get().send_sgi(id, 0);
            gic::get().send_sgi(id, 1);
        }
    }),
    ("TLB invalidation", |_| {
        // SAFETY: confined to the own VMID; everything is mapped to itself.
        unsafe {
            asm!("tlbi vmalle1is", "tlbi vaae1is, {0}", "dsb ish", "isb", in(reg) u64::MAX >> 20, options(nostack))
        };
    }),
    ("cache maintenance", |_| {
        let image = memory::image();
        for line in image.step_by(64).take(64) {
            // SAFETY: changes no contents.
            unsafe { asm!("dc civac, {}", in(reg) line, options(nostack)) };
        }
        // SAFETY: as above.
        unsafe { asm!("dsb sy", "ic ialluis", "dsb ish", "isb", options(nostack)) };
    }),
    ("exclusives", |_| {
        static WORD: core::sync::atomic::AtomicU64 = core::sync::atomic::AtomicU64::new(0);
        for _ in 0..64 {
            WORD.fetch_add(1, Ordering::SeqCst);
        }
    }),
    ("wake-ups", |_| {
        // SAFETY: hints; the event is set, so that WFE does not wait.
        unsafe { asm!("sev", "wfe", "yield", options(nomem, nostack)) };
    }),
    ("waiting with an interrupt pending", |_| {
        // S6: masked and pending, so that WFI returns at once.
        cpu::mask_irqs();
        gic::get().send_sgi(7, cpu::index());
        aarch64_cpu::asm::wfi();
        cpu::unmask_irqs();
    }),
    ("interrupt controller", |_| {
        let registers = gic::get().distributor();
        registers.write32(gic::distributor::CTLR, 0);
        gic::get().reset_distributor();
        gic::get().enable(40);
        gic::get().disable(40);
    }),
];

static STOP: AtomicBool = AtomicBool::new(false);
static MACHINE: spin::Once<Machine> = spin::Once::new();

/// All kinds, each for `ms`.
fn waste(ms: u64) {
    let Some(machine) = MACHINE.get() else { return };
    for (_, once) in KINDS {
        let end = cpu::counter() + cpu::frequency() * ms / 1000;
        while cpu::counter() < end && !STOP.load(Ordering::Acquire) {
            once(machine);
        }
    }
}

/// T1, M10, S5, S6: two vCPUs waste their time in every way.
pub fn all(machine: &Machine) -> Outcome {
    MACHINE.call_once(|| machine.clone());
    let ms = machine.arg_number("ms").unwrap_or(100);
    s5()?;
    let Some(&second) = machine.cpus.get(1) else {
        return Ok(());
    };
    let answer = smp::start(1, second, |_| waste(100));
    ensure!(answer == 0, "CPU_ON of core 1: {answer}");
    waste(ms);
    let is_off = cpu::wait_until_us(20_000_000, || smp::is_off(second));
    STOP.store(true, Ordering::Release);
    ensure!(is_off, "core 1 is stuck");
    println!("storm: {} kinds of {ms} ms", KINDS.len());
    basic::timer()
}

/// S5: timers at the ends of their range, and one that is always due: an interrupt for each time it is let in, no more.
fn s5() -> Outcome {
    for value in [0, 1, u64::MAX, 1 << 63, i64::MAX as u64] {
        CNTP_CVAL_EL0.set(value);
        // Enabled and masked.
        CNTP_CTL_EL0.set(0b11);
        // SAFETY: instruction synchronisation.
        unsafe { asm!("isb", options(nostack)) };
        let is_due = CNTP_CTL_EL0.get() >> 2 & 1 == 1;
        ensure!(
            is_due == (value <= cpu::counter()),
            "CNTP at {value:#x}: due {is_due}"
        );
    }
    CNTP_CTL_EL0.set(0);
    gic::get().enable(gic::VIRTUAL_TIMER);
    let this = cpu::this();
    for round in 0..200 {
        let before = this.timer_ticks.load(Ordering::Acquire);
        CNTV_CVAL_EL0.set(0);
        CNTV_CTL_EL0.set(1);
        let came = cpu::wait_until_us(2_000_000, || {
            this.timer_ticks.load(Ordering::Acquire) != before
        });
        let count = this.timer_ticks.load(Ordering::Acquire) - before;
        // The handler switches it off.
        ensure!(
            came && count == 1,
            "round {round}: {count} ticks of a timer that is due"
        );
    }
    Ok(())
}

/// The victim: a tick every millisecond, and a pattern in memory that nobody changes. The longest time that a tick or
/// a turn of its loop was late must not reach `bound-ms`.
pub fn latency(machine: &Machine) -> Outcome {
    const SEED: u64 = 0x1a7e;
    let seconds = machine.arg_number("seconds").unwrap_or(4);
    let bound = machine.arg_number("bound-ms").unwrap_or(1000) * cpu::frequency() / 1000;
    let page = memory::scratch_code();
    // SAFETY: the page of code, which nothing runs here.
    unsafe { memory::fill(page, SEED) };
    gic::get().enable(gic::VIRTUAL_TIMER);
    let this = cpu::this();
    let period = cpu::frequency() / 1000;
    let end = cpu::counter() + seconds * cpu::frequency();
    let (mut latest, mut ticks) = (0, 0_u64);
    while cpu::counter() < end {
        let before = this.timer_ticks.load(Ordering::Acquire);
        let due = cpu::counter() + period;
        CNTV_CVAL_EL0.set(due);
        CNTV_CTL_EL0.write(CNTV_CTL_EL0::ENABLE::SET);
        cpu::sleep_until(|| this.timer_ticks.load(Ordering::Acquire) != before);
        latest = latest.max(cpu::counter() - due);
        ticks += 1;
        // SAFETY: as above.
        let kept = unsafe { memory::verify(page, SEED) };
        ensure!(kept.is_ok(), "tick {ticks}: {kept:x?}");
    }
    let sgis: u32 = this
        .sgis
        .iter()
        .map(|count| count.load(Ordering::Acquire))
        .sum();
    ensure!(sgis == 0, "{sgis} SGIs that nobody here sent");
    println!(
        "latest {} us late in {ticks} ticks",
        latest * 1_000_000 / cpu::frequency()
    );
    ensure!(
        latest < bound,
        "a tick was {} ms late",
        latest * 1000 / cpu::frequency()
    );
    Ok(())
}

/// S11: vectors where nothing is, then an exception: faults for ever, in this guest alone. Somebody has to stop it.
pub fn s11() -> Outcome {
    println!("s11: falling");
    let nothing = mmu::map_scratch(Mapping::Normal(0)) + 0x3000_0000;
    // SAFETY: the end of this guest: nothing of it runs any more.
    unsafe {
        asm!("msr daifset, #0xf", "mov sp, {0}", "msr vbar_el1, {0}", "isb", "brk #0", in(reg) nothing, options(noreturn));
    }
}

/// D1: every register of the UART, in every width, and what lies between and beyond; then it prints as before.
pub fn d1(machine: &Machine) -> Outcome {
    const DATA: u64 = 0;
    let mut random = probe::Random(0x9011);
    let (mut done, mut refused) = (0_u32, 0_u32);
    for offset in (0..PAGE_SIZE).step_by(4) {
        let at = machine.uart + offset;
        for width in probe::WIDTHS {
            let found = probe::read(at, width);
            // A pair has no syndrome. What is not aligned is a fault of stage 1, though not before QEMU 9; a hypervisor
            // that sees it may answer it.
            let is_aligned = at.is_multiple_of(u64::from(width));
            ensure!(
                found.is_err() == (width == 16) || width != 16 && !is_aligned,
                "{width}-byte read of {at:#x}: {found:x?}"
            );
            for value in [0, u64::MAX, random.next()] {
                // What is printed is text.
                let value = if offset == DATA {
                    u64::from(b'.')
                } else {
                    value
                };
                // SAFETY: the guest's own UART.
                match unsafe { probe::write(at, width, value) } {
                    Ok(()) => done += 1,
                    Err(_) => refused += 1,
                }
            }
        }
        let _ = probe::read(at + 1, 4);
    }
    let beyond = probe::read(machine.uart + PAGE_SIZE, 4);
    ensure!(beyond.is_err(), "behind the UART: {beyond:x?}");
    // SAFETY: the device tree's PL011.
    crate::uart::init(unsafe { crate::mmio::Mmio::new(machine.uart) });
    println!("\nd1: {done} writes done, {refused} refused");
    d2();
    Ok(())
}

/// D2: output that poses as another's, that would move the terminal, without end; the suite looks at what is shown.
fn d2() {
    let forged = [
        "[ballast] d2: forged by a guest",
        "[victim] d2: forged by a guest",
        "\x1b[2J\x1b[H[ballast] d2: forged by a guest",
        "\r[ballast] d2: forged by a guest",
        "\0\0\0\x08\x08\x08[ballast] d2: forged by a guest",
        "\x1dm status d2: forged by a guest",
    ];
    for text in forged {
        println!("{text}");
    }
    let long = "[ballast] d2: forged by a guest ".repeat_into();
    for _ in 0..20 {
        println!("{}", long.as_str());
    }
    println!("d2: flooded");
}

trait RepeatInto {
    fn repeat_into(&self) -> heapless::String<1024>;
}

impl RepeatInto for str {
    /// As often as it fits.
    fn repeat_into(&self) -> heapless::String<1024> {
        let mut all = heapless::String::new();
        while all.push_str(self).is_ok() {}
        all
    }
}
