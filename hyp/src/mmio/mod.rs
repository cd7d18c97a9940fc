//! Register blocks of the board's devices.

pub mod gicv2;
pub mod gicv3;
pub mod pl011;
