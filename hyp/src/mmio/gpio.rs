//! The BCM2711's GPIO block, as far as the console's pins need it (BCM2711 ARM Peripherals, 5.2).

use core::ptr::NonNull;

use ballast_core::board::Pin;
use tock_registers::interfaces::{Readable, Writeable};
use tock_registers::register_structs;
use tock_registers::registers::ReadWrite;

register_structs! {
    Registers {
        (0x00 => function: [ReadWrite<u32>; 6]),
        (0x18 => _r0),
        (0xe4 => pull: [ReadWrite<u32>; 4]),
        (0xf4 => @END),
    }
}

/// The block, once its registers are mapped.
pub struct Gpio {
    registers: NonNull<Registers>,
}

impl Gpio {
    /// Bytes of the registers used.
    pub const SIZE: u64 = 0xf4;

    /// # Safety
    /// `base` must be the mapped registers of a BCM2711's GPIO block, which nothing else drives meanwhile.
    pub const unsafe fn new(base: NonNull<u8>) -> Self {
        Self {
            registers: base.cast(),
        }
    }

    /// Gives `pin` its function and pull; does nothing to one that has its function already.
    pub fn route(&mut self, pin: Pin) {
        // SAFETY: mapped, by the contract of `new`; the fields are volatile cells.
        let gpio = unsafe { self.registers.as_ref() };
        let number = u32::from(pin.number);
        // Ten fields of three bits, sixteen of two.
        let (Some(function), Some(pull)) = (
            gpio.function.get((number / 10) as usize),
            gpio.pull.get((number / 16) as usize),
        ) else {
            return;
        };
        let shift = number % 10 * 3;
        let old = function.get();
        if old >> shift & 7 == u32::from(pin.function) {
            return;
        }
        let pull_shift = number % 16 * 2;
        pull.set(pull.get() & !(3 << pull_shift) | u32::from(pin.pull) << pull_shift);
        function.set(old & !(7 << shift) | u32::from(pin.function) << shift);
    }
}
