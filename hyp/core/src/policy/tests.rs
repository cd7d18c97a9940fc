//! The policy against simulated guests.

mod funding;
mod properties;
mod scenarios;
mod transfer;
mod world;
