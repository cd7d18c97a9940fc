//! Channels: memory that two guests share, and a doorbell for each of them.
//!
//! A [`Channel`] is the state behind the calls SIGNAL and CHANNEL of `ballast_abi`: for each of its two ends a
//! word of events that have not been fetched, and the life of the guest there. Everything is atomic and takes no
//! lock, since a guest rings as often as it likes: only the ring that finds the other end's word empty has
//! something done, the interrupt, for which the shell takes that guest's interrupt-controller lock. So a flood of
//! rings costs the one who rings, and the other no more than one interrupt for each fetch of its own.
//!
//! The interrupt is an edge, sent when the word goes from empty to not empty. A guest that has fetched is
//! interrupted by the next event; an edge that arrives while the last is being handled stays pending in the
//! interrupt controller: no event is lost. A guest that has not fetched since it started does so once.
//!
//! The memory itself is nobody's but Ballast's: it is taken out of the board's RAM before the guests get theirs
//! ([`crate::plan`]), is mapped for as long as the guests exist and is in no balloon.

use core::sync::atomic::{AtomicU64, Ordering};

use ballast_abi::Status;
use ballast_abi::channel::{PEER_GENERATION, PEER_RUNNING, PEER_STARTED, PEER_STOPPED, RUNG};

use crate::vgic::IntId;

/// An interrupt to be sent: what a call comes to beside its results.
#[must_use = "the other guest does not see the event before its interrupt"]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Doorbell {
    /// Index of the guest.
    pub guest: usize,
    /// Its interrupt, to be made pending.
    pub intid: IntId,
}

/// What a fetch gives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fetched {
    /// Events since the last fetch.
    pub events: u64,
    /// The other guest's life: [`PEER_RUNNING`] and its generation.
    pub peer: u64,
}

/// One side of a channel.
#[derive(Debug)]
struct End {
    guest: usize,
    intid: IntId,
    /// Events that this end has not fetched.
    events: AtomicU64,
    /// [`PEER_RUNNING`] and the generation, as the other end is told. Written on a core of this guest, while it
    /// starts and stops.
    life: AtomicU64,
}

impl End {
    const fn new(guest: usize, intid: IntId) -> Self {
        Self {
            guest,
            intid,
            events: AtomicU64::new(0),
            life: AtomicU64::new(0),
        }
    }

    fn is_running(&self) -> bool {
        self.life.load(Ordering::SeqCst) & PEER_RUNNING != 0
    }

    /// Adds an event; the doorbell if it is the first since the last fetch.
    ///
    /// A release (and an acquire): what the caller's guest has stored before its call is visible to whoever
    /// fetches the event ([`Channel::fetch`] acquires). Always a read-modify-write, for the same reason: a mere
    /// look at a word that has the event already would say nothing to the fetch that is just under way.
    fn notify(&self, event: u64) -> Option<Doorbell> {
        let before = self.events.fetch_or(event, Ordering::SeqCst);
        (before == 0).then_some(Doorbell {
            guest: self.guest,
            intid: self.intid,
        })
    }
}

/// Two guests' ends of one piece of memory.
#[derive(Debug)]
pub struct Channel {
    ends: [End; 2],
}

impl Channel {
    /// The channel between these two different guests, by index, each with its interrupt.
    #[must_use]
    pub const fn new([one, two]: [(usize, IntId); 2]) -> Self {
        Self {
            ends: [End::new(one.0, one.1), End::new(two.0, two.1)],
        }
    }

    /// The end of `guest` and the other; `None` if it has none.
    const fn ends_of(&self, guest: usize) -> Option<(&End, &End)> {
        let [one, two] = &self.ends;
        if one.guest == guest {
            Some((one, two))
        } else if two.guest == guest {
            Some((two, one))
        } else {
            None
        }
    }

    /// `guest` rings. The doorbell is `None` if the other end has an event to fetch already.
    ///
    /// # Errors
    /// [`Status::InvalidParameters`]: the guest has no end of this channel. [`Status::PeerStopped`]: the other
    /// guest does not run.
    pub fn ring(&self, guest: usize) -> Result<Option<Doorbell>, Status> {
        let (_, peer) = self.ends_of(guest).ok_or(Status::InvalidParameters)?;
        if peer.is_running() {
            Ok(peer.notify(RUNG))
        } else {
            Err(Status::PeerStopped)
        }
    }

    /// `guest` fetches its events; `None` if it has no end of this channel.
    #[must_use]
    pub fn fetch(&self, guest: usize) -> Option<Fetched> {
        let (own, peer) = self.ends_of(guest)?;
        Some(Fetched {
            events: own.events.swap(0, Ordering::SeqCst),
            peer: peer.life.load(Ordering::SeqCst),
        })
    }

    /// `guest` is being reset, and its interrupt controller was: nothing is pending in either.
    pub fn reset(&self, guest: usize) {
        if let Some((own, _)) = self.ends_of(guest) {
            own.events.store(0, Ordering::SeqCst);
        }
    }

