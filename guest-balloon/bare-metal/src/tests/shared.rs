//! A PL061 GPIO controller (Arm DDI 0190B) whose page and interrupt two guests share: one has its data
//! registers, the other the rest. And the BCM2711's GPIO block, of which each has some pins.

use core::sync::atomic::Ordering;

use aarch64_cpu::registers::{CNTVCT_EL0, Readable};

use super::Outcome;
use crate::exception::{DEVICE_CALLS, DEVICE_INTERRUPT, DEVICE_QUIET};
use crate::machine::Machine;
use crate::mmio::Mmio;
use crate::probe::{self, WIDTHS};
use crate::{cpu, ensure, gic, memory, println};

/// Offsets from the second KiB of the page: GPIOIS, GPIOIEV, GPIOIE.
const IS: usize = 0x04;
const IEV: usize = 0x0c;
const IE: usize = 0x10;
/// PrimeCell identification 0 of a PL061, from the same.
const PERIPH_ID0: u64 = 0xbe0;

/// Counts the device's interrupt from now on.
fn listen(machine: &Machine) -> Result<(), super::Why> {
    let intid = machine.arg_number("intid").unwrap_or(0) as u32;
    ensure!(intid >= 32, "no intid");
    DEVICE_INTERRUPT.store(intid, Ordering::Relaxed);
    gic::get().enable(intid);
    Ok(())
}

/// Neither loads nor stores of any width get through at `address`.
fn is_out_of_reach(address: u64) -> Outcome {
    for width in WIDTHS {
        // The registers that a store would hit if it got through belong to another.
        let address = address & !u64::from(width - 1);
        let load = probe::read(address, width);
        ensure!(
            load.is_err(),
            "read of {address:#x}, width {width}: {load:x?}"
        );
        // SAFETY: no RAM.
        let store = unsafe { probe::write(address, width, 0) };
        ensure!(store.is_err(), "write of {address:#x}, width {width}");
    }
    Ok(())
}

/// The guest with the first KiB: its registers are there, the others are not, and the interrupt comes
/// whatever the other guest does.
pub fn data(machine: &Machine) -> Outcome {
    let base = machine.arg_number("base").unwrap_or(0);
    let data = probe::read(base + 0x3fc, 4);
    ensure!(data == Ok(0), "data register: {data:x?}");
    let byte = probe::read(base + 0x3fc, 1);
    ensure!(byte == Ok(0), "a byte of it: {byte:x?}");
    ensure!(probe::read(base + 0x3f8, 8).is_err(), "64 bits were read");
    is_out_of_reach(base + 0x400)?;
    is_out_of_reach(base + 0xff0)?;
    if let Some(hole) = machine.arg_number("hole") {
        is_out_of_reach(hole)?;
    }
    let before = cpu::counter();
    for _ in 0..512 {
        let _ = probe::read(base + 0x3fc, 4);
    }
    let trapped = cpu::counter() - before;
    let before = cpu::counter();
    for _ in 0..512 {
        let _ = probe::read(memory::scratch_code(), 4);
    }
    let plain = cpu::counter() - before;
    println!(
        "a trapped read takes {} ticks",
        trapped.saturating_sub(plain) / 512
    );
    listen(machine)?;
    let least = machine.arg_number("least").unwrap_or(20) as u32;
    println!("listening");
    let came = cpu::wait_until_us(20_000_000, || DEVICE_CALLS.load(Ordering::Acquire) >= least);
    let calls = DEVICE_CALLS.load(Ordering::Acquire);
    ensure!(came, "the interrupt came {calls} times");
    Ok(())
}

/// The guest with the rest of the page: raises the interrupt, and handles it as it is told to.
pub fn control(machine: &Machine) -> Outcome {
    let base = machine.arg_number("base").unwrap_or(0);
    let id = probe::read(base + PERIPH_ID0, 4);
    ensure!(id == Ok(0x61), "identification: {id:x?}");
    is_out_of_reach(base - 0x400)?;
    // SAFETY: this guest's registers, in the device map.
    let registers = unsafe { Mmio::new(base) };
    // Pin 0 is low, and low interrupts while it is enabled.
    registers.write32(IS, 1);
    registers.write32(IEV, 0);
    let is_silent = machine.arg("manner") == Some("silent");
    let is_noisy = machine.arg("manner") == Some("noisy");
    if is_silent {
        cpu::mask_irqs();
    }
    if !is_noisy {
        DEVICE_QUIET.store(registers.address(IE), Ordering::Relaxed);
    }
    listen(machine)?;
    let calls = || DEVICE_CALLS.load(Ordering::Acquire);
    if is_silent || is_noisy {
        registers.write32(IE, 1);
        cpu::delay_us(5_000_000);
        registers.write32(IE, 0);
        println!("{} interrupts", calls());
        return Ok(());
    }
    for round in 1..=200 {
        registers.write32(IE, 1);
        let came = cpu::wait_until_us(5_000_000, || calls() >= round);
        ensure!(came, "interrupt {round} did not come");
        cpu::delay_us(10_000);
        ensure!(calls() == round, "{} interrupts in round {round}", calls());
    }
    Ok(())
}

/// The BCM2711's GPIO block (BCM2711 ARM Peripherals, 5.2).
const GPIO: u64 = 0xfe20_0000;
const SET: usize = 0x1c;
const CLEAR: usize = 0x28;
const LEVEL: usize = 0x34;
const PULL: usize = 0xe4;
const EVENTS: usize = 0x40;
/// Rising, falling, high, low, and the two asynchronous ones.
const ENABLES: [usize; 6] = [0x4c, 0x58, 0x64, 0x70, 0x7c, 0x88];

