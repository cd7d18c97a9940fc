//! Whether a guest does what it is asked, how fast, and what becomes of one that does not.
//!
//! A guest on its way to a target has a deadline that follows from how fast it was before. Missed, it is set
//! anew; missed three times in a row the guest is *unresponsive*: it keeps what it has and loses its claim to
//! more until it answers. Nothing is ever taken by force.

use crate::addr::PAGES_PER_BLOCK;

/// Pages in a block. A guest less than that from its target has reached it: some give whole blocks only.
const BLOCK: u64 = PAGES_PER_BLOCK as u64;
const SECOND_US: u64 = 1_000_000;
/// Deadlines in a row that a guest may miss.
const MISSES: u8 = 3;
/// Speed of a guest not yet seen moving: 64 MiB/s.
const FIRST_SPEED: u64 = 64 << 8;
/// No guest is taken to be slower than a block in 16 s, nor faster than 64 GiB/s.
const SPEEDS: (u64, u64) = (BLOCK / 16, 64 << 18);
/// What a guest has beside twice the time that the pages take at its speed.
const GRACE_US: u64 = 2 * SECOND_US;
/// No deadline is further away.
const LONGEST_US: u64 = 60 * SECOND_US;

/// A move of one guest's memory to its target.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Move {
    /// Pages it had when it was asked.
    pub from_pages: u64,
    /// Pages it shall have.
    pub target_pages: u64,
    /// When it was asked.
    pub began_us: u64,
    /// When it should be there.
    pub deadline_us: u64,
}

impl Move {
    /// The guest gives.
    #[must_use]
    pub const fn is_giving(&self) -> bool {
        self.target_pages < self.from_pages
    }

    /// Whether a guest that has `memory` pages now has come nearer.
    const fn has_moved(&self, memory: u64) -> bool {
        memory.abs_diff(self.from_pages) >= BLOCK && (memory < self.from_pages) == self.is_giving()
    }
}

/// What a look at a guest showed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Seen {
    /// It is at its target and was before.
    Rest,
    /// It is on its way.
    Moving,
    /// It has arrived.
    Arrived(Move),
    /// It has missed its deadline and has a new one.
    Late,
    /// The memory it was promised has not come.
    InVain,
    /// It has missed the last one: it is unresponsive from now on.
    GivenUp,
    /// It was unresponsive and has moved after all.
    Recovered,
}

/// What a guest has to give a core, beside [`GRACE_US`]: Linux takes some 100 ms.
const CPU_US: u64 = 2 * SECOND_US;

/// Cores that a guest is to give.
#[derive(Clone, Copy, Debug)]
struct CpuMove {
    /// Cores it had.
    from: u32,
    target: u32,
    deadline_us: u64,
}

/// One guest's answers.
#[derive(Clone, Copy, Debug)]
pub struct Response {
    open: Option<Move>,
    cpus: Option<CpuMove>,
    misses: u8,
    /// What it had when it was given up.
    stuck_pages: u64,
    /// The last target it was at.
    reached_pages: Option<u64>,
    /// Pages a second.
    speed: u64,
}

impl Default for Response {
    fn default() -> Self {
        Self {
            open: None,
            cpus: None,
            misses: 0,
            stuck_pages: 0,
            reached_pages: None,
            speed: FIRST_SPEED,
        }
    }
}

impl Response {
    /// Whether it has missed too many deadlines and not answered since.
    pub const fn is_unresponsive(&self) -> bool {
        self.misses >= MISSES
    }

    /// How fast it moves, in pages a second.
    pub const fn speed(&self) -> u64 {
        self.speed
    }

    /// The move it is in.
    pub const fn open(&self) -> Option<Move> {
        self.open
    }

    /// The guest has fetched its target: it is alive. One more miss and it is unresponsive again.
    pub fn answered(&mut self) -> bool {
        let recovers = self.is_unresponsive();
        self.misses = self.misses.min(MISSES - 1);
        recovers
    }

    /// It begins anew: what was asked of it is void.
    pub fn forget(&mut self) {
        self.open = None;
        self.cpus = None;
        self.misses = 0;
    }

    /// When it should have given the cores it is to give.
    pub fn cpus_deadline_us(&self) -> Option<u64> {
        self.cpus.map(|open| open.deadline_us)
    }

    /// Looks at the guest's cores: one that has more than its target is to give them. Who waits for a core is not late.
    pub fn look_cpus(&mut self, has: u32, target: u32, now_us: u64) -> Seen {
        let before = self.cpus.take();
        if before.is_some_and(|before| has < before.from) {
            self.misses = 0;
        }
        if has <= target || self.is_unresponsive() {
            return Seen::Rest;
        }
        let time = u64::from(has.saturating_sub(target)).saturating_mul(CPU_US);
        let mut open = CpuMove {
            from: has,
            target,
            deadline_us: now_us.saturating_add((GRACE_US.saturating_add(time)).min(LONGEST_US)),
        };
        let mut seen = Seen::Moving;
        // A target that changes all the time is no excuse for giving nothing.
        if let Some(before) = before.filter(|before| before.from <= has) {
            if now_us < before.deadline_us {
                open.deadline_us = if before.target == target {
                    before.deadline_us
                } else {
                    open.deadline_us.min(before.deadline_us)
                };
            } else {
                self.misses = self.misses.saturating_add(1);
                if self.is_unresponsive() {
                    return Seen::GivenUp;
                }
                seen = Seen::Late;
            }
        }
        self.cpus = Some(open);
        seen
    }

