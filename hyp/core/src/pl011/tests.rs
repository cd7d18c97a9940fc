#![allow(clippy::arithmetic_side_effects)]
use super::*;
use proptest::prelude::*;

const UARTEN_TXE_RXE: u64 = 0x301;

fn uart() -> Pl011 {
    let mut uart = Pl011::with_rings(OutputRing::new(64), InputRing::new(64));
    uart.output().set_attention(Attention::Lines);
    uart
}

fn drain(uart: &mut Pl011) -> Vec<u8> {
    let bytes = core::iter::from_fn(|| uart.output().pop()).collect();
    uart.output_taken();
    bytes
}

fn type_all(uart: &mut Pl011, bytes: &[u8]) {
    for byte in bytes {
        assert!(uart.type_byte(*byte));
    }
}

/// Linux's interrupt handler (drivers/tty/serial/amba-pl011.c: pl011_int): acknowledge all but the
/// level ones, then read until the FIFO is empty.
fn linux_isr(uart: &mut Pl011, got: &mut Vec<u8>) {
    let status = uart.read(reg::RIS, Width::Half) & uart.read(reg::IMSC, Width::Half);
    uart.write(
        reg::ICR,
        Width::Half,
        status & !u64::from(interrupt::TX | interrupt::RX | interrupt::RT),
    );
    if status & u64::from(interrupt::RX | interrupt::RT) != 0 {
        while uart.read(reg::FR, Width::Half) & u64::from(flag::RXFE) == 0 {
            got.push(u8::try_from(uart.read(reg::DR, Width::Half)).unwrap());
        }
    }
}

#[test]
fn bytes_go_out_before_the_guest_enables_anything() {
    let mut uart = uart();
    uart.write(reg::CR, Width::Word, 0);
    for byte in *b"hi" {
        uart.write(reg::DR, Width::Word, u64::from(byte) | 0xffff_ff00);
    }
    assert_eq!(drain(&mut uart), b"hi");
}

#[test]
fn identifies_as_linux_and_the_amba_bus_expect() {
    let mut uart = uart();
    let mut word = |first: u32| {
        (0..4).fold(0u64, |id, k| {
            id | (uart.read(first + 4 * k, Width::Word) << (8 * k))
        })
    };
    assert_eq!(word(0xfe0) & 0x000f_ffff, 0x0004_1011);
    assert_eq!(word(0xff0), 0xb105_f00d);
}

#[test]
fn the_end_of_a_line_calls_the_console_and_a_letter_does_not() {
    let mut uart = uart();
    uart.write(reg::DR, Width::Byte, u64::from(b'a'));
    assert!(!uart.effects().kick);
    uart.write(reg::DR, Width::Byte, u64::from(b'\n'));
    assert!(uart.effects().kick);
    uart.write(reg::DR, Width::Byte, u64::from(b'$'));
    assert!(!uart.effects().kick);
    assert!(!uart.has_paused());
    // End of a driver's write: the prompt is due, once.
    uart.write(reg::IMSC, Width::Half, 0x50);
    assert!(uart.has_paused());
    assert!(uart.effects().kick);
    uart.write(reg::IMSC, Width::Half, 0x50);
    assert!(!uart.effects().kick);
}

#[test]
fn polling_for_input_after_a_prompt_calls_the_console() {
    let mut uart = uart();
    uart.write(reg::DR, Width::Byte, u64::from(b'>'));
    let kicks = (0..100).filter(|_| {
        let _ = uart.read(reg::FR, Width::Word);
        uart.effects().kick
    });
    assert_eq!(kicks.count(), 1);
}

#[test]
fn an_unattended_or_focused_guest_calls_never_or_always() {
    let mut uart = uart();
    uart.output().set_attention(Attention::Unattended);
    for _ in 0..1000 {
        uart.write(reg::DR, Width::Byte, u64::from(b'\n'));
        assert!(!uart.effects().kick);
    }
    assert_eq!(uart.counts().dropped, 0);
    uart.output().set_attention(Attention::Raw);
    drain(&mut uart);
    uart.write(reg::DR, Width::Byte, u64::from(b'x'));
    assert!(uart.effects().kick);
}

