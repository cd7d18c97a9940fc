//! Which guest is asked for a core and which is given one, in [`Mode::Auto`](super::Mode::Auto).
//!
//! [`share_out`] says who should have how many; this says when. A guest gets a core that is free. If none is, the
//! guest that pays least is asked for one, and when that is free it goes to who wants it: nobody is promised what is
//! not there.
//!
//! * **Patience.** A run queue that is longer than the guest's cores counts once it has been so for a second; one that
//!   became shorter counts slowly.
//! * **Direction.** A guest that was given a core is not asked for one within five seconds, nor the other way round.
//! * **Pace.** One core of a guest at a time. One that does not give it within three seconds has its target back, and
//!   is not asked again for half a minute.
//!
//! At rest, that is while no guest wants a core, nothing runs.

use alloc::boxed::Box;
use alloc::vec;

use super::average::{Averages, HalfLives};
use super::cpu::{CpuClaim, share_out};
use super::funding::Tax;
use super::{Sent, sooner};

/// A run queue is longer than the guest's cores for so long before that counts.
const PATIENCE_US: u64 = 1_000_000;
/// A guest's direction is kept for this long.
const REVERSAL_US: u64 = 5_000_000;
/// A core is given within this time.
const GIVE_US: u64 = 3_000_000;
/// Who has not given one is not asked again before.
const SHY_US: u64 = 30_000_000;
/// To the next look while guests compete or a core is on its way.
const LOOK_US: u64 = 500_000;
/// How fast a run queue that became shorter is believed.
const HALF_LIVES: HalfLives = HalfLives {
    fast_us: 1_000_000,
    slow_us: 4_000_000,
};
/// Longest run queue that is told apart, in thousandths.
const MOST_RUNNABLE: u32 = 64_000;

/// What a guest is entitled to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CpuEntitlement {
    /// It never has fewer cores.
    pub min: u32,
    /// It never has more.
    pub max: u32,
    /// Its weight: 1 to 10,000.
    pub shares: u32,
    /// Its cores never change.
    pub fixed: bool,
}

/// What a guest has, at one look.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CpuSeen {
    /// Cores that are its own.
    pub granted: u32,
    /// Cores it shall have.
    pub target: u32,
    /// It runs, has a driver, and is in no transfer.
    pub can_move: bool,
}

/// A target to be set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CpuChange {
    /// Index of the guest.
    pub guest: usize,
    /// Cores it shall have.
    pub cpus: u32,
}

/// What a step came to, beside the changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CpuDecision {
    /// When the next step is due even if nothing is heard; `None` at rest.
    pub next_us: Option<u64>,
    /// A guest wants cores that others have: those should say how long their run queues are.
    pub sample: bool,
}

/// A guest's run queue, in thousandths of a thread.
#[derive(Clone, Copy, Debug)]
struct Load {
    runnable: Averages,
    /// Longer than its cores since then.
    longer_since_us: Option<u64>,
}

#[derive(Clone, Debug)]
struct Member {
    entitlement: CpuEntitlement,
    load: Option<Load>,
    sent: Option<Sent>,
    /// It was asked for a core then.
    asked_us: Option<u64>,
    /// It did not give one: not asked until then.
    shy_until_us: u64,
    change: Option<u32>,
}

/// The policy for cores. Made once; a step allocates nothing.
#[derive(Debug)]
pub struct CpuPolicy {
    members: Box<[Member]>,
    claims: Box<[CpuClaim]>,
    goals: Box<[u32]>,
    tax: Tax,
}

impl CpuPolicy {
    /// The policy for these guests.
    #[must_use]
    pub fn new(tax: Tax, guests: &[CpuEntitlement]) -> Self {
        let members = guests.iter().map(|&entitlement| Member {
            entitlement,
            load: None,
            sent: None,
            asked_us: None,
            shy_until_us: 0,
            change: None,
        });
        let nothing = CpuClaim {
            shares: 1,
            held: 0,
            min: 0,
            max: 0,
            runnable_milli: 0,
            can_be_asked: false,
        };
        Self {
            members: members.collect(),
            claims: vec![nothing; guests.len()].into_boxed_slice(),
            goals: vec![0; guests.len()].into_boxed_slice(),
            tax,
        }
    }

    /// A guest with `granted` cores reports how many threads run or wait to run, in thousandths. A step is due.
    pub fn report(&mut self, guest: usize, granted: u32, runnable_milli: u32, now_us: u64) {
        let Some(member) = self.members.get_mut(guest) else {
            return;
        };
        let runnable = runnable_milli.min(MOST_RUNNABLE);
        let load = member.load.get_or_insert(Load {
            runnable: Averages::new(runnable.into(), now_us),
            longer_since_us: None,
        });
        load.runnable.set(runnable.into(), now_us, HALF_LIVES);
        if runnable > granted.saturating_mul(1000) {
            load.longer_since_us.get_or_insert(now_us);
        } else {
            load.longer_since_us = None;
        }
    }

