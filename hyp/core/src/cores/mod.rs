//! Physical cores as a resource: who has which, who shall have how many, and who waits for one.
//!
//! Each core of the board has one owner, a guest or nobody. A guest is *granted* cores; on each runs one of its
//! vCPUs, or none. Its *target* is how many it shall have. Raising it grants free cores at once and the others
//! as they come, to whoever has waited longest. Lowering it takes back those that run no vCPU at once, and of
//! the others each that the guest gives up (CPU_OFF), until it has no more than its target. A guest's target is
//! never below its minimum, nor is what it has, so the last core is never taken.
//!
//! A core that changes hands runs no vCPU and has been cleaned: only such are put back. CPU_ON and CPU_OFF take no
//! lock unless a core is to change hands; what they take from and put to is atomic.
//!
//! Nothing here touches a core. What changed hands comes out as [`Moves`], for the shell to tell the guests.

mod free;
mod ledger;

use core::fmt;
use core::sync::atomic::{AtomicU16, Ordering};

use spin::mutex::TicketMutex;

use crate::limits::{MAX_CORES, MAX_GUESTS, MAX_VCPUS};
pub use free::FreeCores;
use ledger::Ledger;

const _: () = assert!(MAX_CORES <= 8);

/// What a guest's configuration says of its cores.
#[derive(Debug, Clone, Copy)]
pub struct Entitlement<'a> {
    /// The cores it boots with, by vCPU.
    pub boot: &'a [usize],
    /// Cores it would rather have than others, and starts its vCPUs on in this order (`cpu-list`).
    pub wanted: &'a [usize],
    /// It never has fewer (`cpus-min`); at least one.
    pub min: u8,
    /// It never has more (`cpus-max`).
    pub max: u8,
    /// It has what it boots with (`realtime`).
    pub is_fixed: bool,
}

/// Why a target was not set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// Fewer than the guest's guaranteed minimum.
    BelowMinimum(u8),
    /// More than the most it can have.
    AboveMaximum(u8),
    /// Its cores never change.
    Fixed,
}

/// A core that has changed hands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Move {
    /// A guest has lost it.
    Taken {
        /// Index of the guest.
        guest: usize,
        /// The core.
        core: usize,
        /// Cores it has left.
        left: u8,
    },
    /// A guest has been given it, and may start a vCPU there.
    Granted {
        /// Index of the guest.
        guest: usize,
        /// The core.
        core: usize,
        /// Cores it has now.
        has: u8,
    },
}

/// Free cores that are kept for two guests between which cores move as one transaction: what `giver` has less than
/// it had, less what `taker` has more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    /// Index of the guest that gives.
    pub giver: usize,
    /// Cores that it had.
    pub giver_had: u8,
    /// Index of the guest that gets.
    pub taker: usize,
    /// Cores that it had.
    pub taker_had: u8,
    /// Never more than this.
    pub most: u8,
    /// The one of the two that may have them now.
    pub holder: usize,
}

/// What one step moved, in this order: each core is taken once and granted once at most.
pub type Moves = heapless::Vec<Move, { 2 * MAX_CORES }>;

/// A set of physical cores. Displayed as `0,2,3`, or `-` if there are none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CpuSet(pub u8);

impl CpuSet {
    /// How many.
    #[must_use]
    pub const fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether `core` is among them.
    #[must_use]
    pub const fn contains(self, core: usize) -> bool {
        self.0 & bit(core) != 0
    }

    /// The cores, lowest first.
    pub fn iter(self) -> impl Iterator<Item = usize> {
        (0..MAX_CORES).filter(move |core| self.contains(*core))
    }
}

impl fmt::Display for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("-");
        }
        for (index, core) in self.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{core}")?;
        }
        Ok(())
    }
}

/// What a guest has and shall have: granted cores in bits 7:0, the target in 15:8. A copy of the ledger's that is read
/// without its lock.
#[derive(Debug, Default)]
struct Share(AtomicU16);

impl Share {
    fn get(&self) -> (CpuSet, u8) {
        let [granted, target] = self.0.load(Ordering::SeqCst).to_le_bytes();
        (CpuSet(granted), target)
    }

    fn is_above(&self) -> bool {
        let (granted, target) = self.get();
        granted.len() > usize::from(target)
    }
}

/// The board's cores.
#[derive(Debug)]
pub struct Cores {
    /// Of each guest's cores, those that run none of its vCPUs.
    unused: [FreeCores; MAX_GUESTS],
    shares: [Share; MAX_GUESTS],
    /// The core on which each vCPU starts if it is there.
    preferred: [[u8; MAX_VCPUS]; MAX_GUESTS],
    ledger: TicketMutex<Ledger>,
}

