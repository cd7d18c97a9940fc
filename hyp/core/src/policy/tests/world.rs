//! Guests that use memory, move it at a speed of their own, and may be deaf or lie.

use crate::balloon::Reported;
use crate::policy::{BLOCK, Decision, Entitlement, Mode, Observed, Policy, Seen, Settings};

pub const MIB: u64 = 256;
pub const SECOND: u64 = 1_000_000;
/// How finely the world's time runs.
const TICK: u64 = 50_000;

#[derive(Clone, Debug)]
pub struct Guest {
    pub entitlement: Entitlement,
    /// Pages it would use if it had them.
    pub load: u64,
    pub memory: u64,
    pub target: u64,
    /// Pages a second.
    pub speed: u64,
    pub has_driver: bool,
    /// It fetches no target and moves nothing.
    pub is_deaf: bool,
    /// It says that it has nothing left whatever it uses.
    pub lies: bool,
    /// What it touches is sampled.
    pub is_sampled: bool,
    reported: Option<Reported>,
    /// What it used by its last report.
    said_used: u64,
    fetched: bool,
    /// The policy's last change: up or down, whether for a trouble of its own, and when.
    sent: Option<(bool, bool, u64)>,
    /// It called PRESSURE last.
    pressed_at: Option<u64>,
}

impl Guest {
    pub fn new(memory_mib: u64, min_mib: u64, max_mib: u64, shares: u32) -> Self {
        Self {
            entitlement: Entitlement {
                min_pages: min_mib * MIB,
                max_pages: max_mib * MIB,
                shares,
                fixed: false,
            },
            load: 0,
            memory: memory_mib * MIB,
            target: memory_mib * MIB,
            speed: 256 * MIB,
            has_driver: true,
            is_deaf: false,
            lies: false,
            is_sampled: false,
            reported: None,
            said_used: 0,
            fetched: true,
            sent: None,
            pressed_at: None,
        }
    }

    pub fn loaded(mut self, mib: u64) -> Self {
        self.load = mib * MIB;
        self
    }

    fn truth(&self) -> Reported {
        let missing = self.load.saturating_sub(self.memory);
        let used = self.load.min(self.memory);
        if self.lies {
            return Reported {
                free_pages: 0,
                available_pages: 0,
                pressure: 1000,
                refaults: 1 << 20,
            };
        }
        Reported {
            free_pages: (self.memory - used) / 2,
            available_pages: self.memory - used,
            pressure: (1000 * missing / self.load.max(1)) as u32,
            refaults: missing / 4,
        }
    }

    fn observed(&self) -> Observed {
        let touched = 1000 * self.load.min(self.memory) / self.memory.max(1);
        Observed {
            memory_pages: self.memory,
            target_pages: self.target,
            can_move: self.has_driver,
            cpus: 1,
            target_cpus: 1,
            in_transfer: false,
            touched: self.is_sampled.then_some(touched as u16),
        }
    }
}

/// Whether a report is different enough to be made.
fn differs(old: &Reported, new: &Reported) -> bool {
    let far = |a: u64, b: u64, least: u64| a.abs_diff(b) > least.max(a.max(b) / 32);
    far(old.available_pages, new.available_pages, 256)
        || far(old.refaults, new.refaults, 32)
        || (old.pressure >= 10) != (new.pressure >= 10)
}

pub struct World {
    pub policy: Policy,
    pub guests: Vec<Guest>,
    pub free: u64,
    pub now: u64,
    pub next: Option<u64>,
    pub decision: Option<Decision>,
    pub steps: u64,
    pub changes: u64,
    /// Guests that were given up, in the order it happened.
    pub given_up: Vec<usize>,
    total: u64,
    /// A control guest spoke last, or the mode was set.
    heard: u64,
}

impl World {
    pub fn new(settings: Settings, guests: Vec<Guest>, free_mib: u64) -> Self {
        let entitlements: Vec<_> = guests.iter().map(|guest| guest.entitlement).collect();
        let mut policy = Policy::new(settings, &entitlements);
        policy.set_mode(Mode::Auto, 0);
        let total = guests.iter().map(|guest| guest.memory).sum::<u64>() + free_mib * MIB;
        Self {
            policy,
            guests,
            free: free_mib * MIB,
            now: 0,
            next: Some(0),
            decision: None,
            steps: 0,
            changes: 0,
            given_up: Vec::new(),
            total,
            heard: 0,
        }
    }

    pub fn memory_mib(&self) -> Vec<u64> {
        self.guests.iter().map(|guest| guest.memory / MIB).collect()
    }

    pub fn run(&mut self, seconds: u64) {
        let end = self.now + seconds * SECOND;
        while self.now < end {
            self.tick();
        }
    }

    /// Runs for so many times 50 ms.
    pub fn ticks(&mut self, count: u64) {
        for _ in 0..count {
            self.tick();
        }
    }

    /// Until nothing is to be done; how long it took. Panics if it takes more than `seconds`.
    pub fn settle(&mut self, seconds: u64) -> u64 {
        let begin = self.now;
        // One report may be due.
        self.tick();
        self.tick();
        while self.next.is_some() {
            assert!(
                self.now - begin < seconds * SECOND,
                "no rest: {:?} free {} next {:?} changes {} {:?} {:?}",
                self.guests,
                self.free,
                self.next,
                self.changes,
                self.decision,
                self.policy
            );
            self.tick();
        }
        self.now - begin
    }

    pub fn manual(&mut self, guest: usize, target: u64) {
        self.guests[guest].target = target;
        self.guests[guest].fetched = false;
        self.guests[guest].sent = None;
        self.next = Some(self.now);
    }

