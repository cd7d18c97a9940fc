//! The board's GICv3: distributor, redistributors, and the CPU interface's system registers
//! (Arm IHI 0069H).

pub mod interface;

use core::arch::asm;
use core::ptr::NonNull;

use aarch64_cpu::asm::barrier;
use tock_registers::interfaces::{Readable, Writeable};
use tock_registers::register_structs;
use tock_registers::registers::{ReadOnly, ReadWrite, WriteOnly};

/// GICD_CTLR.RWP: a write that disables something has not taken effect yet.
const RWP: u32 = 1 << 31;

register_structs! {
    /// 12.9: distributor map.
    Distributor {
        (0x0000 => ctlr: ReadWrite<u32>),
        (0x0004 => typer: ReadOnly<u32>),
        (0x0008 => _r0),
        (0x0080 => igroupr: [ReadWrite<u32>; 32]),
        (0x0100 => isenabler: [ReadWrite<u32>; 32]),
        (0x0180 => icenabler: [ReadWrite<u32>; 32]),
        (0x0200 => ispendr: [ReadWrite<u32>; 32]),
        (0x0280 => icpendr: [ReadWrite<u32>; 32]),
        (0x0300 => isactiver: [ReadWrite<u32>; 32]),
        (0x0380 => icactiver: [ReadWrite<u32>; 32]),
        (0x0400 => ipriorityr: [ReadWrite<u8>; 1024]),
        (0x0800 => _r1),
        (0x0c00 => icfgr: [ReadWrite<u32>; 64]),
        (0x0d00 => _r2),
        (0x6000 => irouter: [ReadWrite<u64>; 1020]),
        (0x7fe0 => _r3),
        (0x10000 => @END),
    }
}

register_structs! {
    /// 12.11: a redistributor's RD_base and SGI_base frames.
    Redistributor {
        (0x00000 => _ctlr: ReadWrite<u32>),
        (0x00004 => _r0),
        (0x00008 => typer: ReadOnly<u64>),
        (0x00010 => _r1),
        (0x00014 => waker: ReadWrite<u32>),
        (0x00018 => _r2),
        (0x10080 => igroupr0: ReadWrite<u32>),
        (0x10084 => _r3),
        (0x10100 => isenabler0: ReadWrite<u32>),
        (0x10104 => _r4),
        (0x10180 => icenabler0: WriteOnly<u32>),
        (0x10184 => _r5),
        (0x10200 => ispendr0: ReadWrite<u32>),
        (0x10204 => _r9),
        (0x10280 => icpendr0: WriteOnly<u32>),
        (0x10284 => _r6),
        (0x10380 => icactiver0: WriteOnly<u32>),
        (0x10384 => _r7),
        (0x10400 => ipriorityr: [ReadWrite<u8>; 32]),
        (0x10420 => _r8),
        (0x20000 => @END),
    }
}

/// Bytes of the distributor's frame.
pub const DISTRIBUTOR_SIZE: u64 = 0x1_0000;
/// Bytes of one redistributor without GICv4's extra frames.
pub const REDISTRIBUTOR_SIZE: u64 = 0x2_0000;

/// The distributor, shared by all cores, and every core's redistributor.
pub struct GicV3 {
    distributor: NonNull<Distributor>,
    redistributors: [Option<NonNull<Redistributor>>; ballast_core::limits::MAX_CORES],
}

// SAFETY: device registers may be accessed from any core. Operations on what is shared are single
// accesses, apart from `set_edge`, whose callers exclude each other.
unsafe impl Send for GicV3 {}
// SAFETY: as above.
unsafe impl Sync for GicV3 {}

impl GicV3 {
    /// # Safety
    /// `distributor` must be the mapped distributor frame of a GICv3.
    pub const unsafe fn new(distributor: NonNull<u8>) -> Self {
        Self {
            distributor: distributor.cast(),
            redistributors: [None; _],
        }
    }

    /// Looks whether the mapped redistributor at `base` is of one of the cores; `affinity(core)` is
    /// MPIDR's affinity fields in GICR_TYPER's form. Returns whether it is the last of its region.
    ///
    /// # Safety
    /// `base` must be a mapped redistributor (RD_base and SGI_base).
    pub unsafe fn add_redistributor(&mut self, base: NonNull<u8>, affinities: &[u32]) -> bool {
        let redistributor = base.cast::<Redistributor>();
        // SAFETY: by contract.
        let typer = unsafe { redistributor.as_ref() }.typer.get();
        let core = affinities
            .iter()
            .position(|affinity| u64::from(*affinity) == typer >> 32);
        if let Some(slot) = core.and_then(|core| self.redistributors.get_mut(core)) {
            *slot = Some(redistributor);
        }
        typer & (1 << 4) != 0
    }

