//! The board's console.
//!
//! Until the guests run, and when EL2 itself fails, output is written byte by byte, waiting for the
//! FIFO. In between everything goes through the multiplexer, a few bytes at a time, and nothing
//! waits: what does not fit the FIFO goes out when the UART asks for more.

use core::fmt::{self, Write};
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, Ordering};

use ballast_core::addr::Pa;
use ballast_core::board::{self, Console as Description};
use ballast_core::console::{Console, Labels, Messages, Sources};
use ballast_core::log::Origin;
use ballast_core::pl011::Pl011 as GuestUart;
use spin::mutex::TicketMutex;

use crate::aarch64::mmu;
use crate::guest::Guest;
use crate::mmio::gpio::Gpio;
use crate::mmio::mini_uart::MiniUart;
use crate::mmio::pl011::Pl011;
use crate::percpu::PerCpu;
use crate::system::System;

/// The console UART, whichever it is.
enum Uart {
    Pl011(Pl011),
    Mini(MiniUart),
}

impl Uart {
    fn try_send(&mut self, byte: u8) -> bool {
        match self {
            Self::Pl011(uart) => uart.try_send(byte),
            Self::Mini(uart) => uart.try_send(byte),
        }
    }

    fn receive(&mut self) -> Option<u8> {
        match self {
            Self::Pl011(uart) => uart.receive(),
            Self::Mini(uart) => uart.receive(),
        }
    }

    /// Lets received bytes interrupt, and room for more to send if `transmit`.
    fn set_interrupts(&mut self, transmit: bool) {
        match self {
            Self::Pl011(uart) => uart.set_interrupts(transmit),
            Self::Mini(uart) => uart.set_interrupts(transmit),
        }
    }

    /// Whether an interrupt may be the UART's, and not another's that shares it.
    fn may_interrupt(&self) -> bool {
        match self {
            Self::Pl011(_) => true,
            Self::Mini(uart) => uart.interrupts(),
        }
    }

    /// Drops what it has latched.
    fn clear_interrupts(&mut self) {
        if let Self::Pl011(uart) = self {
            uart.clear_interrupts();
        }
    }

    fn is_idle(&self) -> bool {
        match self {
            Self::Pl011(uart) => uart.is_idle(),
            Self::Mini(uart) => uart.is_idle(),
        }
    }
}

/// The UART, once it is known.
static UART: TicketMutex<Option<Uart>> = TicketMutex::new(None);

fn device(start: Pa, size: u64) -> NonNull<u8> {
    NonNull::new(mmu::map_device(start, size)).unwrap_or(NonNull::dangling())
}

/// Maps and starts the console UART, and routes its pins.
pub fn init(description: &Description) {
    if let Some(pins) = &description.pins {
        // SAFETY: the device tree says that the block is there; no guest runs yet that could use it.
        let mut gpio = unsafe { Gpio::new(device(pins.gpio.start, Gpio::SIZE)) };
        for pin in &pins.pins {
            gpio.route(*pin);
        }
    }
    let start = description.registers.start;
    let uart = match description.uart {
        board::Uart::Pl011 => {
            // SAFETY: the device tree says that a PL011 is there; this is the only driver of it.
            let mut uart = unsafe { Pl011::new(device(start, Pl011::SIZE)) };
            uart.init(description.pl011_divisor());
            Uart::Pl011(uart)
        }
        board::Uart::Mini { aux } => {
            let aux = device(aux.start, MiniUart::AUXILIARY_SIZE);
            // SAFETY: as above, for a mini-UART and its block.
            let mut uart = unsafe { MiniUart::new(aux, device(start, MiniUart::SIZE)) };
            uart.init(description.mini_divisor());
            Uart::Mini(uart)
        }
    };
    *UART.lock() = Some(uart);
}

/// Waits until the UART has sent what it holds, a tenth of a second at most.
pub fn flush() {
    let start = crate::boot::counter();
    let limit = crate::boot::frequency() / 10;
    while crate::boot::counter().wrapping_sub(start) < limit
        && UART.lock().as_ref().is_some_and(|uart| !uart.is_idle())
    {
        core::hint::spin_loop();
    }
}

