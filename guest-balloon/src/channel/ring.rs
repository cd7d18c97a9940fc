//! A queue of messages in shared memory, from one producer to one consumer.
//!
//! # Layout
//!
//! In 32-bit words, little-endian, from the start of a piece of shared memory:
//!
//! | word | written by | |
//! |---|---|---|
//! | 0 | producer | *head*: words ever written, modulo 2^32 |
//! | 16 | consumer | *tail*: words ever read, modulo 2^32 |
//! | 32 and on | producer | the data: as many words as the largest power of two that fits |
//!
//! Word *n* of the stream is at data word *n* modulo the data's size. A message is a word with its length in bytes
//! and its bytes, the last word filled up. Memory of zeros is an empty queue: nothing is to be initialised, and a
//! guest that was reset goes on where its last life has stopped.
//!
//! Head and data on the one hand and the tail on the other may lie in different pieces, so that each side can be
//! without the right to write what is the other's: with one channel that only A writes and one that only B
//! writes, the queue from A to B has its head and data in the first and its tail in the second, and the queue from B
//! to A the other way round.
//!
//! # Trust
//!
//! Each side keeps its own position to itself and only publishes it. What the other side publishes is checked:
//! whatever it writes, nothing is read or written outside the memory, and no call takes longer than its
//! message.

use core::sync::atomic::{AtomicU32, Ordering, fence};

/// Words before the data.
pub const HEADER_WORDS: usize = 32;
/// Word of the head.
const HEAD: usize = 0;
/// Word of the tail: in a cache line of its own.
const TAIL: usize = 16;

/// Why a message was not moved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RingError {
    /// It does not fit: into the queue, ever, or into the buffer. Nothing was moved.
    TooLong,
    /// The queue has no room for it now.
    Full,
    /// What the other side has written makes no sense. The consumer may go on with [`Consumer::discard`].
    Corrupt,
}

/// Whether the consumer may be asleep.
#[must_use = "a consumer that sleeps does not see the message before the doorbell rings"]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Notify {
    /// It had read everything: ring.
    Ring,
    /// It has not read the last message yet, and will find this one behind it.
    Quiet,
}

/// Head, tail and data of one queue.
#[derive(Clone, Copy, Debug)]
struct Parts<'m> {
    head: &'m AtomicU32,
    tail: &'m AtomicU32,
    data: &'m [AtomicU32],
}

impl<'m> Parts<'m> {
    fn new(producers: &'m [AtomicU32], consumers: &'m [AtomicU32]) -> Option<Self> {
        let room = producers.len().checked_sub(HEADER_WORDS)?;
        // 2^30 words at most, so that positions never overtake each other unseen.
        let words = 1 << room.checked_ilog2()?.min(30);
        Some(Self {
            head: producers.get(HEAD)?,
            tail: consumers.get(TAIL)?,
            data: producers.get(HEADER_WORDS..HEADER_WORDS + words)?,
        })
    }

    #[allow(clippy::cast_possible_truncation, reason = "at most 2^30")]
    const fn capacity(&self) -> u32 {
        self.data.len() as u32
    }

    /// Word `at` of the stream.
    fn word(&self, at: u32) -> &'m AtomicU32 {
        // The length is a power of two.
        &self.data[at as usize & (self.data.len() - 1)]
    }
}

/// Words of a message of `bytes` bytes, its length included; beyond 2^32 for one that is too long.
const fn words(bytes: u64) -> u64 {
    1 + bytes.div_ceil(4)
}

/// The side that writes messages.
#[derive(Debug)]
pub struct Producer<'m> {
    parts: Parts<'m>,
    at: u32,
}

impl<'m> Producer<'m> {
    /// The queue with head and data in `producers`, which this guest can write, and the tail in `consumers`: the same
    /// memory, if both can write it. `None` if that is too small.
    #[must_use]
    pub fn new(producers: &'m [AtomicU32], consumers: &'m [AtomicU32]) -> Option<Self> {
        let parts = Parts::new(producers, consumers)?;
        let at = parts.head.load(Ordering::Relaxed);
        Some(Self { parts, at })
    }

    /// Longest message, in bytes.
    #[must_use]
    pub const fn longest(&self) -> usize {
        (self.parts.data.len() - 1) * 4
    }

