//! A stopped guest's devices: made to stop, too.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

use ballast_core::addr::{GIB, PAGE_SIZE, Pa};
use ballast_core::config::GuestConfig;
use ballast_core::exit::Width;
use ballast_core::quiesce::{Quiesce, Registers};

use super::Guest;
use crate::aarch64::{cache, mmu, registers};
use crate::mmio::guarded::Guarded;
use crate::percpu::PerCpu;

/// The devices of a guest that do DMA.
pub struct Masters {
    /// Those that must be told to stop, by the index in the configuration.
    told: Box<[Told]>,
    /// The first of them that did not become quiet when the guest last stopped, else [`NONE`].
    loud: AtomicUsize,
    /// None of them does DMA now.
    are_quiet: AtomicBool,
}

const NONE: usize = usize::MAX;

struct Told {
    /// Of the device in the configuration.
    index: usize,
    quiesce: Quiesce,
    /// The procedure's window, and its first offset.
    registers: Guarded,
    first: u32,
}

impl Masters {
    /// At boot: maps the registers that will be needed. What the loader left running is its own affair.
    pub fn new(config: &GuestConfig) -> Self {
        // Several may lie in a page.
        let mut mapped: Vec<(Pa, *mut u8)> = Vec::new();
        let mut told = Vec::new();
        for (index, device) in config.devices.iter().enumerate() {
            let (Some(quiesce), Some(region)) = (device.quiesce, device.regions.first()) else {
                continue;
            };
            if quiesce.is_empty() || !device.is_dma_master {
                continue;
            }
            let window = &quiesce.procedure.window;
            let end = u64::from(window.end).min(region.size);
            let Some(bytes) = end.checked_sub(window.start.into()) else {
                continue;
            };
            let start = Pa(region.start.0 + u64::from(window.start));
            let page = start.align_down(PAGE_SIZE);
            let offset = start.0 - page.0;
            let base = match mapped.iter().find(|(other, _)| *other == page) {
                Some((_, base)) if offset + bytes <= PAGE_SIZE => *base,
                _ => {
                    let base = mmu::map_answered(page, offset + bytes);
                    mapped.push((page, base));
                    base
                }
            };
            if let Some(base) = NonNull::new(base.wrapping_add(offset as usize)) {
                told.push(Told {
                    index,
                    quiesce,
                    // SAFETY: just mapped, so many bytes of the device's registers; the device is this guest's
                    // alone, none of whose cores runs when they are written.
                    registers: unsafe { Guarded::new(base, bytes as u32) },
                    first: window.start,
                });
            }
        }
        Self {
            told: told.into_boxed_slice(),
            loud: AtomicUsize::new(NONE),
            are_quiet: AtomicBool::new(true),
        }
    }
}

/// What firmware is told, in lines of its own and nobody else's. It is never read: an answer that comes too
/// late changes nothing.
#[repr(align(64))]
struct Message([AtomicU32; 16]);

static MESSAGE: Message = Message([const { AtomicU32::new(0) }; 16]);

/// Registers of a device that is told to stop.
struct Lent<'a> {
    told: &'a Told,
    cpu: &'a PerCpu,
    started: u64,
}

impl Registers for Lent<'_> {
    fn read(&mut self, offset: u32) -> Option<u32> {
        let offset = offset.checked_sub(self.told.first)?;
        let value = self.told.registers.load(offset, Width::Word).ok()?;
        // Some interconnects answer a load with an SError, too: this core, which no guest runs on, takes it.
        registers::pending_serror().is_none().then_some(value)
    }

    fn write(&mut self, offset: u32, value: u32) -> Option<()> {
        let offset = offset.checked_sub(self.told.first)?;
        self.told.registers.store(offset, Width::Word, value).ok()?;
        registers::pending_serror().is_none().then_some(())
    }

    /// Meanwhile this core, which no guest runs on, serves its interrupts.
    fn elapsed_us(&mut self) -> u64 {
        crate::run::look_around(self.cpu);
        let ticks = crate::boot::counter().wrapping_sub(self.started);
        (u128::from(ticks) * 1_000_000 / u128::from(crate::boot::frequency().max(1))) as u64
    }

    /// The image is where the firmware has loaded it, below 1 GiB, which the VideoCore sees uncached from
    /// 0xc0000000 on (BCM2711 ARM Peripherals, 1.2).
    fn message(&mut self, words: &[u32]) -> Option<u32> {
        const UNCACHED: u32 = 0xc000_0000;
        for (slot, word) in MESSAGE.0.iter().zip(words) {
            slot.store(*word, Ordering::Relaxed);
        }
        let start = (&raw const MESSAGE).expose_provenance() as u64;
        cache::clean_and_invalidate(start, size_of::<Message>() as u64);
        let pa = mmu::pa_of(start).0;
        (pa < GIB).then_some(UNCACHED | pa as u32)
    }
}

impl Guest {
    /// Whether no device does DMA in a stopped guest's name.
    pub fn is_quiet(&self) -> bool {
        self.masters.are_quiet.load(Ordering::Acquire)
    }

    /// Makes the devices of the guest, which runs no more, stop too: before it counts as stopped, so that whoever
    /// sees it so finds its devices as they are.
    pub fn quiesce(&self, cpu: &PerCpu) {
        let mut loud = None;
        // All of them, so that as few as can be go on.
        for (number, told) in self.masters.told.iter().enumerate() {
            let mut registers = Lent {
                told,
                cpu,
                started: crate::boot::counter(),
            };
            if !told.quiesce.run(&mut registers) && loud.is_none() {
                loud = Some(number);
            }
        }
        self.masters
            .loud
            .store(loud.unwrap_or(NONE), Ordering::Relaxed);
        let is_quiet = loud.is_none() && self.plan.config.unstoppable().is_none();
        self.masters.are_quiet.store(is_quiet, Ordering::Release);
    }

    /// The first device that did not become quiet, and the procedure that has failed, if it has one.
    pub fn loud(&self) -> Option<(&str, Option<&'static str>)> {
        let config = &self.plan.config;
        let told = self
            .masters
            .told
            .get(self.masters.loud.load(Ordering::Relaxed));
        let (device, tried) = match told {
            Some(told) => (
                config.devices.get(told.index)?,
                Some(told.quiesce.procedure.name),
            ),
            None => (config.unstoppable()?, None),
        };
        Some((device.path.as_str(), tried))
    }
}
