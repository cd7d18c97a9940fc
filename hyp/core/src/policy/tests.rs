//! The policy against simulated guests.

mod convergence;
mod cores;
mod funding;
mod lies;
mod properties;
mod scenarios;
mod transfer;
mod trouble;
mod world;
