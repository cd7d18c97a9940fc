//! Building a guest: its memory, its images, its device tree; at boot and at each reset.
//!
//! Runs on the core of the guest's vCPU 0 while none of its vCPUs runs, in pieces, between which the
//! core looks at its interrupts: loading one guest does not hold up another's console.

use core::sync::atomic::Ordering;

use ballast_core::addr::{Ipa, PAGE_SIZE, Pa};
use ballast_core::message_port::MessagePort;
use ballast_core::pl011::Pl011;
use ballast_core::plan::backed_ram;

use super::Guest;
use super::hardware::{self, Machine};
use crate::aarch64::{cache, registers};
use crate::percpu::PerCpu;
use crate::system::System;

/// Why a guest could not be loaded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LoadError {
    /// Its memory could not be built up to what it must have: this much is there, in KiB.
    Memory(u64),
    /// An address of its images is not backed.
    NotBacked(Ipa),
    /// Its device tree cannot be written for this much memory.
    DeviceTree,
}

impl core::fmt::Display for LoadError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Memory(kib) => write!(
                f,
                "only {} MiB are there for it, less than its minimum",
                kib >> 10
            ),
            Self::NotBacked(ipa) => {
                write!(f, "its image needs memory at {ipa}, which it has not got")
            }
            Self::DeviceTree => write!(f, "its device tree cannot be written"),
        }
    }
}

impl Guest {
    /// Puts memory and images in place and every model into its reset state.
    pub fn load(&self, system: &System, cpu: &PerCpu) -> Result<(), LoadError> {
        registers::load_guest(self.vttbr(), system.vtcr, 0);
        if let Some(Some(session)) = system.sessions.get(self.index) {
            session.lock().reset();
        }
        let backed = self.build_memory(system, cpu)?;
        self.clear_caches(cpu, backed)?;
        let plan = &self.plan;
        let kernel = system.archive.get(plan.kernel_file.clone()).unwrap_or(&[]);
        for segment in &plan.kernel.segments {
            let bytes = kernel.get(segment.source.clone()).unwrap_or(&[]);
            self.copy(cpu, segment.ipa, bytes)?;
            self.zero(
                cpu,
                Ipa(segment.ipa.0 + bytes.len() as u64),
                segment.zero_fill,
            )?;
        }
        if let (Some(file), Some(to)) = (&plan.ramdisk_file, plan.placement.ramdisk) {
            self.copy(
                cpu,
                to.start,
                system.archive.get(file.clone()).unwrap_or(&[]),
            )?;
        }
        self.copy_tree(system, cpu, backed)?;
        cpu.window.close();
        cache::invalidate_instructions();

        self.vgic.lock().guest_reset(&mut self.host(cpu));
        system.channels.reset(self);
        self.has_faulted.store(false, Ordering::Relaxed);
        self.with_uart(cpu, Pl011::reset);
        self.with_messages(cpu, MessagePort::reset);
        if let Some(dog) = &self.watchdog {
            dog.reset();
        }
        let boot_pages = plan.config.memory.boot_bytes / PAGE_SIZE;
        self.memory
            .target
            .set_reserve_pages(self.memory.max_pages() - boot_pages, 0);
        self.update_balloon(cpu);
        self.starts[0].set(plan.kernel.entry.0, plan.placement.dtb.start.0);
        Ok(())
    }

    /// Admission has written the first; memory that was elsewhere since then makes it another.
    fn copy_tree(&self, system: &System, cpu: &PerCpu, backed: u64) -> Result<(), LoadError> {
        let mut tree = core::mem::take(&mut *self.dtb.lock());
        if tree.backed_bytes != backed {
            let buffer = core::mem::take(&mut tree.blob);
            let written = self
                .plan
                .device_tree(&system.board, system.tree, backed, buffer);
            tree.blob = written.map_err(|_| LoadError::DeviceTree)?;
            tree.backed_bytes = backed;
        }
        let copied = self.copy(cpu, self.plan.placement.dtb.start, &tree.blob);
        *self.dtb.lock() = tree;
        copied
    }

    fn build_memory(&self, system: &System, cpu: &PerCpu) -> Result<u64, LoadError> {
        let goal_pages = self.plan.config.memory.boot_bytes / PAGE_SIZE;
        // No vCPU is in a call: who has the ledger only looks at it, for a moment.
        while !self.memory.begin_rebuild(&system.pool, goal_pages) {
            core::hint::spin_loop();
        }
        let backed = loop {
            let progress = self.memory.rebuild_step(&system.pool, &mut Machine(cpu));
            system.wake(cpu, progress.wake);
            system.relocate(cpu, progress.relocate);
            if let Some(pages) = progress.backed_pages {
                break pages * PAGE_SIZE;
            }
            crate::run::look_around(cpu);
        };
        cpu.window.close();
        if backed < self.plan.config.memory.min_bytes {
            return Err(LoadError::Memory(backed >> 10));
        }
        Ok(backed)
    }

    /// The guest starts with its caches off. Lines its former life has left dirty would be written
    /// back over what it then writes (DDI 0487, D7.5.9), so they go first. At boot there are none.
    fn clear_caches(&self, cpu: &PerCpu, backed: u64) -> Result<(), LoadError> {
        if !self.has_run.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        let ram = backed_ram(&self.plan.ram, backed);
        for range in self.plan.config.extra_ram.iter().chain(&ram) {
            for offset in (0..range.size).step_by(PAGE_SIZE as usize) {
                let page = self.page(cpu, Ipa(range.start.0 + offset))?;
                hardware::clean_and_invalidate(cpu, page);
                if offset.is_multiple_of(16 * PAGE_SIZE) {
                    crate::run::look_around(cpu);
                }
            }
        }
        Ok(())
    }

    fn copy(&self, cpu: &PerCpu, to: Ipa, bytes: &[u8]) -> Result<(), LoadError> {
        let mut done = 0;
        while done < bytes.len() {
            let at = Ipa(to.0 + done as u64);
            let offset = (at.0 & (PAGE_SIZE - 1)) as usize;
            let piece = (PAGE_SIZE as usize - offset).min(bytes.len() - done);
            let page = self.page(cpu, at)?;
            hardware::copy_in(
                cpu,
                page,
                offset,
                bytes.get(done..done + piece).unwrap_or(&[]),
            );
            done += piece;
            if at.0 & 0xffff < PAGE_SIZE {
                crate::run::look_around(cpu);
            }
        }
        Ok(())
    }

    fn zero(&self, cpu: &PerCpu, from: Ipa, bytes: u64) -> Result<(), LoadError> {
        let mut at = from;
        while at.0 < from.0 + bytes {
            let offset = (at.0 & (PAGE_SIZE - 1)) as usize;
            let piece = (PAGE_SIZE - offset as u64).min(from.0 + bytes - at.0);
            let page = self.page(cpu, at)?;
            hardware::zero(cpu, page, offset, piece as usize);
            at.0 += piece;
            if at.0 & 0xffff < PAGE_SIZE {
                crate::run::look_around(cpu);
            }
        }
        Ok(())
    }

    fn page(&self, cpu: &PerCpu, ipa: Ipa) -> Result<Pa, LoadError> {
        let pa = self
            .memory
            .stage2
            .translate(&mut Machine(cpu), ipa)
            .ok_or(LoadError::NotBacked(ipa))?;
        Ok(pa.align_down(PAGE_SIZE))
    }
}
