//! A device of the board that this guest has, left in the middle of something when its life ends: the next life begins
//! as if there had been none before, and has the device.

use core::sync::atomic::{AtomicBool, Ordering};

use super::super::{Outcome, Why, why};
use super::interrupts::set_mode;
use crate::exception::{DEVICE_CALLS, DEVICE_INTERRUPT, DEVICE_QUIET};
use crate::gic::{self, distributor as d};
use crate::machine::Machine;
use crate::mmio::Mmio;
use crate::smccc::psci;
use crate::{cpu, ensure, println, smp};

/// A PL031 clock (Arm DDI 0224). Its alarm is not reset with the guest, and so keeps the number of the life, too.
#[derive(Clone, Copy)]
struct Clock {
    registers: Mmio,
    intid: u32,
}

impl Clock {
    const MATCH: usize = 0x04;
    const LOAD: usize = 0x08;
    const MASK: usize = 0x10;
    const RAW: usize = 0x14;
    const CLEAR: usize = 0x1c;

    fn of(machine: &Machine) -> Result<Self, Why> {
        let number = |name| {
            let number = machine.arg_number(name);
            number.ok_or_else(|| why(format_args!("no {name}")))
        };
        Ok(Self {
            // SAFETY: the clock that the test gives to this guest, in the device map.
            registers: unsafe { Mmio::new(number("base")?) },
            intid: number("intid")? as u32,
        })
    }

    /// How many lives have ended.
    fn life(self) -> u32 {
        if self.registers.read32(Self::RAW) == 0 {
            0
        } else {
            self.registers.read32(Self::MATCH)
        }
    }

    /// Notes that one more has, and has the alarm go off.
    fn note(self, life: u32) {
        loop {
            self.registers.write32(Self::LOAD, life);
            self.registers.write32(Self::MATCH, life);
            // Unless a second has passed in between.
            if self.registers.read32(Self::RAW) != 0 {
                return;
            }
        }
    }

    /// Its line, once the alarm has gone off.
    fn drive(self, is_high: bool) {
        self.registers.write32(Self::MASK, u32::from(is_high));
    }

    fn is_high(self) -> bool {
        self.registers.read32(Self::MASK) != 0
    }

    /// Its bit of a register of the distributor that has one for each interrupt.
    fn bit(self, register: usize) -> bool {
        let word = gic::get()
            .distributor()
            .read32(register + self.intid as usize / 32 * 4);
        word >> (self.intid % 32) & 1 != 0
    }

    fn trigger(self) -> (usize, u32) {
        let edge = 0b10 << (self.intid % 16 * 2);
        (d::ICFGR + self.intid as usize / 16 * 4, edge)
    }

    /// Raises the line, enabled and with interrupts masked, and acknowledges what comes.
    fn acknowledge(self) -> Outcome {
        cpu::mask_irqs();
        gic::get().enable(self.intid);
        self.drive(true);
        self.take()
    }

    fn take(self) -> Outcome {
        let came = cpu::wait_until_us(2_000_000, || gic::get().acknowledge() & 0x3ff == self.intid);
        ensure!(came, "the clock's interrupt cannot be acknowledged");
        Ok(())
    }
}

