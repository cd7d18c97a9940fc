//! The UART a guest sees: an Arm PL011 (DDI 0183G) whose FIFOs are the guest's console rings.
//!
//! A byte written to DR is "sent" the moment the output ring takes it, so a driver sees an idle
//! transmitter until the console holds the guest back; then its FIFO is full until the console has
//! caught up. Received bytes wait in the input ring, of which the guest sees the first sixteen.
//! Transmission and reception ignore CR: what a guest prints before it set up its UART appears, and
//! what was typed meanwhile waits. Loopback, break, modem lines and DMA do nothing.
//!
//! Everything here runs under the one lock of this guest's UART and takes a bounded handful of
//! steps, whatever the guest does. After each use the shell asks for [`Pl011::effects`] before it
//! lets the lock go, so that the interrupt line reaches the guest's GIC in order.

use crate::console::{Attention, InputRing, OutputRing};
use crate::exit::Width;

/// Size of the register block in bytes.
pub const SIZE: u32 = 0x1000;

/// Bytes of output kept as history for one guest; half of it may wait to be shown.
pub const OUTPUT_BYTES: usize = 16 * 1024;
/// Bytes typed ahead for one guest.
pub const INPUT_BYTES: usize = 4 * 1024;

/// An unfinished line as long as this goes to the terminal without its end.
pub const LONG_LINE: usize = 256;

/// Depth of both FIFOs as the guest sees them (revision r1p4: 16).
const FIFO_DEPTH: usize = 16;
/// Reads of FR with no write to DR between them, after which the guest must be waiting for input.
const IDLE_POLLS: u8 = 4;

/// Register offsets (DDI 0183G, table 3-1).
mod reg {
    pub const DR: u32 = 0x000;
    pub const FR: u32 = 0x018;
    pub const ILPR: u32 = 0x020;
    pub const IBRD: u32 = 0x024;
    pub const FBRD: u32 = 0x028;
    pub const LCR_H: u32 = 0x02c;
    pub const CR: u32 = 0x030;
    pub const IFLS: u32 = 0x034;
    pub const IMSC: u32 = 0x038;
    pub const RIS: u32 = 0x03c;
    pub const MIS: u32 = 0x040;
    pub const ICR: u32 = 0x044;
    pub const DMACR: u32 = 0x048;
    pub const PERIPH_ID0: u32 = 0xfe0;
}

/// PeriphID0-3 and PCellID0-3, one byte each: part 0x011, designer Arm, revision r1p4, whose FIFO
/// depth drivers know to be 16.
const ID: [u8; 8] = [0x11, 0x10, 0x14, 0x00, 0x0d, 0xf0, 0x05, 0xb1];

mod flag {
    /// CTS, DSR and DCD: a terminal is always there, so that a tty without CLOCAL opens.
    pub const MODEM: u32 = 0b111;
    pub const BUSY: u32 = 1 << 3;
    pub const RXFE: u32 = 1 << 4;
    pub const TXFF: u32 = 1 << 5;
    pub const RXFF: u32 = 1 << 6;
    pub const TXFE: u32 = 1 << 7;
}

mod interrupt {
    pub const RX: u16 = 1 << 4;
    pub const TX: u16 = 1 << 5;
    pub const RT: u16 = 1 << 6;
    pub const ALL: u16 = 0x7ff;
}

const LCR_H_FEN: u8 = 1 << 4;
const CR_RESET: u16 = 0x300;
const IFLS_RESET: u8 = 0x12;

/// What an access or the console has left to be done by the shell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub struct Effects {
    /// The interrupt line has changed to this level.
    pub line: Option<bool>,
    /// The console has something new to show: call its pump.
    pub kick: bool,
}

/// Bytes counted since boot, for the monitor's `stats`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UartCounts {
    /// Written by the guest, dropped ones included.
    pub written: u64,
    /// Written while the FIFO was full, against what FR said: dropped.
    pub dropped: u64,
    /// Typed for the guest.
    pub typed: u64,
}

/// One emulated PL011 with its rings.
#[derive(Debug)]
pub struct Pl011 {
    output: OutputRing,
    input: InputRing,
    ilpr: u8,
    ibrd: u16,
    fbrd: u8,
    lcr_h: u8,
    cr: u16,
    ifls: u8,
    dmacr: u8,
    mask: u16,
    raw: u16,
    /// Level of the interrupt line as last handed out.
    line: bool,
    kick: bool,
    /// The output ring was full at some time since it last had room.
    held_back: bool,
    /// End of the input at the guest's last look at the receiver.
    looked: usize,
    /// Reads of FR since the last write to DR.
    polls: u8,
    counts: UartCounts,
}