    fn distributor(&self) -> &Distributor {
        // SAFETY: mapped for ever by the contract of `new`; fields are volatile cells.
        unsafe { self.distributor.as_ref() }
    }

    fn redistributor(&self, core: usize) -> Option<&Redistributor> {
        // SAFETY: mapped for ever by the contract of `add_redistributor`.
        self.redistributors
            .get(core)
            .copied()
            .flatten()
            .map(|r| unsafe { r.as_ref() })
    }

    /// Whether core `core` has a redistributor.
    pub fn has_core(&self, core: usize) -> bool {
        self.redistributor(core).is_some()
    }

    /// GICD_TYPER (IHI 0069H, 12.9.38).
    pub fn typer(&self) -> u32 {
        self.distributor().typer.get()
    }

    /// Everything off, group 1, affinity routing on. Core 0, once.
    #[expect(clippy::indexing_slicing, reason = "at most the 32 words there are")]
    pub fn init_distributor(&self) {
        let gicd = self.distributor();
        gicd.ctlr.set(0);
        let words = ((gicd.typer.get() & 0x1f) + 1).min(32) as usize;
        for word in 1..words {
            gicd.icenabler[word].set(u32::MAX);
            gicd.icpendr[word].set(u32::MAX);
            gicd.icactiver[word].set(u32::MAX);
            gicd.igroupr[word].set(u32::MAX);
        }
        while gicd.ctlr.get() & RWP != 0 {}
        // ARE_NS and EnableGrp1(A): the same bits in the single-state and the Non-secure view (12.9.4).
        gicd.ctlr.set((1 << 4) | (1 << 1));
    }

    /// This core's redistributor and CPU interface.
    pub fn init_core(&self, core: usize) {
        if let Some(gicr) = self.redistributor(core) {
            gicr.waker.set(gicr.waker.get() & !(1 << 1));
            while gicr.waker.get() & (1 << 2) != 0 {}
            gicr.icenabler0.set(u32::MAX);
            gicr.icpendr0.set(u32::MAX);
            gicr.icactiver0.set(u32::MAX);
            gicr.igroupr0.set(u32::MAX);
            for priority in &gicr.ipriorityr {
                priority.set(0xa0);
            }
        }
        // SAFETY: switches the CPU interface to system registers (SRE, and Enable so that a guest's
        // access to ICC_SRE_EL1 does not trap), all priorities, EOI drops priority only
        // (ICC_CTLR_EL1.EOImode), group 1 on (12.2.x). EL2 holds interrupts masked.
        unsafe {
            asm!(
                "msr S3_4_C12_C9_5, {sre}", "isb",
                "msr S3_0_C4_C6_0, {pmr}",
                "msr S3_0_C12_C12_4, {ctlr}",
                "msr S3_0_C12_C12_7, {one}",
                "isb",
                sre = in(reg) 0xf_u64, pmr = in(reg) 0xff_u64, ctlr = in(reg) 2_u64, one = in(reg) 1_u64,
                options(nostack, preserves_flags)
            );
        }
    }

    /// Turns an SGI, PPI or SPI on; a private one on `core`.
    pub fn enable(&self, core: usize, intid: u32) {
        let bit = 1 << (intid % 32);
        if intid < 32 {
            if let Some(gicr) = self.redistributor(core) {
                gicr.isenabler0.set(bit);
            }
        } else if let Some(word) = self.distributor().isenabler.get((intid / 32) as usize) {
            word.set(bit);
        }
    }

    /// Turns an SGI, PPI or SPI off; a private one on `core`.
    pub fn disable(&self, core: usize, intid: u32) {
        let bit = 1 << (intid % 32);
        if intid < 32 {
            if let Some(gicr) = self.redistributor(core) {
                gicr.icenabler0.set(bit);
            }
        } else if let Some(word) = self.distributor().icenabler.get((intid / 32) as usize) {
            word.set(bit);
        }
    }

    /// Takes the active state from a private interrupt of `core` or an SPI that no guest will end any more.
    pub fn clear_active(&self, core: usize, intid: u32) {
        let bit = 1 << (intid % 32);
        if intid < 32 {
            if let Some(gicr) = self.redistributor(core) {
                gicr.icactiver0.set(bit);
            }
        } else if let Some(word) = self.distributor().icactiver.get((intid / 32) as usize) {
            word.set(bit);
        }
    }

    /// Sets or clears the pending latch; of a private interrupt on `core`.
    pub fn set_pending(&self, core: usize, intid: u32, pending: bool) {
        let bit = 1 << (intid % 32);
        if intid < 32 {
            match (self.redistributor(core), pending) {
                (Some(gicr), true) => gicr.ispendr0.set(bit),
                (Some(gicr), false) => gicr.icpendr0.set(bit),
                (None, _) => {}
            }
            return;
        }
        let gicd = self.distributor();
        let words = if pending {
            &gicd.ispendr
        } else {
            &gicd.icpendr
        };
        if let Some(word) = words.get((intid / 32) as usize) {
            word.set(bit);
        }
    }

