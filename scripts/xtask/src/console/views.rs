//! What Ballast shows on its one console: the monitor, and the guests by turns.
//!
//! The console itself waits for text, whoever says it. Here stands what it takes to ask somebody in particular: to
//! switch to them, and to tell their answer from its echo, from prompts and from Ballast's own messages.

use std::fmt::Display;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::{Console, plain};
use crate::status::Status;

/// Between two looks at the status, at most, and at first: much is there soon, and looking costs the guests time.
const STATUS_PAUSE: Duration = Duration::from_millis(250);
const FIRST_STATUS_PAUSE: Duration = Duration::from_millis(20);

/// What the physical console shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum View {
    /// What it showed at the start: the only guest, or all of them.
    Initial,
    /// One guest, by its console number.
    Guest(u8),
    /// The monitor.
    Monitor,
}

impl Console {
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
}

/// Whether a line is not Ballast's own.
fn is_no_message(line: &&str) -> bool {
    !line.starts_with("[ballast]")
}

#[cfg(test)]
mod tests {
    use super::View;
    use crate::console::tests::script;

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
