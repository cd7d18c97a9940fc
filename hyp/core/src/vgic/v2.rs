//! GICv2's distributor: what it does not share with GICv3 (IHI 0048B.b, chapter 4).
//!
//! Without the Security Extensions, so both groups belong to the guest. The CPU interface is the
//! hardware's GICV, mapped for the guest; nothing of it comes here.

use super::bank::{Bits, bit};
use super::fields::View;
use super::host::HostGic;
use super::sgi::SGIR;
use super::state::vcpu_bit;
use super::{IntId, Vgic};
use crate::exit::Width;

/// Offset of the first ISENABLER in a frame that has one.
pub(super) const ISENABLER0: u32 = 0x100;
/// `GICD_IIDR`/`GICR_IIDR`: implementer Arm (JEP106), product 'B', so that no driver takes the model
/// for a chip whose errata it knows.
pub(super) const IIDR: u32 = 0x4200_043b;

/// `ICPIDR2`: ArchRev 2.
const PIDR2: u32 = 0x20;

const CTLR: u32 = 0x000;
const TYPER: u32 = 0x004;
const IIDR_OFFSET: u32 = 0x008;
const PIDR2_OFFSET: u32 = 0xfe8;

/// `offset >> 7` of ITARGETSR and of CPENDSGIR/SPENDSGIR.
const TARGETS: core::ops::RangeInclusive<u32> = 16..=23;
const SGIS: u32 = 30;

