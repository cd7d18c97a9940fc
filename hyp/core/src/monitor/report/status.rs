//! `status` and `transfers`: how things stand.

use core::fmt;

use super::Labelled;
use crate::console::{Label, Labels};
use crate::cores::CpuSet;
use crate::log::Name;
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
