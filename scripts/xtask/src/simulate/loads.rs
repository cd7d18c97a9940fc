//! Loads: random ones from a seed, and recorded ones from a file.

use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::world::{MIB, Phase, SECOND};

/// Random numbers that are the same on every machine (SplitMix64).
pub struct Random(u64);

impl Random {
    /// Numbers from `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From `low` up to but not including `high`.
    pub fn within(&mut self, low: u64, high: u64) -> u64 {
        low + self.next() % (high - low).max(1)
    }
}

/// Reads a recorded load: lines of seconds and MiB, the time from which on so much was used.
pub fn read(path: &Path) -> Result<Vec<Phase>> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let mut points = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let point = line.split_once(' ').and_then(|(seconds, mib)| {
            let seconds: f64 = seconds.parse().ok()?;
            Some((
                (seconds * SECOND as f64) as u64,
                mib.trim().parse::<u64>().ok()? * MIB,
            ))
        });
        points.push(point.with_context(|| {
            format!(
                "{}:{}: not `SECONDS MIB`: {line}",
                path.display(),
                number + 1
            )
        })?);
    }
    ensure!(
        points.len() >= 2 && points.is_sorted_by(|a, b| a.0 < b.0),
        "{}: needs two lines or more, in the order of time",
        path.display()
    );
    let phases = points.windows(2).map(|pair| Phase {
        us: pair[1].0 - pair[0].0,
        pages: pair[0].1,
    });
    Ok(phases.collect())
}
