//! The kernel's word that memory has run out, for a program.
//!
//! A kernel module is asked before the OOM killer chooses a process; a program is not. So a child of this one holds a
//! few MiB and offers itself first. When the kernel ends it, its memory lets the others go on for a moment, in which
//! Ballast is asked for more.

use std::fs;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};
use std::process::{Child, ChildStdout, Command, Stdio};

use anyhow::{Context, Result};

/// The argument with which this program is the canary.
pub const ARGUMENT: &str = "canary";

/// What it holds: a quarter of a second for a process that takes 64 MiB a second.
const BYTES: usize = 16 << 20;

/// The child. It hangs up when it ends, and ends when this program does.
pub struct Canary {
    child: Child,
    line: ChildStdout,
}

impl Canary {
    /// Starts one.
    pub fn new() -> Result<Self> {
        let mut child = Command::new("/proc/self/exe")
            .arg(ARGUMENT)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("the canary does not start")?;
        let line = child.stdout.take().context("the canary's line")?;
        Ok(Self { child, line })
    }
}

impl AsFd for Canary {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.line.as_fd()
    }
}

impl Drop for Canary {
    fn drop(&mut self) {
        // It has ended, or does now.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the child does: holds memory until its parent ends.
pub fn sing() -> Result<()> {
    fs::write("/proc/self/oom_score_adj", "1000").context("oom_score_adj")?;
    // Not zero, which could be one page for all.
    let memory = vec![1_u8; BYTES];
    let _ = std::io::stdin().read(&mut [0]);
    drop(std::hint::black_box(memory));
    Ok(())
}