impl Vgic {
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "at most 8")]
    pub(super) const fn view_v2(&self, own: usize) -> View {
        View {
            own: own as u8,
            of: own as u8,
            first: 0,
            end: self.words as u8,
        }
    }

    /// Words everywhere; bytes in the priority, target and SGI-pending registers (4.1.4).
    #[inline]
    pub(super) fn read_v2<H: HostGic>(
        &mut self,
        own: usize,
        offset: u32,
        width: Width,
        host: &H,
    ) -> u64 {
        match width {
            Width::Word if offset & 3 == 0 => u64::from(self.read_v2_word(own, offset, host)),
            Width::Byte if has_bytes(offset) => {
                let word = self.read_v2_word(own, offset & !3, host);
                u64::from(word.wrapping_shr(byte_shift(offset)) & 0xff)
            }
            _ => 0,
        }
    }

    #[inline]
    fn read_v2_word<H: HostGic>(&mut self, own: usize, offset: u32, host: &H) -> u32 {
        match offset >> 7 {
            0 => match offset {
                CTLR => self.control,
                TYPER => self.typer,
                IIDR_OFFSET => IIDR,
                _ => 0,
            },
            16..=23 => self.read_targets(own, offset),
            SGIS => self.read_sgi_pending(own, offset),
            _ if offset == PIDR2_OFFSET => PIDR2,
            _ => self.read_fields(self.view_v2(own), offset, host),
        }
    }

    #[inline]
    pub(super) fn write_v2<H: HostGic>(
        &mut self,
        own: usize,
        offset: u32,
        width: Width,
        value: u64,
        host: &mut H,
    ) {
        let (mask, value) = match width {
            Width::Word if offset & 3 == 0 => (u32::MAX, low_word(value)),
            Width::Byte if has_bytes(offset) => {
                let shift = byte_shift(offset);
                (
                    0xff_u32.wrapping_shl(shift),
                    (low_word(value) & 0xff).wrapping_shl(shift),
                )
            }
            _ => return,
        };
        let offset = offset & !3;
        match offset >> 7 {
            0 if offset == CTLR => self.write_control(own, value, host),
            16..=23 => self.write_targets(own, offset, mask, value, host),
            SGIS if offset == SGIR => self.write_sgir(own, value, host),
            SGIS => self.write_sgi_pending(own, offset, value, host),
            _ => self.write_fields(self.view_v2(own), offset, mask, value, host),
        }
    }

    /// ITARGETSR: the reader itself for SGIs and PPIs, which is how a guest learns its interface
    /// number; RAZ/WI where there is one vCPU (4.3.12).
    #[inline(never)]
    fn read_targets(&self, own: usize, offset: u32) -> u32 {
        let first = offset & 0x3fc;
        if self.is_uniprocessor() || first >> 5 >= self.words {
            return 0;
        }
        if first < 32 {
            return vcpu_bit(own).wrapping_mul(0x0101_0101);
        }
        (0..4).fold(0, |word, n| {
            word | self
                .route_of(IntId::new(first >> 5, first | n))
                .wrapping_shl(n << 3)
        })
    }

    #[inline(never)]
    fn write_targets<H: HostGic>(
        &mut self,
        own: usize,
        offset: u32,
        mask: u32,
        value: u32,
        host: &mut H,
    ) {
        let first = offset & 0x3fc;
        if self.is_uniprocessor() || first < 32 || first >> 5 >= self.words {
            return;
        }
        for n in 0..4 {
            if mask.wrapping_shr(n << 3) & 1 == 0 {
                continue;
            }
            let id = IntId::new(first >> 5, first | n);
            let targets = value.wrapping_shr(n << 3) & self.present;
            *self.route_mut(id) = targets;
            let several = self.one_of_n_mut(id.word());
            if targets.count_ones() > 1 {
                *several |= id.mask();
                self.one_of_n_words |= bit(id.word());
            } else {
                *several &= !id.mask();
            }
            self.retarget(own, id, self.choose_target(id), host);
        }
    }

    pub(super) const fn is_uniprocessor(&self) -> bool {
        self.present == 1
    }

    fn write_sgir<H: HostGic>(&mut self, own: usize, value: u32, host: &mut H) {
        let sgi = self.sgi_of_sgir(own, value);
        self.kicks |= u32::from(self.post_sgi(own, sgi).0);
        if sgi.is_for(own) {
            self.deliver_private(own, own, sgi.id(), host);
        }
    }

    /// CPENDSGIR and SPENDSGIR: the senders of four SGIs that are pending for the reader (4.3.16).
    #[inline(never)]
    fn read_sgi_pending(&mut self, own: usize, offset: u32) -> u32 {
        if offset & 0x7f < 0x10 || offset & 0x7f >= 0x30 {
            return 0;
        }
        (0..4).fold(0, |word, n| {
            let sources = *self.sources_mut(own, IntId::new(0, offset & 12 | n));
            word | u32::from(sources).wrapping_shl(n << 3)
        })
    }

    #[inline(never)]
    fn write_sgi_pending<H: HostGic>(&mut self, own: usize, offset: u32, value: u32, host: &mut H) {
        let set = match offset & 0x70 {
            0x10 => false,
            0x20 => true,
            _ => return,
        };
        for n in 0..4 {
            let senders = value.wrapping_shr(n << 3) & self.present;
            let id = IntId::new(0, offset & 12 | n);
            let sources = self.sources_mut(own, id);
            let [senders, ..] = senders.to_le_bytes();
            if set {
                *sources |= senders
            } else {
                *sources &= !senders
            }
            let left = *sources;
            let bank = self.bank_mut(own, 0);
            if left == 0 {
                bank.pending &= !id.mask()
            } else {
                bank.pending |= id.mask()
            }
            self.settle(own, own, 0, id.mask(), host);
        }
    }

    /// The vCPU that gets SPI `id`: the present target while it will do, else the first of its
    /// targets that is on, else the first.
    pub(super) fn choose_target(&self, id: IntId) -> Option<usize> {
        let targets = self.route_of(id);
        let on = targets & self.on;
        let among = if on == 0 { targets } else { on };
        let routed = |vcpu: &u32| self.routed(*vcpu as usize, id.word()) & id.mask() != 0;
        Bits(among)
            .find(routed)
            .or_else(|| Bits(among).next())
            .map(|vcpu| vcpu as usize)
    }

    /// Makes `target` the vCPU that SPI `id` goes to.
    pub(super) fn retarget<H: HostGic>(
        &mut self,
        own: usize,
        id: IntId,
        target: Option<usize>,
        host: &mut H,
    ) {
        for vcpu in Bits(self.present) {
            let routed = self.routed_mut(vcpu as usize, id.word());
            if target == Some(vcpu as usize) {
                *routed |= id.mask()
            } else {
                *routed &= !id.mask()
            }
        }
        if self.bank(own, id.word()).linked & id.mask() != 0 {
            if let Some(vcpu) = target.filter(|&vcpu| self.on & vcpu_bit(vcpu) != 0) {
                host.route(self.pintid_of(id), vcpu);
            }
            self.follow(own, own, id.word(), id.mask(), host);
        }
        self.settle(own, own, id.word(), id.mask(), host);
    }
}

/// Whether the register at `offset` may be accessed by bytes.
fn has_bytes(offset: u32) -> bool {
    let block = offset >> 7;
    (8..=15).contains(&block) || TARGETS.contains(&block) || block == SGIS && offset & 0x7f >= 0x10
}

/// Bits to the left of the byte at `offset` in its word.
const fn byte_shift(offset: u32) -> u32 {
    (offset & 3) << 3
}

/// Bits 31:0.
#[expect(clippy::cast_possible_truncation, reason = "the point of it")]
pub(super) const fn low_word(value: u64) -> u32 {
    value as u32
}
