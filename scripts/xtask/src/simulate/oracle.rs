//! The min-funding fixed point, found the slow way: block by block, in floating point, with the true loads.

use ballast_core::policy::Settings;

use super::world::World;

const BLOCK: u64 = 512;

/// Pages that a guest wants that uses `load`: the headroom that the policy leaves to everybody is on top.
pub fn wanted(load: u64) -> u64 {
    (load + load / 16 + 2048).next_multiple_of(BLOCK)
}

/// The fixed point of min-funding revocation, from where memory lies: a guest that wants more has the next block, of
/// what is free beyond the reserve or of whoever pays least and less than it, until nobody does. Memory that nobody
/// wants stays where it is. What a guest wants is what it uses and the headroom that the policy leaves to everybody.
pub fn fixed_point(world: &World, settings: &Settings) -> Vec<u64> {
    let tau = f64::from(settings.tax.percent()) / 100.0;
    let wants: Vec<u64> = world
        .guests
        .iter()
        .map(|guest| wanted(guest.load()))
        .collect();
    let mut pages: Vec<u64> = world.guests.iter().map(|guest| guest.memory).collect();
    let total = pages.iter().sum::<u64>() + world.free;
    let reserve = total * settings.reserve_per_mille / 1000;
    // Less than half of it is filled up on the way.
    let (mut usable, mut missing) = match world.free {
        free if free < reserve / 2 => (0, reserve - free),
        free => (free.saturating_sub(reserve), 0),
    };
    let rho = |guest: usize, pages: u64| {
        let p = pages.max(1) as f64;
        let f = wants[guest].min(pages) as f64 / p;
        f64::from(world.guests[guest].entitlement.shares) / (p * (f + (1.0 - f) / (1.0 - tau)))
    };
    // Each round moves a block to a guest that keeps it, so this ends long before.
    for _ in 0..total / BLOCK * 4 {
        let wanting = (0..pages.len()).filter(|&guest| {
            let most = world.guests[guest].entitlement.max_pages.min(wants[guest]);
            pages[guest] + BLOCK <= most
        });
        let Some(getter) = wanting.max_by(|&a, &b| rho(a, pages[a]).total_cmp(&rho(b, pages[b])))
        else {
            break;
        };
        if usable >= BLOCK {
            usable -= BLOCK;
        } else {
            let pays = rho(getter, pages[getter] + BLOCK);
            let giver = (0..pages.len())
                .filter(|&guest| {
                    guest != getter
                        && pages[guest] >= world.guests[guest].entitlement.min_pages + BLOCK
                        && rho(guest, pages[guest]) < pays
                })
                .min_by(|&a, &b| rho(a, pages[a]).total_cmp(&rho(b, pages[b])));
            let Some(giver) = giver else { break };
            pages[giver] -= BLOCK;
            if missing >= BLOCK {
                missing -= BLOCK;
                continue;
            }
        }
        pages[getter] += BLOCK;
    }
    pages
}
