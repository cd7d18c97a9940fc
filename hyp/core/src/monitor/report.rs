//! What the monitor reports, as plain data, and the stable lines it is shown in: `key=value` words,
//! whole numbers without separators, new keys only ever added at the end of a line.

use core::fmt;

use crate::addr::PAGE_SIZE;
use crate::balloon::Reported;
use crate::console::{Label, Labels};
use crate::cores::CpuSet;
use crate::log::Name;
use crate::pl011::UartCounts;
use crate::policy::Mode;
use crate::policy::transfer::{Cause, Phase};

/// Whether a guest runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuestState {
    /// Its images are being put in place.
    Starting,
    /// At least one vCPU is on.
    Running,
    /// Its vCPUs are being taken off their cores.
    Stopping,
    /// Stopped by the operator, or not started yet.
    Stopped,
    /// Has powered itself off.
    Off,
    /// Stopped because of a fault that could not be injected.
    Faulted,
    /// Down, whatever for, and a device may still write to its memory, which stays its own.
    Quarantined,
}

impl GuestState {
    /// The word for it in output.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Off => "off",
            Self::Faulted => "faulted",
            Self::Quarantined => "quarantined",
        }
    }
}

/// What is known of a guest's balloon driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DriverState {
    /// None has said HELLO since the guest started.
    None,
    /// At its target.
    Ready,
    /// Moving towards its target.
    Moving,
    /// Wants memory, and none is free.
    Waiting,
    /// Missed its deadline; it keeps what it has.
    Unresponsive,
}

impl DriverState {
    /// The word for it in output.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Ready => "ready",
            Self::Moving => "moving",
            Self::Waiting => "waiting",
            Self::Unresponsive => "unresponsive",
        }
    }
}

/// One guest for `status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GuestStatus {
    /// Whether it runs.
    pub state: GuestState,
    /// Memory it has, in KiB.
    pub memory_kib: u64,
    /// Memory it shall have, in KiB.
    pub target_kib: u64,
    /// Its guaranteed minimum, in KiB.
    pub min_kib: u64,
    /// The most it can have, in KiB.
    pub max_kib: u64,
    /// Its balloon driver.
    pub driver: DriverState,
    /// vCPUs that are on.
    pub cpus_on: u8,
    /// The most cores it can have.
    pub cpus_max: u8,
    /// The fewest.
    pub cpus_min: u8,
    /// Cores it shall have.
    pub cpus_target: u8,
    /// Cores it has.
    pub cores: CpuSet,
}

impl GuestStatus {
    /// The guest's line. `memory-mib` is rounded down; `memory-kib` is exact.
    #[must_use]
    pub fn line<'a>(&'a self, label: &'a Label) -> impl fmt::Display + 'a {
        Labelled { label, of: self }
    }
}

impl fmt::Display for Labelled<'_, GuestStatus> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let status = self.of;
        write!(
            f,
            "guest={} name={} state={} memory-mib={} target-mib={} min-mib={} max-mib={} driver={} cpus={}/{} memory-kib={} cpus-target={} cpus-min={} cpus-max={} cores={}",
            self.label.number(),
            self.label.name(),
            status.state.name(),
            status.memory_kib >> 10,
            status.target_kib >> 10,
            status.min_kib >> 10,
            status.max_kib >> 10,
            status.driver.name(),
            status.cpus_on,
            status.cores.len(),
            status.memory_kib,
            status.cpus_target,
            status.cpus_min,
            status.cpus_max,
            status.cores,
        )
    }
}

/// Memory of one guest that is on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TransferStatus {
    /// What the guest had when it was asked, in KiB.
    pub from_kib: u64,
    /// What it has, in KiB.
    pub memory_kib: u64,
    /// What it shall have, in KiB.
    pub target_kib: u64,
    /// Time since it was asked, in milliseconds.
    pub since_ms: u64,
    /// Time to its deadline, in milliseconds.
    pub left_ms: u64,
}

impl TransferStatus {
    /// The transfer's line.
    #[must_use]
    pub fn line<'a>(&'a self, label: &'a Label) -> impl fmt::Display + 'a {
        Labelled { label, of: self }
    }
}

impl fmt::Display for Labelled<'_, TransferStatus> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let transfer = self.of;
        write!(
            f,
            "transfer guest={} name={} from-mib={} memory-mib={} target-mib={} since-ms={} deadline-ms={}",
            self.label.number(),
            self.label.name(),
            transfer.from_kib >> 10,
            transfer.memory_kib >> 10,
            transfer.target_kib >> 10,
            transfer.since_ms,
            transfer.left_ms,
        )
    }
}

/// One move from guest to guest, for `transfers`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MoveStatus {
    /// Its number: they count up from 1.
    pub id: u32,
    /// Index of the guest that gives.
    pub from: usize,
    /// Index of the guest that gets.
    pub to: usize,
    /// Memory that moves, in KiB.
    pub memory_kib: u64,
    /// Cores that move.
    pub cpus: u32,
    /// How far it has come.
    pub phase: Phase,
    /// Why it goes back, if it does.
    pub cause: Option<Cause>,
    /// What the giver has less than before, in KiB.
    pub given_kib: u64,
    /// What the taker has more than before, in KiB.
    pub taken_kib: u64,
    /// Time since it began, or that it took, in milliseconds.
    pub since_ms: u64,
    /// Time to its deadline, in milliseconds; 0 if it has ended.
    pub left_ms: u64,
}

