//! Which guest has how many cores: the rule of [`funding`](super::funding) in whole cores.
//!
//! A guest's demand is its run queue: how many threads run or wait to run, on average. A core it cannot keep
//! busy is idle and taxed as an idle page is. A core changes hands only when the one who gets it still pays
//! more *with* it than the giver did before, so what is decided once is not turned round by itself.

use super::funding::{Claim, Tax};
use crate::limits::MAX_CORES;

/// Thousandths.
const MILLI: u64 = 1000;

/// One guest's claim on cores.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CpuClaim {
    /// Weight: 1 to 10,000.
    pub shares: u32,
    /// Cores it has.
    pub held: u32,
    /// It never has fewer.
    pub min: u32,
    /// It never has more.
    pub max: u32,
    /// Threads that run or wait to run, in thousandths.
    pub runnable_milli: u32,
    /// It runs, listens and is not `realtime`.
    pub can_be_asked: bool,
}

impl CpuClaim {
    /// As a claim on `cores`, in thousandths of a core.
    fn with(&self, cores: u32) -> Claim {
        Claim {
            shares: self.shares.max(1).into(),
            held: u64::from(cores) * MILLI,
            active: self.runnable_milli.into(),
            ..Claim::default()
        }
    }

    /// Cores that it would keep busy.
    pub(super) fn demand(&self) -> u32 {
        self.runnable_milli.div_ceil(1000).min(self.max)
    }
}

/// How many cores each guest shall have, with `free` cores that nobody has. A guest that does not want more
/// is not given any.
pub fn share_out(claims: &[CpuClaim], free: u32, tax: Tax, goals: &mut [u32]) {
    for (claim, goal) in claims.iter().zip(&mut *goals) {
        *goal = claim.held;
    }
    let mut free = free;
    // Each round moves a core for good.
    for _ in 0..MAX_CORES * MAX_CORES {
        let Some(getter) = getter(claims, goals, tax) else {
            return;
        };
        if free > 0 {
            free -= 1;
        } else {
            let Some(giver) = giver(claims, goals, getter, tax) else {
                return;
            };
            if let Some(goal) = goals.get_mut(giver) {
                *goal -= 1;
            }
        }
        if let Some(goal) = goals.get_mut(getter) {
            *goal += 1;
        }
    }
}

/// The guest that pays most, with one more core, of those that want one.
fn getter(claims: &[CpuClaim], goals: &[u32], tax: Tax) -> Option<usize> {
    let guests = claims.iter().zip(goals).enumerate();
    let mut most: Option<(usize, Claim)> = None;
    for (index, (claim, &goal)) in guests {
        let with_it = claim.with(goal.saturating_add(1));
        if claim.can_be_asked
            && goal < claim.demand()
            && most.is_none_or(|(_, most)| with_it.pays_more(&most, 100, tax))
        {
            most = Some((index, with_it));
        }
    }
    most.map(|(index, _)| index)
}

/// The guest that pays least, if it pays less than `getter` does with a core more.
fn giver(claims: &[CpuClaim], goals: &[u32], getter: usize, tax: Tax) -> Option<usize> {
    let with_it = claims
        .get(getter)?
        .with(goals.get(getter)?.saturating_add(1));
    let mut least: Option<(usize, Claim)> = None;
    for (index, (claim, &goal)) in claims.iter().zip(goals).enumerate() {
        let as_is = claim.with(goal);
        if index != getter
            && claim.can_be_asked
            && goal > claim.min.max(1)
            && with_it.pays_more(&as_is, 100, tax)
            && least.is_none_or(|(_, least)| least.pays_more(&as_is, 100, tax))
        {
            least = Some((index, as_is));
        }
    }
    least.map(|(index, _)| index)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn claim(shares: u32, held: u32, runnable_milli: u32) -> CpuClaim {
        CpuClaim {
            shares,
            held,
            min: 1,
            max: 8,
            runnable_milli,
            can_be_asked: true,
        }
    }

    fn goals(claims: &[CpuClaim], free: u32) -> Vec<u32> {
        let mut goals = vec![0; claims.len()];
        share_out(claims, free, Tax::DEFAULT, &mut goals);
        goals
    }

    #[test]
    fn an_idle_core_goes_to_a_full_run_queue() {
        assert_eq!(goals(&[claim(100, 2, 100), claim(100, 2, 3500)], 0), [1, 3]);
        assert_eq!(
            goals(&[claim(100, 2, 2000), claim(100, 2, 1500)], 0),
            [2, 2]
        );
        assert_eq!(goals(&[claim(100, 1, 2500), claim(100, 1, 200)], 4), [3, 1]);
    }

    #[test]
    fn shares_divide_what_everybody_wants() {
        assert_eq!(
            goals(&[claim(300, 4, 9000), claim(100, 4, 9000)], 0),
            [6, 2]
        );
    }

    proptest! {
        #[test]
        fn cores_are_conserved_and_decisions_stand(
            raw in prop::collection::vec((1..1000_u32, 1..4_u32, 0..3_u32, 0..4_u32, 0..9000_u32, any::<bool>()), 1..5),
            free in 0..4_u32,
        ) {
            let mut claims: Vec<_> = raw.iter().map(|&(shares, min, more, most, runnable_milli, can_be_asked)| CpuClaim {
                shares, min, held: min + more, max: min + more + most, runnable_milli, can_be_asked,
            }).collect();
            let before: u32 = claims.iter().map(|claim| claim.held).sum();
            let decided = goals(&claims, free);
            let after: u32 = decided.iter().sum();
            prop_assert!(before <= after && after <= before + free);
            for (claim, &goal) in claims.iter_mut().zip(&decided) {
                prop_assert!((claim.min..=claim.max).contains(&goal));
                prop_assert!(claim.can_be_asked || goal == claim.held);
                claim.held = goal;
            }
            prop_assert_eq!(goals(&claims, before + free - after), decided);
        }
    }
}
