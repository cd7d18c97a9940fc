//! The port with a real guest's memory behind it and the real driver core before it.

use std::collections::VecDeque;

use ballast_abi::{Entry, EntryStatus, LIST_ENTRIES, Order, feature};
use ballast_balloon::{Clock, Driver, Hypercall, Next, PageSource, Taken};
use proptest::prelude::*;

use super::*;
use crate::addr::BLOCK_SIZE;
use crate::balloon::tests::world::{RAM, World, block, world};

const DR: u32 = 0;
const FR: u32 = 0x18;
const RXFE: u64 = 1 << 4;
const TXFF: u64 = 1 << 5;

/// A guest's program, its UART driver and the port.
struct Line {
    world: World,
    port: MessagePort,
    receiver: Receiver,
    frame: Frame,
    tag: u16,
    events: usize,
    malformed: usize,
    /// Most pieces that one request took.
    pieces: usize,
    entries: [Entry; LIST_ENTRIES],
    free: Vec<u64>,
    held: Vec<u64>,
    now: u64,
}

impl Line {
    /// The only guest has `blocks` of 2 MiB, all of them at boot.
    fn new(blocks: u64) -> Self {
        Self {
            world: world(blocks + 1, &[(blocks, blocks, 1)]),
            port: MessagePort::new(),
            receiver: Receiver::new(),
            frame: frame(FRAME_WORDS),
            tag: 0,
            events: 0,
            malformed: 0,
            pieces: 0,
            entries: [Entry(0); LIST_ENTRIES],
            free: (1..blocks).map(|n| RAM.0 + n * BLOCK_SIZE).collect(),
            held: Vec::new(),
            now: 0,
        }
    }

    /// What the shell does after each access.
    fn work(&mut self) {
        let mut pieces = 0;
        while let Some(mut work) = self.port.take_work() {
            pieces += 1;
            let guest = &mut self.world.guests[0];
            let step = work.step(&guest.memory, &self.world.pool, &mut guest.hw);
            self.port.put_back(work, step.is_done);
            let pending = guest.memory.has_messages() && guest.memory.target.is_pending();
            self.port.set_target_pending(pending);
        }
        self.pieces = self.pieces.max(pieces);
    }

    fn notify(&mut self) {
        let memory = &self.world.guests[0].memory;
        let pending = memory.has_messages() && memory.target.is_pending();
        self.port.set_target_pending(pending);
    }

    fn write(&mut self, byte: u8) {
        self.port.write(DR, Width::Byte, byte.into());
        self.work();
    }

    fn read(&mut self) -> Option<u8> {
        if self.port.read(FR, Width::Word) & RXFE != 0 {
            return None;
        }
        Some(self.port.read(DR, Width::Word) as u8)
    }

    /// Reads all there is; the last answer.
    fn listen(&mut self) -> Option<Message> {
        let mut answer = None;
        while let Some(byte) = self.read() {
            match self.receiver.push(&mut self.frame, byte) {
                None => {}
                Some(Received::Message(message)) => match message.kind {
                    Kind::Answer => {
                        answer = Some(message);
                        for (entry, word) in self.entries.iter_mut().zip(self.frame.entries()) {
                            *entry = Entry(*word);
                        }
                    }
                    Kind::Event => self.events += 1,
                    Kind::Malformed => self.malformed += 1,
                    Kind::Request => panic!("a request from Ballast"),
                },
                Some(Received::Malformed { .. }) => panic!("Ballast sent a malformed frame"),
            }
        }
        answer
    }

    fn request(&mut self, function: u32, registers: [u64; 4]) -> Vec<u8> {
        self.tag = self.tag.wrapping_add(1);
        let mut frame = super::frame(FRAME_WORDS);
        let entries = if has_entries(function) {
            registers[0] as usize
        } else {
            0
        };
        for (word, entry) in frame.room().iter_mut().zip(self.entries).take(entries) {
            *word = entry.0;
        }
        let message = Message {
            kind: Kind::Request,
            tag: self.tag,
            function,
            registers,
        };
        frame.set(message, entries);
        bytes(&frame)
    }

    fn ask(&mut self, function: u32, registers: [u64; 4]) -> [u64; 4] {
        for byte in self.request(function, registers) {
            // As any driver: reads when its transmitter is full.
            if self.port.read(FR, Width::Word) & TXFF != 0 {
                self.listen();
            }
            self.write(byte);
        }
        let answer = self.listen().expect("an answer");
        assert_eq!((answer.tag, answer.function), (self.tag, function));
        answer.registers
    }

    /// Runs the driver until it rests.
    fn run(&mut self, driver: &mut Driver) {
        for _ in 0..10_000 {
            self.notify();
            self.listen();
            if core::mem::take(&mut self.events) > 0 {
                driver.on_interrupt(self);
            }
            match driver.step(self) {
                Next::Idle if self.events == 0 => return,
                Next::Idle | Next::Again => {}
                Next::WaitUntil(at) => self.now = at,
            }
            self.now += 1;
        }
        panic!("the driver does not come to rest");
    }
}

