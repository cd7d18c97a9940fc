//! The board's interrupt controller, of either version, for the cores that Ballast runs on.

mod host;
mod lines;

use alloc::boxed::Box;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};

use ballast_core::board::{Board, Gic as GicBlocks};
use ballast_core::limits::MAX_CORES;

use crate::aarch64::mmu::map_device;
use crate::mmio::gicv2::{self, GicV2};
use crate::mmio::gicv3::{self, GicV3};
use spin::Once;
use spin::mutex::TicketMutex;
use tock_registers::interfaces::{Readable, Writeable};

pub use host::Host;
pub use lines::SharedSpi;

/// The SGI with which one core asks another to look at its requests.
pub const KICK: u32 = 0;
/// The SGI with which one core tells another that something is pending for the vCPU there.
pub const DELIVER: u32 = 1;
/// EL2's own timer (PPI 26, as Arm's base system architecture gives it).
pub const TIMER: u32 = 26;

/// The controller and what it knows of each core.
pub struct Gic {
    version: Version,
    /// INTID of the maintenance interrupt.
    pub maintenance: u32,
    /// List registers of each core (the same on all), at most 16.
    pub list_registers: u32,
    /// Timers are ended by EL2 and not through the HW bit: see [`GicV2::loses_linked_levels`].
    pub ends_timers: bool,
    mpidr: [u64; MAX_CORES],
    /// What names each core as an SGI's target: GICD_SGIR without its INTID, or ICC_SGI1R_EL1 without. Known
    /// once the core's interface is up.
    sgi: [AtomicU64; MAX_CORES],
    /// Held while a configuration register, which interrupts of several guests share, is rewritten.
    configuration: TicketMutex<()>,
    /// Interrupts with several holders.
    lines: Once<Box<[lines::SharedSpi]>>,
}

/// Which architecture.
pub enum Version {
    /// GICv2: memory-mapped interfaces.
    V2(GicV2),
    /// GICv3: system-register interfaces.
    V3(GicV3),
}

fn device(pa: ballast_core::addr::Pa, size: u64) -> NonNull<u8> {
    NonNull::new(map_device(pa, size)).unwrap_or(NonNull::dangling())
}

