//! The hypervisor's own lines on their way to the console.

use core::fmt::{self, Write};

use super::ring::InputRing;
use super::stage::Stage;

/// Bytes of messages that can wait for the terminal.
const CAPACITY: usize = 4096;
/// Longest message; a longer one ends in `...`.
const LINE_BYTES: usize = 480;

/// Messages waiting to be shown, under a lock of its own, so that any code may say something
/// whatever other locks it holds. Whole lines only; one that finds no room is counted, and the
/// count is shown in its place.
#[derive(Debug)]
pub struct Messages {
    lines: InputRing,
    lost: usize,
}

impl Messages {
    /// No messages yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            lines: InputRing::new(CAPACITY),
            lost: 0,
        }
    }

    /// Adds one message, without `[ballast] ` and line end. The caller then sees to it that the
    /// console is pumped.
    pub fn line(&mut self, text: fmt::Arguments<'_>) {
        let mut line = Line::default();
        let cut = line.write_fmt(text).is_err();
        let needed = line.0.len().saturating_add(4);
        if self.lost > 0 || self.lines.room() < needed {
            self.lost = self.lost.saturating_add(1);
            return;
        }
        let tail: &[u8] = if cut { b"...\n" } else { b"\n" };
        for byte in line.0.iter().chain(tail) {
            let _ = self.lines.push(*byte);
        }
    }

    /// Nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty() && self.lost == 0
    }

    /// Stages the oldest message with its prefix; it takes the whole line.
    pub(super) fn stage(&mut self, stage: &mut Stage) {
        stage.put_all(b"[ballast] ");
        if self.lines.is_empty() {
            stage.text(format_args!("{} messages lost", self.lost));
            self.lost = 0;
        }
        while let Some(byte) = self.lines.pop() {
            if byte == b'\n' {
                break;
            }
            stage.put_neutral(byte);
        }
        stage.end_line();
    }
}

impl Default for Messages {
    fn default() -> Self {
        Self::new()
    }
}

/// A line being formatted. A line break inside it would forge a line end, so it becomes a space.
#[derive(Default)]
struct Line(heapless::Vec<u8, LINE_BYTES>);

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            let byte = if byte == b'\n' { b' ' } else { byte };
            self.0.push(byte).map_err(|_| fmt::Error)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(messages: &mut Messages) -> String {
        let mut stage = Stage::default();
        messages.stage(&mut stage);
        let mut bytes = [0; 1024];
        let count = stage.take(&mut bytes);
        String::from_utf8(bytes[..count].to_vec()).unwrap()
    }

    #[test]
    fn lines_come_out_whole_in_order_and_long_ones_are_cut() {
        let mut messages = Messages::new();
        messages.line(format_args!("one"));
        messages.line(format_args!("two\nlines"));
        messages.line(format_args!("{}", "x".repeat(900)));
        assert_eq!(shown(&mut messages), "[ballast] one\r\n");
        assert_eq!(shown(&mut messages), "[ballast] two lines\r\n");
        assert_eq!(
            shown(&mut messages),
            format!("[ballast] {}...\r\n", "x".repeat(LINE_BYTES))
        );
        assert!(messages.is_empty());
    }

    #[test]
    fn what_finds_no_room_is_counted_after_the_rest() {
        let mut messages = Messages::new();
        for number in 0..1000 {
            messages.line(format_args!("message {number}"));
        }
        let mut count = 0;
        let last = loop {
            let line = shown(&mut messages);
            if messages.is_empty() {
                break line;
            }
            assert_eq!(line, format!("[ballast] message {count}\r\n"));
            count += 1;
        };
        assert_eq!(
            last,
            format!("[ballast] {} messages lost\r\n", 1000 - count)
        );
        messages.line(format_args!("again"));
        assert_eq!(shown(&mut messages), "[ballast] again\r\n");
    }
}
