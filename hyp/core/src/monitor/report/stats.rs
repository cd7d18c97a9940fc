//! `stats`: what has been counted of a guest.

use core::fmt;

use crate::addr::PAGE_SIZE;
use crate::balloon::Reported;
use crate::console::Label;
use crate::pl011::UartCounts;

/// Why a vCPU left the guest for EL2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitCause {
    /// HVC that is not PSCI.
    Hvc,
    /// SMC.
    Smc,
    /// PSCI call, by either conduit.
    Psci,
    /// Access to the interrupt controller.
    MmioGic,
    /// Access to the UART.
    MmioUart,
    /// Access to anything else that is emulated.
    MmioOther,
    /// Trapped system register.
    Sysreg,
    /// Physical interrupt.
    Irq,
    /// Stage-2 abort that is no emulated device.
    Abort,
    /// Trapped WFI or WFE.
    Wfx,
    /// Anything else.
    Other,
}

/// Exits of one guest by cause.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ExitCounts([u64; ExitCause::ALL.len()]);

impl ExitCause {
    /// Every cause, in the order of the line and of the declaration.
    pub const ALL: [Self; 11] = [
        Self::Hvc,
        Self::Smc,
        Self::Psci,
        Self::MmioGic,
        Self::MmioUart,
        Self::MmioOther,
        Self::Sysreg,
        Self::Irq,
        Self::Abort,
        Self::Wfx,
        Self::Other,
    ];

    /// The key for it in output.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hvc => "hvc",
            Self::Smc => "smc",
            Self::Psci => "psci",
            Self::MmioGic => "mmio-gic",
            Self::MmioUart => "mmio-uart",
            Self::MmioOther => "mmio-other",
            Self::Sysreg => "sysreg",
            Self::Irq => "irq",
            Self::Abort => "abort",
            Self::Wfx => "wfx",
            Self::Other => "other",
        }
    }
}

impl ExitCounts {
    /// Counts one exit.
    pub fn count(&mut self, cause: ExitCause) {
        if let Some(counter) = self.0.get_mut(cause as usize) {
            *counter = counter.wrapping_add(1);
        }
    }

    /// Sets how often.
    pub fn set(&mut self, cause: ExitCause, count: u64) {
        if let Some(counter) = self.0.get_mut(cause as usize) {
            *counter = count;
        }
    }

    /// Exits for this cause.
    #[must_use]
    pub fn get(&self, cause: ExitCause) -> u64 {
        self.0.get(cause as usize).copied().unwrap_or(0)
    }

    /// Adds the counts of another core or vCPU.
    pub fn add(&mut self, other: &Self) {
        for (sum, part) in self.0.iter_mut().zip(&other.0) {
            *sum = sum.wrapping_add(*part);
        }
    }

    /// All exits.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().fold(0, |sum, n| sum.wrapping_add(*n))
    }
}

/// Memory moved one way between a guest and the pool.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TransferCounts {
    /// Calls of RESERVE or RELEASE.
    pub calls: u64,
    /// Calls answered BUSY.
    pub busy: u64,
    /// List entries done, by order: 4 KiB, 16 KiB, 64 KiB, 2 MiB.
    pub entries: [u64; 4],
    /// List entries refused.
    pub refused: u64,
    /// Pages moved.
    pub pages: u64,
}

/// One guest for `stats`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GuestStats {
    /// Exits by cause.
    pub exits: ExitCounts,
    /// Interrupts put into list registers.
    pub injected: u64,
    /// Maintenance interrupts: the list registers had not been enough.
    pub maintenance: u64,
    /// Memory the guest gave away.
    pub reserve: TransferCounts,
    /// Memory the guest got back.
    pub release: TransferCounts,
    /// Stage-2 blocks split into pages.
    pub splits: u64,
    /// Pages moved to other frames, because a guest with its RAM at the board's addresses wanted these back.
    pub relocated_pages: u64,
    /// Those of the merged blocks whose pages had to move for it.
    pub gathered: u64,
    /// Blocks that are split now.
    pub split_blocks: u64,
    /// Those of them that have all of their pages, so that they could be merged.
    pub unmerged: u64,
    /// How long the guest's cores have moved pages, in nanoseconds.
    pub relocation_ns: u64,
    /// How often something the guest may access was moving.
    pub pauses: u64,
    /// How long that was all together, in nanoseconds.
    pub pause_ns: u64,
    /// The longest, in nanoseconds.
    pub longest_pause_ns: u64,
    /// Stage-2 blocks merged from pages.
    pub merges: u64,
    /// Pages scrubbed in calls of its own that waited for them.
    pub scrubbed_pages: u64,
    /// Blocks that were watched for an access.
    pub watched_blocks: u64,
    /// Those of them that were accessed.
    pub accessed_blocks: u64,
    /// What it said of itself last.
    pub report: Reported,
    /// Threads that run or wait to run, by its word, in thousandths; 0 if it does not say.
    pub runnable_milli: u32,
    /// Its console.
    pub console: UartCounts,
}