    /// `guest` runs from now on. Of two guests that start at once at least one is told of the other, and both
    /// find each other by a fetch.
    pub fn started(&self, guest: usize) -> Option<Doorbell> {
        let (own, peer) = self.ends_of(guest)?;
        let generation = own.life.load(Ordering::SeqCst).wrapping_add(1) & PEER_GENERATION;
        own.life.store(PEER_RUNNING | generation, Ordering::SeqCst);
        peer.is_running()
            .then(|| peer.notify(PEER_STARTED))
            .flatten()
    }

    /// `guest` has stopped, for a reset or for good.
    pub fn stopped(&self, guest: usize) -> Option<Doorbell> {
        let (own, peer) = self.ends_of(guest)?;
        own.life.fetch_and(PEER_GENERATION, Ordering::SeqCst);
        peer.is_running()
            .then(|| peer.notify(PEER_STOPPED))
            .flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: usize = 3;
    const B: usize = 7;

    fn channel() -> Channel {
        Channel::new([(A, IntId(224)), (B, IntId(225))])
    }

    fn running() -> Channel {
        let channel = channel();
        assert_eq!(channel.started(A), None, "B does not run yet");
        let told = channel.started(B);
        assert_eq!(
            told,
            Some(Doorbell {
                guest: A,
                intid: IntId(224)
            })
        );
        let seen = channel.fetch(A).unwrap();
        assert_eq!((seen.events, seen.peer), (PEER_STARTED, PEER_RUNNING | 1));
        channel
    }

    #[test]
    fn one_interrupt_until_it_is_fetched() {
        let channel = running();
        let bell = Some(Doorbell {
            guest: B,
            intid: IntId(225),
        });
        assert_eq!(channel.ring(A), Ok(bell));
        for _ in 0..1000 {
            assert_eq!(channel.ring(A), Ok(None));
        }
        assert_eq!(channel.fetch(B).unwrap().events, RUNG);
        assert_eq!(channel.fetch(B).unwrap().events, 0);
        assert_eq!(channel.ring(A), Ok(bell));
        // The other way is another word.
        assert_eq!(channel.fetch(A).unwrap().events, 0);
    }

    #[test]
    fn a_stranger_has_no_end() {
        let channel = running();
        assert_eq!(channel.ring(0), Err(Status::InvalidParameters));
        assert_eq!(channel.fetch(0), None);
        assert_eq!((channel.started(0), channel.stopped(0)), (None, None));
        channel.reset(0);
        assert_eq!(channel.fetch(A).unwrap().peer, PEER_RUNNING | 1);
    }

    #[test]
    fn a_reset_reaches_the_other_side_once() {
        let channel = running();
        assert_eq!(channel.ring(B).unwrap().unwrap().guest, A);
        // A stops with a doorbell that it has not heard.
        assert_eq!(channel.stopped(A).unwrap().guest, B);
        assert_eq!(channel.ring(B), Err(Status::PeerStopped));
        channel.reset(A);
        // Coalesced with the stop that B has not fetched.
        assert_eq!(channel.started(A), None);
        let seen = channel.fetch(B).unwrap();
        assert_eq!(seen.events, PEER_STOPPED | PEER_STARTED);
        assert_eq!(seen.peer, PEER_RUNNING | 2);
        assert_eq!(
            channel.fetch(A).unwrap().events,
            0,
            "the last life's doorbell is gone"
        );
    }

    #[test]
    fn nobody_is_interrupted_who_does_not_run() {
        let channel = running();
        assert!(channel.stopped(B).is_some());
        assert_eq!(channel.stopped(A), None);
        assert_eq!(channel.started(A), None);
        let seen = channel.fetch(A).unwrap();
        assert_eq!(seen.peer, 1, "B ran once and does not now");
    }

    #[test]
    fn the_generation_stays_within_its_bits() {
        let channel = running();
        channel.ends[0]
            .life
            .store(PEER_RUNNING | PEER_GENERATION, Ordering::SeqCst);
        let _ = channel.started(A);
        assert_eq!(channel.fetch(B).unwrap().peer, PEER_RUNNING);
    }

    /// Two threads: each ring is followed by a fetch that sees it and what was stored before it.
    #[test]
    fn no_ring_is_lost_between_threads() {
        use std::sync::atomic::AtomicU64;
        let channel = running();
        let (data, bells) = (AtomicU64::new(0), AtomicU64::new(0));
        const ROUNDS: u64 = if cfg!(miri) { 50 } else { 20_000 };
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for round in 1..=ROUNDS {
                    data.store(round, Ordering::Relaxed);
                    if channel.ring(A).unwrap().is_some() {
                        bells.fetch_add(1, Ordering::Release);
                    }
                }
            });
            scope.spawn(|| {
                let (mut heard, mut last) = (0, 0);
                while last < ROUNDS {
                    // The interrupt: one for each doorbell.
                    if bells.load(Ordering::Acquire) == heard {
                        std::thread::yield_now();
                        continue;
                    }
                    heard += 1;
                    assert_eq!(channel.fetch(B).unwrap().events, RUNG);
                    last = data.load(Ordering::Relaxed);
                }
            });
        });
    }
}
