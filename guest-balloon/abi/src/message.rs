//! The interface as messages over a serial line, for a driver that cannot make hypercalls.
//!
//! Frames are those of RFC 1662 (HDLC-like framing, octet-stuffed) with its 32-bit FCS: a flag byte ends one and
//! begins the next, so that whoever comes to the line in the middle of a frame, or after one that was cut off, is in
//! step again at the next flag. XON and XOFF are escaped, so that a line discipline may use them.
//!
//! A message is five little-endian 64-bit words, and list entries behind them: word 0 is kind (7:0), [`VERSION`]
//! (15:8), tag (31:16) and function (63:32). Words 1 to 4 are x1 to x4 of a request, x0 to x3 of an answer. A request
//! for RESERVE or RELEASE carries x1 entries, its answer those that were consumed, with their statuses. HELLO has no
//! list page: x1 is 0.
//!
//! One side asks and the other answers, one request at a time. What the other side says by itself is
//! [`Kind::Event`] (the target has changed: the interrupt, in other words) and [`Kind::Malformed`].

use crate::{LIST_ENTRIES, function};

/// Version of the message format.
pub const VERSION: u8 = 1;
/// Words before the entries.
pub const HEAD_WORDS: usize = 5;
/// Words in the longest message.
pub const MAX_WORDS: usize = HEAD_WORDS + LIST_ENTRIES;

/// Ends a frame and begins the next.
pub const FLAG: u8 = 0x7e;
const ESCAPE: u8 = 0x7d;
const ESCAPED: u8 = 0x20;
const XON: u8 = 0x11;
const XOFF: u8 = 0x13;

const WORD_BYTES: usize = 8;
const FCS_BYTES: usize = 4;
/// Bytes between two flags, at most.
const MAX_BYTES: usize = MAX_WORDS * WORD_BYTES + FCS_BYTES;

/// What a message is. No two differ in one bit only, so that one is not taken for another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Kind {
    /// Driver to Ballast: a call.
    Request = 0x51,
    /// Ballast to driver: its results, with the same tag and function.
    Answer = 0xae,
    /// Ballast to driver: fetch the target.
    Event = 0x66,
    /// Ballast to driver: a frame that began as a request was none, and was dropped.
    Malformed = 0x99,
}

impl Kind {
    /// From bits 7:0 of word 0.
    #[must_use]
    pub const fn new(value: u8) -> Option<Self> {
        const REQUEST: u8 = Kind::Request as u8;
        const ANSWER: u8 = Kind::Answer as u8;
        const EVENT: u8 = Kind::Event as u8;
        const MALFORMED: u8 = Kind::Malformed as u8;
        Some(match value {
            REQUEST => Self::Request,
            ANSWER => Self::Answer,
            EVENT => Self::Event,
            MALFORMED => Self::Malformed,
            _ => return None,
        })
    }
}

/// A message without its entries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Message {
    /// What it is.
    pub kind: Kind,
    /// Chosen by the driver for a request, the same in its answer, else 0.
    pub tag: u16,
    /// The call (see [`function`]); in an event TARGET, in [`Kind::Malformed`] 0.
    pub function: u32,
    /// x1 to x4, or x0 to x3.
    pub registers: [u64; 4],
}

impl Message {
    /// The target has changed.
    pub const EVENT: Self = Self {
        kind: Kind::Event,
        tag: 0,
        function: function::TARGET,
        registers: [0; 4],
    };

    /// A frame that began as a request was none. Its first register is INVALID_PARAMETERS.
    pub const MALFORMED: Self = Self {
        kind: Kind::Malformed,
        tag: 0,
        function: 0,
        registers: [crate::Status::InvalidParameters.to_register(), 0, 0, 0],
    };

    const fn word(self) -> u64 {
        self.kind as u64
            | (VERSION as u64) << 8
            | (self.tag as u64) << 16
            | (self.function as u64) << 32
    }
}

/// Whether a call takes a list.
#[must_use]
pub const fn has_entries(function: u32) -> bool {
    matches!(function, function::RESERVE | function::RELEASE)
}

/// Words that a [`Frame`] needs for any message.
pub const FRAME_WORDS: usize = MAX_WORDS + 1;

/// One message in some words: [`FRAME_WORDS`] of them, or `HEAD_WORDS + 1` for one without entries.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frame<W> {
    /// The message and its FCS.
    words: W,
    /// Words of the message.
    used: usize,
}