impl Cores {
    /// A board of `cores` cores with these guests, by index: each has what it boots with, and that is its target.
    #[must_use]
    pub fn new(cores: usize, guests: &[Entitlement<'_>]) -> Self {
        let mut preferred = [[0; MAX_VCPUS]; MAX_GUESTS];
        for (row, guest) in preferred.iter_mut().zip(guests) {
            let listed = if guest.wanted.is_empty() {
                guest.boot
            } else {
                guest.wanted
            };
            for (slot, core) in row.iter_mut().zip(listed) {
                *slot = u8::try_from(*core).unwrap_or(u8::MAX);
            }
        }
        let ledger = Ledger::new(cores, guests);
        let all = Self {
            unused: core::array::from_fn(|guest| FreeCores::new(ledger.share(guest).0.0)),
            shares: Default::default(),
            preferred,
            ledger: TicketMutex::new(ledger),
        };
        for guest in 0..guests.len() {
            all.publish(guest, &all.ledger.lock());
        }
        all
    }

    /// Takes a core that is granted to `guest` and runs nothing, for `vcpu`: CPU_ON, or the guest's start.
    #[inline]
    #[must_use]
    pub fn take(&self, guest: usize, vcpu: usize) -> Option<usize> {
        let preferred = self.preferred.get(guest)?.get(vcpu)?;
        self.unused.get(guest)?.take(usize::from(*preferred))
    }

    /// `guest` has left `core`, which is clean: it keeps it, or, above its target, has lost it.
    pub fn put_back(&self, guest: usize, core: usize) -> Moves {
        let mut moves = Moves::new();
        let (Some(share), Some(unused)) = (self.shares.get(guest), self.unused.get(guest)) else {
            return moves;
        };
        if share.is_above() {
            let mut ledger = self.ledger.lock();
            if ledger.is_above(guest) {
                self.take_back(&mut ledger, guest, core, &mut moves);
                self.grant(&mut ledger, &mut moves);
                return moves;
            }
        }
        unused.put(core);
        if share.is_above() {
            // The target fell just now, and whoever lowered it has not found the core.
            self.reclaim(&mut self.ledger.lock(), guest, &mut moves);
        }
        moves
    }

    /// `guest` shall have `cpus` cores. `tell` leaves that where the guest fetches it from; it is called with the lock
    /// held, so that of two targets the later one stays.
    ///
    /// # Errors
    /// Why the target was not set; the old one stands.
    pub fn set_target(
        &self,
        guest: usize,
        cpus: u32,
        tell: impl FnOnce(u32),
    ) -> Result<Moves, Refused> {
        let mut moves = Moves::new();
        let mut ledger = self.ledger.lock();
        ledger.set_target(guest, cpus)?;
        self.publish(guest, &ledger);
        self.reclaim(&mut ledger, guest, &mut moves);
        self.grant(&mut ledger, &mut moves);
        tell(cpus);
        Ok(moves)
    }

    /// From now on these free cores are kept, and no others: whoever waited for them is given them.
    pub fn keep(&self, kept: impl IntoIterator<Item = Kept>) -> Moves {
        let mut moves = Moves::new();
        let mut ledger = self.ledger.lock();
        ledger.keep(kept);
        self.grant(&mut ledger, &mut moves);
        moves
    }

    /// The guest that has `core`.
    #[must_use]
    pub fn holder(&self, core: usize) -> Option<usize> {
        self.shares
            .iter()
            .position(|share| share.get().0.contains(core))
    }

    /// The cores that are `guest`'s.
    #[must_use]
    pub fn granted(&self, guest: usize) -> CpuSet {
        self.shares
            .get(guest)
            .map_or(CpuSet(0), |share| share.get().0)
    }

    /// How many cores `guest` shall have.
    #[must_use]
    pub fn target(&self, guest: usize) -> u32 {
        self.shares
            .get(guest)
            .map_or(0, |share| share.get().1.into())
    }

    /// A core of `guest`'s that runs none of its vCPUs, as it is at this moment.
    #[must_use]
    pub fn unused(&self, guest: usize) -> CpuSet {
        self.unused
            .get(guest)
            .map_or(CpuSet(0), |unused| CpuSet(unused.mask()))
    }

    /// Takes cores that run nothing from `guest` while it is above its target; those it does not want go first.
    fn reclaim(&self, ledger: &mut Ledger, guest: usize, moves: &mut Moves) {
        let Some(unused) = self.unused.get(guest) else {
            return;
        };
        while ledger.is_above(guest) {
            let Some(core) = unused.take_from(u8::MAX, !ledger.wanted(guest)) else {
                return;
            };
            self.take_back(ledger, guest, core, moves);
        }
    }

    fn take_back(&self, ledger: &mut Ledger, guest: usize, core: usize, moves: &mut Moves) {
        let left = ledger.take_back(guest, core);
        self.publish(guest, ledger);
        // There is room: see `Moves`.
        let _ = moves.push(Move::Taken { guest, core, left });
    }

    /// Gives free cores to those that wait.
    fn grant(&self, ledger: &mut Ledger, moves: &mut Moves) {
        while let Some((guest, core, has)) = ledger.grant() {
            self.publish(guest, ledger);
            if let Some(unused) = self.unused.get(guest) {
                unused.put(core);
            }
            let _ = moves.push(Move::Granted { guest, core, has });
        }
    }

    fn publish(&self, guest: usize, ledger: &Ledger) {
        if let Some(share) = self.shares.get(guest) {
            let (granted, target) = ledger.share(guest);
            let word = u16::from_le_bytes([granted.0, target]);
            share.0.store(word, Ordering::SeqCst);
        }
    }
}

/// The bit of `core` in a mask; none for a core there cannot be.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "below 8")]
const fn bit(core: usize) -> u8 {
    if core < MAX_CORES {
        1_u8.wrapping_shl(core as u32)
    } else {
        0
    }
}

#[cfg(test)]
mod tests;
