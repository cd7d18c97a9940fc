//! Guests that use memory as their programs say, and the policy that moves it between them.
//!
//! Time advances by 50 ms while anything moves or is about to be reported, and otherwise jumps to the next
//! thing that happens, so that days with little happening cost little.

use ballast_core::balloon::Reported;
use ballast_core::balloon::sample::{WATCHED, estimate};
use ballast_core::policy::{Entitlement, Mode, Observed, Policy, Settings};

use super::loads::Random;

/// Pages in a MiB.
pub const MIB: u64 = 256;
/// Microseconds in a second.
pub const SECOND: u64 = 1_000_000;
const TICK: u64 = SECOND / 20;
/// A guest reports at most this often.
const REPORT_EVERY: u64 = SECOND / 4;
/// How much longer work takes for each part of the memory it lacks: all of it missing, twenty times as long.
const THRASHING: u64 = 20;

/// A guest's program works for so long with so much memory, then with so much, and so on.
#[derive(Clone, Debug)]
pub struct Phase {
    /// Time it takes if memory is there, in microseconds.
    pub us: u64,
    /// Pages it uses.
    pub pages: u64,
}

/// How long a round of the sample lasts, and for how long its result stands.
const SAMPLE_EVERY: u64 = 8 * SECOND;
/// Page cache of which so much is read in a round: one part in so many.
const CACHE_READ: u64 = 4;

/// What a guest does with its memory, and says of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Habit {
    /// It touches what it uses in every round, and nothing else.
    Plain,
    /// What it does not use holds page cache, a quarter of which it reads in a round.
    Caching,
    /// It touches half of what it uses.
    Cold,
    /// It says that it uses all it has and lacks as much again, and touches what it uses.
    Lying,
}

/// One guest's accesses as the hypervisor samples them.
#[derive(Clone, Debug, Default)]
struct Sampled {
    /// Where each watched block lies among all, in thousandths: it is accessed if that part is.
    places: Vec<u64>,
    began_us: u64,
    /// The most of it that was accessed at one time of this round.
    touched: u64,
    /// What the last round came to, and when it ended.
    last: Option<u16>,
    ended_us: u64,
}

impl Sampled {
    fn begin(&mut self, random: &mut Random, now: u64) {
        // A round that nobody ended for long says nothing.
        let is_recent = now - self.began_us <= 2 * SAMPLE_EVERY;
        self.last = self.so_far().filter(|_| is_recent);
        self.ended_us = now;
        self.began_us = now;
        self.touched = 0;
        self.places = (0..WATCHED).map(|_| random.within(0, 1000)).collect();
    }

    fn so_far(&self) -> Option<u16> {
        let accessed = self.places.iter().filter(|&&place| place < self.touched);
        estimate(accessed.count() as u32, self.places.len() as u32)
    }

    fn seen(&self, now: u64) -> Option<u16> {
        let last = self
            .last
            .filter(|_| now - self.ended_us <= 2 * SAMPLE_EVERY);
        last.map(|last| last.max(self.so_far().unwrap_or(0)))
    }
}

/// A simulated guest.
#[derive(Clone, Debug)]
pub struct Guest {
    /// What it does with its memory.
    pub habit: Habit,
    sampled: Sampled,
    /// What it is entitled to.
    pub entitlement: Entitlement,
    /// What it has.
    pub memory: u64,
    /// What it shall have.
    pub target: u64,
    /// How fast it gives and takes, in pages a second.
    pub speed: u64,
    phases: Vec<Phase>,
    phase: usize,
    left_us: u64,
    /// Whether it works more slowly when it lacks memory, or keeps its times.
    stretches: bool,
    reported: Option<Reported>,
    reported_us: u64,
    /// When its program ended.
    pub ended_us: Option<u64>,
}

impl Guest {
    /// A guest with `memory` pages that runs `phases`.
    pub fn new(entitlement: Entitlement, memory: u64, phases: Vec<Phase>, stretches: bool) -> Self {
        Self {
            habit: Habit::Plain,
            sampled: Sampled::default(),
            entitlement,
            memory,
            target: memory,
            speed: 256 * MIB,
            left_us: phases.first().map_or(u64::MAX, |phase| phase.us),
            phases,
            phase: 0,
            stretches,
            reported: None,
            reported_us: 0,
            ended_us: None,
        }
    }

