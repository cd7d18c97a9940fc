//! The two byte rings of a guest's console. Both are plain data under the lock of the guest's UART,
//! allocated once; positions count bytes since boot and wrap, so that only differences mean anything.

use alloc::boxed::Box;
use alloc::vec;

/// Bytes on their way to a reader: what does not fit is refused, never overwritten.
#[derive(Debug)]
pub struct InputRing {
    bytes: Box<[u8]>,
    written: usize,
    read: usize,
}

impl InputRing {
    /// A ring for `capacity` bytes, rounded up to a power of two.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self {
            bytes: allocate(capacity),
            written: 0,
            read: 0,
        }
    }

    /// Bytes waiting.
    #[must_use]
    pub fn len(&self) -> usize {
        self.written.wrapping_sub(self.read)
    }

    /// Nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.written == self.read
    }

    /// Bytes that can be pushed before one is refused.
    #[must_use]
    pub fn room(&self) -> usize {
        self.bytes.len().saturating_sub(self.len())
    }

    /// Position after the last byte ever pushed.
    #[must_use]
    pub fn written(&self) -> usize {
        self.written
    }

    /// Appends `byte`; false when the ring is full and the byte was refused.
    #[must_use]
    pub fn push(&mut self, byte: u8) -> bool {
        if self.room() == 0 {
            return false;
        }
        store(&mut self.bytes, self.written, byte);
        self.written = self.written.wrapping_add(1);
        true
    }

    /// Takes the oldest byte.
    pub fn pop(&mut self) -> Option<u8> {
        if self.is_empty() {
            return None;
        }
        let byte = load(&self.bytes, self.read);
        self.read = self.read.wrapping_add(1);
        Some(byte)
    }

    /// Throws away everything that waits.
    pub fn clear(&mut self) {
        self.read = self.written;
    }
}

/// What the console does with a guest's output, which decides what the guest's writes cost and
/// whether it is held back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attention {
    /// On the terminal as it comes: every byte calls for the console.
    Raw,
    /// On the terminal line by line: the end of a line calls for the console.
    Lines,
    /// Not on the terminal: kept as history, the oldest overwritten, and nobody called or held back.
    Unattended,
}

/// A guest's output. One buffer serves as transmit queue and as history: the bytes before `shown`
/// have been on the terminal and stay readable until they are overwritten.
///
/// While the console attends to the guest, at most half of the buffer may wait unshown, beyond which
/// the ring is full and the guest sees its transmit FIFO full. While it does not, the guest always
/// writes on and the oldest unshown bytes are lost, which [`OutputRing::take_lost`] counts.
#[derive(Debug)]
pub struct OutputRing {
    bytes: Box<[u8]>,
    written: usize,
    shown: usize,
    /// Position after the last line break written (CR or LF).
    line_start: usize,
    /// Bytes ever written, saturating at the capacity: how much of the buffer is history at all.
    filled: usize,
    attention: Attention,
}

impl OutputRing {
    /// A ring for `capacity` bytes of history, rounded up to a power of two; half of it can wait.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self {
            bytes: allocate(capacity),
            written: 0,
            shown: 0,
            line_start: 0,
            filled: 0,
            attention: Attention::Raw,
        }
    }

    /// Whether a byte written now would be refused.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.attention != Attention::Unattended && self.unshown() >= self.limit()
    }

    /// Bytes that can be written before one is refused.
    #[must_use]
    pub fn room(&self) -> usize {
        match self.attention {
            Attention::Unattended => usize::MAX,
            _ => self.limit().saturating_sub(self.unshown()),
        }
    }

    /// Whether at least half of what may wait is free again: when a held back guest is told.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.attention == Attention::Unattended || self.unshown() <= self.limit() / 2
    }

    /// Appends `byte`; false when the ring is full and the byte was refused.
    #[must_use]
    pub fn push(&mut self, byte: u8) -> bool {
        if self.is_full() {
            return false;
        }
        store(&mut self.bytes, self.written, byte);
        self.written = self.written.wrapping_add(1);
        self.filled = self.filled.saturating_add(1).min(self.bytes.len());
        if is_break(byte) {
            self.line_start = self.written;
        }
        true
    }

    /// Bytes not shown yet, lost ones included.
    #[must_use]
    pub fn unshown(&self) -> usize {
        self.written.wrapping_sub(self.shown)
    }

    /// How many of the unshown bytes end in a line break.
    #[must_use]
    pub fn complete(&self) -> usize {
        let rest = self.written.wrapping_sub(self.line_start);
        self.unshown().saturating_sub(rest)
    }

    /// Position after the last byte ever written.
    #[must_use]
    pub fn written(&self) -> usize {
        self.written
    }

    /// How the console treats this guest at present.
    #[must_use]
    pub fn attention(&self) -> Attention {
        self.attention
    }

    /// Says how the console treats this guest from now on.
    pub fn set_attention(&mut self, attention: Attention) {
        self.attention = attention;
    }

    /// Skips unshown bytes that have been overwritten and says how many there were.
    pub fn take_lost(&mut self) -> usize {
        let lost = self.unshown().saturating_sub(self.bytes.len());
        self.shown = self.shown.wrapping_add(lost);
        lost
    }

    /// Takes the next byte to be shown.
    pub fn pop(&mut self) -> Option<u8> {
        self.take_lost();
        if self.unshown() == 0 {
            return None;
        }
        let byte = load(&self.bytes, self.shown);
        self.shown = self.shown.wrapping_add(1);
        Some(byte)
    }

    /// Makes the unfinished line (a prompt) unshown again, as far as history still has it.
    pub fn rewind_line(&mut self) {
        let line = self.written.wrapping_sub(self.line_start);
        let kept = line.min(self.filled);
        if kept > self.unshown() {
            self.shown = self.written.wrapping_sub(kept);
        }
    }

    fn limit(&self) -> usize {
        self.bytes.len() / 2
    }
}

