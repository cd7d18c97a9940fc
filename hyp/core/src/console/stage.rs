//! Bytes rendered for the terminal that its FIFO has not taken yet: one line at most.

use core::fmt;

/// Room for the longest thing rendered at once: a command's echo and an error that lists all guests.
const CAPACITY: usize = 1024;

/// The stage between what is decided to be shown and the physical transmit FIFO. What would
/// overflow it is cut off, which the bounds on lines exclude.
#[derive(Debug, Default)]
pub struct Stage {
    bytes: heapless::Vec<u8, CAPACITY>,
    taken: usize,
}

impl Stage {
    /// Everything staged has been taken.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.taken >= self.bytes.len()
    }

    /// Bytes staged and not taken.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len().saturating_sub(self.taken)
    }

    /// Stages one byte as it is.
    pub fn put(&mut self, byte: u8) {
        let _ = self.bytes.push(byte);
    }

    /// Stages bytes as they are.
    pub fn put_all(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.put(*byte);
        }
    }

    /// Stages text of the hypervisor's own.
    pub fn text(&mut self, text: fmt::Arguments<'_>) {
        let _ = fmt::Write::write_fmt(self, text);
    }

    /// Stages the end of a line.
    pub fn end_line(&mut self) {
        self.put_all(b"\r\n");
    }

    /// Stages `byte` of unknown origin so that it can do nothing to the terminal, and returns the
    /// columns it took: printable ASCII and the tab as they are, other control characters in caret
    /// notation, the rest as `\xNN` (bytes 0x80-0x9f are controls to an 8-bit terminal).
    pub fn put_neutral(&mut self, byte: u8) -> usize {
        match byte {
            b'\t' => {
                self.put(byte);
                8
            }
            b' '..=b'~' => {
                self.put(byte);
                1
            }
            0..=0x1f | 0x7f => {
                self.put_all(&[b'^', byte ^ 0x40]);
                2
            }
            0x80..=0xff => {
                self.text(format_args!("\\x{byte:02x}"));
                4
            }
        }
    }

    /// Moves as much as fits into `out` and says how much that was.
    pub fn take(&mut self, out: &mut [u8]) -> usize {
        let mut count: usize = 0;
        for (to, from) in out.iter_mut().zip(self.bytes.iter().skip(self.taken)) {
            *to = *from;
            count = count.saturating_add(1);
        }
        self.taken = self.taken.saturating_add(count);
        if self.is_empty() {
            self.bytes.clear();
            self.taken = 0;
        }
        count
    }
}

impl fmt::Write for Stage {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.put_all(text.as_bytes());
        Ok(())
    }
}
