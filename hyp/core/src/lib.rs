//! The safe core of Ballast: everything the hypervisor decides, and nothing it touches.
//!
//! This crate never reads a register, maps a page or waits. It decodes what a guest, a device tree
//! or an operator asked for, decides, and says what is to be done through small traits and plain
//! data that the shell (`hyp/`) carries out. That is what lets two guests, a balloon and a console
//! run inside a host test.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation
    )
)]

extern crate alloc;

pub mod addr;
pub mod archive;
pub mod balloon;
pub mod board;
pub mod channel;
pub mod config;
pub mod console;
pub mod cores;
pub mod dt;
pub mod exit;
pub mod fault;
pub mod frames;
pub mod guest_dt;
pub mod image;
pub mod limits;
pub mod log;
pub mod machine;
pub mod mediate;
pub mod message_port;
pub mod monitor;
pub mod pl011;
pub mod plan;
pub mod policy;
pub mod psci;
pub mod quiesce;
pub mod refusal;
pub mod smccc;
mod sort;
pub mod speculation;
pub mod stage2;
pub mod sysreg;
pub mod timeline;
pub mod vgic;
pub mod watchdog;

#[cfg(test)]
#[allow(missing_docs, dead_code)]
mod testing;