impl Gic {
    /// Maps the register blocks and turns everything off. `Err` names what is missing.
    pub fn new(board: &Board) -> Result<Self, &'static str> {
        let mut mpidr = [0; MAX_CORES];
        let mut affinities = [0_u32; MAX_CORES];
        let slots = mpidr.iter_mut().zip(&mut affinities);
        for (core, (mpidr, affinity)) in board.cores.iter().zip(slots) {
            *mpidr = core.mpidr;
            // GICR_TYPER.Affinity_Value: Aff3.Aff2.Aff1.Aff0 (IHI 0069H, 12.11.34).
            *affinity = ((core.mpidr >> 8) & 0xff00_0000) as u32 | (core.mpidr & 0xff_ffff) as u32;
        }
        let (version, maintenance) = match &board.gic {
            GicBlocks::V2 {
                gicd,
                gicc,
                gich,
                maintenance,
                ..
            } => {
                // SAFETY: the device tree says that these are the blocks of a GICv2; mapped here, once.
                let gic = unsafe {
                    GicV2::new(
                        device(gicd.start, gicv2::DISTRIBUTOR_SIZE),
                        device(gicc.start, gicv2::CPU_INTERFACE_SIZE),
                        device(gich.start, gicv2::INTERFACE_SIZE),
                    )
                };
                gic.init_distributor();
                (Version::V2(gic), *maintenance)
            }
            GicBlocks::V3 {
                gicd,
                redistributors,
                stride,
                maintenance,
            } => {
                // SAFETY: the device tree says that this is the distributor of a GICv3.
                let mut gic = unsafe { GicV3::new(device(gicd.start, gicv3::DISTRIBUTOR_SIZE)) };
                let cores = board.cores.len().min(MAX_CORES);
                for region in redistributors {
                    let mut at = region.start;
                    while at.0 + gicv3::REDISTRIBUTOR_SIZE <= region.end().0
                        && !(0..cores).all(|core| gic.has_core(core))
                    {
                        let base = device(at, gicv3::REDISTRIBUTOR_SIZE);
                        // SAFETY: within the region the device tree names, at its stride; mapped.
                        if unsafe {
                            gic.add_redistributor(base, affinities.get(..cores).unwrap_or(&[]))
                        } {
                            break;
                        }
                        at.0 += stride;
                    }
                }
                if !(0..cores).all(|core| gic.has_core(core)) {
                    return Err("a core has no redistributor in the GIC's regions");
                }
                gic.init_distributor();
                (Version::V3(gic), *maintenance)
            }
        };
        let list_registers = match &version {
            // VTR.ListRegs is one less (IHI 0048B.b, 5.3.2; IHI 0069H, 12.4.9).
            Version::V2(gic) => (gic.interface().vtr.get() & 0x3f) + 1,
            Version::V3(_) => (gicv3::interface::vtr() as u32 & 0x1f) + 1,
        }
        .min(16);
        let ends_timers = match &version {
            Version::V2(gic) => gic.loses_linked_levels(),
            Version::V3(_) => false,
        };
        Ok(Self {
            version,
            ends_timers,
            list_registers,
            maintenance,
            mpidr,
            sgi: [const { AtomicU64::new(0) }; MAX_CORES],
            configuration: TicketMutex::new(()),
            lines: Once::new(),
        })
    }

    /// Which architecture, with its registers.
    #[inline]
    pub const fn version(&self) -> &Version {
        &self.version
    }

    /// Brings up the calling core's interface.
    pub fn init_core(&self, core: usize) {
        let sgi = match &self.version {
            Version::V2(gic) => u64::from(gic.init_core()) << gicv2::SGI_TARGET_SHIFT,
            Version::V3(gic) => {
                gic.init_core(core);
                gicv3::sgi_target(self.mpidr_of(core))
            }
        };
        if let Some(slot) = self.sgi.get(core) {
            slot.store(sgi, Ordering::Relaxed);
        }
        self.reset_virtual_interface();
        self.enable(core, KICK);
        self.enable(core, DELIVER);
        self.enable(core, TIMER);
        self.enable(core, self.maintenance);
    }

    /// What names core `core` as an SGI's target; nobody for one that is not there.
    #[inline]
    fn sgi_of(&self, core: usize) -> u64 {
        self.sgi
            .get(core)
            .map_or(0, |sgi| sgi.load(Ordering::Relaxed))
    }

    fn mpidr_of(&self, core: usize) -> u64 {
        self.mpidr.get(core).copied().unwrap_or(0)
    }

    /// Sends `sgi`, [`KICK`] or [`DELIVER`], to core `core`.
    #[inline]
    pub fn send(&self, core: usize, sgi: u32) {
        let target = self.sgi_of(core);
        match &self.version {
            Version::V2(gic) => gic.send_sgi(target as u32, sgi),
            Version::V3(_) => gicv3::send_sgi(target, sgi),
        }
    }

    /// Acknowledges the most urgent interrupt; the INTID is in bits 9:0 (GICv2) or 23:0.
    #[inline]
    pub fn acknowledge(&self) -> u32 {
        match &self.version {
            Version::V2(gic) => gic.acknowledge(),
            Version::V3(_) => gicv3::acknowledge(),
        }
    }

    /// The INTID in what [`Gic::acknowledge`] returned: a GICv2 SGI's sender stands above it
    /// (IHI 0048B.b, 4.4.4).
    #[inline]
    pub const fn intid(acknowledged: u32) -> u32 {
        acknowledged & 0x3ff
    }

    /// Lets further interrupts in, keeping this one active.
    #[inline]
    pub fn drop_priority(&self, acknowledged: u32) {
        match &self.version {
            Version::V2(gic) => gic.drop_priority(acknowledged),
            Version::V3(_) => gicv3::drop_priority(acknowledged),
        }
    }

    /// Ends an interrupt of EL2's own.
    #[inline]
    pub fn end(&self, acknowledged: u32) {
        match &self.version {
            Version::V2(gic) => {
                gic.drop_priority(acknowledged);
                gic.deactivate(acknowledged);
            }
            Version::V3(_) => {
                gicv3::drop_priority(acknowledged);
                gicv3::deactivate(acknowledged);
            }
        }
    }

    /// Turns an interrupt on; a private one on `core`, which for GICv2 must be the calling one.
    pub fn enable(&self, core: usize, intid: u32) {
        match &self.version {
            Version::V2(gic) => gic.enable(intid),
            Version::V3(gic) => gic.enable(core, intid),
        }
    }

    /// Turns an interrupt off; as [`Gic::enable`].
    pub fn disable(&self, core: usize, intid: u32) {
        match &self.version {
            Version::V2(gic) => gic.disable(intid),
            Version::V3(gic) => gic.disable(core, intid),
        }
    }

    /// Takes the active state away from an interrupt that its guest will not end any more.
    pub fn clear_active(&self, core: usize, intid: u32) {
        match &self.version {
            Version::V2(gic) => gic.clear_active(intid),
            Version::V3(gic) => gic.clear_active(core, intid),
        }
    }

    /// Sets or clears an interrupt's pending latch; as [`Gic::enable`].
    pub fn set_pending(&self, core: usize, intid: u32, pending: bool) {
        match &self.version {
            Version::V2(gic) => gic.set_pending(intid, pending),
            Version::V3(gic) => gic.set_pending(core, intid, pending),
        }
    }

    /// Whether an interrupt is pending; as [`Gic::enable`].
    pub fn is_pending(&self, core: usize, intid: u32) -> bool {
        match &self.version {
            Version::V2(gic) => gic.is_pending(intid),
            Version::V3(gic) => gic.is_pending(core, intid),
        }
    }

    /// Whether no list register of the calling core holds an interrupt.
    pub fn has_no_virtual_interrupt(&self) -> bool {
        let empty = match &self.version {
            Version::V2(gic) => gic.interface().elrsr[0].get(),
            Version::V3(_) => gicv3::interface::elrsr() as u32,
        };
        let all = (1 << self.list_registers) - 1;
        empty & all == all
    }

    /// Turns the calling core's virtual interface off, with nothing in it: as a guest finds it that is entered
    /// here after [`start_virtual_interface`](Self::start_virtual_interface).
    pub fn reset_virtual_interface(&self) {
        match &self.version {
            Version::V2(gic) => {
                let gich = gic.interface();
                gich.hcr.set(0);
                for lr in gich.lr.iter().take(self.list_registers as usize) {
                    lr.set(0);
                }
                gich.apr.set(0);
                gich.vmcr.set(0);
            }
            Version::V3(_) => gicv3::reset_virtual_interface(self.list_registers as usize),
        }
    }

    /// Turns it on.
    pub fn start_virtual_interface(&self) {
        match &self.version {
            Version::V2(gic) => gic.interface().hcr.set(1),
            Version::V3(_) => gicv3::interface::set_hcr(1),
        }
    }

    /// Routes an SPI to `core`.
    pub fn route(&self, intid: u32, core: usize) {
        match &self.version {
            Version::V2(gic) => {
                gic.route(intid, (self.sgi_of(core) >> gicv2::SGI_TARGET_SHIFT) as u8)
            }
            Version::V3(gic) => gic.route(intid, self.mpidr_of(core)),
        }
    }

    /// Sets an SPI's trigger.
    pub fn set_edge(&self, intid: u32, edge: bool) {
        let _held = self.configuration.lock();
        match &self.version {
            Version::V2(gic) => gic.set_edge(intid, edge),
            Version::V3(gic) => gic.set_edge(intid, edge),
        }
    }
}
