//! Who has which core, and who waits for one.

use super::free::choose;
use super::{CpuSet, Entitlement, Refused, bit};
use crate::limits::MAX_GUESTS;

/// One guest's cores.
#[derive(Debug, Clone, Copy)]
struct Claim {
    granted: u8,
    target: u8,
    min: u8,
    max: u8,
    is_fixed: bool,
    wanted: u8,
}

impl Claim {
    const fn count(&self) -> u8 {
        // At most eight bits.
        self.granted.count_ones().to_le_bytes()[0]
    }
}

/// The record. Whoever changes it holds its lock.
#[derive(Debug)]
pub(super) struct Ledger {
    /// The board's cores.
    board: u8,
    claims: heapless::Vec<Claim, MAX_GUESTS>,
    /// Guests that have fewer cores than they shall have, the longest waiting first.
    waiting: heapless::Vec<usize, MAX_GUESTS>,
}

impl Ledger {
    pub(super) fn new(cores: usize, guests: &[Entitlement<'_>]) -> Self {
        let mut board = 0;
        let mut core = 0;
        while core < cores {
            board |= bit(core);
            core = core.saturating_add(1);
        }
        let mut claims = heapless::Vec::new();
        for guest in guests {
            let granted = guest.boot.iter().fold(0, |mask, core| mask | bit(*core)) & board;
            let mut claim = Claim {
                granted,
                target: 0,
                min: guest.min.max(1),
                max: guest.max.max(1),
                is_fixed: guest.is_fixed,
                wanted: guest.wanted.iter().fold(0, |mask, core| mask | bit(*core)),
            };
            claim.target = claim.count();
            // As many as the configuration may have.
            let _ = claims.push(claim);
        }
        Self {
            board,
            claims,
            waiting: heapless::Vec::new(),
        }
    }

    /// (granted, target) of `guest`.
    pub(super) fn share(&self, guest: usize) -> (CpuSet, u8) {
        self.claims.get(guest).map_or((CpuSet(0), 0), |claim| {
            (CpuSet(claim.granted), claim.target)
        })
    }

    /// Cores nobody has.
    fn free(&self) -> u8 {
        let granted = self
            .claims
            .iter()
            .fold(0, |mask, claim| mask | claim.granted);
        self.board & !granted
    }

    /// `guest` shall have `cpus`.
    pub(super) fn set_target(&mut self, guest: usize, cpus: u32) -> Result<(), Refused> {
        let Some(claim) = self.claims.get_mut(guest) else {
            return Err(Refused::Fixed);
        };
        if claim.is_fixed {
            return Err(Refused::Fixed);
        }
        if cpus < u32::from(claim.min) {
            return Err(Refused::BelowMinimum(claim.min));
        }
        match u8::try_from(cpus) {
            Ok(cpus) if cpus <= claim.max => claim.target = cpus,
            _ => return Err(Refused::AboveMaximum(claim.max)),
        }
        let waits = claim.count() < claim.target;
        let place = self.waiting.iter().position(|other| *other == guest);
        match place {
            Some(place) if !waits => {
                self.waiting.remove(place);
            }
            None if waits => {
                // Each guest is in it once at most.
                let _ = self.waiting.push(guest);
            }
            _ => {}
        }
        Ok(())
    }

    /// Whether `guest` has more cores than it shall have.
    pub(super) fn is_above(&self, guest: usize) -> bool {
        let claim = self.claims.get(guest);
        claim.is_some_and(|claim| claim.count() > claim.target)
    }

    /// Cores that `guest` rather keeps.
    pub(super) fn wanted(&self, guest: usize) -> u8 {
        self.claims.get(guest).map_or(0, |claim| claim.wanted)
    }

    /// `core` is `guest`'s no longer. How many cores it has left.
    pub(super) fn take_back(&mut self, guest: usize, core: usize) -> u8 {
        self.claims.get_mut(guest).map_or(0, |claim| {
            claim.granted &= !bit(core);
            claim.count()
        })
    }

    /// Gives the guest that has waited longest a free core, if there are both: one that it wants, else one that no
    /// other guest wants, else any. (guest, core, cores it has now).
    pub(super) fn grant(&mut self) -> Option<(usize, usize, u8)> {
        let guest = *self.waiting.first()?;
        let free = self.free();
        let wanted = self.wanted(guest);
        let others = self
            .claims
            .iter()
            .enumerate()
            .filter(|(index, _)| *index != guest);
        let others = others.fold(0, |mask, (_, claim)| mask | claim.wanted);
        let preferred = if free & wanted != 0 { wanted } else { !others };
        let core = choose(free, preferred)?;
        let claim = self.claims.get_mut(guest)?;
        claim.granted |= bit(core);
        let has = claim.count();
        if has >= claim.target {
            self.waiting.remove(0);
        }
        Some((guest, core, has))
    }
}
