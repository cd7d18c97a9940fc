//! Channels: memory that this guest shares with another, and a doorbell for each of them.
//!
//! What a [`Channel`] does is two calls; the memory is whatever the two guests agree on. [`ring`] is a queue of
//! messages over it that both can rely on without trusting each other. `docs/abi.md` is the prose, and
//! `guest-balloon/include/ballast.h` the same for C.
//!
//! ```
//! use ballast_balloon::channel::{Channel, Notify, ring};
//! # use core::sync::atomic::AtomicU32;
//! # fn hvc(_: u32, _: u64) -> [u64; 4] { [0; 4] }
//! # let memory: Vec<AtomicU32> = (0..1024).map(|_| AtomicU32::new(0)).collect();
//! // The number and the memory are in the device tree.
//! let channel = Channel::new(0);
//! let mut to_peer = ring::Producer::new(&memory, &memory).unwrap();
//! if to_peer.push(b"set-point 42") == Ok(Notify::Ring) {
//!     channel.ring(hvc).unwrap();
//! }
//! // In the handler of the channel's interrupt:
//! let events = channel.fetch(hvc).unwrap();
//! if events.peer_stopped() { /* whoever answered is gone; what it wrote is still there */ }
//! ```

pub mod ring;

use ballast_abi::channel::{PEER_GENERATION, PEER_RUNNING, PEER_STARTED, PEER_STOPPED, RUNG};
use ballast_abi::{Status, function};
pub use ring::Notify;

/// One of this guest's channels.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Channel {
    number: u32,
}

impl Channel {
    /// The channel with this number: `ballast,channel` in the device tree.
    #[must_use]
    pub const fn new(number: u32) -> Self {
        Self { number }
    }

    /// Rings the other guest's doorbell. `call` makes the HVC with a function and x1, and gives x0 to x3.
    ///
    /// All that was stored before is visible to the other guest once it has fetched the event.
    ///
    /// # Errors
    /// [`Status::PeerStopped`]: nobody is there to hear it. [`Status::InvalidParameters`]: this guest has no such
    /// channel. [`Status::NotSupported`]: this is not Ballast, or an older one.
    pub fn ring(self, call: impl FnOnce(u32, u64) -> [u64; 4]) -> Result<(), Status> {
        let [x0, ..] = call(function::SIGNAL, self.number.into());
        success(x0)
    }

    /// Fetches the events since the last fetch. To be called once at the start, and at each interrupt of the channel,
    /// before its memory is looked at.
    ///
    /// # Errors
    /// As [`ring`](Self::ring), but for `PeerStopped`.
    pub fn fetch(self, call: impl FnOnce(u32, u64) -> [u64; 4]) -> Result<Events, Status> {
        let [x0, events, peer, _] = call(function::CHANNEL, self.number.into());
        success(x0).map(|()| Events { events, peer })
    }
}

fn success(x0: u64) -> Result<(), Status> {
    match Status::from_register(x0) {
        Some(Status::Success) => Ok(()),
        Some(status) => Err(status),
        None => Err(Status::NotSupported),
    }
}

/// What has happened on a channel, and the other guest's life as it is now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Events {
    events: u64,
    peer: u64,
}

impl Events {
    /// The other guest has rung.
    #[must_use]
    pub const fn rung(self) -> bool {
        self.events & RUNG != 0
    }

    /// The other guest has started.
    #[must_use]
    pub const fn peer_started(self) -> bool {
        self.events & PEER_STARTED != 0
    }

    /// The other guest has stopped, for a reset or for good.
    #[must_use]
    pub const fn peer_stopped(self) -> bool {
        self.events & PEER_STOPPED != 0
    }

    /// The other guest runs.
    #[must_use]
    pub const fn peer_is_running(self) -> bool {
        self.peer & PEER_RUNNING != 0
    }

    /// How often the other guest has started since power-on: 0 if it never has. A number that differs from the last
    /// one means that it was reset in between.
    #[must_use]
    #[allow(clippy::cast_possible_truncation, reason = "masked to 32 bits")]
    pub const fn peer_generation(self) -> u32 {
        (self.peer & PEER_GENERATION) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_carry_the_number_and_answers_are_read() {
        let channel = Channel::new(7);
        let rung = channel.ring(|function, x1| {
            assert_eq!((function, x1), (function::SIGNAL, 7));
            [Status::PeerStopped.to_register(), 0, 0, 0]
        });
        assert_eq!(rung, Err(Status::PeerStopped));
        let events = channel.fetch(|function, x1| {
            assert_eq!((function, x1), (function::CHANNEL, 7));
            [0, RUNG | PEER_STOPPED, PEER_RUNNING | 3, 0]
        });
        let events = events.unwrap();
        assert!(events.rung() && events.peer_stopped() && !events.peer_started());
        assert!(events.peer_is_running());
        assert_eq!(events.peer_generation(), 3);
        assert_eq!(
            channel.ring(|_, _| [u64::MAX; 4]),
            Err(Status::NotSupported)
        );
        assert_eq!(channel.ring(|_, _| [1, 0, 0, 0]), Err(Status::NotSupported));
    }
}
