//! The events, and the words for them.

use core::fmt;

use crate::console::Labels;
use crate::policy::Mode;
use crate::policy::transfer::{Cause, Phase};

/// Who asked for something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The configuration, at boot.
    Boot,
    /// The monitor.
    Monitor,
    /// The guest itself.
    Guest,
    /// A guest with `control;`.
    Control,
    /// The hypervisor, because of a fault or its policy.
    Ballast,
}

impl Origin {
    /// The word for it in output.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Boot => "boot",
            Self::Monitor => "monitor",
            Self::Guest => "guest",
            Self::Control => "control",
            Self::Ballast => "ballast",
        }
    }
}

/// Which way memory went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the guest to the pool.
    Reserve,
    /// From the pool to the guest.
    Release,
}

/// One thing that happened. Guests are named by index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The configuration was admitted: this many guests, with this much memory in all.
    Admitted {
        /// Number of guests.
        guests: u8,
        /// Memory they were given at boot, in KiB.
        memory_kib: u64,
    },
    /// A guest's first vCPU was entered.
    Started {
        /// Index of the guest.
        guest: u8,
        /// Who asked.
        by: Origin,
    },
    /// A guest has stopped; all its vCPUs are off.
    Stopped {
        /// Index of the guest.
        guest: u8,
        /// Who asked.
        by: Origin,
    },
    /// A guest begins anew.
    Reset {
        /// Index of the guest.
        guest: u8,
        /// Who asked.
        by: Origin,
    },
    /// A guest did what could not be injected into it, and was stopped.
    Fault {
        /// Index of the guest.
        guest: u8,
        /// The vCPU it happened on.
        vcpu: u8,
        /// ESR_EL2 (Arm ARM DDI 0487, D24.2.40).
        syndrome: u64,
        /// The IPA, where the syndrome has one, else zero.
        ipa: u64,
    },
    /// A guest has not fed its watchdog in time.
    Watchdog {
        /// Index of the guest.
        guest: u8,
    },
    /// A guest's balloon driver said HELLO.
    Driver {
        /// Index of the guest.
        guest: u8,
        /// The epoch it was given.
        epoch: u32,
    },
    /// A guest's driver missed its deadline; it keeps what it has.
    Unresponsive {
        /// Index of the guest.
        guest: u8,
    },
    /// An unresponsive guest answers again.
    Responsive {
        /// Index of the guest.
        guest: u8,
    },
    /// Somebody else decides how much memory guests have.
    Policy {
        /// Who decides.
        mode: Mode,
        /// Who asked.
        by: Origin,
    },
    /// A guest's memory target changed.
    Target {
        /// Index of the guest.
        guest: u8,
        /// The memory it shall have, in KiB.
        memory_kib: u64,
        /// Who asked.
        by: Origin,
    },
    /// A guest's CPU target changed.
    CpuTarget {
        /// Index of the guest.
        guest: u8,
        /// Cores it shall have.
        cpus: u8,
        /// Who asked.
        by: Origin,
    },
    /// A guest was given a core.
    CoreGranted {
        /// Index of the guest.
        guest: u8,
        /// The physical core.
        core: u8,
        /// Cores it has now.
        cpus: u8,
    },
    /// A guest has given up a core.
    CoreTaken {
        /// Index of the guest.
        guest: u8,
        /// The physical core.
        core: u8,
        /// Cores it has left.
        cpus: u8,
    },
    /// A guest reached its memory target.
    Moved {
        /// Index of the guest.
        guest: u8,
        /// Which way.
        direction: Direction,
        /// How much, in KiB.
        memory_kib: u64,
        /// Time from the change of the target, in microseconds.
        us: u64,
    },
    /// A move from guest to guest has come so far.
    Move {
        /// Its number.
        id: u32,
        /// Index of the guest that gives.
        from: u8,
        /// Index of the guest that gets.
        to: u8,
        /// Memory that moves, in KiB.
        memory_kib: u64,
        /// Cores that move.
        cpus: u8,
        /// How far it has come.
        phase: Phase,
        /// Why it goes back, if it does.
        cause: Option<Cause>,
    },
    /// A guest wants memory, and none is free; it is told when there is.
    Waiting {
        /// Index of the guest.
        guest: u8,
        /// What it lacks, in KiB.
        memory_kib: u64,
    },
}

