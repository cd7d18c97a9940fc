//! The balloon driver core: one state machine for Linux, bare metal and host tests.
//!
//! Ballast tells a guest how many pages of its maximum it shall hold *reserved* (not backed). The driver
//! reserves pages with the guest's own allocator and hands them over, or takes them back, until it holds
//! what the target says. It does so at the speed the guest's allocator keeps up with ([`Rate`]), and at rest
//! it makes no call and needs no timer.
//!
//! The core decides; a *front* acts. A front implements three traits: [`Hypercall`] (the HVC and the list
//! page), [`PageSource`] (the allocator, and the record of what is held: the core itself is of fixed size) and
//! [`Clock`]. It calls [`Driver::hello`] once, [`Driver::on_interrupt`] at each balloon interrupt, and
//! [`Driver::step`] as long as that says [`Next::Again`] or at the time it says. One call at a time: the front
//! holds a lock that may sleep.
//!
//! CPUs are a balloon too: [`Cpus`] follows the CPU target through a fourth trait, [`CpuSource`], which a guest
//! whose CPUs stay as they are leaves out.
//!
//! A guest that knows says how it fares by [`Driver::report`], which Ballast's resource scheduler goes by.
//!
//! [`channel`] is apart from all this: memory shared with another guest.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod channel;
mod cpus;
mod driver;
mod exchange;
mod front;
mod rate;
mod report;

pub use ballast_abi as abi;
pub use cpus::{CpuCounters, CpuError, CpuSource, CpuState, Cpus};
pub use driver::{Counters, Driver, HelloError, Next, State};
pub use front::{Clock, Hypercall, PageSource, Taken};
pub use rate::Rate;
pub use report::Report;

#[cfg(test)]
mod tests;