    /// Pages that it uses if it has them.
    pub fn load(&self) -> u64 {
        self.phases.get(self.phase).map_or(0, |phase| phase.pages)
    }

    /// By how much longer work takes now, in thousandths: 1000 if it has what it needs.
    fn slowness(&self) -> u64 {
        let missing = self.load().saturating_sub(self.memory);
        if self.stretches && missing > 0 {
            1000 + 1000 * THRASHING * missing / self.load()
        } else {
            1000
        }
    }

    /// Time to the end of the phase if memory stays as it is.
    fn phase_ends_in(&self) -> u64 {
        if self.ended_us.is_some() {
            return u64::MAX;
        }
        self.left_us.saturating_mul(self.slowness()) / 1000 + 1
    }

    fn work(&mut self, dt: u64, now: u64) {
        if self.ended_us.is_some() {
            return;
        }
        let mut done = dt * 1000 / self.slowness();
        while done >= self.left_us {
            done -= self.left_us;
            self.phase += 1;
            let Some(phase) = self.phases.get(self.phase) else {
                self.ended_us = Some(now);
                return;
            };
            self.left_us = phase.us;
        }
        self.left_us -= done;
    }

    /// What it reports: the truth, but for one habit.
    fn word(&self) -> Reported {
        if self.habit == Habit::Lying {
            return Reported {
                free_pages: 0,
                available_pages: 0,
                pressure: 1000,
                refaults: self.memory / 2,
            };
        }
        let used = self.load().min(self.memory);
        let missing = self.load() - used;
        Reported {
            free_pages: (self.memory - used) / 2,
            available_pages: self.memory - used,
            pressure: u32::try_from(1000 * missing / self.load().max(1)).unwrap_or(1000),
            refaults: missing / 4,
        }
    }

    /// It accesses, in thousandths of its memory.
    fn touches(&self) -> u64 {
        let used = self.load().min(self.memory);
        let touched = match self.habit {
            Habit::Plain | Habit::Lying => used,
            Habit::Caching => used + (self.memory - used) / CACHE_READ,
            Habit::Cold => used / 2,
        };
        1000 * touched / self.memory.max(1)
    }

    /// Moves towards its target for `dt`, from or to the `free` pages.
    pub fn move_for(&mut self, dt: u64, free: &mut u64) {
        let most = self.speed * dt / SECOND;
        if self.target < self.memory {
            let pages = most.min(self.memory - self.target);
            self.memory -= pages;
            *free += pages;
        } else if self.target > self.memory {
            let pages = most.min(self.target - self.memory).min(*free);
            self.memory += pages;
            *free -= pages;
        }
    }

    fn has_news(&self) -> bool {
        let word = self.word();
        self.reported.is_none_or(|old| {
            let far = |a: u64, b: u64, least: u64| a.abs_diff(b) > least.max(a.max(b) / 32);
            far(old.available_pages, word.available_pages, MIB)
                || far(old.refaults, word.refaults, 32)
                || (old.pressure >= 10) != (word.pressure >= 10)
        })
    }
}

/// Guests, the pool and the policy.
pub struct World {
    /// The guests.
    pub guests: Vec<Guest>,
    /// Free pages.
    pub free: u64,
    /// Virtual time, in microseconds.
    pub now: u64,
    /// Steps of the policy.
    pub steps: u64,
    /// Targets set.
    pub changes: u64,
    /// Times a guest was turned round.
    pub turns: u64,
    /// Time with nothing to do, in microseconds.
    pub rested_us: u64,
    /// Rounds of sampling.
    pub rounds: u64,
    /// Whether accesses are sampled while guests compete.
    pub samples: bool,
    policy: Policy,
    random: Random,
    /// When the policy is to look.
    next: Option<u64>,
    /// When the next round of sampling begins, while guests compete.
    next_round: Option<u64>,
    sampled_us: Option<u64>,
    observed: Vec<Observed>,
    went_up: Vec<Option<bool>>,
}

