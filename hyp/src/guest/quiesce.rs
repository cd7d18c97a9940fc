//! A stopped guest's devices: made to stop, too.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, Ordering};

use ballast_core::addr::{PAGE_SIZE, Pa};
use ballast_core::config::GuestConfig;
use ballast_core::quiesce::{Procedure, REACH, Registers};

use super::Guest;
use crate::aarch64::mmu;
use crate::mmio::words::Words;
use crate::percpu::PerCpu;

/// The devices of a guest that do DMA.
pub struct Masters {
    /// Those that must be told to stop, by the index in the configuration.
    told: Box<[(usize, &'static Procedure, Words)]>,
    /// None of them does DMA now.
    are_quiet: AtomicBool,
}

impl Masters {
    /// At boot: maps the registers that will be needed. What the loader left running is its own affair.
    pub fn new(config: &GuestConfig) -> Self {
        let mut mapped: Vec<(Pa, *mut u8)> = Vec::new();
        let mut told = Vec::new();
        for (index, device) in config.devices.iter().enumerate() {
            let (Some(procedure), Some(region)) = (device.quiesce, device.regions.first()) else {
                continue;
            };
            if procedure.steps.is_empty() || !device.is_dma_master {
                continue;
            }
            // Several may lie in a page; one that crosses its end has a mapping of its own.
            let page = region.start.align_down(PAGE_SIZE);
            let offset = region.start.0 - page.0;
            let base = match mapped.iter().find(|(other, _)| *other == page) {
                Some((_, base)) if offset + REACH <= PAGE_SIZE => *base,
                _ => {
                    let base = mmu::map_device(page, offset + REACH);
                    mapped.push((page, base));
                    base
                }
            };
            if let Some(base) = NonNull::new(base.wrapping_add(offset as usize)) {
                // SAFETY: just mapped, `REACH` bytes from the start of the device's registers; the device is
                // this guest's alone, none of whose cores runs when they are written.
                told.push((index, procedure, unsafe { Words::new(base, REACH) }));
            }
        }
        Self {
            told: told.into_boxed_slice(),
            are_quiet: AtomicBool::new(true),
        }
    }
}

/// Registers of a device that is told to stop, until a deadline.
struct Limited<'a> {
    words: &'a Words,
    cpu: &'a PerCpu,
    started: u64,
}

impl Registers for Limited<'_> {
    fn read(&mut self, offset: u32) -> u32 {
        self.words.read(offset)
    }

    fn write(&mut self, offset: u32, value: u32) {
        self.words.write(offset, value);
    }

    /// For a tenth of a second, as Linux waits for an SD host controller; meanwhile this core, which no guest
    /// runs on, serves its interrupts.
    fn may_wait(&mut self) -> bool {
        crate::run::look_around(self.cpu);
        crate::boot::counter().wrapping_sub(self.started) < crate::boot::frequency() / 10
    }
}

impl Guest {
    /// Whether no device does DMA in a stopped guest's name.
    pub fn is_quiet(&self) -> bool {
        self.masters.are_quiet.load(Ordering::Acquire)
    }

    /// The guest is about to be stopped: whoever sees it so finds its devices as they are.
    pub fn begin_quiesce(&self) {
        let is_quiet = self.masters.told.is_empty() && self.plan.config.unstoppable().is_none();
        self.masters.are_quiet.store(is_quiet, Ordering::Release);
    }

    /// Makes the devices of the guest, which has just stopped, stop too. The first that does not.
    pub fn quiesce(&self, cpu: &PerCpu) -> Option<&str> {
        let config = &self.plan.config;
        let loud = self.masters.told.iter().find(|(_, procedure, words)| {
            let mut registers = Limited {
                words,
                cpu,
                started: crate::boot::counter(),
            };
            !procedure.run(&mut registers)
        });
        let loud = loud.and_then(|(index, _, _)| config.devices.get(*index));
        let loud = loud.or_else(|| config.unstoppable());
        self.masters
            .are_quiet
            .store(loud.is_none(), Ordering::Release);
        loud.map(|device| device.path.as_str())
    }
}
