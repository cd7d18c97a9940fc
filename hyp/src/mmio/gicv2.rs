//! The board's GICv2: distributor, CPU interface and virtual interface control (Arm IHI 0048B.b).

use core::ptr::NonNull;

use aarch64_cpu::asm::barrier;
use tock_registers::interfaces::{Readable, Writeable};
use tock_registers::register_structs;
use tock_registers::registers::{ReadOnly, ReadWrite, WriteOnly};

register_structs! {
    /// Table 4-1: distributor map.
    Distributor {
        (0x000 => ctlr: ReadWrite<u32>),
        (0x004 => typer: ReadOnly<u32>),
        (0x008 => _r0),
        (0x080 => igroupr: [ReadWrite<u32>; 32]),
        (0x100 => isenabler: [ReadWrite<u32>; 32]),
        (0x180 => icenabler: [ReadWrite<u32>; 32]),
        (0x200 => ispendr: [ReadWrite<u32>; 32]),
        (0x280 => icpendr: [ReadWrite<u32>; 32]),
        (0x300 => isactiver: [ReadWrite<u32>; 32]),
        (0x380 => icactiver: [ReadWrite<u32>; 32]),
        (0x400 => ipriorityr: [ReadWrite<u8>; 1024]),
        (0x800 => itargetsr: [ReadWrite<u8>; 1024]),
        (0xc00 => icfgr: [ReadWrite<u32>; 64]),
        (0xd00 => _r1),
        (0xf00 => sgir: WriteOnly<u32>),
        (0xf04 => _r2),
        (0x1000 => @END),
    }
}

register_structs! {
    /// Table 4-2: CPU interface map.
    CpuInterface {
        (0x0000 => ctlr: ReadWrite<u32>),
        (0x0004 => pmr: ReadWrite<u32>),
        (0x0008 => _r0),
        (0x000c => iar: ReadOnly<u32>),
        (0x0010 => eoir: WriteOnly<u32>),
        (0x0014 => _r1),
        (0x00fc => iidr: ReadOnly<u32>),
        (0x0100 => _r2),
        (0x1000 => dir: WriteOnly<u32>),
        (0x1004 => @END),
    }
}

register_structs! {
    /// Table 5-4: virtual interface control map.
    pub Interface {
        (0x000 => pub hcr: ReadWrite<u32>),
        (0x004 => pub vtr: ReadOnly<u32>),
        (0x008 => pub vmcr: ReadWrite<u32>),
        (0x00c => _r0),
        (0x010 => pub misr: ReadOnly<u32>),
        (0x014 => _r1),
        (0x020 => pub eisr: [ReadOnly<u32>; 2]),
        (0x028 => _r2),
        (0x030 => pub elrsr: [ReadOnly<u32>; 2]),
        (0x038 => _r3),
        (0x0f0 => pub apr: ReadWrite<u32>),
        (0x0f4 => _r4),
        (0x100 => pub lr: [ReadWrite<u32>; 64]),
        (0x200 => @END),
    }
}

/// CPUTargetList of GICD_SGIR (4.3.15).
pub const SGI_TARGET_SHIFT: u32 = 16;
/// Bytes of the distributor's registers.
pub const DISTRIBUTOR_SIZE: u64 = 0x1000;
/// Bytes of a CPU interface's registers.
pub const CPU_INTERFACE_SIZE: u64 = 0x2000;
/// Bytes of the virtual interface control registers used.
pub const INTERFACE_SIZE: u64 = 0x1000;

/// Distributor (shared) and the banked interfaces of whichever core accesses them.
pub struct GicV2 {
    distributor: NonNull<Distributor>,
    cpu: NonNull<CpuInterface>,
    interface: NonNull<Interface>,
}

// SAFETY: device registers may be accessed from any core. Operations on what is shared are single
// accesses, apart from `set_edge`, whose callers exclude each other; CPU interface and virtual
// interface are banked by core.
unsafe impl Send for GicV2 {}
// SAFETY: as above.
unsafe impl Sync for GicV2 {}

impl GicV2 {
    /// # Safety
    /// The three must be the mapped register blocks of one GICv2 with virtualization extensions.
    pub const unsafe fn new(
        distributor: NonNull<u8>,
        cpu: NonNull<u8>,
        interface: NonNull<u8>,
    ) -> Self {
        Self {
            distributor: distributor.cast(),
            cpu: cpu.cast(),
            interface: interface.cast(),
        }
    }

    fn distributor(&self) -> &Distributor {
        // SAFETY: mapped for ever by the contract of `new`; fields are volatile cells.
        unsafe { self.distributor.as_ref() }
    }

    fn cpu(&self) -> &CpuInterface {
        // SAFETY: as above.
        unsafe { self.cpu.as_ref() }
    }

    /// This core's virtual interface control registers.
    #[inline]
    pub fn interface(&self) -> &Interface {
        // SAFETY: as above.
        unsafe { self.interface.as_ref() }
    }

    /// GICD_TYPER (IHI 0048B.b, 4.3.2).
    pub fn typer(&self) -> u32 {
        self.distributor().typer.get()
    }

    /// GICC_IIDR (4.4.15): whose controller it is.
    pub fn iidr(&self) -> u32 {
        self.cpu().iidr.get()
    }

