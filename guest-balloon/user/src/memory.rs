//! What the kernel says of its memory.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use ballast_balloon::abi::PAGE_SIZE;

/// One look at the memory; in pages of the interface.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Memory {
    /// Nobody's.
    pub free: u64,
    /// To be had without swapping.
    pub available: u64,
    /// All that the kernel has.
    pub total: u64,
    /// Kept for contiguous allocations.
    pub contiguous: u64,
}

impl Memory {
    /// As it is now.
    pub fn now() -> Result<Self> {
        let text = fs::read_to_string("/proc/meminfo").context("/proc/meminfo")?;
        Ok(Self::parse(&text))
    }

    fn parse(text: &str) -> Self {
        let pages = |key| value(text, key).unwrap_or(0) / (PAGE_SIZE >> 10);
        Self {
            free: pages("MemFree:"),
            available: pages("MemAvailable:"),
            total: pages("MemTotal:"),
            contiguous: pages("CmaTotal:"),
        }
    }
}

/// The first number behind a word.
fn value(text: &str, key: &str) -> Option<u64> {
    let mut words = text.split_whitespace().skip_while(|word| *word != key);
    words.nth(1)?.parse().ok()
}

/// What /proc/vmstat counts.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Events {
    /// Pages of the interface that were dropped and needed again.
    pub refaults: u64,
    /// Times that an allocation had to reclaim or compact itself.
    pub stalls: u64,
}

impl Events {
    /// So far.
    pub fn now() -> Result<Self> {
        let text = fs::read_to_string("/proc/vmstat").context("/proc/vmstat")?;
        let mut events = Self::parse(&text);
        // The kernel counts its own pages.
        events.refaults *= rustix::param::page_size() as u64 / PAGE_SIZE;
        Ok(events)
    }

    fn parse(text: &str) -> Self {
        let mut events = Self::default();
        for line in text.lines() {
            let Some((name, count)) = line.split_once(' ') else {
                continue;
            };
            let count = count.parse().unwrap_or(0);
            if name.starts_with("workingset_refault") {
                events.refaults += count;
            } else if name.starts_with("allocstall") || name == "compact_stall" {
                events.stalls += count;
            }
        }
        events
    }
}

/// Ranges of RAM that the system may ever have, as address and pages: the device tree's memory nodes.
pub fn ram() -> Result<Vec<(u64, u64)>> {
    let root = Path::new("/proc/device-tree");
    let cells = |name| {
        let bytes = fs::read(root.join(name)).ok();
        let cells = bytes.and_then(|bytes| Some(u32::from_be_bytes(bytes.try_into().ok()?)));
        // The specification's defaults (2.3.5).
        cells.unwrap_or(if name == "#address-cells" { 2 } else { 1 }) as usize
    };
    let widths = (cells("#address-cells"), cells("#size-cells"));
    let mut ranges = Vec::new();
    for node in fs::read_dir(root).context("/proc/device-tree")? {
        let node = node?.path();
        let is_memory = fs::read(node.join("device_type")).is_ok_and(|kind| kind == b"memory\0");
        if is_memory && let Ok(reg) = fs::read(node.join("reg")) {
            ranges.extend(parse_reg(&reg, widths));
        }
    }
    ensure!(!ranges.is_empty(), "the device tree has no memory");
    ranges.sort_unstable();
    Ok(ranges)
}

fn parse_reg(reg: &[u8], (address, size): (usize, usize)) -> Vec<(u64, u64)> {
    let number = |bytes: &[u8]| bytes.iter().fold(0, |value, &b| value << 8 | u64::from(b));
    reg.chunks_exact(((address + size) * 4).max(1))
        .map(|pair| {
            let (start, bytes) = pair.split_at(address * 4);
            (number(start), number(bytes) / PAGE_SIZE)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_words_are_understood() {
        let text = "MemTotal:         501732 kB\nMemFree:          400000 kB\nMemAvailable:     420000 kB\n\
                    CmaTotal:          65536 kB\n";
        let memory = Memory::parse(text);
        assert_eq!((memory.total, memory.free), (125_433, 100_000));
        assert_eq!((memory.available, memory.contiguous), (105_000, 16_384));
        let text = "nr_free_pages 5\nworkingset_refault_anon 2\nworkingset_refault_file 3\nallocstall_normal 4\n\
                    compact_stall 1\n";
        let events = Events::parse(text);
        assert_eq!((events.refaults, events.stalls), (5, 5));
    }

    #[test]
    fn a_memory_nodes_ranges() {
        let reg = [0, 0, 0, 0, 0x40, 0, 0, 0, 0, 0, 0, 0, 0x20, 0, 0, 0];
        assert_eq!(parse_reg(&reg, (2, 2)), [(0x4000_0000, 0x2_0000)]);
        assert_eq!(parse_reg(&reg[4..12], (1, 1)), [(0x4000_0000, 0)]);
    }
}
