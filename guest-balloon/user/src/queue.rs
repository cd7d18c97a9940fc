//! How many threads run or wait to run, by the kernel's own account (proc_stat(5), PSI).

use std::fs;

use crate::pressure::Trigger;

/// In thousandths.
const MILLI: u64 = 1000;
/// CPUs this busy are taken to have no time left.
const BUSY_MILLI: u64 = 950;
/// Shortest time, in the kernel's ticks of 10 ms, between two looks that tells how busy a CPU was.
const LEAST_TICKS: u64 = 20;

/// One line of `/proc/stat` for a CPU, in ticks since boot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Times {
    cpu: u32,
    all: u64,
    idle: u64,
}

/// What `/proc/stat` says at one moment.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
struct Look {
    cpus: Vec<Times>,
    /// Threads that run or wait to run, the reader among them.
    running: u64,
}

impl Look {
    fn parse(text: &str) -> Self {
        let mut look = Self::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            let Some(name) = words.next() else { continue };
            let mut numbers = words.map(|word| word.parse::<u64>().unwrap_or(0));
            if let Some(cpu) = name.strip_prefix("cpu").and_then(|n| n.parse().ok()) {
                // user, nice, system, idle, iowait, irq, softirq, steal; what follows is in user and nice already.
                let times: Vec<u64> = numbers.take(8).collect();
                look.cpus.push(Times {
                    cpu,
                    all: times.iter().sum(),
                    idle: times.iter().skip(3).take(2).sum(),
                });
            } else if name == "procs_running" {
                look.running = numbers.next().unwrap_or(1);
            }
        }
        look
    }
}

/// The run queue, looked at from time to time.
#[derive(Default, Debug)]
pub struct Queue {
    last: Look,
    runnable_milli: u32,
}

impl Queue {
    /// The trigger that fires when threads wait for a CPU: nothing has to be looked at for that.
    pub fn trigger() -> Option<Trigger> {
        Trigger::cpu()
            .inspect_err(|error| {
                eprintln!("ballast-user-balloon: the run queue is not seen: {error:#}");
            })
            .ok()
    }

    /// Threads that run or wait to run since the last look, in thousandths, at least 1; 0 if the kernel does not say.
    pub fn now(&mut self) -> u32 {
        let look = Look::parse(&fs::read_to_string("/proc/stat").unwrap_or_default());
        self.took(look)
    }

    /// While a CPU is idle the time that the CPUs were busy says it; while none is, the kernel's count does, of which
    /// one is the reader.
    fn took(&mut self, look: Look) -> u32 {
        let (mut busy, mut cpus, mut ticks) = (0, 0, 0);
        for now in &look.cpus {
            let Some(was) = self.last.cpus.iter().find(|was| was.cpu == now.cpu) else {
                continue;
            };
            let all = now.all.saturating_sub(was.all);
            if all == 0 {
                continue;
            }
            let idle = now.idle.saturating_sub(was.idle).min(all);
            busy += MILLI - idle * MILLI / all;
            cpus += 1;
            ticks += all;
        }
        let is_first = self.last.cpus.is_empty();
        if !is_first && ticks < LEAST_TICKS * cpus.max(1) {
            return self.runnable_milli;
        }
        if cpus > 0 && busy >= cpus * BUSY_MILLI {
            busy = busy.max(look.running.saturating_sub(1) * MILLI);
        }
        self.last = look;
        if self.last.cpus.is_empty() {
            return 0;
        }
        self.runnable_milli = u32::try_from(busy).unwrap_or(u32::MAX).max(1);
        self.runnable_milli
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(text: &str) -> Look {
        Look::parse(text)
    }

    #[test]
    fn an_idle_cpu_counts_time_and_a_full_one_threads() {
        let mut queue = Queue::default();
        let first = "cpu  9 9 9 9\ncpu0 100 0 100 700 100 0 0 0 5 5\ncpu1 0 0 0 1000 0 0 0 0 0 0\n\
                     ctxt 5\nprocs_running 1\n";
        let parsed = look(first);
        assert_eq!(parsed.cpus[0].all, 1000);
        assert_eq!(parsed.cpus[0].idle, 800);
        assert_eq!(queue.took(parsed), 1);
        // Half of one of two.
        let half =
            "cpu0 150 0 100 750 100 0 0 0 0 0\ncpu1 0 0 0 1100 0 0 0 0 0 0\nprocs_running 2\n";
        assert_eq!(queue.took(look(half)), 500);
        // A moment later nothing is known that is new.
        assert_eq!(queue.took(look(half)), 500);
        // Both full, five threads and the reader.
        let full =
            "cpu0 250 0 100 750 100 0 0 0 0 0\ncpu1 100 0 0 1100 0 0 0 0 0 0\nprocs_running 6\n";
        assert_eq!(queue.took(look(full)), 5000);
        // One has left.
        let one = "cpu0 350 0 100 750 100 0 0 0 0 0\nprocs_running 4\n";
        assert_eq!(queue.took(look(one)), 3000);
        assert_eq!(Queue::default().took(look("")), 0);
    }
}