impl World {
    /// These guests under the automatic policy, with `free` pages beside.
    pub fn new(settings: Settings, guests: Vec<Guest>, free: u64) -> Self {
        let entitlements: Vec<_> = guests.iter().map(|guest| guest.entitlement).collect();
        let mut policy = Policy::new(settings, &entitlements);
        policy.set_mode(Mode::Auto, 0);
        Self {
            went_up: vec![None; guests.len()],
            guests,
            free,
            now: 0,
            steps: 0,
            changes: 0,
            turns: 0,
            rested_us: 0,
            rounds: 0,
            samples: true,
            policy,
            random: Random::new(0),
            next: Some(0),
            next_round: None,
            sampled_us: None,
            observed: Vec::new(),
        }
    }

    /// Runs until `end`, in microseconds; `see` is called after each advance of time with its length.
    pub fn run(&mut self, end: u64, mut see: impl FnMut(&Self, u64)) {
        while self.now < end {
            let dt = self.advance_by(end);
            self.now += dt;
            let due_at = self.next.into_iter().chain(self.next_round).min();
            let mut due = due_at.is_some_and(|next| next <= self.now);
            for index in 0..self.guests.len() {
                due |= self.advance(index, dt);
            }
            if due {
                self.step();
            }
            see(self, dt);
        }
    }

    fn advance_by(&mut self, end: u64) -> u64 {
        let busy = |guest: &Guest| {
            guest.target < guest.memory
                || (guest.target > guest.memory && self.free > 0)
                || guest.has_news()
        };
        let to_end = end - self.now;
        let phase = self.guests.iter().map(Guest::phase_ends_in).min();
        let phase = phase.unwrap_or(u64::MAX);
        if self.guests.iter().any(busy) {
            return TICK.min(to_end);
        }
        let next = self.next.map_or(u64::MAX, |at| at.saturating_sub(self.now));
        let round = self
            .next_round
            .map_or(u64::MAX, |at| at.saturating_sub(self.now));
        let dt = next.min(round).min(phase).clamp(1, to_end);
        if self.next.is_none() {
            self.rested_us += dt;
        }
        dt
    }

    /// One guest's work, move and report. True if the policy is to look.
    fn advance(&mut self, index: usize, dt: u64) -> bool {
        let guest = &mut self.guests[index];
        guest.work(dt, self.now);
        guest.move_for(dt, &mut self.free);
        guest.sampled.touched = guest.sampled.touched.max(guest.touches());
        if self.now < guest.reported_us + REPORT_EVERY || !guest.has_news() {
            return false;
        }
        let word = guest.word();
        guest.reported = Some(word);
        guest.reported_us = self.now;
        self.policy.report(index, guest.memory, word, self.now);
        true
    }

    /// Begins a round of sampling if it is time. When the next one begins.
    fn round(&mut self) -> u64 {
        let next = |at: u64| at + SAMPLE_EVERY;
        if let Some(at) = self.sampled_us
            && self.now < next(at)
        {
            return next(at);
        }
        for guest in &mut self.guests {
            guest.sampled.begin(&mut self.random, self.now);
        }
        self.sampled_us = Some(self.now);
        self.rounds += 1;
        next(self.now)
    }

    fn step(&mut self) {
        self.observed.clear();
        self.observed
            .extend(self.guests.iter().map(|guest| Observed {
                memory_pages: guest.memory,
                target_pages: guest.target,
                can_move: true,
                cpus: 1,
                target_cpus: 1,
                in_transfer: false,
                touched: guest.sampled.seen(self.now),
            }));
        let decision = self.policy.step(self.now, &self.observed, self.free);
        self.next = decision.next_us;
        self.steps += 1;
        self.next_round = (decision.sample && self.samples).then(|| self.round());
        for change in self.policy.changes() {
            let (guest, went_up) = (
                &mut self.guests[change.guest],
                &mut self.went_up[change.guest],
            );
            let up = change.target_pages > guest.target;
            self.turns += u64::from(went_up.is_some_and(|was| was != up));
            *went_up = Some(up);
            self.changes += 1;
            guest.target = change.target_pages;
        }
    }
}
