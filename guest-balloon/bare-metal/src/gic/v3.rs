//! GICv3: distributor, redistributors, CPU interface in system registers.

use core::arch::asm;

use super::distributor as d;
use crate::{cpu, mmio::Mmio};

/// Distributor control: ARE, group 1 and (one security state) group 0.
const CTLR_ON: u32 = 1 << 4 | 1 << 1 | 1;
const CTLR_RWP: u32 = 1 << 31;

const GICR_TYPER: usize = 0x08;
const GICR_WAKER: usize = 0x14;
const WAKER_PROCESSOR_SLEEP: u32 = 1 << 1;
const WAKER_CHILDREN_ASLEEP: u32 = 1 << 2;
const GICR_FRAME: u64 = 0x1_0000;
const GICR_STRIDE: u64 = 2 * GICR_FRAME;

/// Distributor and redistributor region.
#[derive(Clone, Copy, Debug)]
pub struct GicV3 {
    /// Distributor, 64 KiB.
    pub distributor: Mmio,
    /// Start and end of the redistributors, 128 KiB each.
    pub redistributors: (u64, u64),
}

impl GicV3 {
    /// This core's redistributor: the one whose TYPER has its affinity.
    ///
    /// # Panics
    /// If there is none.
    pub fn own_redistributor(self) -> Mmio {
        let mpidr = cpu::mpidr_affinity();
        let affinity = (mpidr >> 32 & 0xff) << 24 | mpidr & 0xff_ffff;
        let mut address = self.redistributors.0;
        while address < self.redistributors.1 {
            // SAFETY: within the region that the device tree gives.
            let registers = unsafe { Mmio::new(address) };
            let typer = registers.read64(GICR_TYPER);
            if typer >> 32 == affinity {
                return registers;
            }
            if typer & 1 << 4 != 0 {
                break;
            }
            address += GICR_STRIDE;
        }
        panic!("no redistributor for affinity {affinity:#x}");
    }

    pub(super) fn own_sgi_frame(self) -> Mmio {
        // SAFETY: the second frame of the redistributor.
        unsafe { Mmio::new(self.own_redistributor().address(0) + GICR_FRAME) }
    }

    pub(super) fn init_distributor(self) {
        let lines = (self.distributor.read32(d::TYPER) & 0x1f) as usize;
        for word in 1..=lines.min(30) {
            self.distributor.write32(d::IGROUPR + word * 4, u32::MAX);
        }
        self.distributor.write32(d::CTLR, CTLR_ON);
        while self.distributor.read32(d::CTLR) & CTLR_RWP != 0 {}
    }

    pub(super) fn init_core(self) {
        let redistributor = self.own_redistributor();
        let waker = redistributor.read32(GICR_WAKER);
        redistributor.write32(GICR_WAKER, waker & !WAKER_PROCESSOR_SLEEP);
        while redistributor.read32(GICR_WAKER) & WAKER_CHILDREN_ASLEEP != 0 {}
        let sgi = self.own_sgi_frame();
        sgi.write32(d::IGROUPR, u32::MAX);
        for word in 0..8 {
            sgi.write32(d::IPRIORITYR + word * 4, 0xa0a0_a0a0);
        }
        sgi.write32(d::ISENABLER, 0xffff);
        // SAFETY: the CPU interface's own registers (IHI 0069 section 12.2); no memory is touched.
        unsafe {
            asm!(
                "msr icc_sre_el1, {sre}",
                "isb",
                "msr icc_pmr_el1, {pmr}",
                "msr icc_bpr1_el1, xzr",
                "msr icc_ctlr_el1, xzr",
                "msr icc_igrpen1_el1, {on}",
                "isb",
                sre = in(reg) 7_u64, pmr = in(reg) 0xf0_u64, on = in(reg) 1_u64,
                options(nostack)
            );
        }
    }

    pub(super) fn route_here(self, intid: u32) {
        self.distributor
            .write64(d::IROUTER + intid as usize * 8, cpu::mpidr_affinity());
    }
}

pub(super) fn interface_leftovers() -> u32 {
    let (pmr, on, active, running, pending): (u64, u64, u64, u64, u64);
    // SAFETY: reads of the CPU interface's own registers, which change nothing.
    unsafe {
        asm!(
            "mrs {0}, icc_pmr_el1",
            "mrs {1}, icc_igrpen1_el1",
            "mrs {2}, icc_ap1r0_el1",
            "mrs {3}, icc_rpr_el1",
            "mrs {4}, icc_hppir1_el1",
            out(reg) pmr, out(reg) on, out(reg) active, out(reg) running, out(reg) pending,
            options(nomem, nostack)
        );
    }
    // 0xff and 1023 are "none" (IHI 0069H 12.2.14 and 12.2.9).
    (pmr | on | active) as u32 | (running as u32 ^ 0xff) | (pending as u32 ^ 1023)
}

pub(super) fn acknowledge() -> u32 {
    let value: u64;
    // SAFETY: acknowledging changes the CPU interface alone; the barrier orders it before what follows
    // (IHI 0069 section 4.4.2).
    unsafe { asm!("mrs {}, icc_iar1_el1", "dsb sy", out(reg) value, options(nostack)) };
    value as u32
}

pub(super) fn let_through(priority: u8) {
    // SAFETY: the CPU interface's own register; interrupts are all it decides on.
    unsafe { asm!("msr icc_pmr_el1, {}", "isb", in(reg) u64::from(priority), options(nostack)) };
}

pub(super) fn end(acknowledged: u32) {
    // SAFETY: as `acknowledge`.
    unsafe {
        asm!("msr icc_eoir1_el1, {}", "isb", in(reg) u64::from(acknowledged), options(nostack))
    };
}

pub(super) fn send_sgi(id: u32, cpu: usize) {
    // Aff3..Aff1 zero, range selector zero, target list in bits 15:0.
    let value = u64::from(id) << 24 | 1 << cpu;
    // SAFETY: sends an interrupt, touches no memory.
    unsafe { asm!("msr icc_sgi1r_el1, {}", "isb", in(reg) value, options(nostack)) };
}