fn bytes(frame: &Frame) -> Vec<u8> {
    let mut sender = Sender::new();
    core::iter::from_fn(|| sender.next(frame)).collect()
}

impl Hypercall for Line {
    fn call_with(&mut self, function: u32, arguments: [u64; 4]) -> [u64; 4] {
        let mut answer = self.ask(function, arguments);
        if function == function::FEATURES {
            answer[1] |= feature::WHOLE_BLOCKS;
        }
        answer
    }

    fn list_ipa(&self) -> u64 {
        0
    }

    fn entry(&self, index: usize) -> Entry {
        self.entries[index]
    }

    fn set_entry(&mut self, index: usize, entry: Entry) {
        self.entries[index] = entry;
    }
}

impl PageSource for Line {
    fn headroom_pages(&mut self) -> u64 {
        self.free.len() as u64 * 512
    }

    fn take(&mut self, order: Order, ipas: &mut [u64]) -> Taken {
        assert_eq!(order, Order::Block);
        let runs = ipas.len().min(self.free.len());
        for (ipa, free) in ipas.iter_mut().zip(self.free.drain(..runs)) {
            *ipa = free;
        }
        Taken {
            runs,
            strained: false,
        }
    }

    fn give(&mut self, ipa: u64, _: Order) {
        self.free.push(ipa);
    }

    fn hold(&mut self, ipa: u64, order: Order) {
        assert_eq!(order, Order::Block);
        self.held.push(ipa);
    }

    fn pick(&mut self, order: Order) -> Option<u64> {
        self.held.pop().filter(|_| order == Order::Block)
    }

    fn ram(&self, index: usize) -> Option<(u64, u64)> {
        let pages = self.world.guests[0].memory.max_pages();
        (index == 0).then_some((RAM.0, pages))
    }
}

impl Clock for Line {
    fn now(&self) -> u64 {
        self.now
    }

    fn ticks_per_second(&self) -> u64 {
        1_000_000
    }
}

#[test]
fn the_driver_follows_its_target_over_the_line() {
    let mut line = Line::new(40);
    let mut driver = Driver::new(&line);
    driver.hello(&mut line).unwrap();
    for reserved in [30, 7, 39, 0] {
        line.world.set_target(0, (40 - reserved) * 512);
        line.run(&mut driver);
        assert_eq!(driver.reserved_pages(), reserved * 512);
        assert_eq!(line.held.len() as u64, reserved);
        line.world.check();
    }
    assert!(line.pieces > 1, "scrubbing takes more than one piece");
    assert_eq!(line.world.touch_all(0), Ok(40 * 512));
}

#[test]
fn a_successor_adopts_what_its_predecessor_held() {
    let mut line = Line::new(20);
    let mut driver = Driver::new(&line);
    driver.hello(&mut line).unwrap();
    line.world.set_target(0, 8 * 512);
    line.run(&mut driver);
    // Killed in the middle of a request.
    let request = line.request(function::RELEASE, [12, driver.epoch(), 0, 0]);
    for byte in &request[..request.len() / 2] {
        line.write(*byte);
    }
    line.held.clear();
    let mut successor = Driver::new(&line);
    successor.hello(&mut line).unwrap();
    assert_eq!((successor.reserved_pages(), line.malformed), (12 * 512, 1));
    line.world.set_target(0, 20 * 512);
    line.run(&mut successor);
    assert_eq!(successor.reserved_pages(), 0);
    // The first one is out: its epoch is over.
    let answer = line.ask(function::RESERVE, [1, driver.epoch(), 0, 0]);
    assert_eq!(Status::from_register(answer[0]), Some(Status::WrongEpoch));
}

#[test]
fn hypercalls_and_messages_are_told_apart() {
    let mut line = Line::new(4);
    let [_, epoch, ..] = line.ask(function::HELLO, [0; 4]);
    let hvc = line.world.call(0, function::RESERVE, [1, epoch, 0, 0]);
    assert_eq!(hvc.registers[0], Status::Denied.to_register());
    line.world.hello(0);
    assert!(!line.world.guests[0].memory.has_messages());
    line.entries[0] = block(1);
    let epoch = line.world.guests[0].epoch;
    let by_message = line.ask(function::RESERVE, [1, epoch, 0, 0]);
    assert_eq!(by_message[0], Status::Denied.to_register());
    // A list page means nothing here.
    let hello = line.ask(function::HELLO, [RAM.0, 0, 0, 0]);
    assert_eq!(hello[0], Status::InvalidAddress.to_register());
    let unknown = line.ask(0xc600_0fff, [0; 4]);
    assert_eq!(unknown[0], Status::NotSupported.to_register());
}

#[test]
fn what_is_done_before_a_failure_is_told() {
    let mut line = Line::new(8);
    let [_, epoch, ..] = line.ask(function::HELLO, [0; 4]);
    line.world.set_target(0, 2 * 512);
    for (index, number) in [1, 2, 2, 3].into_iter().enumerate() {
        line.entries[index] = block(number);
    }
    let answer = line.ask(function::RESERVE, [4, epoch, 0, 0]);
    assert_eq!(answer, [0, 4, 3 * 512, 0]);
    let statuses: Vec<_> = line.entries[..4].iter().map(|e| e.status()).collect();
    use EntryStatus::{Done, NotBacked};
    assert_eq!(
        statuses,
        [Some(Done), Some(Done), Some(NotBacked), Some(Done)]
    );
}

