use super::*;

mod gpio;
mod line;

fn page(parts: &[(u16, u16, What)]) -> Mediated {
    let part = |&(first, last, what): &(u16, u16, What)| Part { first, last, what };
    Mediated {
        pages: vec![
            Page {
                start: Pa(0xfe20_0000),
                parts: vec![],
            },
            Page {
                start: Pa(0xfe20_1000),
                parts: parts.iter().map(part).collect(),
            },
        ],
        ..Mediated::default()
    }
}

#[test]
fn pages_are_found_by_address() {
    let own = page(&[]);
    assert_eq!(own.find(Ipa(0xfe20_1404)), Some((1, 0x404)));
    assert_eq!(own.find(Ipa(0xfe20_0fff)), Some((0, 0xfff)));
    for other in [0xfe1f_ffff, 0xfe20_2000, 0, u64::MAX] {
        assert_eq!(own.find(Ipa(other)), None);
    }
}

/// The PL011s of a Raspberry Pi 4: the console's, one of the guest's own, and those of others.
#[test]
fn only_own_registers_are_reached() {
    use Width::{Byte, Double, Half, Word};
    let own = page(&[(0x000, 0x1ff, What::Console), (0x400, 0x5ff, What::Device)]);
    let at = |offset, width, access| own.access(1, offset, width, access);
    let (load, store) = (Access::Load, Access::Store(0x1_2345_6789));
    assert_eq!(at(0x18, Word, load), Effect::Console { offset: 0x18 });
    assert_eq!(at(0x0, Byte, store), Effect::Console { offset: 0 });
    assert_eq!(
        at(0x418, Word, load),
        Effect::Read {
            offset: 0x418,
            mask: u32::MAX
        }
    );
    assert_eq!(
        at(0x400, Word, store),
        Effect::Write {
            offset: 0x400,
            value: 0x2345_6789
        }
    );
    assert!(matches!(at(0x5fe, Half, load), Effect::Read { .. }));
    // Other holders' registers, the gap, across the end, unaligned, and widths that devices do not take.
    let aborted = [
        (0x600, Word),
        (0x200, Word),
        (0x3fc, Double),
        (0x400, Double),
        (0x5fe, Word),
        (0x402, Word),
        (0x401, Half),
        (0x1fe, Word),
        (0xfff, Byte),
    ];
    for (offset, width) in aborted {
        assert_eq!(at(offset, width, load), Effect::Abort, "{offset:#x}");
        assert_eq!(at(offset, width, store), Effect::Abort, "{offset:#x}");
    }
    assert_eq!(own.access(0, 0, Word, load), Effect::Abort);
    assert_eq!(own.access(2, 0, Word, load), Effect::Abort);
}

#[test]
fn each_block_has_its_bit_of_aux() {
    let own = page(&[(0x00, 0x07, What::Aux(0b010)), (0x80, 0xbf, What::Device)]);
    let at = |offset, access| own.access(1, offset, Width::Word, access);
    for offset in [0, 4] {
        assert_eq!(
            at(offset, Access::Load),
            Effect::Read {
                offset,
                mask: 0b010
            }
        );
    }
    assert_eq!(at(0, Access::Store(7)), Effect::Nothing);
    assert_eq!(
        at(4, Access::Store(0b101)),
        Effect::Merge {
            offset: 4,
            mask: 0b010,
            value: 0
        }
    );
    assert_eq!(
        own.access(1, 4, Width::Byte, Access::Store(7)),
        Effect::Abort
    );
    assert_eq!(at(0x40, Access::Load), Effect::Abort);
}

proptest::proptest! {
    /// Whatever is accessed, nothing outside the guest's own parts is touched.
    #[test]
    fn effects_stay_in_own_parts(
        offset in 0..0x1000_u16, width in 0..4_usize, store: bool, value: u64, pins: u64,
    ) {
        use proptest::prelude::*;
        let mut own = page(&[
            (0x000, 0x0f3, What::Gpio),
            (0x200, 0x207, What::Aux(0b1)),
            (0x400, 0x5ff, What::Device),
        ]);
        own.gpio = super::gpio::Share::new(pins);
        let width = [Width::Byte, Width::Half, Width::Word, Width::Double][width];
        let access = if store { Access::Store(value) } else { Access::Load };
        let inside = |at: u16| {
            own.pages[1].parts.iter().any(|part| {
                part.first <= at && u64::from(at) + width.bytes() - 1 <= u64::from(part.last)
            })
        };
        match own.access(1, offset, width, access) {
            Effect::Read { offset: at, .. } => prop_assert!(at == offset && !store && inside(at)),
            Effect::Write { offset: at, .. } => prop_assert!(at == offset && store && inside(at)),
            Effect::Merge { offset: at, mask, value } => {
                prop_assert!(at == offset && store && inside(at));
                prop_assert!(value & !mask == 0 && width == Width::Word);
            }
            Effect::Console { .. } => prop_assert!(false),
            Effect::Nothing => prop_assert!(inside(offset)),
            Effect::Abort => {}
        }
    }
}

