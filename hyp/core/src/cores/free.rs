//! A set of cores from which several may take at once.

use core::sync::atomic::{AtomicU8, Ordering};

use super::bit;

/// The physical cores granted to a guest and not running one of its vCPUs.
///
/// Everything is sequentially consistent: who puts a core back and then reads the target must not miss a target
/// that was set by somebody who then found the core not there.
#[derive(Debug, Default)]
pub struct FreeCores(AtomicU8);

impl FreeCores {
    /// From a mask of cores.
    #[must_use]
    pub const fn new(mask: u8) -> Self {
        Self(AtomicU8::new(mask))
    }

    /// Takes `preferred` if it is there, else the lowest, else none.
    #[inline]
    #[must_use]
    pub fn take(&self, preferred: usize) -> Option<usize> {
        self.take_from(u8::MAX, bit(preferred))
    }

    /// Takes a core of `allowed`, one of `preferred` if there is one, else the lowest, else none.
    #[inline]
    pub(super) fn take_from(&self, allowed: u8, preferred: u8) -> Option<usize> {
        let mut mask = self.0.load(Ordering::SeqCst);
        loop {
            let chosen = choose(mask & allowed, preferred)?;
            let left = mask & !bit(chosen);
            match self
                .0
                .compare_exchange_weak(mask, left, Ordering::SeqCst, Ordering::SeqCst)
            {
                Ok(_) => return Some(chosen),
                Err(now) => mask = now,
            }
        }
    }

    /// Gives `core` (below 8) to the guest, or back to it.
    pub fn put(&self, core: usize) {
        self.0.fetch_or(bit(core), Ordering::SeqCst);
    }

    /// The mask of cores.
    #[must_use]
    pub fn mask(&self) -> u8 {
        self.0.load(Ordering::SeqCst)
    }
}

/// The lowest core of `mask` that is `preferred`, else the lowest.
#[inline]
pub(super) const fn choose(mask: u8, preferred: u8) -> Option<usize> {
    let best = if mask & preferred != 0 {
        mask & preferred
    } else {
        mask
    };
    if best == 0 {
        None
    } else {
        Some(best.trailing_zeros() as usize)
    }
}
