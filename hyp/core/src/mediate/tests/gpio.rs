//! The GPIO block against a model of it.

use super::super::gpio::{ALL, PINS, Share};
use super::super::{Access, Effect};
use proptest::prelude::*;

const SET: [u16; 2] = [0x1c, 0x20];
const CLEAR: [u16; 2] = [0x28, 0x2c];
const LEVEL: [u16; 2] = [0x34, 0x38];
const EVENT: [u16; 2] = [0x40, 0x44];
const ENABLES: [[u16; 2]; 6] = [
    [0x4c, 0x50],
    [0x58, 0x5c],
    [0x64, 0x68],
    [0x70, 0x74],
    [0x7c, 0x80],
    [0x88, 0x8c],
];

/// The block: each pin's function, pull, output level, latched event and event enables.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Block {
    function: [u32; PINS as usize],
    pull: [u32; PINS as usize],
    output: u64,
    event: u64,
    enables: [u64; 6],
}

impl Block {
    fn new(seed: u64) -> Self {
        Self {
            function: std::array::from_fn(|pin| u32::try_from(seed >> (pin & 31)).unwrap_or(1) & 7),
            pull: std::array::from_fn(|pin| u32::try_from(pin & 3).unwrap()),
            output: seed & ALL,
            event: seed.rotate_left(17) & ALL,
            enables: std::array::from_fn(|n| seed.rotate_left(u32::try_from(n).unwrap()) & ALL),
        }
    }

    fn word(bits: u64, word: usize) -> u32 {
        u32::try_from(bits >> (32 * word) & 0xffff_ffff).unwrap()
    }

    fn read(&self, offset: u16) -> u32 {
        if offset <= 0x14 {
            let first = usize::from(offset / 4) * 10;
            return (0..10)
                .filter_map(|n| Some(self.function.get(first + n)? << (3 * n)))
                .sum();
        }
        if offset >= 0xe4 {
            let first = usize::from((offset - 0xe4) / 4) * 16;
            return (0..16)
                .filter_map(|n| Some(self.pull.get(first + n)? << (2 * n)))
                .sum();
        }
        for word in 0..2 {
            if offset == LEVEL[word] {
                return Self::word(self.output, word);
            }
            if offset == EVENT[word] {
                return Self::word(self.event, word);
            }
            for (enables, registers) in self.enables.iter().zip(ENABLES) {
                if offset == registers[word] {
                    return Self::word(*enables, word);
                }
            }
        }
        // What the real block answers elsewhere: the letters "gpio".
        0x6770_696f
    }

    fn write(&mut self, offset: u16, value: u32) {
        if offset <= 0x14 {
            let first = usize::from(offset / 4) * 10;
            for (n, function) in self.function.iter_mut().skip(first).take(10).enumerate() {
                *function = value >> (3 * n) & 7;
            }
        } else if offset >= 0xe4 {
            let first = usize::from((offset - 0xe4) / 4) * 16;
            for (n, pull) in self.pull.iter_mut().skip(first).take(16).enumerate() {
                *pull = value >> (2 * n) & 3;
            }
        }
        for word in 0..2 {
            let bits = u64::from(value) << (32 * word) & ALL;
            let all = 0xffff_ffff << (32 * word);
            if offset == SET[word] {
                self.output |= bits;
            } else if offset == CLEAR[word] {
                self.output &= !bits;
            } else if offset == EVENT[word] {
                self.event &= !bits;
            }
            for (enables, registers) in self.enables.iter_mut().zip(ENABLES) {
                if offset == registers[word] {
                    *enables = *enables & !all | bits;
                }
            }
        }
    }

    /// As the shell does it.
    fn carry_out(&mut self, effect: Effect) -> u32 {
        match effect {
            Effect::Read { offset, mask } => return self.read(offset) & mask,
            Effect::Write { offset, value } => self.write(offset, value),
            Effect::Merge {
                offset,
                mask,
                value,
            } => self.write(offset, self.read(offset) & !mask | value),
            Effect::Nothing => {}
            Effect::Console { .. } | Effect::Abort => panic!("{effect:?}"),
        }
        0
    }

    /// Everything of the pins that are not in `pins`.
    fn without(mut self, pins: u64) -> Self {
        for pin in (0..usize::from(PINS)).filter(|pin| pins >> pin & 1 != 0) {
            (self.function[pin], self.pull[pin]) = (0, 0);
        }
        self.output &= !pins;
        self.event &= !pins;
        self.enables.iter_mut().for_each(|bits| *bits &= !pins);
        self
    }
}

