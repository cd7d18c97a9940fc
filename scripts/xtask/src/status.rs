//! The monitor's `status`, read back: one `key=value` line for each guest and one for the host.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Context, Result};

/// What the hypervisor accounts at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    host: Line,
    guests: BTreeMap<u8, Line>,
}

/// One line's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    text: String,
    values: BTreeMap<String, String>,
}

/// The words `key=value` of a line of the monitor's.
pub fn words(line: &str) -> impl Iterator<Item = (&str, &str)> {
    line.split_whitespace()
        .filter_map(|word| word.split_once('='))
}

impl Line {
    fn parse(text: &str) -> Self {
        let values = words(text)
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        Self {
            text: text.to_owned(),
            values,
        }
    }

    /// The value of a key; empty if the line has no such key.
    pub fn get(&self, key: &str) -> &str {
        self.values.get(key).map_or("", String::as_str)
    }

    /// The value of a key as a number; zero if it is none.
    pub fn number(&self, key: &str) -> u64 {
        self.get(key).parse().unwrap_or(0)
    }
}

impl Status {
    /// Reads the monitor's answer.
    pub fn parse(answer: &str) -> Result<Self> {
        let host = answer
            .lines()
            .find(|line| line.starts_with("host "))
            .context("no line for the host")?;
        let guests = answer
            .lines()
            .filter(|line| line.starts_with("guest="))
            .map(|line| {
                let line = Line::parse(line);
                let number = line.get("guest").parse().context("a guest's number")?;
                Ok((number, line))
            });
        Ok(Self {
            host: Line::parse(host),
            guests: guests.collect::<Result<_>>()?,
        })
    }

    /// The host's line.
    pub fn host(&self) -> &Line {
        &self.host
    }

    /// The line of the guest with this number.
    ///
    /// # Panics
    /// If there is no such guest: the script names one that its partitions do not have.
    pub fn guest(&self, number: u8) -> &Line {
        self.guests
            .get(&number)
            .unwrap_or_else(|| panic!("no guest {number} in:\n{self}"))
    }

    /// The guests in the order of their numbers.
    pub fn guests(&self) -> impl Iterator<Item = (u8, &Line)> {
        self.guests.iter().map(|(number, line)| (*number, line))
    }

    /// Memory of a guest, in MiB.
    pub fn memory_mib(&self, guest: u8) -> u64 {
        self.guest(guest).number("memory-mib")
    }

    /// Whether a guest's balloon driver has said hello, and nothing is on its way.
    pub fn has_driver(&self, guest: u8) -> bool {
        self.guest(guest).get("driver") == "ready"
    }

    /// Whether a guest has what it shall have, to the page.
    pub fn settled(&self, guest: u8) -> bool {
        let line = self.guest(guest);
        line.number("memory-kib") == line.number("target-mib") << 10
    }

    /// Whether a guest is within a block of what it shall have. A target that PRESSURE has raised is in pages, and
    /// under `auto` less than a block is nothing to do.
    pub fn rests(&self, guest: u8) -> bool {
        let line = self.guest(guest);
        let target_kib = line.number("target-mib") << 10;
        line.number("memory-kib").abs_diff(target_kib) < 2048
    }

    /// All memory that guests and pool have, in KiB: nothing that is moved may change it.
    pub fn total_kib(&self) -> u64 {
        self.guests
            .values()
            .map(|line| line.number("memory-kib"))
            .sum::<u64>()
            + (self.host.number("free-mib") << 10)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.host.text)?;
        self.guests
            .values()
            .try_for_each(|line| writeln!(f, "{}", line.text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_monitor_writes() {
        let status = Status::parse(
            "host free-mib=100 zeroed-mib=60 dirty-mib=40 own-kib=1560 cores=2/4 uptime-s=9\n\
             guest=1 name=a state=running memory-mib=512 target-mib=256 min-mib=96 max-mib=768 driver=moving cpus=1/1 memory-kib=524288\n\
             guest=2 name=b state=off memory-mib=64 target-mib=64 min-mib=64 max-mib=64 driver=none cpus=0/1 memory-kib=65536\n",
        )
        .unwrap();
        assert_eq!(status.memory_mib(1), 512);
        assert!(!status.settled(1) && status.settled(2));
        assert_eq!(status.guest(2).get("state"), "off");
        assert_eq!(status.total_kib(), (512 + 64 + 100) << 10);
        assert!(Status::parse("nothing").is_err());
    }
}
