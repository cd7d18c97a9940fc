//! The memory mechanism as a whole: guests, a pool and fake hardware.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]
#![allow(clippy::cast_possible_truncation, clippy::expect_used, clippy::panic)]

mod calls;
mod hostile;
mod properties;
pub(crate) mod world;