    pub fn set_mode(&mut self, mode: Mode) {
        self.policy.set_mode(mode, self.now);
        self.heard = self.now;
        self.next = Some(self.now);
    }

    /// A control guest sets a target.
    pub fn requested(&mut self, guest: usize, target: u64) {
        self.manual(guest, target);
        self.policy.requested(self.now);
        self.heard = self.now;
    }

    pub fn pressure(&mut self, guest: usize, need: u64) {
        let memory = self.guests[guest].memory;
        self.guests[guest].pressed_at = Some(self.now);
        self.policy.pressure(guest, memory, need, self.now);
        self.next = Some(self.now);
    }

    fn tick(&mut self) {
        self.now += TICK;
        for index in 0..self.guests.len() {
            self.move_guest(index);
        }
        let mut due = self.next.is_some_and(|next| next <= self.now);
        for (index, guest) in self.guests.iter_mut().enumerate() {
            if !guest.has_driver || guest.is_deaf {
                continue;
            }
            if !std::mem::replace(&mut guest.fetched, true) {
                due |= self.policy.answered(index);
            }
            let truth = guest.truth();
            if guest.reported.is_none_or(|old| differs(&old, &truth)) {
                guest.reported = Some(truth);
                guest.said_used = guest.memory - truth.available_pages;
                self.policy.report(index, guest.memory, truth, self.now);
                due = true;
            }
        }
        if due {
            self.step();
        }
        self.check();
    }

    fn move_guest(&mut self, index: usize) {
        let guest = &mut self.guests[index];
        if !guest.has_driver || guest.is_deaf {
            return;
        }
        let most = guest.speed * TICK / SECOND;
        if guest.target < guest.memory {
            let pages = most.min(guest.memory - guest.target);
            guest.memory -= pages;
            self.free += pages;
        } else {
            let pages = most.min(guest.target - guest.memory).min(self.free);
            guest.memory += pages;
            self.free -= pages;
        }
    }

    fn step(&mut self) {
        let observed: Vec<_> = self.guests.iter().map(Guest::observed).collect();
        let decision = self.policy.step(self.now, &observed, self.free);
        self.decision = Some(decision);
        self.next = decision.next_us;
        self.steps += 1;
        let given_up: Vec<_> = self
            .policy
            .notices()
            .filter(|notice| notice.seen == Seen::GivenUp)
            .map(|notice| notice.guest)
            .collect();
        let mut raised = false;
        let mode = self.policy.mode();
        let is_trouble = |guest: &Guest| {
            let until = guest.pressed_at.map(|at| at + 5 * SECOND);
            until.is_some_and(|until| self.now < until)
        };
        let trouble = self.guests.iter().any(is_trouble);
        let in_trouble: Vec<_> = self.guests.iter().map(is_trouble).collect();
        for change in self.policy.changes() {
            let guest = &mut self.guests[change.guest];
            let entitlement = guest.entitlement;
            self.changes += 1;
            let withdrawn = change.target_pages == guest.memory;
            assert!(guest.has_driver && !entitlement.fixed);
            assert_ne!(mode, Mode::Manual, "{change:?}");
            // While a control guest decides: what is free for a guest in trouble, and others' memory a little later.
            if mode == Mode::External && !withdrawn && self.now < self.heard + 10 * SECOND {
                let is_late = self.now >= self.heard + SECOND / 4;
                let up = change.target_pages > guest.target;
                assert!(
                    in_trouble[change.guest] && up || trouble && is_late && !up,
                    "{change:?} {} s after it was heard",
                    (self.now - self.heard) / SECOND
                );
            }
            if !withdrawn {
                assert!(change.target_pages.abs_diff(guest.target) >= BLOCK);
                assert!(change.target_pages <= entitlement.max_pages, "{change:?}");
                assert!(
                    change.target_pages >= entitlement.min_pages.min(guest.memory),
                    "{change:?} {guest:?}"
                );
                let up = change.target_pages > guest.target;
                if let Some((was_up, in_its_trouble, at)) = guest.sent {
                    // A guest in trouble is turned round, and others give it what they do not use; and it gives what it
                    // was given and does not use.
                    let seen = if guest.is_sampled {
                        guest.load
                    } else {
                        u64::MAX
                    };
                    let used = guest.said_used.min(seen).min(guest.memory);
                    let is_excused = if up {
                        in_trouble[change.guest]
                    } else {
                        (trouble || in_its_trouble) && change.target_pages >= used
                    };
                    assert!(
                        was_up == up || is_excused || self.now >= at + 5 * SECOND,
                        "{} turned after {} ms",
                        change.guest,
                        (self.now - at) / 1000
                    );
                }
                guest.sent = Some((up, up && in_trouble[change.guest], self.now));
            }
            raised |= !withdrawn && change.target_pages > guest.target;
            guest.target = change.target_pages;
            guest.fetched = false;
        }
        self.given_up.extend(given_up);
        // The policy promises no more than there is; the operator may have.
        if raised {
            let having = |guest: &Guest| match guest.has_driver {
                true => guest.target,
                false => guest.memory,
            };
            let promised: u64 = self.guests.iter().map(having).sum();
            assert!(promised <= self.total, "{promised} of {}", self.total);
        }
    }

    fn check(&self) {
        let held: u64 = self.guests.iter().map(|guest| guest.memory).sum();
        assert_eq!(held + self.free, self.total);
        for guest in &self.guests {
            assert!(guest.memory >= guest.entitlement.min_pages, "{guest:?}");
            assert!(guest.memory <= guest.entitlement.max_pages, "{guest:?}");
        }
    }
}