    /// Writes a message.
    ///
    /// # Errors
    /// See [`RingError`].
    pub fn push(&mut self, message: &[u8]) -> Result<Notify, RingError> {
        let Parts { head, tail, .. } = self.parts;
        let capacity = self.parts.capacity();
        let need = u32::try_from(words(message.len() as u64)).map_err(|_| RingError::TooLong)?;
        if need > capacity {
            return Err(RingError::TooLong);
        }
        // Acquire: the consumer has read what is now written over.
        let used = self.at.wrapping_sub(tail.load(Ordering::Acquire));
        match capacity.checked_sub(used) {
            None => return Err(RingError::Corrupt),
            Some(free) if need > free => return Err(RingError::Full),
            Some(_) => {}
        }
        let first = self.at;
        let length = u32::try_from(message.len()).map_err(|_| RingError::TooLong)?;
        self.parts.word(first).store(length, Ordering::Relaxed);
        for (at, bytes) in (1..).zip(message.chunks(4)) {
            let mut word = [0; 4];
            word[..bytes.len()].copy_from_slice(bytes);
            let slot = self.parts.word(first.wrapping_add(at));
            slot.store(u32::from_ne_bytes(word), Ordering::Relaxed);
        }
        self.at = first.wrapping_add(need);
        // Release: the message before the head.
        head.store(self.at, Ordering::Release);
        // Head, then tail here; tail, then head in `pop`: at least one of the two sees the other's.
        fence(Ordering::SeqCst);
        let has_caught_up = tail.load(Ordering::Relaxed) == first;
        Ok(if has_caught_up {
            Notify::Ring
        } else {
            Notify::Quiet
        })
    }
}

/// The side that reads messages.
#[derive(Debug)]
pub struct Consumer<'m> {
    parts: Parts<'m>,
    at: u32,
}

impl<'m> Consumer<'m> {
    /// The queue with head and data in `producers` and the tail in `consumers`, which this guest can write. `None` if
    /// that is too small.
    #[must_use]
    pub fn new(producers: &'m [AtomicU32], consumers: &'m [AtomicU32]) -> Option<Self> {
        let parts = Parts::new(producers, consumers)?;
        let at = parts.tail.load(Ordering::Relaxed);
        Some(Self { parts, at })
    }

    /// Reads the next message to the start of `buffer` and gives its length. `None`: there is none, and whoever writes
    /// the next is told to ring.
    ///
    /// # Errors
    /// [`RingError::TooLong`]: the buffer is too short for it; it stays. [`RingError::Corrupt`].
    pub fn pop(&mut self, buffer: &mut [u8]) -> Result<Option<usize>, RingError> {
        let Some(used) = self.used() else {
            return Ok(None);
        };
        let length = self.parts.word(self.at).load(Ordering::Relaxed);
        let need = words(length.into());
        if used > self.parts.capacity() || need > used.into() {
            return Err(RingError::Corrupt);
        }
        let message = buffer
            .get_mut(..length as usize)
            .ok_or(RingError::TooLong)?;
        for (at, bytes) in (1..).zip(message.chunks_mut(4)) {
            let word = self
                .parts
                .word(self.at.wrapping_add(at))
                .load(Ordering::Relaxed);
            bytes.copy_from_slice(&word.to_ne_bytes()[..bytes.len()]);
        }
        // Within `used`, so it fits.
        #[allow(clippy::cast_possible_truncation)]
        self.publish(self.at.wrapping_add(need as u32));
        Ok(Some(length as usize))
    }

    /// Takes everything that is there for read, whatever it is.
    pub fn discard(&mut self) {
        let head = self.parts.head.load(Ordering::Acquire);
        self.publish(head);
    }

    /// Words that wait; `None` if none do.
    fn used(&self) -> Option<u32> {
        let waiting = || {
            // Acquire: the message after the head.
            let head = self.parts.head.load(Ordering::Acquire);
            Some(head.wrapping_sub(self.at)).filter(|used| *used != 0)
        };
        waiting().or_else(|| {
            // See `push`.
            fence(Ordering::SeqCst);
            waiting()
        })
    }

