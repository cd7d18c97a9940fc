//! A guest that does as it should for a while and then does not: deaf, greedy, lying, touching what it gave away,
//! calling with nonsense, starting itself anew. What it does is random by its seed and the time; it says each thing before.

use core::sync::atomic::Ordering;

use ballast_balloon::abi::{Entry, LIST_ENTRIES, Status, function};
use ballast_balloon::{Driver, Hypercall, Next};

use super::balloon::register;
use super::{Outcome, why};
use crate::balloon::{self, Front};
use crate::exception::BALLOON_CALLS;
use crate::machine::Machine;
use crate::pages::State;
use crate::probe::{self, Random};
use crate::smccc::{self, psci};
use crate::{cpu, ensure, gic, println};

/// How long one manner lasts, in microseconds.
const LEAST_US: u64 = 500_000;
const MOST_US: u64 = 3_000_000;
/// Deaf for so long, it misses three deadlines.
const DEAF_US: u64 = 10_000_000;
/// Between two lies.
const LIE_EVERY_US: u64 = 20_000;

struct Rogue<'m> {
    machine: &'m Machine,
    front: Front,
    driver: Driver,
    random: Random,
}

/// Runs until it starts itself anew, for ever.
pub fn run(machine: &Machine) -> Outcome {
    let (front, driver) = register(machine)?;
    let seed = machine.arg_number("seed").unwrap_or(1);
    let mut rogue = Rogue {
        machine,
        front,
        driver,
        // Another each life.
        random: Random((seed ^ cpu::counter()) | 1),
    };
    loop {
        let us = LEAST_US + rogue.random.next() % (MOST_US - LEAST_US);
        match rogue.random.next() % 16 {
            0..4 => rogue.behaves(us)?,
            4..7 => rogue.lies(us),
            7..9 => rogue.is_greedy(us)?,
            9..11 => rogue.touches()?,
            11..13 => rogue.calls_nonsense()?,
            13 => rogue.is_deaf(us),
            14 => rogue.is_deaf(DEAF_US),
            _ => {
                println!("rogue: starts anew");
                psci::call(psci::function::SYSTEM_RESET, 0, 0, 0);
                return Err(why(format_args!("SYSTEM_RESET returned")));
            }
        }
    }
}

impl Rogue<'_> {
    /// Follows its target, and checks what it has.
    fn behaves(&mut self, us: u64) -> Outcome {
        println!("rogue: behaves");
        self.follow(us);
        balloon::audit(&mut self.front, &self.driver)
    }

    fn follow(&mut self, us: u64) {
        let end = cpu::counter() + us * cpu::frequency() / 1_000_000;
        while cpu::counter() < end {
            if BALLOON_CALLS.swap(false, Ordering::AcqRel) {
                self.driver.on_interrupt(&mut self.front);
                if let Some(node) = &self.machine.balloon {
                    gic::get().enable(node.interrupt);
                }
            }
            if self.driver.step(&mut self.front) != Next::Again {
                cpu::delay_us(1_000);
            }
        }
    }

    /// Says that it has nothing free and runs much, over and over, and takes what that brings.
    fn lies(&mut self, us: u64) {
        println!("rogue: lies");
        for _ in 0..us / LIE_EVERY_US {
            let load = 64_000 << 32 | 1000;
            smccc::hvc([function::REPORT.into(), 0, 0, load, u64::MAX]);
            self.follow(LIE_EVERY_US);
        }
    }

    /// Asks for memory as if in trouble, as fast as it is heard.
    fn is_greedy(&mut self, us: u64) -> Outcome {
        println!("rogue: is greedy");
        for _ in 0..us / 10_000 {
            self.driver.pressure(&mut self.front, u64::MAX >> 12);
            self.follow(5_000);
        }
        balloon::audit(&mut self.front, &self.driver)
    }

    /// Reads, writes and runs what it has given away: each is an abort, and so is none of what it has.
    fn touches(&mut self) -> Outcome {
        println!("rogue: touches what it gave");
        let held = self.front.pages.addresses(State::Held).step_by(61).take(64);
        for address in held {
            let read = probe::read(address, 8);
            // SAFETY: not backed, and of the allocator: no Rust object lies there.
            let written = unsafe { probe::write(address, 8, !0) };
            ensure!(
                read.is_err() && written.is_err(),
                "{address:#x} was given away: {read:?} {written:?}"
            );
        }
        Ok(())
    }

    /// Lists of nonsense, by the wrong epoch and by the right one.
    fn calls_nonsense(&mut self) -> Outcome {
        println!("rogue: calls with nonsense");
        for index in 0..LIST_ENTRIES {
            // Not a page of its own memory: bit 47 is beyond it.
            let word = self.random.next() | 1 << 47;
            self.front.set_entry(index, Entry(word));
        }
        for call in [function::RESERVE, function::RELEASE] {
            let stale = self.driver.epoch().wrapping_sub(1);
            let [x0, ..] = self.front.call(call, 512, stale);
            ensure!(
                Status::from_register(x0) == Some(Status::WrongEpoch),
                "{call:#x} by a stale epoch: {x0:#x}"
            );
            let [_, _, pages, _] = self.front.call(call, 512, self.driver.epoch());
            ensure!(pages == 0, "{call:#x} moved {pages} pages of nonsense");
        }
        for _ in 0..1000 {
            let [x1, x2, x3] = [(); 3].map(|()| self.random.next());
            // Not HELLO and GOODBYE, after which it would have no driver, and nothing that moves memory.
            let call = function::TARGET + 0x100 + x1 as u32 % 0x100;
            smccc::hvc([call.into(), x1, x2, x3, 0]);
        }
        Ok(())
    }

    /// Does not hear its interrupt.
    fn is_deaf(&self, us: u64) {
        println!("rogue: is deaf for {} ms", us / 1000);
        cpu::delay_us(us);
    }
}
