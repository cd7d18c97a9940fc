//! The memory mechanism as a whole: guests, a pool and fake hardware.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]
#![allow(clippy::cast_possible_truncation, clippy::expect_used, clippy::panic)]

// Thousands of pages each, and the core has no unsafe code: not worth an interpreter's hours.
#[cfg(not(miri))]
mod calls;
#[cfg(not(miri))]
mod gather;
mod hostile;
#[cfg(not(miri))]
mod properties;
#[cfg(not(miri))]
mod races;
#[cfg(not(miri))]
mod relocate;
#[cfg(not(miri))]
mod sample;
#[cfg(not(miri))]
mod scrub;
mod wake;
pub(crate) mod world;