impl<W: AsRef<[u64]> + AsMut<[u64]>> Frame<W> {
    /// An empty one.
    #[must_use]
    pub const fn new(words: W) -> Self {
        Self { words, used: 0 }
    }

    /// Replaces the message; the entries are the first `entries` of [`Self::room`].
    pub fn set(&mut self, message: Message, entries: usize) {
        let head = core::iter::once(message.word()).chain(message.registers);
        for (word, value) in self.words.as_mut().iter_mut().zip(head) {
            *word = value;
        }
        self.used = HEAD_WORDS
            + if entries < LIST_ENTRIES {
                entries
            } else {
                LIST_ENTRIES
            };
    }

    /// The message, if its head is one and its length fits its function.
    #[must_use]
    pub fn message(&self) -> Option<Message> {
        let [head, x0, x1, x2, x3] = *self.words.as_ref().first_chunk()?;
        let entries = self.used.checked_sub(HEAD_WORDS)?;
        let [kind, version, tag0, tag1, f0, f1, f2, f3] = head.to_le_bytes();
        let message = Message {
            kind: Kind::new(kind)?,
            tag: u16::from_le_bytes([tag0, tag1]),
            function: u32::from_le_bytes([f0, f1, f2, f3]),
            registers: [x0, x1, x2, x3],
        };
        let expected = match message.kind {
            Kind::Request if has_entries(message.function) => x0,
            // x0 is the status, x1 what was consumed.
            Kind::Answer if has_entries(message.function) => x1,
            _ => 0,
        };
        (version == VERSION && expected == entries as u64).then_some(message)
    }

    /// The entries of the message.
    #[must_use]
    pub fn entries(&self) -> &[u64] {
        self.words
            .as_ref()
            .get(HEAD_WORDS..self.used)
            .unwrap_or(&[])
    }

    /// The entries of the message.
    pub fn entries_mut(&mut self) -> &mut [u64] {
        self.words
            .as_mut()
            .get_mut(HEAD_WORDS..self.used)
            .unwrap_or(&mut [])
    }

    /// Where entries are written before [`Self::set`].
    pub fn room(&mut self) -> &mut [u64] {
        self.words
            .as_mut()
            .get_mut(HEAD_WORDS..MAX_WORDS)
            .unwrap_or(&mut [])
    }

    /// Byte `at` of message and FCS.
    fn byte(&self, at: usize) -> u8 {
        let word = self
            .words
            .as_ref()
            .get(at / WORD_BYTES)
            .copied()
            .unwrap_or(0);
        let [byte, ..] = (word >> (at % WORD_BYTES * 8)).to_le_bytes();
        byte
    }

    fn set_byte(&mut self, at: usize, byte: u8) {
        if let Some(word) = self.words.as_mut().get_mut(at / WORD_BYTES) {
            let shift = at % WORD_BYTES * 8;
            *word = *word & !(0xff << shift) | u64::from(byte) << shift;
        }
    }
}

/// The FCS-32 of RFC 1662, C.3 (the CRC-32 of IEEE 802.3), half a byte at a time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Fcs(u32);

impl Fcs {
    const INITIAL: Self = Self(u32::MAX);
    /// After a message and its FCS.
    const GOOD: Self = Self(0xdebb_20e3);
    const TABLE: [u32; 16] = Self::table();

    const fn table() -> [u32; 16] {
        /// The polynomial, its bits in reverse.
        const POLYNOMIAL: u32 = 0xedb8_8320;
        let mut table = [0; 16];
        let mut index = 0;
        while index < table.len() {
            let mut value = index as u32;
            let mut bit = 0;
            while bit < 4 {
                value = if value & 1 != 0 {
                    value >> 1 ^ POLYNOMIAL
                } else {
                    value >> 1
                };
                bit += 1;
            }
            table[index] = value;
            index += 1;
        }
        table
    }

    const fn with(self, byte: u8) -> Self {
        let value = self.0 ^ byte as u32;
        let value = value >> 4 ^ Self::TABLE[(value & 0xf) as usize];
        Self(value >> 4 ^ Self::TABLE[(value & 0xf) as usize])
    }

    /// As it is sent, least significant byte first.
    const fn bytes(self) -> [u8; FCS_BYTES] {
        (!self.0).to_le_bytes()
    }
}

