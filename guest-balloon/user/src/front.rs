//! The driver core's front: its traits on top of line and pool.

use std::time::Instant;

use anyhow::{Error, Result};
use ballast_balloon::abi::{Entry, LIST_ENTRIES, Order, PAGE_SIZE, Status, feature, function};
use ballast_balloon::{Clock, CpuError, CpuSource, CpuState, Hypercall, PageSource, Taken};

use crate::cpus;
use crate::line::Line;
use crate::memory::{Events, Memory};
use crate::pool::Pool;

/// Everything outside the driver.
pub struct Front {
    /// The way to Ballast.
    pub line: Line,
    /// The pages.
    pub pool: Pool,
    ram: Vec<(u64, u64)>,
    /// What is left to the system.
    pub floor_pages: u64,
    list: Box<[Entry; LIST_ENTRIES]>,
    began: Instant,
    /// Pages that are missing and not in the pool: a kernel without the module cannot use them.
    pub missing_pages: u64,
    /// Why the line or the pool failed; every call fails from then on.
    pub failure: Option<Error>,
}

impl Front {
    /// A front that leaves the system this much.
    pub fn new(line: Line, pool: Pool, ram: Vec<(u64, u64)>, floor_pages: u64) -> Self {
        Self {
            line,
            pool,
            ram,
            floor_pages,
            list: Box::new([Entry(0); LIST_ENTRIES]),
            began: Instant::now(),
            missing_pages: 0,
            failure: None,
        }
    }

    /// A call with up to four arguments.
    fn ask(&mut self, function: u32, registers: [u64; 4]) -> [u64; 4] {
        const FAILED: [u64; 4] = [Status::NotSupported.to_register(), 0, 0, 0];
        if self.failure.is_some() {
            return FAILED;
        }
        let has_list = ballast_balloon::abi::message::has_entries(function);
        let count = usize::try_from(registers[0]).unwrap_or(LIST_ENTRIES);
        let entries: Vec<u64> = self
            .list
            .iter()
            .take(if has_list { count } else { 0 })
            .map(|entry| entry.0)
            .collect();
        match self.line.ask(function, registers, &entries) {
            Ok((answer, judged)) => {
                for (entry, word) in self.list.iter_mut().zip(judged) {
                    *entry = Entry(*word);
                }
                answer
            }
            Err(error) => {
                self.failure = Some(error);
                FAILED
            }
        }
    }

    fn take_pages(&mut self, ipas: &mut [u64]) -> Result<Taken> {
        let before = Events::now()?;
        let mut runs = 0;
        for slot in ipas.iter_mut() {
            let Some(ipa) = self.pool.take()? else { break };
            *slot = ipa;
            runs += 1;
        }
        let strained = runs < ipas.len() || Events::now()?.stalls != before.stalls;
        Ok(Taken { runs, strained })
    }
}

impl Hypercall for Front {
    fn call_with(&mut self, function: u32, arguments: [u64; 4]) -> [u64; 4] {
        let mut answer = self.ask(function, arguments);
        if function == function::FEATURES {
            // The pool has pages of 2 MiB only.
            answer[1] |= feature::WHOLE_BLOCKS;
        }
        answer
    }

    fn list_ipa(&self) -> u64 {
        // The list is in the message.
        0
    }

    fn entry(&self, index: usize) -> Entry {
        self.list[index % LIST_ENTRIES]
    }

    fn set_entry(&mut self, index: usize, entry: Entry) {
        self.list[index % LIST_ENTRIES] = entry;
    }
}

impl PageSource for Front {
    fn headroom_pages(&mut self) -> u64 {
        let available = Memory::now().map_or(0, |memory| memory.available);
        available.saturating_sub(self.floor_pages)
    }

    fn take(&mut self, order: Order, ipas: &mut [u64]) -> Taken {
        const NONE: Taken = Taken {
            runs: 0,
            strained: true,
        };
        if order != Order::Block || self.failure.is_some() {
            return NONE;
        }
        self.take_pages(ipas).unwrap_or_else(|error| {
            self.failure = Some(error);
            NONE
        })
    }

    fn give(&mut self, ipa: u64, _: Order) {
        self.pool.give(ipa);
    }

    fn hold(&mut self, ipa: u64, order: Order) {
        if order != Order::Block || !self.pool.hold(ipa) {
            self.missing_pages += order.pages();
        }
    }

    fn pick(&mut self, order: Order) -> Option<u64> {
        if order == Order::Block {
            self.pool.pick()
        } else {
            None
        }
    }

    fn ram(&self, index: usize) -> Option<(u64, u64)> {
        self.ram.get(index).copied()
    }
}

impl CpuSource for Front {
    fn cpus(&self) -> u32 {
        cpus::count()
    }

    fn cpu_state(&self, cpu: u32) -> CpuState {
        cpus::state(cpu)
    }

    fn take_offline(&mut self, cpu: u32) -> Result<(), CpuError> {
        cpus::set(cpu, false)
    }

    fn bring_online(&mut self, cpu: u32) -> Result<(), CpuError> {
        cpus::set(cpu, true)
    }
}

impl Clock for Front {
    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    fn ticks_per_second(&self) -> u64 {
        1_000_000
    }
}

/// Bytes of RAM that there may ever be.
pub fn bytes_of(ram: &[(u64, u64)]) -> u64 {
    ram.iter().map(|(_, pages)| pages * PAGE_SIZE).sum()
}
