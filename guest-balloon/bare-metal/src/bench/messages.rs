//! The balloon interface as messages: what a driver without hypercalls costs, and the longest it is away in EL2.
//!
//! One core, polling. Each access to the UART is timed, and so is what comes between two of them: pieces of a request
//! after its first are done when EL2's timer fires.

use ballast_balloon::abi::message::{
    FRAME_WORDS, Frame, Kind, Message, Received, Receiver, Sender,
};
use ballast_balloon::abi::{Entry, EntryStatus, Order, function};

use super::Results;
use crate::machine::Machine;
use crate::mmio::Mmio;
use crate::pages::State;
use crate::tests::{Outcome, Why, why};
use crate::uart::pl011::{CR, CR_ON, DR, FR, FR_RXFE, FR_TXFF, LCR_H, LCR_H_FEN};
use crate::{ensure, ram};

/// The second PL011 of a generic guest with `user-balloon`.
const UART: u64 = 0x0904_0000;
/// 2 MiB blocks moved, 128 MiB in all, often enough to use up what is zeroed.
const BLOCKS: usize = 64;
const ROUNDS: usize = 8;
/// Accesses that one request may take.
const MOST: u64 = 20_000_000;

type Words = [u64; FRAME_WORDS];

struct Port {
    uart: Mmio,
    frame: Frame<Words>,
    now: u64,
    /// Accesses so far, and the longest time between two counter reads.
    accesses: u64,
    longest: u64,
}

impl Port {
    fn new(results: &Results) -> Self {
        // SAFETY: the message port, by this guest's partition, which the caller is for.
        let uart = unsafe { Mmio::new(UART) };
        // FIFOs; UART, transmitter and receiver on.
        uart.write32(LCR_H, LCR_H_FEN | 3 << 5);
        uart.write32(CR, CR_ON);
        Self {
            uart,
            frame: Frame::new([0; FRAME_WORDS]),
            now: results.now(),
            accesses: 0,
            longest: 0,
        }
    }

    /// Since the last look.
    fn look(&mut self, results: &Results) {
        let now = results.now();
        self.longest = self.longest.max(now - self.now);
        self.now = now;
    }

    fn read(&mut self, results: &Results, register: usize) -> u32 {
        let value = self.uart.read32(register);
        self.accesses += 1;
        self.look(results);
        value
    }

    fn send(&mut self, results: &Results, byte: u8) {
        while self.read(results, FR) & FR_TXFF != 0 && self.accesses < MOST {}
        self.uart.write32(DR, byte.into());
        self.accesses += 1;
        self.look(results);
    }

    /// Makes a call; the answer's registers.
    fn ask(
        &mut self,
        results: &Results,
        function: u32,
        registers: [u64; 4],
        entries: &[Entry],
    ) -> Result<[u64; 4], Why> {
        let request = Message {
            kind: Kind::Request,
            tag: 1,
            function,
            registers,
        };
        for (word, entry) in self.frame.room().iter_mut().zip(entries) {
            *word = entry.0;
        }
        self.frame.set(request, entries.len());
        self.accesses = 0;
        self.now = results.now();
        let mut sender = Sender::new();
        while let Some(byte) = sender.next(&self.frame) {
            self.send(results, byte);
        }
        let mut receiver = Receiver::new();
        while self.accesses < MOST {
            if self.read(results, FR) & FR_RXFE != 0 {
                continue;
            }
            let byte = self.read(results, DR) as u8;
            match receiver.push(&mut self.frame, byte) {
                Some(Received::Message(answer)) if answer.kind == Kind::Answer => {
                    return Ok(answer.registers);
                }
                Some(Received::Malformed { .. }) => break,
                _ => {}
            }
        }
        Err(why(format_args!("no answer to {function:#x}")))
    }

    /// Moves all `blocks` one way.
    fn exchange(
        &mut self,
        results: &Results,
        function: u32,
        epoch: u64,
        blocks: &[Entry],
    ) -> Outcome {
        let count = blocks.len() as u64;
        let [status, consumed, pages, _] =
            self.ask(results, function, [count, epoch, 0, 0], blocks)?;
        ensure!(
            (status, consumed, pages) == (0, count, count * Order::Block.pages()),
            "{function:#x}: {status:#x}, {consumed} entries, {pages} pages"
        );
        let are_done = |word: &u64| Entry(*word).status() == Some(EntryStatus::Done);
        ensure!(
            self.frame.entries().iter().all(are_done),
            "{function:#x}: an entry is not done"
        );
        Ok(())
    }
}

/// The longest stay in EL2 while 128 MiB go to and fro in messages.
pub fn measure(machine: &Machine, results: &mut Results) -> Outcome {
    let mut pages = ram::allocator(machine).map_err(|text| why(format_args!("{text}")))?;
    let mut port = Port::new(results);
    let [status, epoch, ..] = port.ask(results, function::HELLO, [0; 4], &[])?;
    ensure!(status == 0, "HELLO: {status:#x}");
    let mut blocks = [Entry(0); BLOCKS];
    for block in &mut blocks {
        let picked = pages.pick(State::Free, Order::Block);
        let ipa = picked.ok_or_else(|| why(format_args!("give the guest more memory")))?;
        *block = Entry::new(ipa, Order::Block);
    }
    port.longest = 0;
    for _ in 0..ROUNDS {
        for call in [function::RESERVE, function::RELEASE] {
            port.exchange(results, call, epoch, &blocks)?;
        }
    }
    results.add("message_longest_stay", port.longest);
    Ok(())
}
