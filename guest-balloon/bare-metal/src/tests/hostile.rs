//! The guest as an attacker: each test tries one thing that must not work, and says so if it does.

pub mod calls;
pub mod channel;
pub mod device;
mod features;
pub mod input;
pub mod interrupts;
pub mod list;
pub mod map;
pub mod master;
pub mod memory;
pub mod race;
pub mod registers;
pub mod reset;
pub mod state;
pub mod storm;
pub mod system;
