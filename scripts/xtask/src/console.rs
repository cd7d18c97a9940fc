//! A board under a script: QEMU with its serial console on pipes, and waiting for what should appear there.
//!
//! Every wait is bounded, every error shows the last lines of the console, and all of it is kept in a file.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::process::Program;
use crate::status::Status;

/// How long to wait for something that should come soon. Generous: the emulator may share two cores with a build.
const PATIENCE: Duration = Duration::from_secs(90);
/// Between two looks at the status, at most, and at first: much is there soon, and looking costs the guests time.
const STATUS_PAUSE: Duration = Duration::from_millis(250);
const FIRST_STATUS_PAUSE: Duration = Duration::from_millis(20);
/// Lines of the console that an error shows.
const EXCERPT_LINES: usize = 24;
/// What no healthy board ever says: the hypervisor's own end, or a Linux guest's.
const DISASTERS: [&str; 4] = [
    "[ballast] fault in EL2",
    "[ballast] panic",
    "Kernel panic",
    "Internal error: Oops",
];

/// What the physical console shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum View {
    /// What it showed at the start: the only guest, or all of them.
    Initial,
    /// One guest, by its console number.
    Guest(u8),
    /// The monitor.
    Monitor,
}

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

    /// Waits until a Linux test guest has started, once more if it was up before, and gives what it says of itself.
    pub fn expect_up(&mut self, guest: u8) -> Result<String> {
        let words = format!("guest {guest} is up: ");
        self.focus(guest)?;
        // Which view shows the line depends on when it comes, so all that was ever shown is searched.
        let times = self.starts.get(&guest).map_or(0, |n| *n);
        self.cursor = 0;
        let line = self.wait(&format!("{words:?}, time {}", times + 1), |all| {
            let start = all.match_indices(&words).nth(times)?.0 + words.len();
            let end = start + all[start..].find('\n')?;
            Some((all[start..end].trim().to_owned(), end))
        })?;
        self.starts.insert(guest, times + 1);
        Ok(line)
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

    /// Runs a command in the shell of the guest with this console number, fails unless it exits with 0, and gives
    /// what it printed, less Ballast's own messages.
    pub fn shell(&mut self, guest: u8, command: &str) -> Result<String> {
        let (status, output) = self.shell_status(guest, command)?;
        ensure!(
            status == 0,
            "in guest {guest} `{command}` exited with {status} and said:\n{output}"
        );
        Ok(output)
    }

    /// Like [`Console::shell`], for commands whose failure is an answer.
    pub fn shell_status(&mut self, guest: u8, command: &str) -> Result<(i32, String)> {
        self.focus(guest)?;
        self.commands += 1;
        // The echo of this line has `$?` where the answer has digits. A number tells old answers from new.
        let number = self.commands;
        let mark = format!("echo \"<{number}=$?>\"");
        self.send(&format!("{command}; {mark}\r"))?;
        let begin = format!("<{number}=");
        let what = format!("the end of `{command}` in guest {guest}");
        self.wait(&what, |new| {
            new.match_indices(&begin).find_map(|(at, _)| {
                let (digits, _) = new[at + begin.len()..].split_once('>')?;
                let status = digits.parse().ok()?;
                // A line typed before the shell was there is echoed twice.
                let echo = new[..at].rfind(&mark).unwrap_or(0);
                let output = new[echo..at].split_once('\n').map_or("", |(_, rest)| rest);
                let output = plain(output);
                let own = output.split_inclusive('\n').filter(is_no_message);
                Some(((status, own.collect()), at + begin.len() + digits.len() + 1))
            })
        })
    }

    /// Runs a command of the monitor and gives its answer, less prompts and Ballast's own messages.
    pub fn monitor(&mut self, command: &str) -> Result<String> {
        if self.view != View::Monitor {
            self.send("\x1dm")?;
            self.view = View::Monitor;
        }
        // A prompt may be shown anew at any time, so the answer ends where the next, unknown, command is refused.
        self.commands += 1;
        let mark = format!("end{}", self.commands);
        self.send(&format!("{command}\r{mark}\r"))?;
        let answer = self
            .expect(&format!("unknown command '{mark}'"))
            .with_context(|| format!("monitor command `{command}`"))?;
        self.expect("\n")?;
        let own = |line: &&str| !line.starts_with("ballast> ") && is_no_message(line);
        let answer = plain(&answer);
        let echo = answer
            .find(&format!("ballast> {command}\n"))
            .map_or(0, |at| at + command.len() + 10);
        Ok(answer[echo..]
            .lines()
            .filter(own)
            .filter(|l| !l.is_empty())
            .collect::<Vec<_>>()
            .join("\n"))
    }

    /// What the monitor's `status` says now.
    pub fn status(&mut self) -> Result<Status> {
        let answer = self.monitor("status")?;
        Status::parse(&answer).with_context(|| format!("`status` answered:\n{answer}"))
    }

    /// Asks for the status until `reached` holds and gives it.
    pub fn wait_for_status(
        &mut self,
        what: &str,
        reached: impl Fn(&Status) -> bool,
    ) -> Result<Status> {
        self.ask_until(what, Self::status, reached)
    }

    /// Asks the monitor by `command` until it answers what is waited for.
    pub fn wait_for_answer(
        &mut self,
        command: &str,
        what: &str,
        reached: impl Fn(&String) -> bool,
    ) -> Result<String> {
        self.ask_until(what, |console| console.monitor(command), reached)
    }

    fn ask_until<T: Display>(
        &mut self,
        what: &str,
        ask: impl Fn(&mut Self) -> Result<T>,
        reached: impl Fn(&T) -> bool,
    ) -> Result<T> {
        let deadline = Instant::now() + self.patience;
        let mut pause = FIRST_STATUS_PAUSE;
        loop {
            let answer = ask(self)?;
            if reached(&answer) {
                return Ok(answer);
            }
            ensure!(
                Instant::now() < deadline,
                "waited {:?} in vain for {what}; it is still:\n{answer}",
                self.patience
            );
            thread::sleep(pause);
            pause = (pause * 2).min(STATUS_PAUSE);
        }
    }

    /// Switches the console to one guest.
    pub fn focus(&mut self, guest: u8) -> Result<()> {
        if self.view != View::Guest(guest) {
            self.send(&format!("\x1d{guest}"))?;
            self.view = View::Guest(guest);
        }
        Ok(())
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

/// Whether a line is not Ballast's own.
fn is_no_message(line: &&str) -> bool {
    !line.starts_with("[ballast]")
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

    fn script(text: &str) -> Console {
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

    #[test]
    fn shell_answers_are_told_from_their_echo() {
        // As on a guest's terminal, a line ends in a carriage return and is echoed.
        let mut console = script(
            r#"echo up; while read -r -d $'\r' line; do echo "\# $line"; eval "$line"; done"#,
        );
        console.view = View::Guest(1);
        assert_eq!(console.shell(1, "echo hi").unwrap().trim(), "hi");
        let messages = "echo '[ballast] b: reset'; echo hi; echo '[ballast] b: reset'";
        assert_eq!(console.shell(1, messages).unwrap().trim(), "hi");
        assert_eq!(console.shell_status(1, "false").unwrap().0, 1);
        assert!(console.shell(1, "false").is_err());
    }
}