    fn publish(&mut self, at: u32) {
        self.at = at;
        // Release: what was read before the tail, which lets it be written over.
        self.parts.tail.store(at, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    fn memory(words: usize) -> Vec<AtomicU32> {
        (0..words).map(|_| AtomicU32::new(0)).collect()
    }

    fn pop(consumer: &mut Consumer<'_>) -> Option<Vec<u8>> {
        let mut buffer = [0; 256];
        let length = consumer.pop(&mut buffer).unwrap()?;
        Some(buffer[..length].to_vec())
    }

    #[test]
    fn messages_arrive_in_order_and_whole() {
        let memory = memory(HEADER_WORDS + 16);
        let mut producer = Producer::new(&memory, &memory).unwrap();
        let mut consumer = Consumer::new(&memory, &memory).unwrap();
        assert_eq!(pop(&mut consumer), None);
        assert_eq!(producer.push(b"one"), Ok(Notify::Ring));
        assert_eq!(producer.push(b""), Ok(Notify::Quiet));
        assert_eq!(producer.push(b"three three"), Ok(Notify::Quiet));
        assert_eq!(pop(&mut consumer).unwrap(), b"one");
        assert_eq!(producer.push(b"4444"), Ok(Notify::Quiet));
        for expected in [&b""[..], b"three three", b"4444"] {
            assert_eq!(pop(&mut consumer).unwrap(), expected);
        }
        assert_eq!(pop(&mut consumer), None);
        assert_eq!(producer.push(b"again"), Ok(Notify::Ring));
    }

    #[test]
    fn what_does_not_fit_is_refused_and_changes_nothing() {
        // 20 words of room: 16 of data.
        let memory = memory(HEADER_WORDS + 20);
        let mut producer = Producer::new(&memory, &memory).unwrap();
        let mut consumer = Consumer::new(&memory, &memory).unwrap();
        assert_eq!(producer.longest(), 60);
        assert_eq!(producer.push(&[7; 61]), Err(RingError::TooLong));
        assert_eq!(producer.push(&[7; 60]), Ok(Notify::Ring));
        assert_eq!(producer.push(b""), Err(RingError::Full));
        assert_eq!(consumer.pop(&mut [0; 59]), Err(RingError::TooLong));
        assert_eq!(pop(&mut consumer).unwrap(), [7; 60]);
        assert!(Producer::new(&memory[..HEADER_WORDS], &memory).is_none());
        assert!(Producer::new(&memory, &memory[..TAIL]).is_none());
    }

    /// With one piece for each writer, both ways at once.
    #[test]
    fn each_side_writes_only_its_own_piece() {
        let (a, b) = (memory(64), memory(64));
        let (mut to_b, mut from_b) = (
            Producer::new(&a, &b).unwrap(),
            Consumer::new(&b, &a).unwrap(),
        );
        let (mut to_a, mut from_a) = (
            Producer::new(&b, &a).unwrap(),
            Consumer::new(&a, &b).unwrap(),
        );
        for round in 0..100_u32 {
            let _ = to_b.push(&round.to_le_bytes()).unwrap();
            let _ = to_a.push(&(!round).to_le_bytes()).unwrap();
            assert_eq!(pop(&mut from_a).unwrap(), round.to_le_bytes());
            assert_eq!(pop(&mut from_b).unwrap(), (!round).to_le_bytes());
        }
    }

    /// A side that starts anew goes on where it was.
    #[test]
    fn a_restart_loses_nothing() {
        let memory = memory(64);
        let mut producer = Producer::new(&memory, &memory).unwrap();
        for text in [b"one", b"two"] {
            let _ = producer.push(text).unwrap();
        }
        let mut consumer = Consumer::new(&memory, &memory).unwrap();
        assert_eq!(pop(&mut consumer).unwrap(), b"one");
        let mut producer = Producer::new(&memory, &memory).unwrap();
        assert_eq!(producer.push(b"six"), Ok(Notify::Quiet));
        let mut consumer = Consumer::new(&memory, &memory).unwrap();
        assert_eq!(pop(&mut consumer).unwrap(), b"two");
        assert_eq!(pop(&mut consumer).unwrap(), b"six");
    }

    #[test]
    fn positions_wrap() {
        let memory = memory(64);
        for word in [HEAD, TAIL] {
            memory[word].store(u32::MAX - 2, Ordering::Relaxed);
        }
        let mut producer = Producer::new(&memory, &memory).unwrap();
        let mut consumer = Consumer::new(&memory, &memory).unwrap();
        for round in 0..20_u8 {
            assert_eq!(producer.push(&[round; 9]), Ok(Notify::Ring));
            assert_eq!(pop(&mut consumer).unwrap(), [round; 9]);
        }
    }

    /// Both sides in threads, with no doorbell but where `push` asks for one.
    #[test]
    fn no_message_waits_for_a_doorbell_that_was_not_rung() {
        const MESSAGES: u64 = if cfg!(miri) { 100 } else { 20_000 };
        let memory = memory(HEADER_WORDS + 64);
        let (bell, hear) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let bell = bell;
                let mut producer = Producer::new(&memory, &memory).unwrap();
                for number in 0..MESSAGES {
                    let message = vec![number as u8; 1 + number as usize % 40];
                    loop {
                        match producer.push(&message) {
                            Ok(Notify::Ring) => bell.send(()).unwrap(),
                            Ok(Notify::Quiet) => {}
                            Err(RingError::Full) => {
                                std::thread::yield_now();
                                continue;
                            }
                            Err(error) => panic!("{error:?}"),
                        }
                        break;
                    }
                }
            });
            scope.spawn(|| {
                let hear = hear;
                let mut consumer = Consumer::new(&memory, &memory).unwrap();
                for number in 0..MESSAGES {
                    let message = loop {
                        match pop(&mut consumer) {
                            Some(message) => break message,
                            // Sleeps until it rings: an error would be a lost doorbell.
                            None => hear
                                .recv_timeout(std::time::Duration::from_secs(20))
                                .unwrap(),
                        }
                    };
                    assert_eq!(message, vec![number as u8; 1 + number as usize % 40]);
                }
            });
        });
    }

    proptest! {
        /// Against a plain queue.
        #[test]
        fn behaves_as_a_queue(
            start in any::<u32>(),
            steps in prop::collection::vec(prop::option::of(prop::collection::vec(any::<u8>(), 0..70)), 0..200),
        ) {
            let memory = memory(HEADER_WORDS + 32);
            memory[HEAD].store(start, Ordering::Relaxed);
            memory[TAIL].store(start, Ordering::Relaxed);
            let mut producer = Producer::new(&memory, &memory).unwrap();
            let mut consumer = Consumer::new(&memory, &memory).unwrap();
            let mut model: VecDeque<Vec<u8>> = VecDeque::new();
            let cost = |message: &Vec<u8>| 1 + message.len().div_ceil(4);
            for step in steps {
                match step {
                    Some(message) => {
                        let used: usize = model.iter().map(cost).sum();
                        let fits = used + cost(&message) <= 32;
                        let pushed = producer.push(&message);
                        if fits {
                            let expected = if model.is_empty() { Notify::Ring } else { Notify::Quiet };
                            prop_assert_eq!(pushed, Ok(expected));
                            model.push_back(message);
                        } else {
                            prop_assert_eq!(pushed, Err(RingError::Full));
                        }
                    }
                    None => prop_assert_eq!(pop(&mut consumer), model.pop_front()),
                }
            }
        }

        /// Whatever the other side has written: an answer, and no harm.
        #[test]
        fn survives_anything_in_the_memory(words in prop::collection::vec(any::<u32>(), 64..80), near in any::<bool>()) {
            let memory: Vec<AtomicU32> = words.iter().copied().map(AtomicU32::new).collect();
            if near {
                memory[HEAD].store(words[TAIL].wrapping_add(words[HEAD] % 40), Ordering::Relaxed);
            }
            let mut consumer = Consumer::new(&memory, &memory).unwrap();
            let mut buffer = [0; 64];
            for _ in 0..40 {
                if consumer.pop(&mut buffer).is_err() {
                    consumer.discard();
                }
            }
            prop_assert_eq!(consumer.pop(&mut buffer), Ok(None));
            let mut producer = Producer::new(&memory, &memory).unwrap();
            let _ = producer.push(&[1; 8]);
        }
    }
}
