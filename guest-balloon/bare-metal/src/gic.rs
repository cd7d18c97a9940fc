//! The interrupt controller, GICv2 (IHI 0048B.b) or GICv3 (IHI 0069), as an ordinary guest uses it.

pub mod v2;
pub mod v3;

use spin::Once;

use crate::machine::GicKind;
use crate::mmio::Mmio;

/// INTIDs from here on mean "nothing to acknowledge".
pub const SPECIAL: u32 = 1020;
/// Virtual timer PPI.
pub const VIRTUAL_TIMER: u32 = 27;

/// Distributor registers, common to both.
pub mod distributor {
    /// Control.
    pub const CTLR: usize = 0x000;
    /// Type.
    pub const TYPER: usize = 0x004;
    /// Group, one bit each.
    pub const IGROUPR: usize = 0x080;
    /// Enable, one bit each.
    pub const ISENABLER: usize = 0x100;
    /// Disable, one bit each.
    pub const ICENABLER: usize = 0x180;
    /// Pend, one bit each.
    pub const ISPENDR: usize = 0x200;
    /// Unpend, one bit each.
    pub const ICPENDR: usize = 0x280;
    /// Active, one bit each.
    pub const ISACTIVER: usize = 0x300;
    /// Deactivate, one bit each.
    pub const ICACTIVER: usize = 0x380;
    /// Priority, one byte each.
    pub const IPRIORITYR: usize = 0x400;
    /// Target CPUs, one byte each (GICv2).
    pub const ITARGETSR: usize = 0x800;
    /// Software-generated interrupts (GICv2).
    pub const SGIR: usize = 0xf00;
    /// Trigger, two bits each.
    pub const ICFGR: usize = 0xc00;
    /// Routing, eight bytes each (GICv3).
    pub const IROUTER: usize = 0x6000;
}

/// The controller.
#[derive(Clone, Copy, Debug)]
pub enum Gic {
    /// GICv2.
    V2(v2::GicV2),
    /// GICv3.
    V3(v3::GicV3),
}

static GIC: Once<Gic> = Once::new();

/// The controller, after [`init`].
///
/// # Panics
/// Before `init`.
pub fn get() -> Gic {
    *GIC.get().expect("the GIC is set up first")
}

/// Sets the distributor up, once, on the boot core.
pub fn init(kind: GicKind) {
    // SAFETY: the device tree says the controller is there; GiB 0 is mapped as device memory.
    let gic = unsafe {
        match kind {
            GicKind::V2 { distributor, cpu } => Gic::V2(v2::GicV2 {
                distributor: Mmio::new(distributor),
                cpu: Mmio::new(cpu),
            }),
            GicKind::V3 {
                distributor,
                redistributors,
            } => Gic::V3(v3::GicV3 {
                distributor: Mmio::new(distributor),
                redistributors: (redistributors.0, redistributors.1),
            }),
        }
    };
    GIC.call_once(|| gic);
    gic.init_distributor();
    gic.init_core();
}

impl Gic {
    /// The distributor's registers.
    pub fn distributor(self) -> Mmio {
        match self {
            Self::V2(gic) => gic.distributor,
            Self::V3(gic) => gic.distributor,
        }
    }

    /// Where this core's SGI and PPI registers are: the distributor or the own redistributor's SGI frame.
    pub fn private(self) -> Mmio {
        match self {
            Self::V2(gic) => gic.distributor,
            Self::V3(gic) => gic.own_sgi_frame(),
        }
    }

    fn init_distributor(self) {
        match self {
            Self::V2(gic) => gic.init_distributor(),
            Self::V3(gic) => gic.init_distributor(),
        }
    }

    /// Sets the distributor up anew, after a test has been through its registers.
    pub fn reset_distributor(self) {
        self.init_distributor();
    }

    /// Sets the calling core's interface up: all SGIs enabled, every priority let through.
    pub fn init_core(self) {
        match self {
            Self::V2(gic) => gic.init_core(),
            Self::V3(gic) => gic.init_core(),
        }
    }

    /// Enables an interrupt at priority 0xa0; an SPI goes to the calling core.
    pub fn enable(self, intid: u32) {
        let registers = if intid < 32 {
            self.private()
        } else {
            self.distributor()
        };
        let (index, bit) = (intid as usize, intid % 32);
        registers.write8(distributor::IPRIORITYR + index, 0xa0);
        if intid >= 32 {
            match self {
                Self::V2(gic) => gic.route_here(intid),
                Self::V3(gic) => gic.route_here(intid),
            }
        }
        registers.write32(distributor::ISENABLER + index / 32 * 4, 1 << bit);
    }

    /// Routes an SPI to the core with this number (Aff0) and affinity.
    pub fn route(self, intid: u32, cpu: usize, mpidr: u64) {
        match self {
            Self::V2(gic) => gic
                .distributor
                .write8(distributor::ITARGETSR + intid as usize, 1 << cpu),
            Self::V3(gic) => gic
                .distributor
                .write64(distributor::IROUTER + intid as usize * 8, mpidr),
        }
    }

    /// Lets only interrupts of a higher priority (a lower number) through to the calling core.
    pub fn let_through(self, priority: u8) {
        match self {
            Self::V2(gic) => gic.let_through(priority),
            Self::V3(_) => v3::let_through(priority),
        }
    }

    /// Disables an interrupt.
    pub fn disable(self, intid: u32) {
        let registers = if intid < 32 {
            self.private()
        } else {
            self.distributor()
        };
        registers.write32(
            distributor::ICENABLER + intid as usize / 32 * 4,
            1 << (intid % 32),
        );
    }

    /// What the calling core's interface was left with, ORed: controls, priority mask, active priorities, and what is
    /// running or pending if anything is. Zero after a reset.
    pub fn interface_leftovers(self) -> u32 {
        match self {
            Self::V2(gic) => gic.interface_leftovers(),
            Self::V3(_) => v3::interface_leftovers(),
        }
    }

    /// Acknowledges the highest-priority pending interrupt: the value to give to [`Self::end`].
    /// Its bits 9:0 are the INTID on both versions (no LPIs here).
    pub fn acknowledge(self) -> u32 {
        match self {
            Self::V2(gic) => gic.acknowledge(),
            Self::V3(_) => v3::acknowledge(),
        }
    }

    /// Ends an acknowledged interrupt.
    pub fn end(self, acknowledged: u32) {
        match self {
            Self::V2(gic) => gic.end(acknowledged),
            Self::V3(_) => v3::end(acknowledged),
        }
    }

    /// Sends SGI `id` to the core with this number (Aff0; the machine's clusters have up to 8).
    pub fn send_sgi(self, id: u32, cpu: usize) {
        aarch64_cpu::asm::barrier::dsb(aarch64_cpu::asm::barrier::ISHST);
        match self {
            Self::V2(gic) => gic.send_sgi(id, cpu),
            Self::V3(_) => v3::send_sgi(id, cpu),
        }
    }
}
