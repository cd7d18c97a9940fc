//! The second UART of a guest with `user-balloon`: the balloon interface as messages, for a driver that is an
//! ordinary program.
//!
//! The guest sees a PL011 like its console's, whose other end is [`ballast_abi::message`]. A request is complete with
//! its last byte; the access that brings it carries out its first piece ([`Work::step`]), and what is left comes in
//! further pieces, each within the bound of one hypercall, until the answer is there. From a request's last byte to
//! its answer's last one nothing more is taken from the guest: its transmitter is full, as on any line with flow
//! control. So there is one request at a time, and one buffer.
//!
//! What the guest writes is bytes like any others. Whatever they are, each costs a bounded handful of steps, and what
//! is no request is dropped, with an answer if it began as one.

use alloc::boxed::Box;
use alloc::vec;

use ballast_abi::message::{
    self, FRAME_WORDS, HEAD_WORDS, Kind, Message, Received, Receiver, Sender, has_entries,
};
use ballast_abi::{Status, function};
use spin::mutex::TicketMutex;

use crate::balloon::hw::Hardware;
use crate::balloon::{GuestMemory, Outcome};
use crate::console::{InputRing, OutputRing};
use crate::exit::Width;
use crate::frames::Pool;
use crate::pl011::{Effects, Pl011};

/// Bytes on their way to the guest: its FIFO. Each that it takes makes room for the next, so that more would only make
/// the exit longer that ends a piece of work.
const TO_GUEST: usize = 16;
/// Twice the bytes that can wait for the answer before them.
const FROM_GUEST: usize = 64;
/// Pieces in a row that got nowhere before the answer says so: another core of the guest is in the way.
const IDLE_MOST: u8 = 64;

type Frame = message::Frame<Box<[u64]>>;

/// Not by way of the stack, which it would fill.
fn frame(words: usize) -> Frame {
    Frame::new(vec![0; words].into_boxed_slice())
}

/// A request and how far it is.
#[derive(Debug)]
pub struct Work {
    frame: Frame,
    message: Message,
    /// Entries.
    consumed: usize,
    pages: u64,
    idle: u8,
    /// The port's life that it came in.
    life: u32,
}

/// What one piece came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Step {
    /// Of the hypercall it was; `None` if there is none of that number.
    pub outcome: Option<Outcome>,
    /// The answer is there.
    pub is_done: bool,
}

impl Work {
    fn new(frame: Frame, message: Message, life: u32) -> Self {
        Self {
            life,
            frame,
            message,
            consumed: 0,
            pages: 0,
            idle: 0,
        }
    }

    /// What is asked for.
    #[must_use]
    pub fn message(&self) -> Message {
        self.message
    }

    /// One piece, bounded as a hypercall is.
    pub fn step(
        &mut self,
        memory: &GuestMemory,
        pool: &TicketMutex<Pool>,
        hw: &mut impl Hardware,
    ) -> Step {
        let function = self.message.function;
        let mut arguments = self.message.registers;
        let entries = self.frame.entries_mut();
        let all = entries.len();
        let rest = entries.get_mut(self.consumed..).unwrap_or(&mut []);
        if has_entries(function) {
            arguments[0] = rest.len() as u64;
        }
        let outcome = memory.call_by_message(pool, hw, function, arguments, rest);
        let registers = outcome.map_or([Status::NotSupported.to_register(), 0, 0, 0], |outcome| {
            outcome.registers
        });
        if !has_entries(function) {
            self.answer(registers);
            return Step {
                outcome,
                is_done: true,
            };
        }
        let [status, consumed, pages, _] = registers;
        let consumed = usize::try_from(consumed).unwrap_or(0);
        self.consumed = self.consumed.saturating_add(consumed).min(all);
        self.pages = self.pages.saturating_add(pages);
        self.idle = if consumed == 0 {
            self.idle.saturating_add(1)
        } else {
            0
        };
        let may_go_on = matches!(
            Status::from_register(status),
            Some(Status::Success | Status::Busy)
        );
        let is_done = self.consumed == all || !may_go_on || self.idle >= IDLE_MOST;
        if is_done {
            // What was done must be known, even if the rest failed: that the next request shows.
            let status = if self.consumed > 0 {
                Status::Success.to_register()
            } else {
                status
            };
            self.answer([status, self.consumed as u64, self.pages, 0]);
        }
        Step { outcome, is_done }
    }

    fn answer(&mut self, registers: [u64; 4]) {
        let answer = Message {
            kind: Kind::Answer,
            registers,
            ..self.message
        };
        self.frame.set(answer, self.consumed);
    }
}

/// Whose turn it is.
#[derive(Debug)]
enum Turn {
    /// The guest's: a request comes in, in this room.
    Guest(Frame),
    /// Ballast's: it waits for its next piece.
    Waiting(Work),
    /// Ballast's: somebody is at a piece.
    Working,
    /// The answer goes out.
    Answer(Frame, Sender),
}

/// One guest's message port.
#[derive(Debug)]
pub struct MessagePort {
    uart: Pl011,
    receiver: Receiver,
    turn: Turn,
    event: Frame,
    /// An event on its way.
    event_sender: Option<Sender>,
    /// One is to follow.
    is_event_due: bool,
    /// The driver was told of the present target.
    is_told: bool,
    /// Resets so far.
    life: u32,
}

impl Default for MessagePort {
    fn default() -> Self {
        Self::new()
    }
}

