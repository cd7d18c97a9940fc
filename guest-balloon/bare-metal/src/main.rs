//! A bare-metal guest: the balloon driver core without an operating system, and the tests' guest.
//!
//! Runs at EL1 on the generic guest machine and, for its own tests, on plain QEMU virt. What it does is
//! chosen by the boot arguments (`test=NAME ...`); each test ends with a line `PASS NAME` or `FAIL NAME: why`
//! and switches its machine off.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![cfg_attr(not(target_os = "none"), allow(dead_code))]

mod jobs;
mod machine;
mod pages;

#[cfg(target_os = "none")]
mod balloon;
#[cfg(target_os = "none")]
mod bench;
#[cfg(target_os = "none")]
mod boot;
#[cfg(target_os = "none")]
mod cpu;
#[cfg(target_os = "none")]
mod exception;
#[cfg(target_os = "none")]
mod gic;
#[cfg(target_os = "none")]
mod hotplug;
#[cfg(target_os = "none")]
mod memory;
#[cfg(target_os = "none")]
mod mmio;
#[cfg(target_os = "none")]
mod mmu;
#[cfg(target_os = "none")]
mod probe;
#[cfg(target_os = "none")]
mod ram;
#[cfg(target_os = "none")]
mod smccc;
#[cfg(target_os = "none")]
mod smp;
#[cfg(target_os = "none")]
mod start;
#[cfg(target_os = "none")]
mod tests;
#[cfg(target_os = "none")]
mod traces;
#[cfg(target_os = "none")]
mod uart;

#[cfg(target_os = "none")]
use start::{die, start};

/// On the host there is nothing to run: the target is `aarch64-unknown-none-softfloat`.
#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("build this for aarch64-unknown-none-softfloat and boot it");
}
