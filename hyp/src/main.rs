//! Ballast: the EL2 shell around `ballast-core`.
//!
//! Everything that touches the machine is here: entry, translation, exceptions, register blocks and
//! the loop in which a core runs its vCPU. Decisions are the core's.
#![deny(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic
)]
#![no_std]
#![no_main]

extern crate alloc;

mod aarch64;
mod boot;
mod calls;
mod channels;
mod console;
mod control;
mod cores;
mod fault;
mod gic;
mod guest;
mod heap;
mod interrupts;
mod layout;
mod mmio;
mod operator;
mod percpu;
mod power;
mod report;
mod run;
mod scheduler;
mod scrub;
mod self_test;
mod sgi;
mod system;
mod traps;
