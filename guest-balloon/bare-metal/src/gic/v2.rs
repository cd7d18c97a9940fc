//! GICv2: distributor and memory-mapped CPU interface.

use super::distributor as d;
use crate::mmio::Mmio;

const CTLR: usize = 0x00;
const PMR: usize = 0x04;
const BPR: usize = 0x08;
const IAR: usize = 0x0c;
const EOIR: usize = 0x10;
const RPR: usize = 0x14;
const HPPIR: usize = 0x18;
const APR0: usize = 0xd0;

/// The two register blocks.
#[derive(Clone, Copy, Debug)]
pub struct GicV2 {
    /// Distributor, 4 KiB.
    pub distributor: Mmio,
    /// CPU interface, 8 KiB.
    pub cpu: Mmio,
}

impl GicV2 {
    pub(super) fn init_distributor(self) {
        self.distributor.write32(d::CTLR, 1);
    }

    pub(super) fn init_core(self) {
        self.distributor.write32(d::ISENABLER, 0xffff);
        for word in 0..8 {
            self.distributor
                .write32(d::IPRIORITYR + word * 4, 0xa0a0_a0a0);
        }
        self.cpu.write32(PMR, 0xf0);
        self.cpu.write32(BPR, 0);
        self.cpu.write32(CTLR, 1);
    }

    pub(super) fn route_here(self, intid: u32) {
        // ITARGETSR0..7 read as the calling core's own bit (IHI 0048B.b section 4.3.12).
        let own = self.distributor.read32(d::ITARGETSR) as u8;
        self.distributor.write8(d::ITARGETSR + intid as usize, own);
    }

    pub(super) fn let_through(self, priority: u8) {
        self.cpu.write32(PMR, priority.into());
    }

    pub(super) fn interface_leftovers(self) -> u32 {
        // Running 0xff and pending 1023 are "none" (IHI 0048B.b 4.4.6 and 4.4.7).
        let left = self.cpu.read32(CTLR) | self.cpu.read32(PMR) | self.cpu.read32(APR0);
        left | (self.cpu.read32(RPR) ^ 0xff) | (self.cpu.read32(HPPIR) ^ 1023)
    }

    pub(super) fn acknowledge(self) -> u32 {
        self.cpu.read32(IAR)
    }

    pub(super) fn end(self, acknowledged: u32) {
        self.cpu.write32(EOIR, acknowledged);
    }

    pub(super) fn send_sgi(self, id: u32, cpu: usize) {
        self.distributor.write32(d::SGIR, 1 << (16 + cpu) | id);
    }
}
