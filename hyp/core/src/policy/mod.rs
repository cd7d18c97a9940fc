//! The resource scheduler: who should have how much memory.
//!
//! The policy knows nothing of frames, page tables or calls, and the mechanism nothing of shares. The shell
//! tells it what happens ([`Policy::report`], [`Policy::pressure`], [`Policy::answered`],
//! [`Policy::requested`]), calls [`Policy::step`] with what every guest has, and carries out the target
//! [`changes`](Policy::changes) that come out. A step says when the next is due; `None` means at rest: nothing
//! runs until a guest reports something new. The same code runs in the hypervisor and in the simulator.
//!
//! # What it decides
//!
//! Each guest has a guaranteed minimum, a maximum and shares. In [`Mode::Auto`] a guest that wants more than
//! it has gets what is free, and if that is not enough what others pay least for: see [`funding`]. What a
//! guest wants is its own word, held against a sample of what it touches: see [`Want`].
//!
//! * **Hysteresis.** Memory is taken from a guest for another one only when the other's rho is more than 1.1
//!   times its own; once begun it goes on to the fixed point. No change is smaller than a block. A guest that
//!   has been given memory is not asked to give within five seconds, nor the other way round: but a guest in trouble
//!   gets memory at once, and of what it does not use everybody gives it.
//! * **One fixed point.** Where it goes depends on what guests use and on where memory lies, and not on who
//!   reported first or has been idle longest: see `Policy::serve`.
//! * **Pace.** A guest is asked for as much at a time as it gives in a second at the speed it has shown.
//! * **Reserve.** A part of memory is kept free for guests in trouble; how far it is used up is the
//!   [`Level`], and the fuller the faster idle memory is called in.
//! * **Trouble.** A guest that misses its deadline three times is unresponsive: see [`Seen`].
//! * `fixed` guests (`realtime;`) are never asked, looked at or counted.
//!
//! Bounded: a step costs at most 110 passes over the guests, 60 unless one asks step by step, and allocates nothing.
#![cfg_attr(
    not(test),
    expect(
        clippy::arithmetic_side_effects,
        reason = "page counts up to 2^28 (`MAX_PAGES`, which every input is held to), shares up to 10,000, \
                  percentages; times are added saturating"
    )
)]

mod activity;
mod auto;
mod average;
pub mod cores;
pub mod cpu;
pub mod funding;
mod response;
#[cfg(test)]
mod tests;
pub mod transfer;
mod types;

use alloc::boxed::Box;
use alloc::vec;

use activity::Activity;
pub use activity::Want;
use auto::Supply;
pub use average::HalfLives;
use funding::{Claim, MAX_PAGES};
use response::Response;
pub use response::{Move, Seen};
use types::Latitude;
pub use types::{Change, Decision, Entitlement, Level, Mode, Notice, Observed, Settings};

use crate::addr::PAGES_PER_BLOCK;
use crate::balloon::Reported;

/// Pages in a block, the least that is moved.
const BLOCK: u64 = PAGES_PER_BLOCK as u64;
/// Most shares of a guest.
const MAX_SHARES: u32 = 10_000;

/// Which way the policy last sent a guest, and when.
#[derive(Clone, Copy, Debug)]
struct Sent {
    up: bool,
    at_us: u64,
    /// It was given memory because it said that it was in trouble.
    in_trouble: bool,
}

/// What is kept of one guest.
#[derive(Clone, Debug)]
struct Member {
    entitlement: Entitlement,
    activity: Option<Activity>,
    response: Response,
    sent: Option<Sent>,
    change: Option<u64>,
    notice: Option<Seen>,
    latitude: Latitude,
}

/// The policy. Made once; a step allocates nothing.
#[derive(Debug)]
pub struct Policy {
    settings: Settings,
    mode: Mode,
    members: Box<[Member]>,
    claims: Box<[Claim]>,
    goals: Box<[u64]>,
    /// What a guest can have if those that ask step by step come to want what they may.
    limits: Box<[u64]>,
    /// Memory is being taken from one guest for another.
    revoking: bool,
    /// The reserve is being filled up.
    refilling: bool,
    /// A control guest spoke last.
    heard_us: u64,
}