impl Event {
    /// It happens again and again while guests compete.
    pub(super) const fn is_common(self) -> bool {
        matches!(
            self,
            Self::Target { .. }
                | Self::Moved { .. }
                | Self::Waiting { .. }
                | Self::CpuTarget { .. }
                | Self::CoreTaken { .. }
                | Self::CoreGranted { .. }
        )
    }

    /// The event in words: `event=... guest=... name=... ...`, `key=value` throughout.
    #[must_use]
    pub fn describe(self, labels: &Labels) -> impl fmt::Display {
        Described {
            event: self,
            labels,
        }
    }
}

struct Described<'a> {
    event: Event,
    labels: &'a Labels,
}

impl fmt::Display for Described<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let who = |guest: u8| Who(self.labels, guest);
        match self.event {
            Event::Admitted { guests, memory_kib } => {
                write!(
                    f,
                    "event=admitted guests={guests} memory-mib={}",
                    memory_kib >> 10
                )
            }
            Event::Started { guest, by } => {
                write!(f, "event=started {} by={}", who(guest), by.name())
            }
            Event::Stopped { guest, by } => {
                write!(f, "event=stopped {} by={}", who(guest), by.name())
            }
            Event::Reset { guest, by } => write!(f, "event=reset {} by={}", who(guest), by.name()),
            Event::Fault {
                guest,
                vcpu,
                syndrome,
                ipa,
            } => write!(
                f,
                "event=fault {} vcpu={vcpu} esr={syndrome:#x} ipa={ipa:#x}",
                who(guest)
            ),
            Event::Watchdog { guest } => write!(f, "event=watchdog {}", who(guest)),
            Event::Driver { guest, epoch } => {
                write!(f, "event=driver {} epoch={epoch}", who(guest))
            }
            Event::Unresponsive { guest } => write!(f, "event=unresponsive {}", who(guest)),
            Event::Policy { mode, by } => {
                write!(f, "event=policy mode={} by={}", mode.name(), by.name())
            }
            Event::Responsive { guest } => write!(f, "event=responsive {}", who(guest)),
            Event::Target {
                guest,
                memory_kib,
                by,
            } => write!(
                f,
                "event=target {} target-mib={} by={}",
                who(guest),
                memory_kib >> 10,
                by.name()
            ),
            Event::CpuTarget { guest, cpus, by } => {
                write!(
                    f,
                    "event=cpu-target {} cpus={cpus} by={}",
                    who(guest),
                    by.name()
                )
            }
            Event::CoreGranted { guest, core, cpus } => {
                write!(
                    f,
                    "event=core-granted {} core={core} cpus={cpus}",
                    who(guest)
                )
            }
            Event::CoreTaken { guest, core, cpus } => {
                write!(f, "event=core-taken {} core={core} cpus={cpus}", who(guest))
            }
            Event::Moved {
                guest,
                direction,
                memory_kib,
                us,
            } => {
                let verb = match direction {
                    Direction::Reserve => "reserved",
                    Direction::Release => "released",
                };
                write!(f, "event={verb} {} kib={memory_kib} us={us}", who(guest))
            }
            Event::Move {
                id,
                from,
                to,
                memory_kib,
                cpus,
                phase,
                cause,
            } => write!(
                f,
                "event=move id={id} from={} to={} memory-mib={} cpus={cpus} state={} cause={}",
                Name(self.labels, from.into()),
                Name(self.labels, to.into()),
                memory_kib >> 10,
                phase.name(),
                cause.map_or("none", Cause::name),
            ),
            Event::Waiting { guest, memory_kib } => {
                write!(f, "event=waiting {} kib={memory_kib}", who(guest))
            }
        }
    }
}

/// A guest's name alone, for lines that name several.
pub(crate) struct Name<'a>(pub &'a Labels, pub usize);

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.get(self.1).map_or("?", |label| label.name()))
    }
}

struct Who<'a>(&'a Labels, u8);

impl fmt::Display for Who<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.get(usize::from(self.1)) {
            Some(label) => write!(f, "guest={} name={}", label.number(), label.name()),
            None => f.write_str("guest=? name=?"),
        }
    }
}
