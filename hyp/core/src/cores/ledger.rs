//! Who has which core, and who waits for one.

use alloc::vec::Vec;

use super::free::choose;
use super::{CpuSet, Entitlement, Kept, Refused, bit};
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
    /// Free cores that are not anybody's to be given. At most [`MAX_GUESTS`], for which there is room.
    kept: Vec<Kept>,
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
            kept: Vec::with_capacity(MAX_GUESTS),
        }
    }

    /// From now on this is kept, and nothing else.
    pub(super) fn keep(&mut self, kept: impl IntoIterator<Item = Kept>) {
        self.kept.clear();
        self.kept.extend(kept.into_iter().take(MAX_GUESTS));
    }

    /// How many of the free cores are kept from `guest`.
    fn kept_from(&self, guest: usize) -> u8 {
        let has = |guest: usize| self.claims.get(guest).map_or(0, Claim::count);
        let others = self.kept.iter().filter(|kept| kept.holder != guest);
        let now = others.map(|kept| {
            let given = kept.giver_had.saturating_sub(has(kept.giver));
            let taken = has(kept.taker).saturating_sub(kept.taker_had);
            given.min(kept.most).saturating_sub(taken)
        });
        now.fold(0, u8::saturating_add)
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

    /// Gives the guest that has waited longest a free core that is not kept from it, if there are both: one that it wants, else one that no
    /// other guest wants, else any. (guest, core, cores it has now).
    pub(super) fn grant(&mut self) -> Option<(usize, usize, u8)> {
        let free = self.free();
        let may_have = |guest: &usize| free.count_ones() > u32::from(self.kept_from(*guest));
        let place = self.waiting.iter().position(may_have)?;
        let guest = *self.waiting.get(place)?;
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
            self.waiting.remove(place);
        }
        Some((guest, core, has))
    }
}
