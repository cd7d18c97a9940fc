//! A board under a script: QEMU with its serial console on pipes, and waiting for what should appear there.
//!
//! Every wait is bounded, every error shows the last lines of the console, and all of it is kept in a file.

mod views;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use views::View;

use crate::process::Program;

/// How long to wait for something that should come soon. Generous: the emulator may share two cores with a build.
const PATIENCE: Duration = Duration::from_secs(90);
/// Lines of the console that an error shows.
const EXCERPT_LINES: usize = 24;
/// What no healthy board ever says: the hypervisor's own end, or a Linux guest's.
const DISASTERS: [&str; 4] = [
    "[ballast] fault in EL2",
    "[ballast] panic",
    "Kernel panic",
    "Internal error: Oops",
];

/// The serial console of a running board.
pub struct Console {
    board: Child,
    input: ChildStdin,
    output: Receiver<Vec<u8>>,
    seen: Vec<u8>,
    /// Up to here `seen` has been judged by an earlier wait.
    cursor: usize,
    patience: Duration,
    view: View,
    commands: u32,
    /// How often each guest has been seen to start.
    starts: BTreeMap<u8, usize>,
}

impl Console {
    /// Starts `program` (a QEMU with its serial port on standard input and output), keeping all it says in
    /// `transcript`.
    pub fn start(program: Program, transcript: &Path) -> Result<Self> {
        let mut command = program.into_command();
        let log = File::create(transcript)
            .with_context(|| format!("cannot write {}", transcript.display()))?;
        let errors = log.try_clone().context("transcript")?;
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors);
        let mut board = command.spawn().context("cannot run qemu-system-aarch64")?;
        let input = board.stdin.take().context("QEMU's standard input")?;
        let output = board.stdout.take().context("QEMU's standard output")?;
        Ok(Self {
            board,
            input,
            output: pump(output, log),
            seen: Vec::new(),
            cursor: 0,
            patience: PATIENCE,
            view: View::Initial,
            commands: 0,
            starts: BTreeMap::new(),
        })
    }

    /// Waits at most `seconds` from now on, instead of the default.
    pub fn patience(&mut self, seconds: u64) -> &mut Self {
        self.patience = Duration::from_secs(seconds);
        self
    }

    /// Waits for `text` and gives what came before it since the last wait.
    pub fn expect(&mut self, text: &str) -> Result<String> {
        self.wait(&format!("{text:?}"), |new| {
            let at = new.find(text)?;
            Some((new[..at].to_owned(), at + text.len()))
        })
    }

    /// Fails if `text` has appeared since the start.
    pub fn expect_never(&mut self, text: &str) -> Result<()> {
        let seen = String::from_utf8_lossy(&self.seen);
        ensure!(
            !seen.contains(text),
            "{text:?} appeared on the console:\n{}",
            self.excerpt()
        );
        Ok(())
    }

    /// Types `text` as it is, once the board listens.
    pub fn send(&mut self, text: &str) -> Result<()> {
        // A UART that is not set up yet loses what comes.
        while self.seen.is_empty() {
            match self.output.recv_timeout(self.patience) {
                Ok(bytes) => self.take(&bytes)?,
                Err(_) => bail!("the board says nothing"),
            }
        }
        self.input
            .write_all(text.as_bytes())
            .and_then(|()| self.input.flush())
            .with_context(|| {
                format!(
                    "the board is off; could not type {text:?}. Its last lines:\n{}",
                    self.excerpt()
                )
            })
    }

    /// Waits for the board to power itself off, which must be orderly.
    pub fn expect_power_off(&mut self) -> Result<()> {
        let status = self.wait_for_exit()?;
        ensure!(
            status.success(),
            "QEMU ended with {status}:\n{}",
            self.excerpt()
        );
        Ok(())
    }

    fn wait_for_exit(&mut self) -> Result<ExitStatus> {
        let deadline = Instant::now() + self.patience;
        loop {
            match self
                .output
                .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            {
                Ok(bytes) => self.take(&bytes)?,
                Err(RecvTimeoutError::Timeout) => {
                    bail!(
                        "the board did not power off within {:?}:\n{}",
                        self.patience,
                        self.excerpt()
                    )
                }
                Err(RecvTimeoutError::Disconnected) => return self.board.wait().context("QEMU"),
            }
        }
    }

    fn wait<T>(&mut self, what: &str, find: impl Fn(&str) -> Option<(T, usize)>) -> Result<T> {
        let deadline = Instant::now() + self.patience;
        loop {
            // Guests send what they like: judge text, and count back in bytes of that same text.
            let new = String::from_utf8_lossy(&self.seen[self.cursor..]).into_owned();
            if let Some((found, consumed)) = find(&new) {
                let bytes_kept = new.len() - consumed;
                // Replacement characters may make the text longer than its bytes.
                self.cursor = self.seen.len() - bytes_kept.min(self.seen.len() - self.cursor);
                return Ok(found);
            }
            match self
                .output
                .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            {
                Ok(bytes) => self.take(&bytes)?,
                Err(RecvTimeoutError::Timeout) => {
                    bail!(
                        "waited {:?} in vain for {what}; the console's last lines:\n{}",
                        self.patience,
                        self.excerpt()
                    )
                }
                Err(RecvTimeoutError::Disconnected) => {
                    bail!(
                        "the board went off before {what}; its last lines:\n{}",
                        self.excerpt()
                    )
                }
            }
        }
    }

    fn take(&mut self, bytes: &[u8]) -> Result<()> {
        let before = self
            .seen
            .len()
            .saturating_sub(64)
            .max(self.cursor.min(self.seen.len()));
        self.seen.extend_from_slice(bytes);
        let fresh = String::from_utf8_lossy(&self.seen[before..]).into_owned();
        if let Some(text) = DISASTERS.iter().find(|text| fresh.contains(**text)) {
            // The rest of the report is worth a moment.
            while let Ok(more) = self.output.recv_timeout(Duration::from_secs(1)) {
                self.seen.extend_from_slice(&more);
            }
            bail!("\"{text}\" on the console:\n{}", self.excerpt());
        }
        Ok(())
    }

    /// The last lines of the console, indented.
    fn excerpt(&self) -> String {
        let text = plain(&String::from_utf8_lossy(&self.seen));
        let lines: Vec<&str> = text.trim_end().lines().collect();
        let tail = &lines[lines.len().saturating_sub(EXCERPT_LINES)..];
        tail.iter().map(|line| format!("    | {line}\n")).collect()
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        let _ = self.board.kill();
        let _ = self.board.wait();
    }
}

