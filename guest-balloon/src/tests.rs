//! The driver against a simulated Ballast and a simulated guest, on a virtual clock.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation
)]

mod basic;
mod cpus;
mod random;
mod speed;
mod world;
