//! What is typed for one guest, while others do not read theirs and set up their receivers anew all the time.

use core::sync::atomic::{AtomicBool, Ordering};

use super::super::Outcome;
use crate::exception::{DEVICE_CALLS, DEVICE_INTERRUPT, DEVICE_QUIET};
use crate::machine::Machine;
use crate::mmio::Mmio;
use crate::uart::pl011::{CR, CR_ON, DR, FR, FR_RXFE, ICR, IFLS, IMSC, LCR_H, LCR_H_FEN};
use crate::{cpu, ensure, gic, println, smp};

/// Receive, and receive timeout.
const RECEIVED: u32 = 1 << 4 | 1 << 6;
/// Ballast's UART in a guest.
const INTID: u32 = 33;

static UART: spin::Once<Mmio> = spin::Once::new();
static DONE: AtomicBool = AtomicBool::new(false);

/// The other vCPU: masks, clears and sets triggers, in a loop. It never looks at what has come.
fn race(_: usize) {
    let Some(uart) = UART.get() else { return };
    let mut round = 0;
    while !DONE.load(Ordering::Acquire) {
        round += 1;
        uart.write32(IMSC, 0);
        uart.write32(ICR, 0x7ff);
        uart.write32(IFLS, round & 0x3f);
        uart.write32(LCR_H, [0, LCR_H_FEN][round as usize % 2]);
        uart.write32(CR, 0);
        uart.write32(ICR, 0x7ff);
        uart.write32(CR, CR_ON);
        uart.write32(LCR_H, LCR_H_FEN);
        uart.write32(IMSC, RECEIVED);
        cpu::relax();
    }
}

/// D3: receives `bytes` of the alphabet by interrupts, in bursts of `burst`, and says so after each.
pub fn d3(machine: &Machine) -> Outcome {
    let number = |name, otherwise| machine.arg_number(name).unwrap_or(otherwise);
    let (bytes, burst) = (number("bytes", 1000), number("burst", 50));
    // SAFETY: the device tree's PL011.
    let uart = *UART.call_once(|| unsafe { Mmio::new(machine.uart) });
    uart.write32(LCR_H, LCR_H_FEN);
    DEVICE_QUIET.store(uart.address(IMSC), Ordering::Relaxed);
    DEVICE_INTERRUPT.store(INTID, Ordering::Relaxed);
    gic::get().enable(INTID);
    if let Some(&second) = machine.cpus.get(1) {
        let answer = smp::start(1, second, race);
        ensure!(answer == 0, "CPU_ON of core 1: {answer}");
    }
    println!("d3: listening");
    let calls = || DEVICE_CALLS.load(Ordering::Acquire);
    let mut got = 0;
    while got < bytes {
        let before = calls();
        uart.write32(IMSC, RECEIVED);
        let came = cpu::wait_until_us(30_000_000, || calls() != before);
        ensure!(came, "no interrupt after {got} bytes");
        while uart.read32(FR) & FR_RXFE == 0 {
            let byte = uart.read32(DR);
            let expected = u32::from(b'a') + (got % 26) as u32;
            ensure!(byte == expected, "byte {got} is {byte:#x}");
            got += 1;
            if got % burst == 0 {
                println!("d3: {got} bytes.");
            }
        }
        uart.write32(ICR, RECEIVED);
    }
    DONE.store(true, Ordering::Release);
    Ok(())
}