impl Policy {
    /// The policy for these guests, in [`Mode::Manual`].
    #[must_use]
    pub fn new(settings: Settings, guests: &[Entitlement]) -> Self {
        let members = guests.iter().map(|guest| {
            let max_pages = guest.max_pages.min(MAX_PAGES);
            Member {
                entitlement: Entitlement {
                    min_pages: guest.min_pages.min(max_pages),
                    max_pages,
                    shares: guest.shares.clamp(1, MAX_SHARES),
                    fixed: guest.fixed,
                },
                activity: None,
                response: Response::default(),
                sent: None,
                change: None,
                notice: None,
                latitude: Latitude::default(),
            }
        });
        Self {
            settings,
            mode: Mode::Manual,
            members: members.collect(),
            claims: vec![Claim::default(); guests.len()].into_boxed_slice(),
            goals: vec![0; guests.len()].into_boxed_slice(),
            limits: vec![0; guests.len()].into_boxed_slice(),
            revoking: false,
            refilling: false,
            heard_us: 0,
        }
    }

    /// Who decides.
    #[must_use]
    pub const fn mode(&self) -> Mode {
        self.mode
    }

    /// From now on `mode` decides. A step is due.
    pub fn set_mode(&mut self, mode: Mode, now_us: u64) {
        self.mode = mode;
        self.heard_us = now_us;
        self.revoking = false;
        self.refilling = false;
    }

    /// A guest with `memory` pages reports. A step is due in [`Mode::Auto`] and [`Mode::External`].
    pub fn report(&mut self, guest: usize, memory: u64, said: Reported, now_us: u64) {
        let half_lives = self.settings.half_lives;
        if let Some(member) = self.members.get_mut(guest) {
            let memory = memory.min(MAX_PAGES);
            member
                .activity
                .get_or_insert(Activity::new(memory, now_us))
                .report(memory, said, now_us, half_lives);
        }
    }

    /// A guest with `memory` pages is in trouble and needs more. A step is due, except in [`Mode::Manual`].
    pub fn pressure(&mut self, guest: usize, memory: u64, need: u64, now_us: u64) {
        if let Some(member) = self.members.get_mut(guest) {
            let memory = memory.min(MAX_PAGES);
            member
                .activity
                .get_or_insert(Activity::new(memory, now_us))
                .pressure(memory, need.min(MAX_PAGES), now_us);
        }
    }

    /// A guest has fetched its target. True if it was unresponsive: then a step is due.
    pub fn answered(&mut self, guest: usize) -> bool {
        self.members
            .get_mut(guest)
            .is_some_and(|member| member.response.answered())
    }

    /// A control guest has set a target. A step is due.
    pub fn requested(&mut self, now_us: u64) {
        self.heard_us = now_us;
    }

    /// A guest begins anew, or says so: nothing is known of what it uses. Its deadlines stand, since a driver
    /// that said so again and again would otherwise have none.
    pub fn restarted(&mut self, guest: usize) {
        if let Some(member) = self.members.get_mut(guest) {
            member.activity = None;
            member.sent = None;
        }
    }

    /// A guest has stopped: what was asked of it is void.
    pub fn stopped(&mut self, guest: usize) {
        self.restarted(guest);
        if let Some(member) = self.members.get_mut(guest) {
            member.response.forget();
        }
    }

    /// Whether a guest is unresponsive.
    #[must_use]
    pub fn is_unresponsive(&self, guest: usize) -> bool {
        self.members
            .get(guest)
            .is_some_and(|member| member.response.is_unresponsive())
    }

    /// The move a guest is in.
    #[must_use]
    pub fn open_move(&self, guest: usize) -> Option<Move> {
        self.members.get(guest)?.response.open()
    }

    /// When a guest should be at its targets, the one for memory and the one for cores.
    #[must_use]
    pub fn deadline_us(&self, guest: usize) -> Option<u64> {
        let response = &self.members.get(guest)?.response;
        let memory = response.open().map(|open| open.deadline_us);
        memory.max(response.cpus_deadline_us())
    }

    /// The targets the last step decided to set.
    pub fn changes(&self) -> impl Iterator<Item = Change> {
        let members = self.members.iter().enumerate();
        members.filter_map(|(guest, member)| {
            let target_pages = member.change?;
            Some(Change {
                guest,
                target_pages,
            })
        })
    }

    /// What the last step noticed.
    pub fn notices(&self) -> impl Iterator<Item = Notice> {
        let members = self.members.iter().enumerate();
        members.filter_map(|(guest, member)| {
            let seen = member.notice?;
            Some(Notice { guest, seen })
        })
    }

