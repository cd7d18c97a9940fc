//! The BCM2711's GPIO block split by pins (BCM2711 ARM Peripherals, chapter 5).
//!
//! A guest reaches the fields of its own pins: reads of others' are zero, writes to them are lost.
//! GPSET, GPCLR and GPEDS are masked and go straight to the register, since a zero bit does nothing
//! there; everything else is read, merged and written under the page's lock. Only 32-bit accesses
//! exist.
//!
//! A pin's function is a choice among input, output and six alternates, each of which connects the pin
//! to another block, which may be another holder's. So a guest may choose input and output, and of the
//! alternates those that the board's tree gives to a device of its own.

use super::{Access, Effect, low_word};

/// Pins of the BCM2711.
pub const PINS: u8 = 58;

/// Bytes from the start of the block to the end of its last register. The block's `reg` may be
/// shorter (0xb4 in upstream trees, which is the BCM2835's).
pub const BYTES: u16 = 0xf4;

/// Input and output: values 0 and 1 of a function-select field.
const PLAIN: u8 = 0b11;

/// One guest's pins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Share {
    /// One bit a pin.
    pins: u64,
    /// Which function-select values each pin may be given, one bit a value.
    functions: [u8; PINS as usize],
}

impl Default for Share {
    fn default() -> Self {
        Self {
            pins: 0,
            functions: [PLAIN; PINS as usize],
        }
    }
}

/// Every pin.
pub const ALL: u64 = (1 << PINS) - 1;

/// What a register has.
#[derive(Clone, Copy)]
enum Register {
    /// GPFSEL: ten fields of three bits, from this pin on.
    Function(u8),
    /// GPSET, GPCLR: a bit a pin from 32 times this on, write-only; zeroes do nothing.
    Command(u8),
    /// GPLEV: read-only.
    Level(u8),
    /// GPEDS: write one to clear.
    Event(u8),
    /// GPREN, GPFEN, GPHEN, GPLEN, GPAREN, GPAFEN.
    Enable(u8),
    /// GPIO_PUP_PDN_CNTRL_REG: sixteen fields of two bits, from this pin on.
    Pull(u8),
}

impl Register {
    /// Table 5-2.
    const fn at(offset: u16) -> Option<Self> {
        Some(match offset {
            0x00 => Self::Function(0),
            0x04 => Self::Function(10),
            0x08 => Self::Function(20),
            0x0c => Self::Function(30),
            0x10 => Self::Function(40),
            0x14 => Self::Function(50),
            0x1c | 0x28 => Self::Command(0),
            0x20 | 0x2c => Self::Command(1),
            0x34 => Self::Level(0),
            0x38 => Self::Level(1),
            0x40 => Self::Event(0),
            0x44 => Self::Event(1),
            0x4c | 0x58 | 0x64 | 0x70 | 0x7c | 0x88 => Self::Enable(0),
            0x50 | 0x5c | 0x68 | 0x74 | 0x80 | 0x8c => Self::Enable(1),
            0xe4 => Self::Pull(0),
            0xe8 => Self::Pull(16),
            0xec => Self::Pull(32),
            0xf0 => Self::Pull(48),
            _ => return None,
        })
    }
}

impl Share {
    /// These pins, as inputs and outputs. Bits beyond [`PINS`] are dropped.
    #[must_use]
    pub fn new(pins: u64) -> Self {
        Self {
            pins: pins & ALL,
            ..Self::default()
        }
    }

    /// The pins, one bit each.
    #[must_use]
    pub const fn pins(&self) -> u64 {
        self.pins
    }

    /// Lets `pin` be given function-select value `function` (0 to 7).
    pub fn allow(&mut self, pin: u8, function: u8) {
        if let Some(allowed) = self.functions.get_mut(usize::from(pin)) {
            *allowed |= 1_u8.wrapping_shl(u32::from(function & 7));
        }
    }

    /// Lets every pin be given every function: for a holder of the block itself.
    pub const fn allow_all(&mut self) {
        self.functions = [u8::MAX; PINS as usize];
    }

    /// What a 32-bit access at `offset` (a multiple of 4) of the block does. Offsets without a register
    /// that this module knows read as zero and ignore writes.
    #[must_use]
    pub fn access(&self, offset: u16, access: Access) -> Effect {
        let Some(register) = Register::at(offset) else {
            return Effect::Nothing;
        };
        let mask = self.mask(register);
        match (register, access) {
            _ if mask == 0 => Effect::Nothing,
            (Register::Command(_), Access::Load) | (Register::Level(_), Access::Store(_)) => {
                Effect::Nothing
            }
            (_, Access::Load) => Effect::Read { offset, mask },
            (Register::Command(_) | Register::Event(_), Access::Store(value)) => {
                match low_word(value) & mask {
                    0 => Effect::Nothing,
                    value => Effect::Write { offset, value },
                }
            }
            (Register::Function(first), Access::Store(value)) => {
                let value = low_word(value);
                match mask & self.permitted(first, value) {
                    0 => Effect::Nothing,
                    mask => Effect::Merge {
                        offset,
                        mask,
                        value: value & mask,
                    },
                }
            }
            (Register::Enable(_) | Register::Pull(_), Access::Store(value)) => Effect::Merge {
                offset,
                mask,
                value: low_word(value) & mask,
            },
        }
    }

    /// The bits of a register that are the guest's.
    fn mask(&self, register: Register) -> u32 {
        match register {
            Register::Command(word)
            | Register::Level(word)
            | Register::Event(word)
            | Register::Enable(word) => {
                low_word(self.pins.wrapping_shr(u32::from(word).wrapping_shl(5)))
            }
            Register::Function(first) => self.fields(first, 10, 3),
            Register::Pull(first) => self.fields(first, 16, 2),
        }
    }

    /// The fields, of `width` bits, of those of the `count` pins from `first` on that are the guest's.
    fn fields(&self, first: u8, count: u8, width: u32) -> u32 {
        let ones = !u32::MAX.wrapping_shl(width);
        (0..count).fold(0, |mask, n| {
            let pin = u32::from(first.wrapping_add(n));
            if self.pins.wrapping_shr(pin) & 1 != 0 {
                mask | ones.wrapping_shl(u32::from(n).wrapping_mul(width))
            } else {
                mask
            }
        })
    }

    /// The function-select fields, of the ten pins from `first` on, whose value in `value` those pins
    /// may be given.
    fn permitted(&self, first: u8, value: u32) -> u32 {
        (0..10_u8).fold(0, |mask, n| {
            let shift = u32::from(n).wrapping_mul(3);
            let function = value.wrapping_shr(shift) & 7;
            let allowed = self.functions.get(usize::from(first.wrapping_add(n)));
            if allowed.is_some_and(|allowed| u32::from(*allowed).wrapping_shr(function) & 1 != 0) {
                mask | 7_u32.wrapping_shl(shift)
            } else {
                mask
            }
        })
    }
}
