use proptest::prelude::*;

use crate::policy::funding::{Claim, Tax, share_out};

const BLOCK: u64 = 512;

/// Taking block after block from whoever pays least, in floating point: what `share_out` must come to.
fn by_revocation(claims: &[Claim], total: u64, tax: Tax) -> Vec<u64> {
    let tau = f64::from(tax.percent()) / 100.0;
    let rho = |claim: &Claim, pages: u64| {
        let p = pages.max(1) as f64;
        let f = claim.active.min(pages) as f64 / p;
        claim.shares as f64 / (p * (f + (1.0 - f) / (1.0 - tau)))
    };
    let mut pages: Vec<u64> = claims.iter().map(|claim| claim.cap).collect();
    while pages.iter().sum::<u64>() > total {
        let victim = (0..claims.len())
            .filter(|&i| pages[i] >= claims[i].floor + BLOCK)
            .min_by(|&a, &b| rho(&claims[a], pages[a]).total_cmp(&rho(&claims[b], pages[b])));
        let Some(victim) = victim else { break };
        pages[victim] -= BLOCK;
    }
    pages
}

fn claim() -> impl Strategy<Value = Claim> {
    (1..2000_u64, 0..64_u64, 0..256_u64, 0..400_u64).prop_map(|(shares, floor, more, active)| {
        let cap = (floor + more) * BLOCK;
        Claim {
            shares,
            held: cap,
            active: active * BLOCK,
            floor: floor * BLOCK,
            cap,
        }
    })
}

fn shared(claims: &[Claim], total: u64, tax: Tax) -> Vec<u64> {
    let mut goals = vec![0; claims.len()];
    share_out(claims, total, tax, &mut goals);
    goals
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    /// Conserved, within bounds, and with less than a block for each guest left over.
    #[test]
    fn everything_is_shared_out(claims in prop::collection::vec(claim(), 1..9), total in 0..900_u64, tax in 0..100_u8) {
        let (total, tax) = (total * BLOCK, Tax::new(tax).unwrap());
        let goals = shared(&claims, total, tax);
        let sum: u64 = goals.iter().sum();
        let floors: u64 = claims.iter().map(|claim| claim.floor).sum();
        let caps: u64 = claims.iter().map(|claim| claim.cap).sum();
        prop_assert!(sum <= total.max(floors), "{goals:?}");
        prop_assert!(sum + claims.len() as u64 * (BLOCK + 1) > total.clamp(floors, caps), "{goals:?} of {total}");
        for (claim, goal) in claims.iter().zip(&goals) {
            prop_assert!((claim.floor..=claim.cap).contains(goal));
        }
    }

    /// More shares never mean less memory, and for the others never more.
    #[test]
    fn shares_are_monotone(
        claims in prop::collection::vec(claim(), 2..9),
        total in 0..900_u64,
        which in 0..9_usize,
        more in 1..5000_u64,
    ) {
        let total = total * BLOCK;
        let which = which % claims.len();
        let before = shared(&claims, total, Tax::DEFAULT);
        let mut richer = claims.clone();
        richer[which].shares += more;
        let after = shared(&richer, total, Tax::DEFAULT);
        for (guest, (before, after)) in before.iter().zip(&after).enumerate() {
            // The others' level may differ by its last bit: a page or two, so a block when rounded.
            if guest == which {
                prop_assert!(after + BLOCK >= *before && (after >= before || *before % BLOCK != 0 || before - after <= BLOCK));
            } else {
                prop_assert!(*after <= before + BLOCK, "{guest}: {before} -> {after}");
            }
        }
    }

    /// The same as taking from the guest with the lowest rho, block by block.
    #[test]
    fn it_is_min_funding_revocation(claims in prop::collection::vec(claim(), 1..6), total in 0..600_u64, tax in 0..90_u8) {
        let (total, tax) = (total * BLOCK, Tax::new(tax).unwrap());
        let goals = shared(&claims, total, tax);
        let oracle = by_revocation(&claims, total, tax);
        for (goal, oracle) in goals.iter().zip(&oracle) {
            prop_assert!(goal.abs_diff(*oracle) <= (claims.len() as u64 + 1) * BLOCK, "{goals:?} {oracle:?}");
        }
    }

    /// Nothing overflows at the ends of what is allowed.
    #[test]
    fn the_largest_amounts_are_shared_out(
        shares in prop::collection::vec(1..=10_000_u64, 1..9),
        active in prop::collection::vec(0..=1_u64 << 28, 9),
        total in 0..=1_u64 << 31,
        tax in 0..100_u8,
    ) {
        let claims: Vec<_> = shares.iter().zip(&active).map(|(&shares, &active)| Claim {
            shares,
            held: 1 << 28,
            active,
            floor: 0,
            cap: 1 << 28,
        }).collect();
        let sum: u64 = shared(&claims, total, Tax::new(tax).unwrap()).iter().sum();
        prop_assert!(sum <= total);
        prop_assert!(sum + 600 * claims.len() as u64 >= total.min(claims.len() as u64 * (1 << 28)));
    }
}

#[test]
fn idle_memory_is_taxed() {
    let claim = |active_mib: u64| Claim {
        shares: 100,
        held: 512 * 256,
        active: active_mib * 256,
        floor: 0,
        cap: 1024 * 256,
    };
    let mib = |claims: &[Claim], tax| {
        let goals = shared(claims, 1024 * 256, Tax::new(tax).unwrap());
        (goals[0] / 256, goals[1] / 256)
    };
    let claims = [claim(1024), claim(128)];
    // Without a tax equal shares are equal parts; with one, rho equal:
    // 25 P = 100 (1024 - P) - 75 * 128, so P = 742.4.
    assert_eq!(mib(&claims, 0), (512, 512));
    assert_eq!(mib(&claims, 75), (742, 280));
}
