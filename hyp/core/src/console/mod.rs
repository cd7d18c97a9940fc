//! The physical console, shared by all guests, Ballast and its monitor.
//!
//! [`Console`] is a pure state machine between the guests' rings and the physical UART. Bytes typed
//! go in through [`Console::type_byte`], bytes for the transmit FIFO come out of [`Console::pull`].
//! It is not called at times: something has changed (a guest's [`crate::pl011::Effects::kick`], a
//! typed byte, a message, room in the FIFO), so it is pulled.
//!
//! **Locks.** The console has one lock. Under it, [`Sources`] takes one UART's lock or that of the
//! messages for a bounded copy. Nobody pulls the console while holding any of those.
//!
//! **Views.** The *shared* view shows every guest line by line, each with its name, and whatever a
//! guest prints can neither look like another's line nor reach the terminal as a control. An
//! unfinished line is shown once its guest has paused (it touched its UART's interrupt mask or
//! control register, or polls for input) or has been silent for a moment when the console next has
//! reason to look, and only when nobody has a whole line to show. The *focus* on a guest is its
//! terminal, byte for byte. The *monitor* is Ballast's command line. A guest that is on the terminal
//! is held back by the terminal's rate; one that is not writes into its history.

mod label;
mod messages;
mod mux;
mod painter;
mod ring;
mod stage;

pub use label::{Label, Labels, NAME_BYTES, OWN_NAME};
pub use messages::Messages;
pub use mux::{Console, Sources, View};
pub use painter::LINE_COLUMNS;
pub use ring::{Attention, InputRing, OutputRing, is_break};
pub use stage::Stage;
