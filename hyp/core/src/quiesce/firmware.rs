//! Letting the VideoCore's firmware come to the end of what a guest has asked of it.
//!
//! Firmware writes its answer to a property request into the guest's memory. Whether one is still being worked
//! on no register says; but requests of the property channel are answered in turn, so when one of Ballast's
//! own is answered, all before it are. Its answer goes to Ballast's own memory.
//!
//! That does not hold for what firmware goes on writing after it has answered: VCHIQ's slots, whose node is a
//! device without a procedure, and the touch buffer of the first official display, see [`writes_on`].

use super::Registers;
use crate::dt::Node;

/// Words of a message: a multiple of the 16 bytes that its address must be aligned to.
pub const MESSAGE_WORDS: usize = 8;
/// Of all of it, in microseconds: as long as Linux waits for an answer.
pub const LIMIT_US: u64 = 1_000_000;

/// What the firmware's revision is: size in bytes, request, tag, size of its value, of what is sent, value, end
/// (Raspberry Pi firmware wiki, "Mailbox property interface").
const MESSAGE: [u32; MESSAGE_WORDS] = [28, 0, 0x0000_0001, 4, 0, 0, 0, 0];
/// Property requests of the Arm's: the lower four bits of a message, beside the upper 28 of an address.
const CHANNEL: u32 = 8;

/// Mailbox 0, what firmware says: the oldest message.
const ANSWER: u32 = 0x00;
/// Whether there is one.
const ANSWER_STATUS: u32 = 0x18;
/// Mailbox 1, what firmware is told.
const REQUEST: u32 = 0x20;
/// Whether there is room.
const REQUEST_STATUS: u32 = 0x38;
const FULL: u32 = 1 << 31;
const EMPTY: u32 = 1 << 30;

/// The registers that this reaches.
pub const END: u32 = 0x3c;

/// `None` if firmware does not answer.
pub fn drain(registers: &mut impl Registers) -> Option<()> {
    let request = registers.message(&MESSAGE)? | CHANNEL;
    let mut is_asked = false;
    loop {
        if !is_asked && registers.read(REQUEST_STATUS)? & FULL == 0 {
            registers.write(REQUEST, request)?;
            is_asked = true;
        }
        // Firmware cannot go on while its mailbox is full of answers that nobody fetches.
        if registers.read(ANSWER_STATUS)? & EMPTY == 0
            && registers.read(ANSWER)? == request
            && is_asked
        {
            return Some(());
        }
        if registers.elapsed_us() >= LIMIT_US {
            return None;
        }
    }
}

/// Whether the board has a touch screen whose events firmware writes into a buffer of the guest's for ever.
pub fn writes_on(mailbox: Node<'_>) -> bool {
    let mut nodes = mailbox.tree().nodes();
    nodes.any(|node| node.is_enabled() && node.is_compatible("raspberrypi,firmware-ts"))
}
