//! The kernel's word that tasks wait for memory or for a CPU (Documentation/accounting/psi.rst), by `poll`.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd};

use anyhow::{Context, Result};

const MEMORY: &str = "/proc/pressure/memory";
/// Tasks waited for 10 ms of half a second, the shortest time the kernel looks at.
const MEMORY_CONDITION: &str = "some 10000 500000\0";
const CPU: &str = "/proc/pressure/cpu";
/// Threads waited for half of a second: more than the chance that two want a CPU at once.
const CPU_CONDITION: &str = "some 500000 1000000\0";

/// A trigger: readable (POLLPRI) when it fires.
pub struct Trigger(File);

impl Trigger {
    /// Of memory.
    pub fn memory() -> Result<Self> {
        Self::new(MEMORY, MEMORY_CONDITION)
    }

    /// Of CPUs.
    pub fn cpu() -> Result<Self> {
        Self::new(CPU, CPU_CONDITION)
    }

    fn new(path: &str, condition: &str) -> Result<Self> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .with_context(|| format!("{path}: a kernel without PSI?"))?;
        // The kernel wants the NUL.
        file.write_all(condition.as_bytes())
            .with_context(|| path.to_owned())?;
        Ok(Self(file))
    }
}

impl AsFd for Trigger {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Time that some task waited, in thousandths of the last ten seconds.
pub fn now() -> u32 {
    std::fs::read_to_string(MEMORY).map_or(0, |text| parse(&text))
}

fn parse(text: &str) -> u32 {
    let percent = text
        .split_whitespace()
        .find_map(|word| word.strip_prefix("avg10="));
    let percent: f64 = percent.and_then(|value| value.parse().ok()).unwrap_or(0.0);
    // At most 100 %.
    (percent * 10.0).clamp(0.0, 1000.0) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_become_thousandths() {
        let text = "some avg10=12.34 avg60=1.00 avg300=0.10 total=100\nfull avg10=5.00 avg60=0.0 avg300=0 total=3\n";
        assert_eq!(parse(text), 123);
        assert_eq!(parse(""), 0);
    }
}
