//! The policy for cores at work: what it hears of, and how its targets are set.

use alloc::boxed::Box;
use alloc::vec;

use ballast_core::log::Origin;
use ballast_core::policy::cores::{CpuDecision, CpuEntitlement, CpuPolicy, CpuSeen};
use ballast_core::policy::funding::Tax;
use ballast_core::policy::{Mode, Observed};

use crate::guest::Guest;
use crate::percpu::PerCpu;
use crate::system::System;

/// The policy, and what it is shown.
pub struct Cpus {
    policy: CpuPolicy,
    seen: Box<[CpuSeen]>,
}

impl Cpus {
    /// For these guests.
    pub fn new(tax: Tax, guests: &[Guest]) -> Self {
        let entitlements: Box<[CpuEntitlement]> = guests
            .iter()
            .map(|guest| {
                let config = &guest.plan.config;
                CpuEntitlement {
                    min: config.cpus.min,
                    max: config.cpus.max,
                    shares: config.shares,
                    fixed: config.realtime,
                }
            })
            .collect();
        let nothing = CpuSeen {
            granted: 0,
            target: 0,
            can_move: false,
        };
        Self {
            policy: CpuPolicy::new(tax, &entitlements),
            seen: vec![nothing; guests.len()].into_boxed_slice(),
        }
    }

    /// A guest has reported; it may have said how long its run queue is.
    pub fn report(&mut self, system: &System, guest: &Guest, now_us: u64) {
        let runnable = guest.memory.report.runnable();
        if runnable != 0 {
            let granted = system.cores.granted(guest.index).len() as u32;
            self.policy.report(guest.index, granted, runnable, now_us);
        }
    }

    /// A guest begins anew.
    pub fn restarted(&mut self, guest: &Guest) {
        self.policy.restarted(guest.index);
    }

    /// Asks the policy if it is its to decide, and does what it says.
    pub fn step(
        &mut self,
        system: &System,
        cpu: &PerCpu,
        mode: Mode,
        observed: &[Observed],
        now_us: u64,
    ) -> CpuDecision {
        if mode != Mode::Auto {
            return CpuDecision {
                next_us: None,
                sample: false,
            };
        }
        let mut free = system.board.cores.len() as u32;
        let guests = system.guests.iter().zip(observed);
        for ((guest, observed), seen) in guests.zip(&mut self.seen) {
            *seen = CpuSeen {
                granted: system.cores.granted(guest.index).len() as u32,
                target: system.cores.target(guest.index),
                can_move: observed.can_move && !observed.in_transfer,
            };
            // What a guest still waits for, or is being moved to it, is not free.
            free = free.saturating_sub(seen.granted.max(seen.target));
            if observed.in_transfer {
                free = 0;
            }
        }
        let decision = self.policy.step(now_us, &self.seen, free);
        for change in self.policy.changes() {
            if let Some(guest) = system.guests.get(change.guest) {
                // Within the guest's bounds, which the policy knows.
                let _ = system.set_cpus(cpu, guest, change.cpus, Origin::Ballast);
            }
        }
        decision
    }
}
