//! What an experiment is, as its file says.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

/// An experiment.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Experiment {
    /// For the plot and the table.
    pub title: String,
    /// Where the loads' random numbers begin.
    pub seed: u64,
    /// How often each variant runs, each time with another seed.
    pub repetitions: u64,
    /// GIC architecture version, 2 or 3.
    #[serde(default = "three")]
    pub gic: u8,
    /// Physical cores, 1 to 8.
    pub cores: u8,
    /// RAM of the board.
    pub ram_mib: u32,
    /// The guests, all of them Linux; the first has number 1.
    #[serde(rename = "guest")]
    pub guests: Vec<Guest>,
    /// What is compared; the others are measured against the first.
    #[serde(rename = "variant")]
    pub variants: Vec<Variant>,
    /// What the guests do.
    #[serde(rename = "load")]
    pub loads: Vec<Load>,
}

/// A Linux guest.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Guest {
    /// Its name.
    pub name: String,
    /// Memory at boot and its bounds, as in the binding.
    pub memory_mib: u32,
    /// Least memory.
    pub memory_min_mib: u32,
    /// Most memory.
    pub memory_max_mib: u32,
    /// Cores.
    #[serde(default = "one")]
    pub cpus: u8,
    /// Swap space in compressed memory.
    #[serde(default)]
    pub swap_mib: u32,
    /// Further properties, as device-tree source without the semicolon.
    #[serde(default)]
    pub properties: Vec<String>,
}

/// One way of running it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Variant {
    /// Its name.
    pub name: String,
    /// What the monitor is told before the loads begin.
    pub monitor: Vec<String>,
}

/// One job of one guest: pages of a working set, visited at random.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Load {
    /// The guest's name.
    pub guest: String,
    /// When it begins, in seconds of the board's time after the experiment does.
    pub from_s: u64,
    /// How long it lasts.
    pub seconds: u64,
    /// What it needs.
    pub working_set_mib: u64,
}

const fn three() -> u8 {
    3
}

const fn one() -> u8 {
    1
}

impl Experiment {
    /// Reads a file.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read the experiment {}", path.display()))?;
        Self::parse(&text).with_context(|| path.display().to_string())
    }

    fn parse(text: &str) -> Result<Self> {
        let experiment: Self = toml::from_str(text)?;
        ensure!(
            matches!(experiment.gic, 2 | 3),
            "gic = {}: choose 2 or 3",
            experiment.gic
        );
        ensure!(
            experiment.repetitions > 0 && !experiment.variants.is_empty(),
            "nothing to run: it needs a variant, and repetitions of at least 1"
        );
        for load in &experiment.loads {
            if experiment.number_of(&load.guest).is_none() {
                bail!(
                    "a load names the guest {:?}, which there is not",
                    load.guest
                );
            }
        }
        Ok(experiment)
    }

    /// The console number of the guest called `name`.
    pub fn number_of(&self, name: &str) -> Option<u8> {
        let at = self.guests.iter().position(|guest| guest.name == name)?;
        u8::try_from(at + 1).ok()
    }

    /// When the last load ends, in seconds.
    pub fn seconds(&self) -> u64 {
        let ends = self.loads.iter().map(|load| load.from_s + load.seconds);
        ends.max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = include_str!("../../../experiments/alternating.toml");

    #[test]
    fn the_example_is_one() {
        let experiment = Experiment::parse(EXAMPLE).unwrap();
        assert_eq!(experiment.number_of("linux-b"), Some(2));
        assert_eq!(experiment.seconds(), 28);
    }

    #[test]
    fn mistakes_are_named() {
        let wrong = |from: &str, to: &str| {
            let text = EXAMPLE.replacen(from, to, 1);
            assert_ne!(text, EXAMPLE);
            format!("{:#}", Experiment::parse(&text).unwrap_err())
        };
        assert!(wrong("swap-mib", "swop-mib").contains("unknown field `swop-mib`"));
        assert!(wrong("gic = 3", "gic = 4").contains("choose 2 or 3"));
        assert!(
            wrong("guest = \"linux-b\"", "guest = \"c\"").contains("\"c\", which there is not")
        );
        assert!(wrong("repetitions = 3", "repetitions = 0").contains("at least 1"));
    }
}