struct Waiting<'a>(&'a mut Uart);

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
    if UART.try_lock().is_none() {
        // SAFETY: EL2 has failed; what the lock protected no longer matters more than the report.
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

/// Bytes taken from the multiplexer at a time: a PL011's transmit FIFO.
const CHUNK: usize = 16;
/// Seconds for which the console's last words may keep the board on: what nine guests' buffers take at
/// 115200 baud, and some.
const DRAIN_S: u64 = 15;
/// Chunks one call sends at most, and bytes one interrupt takes at most.
const ROUNDS: usize = 8;

/// The multiplexer with what it has handed out and the FIFO had no room for.
struct Line {
    console: Console,
    chunk: [u8; CHUNK],
    sent: usize,
    filled: usize,
}

/// The console while guests run.
pub struct Terminal {
    line: TicketMutex<Line>,
    messages: TicketMutex<Messages>,
    /// Somebody had something to show while another core was showing.
    more: AtomicBool,
}

impl Terminal {
    /// A terminal for these guests.
    pub fn new(labels: Labels, ticks_per_second: u64) -> Self {
        Self {
            line: TicketMutex::new(Line {
                console: Console::new(labels, ticks_per_second),
                chunk: [0; CHUNK],
                sent: 0,
                filled: 0,
            }),
            messages: TicketMutex::new(Messages::new()),
            more: AtomicBool::new(false),
        }
    }

    /// A line of the hypervisor's own; shown by the next [`Terminal::pump`].
    pub fn say(&self, text: fmt::Arguments<'_>) {
        self.messages.lock().line(text);
    }

    /// Shows what there is to show, as far as the FIFO takes it; the UART's interrupt does the rest.
    /// Never waits: if another core is at it, that core is told to look again.
    pub fn pump(&self, system: &System, cpu: &PerCpu) {
        self.more.store(true, Ordering::SeqCst);
        // Twice: the second time for what came while the lock was held. What comes after that finds the
        // lock free, or its holder yet to look.
        for _ in 0..2 {
            let Some(mut line) = self.line.try_lock() else {
                return;
            };
            if self.more.swap(false, Ordering::SeqCst) {
                self.show(&mut line, system, cpu);
            }
            drop(line);
            if !self.more.load(Ordering::SeqCst) {
                return;
            }
        }
        if let Some(uart) = UART.lock().as_mut() {
            uart.set_interrupts(true);
        }
    }

    fn show(&self, line: &mut Line, system: &System, cpu: &PerCpu) {
        let shell = Shell::new(system, cpu, Origin::Monitor);
        let mut uart = UART.lock();
        let Some(uart) = uart.as_mut() else { return };
        for _ in 0..ROUNDS {
            if line.sent == line.filled {
                line.sent = 0;
                line.filled = line
                    .console
                    .pull(&shell, crate::boot::counter(), &mut line.chunk);
                if line.filled == 0 {
                    uart.set_interrupts(false);
                    return;
                }
            }
            while let Some(byte) = line
                .chunk
                .get(line.sent..line.filled)
                .and_then(|rest| rest.first())
            {
                if !uart.try_send(*byte) {
                    uart.set_interrupts(true);
                    return;
                }
                line.sent += 1;
            }
        }
        uart.set_interrupts(true);
    }

    /// The UART's interrupt: takes what was typed, sends what waits.
    pub fn interrupt(&self, system: &System, cpu: &PerCpu) {
        let mut typed = [0; CHUNK * ROUNDS];
        let mut count = 0;
        if let Some(uart) = UART.lock().as_mut() {
            if !uart.may_interrupt() {
                return;
            }
            let mut is_cleared = false;
            // What does not fit is left, and the interrupt with it: it comes again.
            while let Some(slot) = typed.get_mut(count) {
                if let Some(byte) = uart.receive() {
                    *slot = byte;
                    count += 1;
                } else if is_cleared {
                    break;
                } else {
                    uart.clear_interrupts();
                    is_cleared = true;
                }
            }
        }
        let shell = Shell::new(system, cpu, Origin::Monitor);
        let now = crate::boot::counter();
        if count != 0 {
            let mut line = self.line.lock();
            for byte in typed.iter().take(count) {
                line.console.type_byte(&shell, now, *byte);
            }
        }
        self.pump(system, cpu);
    }

    /// Lets typed bytes interrupt.
    pub fn listen(&self) {
        if let Some(uart) = UART.lock().as_mut() {
            uart.set_interrupts(false);
        }
    }

    /// Shows everything, waiting for the FIFO: when the board is about to be turned off.
    pub fn drain(&self, system: &System) {
        let cpu = crate::percpu::current();
        let shell = Shell::new(system, cpu, Origin::Monitor);
        let mut line = self.line.lock();
        let deadline = crate::boot::counter().wrapping_add(DRAIN_S * system.frequency);
        while crate::boot::counter() < deadline {
            if line.sent == line.filled {
                let Line { console, chunk, .. } = &mut *line;
                line.filled = console.pull(&shell, crate::boot::counter(), chunk);
                line.sent = 0;
                if line.filled == 0 {
                    return;
                }
            }
            let byte = line.chunk.get(line.sent).copied().unwrap_or(0);
            if UART.lock().as_mut().is_none_or(|uart| uart.try_send(byte)) {
                line.sent += 1;
            }
        }
    }
}

/// What the multiplexer and the monitor reach of the system, on this core.
pub struct Shell<'a> {
    /// The system.
    pub system: &'a System,
    /// The calling core.
    pub cpu: &'a PerCpu,
    /// Who asks.
    pub by: Origin,
}

impl<'a> Shell<'a> {
    /// For what `by` asks on this core.
    pub const fn new(system: &'a System, cpu: &'a PerCpu, by: Origin) -> Self {
        Self { system, cpu, by }
    }

    /// The guest that the console means by its number `guest`.
    #[expect(
        clippy::indexing_slicing,
        reason = "the console counts the labels it was made with, one for each guest"
    )]
    pub fn named(&self, guest: usize) -> &Guest {
        &self.system.guests[guest]
    }
}

impl Sources for Shell<'_> {
    fn uart<R>(&self, guest: usize, f: impl FnOnce(&mut GuestUart) -> R) -> R {
        self.named(guest).with_uart(self.cpu, f).0
    }

    fn messages<R>(&self, f: impl FnOnce(&mut Messages) -> R) -> R {
        f(&mut self.system.terminal.messages.lock())
    }
}
