//! SGIs: who is asked for what by a write of either version, and the way to the targets
//! (IHI 0048B.b 4.3.15 and 4.3.16, IHI 0069 12.2.14).
//!
//! What goes to other vCPUs needs nothing of this core's interface: it is left in the state, and their
//! cores are kicked.

use super::bank::Bits;
use super::host::HostGic;
use super::state::vcpu_bit;
use super::v2::low_word;
use super::{Frame, IntId, Kicks, Version, Vgic};

/// GICv2's `GICD_SGIR`.
pub(super) const SGIR: u32 = 0xf00;

/// The SGI register of the CPU interface that a guest wrote.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SgiRegister {
    /// `ICC_SGI1R_EL1`: either group.
    Sgi1,
    /// `ICC_SGI0R_EL1` or `ICC_ASGI1R_EL1`: SGIs that the target has in group 0.
    Group0,
}

/// An SGI on its way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sgi {
    id: IntId,
    /// vCPUs that the guest has, one bit each.
    targets: u32,
}

impl Sgi {
    /// Which one.
    #[inline]
    #[must_use]
    pub const fn id(self) -> IntId {
        self.id
    }

    /// Whether it goes to `vcpu`.
    #[inline]
    #[must_use]
    pub const fn is_for(self, vcpu: usize) -> bool {
        self.targets & vcpu_bit(vcpu) != 0
    }

    /// Whether it goes to `vcpu` and nobody else.
    #[inline]
    #[must_use]
    pub const fn is_only_for(self, vcpu: usize) -> bool {
        self.targets == vcpu_bit(vcpu)
    }
}

impl Vgic {
    /// Whether a word written at `offset` of `frame` is one for [`sgi_of_sgir`](Self::sgi_of_sgir), which
    /// [`write`](Self::write) would take as well.
    #[inline]
    #[must_use]
    pub const fn is_sgir(version: Version, frame: Frame, offset: u32) -> bool {
        matches!(
            (version, frame, offset),
            (Version::V2, Frame::Distributor, SGIR)
        )
    }

    /// What `vcpu` asks for by writing `value` to `GICD_SGIR`.
    #[inline]
    #[must_use]
    pub const fn sgi_of_sgir(&self, vcpu: usize, value: u32) -> Sgi {
        let targets = match value >> 24 & 3 {
            0 => value >> 16 & 0xff,
            1 => !vcpu_bit(vcpu),
            2 => vcpu_bit(vcpu),
            _ => 0,
        };
        Sgi {
            id: IntId::new(0, value & 15),
            targets: targets & self.present,
        }
    }

    /// What `vcpu` asks for by writing `value` to `register`, which is trapped.
    #[inline]
    #[must_use]
    pub fn sgi_of_register(&self, vcpu: usize, register: SgiRegister, value: u64) -> Sgi {
        let id = IntId::new(0, low_word(value >> 24) & 15);
        let everyone_else = value >> 40 & 1 != 0;
        // RS, Aff3, Aff2 and Aff1: vCPUs are 0.0.0.k with k below 16.
        let elsewhere = value & 0x00ff_f0ff_00ff_0000 != 0;
        let mut targets = if everyone_else {
            self.present & !vcpu_bit(vcpu)
        } else if elsewhere || self.version == Version::V2 {
            0
        } else {
            low_word(value) & 0xffff & self.present
        };
        if register == SgiRegister::Group0 {
            for target in Bits(targets) {
                if self.bank(target as usize, 0).group & id.mask() != 0 {
                    targets &= !vcpu_bit(target as usize);
                }
            }
        }
        Sgi { id, targets }
    }

    /// `vcpu`, on this core, sends `sgi`. `host` is asked for if it is itself a target, and only then are its
    /// [shortcuts](super::Shortcut) good no longer.
    #[inline]
    pub fn send_sgi<H: HostGic>(
        &mut self,
        vcpu: usize,
        sgi: Sgi,
        host: impl FnOnce() -> H,
    ) -> Kicks {
        let others = self.post_sgi(vcpu, sgi);
        if !sgi.is_for(vcpu) {
            return others;
        }
        self.deliver_private(vcpu, vcpu, sgi.id, &mut host());
        Kicks(others.0 | self.take_kicks(vcpu).0)
    }

    /// The part of [`send_sgi`](Self::send_sgi) that concerns the targets but `sender`, which run elsewhere.
    #[inline(always)]
    pub fn post_sgi(&mut self, sender: usize, sgi: Sgi) -> Kicks {
        let Sgi { id, targets } = sgi;
        let mut kicks = 0;
        for target in Bits(targets & !vcpu_bit(sender)) {
            let vcpu = target as usize;
            self.latch_sender(vcpu, sender, id);
            let bank = self.bank_mut(vcpu, 0);
            bank.pending |= id.mask();
            if bank.open & id.mask() != 0 {
                kicks |= vcpu_bit(vcpu);
            }
        }
        let [kicks, ..] = (kicks & self.on).to_le_bytes();
        Kicks(kicks)
    }
}
