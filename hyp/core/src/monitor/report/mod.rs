//! What the monitor reports, as plain data, and the stable lines it is shown in: `key=value` words,
//! whole numbers without separators, new keys only ever added at the end of a line.

mod stats;
mod status;

use crate::console::Label;

pub use stats::{ExitCause, ExitCounts, GuestStats, StatsGroup, TransferCounts};
pub use status::{DriverState, GuestState, GuestStatus, HostStatus, MoveStatus, TransferStatus};

/// Something in words, with the guest that it is about.
struct Labelled<'a, T> {
    label: &'a Label,
    of: &'a T,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balloon::Reported;
    use crate::cores::CpuSet;
    use crate::policy::Mode;

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
