//! GICv3's distributor, redistributors and SGI registers: what they do not share with GICv2
//! (IHI 0069, 12.9 to 12.11).
//!
//! A guest without EL3 sees one security state (`GICD_CTLR.DS` is RAO) with both groups, affinity
//! routing always on and no LPIs: the LPI registers are RAZ/WI, so no address in them ever reaches
//! the hardware.

use super::bank::Bits;
use super::fields::View;
use super::host::HostGic;
use super::v2::{IIDR, ISENABLER0, low_word};
use super::{IntId, Version, Vgic};
use crate::exit::Width;
use crate::limits::MAX_INTIDS;

/// Bytes from one redistributor to the next: RD_base and SGI_base, 64 KiB each.
pub const REDISTRIBUTOR_STRIDE: u32 = 0x2_0000;

/// `GICD_PIDR2`/`GICR_PIDR2`: ArchRev 3.
const PIDR2: u64 = 0x30;
/// `GICD_TYPER` above ITLinesNumber: IDbits 23:19 = 9 (INTIDs of ten bits), No1N (bit 25): an SPI
/// has one target.
const TYPER_FIXED: u32 = 9 << 19 | 1 << 25;
/// `GICD_CTLR`: DS (bit 6) and ARE (bit 4) are always set.
const CTLR_FIXED: u32 = 1 << 6 | 1 << 4;
const CTLR_RWP: u32 = 1 << 31;

const CTLR: u32 = 0x0;
const TYPER: u32 = 0x4;
const IIDR_OFFSET: u32 = 0x8;
const GICR_IIDR: u32 = 0x4;
const GICR_TYPER: u32 = 0x8;
const PIDR2_OFFSET: u32 = 0xffe8;
/// `IROUTER<n>` is at this plus 8n, from SPI 32 on.
const IROUTER: u32 = 0x6000;
/// First byte of the registers with a field per interrupt (IGROUPR) and one past their last (ICFGR).
const FIELDS: core::ops::Range<u32> = 0x80..0xd00;
/// SGI_base within a redistributor.
const SGI_BASE: u32 = 0x1_0000;

impl Vgic {
    /// Words everywhere, bytes in IPRIORITYR, and IROUTER as 64 bits or two words (12.1.3).
    #[inline]
    pub(super) fn read_gicd<H: HostGic>(
        &mut self,
        own: usize,
        offset: u32,
        width: Width,
        host: &H,
    ) -> u64 {
        if FIELDS.contains(&offset) {
            return self.read_sized(self.view_gicd(own), offset, width, host);
        }
        match (offset, width) {
            (CTLR, Width::Word) => u64::from(self.control_v3()),
            (TYPER, Width::Word) => u64::from(self.typer),
            (IIDR_OFFSET, Width::Word) => u64::from(IIDR),
            (PIDR2_OFFSET, Width::Word) => PIDR2,
            _ => self.read_irouter(offset, width),
        }
    }

    #[inline(never)]
    fn read_irouter(&self, offset: u32, width: Width) -> u64 {
        let Some(id) = self.spi_of_irouter(offset) else {
            return 0;
        };
        let route = u64::from(self.route_of(id));
        let affinity = (route & 0xff00_0000) << 8 | route & 0x00ff_ffff;
        match width {
            Width::Double if offset & 7 == 0 => affinity,
            Width::Word if offset & 7 == 0 => affinity & 0xffff_ffff,
            Width::Word if offset & 7 == 4 => affinity >> 32,
            _ => 0,
        }
    }

    #[inline]
    pub(super) fn write_gicd<H: HostGic>(
        &mut self,
        own: usize,
        offset: u32,
        width: Width,
        value: u64,
        host: &mut H,
    ) {
        if FIELDS.contains(&offset) {
            return self.write_sized(self.view_gicd(own), offset, width, value, host);
        }
        if (offset, width) == (CTLR, Width::Word) {
            return self.write_control(own, low_word(value), host);
        }
        self.write_irouter(own, offset, width, value, host);
    }

    #[inline(never)]
    fn write_irouter<H: HostGic>(
        &mut self,
        own: usize,
        offset: u32,
        width: Width,
        value: u64,
        host: &mut H,
    ) {
        let Some(id) = self.spi_of_irouter(offset) else {
            return;
        };
        // Aff3 is kept in the byte above Aff2; IRM (bit 31) is RES0 with No1N.
        let aff3 = low_word(value >> 8) & 0xff00_0000;
        let low = low_word(value) & 0x00ff_ffff;
        let route = self.route_of(id);
        let route = match width {
            Width::Double if offset & 7 == 0 => aff3 | low,
            Width::Word if offset & 7 == 0 => route & 0xff00_0000 | low,
            Width::Word if offset & 7 == 4 => low_word(value) << 24 | route & 0x00ff_ffff,
            _ => return,
        };
        *self.route_mut(id) = route;
        self.retarget(own, id, self.affinity_target(route), host);
    }

    /// The vCPU with affinity `route`, if the guest has it.
    pub(super) fn affinity_target(&self, route: u32) -> Option<usize> {
        Bits(self.present)
            .find(|&vcpu| vcpu == route)
            .map(|vcpu| vcpu as usize)
    }

    /// `GICD_TYPER` of either version: ITLinesNumber (4:0); GICv2: CPUNumber (7:5).
    pub(super) const fn type_register(&self) -> u32 {
        let lines = self.words.wrapping_sub(1);
        match self.version {
            Version::V2 => lines | self.present.count_ones().wrapping_sub(1) << 5,
            Version::V3 => lines | TYPER_FIXED,
        }
    }

