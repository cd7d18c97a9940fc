//! Three moving averages of one quantity, of which the largest counts.
//!
//! A rise counts at once and a fall slowly (Waldspurger, "Memory Resource Management in VMware ESX
//! Server", OSDI 2002, section 5.3): memory that a guest has just stopped using is not taken from it
//! before it is likely to stay unused. Nothing runs for it: an average is brought up to date when it
//! is looked at.

/// Fraction bits of an average.
const FRACTION: u32 = 4;

/// How fast the averages follow a fall.
#[derive(Clone, Copy, Debug)]
pub struct HalfLives {
    /// Of the fast average, in microseconds: 1 to 2^26.
    pub fast_us: u64,
    /// Of the slow average, in microseconds: 1 to 2^26.
    pub slow_us: u64,
}

/// The averages of one guest's used pages.
#[derive(Clone, Copy, Debug)]
pub struct Averages {
    current: u64,
    fast: u64,
    slow: u64,
    at_us: u64,
}

impl Averages {
    /// All three at `value`, at most 2^28.
    pub const fn new(value: u64, now_us: u64) -> Self {
        let exact = value << FRACTION;
        Self {
            current: value,
            fast: exact,
            slow: exact,
            at_us: now_us,
        }
    }

    /// The averages at `now_us`, while the value stays what it was.
    pub fn at(self, now_us: u64, half_lives: HalfLives) -> Self {
        let elapsed = now_us.saturating_sub(self.at_us);
        let exact = self.current << FRACTION;
        Self {
            fast: approach(self.fast, exact, elapsed, half_lives.fast_us),
            slow: approach(self.slow, exact, elapsed, half_lives.slow_us),
            at_us: self.at_us.max(now_us),
            ..self
        }
    }

    /// The value changes at `now_us`.
    pub fn set(&mut self, value: u64, now_us: u64, half_lives: HalfLives) {
        *self = self.at(now_us, half_lives);
        self.current = value;
    }

    /// The value as it is.
    pub const fn current(self) -> u64 {
        self.current
    }

    /// The largest of the three.
    pub fn largest(self) -> u64 {
        self.current.max(self.fast.max(self.slow) >> FRACTION)
    }
}

/// `from` on its way to `to` after `elapsed`: 2^(-elapsed / half life) of the distance is left.
fn approach(from: u64, to: u64, elapsed: u64, half_life: u64) -> u64 {
    let half_life = half_life.clamp(1, 1 << 26);
    let halvings = elapsed / half_life;
    if halvings >= u64::from(u64::BITS) {
        return to;
    }
    // 2^-r for r in [0, 1) as the parabola through 1 and 1/2 with 20 fraction bits: within 0.3 %.
    let r = ((elapsed % half_life) << 16) / half_life;
    let factor = (1 << 20) - ((704_118 * r) >> 16) + ((((179_830 * r) >> 16) * r) >> 16);
    let left = ((from.abs_diff(to) >> halvings) * factor) >> 20;
    if from > to { to + left } else { to - left }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HALF_LIVES: HalfLives = HalfLives {
        fast_us: 100_000,
        slow_us: 1_000_000,
    };

    #[test]
    fn a_rise_counts_at_once_and_a_fall_by_halves() {
        let mut averages = Averages::new(1000, 0);
        averages.set(5000, 10, HALF_LIVES);
        assert_eq!(averages.largest(), 5000);
        // Long enough for both to have followed.
        averages.set(1000, 100_000_000, HALF_LIVES);
        assert_eq!(averages.at(100_000_000, HALF_LIVES).largest(), 5000);
        assert_eq!(averages.at(101_000_000, HALF_LIVES).largest(), 3000);
        assert_eq!(averages.at(102_000_000, HALF_LIVES).largest(), 2000);
        assert_eq!(averages.at(200_000_000, HALF_LIVES).largest(), 1000);
    }

    #[test]
    fn looking_often_changes_nothing_much() {
        let mut often = Averages::new(1 << 20, 0);
        often.set(0, 0, HALF_LIVES);
        let once = often.at(3_000_000, HALF_LIVES).largest();
        for now in 1..=300 {
            often = often.at(now * 10_000, HALF_LIVES);
        }
        assert!(
            often.largest().abs_diff(once) * 5 < once,
            "{often:?} {once}"
        );
    }
}
