//! The board's console.
//!
//! Until the guests run, and when EL2 itself fails, output is written byte by byte, waiting for the
//! FIFO. In between everything goes through the multiplexer and nothing waits.

use core::fmt::{self, Write};
use core::ptr::NonNull;

use ballast_core::board::Console as Description;
use spin::mutex::TicketMutex;

use crate::aarch64::mmu;
use crate::mmio::pl011::Pl011;

/// The UART, once it is known.
pub static UART: TicketMutex<Option<Pl011>> = TicketMutex::new(None);

/// Maps and starts the console UART.
pub fn init(description: &Description) {
    let base = mmu::map_device(description.registers.start, Pl011::SIZE);
    if let Some(base) = NonNull::new(base) {
        // SAFETY: the device tree says that a PL011 is there; this is the only driver of it.
        let mut uart = unsafe { Pl011::new(base) };
        uart.init();
        *UART.lock() = Some(uart);
    }
}

struct Waiting<'a>(&'a mut Pl011);

impl Write for Waiting<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if byte == b'\n' {
                while !self.0.try_send(b'\r') {}
            }
            while !self.0.try_send(byte) {}
        }
        Ok(())
    }
}

/// Writes to the console and waits until all is in its FIFO: before guests run, or after a fault.
pub fn write_waiting(arguments: fmt::Arguments<'_>) {
    if let Some(uart) = UART.lock().as_mut() {
        // Writing cannot fail.
        let _ = Waiting(uart).write_fmt(arguments);
    }
}

/// The same when a core may have died holding the lock.
pub fn write_after_fault(arguments: fmt::Arguments<'_>) {
    // SAFETY: EL2 has failed; what the lock protected no longer matters more than the report.
    if UART.try_lock().is_none() {
        unsafe { UART.force_unlock() };
    }
    write_waiting(arguments);
}

/// Prints a line of the hypervisor's own during boot.
macro_rules! say {
    ($($argument:tt)*) => {
        $crate::console::write_waiting(format_args!("[ballast] {}\n", format_args!($($argument)*)))
    };
}
pub(crate) use say;