    /// Looks at the guest, while `free` pages lie in the pool.
    pub fn look(&mut self, memory: u64, target: u64, free: u64, now_us: u64) -> Seen {
        if self.is_unresponsive() && memory.abs_diff(self.stuck_pages) >= BLOCK {
            self.misses = 0;
            return Seen::Recovered;
        }
        if memory.abs_diff(target) < BLOCK {
            let was_here = self.reached_pages.replace(target) == Some(target);
            let Some(done) = self.open.take() else {
                return Seen::Rest;
            };
            self.measure(&done, memory, now_us);
            // A target that was withdrawn is no answer.
            if done.has_moved(memory) {
                self.misses = 0;
            }
            if was_here {
                // It strayed by itself, which it may do as often as it likes.
                return Seen::Rest;
            }
            return Seen::Arrived(Move {
                target_pages: memory,
                ..done
            });
        }
        let Some(open) = self.open else {
            if !self.is_unresponsive() {
                self.begin(memory, target, now_us);
            }
            return Seen::Rest;
        };
        let has_moved = open.has_moved(memory);
        if open.target_pages != target {
            self.measure(&open, memory, now_us);
            self.begin(memory, target, now_us);
            // A target that changes all the time is no excuse for not moving.
            if let Some(new) = &mut self.open
                && !has_moved
                && new.is_giving() == open.is_giving()
            {
                new.deadline_us = new.deadline_us.min(open.deadline_us);
            }
            return Seen::Moving;
        }
        if now_us < open.deadline_us {
            return Seen::Moving;
        }
        self.measure(&open, memory, now_us);
        self.begin(memory, target, now_us);
        // Whoever waits for memory that is not there is not late.
        if !open.is_giving() && (has_moved || free < BLOCK) {
            return if has_moved {
                Seen::Moving
            } else {
                Seen::InVain
            };
        }
        self.misses = self.misses.saturating_add(1);
        if self.is_unresponsive() {
            self.open = None;
            self.stuck_pages = memory;
            Seen::GivenUp
        } else {
            Seen::Late
        }
    }

    fn begin(&mut self, memory: u64, target: u64, now_us: u64) {
        let time = memory.abs_diff(target) * 2 * SECOND_US / self.speed;
        self.open = Some(Move {
            from_pages: memory,
            target_pages: target,
            began_us: now_us,
            deadline_us: now_us.saturating_add((GRACE_US + time).min(LONGEST_US)),
        });
    }

    /// Learns from how far the guest has come. Only giving tells: taking may have had to wait.
    fn measure(&mut self, open: &Move, memory: u64, now_us: u64) {
        let done = open.from_pages.saturating_sub(memory);
        let elapsed = now_us.saturating_sub(open.began_us);
        if !open.is_giving() || elapsed == 0 {
            return;
        }
        let seen = done.saturating_mul(SECOND_US) / elapsed;
        let (least, most) = SPEEDS;
        self.speed = ((self.speed + seen.min(most)) / 2).clamp(least, most);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_core_that_is_not_given_counts_as_memory_does() {
        let mut response = Response::default();
        assert_eq!(response.look_cpus(2, 2, 0), Seen::Rest);
        assert_eq!(response.look_cpus(1, 3, 0), Seen::Rest, "it waits");
        assert_eq!(response.cpus_deadline_us(), None);
        assert_eq!(response.look_cpus(3, 1, 10), Seen::Moving);
        let deadline = response.cpus_deadline_us().unwrap();
        assert_eq!(deadline, 10 + GRACE_US + 2 * CPU_US);
        assert_eq!(response.look_cpus(3, 2, 20), Seen::Moving);
        assert_eq!(response.look_cpus(3, 1, 30), Seen::Moving);
        let sooner = response.cpus_deadline_us().unwrap();
        assert!(sooner < deadline, "no time is won by a new target");
        assert_eq!(response.look_cpus(2, 1, sooner), Seen::Moving, "one given");
        let mut at = response.cpus_deadline_us().unwrap();
        assert!(at > sooner);
        for expected in [Seen::Late, Seen::Late, Seen::GivenUp] {
            assert_eq!(response.look_cpus(2, 1, at), expected);
            at = response.cpus_deadline_us().unwrap_or(at);
        }
        assert!(response.is_unresponsive());
        assert_eq!(response.cpus_deadline_us(), None, "nothing runs for it");
        assert!(response.answered());
        assert_eq!(response.look_cpus(2, 1, at), Seen::Moving);
        assert_eq!(response.look_cpus(1, 1, at), Seen::Rest);
        assert_eq!((response.misses, response.cpus_deadline_us()), (0, None));
    }

    #[test]
    fn who_strays_and_returns_is_no_news() {
        let mut response = Response::default();
        let mut look = |memory, target, now| response.look(memory, target, 4096, now);
        assert_eq!(look(2048, 2048, 0), Seen::Rest);
        for round in 1..100 {
            assert_eq!(look(1024, 2048, 2 * round), Seen::Rest);
            assert_eq!(look(2048, 2048, 2 * round + 1), Seen::Rest);
        }
        assert_eq!(look(2048, 1024, 300), Seen::Rest);
        assert!(matches!(look(1024, 1024, 400), Seen::Arrived(_)));
    }
}