/// How a life ends, and what it leaves.
type Way = (&'static str, fn(Clock, &Machine) -> Outcome);

const WAYS: [Way; 8] = [
    ("active and pending", |clock, _| clock.acknowledge()),
    ("offered", |clock, _| {
        cpu::mask_irqs();
        gic::get().enable(clock.intid);
        clock.drive(true);
        cpu::delay_us(1_000);
        Ok(())
    }),
    ("a latch, and no line", |clock, _| {
        let latch = d::ISPENDR + clock.intid as usize / 32 * 4;
        gic::get()
            .distributor()
            .write32(latch, 1 << (clock.intid % 32));
        ensure!(clock.bit(d::ISPENDR), "ISPENDR does not pend");
        Ok(())
    }),
    ("an edge, and active", |clock, _| {
        let (register, edge) = clock.trigger();
        let registers = gic::get().distributor();
        registers.write32(register, registers.read32(register) | edge);
        clock.acknowledge()
    }),
    ("its priority dropped", |clock, _| {
        set_mode(true);
        clock.acknowledge()?;
        gic::get().end(clock.intid);
        Ok(())
    }),
    ("active on another vCPU", |clock, machine| {
        elsewhere(clock, machine, |_| {
            take_elsewhere();
            loop {
                aarch64_cpu::asm::wfi();
            }
        })
    }),
    ("active on a vCPU that went off; off", |clock, machine| {
        elsewhere(clock, machine, |_| take_elsewhere())?;
        let is_off = cpu::wait_until_us(2_000_000, || smp::is_off(machine.cpus[1]));
        ensure!(is_off, "core 1 is on");
        gic::get().enable(clock.intid);
        clock.take()?;
        println!("g9: off");
        psci::system_off()
    }),
    ("active; stopped by the operator", |clock, _| {
        clock.acknowledge()?;
        println!("g9: hangs");
        loop {
            aarch64_cpu::asm::wfi();
        }
    }),
];

static CLOCK: spin::Once<Clock> = spin::Once::new();
static IS_READY: AtomicBool = AtomicBool::new(false);
static HAS_TAKEN: AtomicBool = AtomicBool::new(false);

/// The interrupt goes to core 1, which does `work`, until it has been taken there.
fn elsewhere(clock: Clock, machine: &Machine, work: smp::Work) -> Outcome {
    CLOCK.call_once(|| clock);
    let &second = machine
        .cpus
        .get(1)
        .ok_or_else(|| why(format_args!("needs two cores")))?;
    cpu::mask_irqs();
    gic::get().enable(clock.intid);
    gic::get().route(clock.intid, 1, second);
    let answer = smp::start(1, second, work);
    ensure!(answer == 0, "CPU_ON of core 1: {answer}");
    // Not before its handler is out of the way.
    let is_ready = cpu::wait_until_us(4_000_000, || IS_READY.load(Ordering::Acquire));
    ensure!(is_ready, "core 1 does not start");
    clock.drive(true);
    let has = cpu::wait_until_us(4_000_000, || HAS_TAKEN.load(Ordering::Acquire));
    ensure!(has, "core 1 does not get the interrupt");
    Ok(())
}

fn take_elsewhere() {
    cpu::mask_irqs();
    IS_READY.store(true, Ordering::Release);
    let taken = CLOCK.get().is_some_and(|clock| clock.take().is_ok());
    HAS_TAKEN.store(taken, Ordering::Release);
}

/// The interrupt as this life finds it: as after a reset, but for a line that is high; and it comes once for each time.
fn is_as_new(clock: Clock) -> Outcome {
    let is_high = clock.is_high();
    let calls = || DEVICE_CALLS.load(Ordering::Acquire);
    for (register, name) in [(d::ISENABLER, "enabled"), (d::ISACTIVER, "active")] {
        ensure!(!clock.bit(register), "it is {name}");
    }
    ensure!(
        clock.bit(d::ISPENDR) == is_high,
        "pending is {}, though its line is {is_high}",
        !is_high
    );
    let (register, edge) = clock.trigger();
    ensure!(
        gic::get().distributor().read32(register) & edge == 0,
        "it is an edge"
    );
    let before = cpu::this().interrupts.load(Ordering::Acquire);
    cpu::delay_us(1_000);
    let came = cpu::this().interrupts.load(Ordering::Acquire) - before;
    ensure!(came == 0, "{came} interrupts before any was enabled");
    DEVICE_QUIET.store(clock.registers.address(Clock::MASK), Ordering::Relaxed);
    DEVICE_INTERRUPT.store(clock.intid, Ordering::Relaxed);
    gic::get().enable(clock.intid);
    let first = u32::from(is_high);
    for round in first..first + 3 {
        let came = cpu::wait_until_us(2_000_000, || calls() == round);
        cpu::delay_us(1_000);
        ensure!(
            came && calls() == round,
            "{} interrupts of {round}",
            calls()
        );
        clock.drive(true);
    }
    let came = cpu::wait_until_us(2_000_000, || calls() == first + 3);
    ensure!(
        came && !clock.is_high(),
        "{} interrupts at the end",
        calls()
    );
    gic::get().disable(clock.intid);
    ensure!(!clock.bit(d::ISPENDR), "it is pending with its line low");
    Ok(())
}

/// G9: lives that end with the interrupt in every state there is, by reset, power-off and the operator.
pub fn g9(machine: &Machine) -> Outcome {
    let clock = Clock::of(machine)?;
    let life = clock.life();
    if let Some((before, _)) = life.checked_sub(1).and_then(|n| WAYS.get(n as usize)) {
        is_as_new(clock).map_err(|text| why(format_args!("after \"{before}\": {text}")))?;
    }
    let Some((what, leave)) = WAYS.get(life as usize) else {
        clock.drive(false);
        clock.registers.write32(Clock::CLEAR, 1);
        println!("g9: {life} lives");
        return Ok(());
    };
    clock.note(life + 1);
    leave(clock, machine).map_err(|text| why(format_args!("{what}: {text}")))?;
    psci::call(psci::function::SYSTEM_RESET, 0, 0, 0);
    Err(why(format_args!("SYSTEM_RESET returned")))
}
