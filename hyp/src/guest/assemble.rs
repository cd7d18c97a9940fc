//! A guest out of its plan: its stage 2, its interrupts, and what it shares with others.
//!
//! Runs at boot only, once for each guest, and may refuse; from then on nothing of a guest's machine changes.

use alloc::boxed::Box;
use core::sync::atomic::{AtomicBool, AtomicU64};

use ballast_core::addr::PAGE_SIZE;
use ballast_core::balloon::{GuestMemory, MemoryConfig};
use ballast_core::board::{Board, Gic as GicBlocks};
use ballast_core::config::{Access, device_pages};
use ballast_core::frames::GuestId;
use ballast_core::limits::MAX_INTIDS;
use ballast_core::message_port::MessagePort;
use ballast_core::pl011::Pl011;
use ballast_core::plan::GuestPlan;
use ballast_core::psci::Psci;
use ballast_core::refusal::Refusal;
use ballast_core::stage2::{DeviceMapping, Layout, Memory};
use ballast_core::vgic::{self, IntId, Vgic};
use spin::mutex::TicketMutex;

use super::{CoreMap, Guest, WrittenTree, lifecycle, quiesce, watchdog};
use crate::aarch64::mmu;
use crate::mmio::shared::SharedPages;

/// What several guests are given together, gathered while they are made.
#[derive(Default)]
pub struct Shared {
    /// Trapped pages.
    pub pages: SharedPages,
    /// INTIDs, a line each.
    pub intids: alloc::vec::Vec<u32>,
}

impl Shared {
    /// The number of the line of `intid`.
    fn line(&mut self, intid: u32) -> u16 {
        let found = self.intids.iter().position(|other| *other == intid);
        let line = found.unwrap_or_else(|| {
            self.intids.push(intid);
            self.intids.len() - 1
        });
        line as u16
    }
}

/// Apart from everything else because it is some kilobytes, several times, on the boot stack.
#[inline(never)]
fn boxed_vgic(version: vgic::Version, vcpus: usize) -> Box<TicketMutex<Vgic>> {
    Box::new(TicketMutex::new(Vgic::new(&vgic::Config {
        version,
        vcpus,
        intids: MAX_INTIDS,
        linked_ppis: (1 << IntId::VIRTUAL_TIMER.0) | (1 << IntId::PHYSICAL_TIMER.0),
    })))
}

/// For the same reason.
#[inline(never)]
fn boxed_port() -> Box<TicketMutex<MessagePort>> {
    Box::new(TicketMutex::new(MessagePort::new()))
}

impl Guest {
    /// Guest `index` as planned. Its memory is still empty.
    #[inline]
    pub fn new(
        index: usize,
        mut plan: GuestPlan,
        board: &Board,
        shared: &mut Shared,
    ) -> Result<Self, Refusal> {
        let config = &plan.config;
        let refuse = |problem: &dyn core::fmt::Display| Refusal::new(&config.node).problem(problem);
        let guest = GuestId::new(index).ok_or_else(|| refuse(&"is one guest too many"))?;
        let memory_config = MemoryConfig {
            guest,
            memory_pages: config.memory.boot_bytes / PAGE_SIZE,
            min_pages: config.memory.min_bytes / PAGE_SIZE,
            identity: config.is_identity(),
            realtime: config.realtime,
            cpu_targets: !config.realtime,
        };
        let own = config.machine;
        let mut devices = alloc::vec::Vec::new();
        let version = match &board.gic {
            GicBlocks::V2 { gicv, .. } => {
                devices.push(DeviceMapping {
                    ipa: own.gicc.start,
                    pa: gicv.start,
                    bytes: own.gicc.size,
                    memory: Memory::Device,
                });
                vgic::Version::V2
            }
            GicBlocks::V3 { .. } => vgic::Version::V3,
        };
        devices.extend(device_pages(config).into_iter().map(|range| DeviceMapping {
            ipa: ballast_core::addr::Ipa(range.start.0),
            pa: range.start,
            bytes: range.size,
            memory: Memory::Device,
        }));
        devices.extend(plan.channels.iter().map(|end| DeviceMapping {
            ipa: end.ipa.start,
            pa: end.pa,
            bytes: end.ipa.size,
            memory: match end.access {
                Access::ReadWrite => Memory::Shared,
                Access::ReadOnly => Memory::SharedReadOnly,
            },
        }));
        let layout = Layout {
            ram: &plan.ram,
            banks: &config.extra_ram,
            devices: &devices,
        };
        let memory = GuestMemory::new(memory_config, &layout, |table| {
            mmu::pa_of(core::ptr::from_ref(table).expose_provenance() as u64)
        })
        .map_err(|error| refuse(&error))?;
        if !config.realtime {
            memory.target.set_cpus(plan.cores.len() as u32);
        }
        let vcpus = config.cpus.max as usize;
        let mut vgic = boxed_vgic(version, vcpus);
        let mut spis = [0; MAX_INTIDS / 64];
        let interrupts = config.devices.iter().flat_map(|device| &device.interrupts);
        let is_shared = |intid: u32| config.mediated.interrupts.binary_search(&intid).is_ok();
        for interrupt in interrupts.filter(|interrupt| !is_shared(interrupt.intid)) {
            let linked = u8::try_from(interrupt.intid)
                .is_ok_and(|intid| vgic.get_mut().link_spi(IntId(intid), u16::from(intid)));
            if let Some(word) = spis.get_mut(interrupt.intid as usize / 64) {
                *word |= 1 << (interrupt.intid % 64);
            }
            if !linked {
                return Err(refuse(&alloc::format!(
                    "device interrupt {} cannot be assigned",
                    interrupt.intid
                )));
            }
        }
        for intid in &config.mediated.interrupts {
            let line = shared.line(*intid);
            let linked = u8::try_from(*intid)
                .is_ok_and(|intid| vgic.get_mut().share_spi(IntId(intid), line));
            if !linked {
                return Err(refuse(&alloc::format!(
                    "device interrupt {intid} cannot be assigned"
                )));
            }
        }
        let trapped = config.mediated.pages.iter();
        let shared_pages = trapped.map(|page| shared.pages.at(page.start)).collect();
        if let Some((switch, blocks)) = config.mediated.aux {
            shared.pages.enable_aux(switch, blocks);
        }
        let dtb = TicketMutex::new(WrittenTree {
            backed_bytes: config.memory.boot_bytes,
            blob: core::mem::take(&mut plan.dtb),
        });
        Ok(Self {
            index,
            masters: quiesce::Masters::new(config),
            spis,
            dtb,
            core_of: CoreMap::default(),
            vgic,
            uart: TicketMutex::new(Pl011::new()),
            messages: (own.messages.size != 0).then(boxed_port),
            is_message_next: AtomicBool::new(false),
            watchdog: own.watchdog.map(|(kind, _)| watchdog::Dog::new(kind)),
            psci: Psci::new(vcpus),
            memory,
            starts: Default::default(),
            counts: Default::default(),
            injected: AtomicU64::new(0),
            maintained: AtomicU64::new(0),
            machine: own,
            shared_pages,
            gic_version: version,
            has_run: AtomicBool::new(false),
            logged_at: AtomicU64::new(0),
            gathers_again: AtomicU64::new(0),
            has_faulted: AtomicBool::new(false),
            state: lifecycle::State::default(),
            plan,
        })
    }
}
