//! Two guests that talk: over "there", which the first writes and the second reads, and "back", the other way round.

use core::sync::atomic::{AtomicU32, Ordering};

use ballast_balloon::abi::Status;
use ballast_balloon::channel::ring::{Consumer, Producer};
use ballast_balloon::channel::{Channel, Events, Notify};

use super::{Outcome, Why, why};
use crate::exception::RUNG;
use crate::machine::{Machine, Shared};
use crate::mmu::{self, Mapping};
use crate::smccc::{self, psci};
use crate::{cpu, ensure, gic, memory, println};

const GIB: u64 = 1 << 30;

/// A channel in use.
pub struct Line {
    /// For the calls.
    pub channel: Channel,
    /// Its memory; to be loaded only, if it is read-only.
    pub memory: &'static [AtomicU32],
    number: usize,
}

/// The HVC of a channel's calls.
pub fn call(function: u32, x1: u64) -> [u64; 4] {
    smccc::hvc([function.into(), x1, 0, 0, 0])
}

/// The channel of this name in the device tree.
pub fn find<'m>(machine: &'m Machine, label: &str) -> Result<&'m Shared, Why> {
    let mut all = machine.channels.iter();
    all.find(|shared| shared.label == label)
        .ok_or_else(|| why(format_args!("no channel {label}")))
}

/// Where channels' memory is mapped as RAM is: the first GiB a second time, unless it lies where RAM does.
pub fn map(shared: &Shared) -> Result<u64, Why> {
    if mmu::is_ram(shared.memory.start) {
        return Ok(shared.memory.start);
    }
    ensure!(
        shared.memory.end <= GIB,
        "{} at {:#x}",
        shared.label,
        shared.memory.start
    );
    Ok(mmu::map_scratch(Mapping::Normal(0)) + shared.memory.start)
}

impl Line {
    /// Opens it: its memory mapped, its interrupt enabled. The events so far are to be fetched.
    pub fn open(machine: &Machine, label: &str) -> Result<Self, Why> {
        let shared = find(machine, label)?;
        let address = map(shared)?;
        gic::get().enable(shared.interrupt);
        Ok(Self {
            channel: Channel::new(shared.number),
            // SAFETY: mapped just now, in memory that is no allocator's.
            memory: unsafe { memory::shared(address, shared.memory.end - shared.memory.start) },
            number: shared.number as usize,
        })
    }

    /// Interrupts so far.
    pub fn interrupts(&self) -> u64 {
        RUNG[self.number].load(Ordering::Acquire)
    }

    /// Sleeps until there are more than `seen`.
    pub fn sleep(&self, seen: u64) {
        cpu::sleep_until(|| self.interrupts() != seen);
    }

    /// The events since the last fetch.
    pub fn fetch(&self) -> Result<Events, Why> {
        let events = self.channel.fetch(call);
        events.map_err(|status| why(format_args!("fetch: {status:?}")))
    }

    /// Rings.
    pub fn ring(&self) -> Outcome {
        let rung = self.channel.ring(call);
        rung.map_err(|status| why(format_args!("ring: {status:?}")))
    }

    /// Waits until the other guest runs.
    fn wait_for_peer(&self) -> Result<Events, Why> {
        loop {
            let seen = self.interrupts();
            let events = self.fetch()?;
            if events.peer_is_running() {
                return Ok(events);
            }
            self.sleep(seen);
        }
    }
}

/// A queue each way, and the doorbell: on the line that the other one writes, so one interrupt is enough.
struct Talk {
    bell: Line,
    out: Producer<'static>,
    into: Consumer<'static>,
    rung: u64,
    /// The interrupts whose events were fetched.
    fetched: u64,
}