#[test]
fn a_guest_that_floods_sees_its_fifo_full_then_gets_its_interrupt() {
    let mut uart = uart();
    uart.write(reg::IMSC, Width::Half, u64::from(interrupt::TX));
    let mut sent = 0;
    while uart.read(reg::FR, Width::Half) & u64::from(flag::TXFF) == 0 {
        uart.write(reg::DR, Width::Byte, u64::from(b'x'));
        sent += 1;
    }
    assert_eq!(sent, 32);
    assert!(!uart.line());
    uart.write(reg::DR, Width::Byte, u64::from(b'y'));
    assert_eq!(uart.counts().dropped, 1);
    // Not yet: one byte of room is not worth an interrupt.
    let _ = uart.output().pop();
    uart.output_taken();
    assert!(!uart.line());
    assert_eq!(drain(&mut uart).len(), 31);
    assert_eq!(uart.effects().line, Some(true));
    uart.write(reg::ICR, Width::Half, u64::from(interrupt::TX));
    assert_eq!(uart.effects().line, Some(false));
    assert_eq!(uart.effects().line, None);
}

#[test]
fn leaving_a_held_back_guest_sets_it_free() {
    let mut uart = uart();
    uart.write(reg::IMSC, Width::Half, u64::from(interrupt::TX));
    for _ in 0..40 {
        uart.write(reg::DR, Width::Byte, u64::from(b'x'));
    }
    uart.output().set_attention(Attention::Unattended);
    uart.output_taken();
    assert!(uart.line());
    assert_eq!(uart.read(reg::FR, Width::Half) & u64::from(flag::TXFF), 0);
}

#[test]
fn one_byte_below_the_trigger_raises_the_timeout() {
    let mut uart = uart();
    uart.write(reg::LCR_H, Width::Half, 0x70);
    uart.write(reg::CR, Width::Half, UARTEN_TXE_RXE);
    uart.write(
        reg::IMSC,
        Width::Half,
        u64::from(interrupt::RX | interrupt::RT),
    );
    type_all(&mut uart, b"x");
    assert_eq!(uart.read(reg::MIS, Width::Half), u64::from(interrupt::RT));
    type_all(&mut uart, b"1234567");
    assert_eq!(
        uart.read(reg::MIS, Width::Half),
        u64::from(interrupt::RT | interrupt::RX)
    );
    let _ = uart.read(reg::DR, Width::Byte);
    assert_eq!(uart.read(reg::MIS, Width::Half), u64::from(interrupt::RT));
}

#[test]
fn without_fifos_one_byte_is_full_and_raises_receive() {
    let mut uart = uart();
    type_all(&mut uart, b"x");
    assert_eq!(uart.read(reg::RIS, Width::Half), u64::from(interrupt::RX));
    assert_ne!(uart.read(reg::FR, Width::Half) & u64::from(flag::RXFF), 0);
    assert_eq!(uart.read(reg::DR, Width::Half), u64::from(b'x'));
    assert_eq!(uart.read(reg::RIS, Width::Half), 0);
    assert_ne!(uart.read(reg::FR, Width::Half) & u64::from(flag::RXFE), 0);
}

#[test]
fn clearing_after_draining_keeps_the_interrupt_of_a_byte_that_came_between() {
    let mut uart = uart();
    uart.write(reg::LCR_H, Width::Half, 0x70);
    uart.write(
        reg::IMSC,
        Width::Half,
        u64::from(interrupt::RX | interrupt::RT),
    );
    type_all(&mut uart, b"a");
    while uart.read(reg::FR, Width::Half) & u64::from(flag::RXFE) == 0 {
        let _ = uart.read(reg::DR, Width::Half);
    }
    type_all(&mut uart, b"b");
    uart.write(reg::ICR, Width::Half, 0x7ff);
    assert!(uart.line());
    // Clearing what it has seen quiets it: no interrupt storm for a driver that reads later.
    let _ = uart.read(reg::MIS, Width::Half);
    uart.write(reg::ICR, Width::Half, 0x7ff);
    assert!(!uart.line());
    assert_eq!(uart.read(reg::DR, Width::Half), u64::from(b'b'));
}