    const fn control_v3(&self) -> u32 {
        let rwp = if self.unsettled == 0 { 0 } else { CTLR_RWP };
        self.control | CTLR_FIXED | rwp
    }

    fn spi_of_irouter(&self, offset: u32) -> Option<IntId> {
        let n = offset.checked_sub(IROUTER)? >> 3;
        let exists = n >= 32 && n >> 5 < self.words && (n as usize) < MAX_INTIDS;
        exists.then(|| IntId::new(n >> 5, n))
    }

    #[inline]
    pub(super) fn read_gicr<H: HostGic>(
        &mut self,
        own: usize,
        offset: u32,
        width: Width,
        host: &H,
    ) -> u64 {
        let vcpu = offset / REDISTRIBUTOR_STRIDE;
        if self.present.checked_shr(vcpu).unwrap_or(0) & 1 == 0 {
            return 0;
        }
        let offset = offset % REDISTRIBUTOR_STRIDE;
        if let Some(offset) = offset.checked_sub(SGI_BASE) {
            if !FIELDS.contains(&offset) {
                return 0;
            }
            return self.read_sized(view_gicr(own, vcpu), offset, width, host);
        }
        // CTLR: no LPIs, writes take effect at once. WAKER: always awake.
        match (offset, width) {
            (GICR_IIDR, Width::Word) => u64::from(IIDR),
            (GICR_TYPER, Width::Double) => self.gicr_typer(vcpu),
            (GICR_TYPER, Width::Word) => self.gicr_typer(vcpu) & 0xffff_ffff,
            (0xc, Width::Word) => self.gicr_typer(vcpu) >> 32,
            (PIDR2_OFFSET, Width::Word) => PIDR2,
            _ => 0,
        }
    }

    /// Affinity 0.0.0.k (63:32), processor number (23:8), Last (4).
    const fn gicr_typer(&self, vcpu: u32) -> u64 {
        let is_last = self.present.wrapping_shr(vcpu) == 1;
        (vcpu as u64) << 32 | (vcpu as u64) << 8 | (is_last as u64) << 4
    }

    #[inline]
    pub(super) fn write_gicr<H: HostGic>(
        &mut self,
        own: usize,
        offset: u32,
        width: Width,
        value: u64,
        host: &mut H,
    ) {
        let vcpu = offset / REDISTRIBUTOR_STRIDE;
        if self.present.checked_shr(vcpu).unwrap_or(0) & 1 == 0 {
            return;
        }
        let Some(offset) = (offset % REDISTRIBUTOR_STRIDE).checked_sub(SGI_BASE) else {
            return;
        };
        if FIELDS.contains(&offset) {
            self.write_sized(view_gicr(own, vcpu), offset, width, value, host);
        }
    }

    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "at most 8")]
    pub(super) const fn view_gicd(&self, own: usize) -> View {
        View {
            own: own as u8,
            of: own as u8,
            first: 1,
            end: self.words as u8,
        }
    }

    #[inline]
    fn read_sized<H: HostGic>(&mut self, view: View, offset: u32, width: Width, host: &H) -> u64 {
        match width {
            Width::Word if offset & 3 == 0 => u64::from(self.read_fields(view, offset, host)),
            Width::Byte if is_priority(offset) => {
                let word = self.read_fields(view, offset & !3, host);
                u64::from(word.wrapping_shr((offset & 3) << 3) & 0xff)
            }
            _ => 0,
        }
    }

    #[inline]
    fn write_sized<H: HostGic>(
        &mut self,
        view: View,
        offset: u32,
        width: Width,
        value: u64,
        host: &mut H,
    ) {
        let value = low_word(value);
        match width {
            Width::Word if offset & 3 == 0 => {
                self.write_fields(view, offset, u32::MAX, value, host);
            }
            Width::Byte if is_priority(offset) => {
                let shift = (offset & 3) << 3;
                let (mask, value) = (
                    0xff_u32.wrapping_shl(shift),
                    (value & 0xff).wrapping_shl(shift),
                );
                self.write_fields(view, offset & !3, mask, value, host);
            }
            _ => {}
        }
    }
}

/// Where `vcpu` finds its own `GICR_ISENABLER0` among the redistributors.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "below 8")]
pub(super) const fn own_isenabler0(vcpu: usize) -> u32 {
    (vcpu as u32).wrapping_mul(REDISTRIBUTOR_STRIDE) | SGI_BASE | ISENABLER0
}

/// The SGI frame of `vcpu`'s own redistributor, and the offset in it, if it is that which `offset` is in.
#[inline(always)]
pub(super) fn own_sgi_frame(vcpu: usize, offset: u32) -> Option<(View, u32)> {
    let of = offset / REDISTRIBUTOR_STRIDE;
    let offset = (offset % REDISTRIBUTOR_STRIDE).checked_sub(SGI_BASE)?;
    (of as usize == vcpu).then(|| (view_gicr(vcpu, of), offset))
}

#[inline]
#[expect(clippy::cast_possible_truncation, reason = "both are below 8")]
const fn view_gicr(own: usize, vcpu: u32) -> View {
    View {
        own: own as u8,
        of: vcpu as u8,
        first: 0,
        end: 1,
    }
}

/// Whether `offset` is in IPRIORITYR.
const fn is_priority(offset: u32) -> bool {
    matches!(offset >> 7, 8..=15)
}
