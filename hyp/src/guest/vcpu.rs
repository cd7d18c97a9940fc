//! What a guest keeps for each of its vCPUs: where it starts, the core it is on, and its exits.
//!
//! Apart from the guest because these have a rule of their own: each has one writer at a time, and no lock.

use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use ballast_core::limits::MAX_VCPUS;
use ballast_core::monitor::ExitCause;

/// Where a vCPU starts: set by whoever turns it on, read by its core.
#[derive(Default)]
pub struct Start {
    entry: AtomicU64,
    context: AtomicU64,
}

impl Start {
    /// Entry IPA and the value of x0.
    pub fn set(&self, entry: u64, context: u64) {
        self.entry.store(entry, Ordering::Relaxed);
        self.context.store(context, Ordering::Release);
    }

    /// (entry, x0).
    pub fn get(&self) -> (u64, u64) {
        let context = self.context.load(Ordering::Acquire);
        (self.entry.load(Ordering::Relaxed), context)
    }
}

/// The core of each vCPU that is on. Written by that core.
pub struct CoreMap([AtomicU8; MAX_VCPUS]);

const NO_CORE: u8 = u8::MAX;

impl Default for CoreMap {
    fn default() -> Self {
        Self([const { AtomicU8::new(NO_CORE) }; MAX_VCPUS])
    }
}

impl CoreMap {
    /// The core of `vcpu`, if it is on.
    #[inline]
    pub fn get(&self, vcpu: usize) -> Option<usize> {
        let core = self.0.get(vcpu)?.load(Ordering::Acquire);
        (core != NO_CORE).then_some(usize::from(core))
    }

    /// `vcpu` is on `core` now, or on none.
    pub fn set(&self, vcpu: usize, core: Option<usize>) {
        if let Some(slot) = self.0.get(vcpu) {
            slot.store(core.map_or(NO_CORE, |core| core as u8), Ordering::Release);
        }
    }
}

/// One vCPU's exits by cause. Written by its own core only.
#[derive(Default)]
pub struct Counts([AtomicU64; ExitCause::ALL.len()]);

impl Counts {
    /// One more.
    #[inline]
    pub fn count(&self, cause: ExitCause) {
        // One writer, so a load and a store will do.
        if let Some(count) = self.0.get(cause as usize) {
            count.store(
                count.load(Ordering::Relaxed).wrapping_add(1),
                Ordering::Relaxed,
            );
        }
    }

    /// How many.
    pub fn get(&self, cause: ExitCause) -> u64 {
        self.0
            .get(cause as usize)
            .map_or(0, |count| count.load(Ordering::Relaxed))
    }
}