/// Reads `output` on a thread of its own, into the transcript and into a channel.
fn pump(mut output: impl Read + Send + 'static, mut log: File) -> Receiver<Vec<u8>> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(n @ 1..) = output.read(&mut buffer) {
            let _ = log.write_all(&buffer[..n]);
            if sender.send(buffer[..n].to_vec()).is_err() {
                break;
            }
        }
    });
    receiver
}

/// Text without carriage returns and terminal escapes.
fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\r' => {}
            '\x1b' => {
                // Escape sequences in use here are CSI: up to a letter.
                let _ = chars.find(|c| c.is_ascii_alphabetic());
            }
            c => plain.push(c),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn script(text: &str) -> Console {
        let log = tempfile::NamedTempFile::new().unwrap();
        let mut console =
            Console::start(Program::new("bash").args(["-c", text]), log.path()).unwrap();
        console.patience(5);
        console
    }

    #[test]
    fn waits_in_order_and_ends_with_the_program() {
        let mut console = script("echo one; echo two; read x; echo got $x");
        assert_eq!(console.expect("two").unwrap().trim(), "one");
        console.send("three\n").unwrap();
        console.expect("got three").unwrap();
        console.expect_power_off().unwrap();
        assert!(console.expect_never("four").is_ok() && console.expect_never("three").is_err());
    }

    #[test]
    fn what_never_comes_is_an_error_with_the_last_lines() {
        let error = script("echo hello")
            .expect("goodbye")
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("goodbye") && error.contains("| hello"),
            "{error}"
        );
        let error = script("echo boo; sleep 60")
            .patience(1)
            .expect("goodbye")
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("in vain") && error.contains("| boo"),
            "{error}"
        );
    }

    #[test]
    fn a_disaster_ends_the_wait_at_once() {
        let error = script("echo '[ballast] panic: frame'; sleep 60")
            .expect("x")
            .unwrap_err()
            .to_string();
        assert!(error.contains("panic: frame"), "{error}");
    }
}
