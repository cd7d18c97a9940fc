//! The shared view: a guest's bytes as prefixed lines in which they can do no harm.

use super::label::Label;
use super::ring::OutputRing;
use super::stage::Stage;

/// Columns after which a line is broken.
pub const LINE_COLUMNS: usize = 256;

/// Where a guest's output stands in the shared view.
#[derive(Debug, Clone, Copy, Default)]
pub struct Lane {
    /// Columns of its line on the terminal's last row; zero when the row is not its own.
    column: usize,
    /// Its line was ended for it, so that a line end to come must not make an empty line.
    cut: bool,
    /// Its line was ended by a CR whose LF may follow.
    ended_by_cr: bool,
    /// Consecutive CRs seen at the start of a row.
    returns: u8,
    /// Ticks at which the end of its output was last seen to have moved, and that end.
    stamp: u64,
    end: usize,
}

impl Lane {
    /// Whether the guest has a line open on the last row.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.column > 0
    }

    /// Another speaker ends the guest's open line.
    pub fn interrupt(&mut self) {
        self.cut |= self.is_open();
        self.column = 0;
    }

    /// Ticks for which nothing has been written, as far as this lane has been asked.
    #[must_use]
    pub fn quiet_ticks(&mut self, output: &OutputRing, now: u64) -> u64 {
        if self.end != output.written() {
            self.end = output.written();
            self.stamp = now;
        }
        now.saturating_sub(self.stamp)
    }

    /// Stages at most `ready` bytes of `output` and at most to the end of one row. CR LF, LF and CR
    /// each end a line; the caller has left the cursor at the end of this lane's open line, or at
    /// the start of a row.
    pub fn paint(
        &mut self,
        label: &Label,
        output: &mut OutputRing,
        ready: usize,
        stage: &mut Stage,
    ) {
        for _ in 0..ready {
            let Some(byte) = output.pop() else { return };
            let row_ended = match byte {
                b'\n' => self.line_feed(label, stage),
                b'\r' => self.carriage_return(label, stage),
                _ => self.visible(byte, label, stage),
            };
            if row_ended {
                self.column = 0;
                stage.end_line();
                return;
            }
        }
    }

    fn line_feed(&mut self, label: &Label, stage: &mut Stage) -> bool {
        self.returns = 0;
        let already_ended = self.ended_by_cr || (self.cut && !self.is_open());
        self.ended_by_cr = false;
        self.cut = false;
        if !already_ended {
            self.prefix(label, stage);
        }
        !already_ended
    }

    fn carriage_return(&mut self, label: &Label, stage: &mut Stage) -> bool {
        if self.is_open() {
            self.ended_by_cr = true;
            self.returns = 1;
            return true;
        }
        // Two may stand before a LF unseen; more are shown, so that every few bytes of a guest's
        // cost the terminal something and it cannot keep the console busy for nothing.
        if self.returns < 2 {
            self.returns = self.returns.saturating_add(1);
            return false;
        }
        self.visible(b'\r', label, stage)
    }

    fn visible(&mut self, byte: u8, label: &Label, stage: &mut Stage) -> bool {
        self.returns = 0;
        self.ended_by_cr = false;
        self.prefix(label, stage);
        self.column = self.column.saturating_add(stage.put_neutral(byte));
        self.cut = self.column >= LINE_COLUMNS;
        self.cut
    }

    fn prefix(&self, label: &Label, stage: &mut Stage) {
        if !self.is_open() {
            stage.text(format_args!("[{}] ", label.name()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn painted(parts: &[&[u8]]) -> String {
        let label = Label::new(1, "a");
        let mut lane = Lane::default();
        let mut output = OutputRing::new(4096);
        let mut text = Vec::new();
        for part in parts {
            for byte in *part {
                assert!(output.push(*byte));
            }
            while output.unshown() > 0 {
                let mut stage = Stage::default();
                lane.paint(&label, &mut output, usize::MAX, &mut stage);
                let mut bytes = [0; 1024];
                let count = stage.take(&mut bytes);
                text.extend_from_slice(&bytes[..count]);
            }
        }
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn every_line_end_makes_one_line() {
        assert_eq!(
            painted(&[b"x\n\ny\r\n\r\nz"]),
            "[a] x\r\n[a] \r\n[a] y\r\n[a] \r\n[a] z"
        );
        assert_eq!(painted(&[b"1%\r2%\r\r\n3"]), "[a] 1%\r\n[a] 2%\r\n[a] 3");
        assert_eq!(painted(&[b"x\r", b"\n", b"y"]), "[a] x\r\n[a] y");
    }

    #[test]
    fn controls_are_shown_not_obeyed() {
        assert_eq!(
            painted(&[b"\x1b[2J\0\x7f\t\x9b~\n"]),
            "[a] ^[[2J^@^?\t\\x9b~\r\n"
        );
        assert_eq!(
            painted(&[b"\r\r\r\r[ballast] x\n"]),
            "[a] ^M\r\n[a] [ballast] x\r\n"
        );
    }

    #[test]
    fn long_lines_break_once() {
        let long = [b'x'; LINE_COLUMNS];
        let row = format!("[a] {}\r\n", "x".repeat(LINE_COLUMNS));
        assert_eq!(
            painted(&[&long, b"\r\n", b"y\n"]),
            format!("{row}[a] y\r\n")
        );
        assert_eq!(painted(&[&long, &long]), format!("{row}{row}"));
    }
}