impl Pl011 {
    /// A UART in its reset state with rings of [`OUTPUT_BYTES`] and [`INPUT_BYTES`].
    #[must_use]
    pub fn new() -> Self {
        Self::with_rings(OutputRing::new(OUTPUT_BYTES), InputRing::new(INPUT_BYTES))
    }

    /// A UART in its reset state over the given rings.
    #[must_use]
    pub fn with_rings(output: OutputRing, input: InputRing) -> Self {
        Self {
            output,
            input,
            ilpr: 0,
            ibrd: 0,
            fbrd: 0,
            lcr_h: 0,
            cr: CR_RESET,
            ifls: IFLS_RESET,
            dmacr: 0,
            mask: 0,
            raw: 0,
            line: false,
            kick: false,
            held_back: false,
            looked: 0,
            polls: 0,
            counts: UartCounts::default(),
        }
    }

    /// Puts the registers back to their reset values and forgets what was typed ahead, for a guest
    /// that starts anew. Its output stays.
    pub fn reset(&mut self) {
        self.input.clear();
        self.looked = self.input.written();
        (self.ilpr, self.ibrd, self.fbrd, self.lcr_h) = (0, 0, 0, 0);
        (self.cr, self.ifls, self.dmacr) = (CR_RESET, IFLS_RESET, 0);
        (self.mask, self.raw, self.polls) = (0, 0, 0);
    }

    /// A guest's load at `offset` into the block. Anything has a defined result: bytes beyond a
    /// register's four, and offsets without a register, read as zero. Only a load at DR's own
    /// address takes a byte from the FIFO.
    #[must_use]
    pub fn read(&mut self, offset: u32, width: Width) -> u64 {
        let byte_in_register = offset & 3;
        let value = match offset & !3 {
            reg::DR if byte_in_register == 0 => self.receive_byte(),
            reg::FR => self.flags(),
            reg::ILPR => u32::from(self.ilpr),
            reg::IBRD => u32::from(self.ibrd),
            reg::FBRD => u32::from(self.fbrd),
            reg::LCR_H => u32::from(self.lcr_h),
            reg::CR => u32::from(self.cr),
            reg::IFLS => u32::from(self.ifls),
            reg::IMSC => u32::from(self.mask),
            reg::RIS => u32::from(self.look(self.raw)),
            reg::MIS => u32::from(self.look(self.raw & self.mask)),
            reg::DMACR => u32::from(self.dmacr),
            id if (reg::PERIPH_ID0..SIZE).contains(&id) => identification(id),
            _ => 0,
        };
        width.truncate(u64::from(value >> (byte_in_register << 3)))
    }

    /// A guest's store at `offset`. One that does not start at a register's own address, or hits
    /// none or a read-only one, is ignored.
    pub fn write(&mut self, offset: u32, width: Width, value: u64) {
        let [b0, b1, ..] = width.truncate(value).to_le_bytes();
        let half = u16::from_le_bytes([b0, b1]);
        match offset {
            reg::DR => self.send(b0),
            reg::ILPR => self.ilpr = b0,
            reg::IBRD => self.ibrd = half,
            reg::FBRD => self.fbrd = b0 & 0x3f,
            reg::LCR_H => {
                self.lcr_h = b0;
                self.judge_input();
            }
            reg::CR => {
                self.cr = half;
                self.flush_hint();
            }
            reg::IFLS => {
                self.ifls = b0 & 0x3f;
                self.judge_input();
            }
            reg::IMSC => {
                self.mask = half & interrupt::ALL;
                self.flush_hint();
            }
            reg::ICR => self.clear(half),
            reg::DMACR => self.dmacr = b0 & 0x07,
            // RSR/ECR holds no errors that could be cleared.
            _ => {}
        }
    }

    /// A typed byte for the guest; false when its input ring is full and the byte was refused.
    #[must_use]
    pub fn type_byte(&mut self, byte: u8) -> bool {
        let taken = self.input.push(byte);
        if taken {
            self.counts.typed = self.counts.typed.wrapping_add(1);
            self.judge_input();
        }
        taken
    }

    /// Bytes that can be typed before one is refused.
    #[must_use]
    pub fn input_room(&self) -> usize {
        self.input.room()
    }

    /// The guest's output, for the console. [`Pl011::output_taken`] must follow.
    pub fn output(&mut self) -> &mut OutputRing {
        &mut self.output
    }

    /// To be called when the console has taken output or changed its attention: a guest that was
    /// held back gets its transmit interrupt once there is room.
    pub fn output_taken(&mut self) {
        if self.held_back && self.output.has_room() {
            self.held_back = false;
            self.raw |= interrupt::TX;
        }
    }