#[test]
fn a_partial_read_leaves_the_timeout_up() {
    let mut uart = uart();
    uart.write(reg::LCR_H, Width::Half, 0x70);
    uart.write(
        reg::IMSC,
        Width::Half,
        u64::from(interrupt::RX | interrupt::RT),
    );
    type_all(&mut uart, &[b'x'; 40]);
    let _ = uart.read(reg::MIS, Width::Half);
    uart.write(reg::ICR, Width::Half, 0x7ff);
    for _ in 0..16 {
        let _ = uart.read(reg::DR, Width::Half);
    }
    assert!(uart.line());
}

#[test]
fn reset_forgets_input_and_masks_but_not_output() {
    let mut uart = uart();
    uart.write(reg::DR, Width::Byte, u64::from(b'o'));
    uart.write(reg::IMSC, Width::Half, 0x7ff);
    type_all(&mut uart, b"typed");
    assert_eq!(uart.effects().line, Some(true));
    uart.reset();
    assert_eq!(uart.effects().line, Some(false));
    assert_eq!(uart.read(reg::CR, Width::Word), 0x300);
    assert_eq!(uart.read(reg::IFLS, Width::Word), 0x12);
    assert_ne!(uart.read(reg::FR, Width::Word) & u64::from(flag::RXFE), 0);
    assert_eq!(drain(&mut uart), b"o");
}

#[test]
fn registers_hold_their_bits_at_every_width() {
    let mut uart = uart();
    for (offset, mask) in [
        (reg::ILPR, 0xff),
        (reg::IBRD, 0xffff),
        (reg::FBRD, 0x3f),
        (reg::LCR_H, 0xff),
        (reg::CR, 0xffff),
        (reg::IFLS, 0x3f),
        (reg::IMSC, 0x7ff),
        (reg::DMACR, 7),
    ] {
        uart.write(offset, Width::Double, u64::MAX);
        assert_eq!(uart.read(offset, Width::Double), mask, "{offset:#x}");
        assert_eq!(uart.read(offset, Width::Byte), mask & 0xff);
        assert_eq!(uart.read(offset + 1, Width::Byte), mask >> 8);
        uart.write(offset, Width::Byte, 0);
        assert_eq!(uart.read(offset, Width::Word), 0);
    }
}

fn width() -> impl Strategy<Value = Width> {
    prop::sample::select(vec![Width::Byte, Width::Half, Width::Word, Width::Double])
}

proptest! {
    /// HOSTILE.md's D1: whatever the guest does, a defined result, and the line is what RIS and
    /// IMSC say.
    #[test]
    fn any_access_at_any_width_is_defined(
        accesses in prop::collection::vec(
            (prop_oneof![0u32..0x60, 0u32..0x1000, any::<u32>()], width(), any::<u64>(), 0u8..4),
            1..200,
        )
    ) {
        let mut uart = uart();
        let mut line = false;
        for (offset, width, value, kind) in accesses {
            match kind {
                0 => { let _ = uart.read(offset, width); }
                1 => uart.write(offset, width, value),
                2 => { let _ = uart.type_byte(value as u8); }
                _ => { let _ = uart.output().pop(); uart.output_taken(); }
            }
            if let Some(level) = uart.effects().line {
                prop_assert_ne!(level, line);
                line = level;
            }
            prop_assert_eq!(line, uart.line());
        }
    }

    /// D3: under any interleaving of typing, interrupts and Linux's handler, every accepted byte
    /// arrives once and in order, and none is left waiting without an interrupt.
    #[test]
    fn no_typed_byte_is_left_behind(
        steps in prop::collection::vec(prop_oneof![
            (1usize..20).prop_map(Some), Just(None)
        ], 1..60)
    ) {
        let mut uart = uart();
        uart.write(reg::LCR_H, Width::Half, 0x70);
        uart.write(reg::IMSC, Width::Half, u64::from(interrupt::RX | interrupt::RT));
        let (mut typed, mut got) = (Vec::new(), Vec::new());
        for step in steps {
            match step {
                Some(count) => for _ in 0..count {
                    let byte = u8::try_from(typed.len() % 251).unwrap();
                    if uart.type_byte(byte) { typed.push(byte); }
                },
                None if uart.line() => linux_isr(&mut uart, &mut got),
                None => prop_assert_eq!(&typed, &got),
            }
        }
        while uart.line() { linux_isr(&mut uart, &mut got); }
        prop_assert_eq!(typed, got);
    }
}