/// Whether `byte` ends a line.
#[must_use]
pub fn is_break(byte: u8) -> bool {
    byte == b'\n' || byte == b'\r'
}

fn allocate(capacity: usize) -> Box<[u8]> {
    vec![0; capacity.max(2).next_power_of_two()].into_boxed_slice()
}

fn slot(bytes: &[u8], position: usize) -> usize {
    position & bytes.len().wrapping_sub(1)
}

fn store(bytes: &mut [u8], position: usize, byte: u8) {
    let index = slot(bytes, position);
    if let Some(cell) = bytes.get_mut(index) {
        *cell = byte;
    }
}

fn load(bytes: &[u8], position: usize) -> u8 {
    bytes.get(slot(bytes, position)).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(ring: &mut OutputRing) -> Vec<u8> {
        core::iter::from_fn(|| ring.pop()).collect()
    }

    #[test]
    fn input_refuses_beyond_its_capacity_and_keeps_order() {
        let mut ring = InputRing::new(4);
        assert_eq!((0..6).filter(|b| ring.push(*b)).count(), 4);
        assert_eq!(ring.pop(), Some(0));
        assert!(ring.push(9));
        let rest: Vec<u8> = core::iter::from_fn(|| ring.pop()).collect();
        assert_eq!(rest, [1, 2, 3, 9]);
    }

    #[test]
    fn an_attended_guest_is_held_back_at_half_and_loses_nothing() {
        let mut ring = OutputRing::new(16);
        let taken = (0..20).filter(|b| ring.push(*b)).count();
        assert_eq!(taken, 8);
        assert!(ring.is_full() && !ring.has_room());
        assert_eq!(drain(&mut ring), (0..8).collect::<Vec<u8>>());
        assert!(ring.has_room());
    }

    #[test]
    fn an_unattended_guest_writes_on_and_the_loss_is_counted() {
        let mut ring = OutputRing::new(16);
        ring.set_attention(Attention::Unattended);
        assert!((0..20).all(|b| ring.push(b)));
        ring.set_attention(Attention::Raw);
        assert!(ring.is_full());
        assert_eq!(ring.take_lost(), 4);
        assert_eq!(drain(&mut ring), (4..20).collect::<Vec<u8>>());
        assert_eq!(ring.take_lost(), 0);
    }

    #[test]
    fn rewinding_brings_back_the_prompt_only() {
        let mut ring = OutputRing::new(16);
        for byte in *b"ls\r\n$ " {
            assert!(ring.push(byte));
        }
        assert_eq!(ring.complete(), 4);
        drain(&mut ring);
        assert_eq!(ring.complete(), 0);
        ring.rewind_line();
        assert_eq!(drain(&mut ring), b"$ ");
        ring.rewind_line();
        ring.rewind_line();
        assert_eq!(drain(&mut ring), b"$ ");
    }

    #[test]
    fn rewinding_never_reaches_beyond_history() {
        let mut ring = OutputRing::new(8);
        ring.set_attention(Attention::Unattended);
        assert!((0..13).all(|_| ring.push(b'x')));
        ring.take_lost();
        ring.rewind_line();
        assert_eq!(drain(&mut ring).len(), 8);
        let mut fresh = OutputRing::new(8);
        fresh.rewind_line();
        assert_eq!(fresh.unshown(), 0);
    }
}