/// A Raspberry Pi's page of PL011s: Ballast's console is the first, each of four guests has another, and all are on
/// SPI 121. A register is a word; an UART asserts while its interrupt mask and its raw status have a bit in common.
struct Uarts {
    words: [u32; 0x400],
    line: crate::mediate::line::Line,
    /// Whether the interrupt passes, and who has it pending.
    passes: bool,
    pending: u16,
}

impl Uarts {
    const STARTS: [u16; 5] = [0x000, 0x400, 0x600, 0x800, 0xa00];
    /// UARTIMSC and UARTRIS (DDI 0183G, 3.3.10, 3.3.11).
    const MASK: u16 = 0x38;
    const STATUS: u16 = 0x3c;

    fn holder(uart: usize) -> Mediated {
        let start = Self::STARTS[uart];
        page(&[(start, start + 0x1ff, What::Device)])
    }

    fn word(&mut self, offset: u16) -> &mut u32 {
        &mut self.words[usize::from(offset / 4)]
    }

    fn carry_out(&mut self, effect: Effect) {
        if let Effect::Write { offset, value } = effect {
            *self.word(offset & !3) = value;
        }
    }

    fn asserts(&mut self, uart: usize) -> bool {
        let start = Self::STARTS[uart];
        *self.word(start + Self::MASK) & *self.word(start + Self::STATUS) != 0
    }

    fn apply(&mut self, steps: crate::mediate::line::Steps) {
        self.passes = steps.physical.unwrap_or(self.passes);
        self.pending |= steps.deliver;
    }
}

proptest::proptest! {
    #[test]
    fn five_uarts_of_a_page_and_an_interrupt(
        accesses in proptest::collection::vec((1..5_usize, 0..0x1000_u16, 0..3_usize, proptest::prelude::any::<u32>()), 1..80),
    ) {
        use proptest::prelude::*;
        let mut uarts = Uarts {
            words: [0; 0x400],
            line: crate::mediate::line::Line::new(1000, true),
            passes: true,
            pending: 0,
        };
        for guest in 1..5 {
            let steps = uarts.line.listen(guest, true, 0);
            uarts.apply(steps);
        }
        let mut now = 0;
        for (guest, offset, width, value) in accesses {
            now += 500;
            let own = Uarts::holder(guest);
            let before = uarts.words;
            let width = [Width::Byte, Width::Half, Width::Word][width];
            uarts.carry_out(own.access(1, offset, width, Access::Store(value.into())));
            let first = usize::from(Uarts::STARTS[guest]) / 4;
            for (word, (new, old)) in uarts.words.iter().zip(&before).enumerate() {
                prop_assert!(new == old || (first..first + 0x80).contains(&word), "word {word}");
            }
            // Somebody's receives a byte.
            let receiver = usize::from(offset) % 4 + 1;
            let status = Uarts::STARTS[receiver] + Uarts::STATUS;
            *uarts.word(status) |= 1 << 4;
            *uarts.word(Uarts::STARTS[receiver] + Uarts::MASK) |= 1 << 4;
            prop_assert!(uarts.passes, "nothing is held back");
            let steps = uarts.line.fired(now);
            uarts.apply(steps);
            prop_assert_eq!(uarts.pending, 0b11110, "every holder hears of it");
            prop_assert!(!uarts.passes);
            for holder in 1..5 {
                let asserted = uarts.asserts(holder);
                prop_assert!(holder != receiver || asserted);
                // Its handler looks at its own registers and quietens them.
                *uarts.word(Uarts::STARTS[holder] + Uarts::STATUS) = 0;
                uarts.pending &= !(1 << holder);
                let steps = uarts.line.handled(holder, now + 10);
                uarts.apply(steps);
            }
        }
    }
}
