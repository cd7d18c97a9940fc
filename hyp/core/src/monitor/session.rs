//! The monitor for a guest with the right to it (`control;`): a command in one call, its answer in pieces.
//!
//! The words are the monitor's, so a program needs to know one language and the hypervisor to check one.
//! Nothing is echoed and there is no prompt. Text travels in registers: EL2 touches no memory of the guest's.

use super::runner::{Job, Runner};
use super::{LINE_BYTES, Operator};
use crate::console::{Labels, Stage};

/// Why a command was not begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BeginError {
    /// The last one's answer has not been read to its end.
    Busy,
    /// The line is longer than [`LINE_BYTES`], or no printable ASCII.
    NotALine,
}

/// One guest's conversation with the monitor. Its lock stands where the console's does in the lock order.
#[derive(Debug)]
pub struct Session {
    runner: Runner,
    stage: Stage,
    labels: Labels,
}

impl Session {
    /// A session with nothing asked. `ticks_per_second` is CNTFRQ_EL0, for the log's times.
    #[must_use]
    pub fn new(labels: Labels, ticks_per_second: u64) -> Self {
        Self {
            runner: Runner::new(ticks_per_second),
            stage: Stage::default(),
            labels,
        }
    }

    /// Whether an answer waits to be read.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.runner.is_running() || !self.stage.is_empty()
    }

    /// Drops what was asked: the guest starts anew.
    pub fn reset(&mut self) {
        self.runner.job = Job::Idle;
        self.stage = Stage::default();
    }

    /// Carries out the command in `line`, which has no end of line.
    ///
    /// # Errors
    /// See [`BeginError`]; a line that is no command is answered in words.
    pub fn begin(&mut self, line: &[u8], shell: &impl Operator) -> Result<(), BeginError> {
        if self.is_busy() {
            return Err(BeginError::Busy);
        }
        let is_text = line.iter().all(|byte| matches!(byte, b' '..=b'~'));
        match core::str::from_utf8(line) {
            Ok(line) if is_text && line.len() <= LINE_BYTES => {
                self.runner
                    .enter(line, &self.labels, shell, &mut self.stage);
                Ok(())
            }
            _ => Err(BeginError::NotALine),
        }
    }

    /// The next bytes of the answer; 0 at its end. Lines end with LF. One line at most is put into words, so
    /// the work is bounded.
    pub fn read(&mut self, shell: &impl Operator, out: &mut [u8]) -> usize {
        // A step that has nothing to say is no end; there are as many as guests.
        while self.stage.is_empty() && self.runner.is_running() {
            self.runner.run(&self.labels, shell, &mut self.stage);
        }
        // The terminal's CR is none of a program's business.
        loop {
            let count = self.stage.take(out);
            let mut kept: usize = 0;
            for index in 0..count {
                if let Some(byte) = out.get(index).copied().filter(|byte| *byte != b'\r')
                    && let Some(slot) = out.get_mut(kept)
                {
                    *slot = byte;
                    kept = kept.saturating_add(1);
                }
            }
            if kept != 0 || count == 0 {
                return kept;
            }
        }
    }
}

#[cfg(test)]
mod tests;