    /// Whether it is pending; a private one on `core`.
    pub fn is_pending(&self, core: usize, intid: u32) -> bool {
        let word = if intid < 32 {
            self.redistributor(core).map(|gicr| gicr.ispendr0.get())
        } else {
            self.distributor()
                .ispendr
                .get((intid / 32) as usize)
                .map(|word| word.get())
        };
        word.is_some_and(|word| word & (1 << (intid % 32)) != 0)
    }

    /// Routes an SPI to the core with this MPIDR affinity (Aff3.Aff2.Aff1.Aff0 as in IROUTER).
    pub fn route(&self, intid: u32, affinity: u64) {
        let gicd = self.distributor();
        if let Some(priority) = gicd.ipriorityr.get(intid as usize) {
            priority.set(0xa0);
        }
        if let Some(router) = (intid as usize)
            .checked_sub(32)
            .and_then(|_| gicd.irouter.get(intid as usize))
        {
            router.set(affinity);
        }
    }

    /// Sets an SPI's trigger. The register has sixteen interrupts: one caller at a time. The interrupt has to be
    /// disabled, and may be so a moment ago: that has taken effect when GICD_CTLR.RWP is clear (IHI 0069H, 12.9.4,
    /// 12.9.9). Other cores' writes set it, too, so it is not waited for without end.
    pub fn set_edge(&self, intid: u32, edge: bool) {
        const MOST_LOOKS: u32 = 64;
        let is_pending = || self.distributor().ctlr.get() & RWP != 0;
        let _ = (0..MOST_LOOKS).take_while(|_| is_pending()).count();
        if let Some(word) = self.distributor().icfgr.get((intid / 16) as usize) {
            let bit = 2 << ((intid % 16) * 2);
            let old = word.get();
            word.set(if edge { old | bit } else { old & !bit });
        }
    }
}

/// Acknowledges the highest pending group 1 interrupt (ICC_IAR1_EL1).
#[inline]
pub fn acknowledge() -> u32 {
    let intid: u64;
    // SAFETY: changes only the CPU interface's state; the caller ends what it acknowledges.
    unsafe {
        asm!("mrs {}, S3_0_C12_C12_0", out(reg) intid, options(nomem, nostack, preserves_flags))
    };
    intid as u32
}

/// Drops the running priority (ICC_EOIR1_EL1 with EOImode 1).
#[inline]
pub fn drop_priority(intid: u32) {
    // SAFETY: the interrupt was acknowledged on this core.
    unsafe {
        asm!("msr S3_0_C12_C12_1, {}", in(reg) u64::from(intid), options(nomem, nostack, preserves_flags))
    };
}

/// Deactivates an interrupt (ICC_DIR_EL1).
#[inline]
pub fn deactivate(intid: u32) {
    // SAFETY: as above.
    unsafe {
        asm!("msr S3_0_C12_C11_1, {}", in(reg) u64::from(intid), options(nomem, nostack, preserves_flags))
    };
}

/// The core with MPIDR `mpidr` as the target of an SGI: ICC_SGI1R_EL1 without an INTID (12.2.14).
pub const fn sgi_target(mpidr: u64) -> u64 {
    let (aff0, aff1, aff2, aff3) = (
        mpidr & 0xff,
        (mpidr >> 8) & 0xff,
        (mpidr >> 16) & 0xff,
        (mpidr >> 32) & 0xff,
    );
    (aff3 << 48) | ((aff0 >> 4) << 44) | (aff2 << 32) | (aff1 << 16) | (1 << (aff0 & 0xf))
}

/// Sends SGI `id` to `target`.
#[inline]
pub fn send_sgi(target: u64, id: u32) {
    let value = target | u64::from(id) << 24;
    // What the other core is to find must be visible before the interrupt is (DDI 0487, B2.3.12).
    barrier::dsb(barrier::ISHST);
    // SAFETY: an SGI to a core of ours.
    unsafe {
        asm!("msr S3_0_C12_C11_5, {}", "isb", in(reg) value, options(nostack, preserves_flags))
    };
}

/// Empties this core's virtual interface and turns it off.
pub fn reset_virtual_interface(list_registers: usize) {
    interface::set_hcr(0);
    for index in 0..list_registers {
        interface::set_list_register(index, 0);
    }
    interface::reset_active_priorities();
    interface::set_vmcr(0);
    // A guest may have turned its system registers off where that is possible: ICC_SRE_EL1.
    // SAFETY: SRE, DFB and DIB of EL1, which EL2's own, on since `init_core`, does not depend on.
    unsafe {
        asm!("msr S3_0_C12_C12_5, {}", in(reg) 7_u64, options(nomem, nostack, preserves_flags))
    };
    barrier::isb(barrier::SY);
}
