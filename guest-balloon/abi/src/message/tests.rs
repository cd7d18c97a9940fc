use std::vec::Vec;

use super::{Frame as AnyFrame, *};
use crate::{Entry, EntryStatus, Order};

type Frame = AnyFrame<[u64; FRAME_WORDS]>;

fn empty() -> Frame {
    Frame::new([0; FRAME_WORDS])
}

fn request(function: u32, entries: usize) -> Frame {
    let mut frame = empty();
    for (index, word) in frame.room().iter_mut().enumerate().take(entries) {
        *word = Entry::new(0x4000_0000 + (index as u64) * 0x20_0000, Order::Block).0;
    }
    let message = Message {
        kind: Kind::Request,
        tag: 0x7e7d,
        function,
        registers: [entries as u64, 0x1113_7d7e, u64::MAX, 0],
    };
    frame.set(message, entries);
    frame
}

fn bytes(frame: &Frame) -> Vec<u8> {
    let mut sender = Sender::new();
    core::iter::from_fn(|| sender.next(frame)).collect()
}

fn receive(bytes: &[u8]) -> (Vec<Received>, Frame) {
    let (mut receiver, mut frame) = (Receiver::new(), empty());
    let received = bytes
        .iter()
        .filter_map(|&byte| receiver.push(&mut frame, byte));
    (received.collect(), frame)
}

#[test]
fn the_fcs_is_the_standards() {
    let fcs = b"123456789"
        .iter()
        .fold(Fcs::INITIAL, |fcs, &byte| fcs.with(byte));
    assert_eq!(u32::from_le_bytes(fcs.bytes()), 0xcbf4_3926);
    assert_eq!(fcs.bytes().iter().fold(fcs, |f, &b| f.with(b)), Fcs::GOOD);
}

#[test]
fn messages_arrive_as_they_were_sent() {
    for entries in [1, 2, 100, LIST_ENTRIES] {
        let sent = request(function::RESERVE, entries);
        let line = bytes(&sent);
        assert!(!line.contains(&XON) && !line.contains(&XOFF));
        let (received, frame) = receive(&line);
        assert_eq!(received, [Received::Message(sent.message().unwrap())]);
        assert_eq!(frame.entries(), sent.entries());
        assert_eq!(frame.entries().len(), entries);
    }
}

#[test]
fn noise_before_a_frame_is_dropped() {
    let sent = request(function::TARGET, 0);
    let mut line = b"login: \x7d".to_vec();
    line.extend(bytes(&sent));
    assert_eq!(
        receive(&line).0,
        [Received::Message(sent.message().unwrap())]
    );
    // Between two frames it is a frame of its own, which is nobody's request.
    let mut line = bytes(&sent);
    line.extend(b"ballast login: ");
    line.extend(bytes(&sent));
    assert_eq!(
        receive(&line).0,
        [
            Received::Message(sent.message().unwrap()),
            Received::Malformed { is_request: false },
            Received::Message(sent.message().unwrap()),
        ]
    );
}

#[test]
fn a_frame_cut_off_costs_no_other() {
    let sent = request(function::RELEASE, 7);
    let line = bytes(&sent);
    for cut in 1..line.len() - 1 {
        let mut both = line[..cut].to_vec();
        both.extend(&line);
        let (received, frame) = receive(&both);
        assert_eq!(
            received.last(),
            Some(&Received::Message(sent.message().unwrap()))
        );
        assert_eq!(frame.entries(), sent.entries());
        assert_eq!(received.len(), if cut == 1 { 1 } else { 2 }, "cut at {cut}");
    }
}

#[test]
fn every_flipped_bit_is_found() {
    let line = bytes(&request(function::RESERVE, 3));
    for bit in 8..(line.len() - 1) * 8 {
        let mut line = line.clone();
        line[bit / 8] ^= 1 << (bit % 8);
        let (received, _) = receive(&line);
        let is_none = |received: &Received| matches!(received, Received::Malformed { .. });
        assert!(received.iter().all(is_none), "bit {bit}: {received:?}");
    }
}

#[test]
fn what_is_too_long_ends_at_its_flag() {
    let mut line = Vec::from([FLAG, Kind::Request as u8]);
    line.resize(3 * MAX_BYTES, 0);
    line.extend(bytes(&request(function::TARGET, 0)));
    let (received, _) = receive(&line);
    assert_eq!(received[0], Received::Malformed { is_request: true });
    assert!(matches!(received[1], Received::Message(_)));
}

#[test]
fn lengths_fit_functions() {
    let mut frame = request(function::RESERVE, 4);
    let mut message = frame.message().unwrap();
    message.registers[0] = 5;
    frame.set(message, 4);
    assert_eq!(frame.message(), None);
    message.function = function::TARGET;
    frame.set(message, 4);
    assert_eq!(frame.message(), None);
    let answer = Message {
        kind: Kind::Answer,
        function: function::RESERVE,
        registers: [0, 4, 0, 0],
        ..message
    };
    frame.set(answer, 4);
    assert_eq!(frame.message(), Some(answer));
    frame.entries_mut()[0] = Entry(frame.entries()[0]).with_status(EntryStatus::Done).0;
    assert_eq!(receive(&bytes(&frame)).0, [Received::Message(answer)]);
}

#[test]
fn kinds_differ_in_more_than_a_bit() {
    let kinds = [Kind::Request, Kind::Answer, Kind::Event, Kind::Malformed];
    for (index, one) in kinds.into_iter().enumerate() {
        assert_eq!(Kind::new(one as u8), Some(one));
        for other in kinds.into_iter().skip(index + 1) {
            assert!((one as u8 ^ other as u8).count_ones() > 1);
        }
    }
}