/// What a byte has completed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Received {
    /// A message, in the frame.
    Message(Message),
    /// A frame that is no message; whether it began as a [`Kind::Request`].
    Malformed {
        /// If not, it is noise, or the line's own echo: nothing to answer.
        is_request: bool,
    },
}

/// Makes messages out of bytes. A constant amount of work for each byte.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Receiver {
    /// A flag was seen: bytes belong to a frame.
    is_in_step: bool,
    is_escaped: bool,
    /// Bytes of this frame so far; one more than may be if there were too many.
    bytes: usize,
    fcs: Fcs,
}

impl Default for Receiver {
    fn default() -> Self {
        Self::new()
    }
}

impl Receiver {
    /// Waits for the first flag.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            is_in_step: false,
            is_escaped: false,
            bytes: 0,
            fcs: Fcs::INITIAL,
        }
    }

    /// Takes `byte`. `frame` is the same in each call, and untouched by others from a frame's first byte on.
    pub fn push<W>(&mut self, frame: &mut Frame<W>, byte: u8) -> Option<Received>
    where
        W: AsRef<[u64]> + AsMut<[u64]>,
    {
        if byte == FLAG {
            let ended = *self;
            *self = Self {
                is_in_step: true,
                ..Self::new()
            };
            // Two flags in a row are one.
            return (ended.is_in_step && ended.bytes > 0).then(|| ended.judge(frame));
        }
        if !self.is_in_step {
            return None;
        }
        if byte == ESCAPE {
            self.is_escaped = true;
            return None;
        }
        let byte = if core::mem::take(&mut self.is_escaped) {
            byte ^ ESCAPED
        } else {
            byte
        };
        if self.bytes < MAX_BYTES {
            frame.set_byte(self.bytes, byte);
            self.fcs = self.fcs.with(byte);
            self.bytes += 1;
        } else {
            self.bytes = MAX_BYTES + 1;
        }
        None
    }

    fn judge<W>(self, frame: &mut Frame<W>) -> Received
    where
        W: AsRef<[u64]> + AsMut<[u64]>,
    {
        let is_request = frame.byte(0) == Kind::Request as u8;
        let is_whole = !self.is_escaped && self.bytes <= MAX_BYTES && self.fcs == Fcs::GOOD;
        let words = self.bytes.checked_sub(FCS_BYTES);
        let words = words.filter(|bytes| bytes % WORD_BYTES == 0);
        frame.used = words.unwrap_or(0) / WORD_BYTES;
        match frame.message().filter(|_| is_whole) {
            Some(message) => Received::Message(message),
            None => Received::Malformed { is_request },
        }
    }
}

/// Makes bytes out of a message. A constant amount of work for each byte.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sender {
    /// 0: the flag before the frame; from 1 on its bytes, the FCS, the flag behind it.
    next: usize,
    /// The second half of an escaped byte.
    escaped: Option<u8>,
    fcs: Fcs,
}

impl Default for Sender {
    fn default() -> Self {
        Self::new()
    }
}

impl Sender {
    /// Before the first byte.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            next: 0,
            escaped: None,
            fcs: Fcs::INITIAL,
        }
    }

    /// The next byte of `frame`, which is the same in each call and does not change; `None` at its end.
    pub fn next<W>(&mut self, frame: &Frame<W>) -> Option<u8>
    where
        W: AsRef<[u64]> + AsMut<[u64]>,
    {
        if let Some(byte) = self.escaped.take() {
            return Some(byte);
        }
        let place = self.next;
        let length = frame.used * WORD_BYTES;
        let byte = match place.checked_sub(1) {
            None => {
                self.next = 1;
                return Some(FLAG);
            }
            Some(at) if at < length => {
                let byte = frame.byte(at);
                self.fcs = self.fcs.with(byte);
                byte
            }
            Some(at) => match self.fcs.bytes().get(at - length) {
                Some(&byte) => byte,
                None if at - length == FCS_BYTES => {
                    self.next += 1;
                    return Some(FLAG);
                }
                None => return None,
            },
        };
        self.next += 1;
        if matches!(byte, FLAG | ESCAPE | XON | XOFF) {
            self.escaped = Some(byte ^ ESCAPED);
            return Some(ESCAPE);
        }
        Some(byte)
    }
}

#[cfg(test)]
mod tests;