    /// GICH_VTR (5.3.2).
    pub fn vtr(&self) -> u32 {
        self.interface().vtr.get()
    }

    /// Everything off, then forwarding on. Core 0, once.
    #[expect(clippy::indexing_slicing, reason = "at most the 32 words there are")]
    pub fn init_distributor(&self) {
        let gicd = self.distributor();
        gicd.ctlr.set(0);
        let words = ((gicd.typer.get() & 0x1f) + 1).min(32) as usize;
        for word in 1..words {
            gicd.icenabler[word].set(u32::MAX);
            gicd.icpendr[word].set(u32::MAX);
            gicd.icactiver[word].set(u32::MAX);
        }
        gicd.ctlr.set(1);
    }

    /// This core's banked distributor registers and CPU interface. Returns its mask for SGIs.
    pub fn init_core(&self) -> u8 {
        let gicd = self.distributor();
        gicd.icenabler[0].set(u32::MAX);
        gicd.icpendr[0].set(u32::MAX);
        gicd.icactiver[0].set(u32::MAX);
        for priority in gicd.ipriorityr.iter().take(32) {
            priority.set(0xa0);
        }
        // SGIs cannot be disabled in every implementation; where they can, they are wanted.
        gicd.isenabler[0].set(0xffff);
        let gicc = self.cpu();
        gicc.pmr.set(0xff);
        // Enable, EOImode: EOIR drops the priority, DIR deactivates (4.4.1).
        gicc.ctlr.set(1 | (1 << 9));
        gicd.itargetsr[0].get()
    }

    /// Whether this is QEMU's model (up to 10.0 at least), which does not look at a level-sensitive
    /// interrupt again when a guest's deactivation ends it through the HW bit: a timer that has fired
    /// meanwhile is lost (`hw/intc/arm_gic.c`; IHI 0048B.b, 5.2.2 says that it becomes pending).
    pub fn loses_linked_levels(&self) -> bool {
        /// GICC_IIDR of that model; a GIC-400 has product identifier 0x020 there.
        const QEMU_IIDR: u32 = 0x0002_043b;
        self.cpu().iidr.get() == QEMU_IIDR
    }

    /// Acknowledges: interrupt in bits 9:0, an SGI's sender in 12:10.
    #[inline]
    pub fn acknowledge(&self) -> u32 {
        self.cpu().iar.get()
    }

    /// Drops the running priority of what `acknowledge` returned.
    #[inline]
    pub fn drop_priority(&self, acknowledged: u32) {
        self.cpu().eoir.set(acknowledged);
    }

    /// Deactivates what `acknowledge` returned.
    #[inline]
    pub fn deactivate(&self, acknowledged: u32) {
        self.cpu().dir.set(acknowledged);
    }

    /// Turns an interrupt on; a private one on this core.
    pub fn enable(&self, intid: u32) {
        if let Some(word) = self.distributor().isenabler.get((intid / 32) as usize) {
            word.set(1 << (intid % 32));
        }
    }

    /// Turns an interrupt off; a private one on this core.
    pub fn disable(&self, intid: u32) {
        if let Some(word) = self.distributor().icenabler.get((intid / 32) as usize) {
            word.set(1 << (intid % 32));
        }
    }

    /// Takes the active state from an interrupt that no guest will end any more.
    pub fn clear_active(&self, intid: u32) {
        if let Some(word) = self.distributor().icactiver.get((intid / 32) as usize) {
            word.set(1 << (intid % 32));
        }
    }

    /// Sets or clears the pending latch; of a private interrupt on this core.
    pub fn set_pending(&self, intid: u32, pending: bool) {
        let gicd = self.distributor();
        let words = if pending {
            &gicd.ispendr
        } else {
            &gicd.icpendr
        };
        if let Some(word) = words.get((intid / 32) as usize) {
            word.set(1 << (intid % 32));
        }
    }

    /// Whether it is pending; a private one on this core.
    pub fn is_pending(&self, intid: u32) -> bool {
        let word = self.distributor().ispendr.get((intid / 32) as usize);
        word.is_some_and(|word| word.get() & (1 << (intid % 32)) != 0)
    }

    /// Routes an SPI to the cores in `mask`.
    pub fn route(&self, intid: u32, mask: u8) {
        let gicd = self.distributor();
        if let (Some(priority), Some(target)) = (
            gicd.ipriorityr.get(intid as usize),
            gicd.itargetsr.get(intid as usize),
        ) {
            priority.set(0xa0);
            target.set(mask);
        }
    }

    /// Sets an SPI's trigger. The register has sixteen interrupts: one caller at a time.
    pub fn set_edge(&self, intid: u32, edge: bool) {
        if let Some(word) = self.distributor().icfgr.get((intid / 16) as usize) {
            let bit = 2 << ((intid % 16) * 2);
            let old = word.get();
            word.set(if edge { old | bit } else { old & !bit });
        }
    }

    /// Sends SGI `id` to `targets`, a mask of cores from [`SGI_TARGET_SHIFT`] on.
    #[inline]
    pub fn send_sgi(&self, targets: u32, id: u32) {
        // What the other core is to find must be visible before the interrupt is (DDI 0487, B2.3.12).
        barrier::dsb(barrier::ISHST);
        self.distributor().sgir.set(targets | id);
    }
}