#[test]
fn events_come_once_for_each_fetch() {
    let mut line = Line::new(4);
    // Nobody has said hello: nothing is said to whoever may be there.
    line.world.set_target(0, 3 * 512);
    line.notify();
    line.listen();
    assert_eq!(line.events, 0);
    line.ask(function::HELLO, [0; 4]);
    line.ask(function::TARGET, [0; 4]);
    line.events = 0;
    for pages in [2 * 512, 3 * 512, 512] {
        line.world.set_target(0, pages);
        line.notify();
    }
    line.listen();
    assert_eq!(line.events, 1);
    assert_eq!(line.ask(function::TARGET, [0; 4])[1], 3 * 512);
    line.world.set_target(0, 4 * 512);
    line.notify();
    line.listen();
    assert_eq!(line.events, 2);
}

#[test]
fn the_transmitter_is_full_while_an_answer_waits() {
    let mut line = Line::new(4);
    let [_, epoch, ..] = line.ask(function::HELLO, [0; 4]);
    // Its answer does not fit into the guest's FIFO.
    let request = line.request(function::RESERVE, [20, epoch, 0, 0]);
    request.iter().for_each(|&byte| line.write(byte));
    let mut taken = 0;
    while line.port.read(FR, Width::Word) & TXFF == 0 {
        line.write(0);
        taken += 1;
        assert!(taken < 100, "nobody is held back");
    }
    assert!(line.listen().is_some());
    assert_eq!(line.port.read(FR, Width::Word) & TXFF, 0);
}

#[test]
fn what_a_former_life_was_at_does_not_come_back() {
    let mut line = Line::new(2);
    for byte in line.request(function::VERSION, [0; 4]) {
        line.port.write(DR, Width::Byte, byte.into());
    }
    let work = line.port.take_work().unwrap();
    line.port.reset();
    line.port.put_back(work, true);
    assert_eq!(line.read(), None);
    assert_eq!(line.ask(function::VERSION, [0; 4])[0], 0);
}

/// Not even while the new life is at a request of its own.
#[test]
fn what_a_former_life_was_at_does_not_answer_the_next() {
    let mut line = Line::new(2);
    for byte in line.request(function::UID, [0; 4]) {
        line.port.write(DR, Width::Byte, byte.into());
    }
    let former = line.port.take_work().unwrap();
    line.port.reset();
    for byte in line.request(function::VERSION, [0; 4]) {
        line.port.write(DR, Width::Byte, byte.into());
    }
    let mut present = line.port.take_work().unwrap();
    line.port.put_back(former, true);
    assert_eq!(line.read(), None, "it is answered before it is done");
    let guest = &mut line.world.guests[0];
    let step = present.step(&guest.memory, &line.world.pool, &mut guest.hw);
    line.port.put_back(present, step.is_done);
    let answer = line.listen().unwrap();
    assert_eq!(answer.function, function::VERSION);
}

#[test]
fn an_echo_is_not_answered() {
    let mut line = Line::new(4);
    line.ask(function::HELLO, [0; 4]);
    line.world.set_target(0, 512);
    line.notify();
    line.write(0x7e);
    for byte in line
        .request(function::TARGET, [0; 4])
        .split_last()
        .unwrap()
        .1
    {
        line.write(*byte);
    }
    line.write(0x55);
    line.write(0x7e);
    let mut echoed = 0;
    while let Some(byte) = line.read() {
        line.write(byte);
        echoed += 1;
        assert!(echoed < 1000, "the echo goes round for ever");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Any bytes at all, in between well-formed requests of any content: a request behind them is answered.
    #[test]
    fn garbage_is_survived(
        garbage in prop::collection::vec(
            prop_oneof![any::<u8>(), Just(0x7e), Just(0x7d), Just(Kind::Request as u8)], 0..600),
        function in prop_oneof![any::<u32>(), 0xc600_0000_u32..0xc600_0012],
        registers in any::<[u64; 4]>(),
        entries in prop::collection::vec(any::<u64>(), 0..40),
    ) {
        let mut line = Line::new(6);
        let mut unread = VecDeque::new();
        for byte in garbage {
            line.write(byte);
            unread.extend(line.read());
        }
        line.listen();
        let mut frame = super::frame(FRAME_WORDS);
        let count = if has_entries(function) { entries.len() } else { 0 };
        frame.room()[..entries.len()].copy_from_slice(&entries);
        let mut wild = Message { kind: Kind::Request, tag: 7, function, registers };
        if has_entries(function) {
            wild.registers[0] = count as u64;
        }
        frame.set(wild, count);
        line.write(0x7e);
        line.listen();
        for byte in bytes(&frame) {
            line.write(byte);
        }
        let answer = line.listen();
        prop_assert_eq!(answer.map(|answer| answer.tag), Some(7));
        prop_assert!(line.frame.entries().len() <= LIST_ENTRIES - HEAD_WORDS);
        line.world.check();
    }
}
