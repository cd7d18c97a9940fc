//! Register blocks of the board's devices.

pub mod gicv2;
pub mod gicv3;
pub mod gpio;
pub mod guarded;
pub mod mini_uart;
pub mod pl011;
pub mod pm;
pub mod shared;