/// A pin of 0 to 31 that is this guest's.
#[derive(Clone, Copy)]
pub struct Pin {
    gpio: Mmio,
    bit: u32,
}

impl Pin {
    /// Makes it an output. Of the register that is written only this pin's field is the guest's.
    pub fn output(pin: u32) -> Self {
        // SAFETY: the BCM2711's block, of which the guest was given the pin.
        let gpio = unsafe { Mmio::new(GPIO) };
        gpio.write32(pin as usize / 10 * 4, 1 << (pin % 10 * 3));
        Self {
            gpio,
            bit: 1 << (pin & 31),
        }
    }

    /// High or low.
    pub fn drive(self, high: bool) {
        self.gpio.write32(if high { SET } else { CLEAR }, self.bit);
    }
}

/// One pin of 0 to 31, driven and read back while another guest does the same with another, each trying all pins
/// at each access. Then the guest's UART, if it has one.
pub fn pins(machine: &Machine) -> Outcome {
    let pin = machine.arg_number("pin").unwrap_or(0) as u32;
    // SAFETY: the block is there, and what of it is this guest's is what is tried.
    let gpio = unsafe { Mmio::new(GPIO) };
    let (bit, select) = (1 << pin, pin as usize / 10 * 4);
    let function = |value: u32| value << (pin % 10 * 3);
    // Output for this pin and for every other of the register.
    gpio.write32(select, 0o1_111_111_111);
    let found = gpio.read32(select);
    ensure!(found == function(1), "function register reads {found:#o}");
    gpio.write32(select, 0o4_444_444_444);
    let found = gpio.read32(select);
    ensure!(
        found == function(1),
        "an alternate function was had: {found:#o}"
    );
    let pull = PULL + pin as usize / 16 * 4;
    gpio.write32(pull, u32::MAX);
    let found = gpio.read32(pull);
    ensure!(
        found == 3 << (pin % 16 * 2),
        "pull register reads {found:#x}"
    );
    ensure!(
        probe::read(GPIO + LEVEL as u64, 1).is_err(),
        "a byte was read"
    );
    is_out_of_reach(GPIO + 0x200)?;
    println!("toggling");
    // At least as many rounds, and for as long as it is told to.
    let long = machine.arg_number("seconds").unwrap_or(0) * cpu::frequency();
    let start = CNTVCT_EL0.get();
    let mut round = 0;
    while round < 500 || CNTVCT_EL0.get() - start < long {
        round += 1;
        // Function, pull and event enables are as they were, and of others' pins nothing is had.
        let found = (gpio.read32(select), gpio.read32(pull));
        let expected = (function(1), 3 << (pin % 16 * 2));
        ensure!(
            found == expected,
            "round {round}: function and pull {found:x?}"
        );
        gpio.write32(select, 0o1_111_111_111);
        gpio.write32(pull, u32::MAX);
        for enable in ENABLES {
            gpio.write32(enable, !bit);
            let found = gpio.read32(enable);
            ensure!(found == 0, "event enables at {enable:#x} read {found:#x}");
        }
        gpio.write32(EVENTS, !bit);
        let found = gpio.read32(EVENTS) & !bit;
        ensure!(found == 0, "others' events: {found:#x}");
        gpio.write32(SET, u32::MAX);
        cpu::delay_us(200);
        let high = gpio.read32(LEVEL);
        ensure!(high == bit, "round {round}: set, {high:#x}");
        gpio.write32(CLEAR, u32::MAX);
        cpu::delay_us(300);
        let low = gpio.read32(LEVEL);
        ensure!(low == 0, "round {round}: cleared, {low:#x}");
    }
    if let Some(base) = machine.arg_number("uart") {
        mini_uart(machine, base)?;
    } else if let Some(base) = machine.arg_number("spi") {
        // Of the UART's page and on its interrupt, which this guest hears, too.
        ensure!(probe::read(base, 4).is_ok(), "own registers");
        is_out_of_reach(base - 0x40)?;
        listen(machine)?;
        let came = cpu::wait_until_us(20_000_000, || DEVICE_CALLS.load(Ordering::Acquire) >= 20);
        ensure!(came, "the interrupt that is shared did not come");
    }
    Ok(())
}

/// The BCM2711's mini-UART (BCM2711 ARM Peripherals, 2.2), which shares page and interrupt with another guest's SPI.
fn mini_uart(machine: &Machine, base: u64) -> Outcome {
    const IO: usize = 0x00;
    const IER: usize = 0x04;
    const LSR: usize = 0x14;
    // SAFETY: this guest's registers.
    let uart = unsafe { Mmio::new(base) };
    is_out_of_reach(base + 0x40)?;
    // Of the switch only the own bit shows.
    let switch = probe::read(base - 0x40 + 4, 4);
    ensure!(switch == Ok(1), "AUX_ENABLES reads {switch:x?}");
    for byte in b"the mini-UART of a guest\n" {
        let ready = cpu::wait_until_us(1_000_000, || uart.read32(LSR) & 1 << 5 != 0);
        ensure!(ready, "no room in the transmitter");
        uart.write32(IO, u32::from(*byte));
    }
    // The transmitter is empty: interrupts as often as it is asked to.
    DEVICE_QUIET.store(uart.address(IER), Ordering::Relaxed);
    listen(machine)?;
    let calls = || DEVICE_CALLS.load(Ordering::Acquire);
    for round in 1..=100 {
        uart.write32(IER, 2);
        let came = cpu::wait_until_us(5_000_000, || calls() >= round);
        ensure!(came, "interrupt {round} did not come");
        cpu::delay_us(20_000);
    }
    Ok(())
}
