//! The mini-UART of the BCM2711, like a 16550 (BCM2711 ARM Peripherals, 2.2).
//!
//! Its interrupt is shared with two SPI controllers of the same block: AUX_IRQ says whose it is.

use core::ptr::NonNull;

use tock_registers::interfaces::{ReadWriteable, Readable, Writeable};
use tock_registers::registers::{ReadOnly, ReadWrite};
use tock_registers::{register_bitfields, register_structs};

register_bitfields! {
    u32,
    /// AUX_IRQ and AUX_ENABLES, 2.1.
    Block [ MINI_UART OFFSET(0) NUMBITS(1) [] ],
    /// AUX_MU_IER, with the bits as in a 16550: the document has them exchanged. Bits 3:2 have to be set
    /// for receive interrupts.
    Enable [ RX OFFSET(0) NUMBITS(1) [], TX OFFSET(1) NUMBITS(1) [], ALWAYS OFFSET(2) NUMBITS(2) [ Set = 3 ] ],
    /// AUX_MU_LSR.
    Status [ RX_READY OFFSET(0) NUMBITS(1) [], TX_ROOM OFFSET(5) NUMBITS(1) [], TX_IDLE OFFSET(6) NUMBITS(1) [] ]
}

register_structs! {
    Auxiliary {
        (0x00 => irq: ReadOnly<u32, Block::Register>),
        (0x04 => enables: ReadWrite<u32, Block::Register>),
        (0x08 => @END),
    }
}

register_structs! {
    Registers {
        (0x00 => io: ReadWrite<u32>),
        (0x04 => interrupt_enable: ReadWrite<u32, Enable::Register>),
        (0x08 => interrupt_identify: ReadWrite<u32>),
        (0x0c => line_control: ReadWrite<u32>),
        (0x10 => modem_control: ReadWrite<u32>),
        (0x14 => line_status: ReadOnly<u32, Status::Register>),
        (0x18 => _r0),
        (0x20 => control: ReadWrite<u32>),
        (0x24 => _r1),
        (0x28 => baud: ReadWrite<u32>),
        (0x2c => @END),
    }
}

/// The UART, once its registers are mapped.
pub struct MiniUart {
    auxiliary: NonNull<Auxiliary>,
    registers: NonNull<Registers>,
}

// SAFETY: device registers may be accessed from any core; exclusion is the owner's lock.
unsafe impl Send for MiniUart {}

impl MiniUart {
    /// Bytes of the registers used.
    pub const SIZE: u64 = 0x2c;
    /// Bytes of the block's own registers.
    pub const AUXILIARY_SIZE: u64 = 8;

    /// # Safety
    /// `registers` must be the mapped registers of a mini-UART that nothing else in EL2 drives, `auxiliary`
    /// those of its block.
    pub const unsafe fn new(auxiliary: NonNull<u8>, registers: NonNull<u8>) -> Self {
        Self {
            auxiliary: auxiliary.cast(),
            registers: registers.cast(),
        }
    }

    fn auxiliary(&self) -> &Auxiliary {
        // SAFETY: mapped for ever, by the contract of `new`; the fields are volatile cells.
        unsafe { self.auxiliary.as_ref() }
    }

    fn registers(&self) -> &Registers {
        // SAFETY: as above.
        unsafe { self.registers.as_ref() }
    }

    /// Turns it on for eight bits, interrupts off. A rate that firmware has set stays; else it becomes that
    /// of `divisor` (AUX_MU_BAUD).
    pub fn init(&mut self, divisor: u32) {
        const EIGHT_BITS: u32 = 3;
        const RECEIVE_TRANSMIT: u32 = 3;
        let (block, uart) = (self.auxiliary(), self.registers());
        let was_on = block.enables.is_set(Block::MINI_UART);
        // While it is off its registers cannot be reached (2.1).
        block.enables.modify(Block::MINI_UART::SET);
        uart.interrupt_enable.set(0);
        if !was_on || uart.baud.get() == 0 {
            uart.control.set(0);
            uart.baud.set(divisor);
        }
        uart.line_control.set(EIGHT_BITS);
        uart.modem_control.set(0);
        uart.control.set(RECEIVE_TRANSMIT);
    }

    /// Sends `byte` if the FIFO has room.
    pub fn try_send(&mut self, byte: u8) -> bool {
        let uart = self.registers();
        if !uart.line_status.is_set(Status::TX_ROOM) {
            return false;
        }
        uart.io.set(u32::from(byte));
        true
    }

    /// The next received byte.
    pub fn receive(&mut self) -> Option<u8> {
        let uart = self.registers();
        if !uart.line_status.is_set(Status::RX_READY) {
            return None;
        }
        Some(uart.io.get() as u8)
    }

    /// Lets received bytes interrupt, and an empty transmit FIFO if `transmit`.
    pub fn set_interrupts(&mut self, transmit: bool) {
        let mut enable = Enable::RX::SET + Enable::ALWAYS::Set;
        if transmit {
            enable += Enable::TX::SET;
        }
        self.registers().interrupt_enable.write(enable);
    }

    /// Whether the interrupt that it shares is its own.
    pub fn interrupts(&self) -> bool {
        self.auxiliary().irq.is_set(Block::MINI_UART)
    }

    /// Whether everything has left, the FIFO and the shift register.
    pub fn is_idle(&self) -> bool {
        self.registers().line_status.is_set(Status::TX_IDLE)
    }
}
