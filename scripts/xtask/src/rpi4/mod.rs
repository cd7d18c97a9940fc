//! The Raspberry Pi 4: SD cards for it, and QEMU in its place.

pub mod card;
pub mod config_txt;
pub mod emulator;
pub mod firmware;
pub mod image;
pub mod install;
pub mod root;
pub mod run;
pub mod tree;