impl MoveStatus {
    /// The move's line.
    #[must_use]
    pub fn line<'a>(&'a self, labels: &'a Labels) -> impl fmt::Display + 'a {
        MoveLine { labels, of: self }
    }
}

struct MoveLine<'a> {
    labels: &'a Labels,
    of: &'a MoveStatus,
}

impl fmt::Display for MoveLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let status = self.of;
        write!(
            f,
            "move id={} from={} to={} memory-mib={} cpus={} state={} cause={} given-mib={} taken-mib={} since-ms={} deadline-ms={}",
            status.id,
            Name(self.labels, status.from),
            Name(self.labels, status.to),
            status.memory_kib >> 10,
            status.cpus,
            status.phase.name(),
            status.cause.map_or("none", Cause::name),
            status.given_kib >> 10,
            status.taken_kib >> 10,
            status.since_ms,
            status.left_ms,
        )
    }
}

/// The board for `status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostStatus {
    /// Memory no guest has, in KiB: zeroed, dirty and being scrubbed.
    pub free_kib: u64,
    /// Of it ready to be given away, in KiB.
    pub zeroed_kib: u64,
    /// Of it still to be scrubbed, in KiB.
    pub dirty_kib: u64,
    /// Memory the hypervisor keeps for itself, in KiB.
    pub own_kib: u64,
    /// Cores that guests have.
    pub cores_used: u8,
    /// Cores the board has.
    pub cores: u8,
    /// Time since boot, in seconds.
    pub uptime_s: u64,
    /// Who decides how much memory guests have.
    pub policy: Mode,
    /// Memory that cores with nothing else to do have scrubbed since boot, in KiB.
    pub idle_scrubbed_kib: u64,
}

/// The host's line.
impl fmt::Display for HostStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "host free-mib={} zeroed-mib={} dirty-mib={} own-kib={} cores={}/{} uptime-s={} policy={} idle-scrubbed-kib={}",
            self.free_kib >> 10,
            self.zeroed_kib >> 10,
            self.dirty_kib >> 10,
            self.own_kib,
            self.cores_used,
            self.cores,
            self.uptime_s,
            self.policy.name(),
            self.idle_scrubbed_kib,
        )
    }
}

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

struct Labelled<'a, T> {
    label: &'a Label,
    of: &'a T,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_what_scripts_rely_on() {
        let label = Label::new(1, "linux-a");
        let status = GuestStatus {
            state: GuestState::Running,
            memory_kib: (512 << 10) - 4,
            target_kib: 512 << 10,
            min_kib: 128 << 10,
            max_kib: 1 << 20,
            driver: DriverState::Moving,
            cpus_on: 1,
            cpus_max: 3,
            cpus_min: 1,
            cpus_target: 1,
            cores: CpuSet(0b101),
        };
        assert_eq!(
            status.line(&label).to_string(),
            "guest=1 name=linux-a state=running memory-mib=511 target-mib=512 min-mib=128 \
             max-mib=1024 driver=moving cpus=1/2 memory-kib=524284 \
             cpus-target=1 cpus-min=1 cpus-max=3 cores=0,2"
        );
        let host = HostStatus {
            free_kib: 3 << 10,
            zeroed_kib: 2 << 10,
            dirty_kib: 1 << 10,
            own_kib: 900,
            cores_used: 2,
            cores: 4,
            uptime_s: 7,
            policy: Mode::Auto,
            idle_scrubbed_kib: 4096,
        };
        assert_eq!(
            host.to_string(),
            "host free-mib=3 zeroed-mib=2 dirty-mib=1 own-kib=900 cores=2/4 uptime-s=7 policy=auto idle-scrubbed-kib=4096"
        );
    }

    #[test]
    fn every_cause_counts_under_its_own_key() {
        let mut counts = ExitCounts::default();
        for (index, cause) in ExitCause::ALL.into_iter().enumerate() {
            for _ in 0..=index {
                counts.count(cause);
            }
        }
        let mut twice = counts;
        twice.add(&counts);
        assert_eq!(twice.total(), 2 * counts.total());
        let stats = GuestStats {
            exits: counts,
            ..GuestStats::default()
        };
        assert_eq!(
            stats
                .line(&Label::new(2, "b"), StatsGroup::Exits)
                .to_string(),
            "guest=2 name=b stats=exits total=66 hvc=1 smc=2 psci=3 mmio-gic=4 mmio-uart=5 \
             mmio-other=6 sysreg=7 irq=8 abort=9 wfx=10 other=11"
        );
        assert_eq!(
            stats
                .line(&Label::new(2, "b"), StatsGroup::Reserve)
                .to_string(),
            "guest=2 name=b stats=reserve calls=0 busy=0 entries-4k=0 entries-16k=0 entries-64k=0 entries-2m=0 \
             refused=0 pages=0"
        );
        let stats = GuestStats {
            report: Reported {
                free_pages: 2,
                available_pages: u64::MAX,
                pressure: 5,
                refaults: 6,
            },
            runnable_milli: 2500,
            ..GuestStats::default()
        };
        assert_eq!(
            stats
                .line(&Label::new(2, "b"), StatsGroup::Report)
                .to_string(),
            format!(
                "guest=2 name=b stats=report free-kib=8 available-kib={} pressure=5 refaults=6 runnable-milli=2500",
                u64::MAX
            )
        );
    }
}