/// The registers there are.
fn offset() -> impl Strategy<Value = u16> {
    (0..0x40_u16).prop_map(|word| word * 4)
}

proptest! {
    /// Whatever a guest stores wherever, nothing of another's pins changes; whatever it loads, nothing
    /// of another's pins shows.
    #[test]
    fn others_pins_are_out_of_reach(
        pins in any::<u64>(), seed in any::<u64>(), all in any::<bool>(),
        accesses in prop::collection::vec((offset(), any::<u32>()), 1..60),
    ) {
        let mut share = Share::new(pins);
        if all {
            share.allow_all();
        }
        let pins = share.pins();
        let mut block = Block::new(seed);
        let before = block.clone().without(pins);
        // The same block, with everything of others' pins different.
        let mut twin = Block::new(!seed);
        for pin in (0..usize::from(PINS)).filter(|pin| pins >> pin & 1 != 0) {
            twin.function[pin] = block.function[pin];
            twin.pull[pin] = block.pull[pin];
        }
        twin.output = twin.output & !pins | block.output & pins;
        twin.event = twin.event & !pins | block.event & pins;
        for (to, from) in twin.enables.iter_mut().zip(block.enables) {
            *to = *to & !pins | from & pins;
        }
        for (offset, value) in accesses {
            let store = share.access(offset, Access::Store(u64::from(value)));
            block.carry_out(store);
            twin.carry_out(store);
            let load = share.access(offset, Access::Load);
            prop_assert_eq!(block.carry_out(load), twin.carry_out(load), "at {:#x}", offset);
        }
        prop_assert_eq!(block.without(pins), before);
    }

    /// On its own pins a guest has what it would have on the block itself.
    #[test]
    fn own_pins_are_as_they_were_alone(
        pins in any::<u64>(), seed in any::<u64>(),
        accesses in prop::collection::vec((offset(), any::<u32>()), 1..60),
    ) {
        let mut share = Share::new(pins);
        share.allow_all();
        let others = ALL & !share.pins();
        let (mut split, mut alone) = (Block::new(seed), Block::new(seed));
        for (offset, value) in accesses {
            split.carry_out(share.access(offset, Access::Store(u64::from(value))));
            alone.write(offset, value);
        }
        prop_assert_eq!(split.without(others), alone.without(others));
    }
}

#[test]
fn a_pin_is_set_cleared_and_read() {
    let share = Share::new(1 << 17 | 1 << 40);
    let mut block = Block::new(0);
    block.carry_out(share.access(SET[0], Access::Store(u64::from(u32::MAX))));
    block.carry_out(share.access(SET[1], Access::Store(u64::from(u32::MAX))));
    assert_eq!(block.output, 1 << 17 | 1 << 40);
    block.output |= 1 << 18;
    assert_eq!(
        block.carry_out(share.access(LEVEL[0], Access::Load)),
        1 << 17
    );
    block.carry_out(share.access(CLEAR[0], Access::Store(u64::from(u32::MAX))));
    assert_eq!(block.output, 1 << 18 | 1 << 40);
    // What does nothing costs no access to the block.
    assert_eq!(
        share.access(SET[0], Access::Store(1 << 18)),
        Effect::Nothing
    );
    assert_eq!(share.access(SET[0], Access::Load), Effect::Nothing);
    assert_eq!(share.access(0x18, Access::Load), Effect::Nothing);
}

#[test]
fn alternate_functions_need_a_device_that_has_them() {
    let mut share = Share::new(0b11);
    share.allow(0, 3);
    let select = |share: &Share, functions: u32| {
        let mut block = Block::new(0);
        block.function[0] = 1;
        block.function[1] = 1;
        block.carry_out(share.access(0, Access::Store(u64::from(functions))));
        (block.function[0], block.function[1])
    };
    assert_eq!(select(&share, 0o00), (0, 0));
    assert_eq!(select(&share, 0o03), (3, 0));
    assert_eq!(select(&share, 0o33), (3, 1), "pin 1 stays as it was");
    assert_eq!(select(&share, 0o44), (1, 1));
    share.allow_all();
    assert_eq!(select(&share, 0o47), (7, 4));
}
