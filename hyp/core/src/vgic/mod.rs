//! The interrupt controller a guest sees: a GICv2 or GICv3 distributor (and redistributors) in
//! software, in front of the hardware's virtual CPU interface.
//!
//! One [`Vgic`] per guest, behind that guest's lock. The guest acknowledges and ends interrupts
//! without an exit, through list registers; what comes here is a trapped register access, an
//! interrupt to hand over, and the rare maintenance interrupt. A list register can only be reached
//! from its own core, so a change that concerns another vCPU's is left in the state and that vCPU
//! is *kicked* (a physical SGI): its core calls [`Vgic::flush`], which sets everything right.
//!
//! An interrupt's state is one bit in each word of a [`Bank`] of 32, so a register access is a few
//! word operations whatever it contains. Its pending state moves into a list register when there is
//! room and comes back when it has to make way; it is never in both.
//!
//! Interrupts *linked* to physical ones (the timers' PPIs, SPIs of assigned devices) use the list
//! register's HW bit: the guest's deactivation is the physical one, so a level-sensitive device
//! needs no exit for its end. For them, `pending` in software means "physically active and ours".
//!
//! An SPI that guests *share* ([`SHARED`]) is linked, too, but in software: the physical interrupt is held
//! back until every holder has ended it, which the maintenance interrupt tells.
//!
//! Loops are over the set bits of one word, a guest's eight vCPUs or its list registers; the
//! longest way (more interrupts pending than list registers) is bounded by
//! [`MAX_LIST_REGISTERS`] times [`MAX_INTIDS`](crate::limits::MAX_INTIDS).

mod again;
mod bank;
mod deliver;
mod fields;
mod host;
mod lifecycle;
mod list_register;
mod pending;
mod reconcile;
mod sgi;
mod state;
#[cfg(test)]
mod tests;
mod v2;
mod v3;
mod vcpu;

use crate::exit::Width;
use bank::bit;

pub use again::Shortcut;
pub use deliver::Line;
pub use host::{HostGic, Maintenance, SHARED, Trigger};
pub use list_register::{Group, Link, ListRegister, LrState};
pub use sgi::{Sgi, SgiRegister};
pub use state::Vgic;
pub use v3::REDISTRIBUTOR_STRIDE;

/// List registers used of a core's. Cores of today have four; the bound keeps the choice among
/// more pending interrupts than list registers short.
pub const MAX_LIST_REGISTERS: u32 = 8;

/// The architecture version a guest sees: the board's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Version {
    /// GICv2 (IHI 0048B.b), without the Security Extensions.
    V2,
    /// GICv3 (IHI 0069), affinity routing only, one security state, no LPIs.
    V3,
}

/// A virtual interrupt identifier below [`MAX_INTIDS`](crate::limits::MAX_INTIDS).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct IntId(pub u8);

impl IntId {
    /// The virtual timer's PPI.
    pub const VIRTUAL_TIMER: Self = Self(27);
    /// The physical (EL1) timer's PPI.
    pub const PHYSICAL_TIMER: Self = Self(30);

    /// Which bank of 32.
    #[inline]
    const fn word(self) -> u32 {
        self.0 as u32 >> 5
    }

    /// The bit in the bank's words.
    #[inline]
    const fn mask(self) -> u32 {
        bit(self.0 as u32 & 31)
    }

    /// SGI or PPI: one per vCPU.
    #[must_use]
    pub const fn is_private(self) -> bool {
        self.0 < 32
    }

    #[inline]
    const fn is_sgi(self) -> bool {
        self.0 < 16
    }

    #[inline]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "word < 8 and bit < 32 by the masks"
    )]
    const fn new(word: u32, bit: u32) -> Self {
        Self(((word & 7) << 5 | (bit & 31)) as u8)
    }
}

/// The vCPUs of this guest, one bit each, whose cores have to call [`Vgic::flush`]. The shell sends
/// their cores its SGI after it has let go of the lock.
#[must_use = "a vCPU that is not kicked does not see its interrupt"]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Kicks(pub u8);

impl Kicks {
    /// Nobody.
    pub const NONE: Self = Self(0);
}

/// What a trapped read gives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Read {
    /// The register's value, zero-extended.
    pub value: u64,
    /// Reading the state of an interrupt that another vCPU holds asks that vCPU to bring it up to
    /// date, so that a guest that polls sees it change.
    pub kicks: Kicks,
}

/// Which block of registers an access hit; the offset counts from its start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Frame {
    /// GICD: 4 KiB (GICv2) or 64 KiB (GICv3).
    Distributor,
    /// The redistributors, [`REDISTRIBUTOR_STRIDE`] bytes per vCPU, one after the other (GICv3).
    Redistributors,
}