impl Talk {
    fn new(machine: &Machine, mine: &str, theirs: &str) -> Result<Self, Why> {
        let (mine, bell) = (Line::open(machine, mine)?, Line::open(machine, theirs)?);
        let small = || why(format_args!("too small"));
        Ok(Self {
            out: Producer::new(mine.memory, bell.memory).ok_or_else(small)?,
            into: Consumer::new(bell.memory, mine.memory).ok_or_else(small)?,
            bell,
            rung: 0,
            fetched: u64::MAX,
        })
    }

    fn send(&mut self, message: &[u8], to: Channel) -> Outcome {
        match self.out.push(message) {
            Ok(Notify::Ring) => {
                self.rung += 1;
                let rung = to.ring(call);
                rung.map_err(|status| why(format_args!("ring: {status:?}")))
            }
            Ok(Notify::Quiet) => Ok(()),
            Err(error) => Err(why(format_args!("push: {error:?}"))),
        }
    }

    /// The next message; asleep until it is there.
    fn receive(&mut self, buffer: &mut [u8]) -> Result<usize, Why> {
        loop {
            let seen = self.bell.interrupts();
            if seen != self.fetched {
                // What a handler would do: without it the next doorbell is no interrupt.
                self.bell.fetch()?;
                self.fetched = seen;
            }
            match self.into.pop(buffer) {
                Ok(Some(length)) => return Ok(length),
                Ok(None) => self.bell.sleep(seen),
                Err(error) => return Err(why(format_args!("pop: {error:?}"))),
            }
        }
    }
}

/// Message `number` and its answer: of every length, and different each.
fn message(number: u32, answer: bool, buffer: &mut [u8; 64]) -> usize {
    let length = 4 + number as usize % 57;
    for (at, byte) in (0..).zip(buffer.iter_mut()) {
        *byte = (number.wrapping_mul(31).wrapping_add(at) as u8) ^ if answer { 0xff } else { 0 };
    }
    buffer[..4].copy_from_slice(&number.to_le_bytes());
    length
}

/// Asks `rounds` times and checks each answer; says how long a round takes.
pub fn ping(machine: &Machine) -> Outcome {
    let rounds = machine.arg_number("rounds").unwrap_or(1000) as u32;
    let mut talk = Talk::new(machine, "there", "back")?;
    let there = Channel::new(find(machine, "there")?.number);
    talk.bell.wait_for_peer()?;
    let begin = cpu::counter();
    let (mut sent, mut found) = ([0; 64], [0; 64]);
    // The last is round 0, which ends it.
    for number in (0..rounds).rev() {
        let length = message(number, false, &mut sent);
        talk.send(&sent[..length], there)?;
        let answered = talk.receive(&mut found)?;
        message(number, true, &mut sent);
        ensure!(
            found[..answered] == sent[..length],
            "round {number}: {answered} bytes, not {length} or others"
        );
    }
    let ticks = cpu::counter() - begin;
    let ns = u128::from(ticks) * 1_000_000_000 / u128::from(cpu::frequency());
    println!(
        "ping rounds={rounds} ns_per_round={} rung={} interrupts={}",
        ns / u128::from(rounds.max(1)),
        talk.rung,
        talk.bell.interrupts()
    );
    Ok(())
}

/// Answers until it is asked with number 0.
pub fn pong(machine: &Machine) -> Outcome {
    let mut talk = Talk::new(machine, "back", "there")?;
    let back = Channel::new(find(machine, "back")?.number);
    talk.bell.fetch()?;
    let (mut found, mut expected) = ([0; 64], [0; 64]);
    loop {
        let length = talk.receive(&mut found)?;
        let number = u32::from_le_bytes([found[0], found[1], found[2], found[3]]);
        let asked = message(number, false, &mut expected);
        ensure!(
            found[..length] == expected[..asked],
            "message {number}: {length} bytes, not {asked} or others"
        );
        let length = message(number, true, &mut found);
        talk.send(&found[..length], back)?;
        if number == 0 {
            println!("pong interrupts={}", talk.bell.interrupts());
            return Ok(());
        }
    }
}