    /// Looks at every guest, with `free` pages in the pool, and decides. `observed` has one entry a guest, in
    /// the order of [`Policy::new`].
    pub fn step(&mut self, now_us: u64, observed: &[Observed], free: u64) -> Decision {
        let free = free.min(MAX_PAGES);
        let mut next = None;
        let decides = match self.mode {
            Mode::Manual => false,
            Mode::Auto => true,
            Mode::External => now_us >= self.external_until_us(),
        };
        for (member, seen) in self.members.iter_mut().zip(observed) {
            member.look(seen, free, now_us);
            // Another's word stands, even if there is no memory for it or, by hand, if the guest does not listen.
            let is_void = match member.notice {
                Some(Seen::GivenUp) => self.mode != Mode::Manual,
                Some(Seen::InVain) => decides,
                // A word given to one that does not listen is not kept from others.
                _ => decides && member.has_no_claim(seen),
            };
            if is_void && !seen.in_transfer {
                member.change = Some(seen.memory_pages);
            }
        }
        let (coming, promised) = self.promises(observed, free);
        let spare = coming.saturating_sub(promised);
        let total = self.total(observed, free);
        let reserve = total * self.settings.reserve_per_mille.min(1000) / 1000 / BLOCK * BLOCK;
        let level = Level::of(spare, reserve);
        let mut sample = false;
        if self.mode != Mode::Manual {
            let supply = Supply {
                spare,
                debt: promised.saturating_sub(coming),
                reserve,
                level,
            };
            let auto = self.decide(now_us, observed, supply);
            next = auto.next_us;
            sample = auto.competing;
        }
        // A change made above is a move from now on, with its deadline.
        for (member, seen) in self.members.iter_mut().zip(observed) {
            if let Some(target) = member.change {
                member
                    .response
                    .look(seen.memory_pages, target, free, now_us);
            }
            if let Some(deadline_us) = member.response.cpus_deadline_us()
                && seen.can_move
            {
                next = sooner(next, deadline_us);
            }
            // Nobody looks whether memory has come that nobody gives: whoever frees some has a step made.
            let waits = free < BLOCK && self.mode == Mode::Manual;
            if let Some(open) = member.response.open()
                && seen.can_move
                && (open.is_giving() || !waits)
            {
                let look = open
                    .deadline_us
                    .min(now_us.saturating_add(level.interval_us()));
                next = sooner(next, look);
            }
        }
        Decision {
            next_us: next.map(|at| at.max(now_us.saturating_add(1))),
            sample,
            level,
        }
    }

    /// Until when a control guest decides alone.
    const fn external_until_us(&self) -> u64 {
        self.heard_us
            .saturating_add(self.settings.external_timeout_us)
    }

    /// Everything that there is to share out.
    fn total(&self, observed: &[Observed], free: u64) -> u64 {
        let members = self.members.iter().zip(observed);
        let held = members.filter(|(member, _)| !member.entitlement.fixed);
        free + held
            .map(|(_, seen)| seen.memory_pages.min(MAX_PAGES))
            .sum::<u64>()
    }

    /// What is free or being given, and what is promised.
    fn promises(&self, observed: &[Observed], free: u64) -> (u64, u64) {
        let mut coming = free;
        let mut promised = 0;
        for (member, seen) in self.members.iter().zip(observed) {
            if member.can_be_asked(seen) && member.change.is_none() {
                coming += seen.memory_pages.saturating_sub(seen.target_pages);
                promised += seen.target_pages.saturating_sub(seen.memory_pages);
            }
        }
        (coming, promised)
    }
}

impl Member {
    /// Its memory can change by asking it.
    const fn can_be_asked(&self, seen: &Observed) -> bool {
        seen.can_move
            && !seen.in_transfer
            && !self.entitlement.fixed
            && !self.response.is_unresponsive()
    }

    /// It is to get more and has lost its claim to that.
    const fn has_no_claim(&self, seen: &Observed) -> bool {
        seen.can_move
            && !self.entitlement.fixed
            && self.response.is_unresponsive()
            && seen.target_pages > seen.memory_pages
    }

    fn look(&mut self, seen: &Observed, free: u64, now_us: u64) {
        self.change = None;
        self.notice = None;
        // A driver that is gone is asked nothing; what it was late with when it left, its next one is late with.
        if !seen.can_move || self.entitlement.fixed {
            return;
        }
        let look = self
            .response
            .look(seen.memory_pages, seen.target_pages, free, now_us);
        let cpus = if seen.in_transfer {
            Seen::Rest
        } else {
            self.response.look_cpus(seen.cpus, seen.target_cpus, now_us)
        };
        self.notice = [look, cpus]
            .into_iter()
            .find(|look| !matches!(look, Seen::Rest | Seen::Moving));
    }
}

/// The sooner of a time that may not be and one that is.
fn sooner(next: Option<u64>, at: u64) -> Option<u64> {
    Some(next.map_or(at, |next| next.min(at)))
}