    /// Whether the guest gave a sign that it has written all it wanted for now: it touched its
    /// interrupt mask or control register, as drivers do at the end of a write, or polls FR.
    #[must_use]
    pub fn has_paused(&self) -> bool {
        self.polls >= IDLE_POLLS
    }

    /// Bytes counted so far.
    #[must_use]
    pub fn counts(&self) -> UartCounts {
        self.counts
    }

    /// Level of the interrupt line (UARTINTR, the OR of the masked interrupts).
    #[must_use]
    pub fn line(&self) -> bool {
        self.raw & self.mask != 0
    }

    /// What has changed since the last call. To be carried out before the UART's lock is released.
    pub fn effects(&mut self) -> Effects {
        let level = self.line();
        let line = (level != self.line).then_some(level);
        self.line = level;
        Effects {
            line,
            kick: core::mem::take(&mut self.kick),
        }
    }

    fn send(&mut self, byte: u8) {
        self.polls = 0;
        self.counts.written = self.counts.written.wrapping_add(1);
        if !self.output.push(byte) {
            self.counts.dropped = self.counts.dropped.wrapping_add(1);
            self.held_back = true;
            return;
        }
        if self.output.room() < FIFO_DEPTH {
            // At this interrupt drivers write half a FIFO without a look at FR.
            self.held_back = true;
            self.raw &= !interrupt::TX;
        } else {
            // The FIFO has already drained through its trigger level again.
            self.raw |= interrupt::TX;
        }
        self.kick |= match self.output.attention() {
            Attention::Raw => true,
            Attention::Lines => byte == b'\n' || self.output.unshown() >= LONG_LINE,
            Attention::Unattended => false,
        };
    }

    fn receive_byte(&mut self) -> u32 {
        let byte = self.input.pop().unwrap_or(0);
        // The next waiting byte moves up into the FIFO: an arrival like any other.
        self.judge_input();
        u32::from(self.look(u16::from(byte)))
    }

    fn flags(&mut self) -> u32 {
        let _ = self.look(0);
        if self.polls < IDLE_POLLS {
            self.polls = self.polls.saturating_add(1);
            self.kick |= self.has_paused() && self.partial_line_waits();
        }
        let depth = if self.fifo_enabled() { FIFO_DEPTH } else { 1 };
        let receive = match self.input.len() {
            0 => flag::RXFE,
            waiting if waiting >= depth => flag::RXFF,
            _ => 0,
        };
        let transmit = if self.output.is_full() {
            self.held_back = true;
            flag::TXFF | flag::BUSY
        } else {
            flag::TXFE
        };
        flag::MODEM | receive | transmit
    }

    /// Notes that the guest has seen the receiver's state, and passes `value` on.
    fn look(&mut self, value: u16) -> u16 {
        self.looked = self.input.written();
        value
    }

    /// ICR. Bytes that came after the guest last looked keep the receive interrupts up, as the
    /// receive timeout of 32 bit periods would raise them anew: no order of draining and clearing
    /// leaves a byte without its interrupt.
    fn clear(&mut self, bits: u16) {
        self.raw &= !bits;
        if self.input.written() != self.looked {
            self.judge_input();
        }
    }

    /// The receive interrupts after a change of the FIFO or its trigger: RX at or above the trigger
    /// level, RT (the timeout) for whatever is there below it too (DDI 0183G, 2.8).
    fn judge_input(&mut self) {
        let waiting = self.input.len();
        let trigger = self.receive_trigger();
        if waiting >= trigger {
            self.raw |= interrupt::RX;
        } else {
            self.raw &= !interrupt::RX;
        }
        if waiting == 0 {
            self.raw &= !interrupt::RT;
        } else if self.fifo_enabled() {
            self.raw |= interrupt::RT;
        }
    }

    fn receive_trigger(&self) -> usize {
        if !self.fifo_enabled() {
            return 1;
        }
        match (self.ifls >> 3) & 7 {
            0 => 2,
            1 => 4,
            2 => 8,
            3 => 12,
            _ => 14,
        }
    }

    fn fifo_enabled(&self) -> bool {
        self.lcr_h & LCR_H_FEN != 0
    }

    fn flush_hint(&mut self) {
        if !self.has_paused() {
            self.polls = IDLE_POLLS;
            self.kick |= self.partial_line_waits();
        }
    }

    fn partial_line_waits(&self) -> bool {
        self.output.attention() == Attention::Lines && self.output.unshown() > 0
    }
}

impl Default for Pl011 {
    fn default() -> Self {
        Self::new()
    }
}

fn identification(offset: u32) -> u32 {
    let index = usize::try_from(offset.wrapping_sub(reg::PERIPH_ID0) >> 2).unwrap_or(usize::MAX);
    ID.get(index).copied().map_or(0, u32::from)
}

#[cfg(test)]
mod tests;
