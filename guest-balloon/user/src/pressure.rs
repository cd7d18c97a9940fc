//! The kernel's word that tasks wait for memory (Documentation/accounting/psi.rst), by `poll`.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd};

use anyhow::{Context, Result};

const PATH: &str = "/proc/pressure/memory";
/// Tasks waited for 10 ms of half a second, the shortest time the kernel looks at.
const CONDITION: &str = "some 10000 500000\0";

/// A trigger: readable (POLLPRI) when it fires.
pub struct Trigger(File);

impl Trigger {
    /// Sets it up.
    pub fn new() -> Result<Self> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(PATH)
            .with_context(|| format!("{PATH}: a kernel without PSI?"))?;
        // The kernel wants the NUL.
        file.write_all(CONDITION.as_bytes())
            .with_context(|| PATH.to_owned())?;
        Ok(Self(file))
    }
}

impl AsFd for Trigger {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Time that some task waited, in thousandths of the last ten seconds.
pub fn now() -> u64 {
    std::fs::read_to_string(PATH).map_or(0, |text| parse(&text))
}

fn parse(text: &str) -> u64 {
    let percent = text
        .split_whitespace()
        .find_map(|word| word.strip_prefix("avg10="));
    let percent: f64 = percent.and_then(|value| value.parse().ok()).unwrap_or(0.0);
    // At most 100 %.
    (percent * 10.0).clamp(0.0, 1000.0) as u64
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