/// Rings as fast as it can, each time with a new number in the memory.
pub fn flood(machine: &Machine) -> Outcome {
    let rounds = machine.arg_number("rounds").unwrap_or(100_000) as u32;
    let line = Line::open(machine, "there")?;
    line.wait_for_peer()?;
    for number in 1..=rounds {
        line.memory[0].store(number, Ordering::Relaxed);
        line.ring()?;
    }
    line.memory[1].store(rounds, Ordering::Release);
    line.ring()?;
    println!("flood rung={rounds}");
    Ok(())
}

/// Sleeps between doorbells; sees the last number by the last of them, and no more interrupts than it has fetched.
pub fn hear(machine: &Machine) -> Outcome {
    let line = Line::open(machine, "there")?;
    let (mut fetches, mut last) = (0_u64, 0);
    loop {
        let seen = line.interrupts();
        line.fetch()?;
        fetches += 1;
        let number = line.memory[0].load(Ordering::Relaxed);
        ensure!(number >= last, "{number} after {last}");
        last = number;
        // Acquire: with the end comes the last number.
        let end = line.memory[1].load(Ordering::Acquire);
        if end != 0 {
            let last = line.memory[0].load(Ordering::Relaxed);
            ensure!(last == end, "{last} at the end, not {end}");
            break;
        }
        line.sleep(seen);
    }
    let interrupts = line.interrupts();
    ensure!(
        interrupts <= fetches + 1,
        "{interrupts} interrupts for {fetches} fetches"
    );
    println!("hear interrupts={interrupts} fetches={fetches}");
    Ok(())
}

/// Lives of [`reborn`].
const LIVES: u32 = 5;

/// Counts its lives in the shared memory, which a reset leaves alone, and resets itself.
pub fn reborn(machine: &Machine) -> Outcome {
    let line = Line::open(machine, "there")?;
    line.wait_for_peer()?;
    let life = line.memory[8].load(Ordering::Acquire) + 1;
    line.memory[8].store(life, Ordering::Release);
    line.ring()?;
    // The witness has noted this life before it ends.
    let noted = cpu::wait_until_us(20_000_000, || {
        let back = Line::open(machine, "back").map(|back| back.memory[8].load(Ordering::Acquire));
        back == Ok(life)
    });
    ensure!(noted, "life {life} was not noted");
    if life < LIVES {
        psci::call(psci::function::SYSTEM_RESET, 0, 0, 0);
    }
    println!("reborn lives={life}");
    Ok(())
}

/// Waits, asleep, for another guest's resets.
pub fn witness(machine: &Machine) -> Outcome {
    let (line, back) = (Line::open(machine, "there")?, Line::open(machine, "back")?);
    let (mut stops, mut generation) = (0, 0);
    let mut before = None;
    loop {
        let seen = line.interrupts();
        let events = line.fetch()?;
        stops += u32::from(events.peer_stopped());
        if events.peer_is_running() && before != Some(events.peer_generation()) {
            ensure!(
                before.is_none_or(|before| events.peer_generation() == before + 1),
                "generation {} after {before:?}",
                events.peer_generation()
            );
            ensure!(
                stops + 1 >= events.peer_generation(),
                "generation {} after {stops} stops",
                events.peer_generation()
            );
            before = Some(events.peer_generation());
            generation = events.peer_generation();
        }
        if !events.peer_is_running() && events.peer_generation() != 0 {
            let rung = line.channel.ring(call);
            // It may have started in between.
            ensure!(
                matches!(rung, Err(Status::PeerStopped) | Ok(())),
                "ring: {rung:?}"
            );
        }
        let life = line.memory[8].load(Ordering::Acquire);
        back.memory[8].store(life, Ordering::Release);
        if generation == LIVES && life == LIVES && !events.peer_is_running() {
            break;
        }
        if line.interrupts() == seen {
            line.sleep(seen);
        }
    }
    ensure!(stops == LIVES, "{stops} stops of {LIVES} lives");
    println!("witness generations={generation} stops={stops}");
    Ok(())
}
