//! The board's console UART: an Arm PrimeCell PL011 (DDI 0183G).

use core::ptr::NonNull;

use tock_registers::interfaces::{ReadWriteable, Readable, Writeable};
use tock_registers::registers::{ReadOnly, ReadWrite, WriteOnly};
use tock_registers::{register_bitfields, register_structs};

register_bitfields! {
    u32,
    /// Flag register, 3.3.3.
    Flags [ BUSY OFFSET(3) NUMBITS(1) [], RXFE OFFSET(4) NUMBITS(1) [], TXFF OFFSET(5) NUMBITS(1) [] ],
    /// Line control, 3.3.7.
    LineControl [ FEN OFFSET(4) NUMBITS(1) [], WLEN OFFSET(5) NUMBITS(2) [ Eight = 3 ] ],
    /// Control, 3.3.8.
    Control [ UARTEN OFFSET(0) NUMBITS(1) [], TXE OFFSET(8) NUMBITS(1) [], RXE OFFSET(9) NUMBITS(1) [] ],
    /// Interrupt mask, raw and masked status, clear: 3.3.10 to 3.3.13.
    Interrupt [ RX OFFSET(4) NUMBITS(1) [], TX OFFSET(5) NUMBITS(1) [], RT OFFSET(6) NUMBITS(1) [] ]
}

register_structs! {
    Registers {
        (0x000 => data: ReadWrite<u32>),
        (0x004 => _r0),
        (0x018 => flags: ReadOnly<u32, Flags::Register>),
        (0x01c => _r1),
        (0x024 => integer_divisor: ReadWrite<u32>),
        (0x028 => fraction: ReadWrite<u32>),
        (0x02c => line_control: ReadWrite<u32, LineControl::Register>),
        (0x030 => control: ReadWrite<u32, Control::Register>),
        (0x034 => fifo_level: ReadWrite<u32>),
        (0x038 => mask: ReadWrite<u32, Interrupt::Register>),
        (0x03c => _r2),
        (0x044 => clear: WriteOnly<u32, Interrupt::Register>),
        (0x048 => @END),
    }
}

/// The UART, once its registers are mapped.
pub struct Pl011 {
    registers: NonNull<Registers>,
}

// SAFETY: device registers may be accessed from any core; exclusion is the owner's lock.
unsafe impl Send for Pl011 {}

impl Pl011 {
    /// Bytes of the registers used.
    pub const SIZE: u64 = 0x48;

    /// # Safety
    /// `base` must be the mapped register block of a PL011 that nothing else in EL2 drives.
    pub const unsafe fn new(base: NonNull<u8>) -> Self {
        Self {
            registers: base.cast(),
        }
    }

    fn registers(&self) -> &Registers {
        // SAFETY: mapped for ever, by the contract of `new`; the fields are volatile cells.
        unsafe { self.registers.as_ref() }
    }

    /// Turns transmit and receive on, interrupts off. A rate that firmware has set stays; else it becomes
    /// that of `divisor` (UARTIBRD, UARTFBRD).
    pub fn init(&mut self, divisor: (u32, u32)) {
        let uart = self.registers();
        uart.mask.set(0);
        if !uart.control.is_set(Control::UARTEN) || uart.integer_divisor.get() == 0 {
            // Off while it changes (3.3.8); writing the line control takes the divisor over (3.3.6).
            uart.control.set(0);
            uart.integer_divisor.set(divisor.0);
            uart.fraction.set(divisor.1);
        }
        uart.line_control
            .modify(LineControl::FEN::SET + LineControl::WLEN::Eight);
        // Empty now, whatever came before; QEMU looks for more input only when it is read.
        uart.data.get();
        // Transmit at 1/8 full, receive at 1/8 full: few, large transmit bursts and prompt input.
        uart.fifo_level.set(0);
        uart.control
            .modify(Control::UARTEN::SET + Control::TXE::SET + Control::RXE::SET);
    }

    /// Whether everything has left, the FIFO and the shift register.
    pub fn is_idle(&self) -> bool {
        !self.registers().flags.is_set(Flags::BUSY)
    }

    /// Sends `byte` if the FIFO has room.
    pub fn try_send(&mut self, byte: u8) -> bool {
        let uart = self.registers();
        if uart.flags.is_set(Flags::TXFF) {
            return false;
        }
        uart.data.set(u32::from(byte));
        true
    }

    /// The next received byte.
    pub fn receive(&mut self) -> Option<u8> {
        let uart = self.registers();
        if uart.flags.is_set(Flags::RXFE) {
            return None;
        }
        Some(uart.data.get() as u8)
    }

    /// Lets received bytes interrupt, and free FIFO space if `transmit`.
    pub fn set_interrupts(&mut self, transmit: bool) {
        let mut mask = Interrupt::RX::SET + Interrupt::RT::SET;
        if transmit {
            mask += Interrupt::TX::SET;
        }
        self.registers().mask.write(mask);
    }

    /// Drops latched interrupts. Only with nothing left to receive, and what comes meanwhile must be looked
    /// for afterwards: a FIFO that stays above its trigger level does not interrupt anew (2.8.2).
    pub fn clear_interrupts(&mut self) {
        self.registers()
            .clear
            .write(Interrupt::RX::SET + Interrupt::RT::SET + Interrupt::TX::SET);
    }
}
