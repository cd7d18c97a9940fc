//! The policy against simulated guests.

mod convergence;
mod cores;
mod funding;
mod properties;
mod scenarios;
mod transfer;
mod world;
