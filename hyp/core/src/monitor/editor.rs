//! The monitor's input line: as little editing as a line needs, and nothing a paste can trip over.

use crate::console::Stage;

/// Longest command line.
pub const LINE_BYTES: usize = ballast_abi::control::LINE_BYTES;

/// What a byte did to the line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edit {
    /// It is still being typed.
    Typing,
    /// It was entered: run [`Editor::line`], then [`Editor::clear`].
    Entered,
    /// It was longer than [`LINE_BYTES`] and must not be run.
    TooLong,
    /// It was given up (Ctrl-C).
    Abandoned,
}

/// Where in an escape sequence (a cursor key's, say) the input is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Escape {
    #[default]
    None,
    Started,
    Sequence,
}

/// The line being typed.
#[derive(Debug, Default)]
pub struct Editor {
    line: heapless::String<LINE_BYTES>,
    overflowed: bool,
    /// The last byte was CR, so a LF belongs to it.
    after_cr: bool,
    escape: Escape,
}

impl Editor {
    /// The line so far.
    #[must_use]
    pub fn line(&self) -> &str {
        &self.line
    }

    /// Begins a new line.
    pub fn clear(&mut self) {
        self.line.clear();
        self.overflowed = false;
    }

    /// Takes one typed byte and stages its echo. CR, LF and CR LF enter the line; backspace, DEL
    /// and Ctrl-U erase; Ctrl-C gives it up; escape sequences and other control characters are
    /// ignored. The end of the line is not echoed.
    pub fn type_byte(&mut self, byte: u8, echo: &mut Stage) -> Edit {
        let after_cr = core::mem::replace(&mut self.after_cr, byte == b'\r');
        if self.in_escape(byte) {
            return Edit::Typing;
        }
        match byte {
            b'\n' if after_cr => {}
            b'\r' | b'\n' if self.overflowed => return Edit::TooLong,
            b'\r' | b'\n' => return Edit::Entered,
            0x03 => {
                echo.put_all(b"^C");
                return Edit::Abandoned;
            }
            0x08 | 0x7f => self.erase(echo),
            0x15 => {
                while !self.line.is_empty() {
                    self.erase(echo);
                }
                self.overflowed = false;
            }
            b'\t' => self.insert(' ', echo),
            b' '..=b'~' => self.insert(char::from(byte), echo),
            _ => {}
        }
        Edit::Typing
    }

    fn insert(&mut self, character: char, echo: &mut Stage) {
        if self.line.push(character).is_ok() {
            echo.text(format_args!("{character}"));
        } else {
            self.overflowed = true;
        }
    }

    fn erase(&mut self, echo: &mut Stage) {
        if self.line.pop().is_some() {
            echo.put_all(b"\x08 \x08");
        }
    }

    /// Follows `ESC [ ... letter` and `ESC letter`; a line end or Ctrl-C always gets out.
    fn in_escape(&mut self, byte: u8) -> bool {
        let next = match (self.escape, byte) {
            (_, b'\r' | b'\n' | 0x03) => Escape::None,
            (_, 0x1b) => Escape::Started,
            (Escape::Started, b'[' | b'O') => Escape::Sequence,
            (Escape::Sequence, b' '..=b'?') => Escape::Sequence,
            _ => Escape::None,
        };
        let ends_line = matches!(byte, b'\r' | b'\n' | 0x03);
        let inside = core::mem::replace(&mut self.escape, next) != Escape::None;
        !ends_line && (inside || next != Escape::None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn type_all(editor: &mut Editor, bytes: &[u8]) -> (Vec<(Edit, String)>, String) {
        let mut stage = Stage::default();
        let mut ended = Vec::new();
        for byte in bytes {
            let edit = editor.type_byte(*byte, &mut stage);
            if edit != Edit::Typing {
                ended.push((edit, editor.line().to_string()));
                editor.clear();
            }
        }
        let mut echo = [0; 1024];
        let count = stage.take(&mut echo);
        (ended, String::from_utf8(echo[..count].to_vec()).unwrap())
    }

    fn entered(bytes: &[u8]) -> Vec<String> {
        type_all(&mut Editor::default(), bytes)
            .0
            .into_iter()
            .map(|(edit, line)| {
                assert_eq!(edit, Edit::Entered);
                line
            })
            .collect()
    }

    #[test]
    fn a_paste_with_any_line_end_gives_the_same_lines() {
        for paste in ["a\rb\r\r", "a\nb\n\n", "a\r\nb\r\n\r\n"] {
            assert_eq!(entered(paste.as_bytes()), ["a", "b", ""]);
        }
    }

    #[test]
    fn erasing_and_keys_that_mean_nothing() {
        assert_eq!(entered(b"\x7fstp\x08op\r"), ["stop"]);
        assert_eq!(entered(b"junk\x15log\r"), ["log"]);
        assert_eq!(entered(b"l\x1b[1;5Ao\x1bOAg\x1b[\r"), ["log"]);
        let (_, echo) = type_all(&mut Editor::default(), b"ab\x7f");
        assert_eq!(echo, "ab\x08 \x08");
    }

    #[test]
    fn a_line_too_long_is_not_run_and_the_next_is() {
        let mut editor = Editor::default();
        let long = [b'x'; LINE_BYTES + 1];
        type_all(&mut editor, &long);
        let (ended, _) = type_all(&mut editor, b"\rlog\r\x03");
        let edits: Vec<Edit> = ended.iter().map(|(edit, _)| *edit).collect();
        assert_eq!(edits, [Edit::TooLong, Edit::Entered, Edit::Abandoned]);
        assert_eq!(ended[1].1, "log");
    }

    proptest! {
        #[test]
        fn any_bytes_are_typed_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let (ended, _) = type_all(&mut Editor::default(), &bytes);
            for (_, line) in ended {
                prop_assert!(line.bytes().all(|b| (b' '..=b'~').contains(&b)));
            }
        }
    }
}