/// Whether a register at `offset` of a frame may be one that [`Vgic::poke`] knows.
#[inline(always)]
#[must_use]
pub const fn may_poke(offset: u32) -> bool {
    // ISENABLER, ICENABLER, IPRIORITYR, in units of 128 bytes.
    const KNOWN: u32 = 1 << 2 | 1 << 3 | 0xff << 8;
    offset & 0xf000 == 0 && KNOWN.wrapping_shr(offset >> 7 & 31) & 1 != 0
}

/// How a guest's controller is built.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Architecture version.
    pub version: Version,
    /// vCPUs, 1 to 8, whether or not they are on.
    pub vcpus: usize,
    /// INTIDs, a multiple of 32 from 64 to 256.
    pub intids: usize,
    /// PPIs linked to the core's own (bits 16 to 31), of the same number.
    pub linked_ppis: u32,
}

impl Vgic {
    /// A trapped read by `vcpu`, which runs on this core. Sizes and offsets that the architecture
    /// does not give a register read as zero.
    #[inline]
    pub fn read<H: HostGic>(
        &mut self,
        vcpu: usize,
        frame: Frame,
        offset: u32,
        width: Width,
        host: &mut H,
    ) -> Read {
        let value = match (self.version, frame) {
            (Version::V2, Frame::Distributor) => self.read_v2(vcpu, offset, width, host),
            (Version::V3, Frame::Distributor) => self.read_gicd(vcpu, offset, width, host),
            (Version::V3, Frame::Redistributors) => self.read_gicr(vcpu, offset, width, host),
            (Version::V2, Frame::Redistributors) => 0,
        };
        Read {
            value,
            kicks: self.take_kicks(vcpu),
        }
    }

    /// The short way of [`read`](Self::read), for the words that guests read most: the type, what is enabled, the
    /// priorities. They are read as they stand, without effects and without a call. `None` for anything else.
    #[inline(always)]
    #[must_use]
    pub fn glance(&self, vcpu: usize, frame: Frame, offset: u32) -> Option<u32> {
        match frame {
            Frame::Distributor if offset == fields::TYPER => Some(self.typer),
            Frame::Distributor if offset == v2::ISENABLER0 && self.version == Version::V2 => {
                Some(self.bank(vcpu, 0).enabled)
            }
            Frame::Redistributors if offset == v3::own_isenabler0(vcpu) => {
                Some(self.bank(vcpu, 0).enabled)
            }
            _ => {
                let (view, offset) = self.fields_at(vcpu, frame, offset)?;
                self.glance_fields(view, offset)
            }
        }
    }

    /// The short way of [`write`](Self::write), for words of ISENABLER, ICENABLER and IPRIORITYR: done if it concerns
    /// nothing but the state, because what changes is neither pending nor in a list register nor linked. Whether it
    /// was done; if not, nothing was. Only [`may_poke`] tells where it is worth the try.
    #[inline(always)]
    #[must_use]
    pub fn poke(&mut self, vcpu: usize, frame: Frame, offset: u32, value: u32) -> bool {
        self.fields_at(vcpu, frame, offset)
            .is_some_and(|(view, offset)| self.poke_fields(view, offset, value))
    }

    /// The word of fields at `offset`, if there may be one.
    #[inline(always)]
    fn fields_at(&self, vcpu: usize, frame: Frame, offset: u32) -> Option<(fields::View, u32)> {
        let at = match (self.version, frame) {
            (Version::V2, Frame::Distributor) => (self.view_v2(vcpu), offset),
            (Version::V3, Frame::Distributor) => (self.view_gicd(vcpu), offset),
            (Version::V3, Frame::Redistributors) => v3::own_sgi_frame(vcpu, offset)?,
            (Version::V2, Frame::Redistributors) => return None,
        };
        (offset & 3 == 0).then_some(at)
    }

    /// A trapped write by `vcpu`, which runs on this core. Sizes and offsets that the architecture
    /// does not give a register are ignored.
    #[inline]
    pub fn write<H: HostGic>(
        &mut self,
        vcpu: usize,
        frame: Frame,
        offset: u32,
        width: Width,
        value: u64,
        host: &mut H,
    ) -> Kicks {
        match (self.version, frame) {
            (Version::V2, Frame::Distributor) => self.write_v2(vcpu, offset, width, value, host),
            (Version::V3, Frame::Distributor) => self.write_gicd(vcpu, offset, width, value, host),
            (Version::V3, Frame::Redistributors) => {
                self.write_gicr(vcpu, offset, width, value, host);
            }
            (Version::V2, Frame::Redistributors) => {}
        }
        self.take_kicks(vcpu)
    }
}
