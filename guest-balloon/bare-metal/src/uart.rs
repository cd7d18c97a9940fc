//! PL011 output by polling (Arm DDI 0183), and the print macros.

use core::fmt::{self, Write};

use pl011::{CR, CR_ON, DR, FR, FR_TXFF};
use spin::{Once, mutex::TicketMutex};

use crate::mmio::Mmio;

/// Registers of a PL011, and bits of them (Arm DDI 0183, 3.3).
pub mod pl011 {
    pub const DR: usize = 0x00;
    pub const FR: usize = 0x18;
    pub const FR_RXFE: u32 = 1 << 4;
    pub const FR_TXFF: u32 = 1 << 5;
    pub const LCR_H: usize = 0x2c;
    pub const LCR_H_FEN: u32 = 1 << 4;
    pub const CR: usize = 0x30;
    /// UARTEN, TXE, RXE.
    pub const CR_ON: u32 = 1 | 1 << 8 | 1 << 9;
    pub const IFLS: usize = 0x34;
    pub const IMSC: usize = 0x38;
    pub const ICR: usize = 0x44;
}

static UART: Once<TicketMutex<Uart>> = Once::new();

struct Uart(Mmio);

impl Write for Uart {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            while self.0.read32(FR) & FR_TXFF != 0 {}
            self.0.write32(DR, byte.into());
        }
        Ok(())
    }
}

/// Turns the UART on; before this nothing is printed.
pub fn init(registers: Mmio) {
    registers.write32(CR, CR_ON);
    UART.call_once(|| TicketMutex::new(Uart(registers)));
}

/// Prints a line, whole, whatever other cores print. Not for interrupt handlers.
pub fn print_line(text: fmt::Arguments) {
    if let Some(uart) = UART.get() {
        let mut uart = uart.lock();
        // Writing cannot fail: `write_str` above always succeeds.
        let _ = uart.write_fmt(text);
        let _ = uart.write_str("\n");
    }
}

/// A byte, if there is room for it: one access to the UART's data register.
pub fn put(byte: u8) {
    if let Some(uart) = UART.get() {
        uart.lock().0.write32(DR, byte.into());
    }
}

/// As [`print_line`], for a core that is about to stop: takes no lock.
pub fn print_last_words(registers: Mmio, text: fmt::Arguments) {
    let mut uart = Uart(registers);
    let _ = uart.write_fmt(text);
    let _ = uart.write_str("\n");
}

/// Prints a line to the console.
#[macro_export]
macro_rules! println {
    ($($arg:tt)*) => { $crate::uart::print_line(format_args!($($arg)*)) };
}
