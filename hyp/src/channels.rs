//! Channels at run time: the calls SIGNAL and CHANNEL, and what guests are told of each other.

use alloc::boxed::Box;

use ballast_core::addr::{PAGE_SIZE, PaRange};
use ballast_core::balloon::hw::Hardware;
use ballast_core::channel::{Channel, Doorbell, Fetched};
use ballast_core::plan::{ChannelEnd, ChannelPlan};
use ballast_core::vgic::IntId;

use crate::guest::Guest;
use crate::guest::hardware::Machine;
use crate::percpu::PerCpu;
use crate::system::System;
use crate::traps::Frame;

/// The channels, by number, and the memory behind each.
pub struct Channels(Box<[(Channel, PaRange)]>);

impl Channels {
    /// As planned.
    pub fn new(plans: &[ChannelPlan]) -> Self {
        // Planned below INTID 256.
        let end = |end: &ChannelEnd| (end.guest, IntId((end.spi + 32) as u8));
        let channels = plans.iter().map(|plan| {
            let [one, two] = &plan.ends;
            (Channel::new([end(one), end(two)]), plan.pa)
        });
        Self(channels.collect())
    }

    /// Zeroes the memory: before any guest starts.
    pub fn zero(&self, cpu: &PerCpu) {
        for (_, memory) in &self.0 {
            Machine(cpu).scrub(memory.start, (memory.size / PAGE_SIZE) as usize);
        }
        cpu.window.close();
    }

    fn get(&self, number: u64) -> Option<&Channel> {
        let (channel, _) = self.0.get(usize::try_from(number).ok()?)?;
        Some(channel)
    }

    /// `guest` is being reset, and its interrupt controller was.
    pub fn reset(&self, guest: &Guest) {
        for (channel, _) in &self.0 {
            channel.reset(guest.index);
        }
    }
}

impl System {
    /// Tells the other ends of its channels that `guest` runs.
    pub fn tell_started(&self, cpu: &PerCpu, guest: &Guest) {
        for (channel, _) in &self.channels.0 {
            self.interrupt(cpu, channel.started(guest.index));
        }
    }

    /// Tells them that it has stopped.
    pub fn tell_stopped(&self, cpu: &PerCpu, guest: &Guest) {
        for (channel, _) in &self.channels.0 {
            self.interrupt(cpu, channel.stopped(guest.index));
        }
    }

    /// Sends the doorbell's edge. Its guest is never the one that this core runs: a channel has two different ones.
    fn interrupt(&self, cpu: &PerCpu, doorbell: Option<Doorbell>) {
        if let Some(Doorbell { guest, intid }) = doorbell
            && let Some(guest) = self.guests.get(guest)
        {
            let kicks = guest.vgic.lock().inject_spi_remote(intid);
            guest.kick(cpu, kicks);
        }
    }
}

/// SIGNAL by `guest`.
#[inline(never)]
pub fn signal(system: &System, cpu: &PerCpu, guest: &Guest, frame: &mut Frame) {
    let [_, number, ..] = frame.x;
    let rung = match system.channels.get(number) {
        Some(channel) => channel.ring(guest.index),
        None => Err(ballast_abi::Status::InvalidParameters),
    };
    let status = match rung {
        Ok(doorbell) => {
            system.interrupt(cpu, doorbell);
            ballast_abi::Status::Success
        }
        Err(status) => status,
    };
    [frame.x[0], frame.x[1], frame.x[2], frame.x[3]] = [status.to_register(), 0, 0, 0];
}

/// CHANNEL by `guest`.
#[inline(never)]
pub fn fetch(system: &System, guest: &Guest, frame: &mut Frame) {
    let [_, number, ..] = frame.x;
    let channel = system.channels.get(number);
    let results = match channel.and_then(|channel| channel.fetch(guest.index)) {
        Some(Fetched { events, peer }) => [0, events, peer, 0],
        None => [
            ballast_abi::Status::InvalidParameters.to_register(),
            0,
            0,
            0,
        ],
    };
    [frame.x[0], frame.x[1], frame.x[2], frame.x[3]] = results;
}
