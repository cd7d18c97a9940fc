//! The driver core as a static library for C: RTOS guests, and the Linux module.
//!
//! `guest-balloon/include/ballast_driver.h` is the other side of this boundary and its documentation; the two are
//! kept in step by hand. On the host this library is empty.
#![cfg_attr(target_os = "none", no_std)]

#[cfg(target_os = "none")]
mod boundary;
#[cfg(target_os = "none")]
mod cpus;
#[cfg(target_os = "none")]
mod front;