    /// A guest begins anew: nothing is known of what it runs.
    pub fn restarted(&mut self, guest: usize) {
        if let Some(member) = self.members.get_mut(guest) {
            member.load = None;
            member.sent = None;
            member.asked_us = None;
            member.shy_until_us = 0;
        }
    }

    /// The targets the last step decided to set.
    pub fn changes(&self) -> impl Iterator<Item = CpuChange> {
        let members = self.members.iter().enumerate();
        members.filter_map(|(guest, member)| {
            let cpus = member.change?;
            Some(CpuChange { guest, cpus })
        })
    }

    /// Looks at every guest, with `free` cores that nobody has, and decides. `seen` has one entry a guest, in the
    /// order of [`CpuPolicy::new`].
    pub fn step(&mut self, now_us: u64, seen: &[CpuSeen], free: u32) -> CpuDecision {
        let mut decision = CpuDecision {
            next_us: None,
            sample: false,
        };
        let mut coming = 0;
        let members = self.members.iter_mut().zip(seen);
        for ((member, seen), claim) in members.zip(&mut self.claims) {
            *claim = member.look(seen, now_us, &mut decision);
            if member.change.is_none() && seen.can_move {
                coming += seen.granted.saturating_sub(seen.target);
            }
        }
        let wants = |claim: &CpuClaim| claim.can_be_asked && claim.demand() > claim.held;
        decision.sample = self.claims.iter().any(wants);
        if !decision.sample && coming == 0 {
            return decision;
        }
        share_out(&self.claims, free + coming, self.tax, &mut self.goals);
        let mut free = free;
        let goals = self.goals.iter().zip(&self.claims);
        for (member, (&goal, claim)) in self.members.iter_mut().zip(goals) {
            if goal > claim.held && free > 0 {
                free -= 1;
                member.send(claim.held + 1, true, now_us);
            } else if goal < claim.held && member.asked_us.is_none() {
                member.asked_us = Some(now_us);
                member.send(claim.held - 1, false, now_us);
            }
        }
        decision.next_us = sooner(decision.next_us, now_us.saturating_add(LOOK_US));
        decision
    }
}

impl Member {
    /// The guest's claim at this moment; gives up asking one that does not give.
    fn look(&mut self, seen: &CpuSeen, now_us: u64, decision: &mut CpuDecision) -> CpuClaim {
        self.change = None;
        if seen.granted <= seen.target || !seen.can_move {
            self.asked_us = None;
        }
        if let Some(asked_us) = self.asked_us
            && now_us >= asked_us.saturating_add(GIVE_US)
        {
            self.asked_us = None;
            self.shy_until_us = now_us.saturating_add(SHY_US);
            self.change = Some(seen.granted);
        }
        let can_be_asked = seen.can_move && !self.entitlement.fixed && self.change.is_none();
        let held = seen.target;
        let kept = |up: bool| {
            let sent = self.sent.filter(|sent| sent.up == up);
            sent.is_some_and(|sent| now_us < sent.at_us.saturating_add(REVERSAL_US))
        };
        let runnable = match &self.load {
            Some(load) => {
                let most = held.saturating_mul(1000);
                let runnable = load.runnable.at(now_us, HALF_LIVES);
                let ripe_us = load
                    .longer_since_us
                    .map(|since_us| since_us.saturating_add(PATIENCE_US));
                match ripe_us {
                    Some(ripe_us) if now_us >= ripe_us => runnable.current(),
                    Some(ripe_us) => {
                        decision.next_us = sooner(decision.next_us, ripe_us);
                        runnable.largest().min(most.into())
                    }
                    None => runnable.largest().min(most.into()),
                }
            }
            // Nothing is known: it uses what it has.
            None => u64::from(held) * 1000,
        };
        CpuClaim {
            shares: self.entitlement.shares,
            held,
            min: if kept(true) || now_us < self.shy_until_us || self.load.is_none() {
                held
            } else {
                self.entitlement.min.min(held)
            },
            max: if kept(false) || seen.granted != seen.target {
                held
            } else {
                self.entitlement.max.max(held)
            },
            runnable_milli: u32::try_from(runnable).unwrap_or(MOST_RUNNABLE),
            can_be_asked,
        }
    }

    const fn send(&mut self, cpus: u32, up: bool, now_us: u64) {
        self.change = Some(cpus);
        self.sent = Some(Sent {
            up,
            at_us: now_us,
            in_trouble: false,
        });
    }
}
