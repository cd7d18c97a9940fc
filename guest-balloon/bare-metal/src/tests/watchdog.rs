//! Arm's generic watchdog, where a guest with `watchdog;` has it.

use super::Outcome;
use crate::machine::Machine;
use crate::mmio::Mmio;
use crate::{cpu, ensure, println};

/// Control frame; the refresh frame follows (BSA, DEN0094).
const BASE: u64 = 0x0b00_0000;
const WCS: usize = 0x000;
const WOR: usize = 0x008;
const WCV: usize = 0x010;
const WRR: usize = 0x1000;
/// Of WCS: enabled, and its first signal.
const EN: u32 = 1;
const WS0: u32 = 1 << 1;

/// Feeds it for longer than it waits, then turns it off, and then, with `starve`, lets it end. An emulator on a busy
/// machine may stand still for a second.
pub fn run(machine: &Machine) -> Outcome {
    // SAFETY: the guest has a watchdog there; the first GiB is mapped as device memory.
    let dog = unsafe { Mmio::new(BASE) };
    ensure!(dog.read32(WCS) == 0, "it is armed: {:#x}", dog.read32(WCS));
    let offset = cpu::frequency() * 3 / 2;
    dog.write32(WOR, offset as u32);
    dog.write32(WCS, EN);
    let due = dog.read64(WCV);
    ensure!(
        due.abs_diff(cpu::counter() + offset) < offset,
        "its first signal is due at {due}"
    );
    for _ in 0..45 {
        dog.write32(WRR, 0);
        cpu::delay_us(100_000);
    }
    println!("fed");
    let was_late = cpu::wait_until_us(2_900_000, || dog.read32(WCS) == EN | WS0);
    ensure!(was_late, "its first signal did not come");
    dog.write32(WCS, 0);
    cpu::delay_us(2_000_000);
    if machine.arg("starve").is_some() {
        dog.write32(WCS, EN);
        println!("no longer fed");
        cpu::delay_us(60_000_000);
        ensure!(false, "it did not end");
    }
    Ok(())
}