impl MessagePort {
    /// A port in its reset state.
    #[must_use]
    pub fn new() -> Self {
        let mut event = frame(HEAD_WORDS + 1);
        event.set(Message::EVENT, 0);
        let to_guest = InputRing::new(TO_GUEST);
        Self {
            uart: Pl011::with_rings(OutputRing::new(FROM_GUEST), to_guest),
            receiver: Receiver::new(),
            turn: Turn::Guest(frame(FRAME_WORDS)),
            event,
            event_sender: None,
            is_event_due: false,
            is_told: false,
            life: 0,
        }
    }

    /// For a guest that starts anew. A piece that a parked core is still at is forgotten.
    pub fn reset(&mut self) {
        self.life = self.life.wrapping_add(1);
        while self.uart.output().pop().is_some() {}
        self.uart.reset();
        self.uart.output_taken();
        self.receiver = Receiver::new();
        let frame = match core::mem::replace(&mut self.turn, Turn::Working) {
            Turn::Guest(frame) | Turn::Answer(frame, _) | Turn::Waiting(Work { frame, .. }) => {
                frame
            }
            Turn::Working => self::frame(FRAME_WORDS),
        };
        self.turn = Turn::Guest(frame);
        self.event_sender = None;
        self.is_event_due = false;
        self.is_told = false;
    }

    /// A guest's load, as [`Pl011::read`].
    #[must_use]
    pub fn read(&mut self, offset: u32, width: Width) -> u64 {
        let value = self.uart.read(offset, width);
        self.pump();
        value
    }

    /// A guest's store, as [`Pl011::write`].
    pub fn write(&mut self, offset: u32, width: Width, value: u64) {
        self.uart.write(offset, width, value);
        self.pump();
    }

    /// The request that waits for its next piece. [`Self::put_back`] follows.
    pub fn take_work(&mut self) -> Option<Work> {
        match core::mem::replace(&mut self.turn, Turn::Working) {
            Turn::Waiting(work) => Some(work),
            other => {
                self.turn = other;
                None
            }
        }
    }

    /// After a piece: on with the answer, or another piece later.
    pub fn put_back(&mut self, work: Work, is_done: bool) {
        if work.life != self.life || !matches!(self.turn, Turn::Working) {
            // Of a life that is over: a parked core was at it when the guest was loaded anew, which may have a request
            // of its own under way by now.
            return;
        }
        if matches!(work.message.function, function::HELLO | function::TARGET) {
            // A target that was set since the fetch, and said to be known, is news.
            self.is_told = false;
        }
        self.turn = if is_done {
            Turn::Answer(work.frame, Sender::new())
        } else {
            Turn::Waiting(work)
        };
        self.pump();
    }

    /// Whether a request waits for its next piece.
    #[must_use]
    pub fn has_work(&self) -> bool {
        matches!(self.turn, Turn::Waiting(_))
    }

    /// Whether the driver has yet to fetch the target. It is told once for each time that it has.
    pub fn set_target_pending(&mut self, is_pending: bool) {
        self.is_event_due = is_pending && (self.is_event_due || !self.is_told);
        self.is_told = is_pending;
        self.pump();
    }

    /// What has changed since the last call, as [`Pl011::effects`].
    pub fn effects(&mut self) -> Effects {
        self.uart.effects()
    }

    /// Bytes go as far as there is room for them. What is in the two rings bounds the rounds.
    fn pump(&mut self) {
        while self.receive() || self.send() {}
        self.uart.output_taken();
    }

    /// Takes one byte from the guest, if it is its turn.
    fn receive(&mut self) -> bool {
        let Turn::Guest(frame) = &mut self.turn else {
            return false;
        };
        let Some(byte) = self.uart.output().pop() else {
            return false;
        };
        let answer = match self.receiver.push(frame, byte) {
            Some(Received::Message(message)) if message.kind == Kind::Request => Some(message),
            Some(Received::Malformed { is_request: true }) => None,
            // Nothing yet; or noise, or the line's own echo.
            _ => return true,
        };
        // The guest's turn is over: its room goes on as it is.
        if let Turn::Guest(mut frame) = core::mem::replace(&mut self.turn, Turn::Working) {
            self.turn = match answer {
                Some(message) => Turn::Waiting(Work::new(frame, message, self.life)),
                None => {
                    frame.set(Message::MALFORMED, 0);
                    Turn::Answer(frame, Sender::new())
                }
            };
        }
        true
    }

    /// Sends one byte to the guest: an event between two answers.
    fn send(&mut self) -> bool {
        if self.uart.input_room() == 0 {
            return false;
        }
        let is_answering = matches!(self.turn, Turn::Answer(..));
        if core::mem::take(&mut self.is_event_due) {
            if is_answering || self.event_sender.is_some() {
                self.is_event_due = true;
            } else {
                self.event_sender = Some(Sender::new());
            }
        }
        let byte = if let Some(sender) = &mut self.event_sender {
            let byte = sender.next(&self.event);
            if byte.is_none() {
                self.event_sender = None;
                return true;
            }
            byte
        } else if let Turn::Answer(frame, sender) = &mut self.turn {
            sender.next(frame)
        } else {
            return false;
        };
        match byte {
            Some(byte) => self.uart.type_byte(byte),
            None => {
                if let Turn::Answer(frame, _) = core::mem::replace(&mut self.turn, Turn::Working) {
                    self.turn = Turn::Guest(frame);
                }
                true
            }
        }
    }
}

#[cfg(test)]
mod tests;
