//! Calls of several guests, of one guest's two cores, aborts and scrubbing, all at once.

use core::sync::atomic::{AtomicBool, Ordering};

use ballast_abi::{Entry, Status, function};

use super::world::*;
use crate::addr::{Ipa, PAGE_SIZE};
use crate::balloon::hw::Window;
use crate::balloon::idle::scrub_step;
use crate::stage2::Verdict;

const GUESTS: usize = 2;
const CALLS: u64 = 50;
/// The ticket lock is for cores, not for more threads than there are cores.
const PAUSE: core::time::Duration = core::time::Duration::from_micros(50);

/// A small generator, so that every thread goes its own way.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.0 >> 33) % sides
    }

    /// Anything but the first 64 KiB of block 1, and block 0.
    fn entry(&mut self) -> Entry {
        match self.roll(4) {
            0 => block(2),
            1 => run(528 + 16 * self.roll(63)),
            _ => page(528 + self.roll(1008)),
        }
    }
}

/// Calls at random, each thread with lists at a page of its own; the list page is read when it may be
/// another thread's list, which is what a hostile guest would do too.
fn storm(guest: &Guest, pool: &spin::mutex::TicketMutex<crate::frames::Pool>, seed: u64) -> u64 {
    let (mut dice, mut hw, mut busy) = (Dice(seed), guest.hw.clone(), 0);
    let list = guest.memory.stage2.translate(&mut hw, RAM).unwrap();
    for _ in 0..CALLS {
        let words: Vec<u64> = (0..1 + dice.roll(40)).map(|_| dice.entry().0).collect();
        hw.write_page(list, &words);
        let function = if dice.roll(2) == 0 {
            function::RESERVE
        } else {
            function::RELEASE
        };
        let args = [words.len() as u64, guest.epoch, 0, 0];
        let outcome = guest.memory.call(pool, &mut hw, function, args).unwrap();
        match status(outcome) {
            Status::Success => assert!(outcome.registers[1] <= args[0]),
            Status::Busy => busy += 1,
            other => panic!("{other:?}"),
        }
    }
    busy
}

/// H8, H9: whatever meets, each frame has one owner at the end.
#[test]
fn calls_scrubbing_and_aborts_at_once() {
    let mut world = world(8, &[(2, 3, 0); GUESTS]);
    for guest in 0..GUESTS {
        world.hello(guest);
        world.set_target(guest, 3 * 512);
    }
    let over = AtomicBool::new(false);
    let World { pool, guests, .. } = &world;
    std::thread::scope(|scope| {
        let storms: Vec<_> = (0..2 * GUESTS)
            .map(|thread| scope.spawn(move || storm(&guests[thread % GUESTS], pool, thread as u64)))
            .collect();
        scope.spawn(|| {
            let mut hw = guests[0].hw.clone();
            while !over.load(Ordering::Relaxed) {
                scrub_step(pool, &mut hw, 7);
                std::thread::sleep(PAUSE);
            }
        });
        scope.spawn(|| {
            // What is never reserved is always the guest's, though its block is split, its table moves and
            // is merged away.
            let mut hw = guests[1].hw.clone();
            while !over.load(Ordering::Relaxed) {
                for number in 512..528 {
                    let verdict = guests[1]
                        .memory
                        .stage2
                        .judge(&mut hw, Ipa(RAM.0 + number * PAGE_SIZE));
                    assert_eq!(verdict, Verdict::Refault);
                }
                std::thread::sleep(PAUSE);
            }
        });
        for storm in storms {
            storm.join().unwrap();
        }
        over.store(true, Ordering::Relaxed);
    });
    let splits: u64 = world
        .guests
        .iter()
        .map(|guest| guest.memory.stats.splits.get())
        .sum();
    assert!(splits > 0);
    world.check();
    for guest in 0..GUESTS {
        assert_eq!(world.rebuild(guest, 0), 0);
    }
    world.scrub_all();
    let counts = *world.pool.lock().counts();
    assert_eq!(counts.zero, counts.total);
}
