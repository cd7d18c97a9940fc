//! Work of which any core can take a piece: what makes this guest want more cores than it has.

use core::hint::black_box;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Jobs there can be: a bit each.
pub const MOST: u32 = 32;
/// Rounds of one piece: a fraction of a millisecond.
const ROUNDS: u64 = 20_000;

/// Jobs there are.
static COUNT: AtomicU32 = AtomicU32::new(0);
/// Those of them that wait for a core.
static WAITING: AtomicU32 = AtomicU32::new(0);
static PIECES: AtomicU64 = AtomicU64::new(0);

const fn mask(count: u32) -> u32 {
    if count >= MOST {
        u32::MAX
    } else {
        (1 << count) - 1
    }
}

/// From now on there are so many jobs, that never end. Whether that is another number.
pub fn set(count: u32) -> bool {
    let count = count.min(MOST);
    let is_new = COUNT.swap(count, Ordering::AcqRel) != count;
    if is_new {
        WAITING.store(mask(count), Ordering::Release);
    }
    is_new
}

/// Jobs that run or wait to run, in thousandths, as a report says it: at least 1.
pub fn runnable_milli() -> u32 {
    (COUNT.load(Ordering::Acquire) * 1000).max(1)
}

/// Pieces done so far.
pub fn pieces() -> u64 {
    PIECES.load(Ordering::Acquire)
}

/// Does a piece of a job that waits; false if none does.
pub fn piece() -> bool {
    let waiting = WAITING.load(Ordering::Acquire) & mask(COUNT.load(Ordering::Acquire));
    if waiting == 0 {
        return false;
    }
    let job = waiting & waiting.wrapping_neg();
    if WAITING.fetch_and(!job, Ordering::AcqRel) & job == 0 {
        // Another core was quicker: there may be another job.
        return true;
    }
    let mut sum = u64::from(job);
    for round in 0..ROUNDS {
        sum = black_box(sum.rotate_left(7) ^ round);
    }
    PIECES.fetch_add(1, Ordering::AcqRel);
    WAITING.fetch_or(job, Ordering::AcqRel);
    true
}
