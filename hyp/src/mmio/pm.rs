//! The power management block of the BCM2835 to BCM2711, as far as its watchdog resets the board.
//!
//! Not in the public documents; offsets and values are those of Linux's `bcm2835_wdt`.

use core::ptr::NonNull;

use tock_registers::interfaces::{Readable, Writeable};
use tock_registers::register_structs;
use tock_registers::registers::ReadWrite;

register_structs! {
    Registers {
        (0x00 => _r0),
        (0x1c => control: ReadWrite<u32>),
        (0x20 => status: ReadWrite<u32>),
        (0x24 => watchdog: ReadWrite<u32>),
        (0x28 => @END),
    }
}

/// Every write has to carry it.
const PASSWORD: u32 = 0x5a00_0000;
/// PM_RSTS: boot partition 63, which the firmware takes for "halt".
const HALT: u32 = 0x555;
/// PM_RSTC: what the watchdog does when it ends, and that it resets everything.
const ACTION: u32 = 0x30;
const FULL_RESET: u32 = 0x20;
/// Ticks of 16 microseconds until it ends.
const SOON: u32 = 10;

/// The block, once its registers are mapped.
pub struct Pm {
    registers: NonNull<Registers>,
}

// SAFETY: device registers may be accessed from any core; exclusion is the owner's lock.
unsafe impl Send for Pm {}

impl Pm {
    /// Bytes of the registers used.
    pub const SIZE: u64 = 0x28;

    /// # Safety
    /// `base` must be the mapped registers of such a block, which nothing else drives.
    pub const unsafe fn new(base: NonNull<u8>) -> Self {
        Self {
            registers: base.cast(),
        }
    }

    fn registers(&self) -> &Registers {
        // SAFETY: mapped for ever, by the contract of `new`; the fields are volatile cells.
        unsafe { self.registers.as_ref() }
    }

    /// Resets the board, a moment after this returns.
    pub fn reset(&mut self) {
        let pm = self.registers();
        pm.watchdog.set(PASSWORD | SOON);
        pm.control
            .set(PASSWORD | pm.control.get() & !ACTION | FULL_RESET);
    }

    /// The same, after which firmware leaves the board off.
    pub fn power_off(&mut self) {
        let pm = self.registers();
        pm.status.set(PASSWORD | pm.status.get() | HALT);
        self.reset();
    }
}
