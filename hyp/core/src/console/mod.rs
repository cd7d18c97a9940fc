//! The physical console shared by all guests, Ballast and its monitor.

mod ring;

pub use ring::{Attention, InputRing, OutputRing, is_break};
