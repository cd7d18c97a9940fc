//! Running other programs, with errors that name the program, what it was to do and what it said.

use std::ffi::OsStr;
use std::io::ErrorKind;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};

/// A program to run to its end. Wraps [`Command`] so that no call forgets to look at the exit status.
pub struct Program(Command);

impl Program {
    /// Starts the description of a run of `program`.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Self(Command::new(program))
    }

    /// Adds one argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.0.arg(arg);
        self
    }

    /// Adds several arguments.
    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.0.args(args);
        self
    }

    /// Sets an environment variable.
    pub fn env(mut self, key: &str, value: impl AsRef<OsStr>) -> Self {
        self.0.env(key, value);
        self
    }

    /// Runs in this folder.
    pub fn dir(mut self, dir: impl AsRef<std::path::Path>) -> Self {
        self.0.current_dir(dir);
        self
    }

    /// Runs with the terminal as its own and fails unless it exits with 0.
    pub fn show(mut self) -> Result<()> {
        let line = self.line();
        let status = self.0.status().map_err(|e| explain(&line, &e))?;
        if !status.success() {
            bail!("`{line}` failed ({status})");
        }
        Ok(())
    }

    /// Runs silently, gives its standard output, and fails with what it said unless it exits with 0.
    pub fn capture(mut self) -> Result<String> {
        let line = self.line();
        let output = self
            .0
            .stdin(Stdio::null())
            .output()
            .map_err(|e| explain(&line, &e))?;
        if !output.status.success() {
            bail!("`{line}` failed ({}):\n{}", output.status, said(&output));
        }
        String::from_utf8(output.stdout).with_context(|| format!("output of `{line}`"))
    }

    /// The command line as a shell would take it.
    pub fn line(&self) -> String {
        std::iter::once(self.0.get_program())
            .chain(self.0.get_args())
            .map(|word| shell_quote(&word.to_string_lossy()))
            .collect::<Vec<_>>()
            .join(" ")
    }

    /// The underlying command, for callers that need pipes.
    pub fn into_command(self) -> Command {
        self.0
    }
}

fn explain(line: &str, error: &std::io::Error) -> anyhow::Error {
    if error.kind() == ErrorKind::NotFound {
        anyhow::anyhow!(
            "`{line}`: the program is not installed (`cargo xtask setup` names what is missing)"
        )
    } else {
        anyhow::anyhow!("`{line}`: {error}")
    }
}

/// The last lines of what a program said, its errors before its output.
fn said(output: &Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    let stdout = String::from_utf8_lossy(&output.stdout);
    let text = if stderr.trim().is_empty() {
        stdout
    } else {
        stderr
    };
    let lines: Vec<&str> = text.trim_end().lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}

/// Quotes one word for a POSIX shell, leaving plain words as they are.
pub fn shell_quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=+./:,@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_only_what_a_shell_would_touch() {
        assert_eq!(shell_quote("virt,gic-version=3"), "virt,gic-version=3");
        assert_eq!(shell_quote("a b"), "'a b'");
        assert_eq!(shell_quote("it's"), r"'it'\''s'");
        assert_eq!(shell_quote(""), "''");
    }

    #[test]
    fn a_failing_program_is_quoted_with_its_message() {
        let error = Program::new("sh")
            .args(["-c", "echo oh no >&2; exit 3"])
            .capture()
            .unwrap_err();
        let text = error.to_string();
        assert!(text.contains("oh no") && text.contains('3'), "{text}");
    }
}