/// The groups of `stats`, a line each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatsGroup {
    /// Exits by cause.
    Exits,
    /// Interrupts.
    Interrupts,
    /// Memory the guest gave away.
    Reserve,
    /// Memory the guest got back.
    Release,
    /// Stage 2.
    Stage2,
    /// What the guest said of itself last.
    Report,
    /// The console.
    Console,
}

impl StatsGroup {
    /// Every group in the order they are shown.
    pub const ALL: [Self; 7] = [
        Self::Exits,
        Self::Interrupts,
        Self::Reserve,
        Self::Release,
        Self::Stage2,
        Self::Report,
        Self::Console,
    ];
}

impl GuestStats {
    /// The line of one group.
    #[must_use]
    pub fn line<'a>(&'a self, label: &'a Label, group: StatsGroup) -> impl fmt::Display + 'a {
        StatsLine {
            stats: self,
            label,
            group,
        }
    }
}

struct StatsLine<'a> {
    stats: &'a GuestStats,
    label: &'a Label,
    group: StatsGroup,
}

impl fmt::Display for StatsLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stats = self.stats;
        write!(
            f,
            "guest={} name={} ",
            self.label.number(),
            self.label.name()
        )?;
        match self.group {
            StatsGroup::Exits => {
                write!(f, "stats=exits total={}", stats.exits.total())?;
                ExitCause::ALL
                    .into_iter()
                    .try_for_each(|cause| write!(f, " {}={}", cause.name(), stats.exits.get(cause)))
            }
            StatsGroup::Interrupts => write!(
                f,
                "stats=interrupts injected={} maintenance={}",
                stats.injected, stats.maintenance
            ),
            StatsGroup::Reserve => write!(f, "stats=reserve {}", stats.reserve),
            StatsGroup::Release => write!(f, "stats=release {}", stats.release),
            StatsGroup::Stage2 => {
                write!(
                    f,
                    "stats=stage2 splits={} merges={} relocated-pages={} relocation-ns={} pauses={} pause-ns={} longest-pause-ns={} scrubbed-pages={} gathered={} split-blocks={} unmerged={} watched-blocks={} accessed-blocks={}",
                    stats.splits,
                    stats.merges,
                    stats.relocated_pages,
                    stats.relocation_ns,
                    stats.pauses,
                    stats.pause_ns,
                    stats.longest_pause_ns,
                    stats.scrubbed_pages,
                    stats.gathered,
                    stats.split_blocks,
                    stats.unmerged,
                    stats.watched_blocks,
                    stats.accessed_blocks
                )
            }
            StatsGroup::Report => {
                let said = &stats.report;
                write!(
                    f,
                    "stats=report free-kib={} available-kib={} pressure={} refaults={} runnable-milli={}",
                    said.free_pages.saturating_mul(PAGE_SIZE / 1024),
                    said.available_pages.saturating_mul(PAGE_SIZE / 1024),
                    said.pressure,
                    said.refaults,
                    stats.runnable_milli
                )
            }
            StatsGroup::Console => write!(
                f,
                "stats=console written={} dropped={} typed={}",
                stats.console.written, stats.console.dropped, stats.console.typed
            ),
        }
    }
}

impl fmt::Display for TransferCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [by_4k, by_16k, by_64k, by_2m] = self.entries;
        write!(
            f,
            "calls={} busy={} entries-4k={by_4k} entries-16k={by_16k} entries-64k={by_64k} entries-2m={by_2m} refused={} pages={}",
            self.calls, self.busy, self.refused, self.pages
        )
    }
}
