//! What is kept of the demo as it runs, and shown when it is over: the table of its steps and the plot of memory.
//!
//! Apart so that the demo itself reads as what happens.

use std::time::Duration;

use anyhow::{Context, Result};

use super::{A, B, Demo};
use crate::plot::{self, Curve};
use crate::status::Status;

/// A row of the closing table.
pub(super) struct Row {
    step: &'static str,
    status: Status,
    mem_total_mib: [u64; 2],
    took: Option<Duration>,
}

impl Row {
    /// CPUs that run in a guest.
    fn cpus_on(&self, guest: u8) -> &str {
        let cpus = self.status.guest(guest).get("cpus");
        cpus.split_once('/').map_or(cpus, |(on, _)| on)
    }
}

impl Demo {
    pub(super) fn sample(&mut self) -> Result<Status> {
        let status = self.console.status()?;
        self.samples.push((self.seconds(), status.clone()));
        Ok(status)
    }

    pub(super) fn row(&mut self, step: &'static str, took: Option<Duration>) -> Result<()> {
        let status = self.sample()?;
        let mut mem_total_mib = [0; 2];
        for (guest, total) in [A, B].into_iter().zip(&mut mem_total_mib) {
            let kib = self
                .console
                .shell(guest, "awk '/MemTotal/ { print $2 }' /proc/meminfo")?;
            *total = kib
                .trim()
                .parse::<u64>()
                .with_context(|| format!("MemTotal: {kib}"))?
                >> 10;
        }
        self.rows.push(Row {
            step,
            status,
            mem_total_mib,
            took,
        });
        Ok(())
    }

    pub(super) fn print_table(&self) {
        println!(
            "\n                   accounted by Ballast, MiB       MemTotal, MiB     CPUs     time of"
        );
        println!(
            "step                    A       B    free           A       B     A   B     the move"
        );
        for row in &self.rows {
            let took = row
                .took
                .map_or(String::new(), |t| format!("{:.1} s", t.as_secs_f32()));
            println!(
                "{:<17}{:>8}{:>8}{:>8}    {:>8}{:>8}{:>6}{:>4}{:>13}",
                row.step,
                row.status.memory_mib(A),
                row.status.memory_mib(B),
                row.status.host().number("free-mib"),
                row.mem_total_mib[0],
                row.mem_total_mib[1],
                row.cpus_on(A),
                row.cpus_on(B),
                took
            );
        }
        println!("(wall time under emulation, which says little of hardware)\n");
    }

    pub(super) fn plot(&self, board: &str) -> String {
        let curve = |name: &str, value: &dyn Fn(&Status) -> u64| Curve {
            name: name.to_owned(),
            points: self
                .samples
                .iter()
                .map(|(t, status)| (*t, value(status) as f64))
                .collect(),
        };
        let curves = [
            curve("guest A", &|s| s.memory_mib(A)),
            curve("guest B", &|s| s.memory_mib(B)),
            curve("free", &|s| s.host().number("free-mib")),
        ];
        let title = format!("Memory of two Linux guests, as Ballast accounts it ({board})");
        plot::memory_over_time(&title, &curves, &self.events)
    }
}
