//! What a guest uses and what it wants: its own word, held against what was seen of it.

use super::average::{Averages, HalfLives};
use crate::addr::PAGES_PER_BLOCK;
use crate::balloon::Reported;

/// Pages in a block.
const BLOCK: u64 = PAGES_PER_BLOCK as u64;
/// Thousandths of time lost waiting for memory from which on a guest is short of it.
const PRESSED: u32 = 10;
/// Pages a second that were dropped and needed again from which on a guest is short of memory.
const REFAULTING: u64 = 64;
/// Every guest may have this much unused: 8 MiB.
const HEADROOM: u64 = 2048;
/// And one page for so many that it uses.
const HEADROOM_PART: u64 = 16;
/// A guest short of memory asks for at least this much at a time: 4 MiB.
const LEAST_GROWTH: u64 = 1024;
/// A guest short of memory may come to want so many times what it asks for now: it asks step by step.
const AHEAD: u64 = 4;
/// How long a call of PRESSURE goes before everything else.
const URGENT_US: u64 = 5_000_000;

/// What is known of one guest.
#[derive(Clone, Copy, Debug)]
pub struct Activity {
    used: Averages,
    /// What it could use, in pages, if it says that it is short of memory.
    pressed: Option<u64>,
    /// What it may come to ask for soon.
    ahead: u64,
    /// It is in trouble until then, or until it reports that it is not short of memory.
    urgent_until_us: u64,
    urgent_since_us: u64,
}

/// What a guest wants, in pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Want {
    /// What it could use now.
    pub now: u64,
    /// What of it is taxed as active: no more than was seen of it.
    pub active: u64,
    /// The same, but less only slowly: until then it is not taken.
    pub lasting: u64,
    /// What it may be about to ask for, if it is short of memory.
    pub soon: u64,
}

impl Activity {
    /// A guest that has not reported: it uses what it has.
    pub const fn new(memory_pages: u64, now_us: u64) -> Self {
        Self {
            used: Averages::new(memory_pages, now_us),
            pressed: None,
            ahead: 0,
            urgent_until_us: 0,
            urgent_since_us: 0,
        }
    }

    /// The guest's word, when it had `memory` pages.
    pub fn report(&mut self, memory: u64, said: Reported, now_us: u64, half_lives: HalfLives) {
        let used = memory.saturating_sub(said.available_pages);
        self.used.set(used, now_us, half_lives);
        let short = said.pressure >= PRESSED || said.refaults >= REFAULTING;
        if !short {
            self.urgent_until_us = 0;
        }
        // What was missed in two seconds, but not more than to double: what is given in excess is taken from
        // others, and to give once more is cheap.
        let growth = if said.refaults > 0 {
            said.refaults.saturating_mul(2).min(memory)
        } else {
            memory / HEADROOM_PART
        };
        let growth = growth.max(LEAST_GROWTH);
        self.pressed = short.then(|| memory.saturating_add(growth));
        self.ahead = memory.saturating_add(growth.saturating_mul(AHEAD));
    }

    /// The guest is in trouble and needs `need` pages beyond the `memory` that it has.
    pub fn pressure(&mut self, memory: u64, need: u64, now_us: u64) {
        let want = memory.saturating_add(need.max(LEAST_GROWTH));
        self.pressed = Some(self.pressed.map_or(want, |pressed| pressed.max(want)));
        if !self.is_urgent(now_us) {
            self.urgent_since_us = now_us;
        }
        self.urgent_until_us = now_us.saturating_add(URGENT_US);
    }

    /// Since when the guest has been in trouble, if it is.
    pub fn urgent_since(&self, now_us: u64) -> Option<u64> {
        self.is_urgent(now_us).then_some(self.urgent_since_us)
    }

    /// Whether the guest is in trouble.
    pub const fn is_urgent(&self, now_us: u64) -> bool {
        now_us < self.urgent_until_us
    }

    /// What the guest wants of at most `max` pages. `touched`: of how many thousandths of its blocks an access
    /// was seen, which what it says cannot exceed.
    pub fn want(
        &self,
        memory: u64,
        max: u64,
        touched: Option<u16>,
        now_us: u64,
        half_lives: HalfLives,
    ) -> Want {
        let used = self.used.at(now_us, half_lives);
        // A guest that touches all it has may grow by the headroom, and is looked at again then.
        let most = touched.map_or(max, |touched| {
            with_headroom(memory * u64::from(touched.min(1000)) / 1000)
        });
        let now = with_headroom(used.current()).max(self.pressed.unwrap_or(0));
        let lasting = with_headroom(used.largest()).max(now);
        let blocks = |pages: u64| pages.next_multiple_of(BLOCK).min(max);
        // What it asks for is its word. What that is worth against others' is not: there the sample counts.
        Want {
            now: blocks(now),
            active: blocks(now.min(most)),
            lasting: blocks(lasting.min(most)),
            soon: blocks(self.pressed.map_or(now, |_| now.max(self.ahead))),
        }
    }

    /// Whether the averages have come down to what the guest uses, or as near as a block.
    pub fn is_settled(&self, now_us: u64, half_lives: HalfLives) -> bool {
        let used = self.used.at(now_us, half_lives);
        used.largest().saturating_sub(used.current()) < BLOCK
    }
}

fn with_headroom(used: u64) -> u64 {
    used.saturating_add(used / HEADROOM_PART + HEADROOM)
}
