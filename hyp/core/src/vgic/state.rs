//! What the model remembers, and the way to it.

use super::bank::{BANK, Bank, Cold, bit};
use super::host::SHARED;
use super::vcpu::Vcpu;
use super::{Config, IntId, Kicks, Version};
use crate::limits::{MAX_INTIDS, MAX_VCPUS};

/// Words of a bit per INTID.
pub(super) const WORDS: usize = MAX_INTIDS / BANK;
/// Private banks, SPI banks, and what fills up the power of two that indices are masked to.
pub(super) const BANKS: usize = (MAX_VCPUS + WORDS - 1).next_power_of_two();

// Masked indices and the u8 INTIDs rest on these.
const _: () = assert!(MAX_VCPUS == 8 && MAX_INTIDS == 256 && BANKS == 16);

/// A guest's interrupt controller.
#[derive(Debug)]
#[repr(C)]
pub struct Vgic {
    /// Private banks by vCPU, then SPI banks.
    banks: [Bank; BANKS],
    vcpus: [Vcpu; MAX_VCPUS],
    /// vCPUs to kick when the current call returns.
    pub(super) kicks: u32,
    pub(super) version: Version,
    /// vCPUs that exist, one bit each.
    pub(super) present: u32,
    /// vCPUs that are on.
    pub(super) on: u32,
    /// Banks: 2 to 8.
    pub(super) words: u32,
    /// SPI banks with anything that may be offered, one bit each.
    pub(super) open_words: u32,
    /// SPI banks with anything linked.
    pub(super) linked_words: u32,
    /// `GICD_TYPER`.
    pub(super) typer: u32,
    /// `GICD_CTLR` bits 0 and 1: groups forwarded.
    pub(super) control: u32,
    /// vCPUs whose list registers may still offer what has been disabled (`GICD_CTLR.RWP`).
    pub(super) unsettled: u32,
    pub(super) linked_ppis: u32,
    cold: [Cold; BANKS],
    /// SPIs: `ITARGETSR` byte (GICv2) or affinity as written (GICv3).
    route: [u32; MAX_INTIDS],
    /// SPIs: the vCPU (bits 2:0) in whose list register (bits 5:3) it is, if `in_lr`.
    place: [u8; MAX_INTIDS],
    /// SPIs: the physical one it is linked to.
    pintid: [u16; MAX_INTIDS],
    /// SPIs with several targets, which one of those that are on gets.
    one_of_n: [u32; WORDS],
    /// Banks that may have any of them, one bit each.
    pub(super) one_of_n_words: u32,
}

impl Vgic {
    /// A controller as after reset, all vCPUs off. Numbers out of range are taken to the nearest
    /// that exists.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "both counts are at most 8")]
    pub const fn new(config: &Config) -> Self {
        let vcpus = match config.vcpus {
            0 => 1,
            n if n > MAX_VCPUS => MAX_VCPUS,
            n => n,
        };
        let words = match config.intids / BANK {
            0 | 1 => 2,
            n if n > WORDS => WORDS,
            n => n,
        };
        let mut vgic = Self {
            banks: [Bank::RESET; BANKS],
            vcpus: [Vcpu::RESET; MAX_VCPUS],
            kicks: 0,
            version: config.version,
            present: 0xff_u32.wrapping_shr(8_u32.wrapping_sub(vcpus as u32)),
            on: 0,
            words: words as u32,
            open_words: 0,
            linked_words: 0,
            typer: 0,
            control: 0,
            unsettled: 0,
            linked_ppis: config.linked_ppis & 0xffff_0000,
            cold: [Cold::RESET; BANKS],
            route: [0; MAX_INTIDS],
            place: [0; MAX_INTIDS],
            pintid: [0; MAX_INTIDS],
            one_of_n: [0; WORDS],
            one_of_n_words: 0,
        };
        vgic.typer = vgic.type_register();
        vgic.reset_registers();
        vgic
    }

    /// Links SPI `intid` to physical SPI `pintid` for the guest's life. Returns whether both are
    /// SPIs that exist here.
    #[must_use]
    pub const fn link_spi(&mut self, intid: IntId, pintid: u16) -> bool {
        if intid.is_private() || intid.word() >= self.words || pintid < 32 || pintid > 1019 {
            return false;
        }
        self.set_pintid(intid, pintid);
        self.bank_mut(0, intid.word()).linked |= intid.mask();
        self.linked_words |= bit(intid.word());
        true
    }

    /// Links SPI `intid` to shared line `line` for the guest's life. Returns whether it is an SPI that
    /// exists here and the line's number is below [`SHARED`].
    #[must_use]
    pub const fn share_spi(&mut self, intid: IntId, line: u16) -> bool {
        if intid.is_private() || intid.word() >= self.words || line >= SHARED {
            return false;
        }
        self.set_pintid(intid, SHARED | line);
        self.bank_mut(0, intid.word()).linked |= intid.mask();
        self.linked_words |= bit(intid.word());
        true
    }

    /// Whether `id` is linked to a line that other guests share.
    pub(super) const fn is_shared(&self, id: IntId) -> bool {
        !id.is_private()
            && self.bank(0, id.word()).linked & id.mask() != 0
            && self.pintid_of(id) & SHARED != 0
    }

    /// The architecture version.
    #[must_use]
    pub const fn version(&self) -> Version {
        self.version
    }

    /// The vCPUs to kick at the end of a call on the core of `own`.
    #[inline]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "vCPU masks have eight bits"
    )]
    pub(super) const fn take_kicks(&mut self, own: usize) -> Kicks {
        let kicks = self.kicks & self.on & !vcpu_bit(own);
        self.kicks = 0;
        Kicks(kicks as u8)
    }

    /// Works out `open` of bank `word` (bank 0: of `vcpu`) after a change to what it depends on.
    #[inline]
    pub(super) const fn reopen(&mut self, vcpu: usize, word: u32) {
        let group0 = if self.control & 1 != 0 { u32::MAX } else { 0 };
        let group1 = if self.control & 2 != 0 { u32::MAX } else { 0 };
        let group = self.bank(vcpu, word).group;
        let cold = self.cold_mut(vcpu, word);
        cold.passes = ((group & group1) | (!group & group0)) & !cold.active;
        self.reopen_enabled(vcpu, word);
    }

    /// The same after a change to what is enabled, alone.
    #[inline]
    pub(super) const fn reopen_enabled(&mut self, vcpu: usize, word: u32) {
        let passes = self.cold(vcpu, word).passes;
        let bank = self.bank_mut(vcpu, word);
        bank.open = bank.enabled & passes;
        if word == 0 {
            return;
        }
        let mask = bit(word);
        self.open_words = if bank.open != 0 {
            self.open_words | mask
        } else {
            self.open_words & !mask
        };
    }
}

/// The tables, with every index masked to the table's length (or a `u8` into 256 entries), so that
/// there is no bound to check and none to pass.
#[expect(clippy::indexing_slicing, reason = "see above")]
impl Vgic {
    #[inline]
    pub(super) const fn bank(&self, vcpu: usize, word: u32) -> &Bank {
        &self.banks[bank_index(vcpu, word)]
    }

    #[inline]
    pub(super) const fn bank_mut(&mut self, vcpu: usize, word: u32) -> &mut Bank {
        &mut self.banks[bank_index(vcpu, word)]
    }

    #[inline]
    pub(super) const fn cold(&self, vcpu: usize, word: u32) -> &Cold {
        &self.cold[bank_index(vcpu, word)]
    }

    pub(super) const fn cold_mut(&mut self, vcpu: usize, word: u32) -> &mut Cold {
        &mut self.cold[bank_index(vcpu, word)]
    }

    #[inline]
    pub(super) const fn vcpu(&self, vcpu: usize) -> &Vcpu {
        &self.vcpus[vcpu & 7]
    }

    #[inline]
    pub(super) const fn vcpu_mut(&mut self, vcpu: usize) -> &mut Vcpu {
        &mut self.vcpus[vcpu & 7]
    }

    #[inline]
    pub(super) const fn routed(&self, vcpu: usize, word: u32) -> u32 {
        self.vcpus[vcpu & 7].routed[word as usize & 7]
    }

    #[inline]
    pub(super) const fn routed_mut(&mut self, vcpu: usize, word: u32) -> &mut u32 {
        &mut self.vcpus[vcpu & 7].routed[word as usize & 7]
    }

    #[inline]
    pub(super) const fn sources_mut(&mut self, vcpu: usize, sgi: IntId) -> &mut u8 {
        &mut self.vcpus[vcpu & 7].sources[sgi.0 as usize & 15]
    }

    #[inline]
    pub(super) const fn lr_intid(&self, vcpu: usize, n: u32) -> IntId {
        IntId(self.vcpus[vcpu & 7].lr[n as usize & 7])
    }

    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "n is below 8")]
    pub(super) const fn set_lr_intid(&mut self, vcpu: usize, n: u32, id: IntId) {
        let own = &mut self.vcpus[vcpu & 7];
        own.lr[n as usize & 7] = id.0;
        if id.is_private() {
            own.private_lr[id.0 as usize & 31] = n as u8;
        } else {
            self.place[id.0 as usize] = ((n as usize & 7) << 3 | vcpu & 7) as u8;
        }
    }

    /// The list register that `id` was last put into (SPIs: whosever it was).
    #[inline]
    pub(super) const fn lr_number(&self, vcpu: usize, id: IntId) -> u32 {
        if id.is_private() {
            self.vcpus[vcpu & 7].private_lr[id.0 as usize & 31] as u32
        } else {
            self.place[id.0 as usize] as u32 >> 3
        }
    }

    #[inline]
    pub(super) const fn route_of(&self, id: IntId) -> u32 {
        self.route[id.0 as usize]
    }

    #[inline]
    pub(super) const fn route_mut(&mut self, id: IntId) -> &mut u32 {
        &mut self.route[id.0 as usize]
    }

    /// The vCPU in whose list register `id` of `vcpu`'s view is, if it is in one.
    #[inline]
    pub(super) const fn holder_of(&self, vcpu: usize, id: IntId) -> usize {
        if id.is_private() {
            vcpu & 7
        } else {
            self.place[id.0 as usize] as usize & 7
        }
    }

    /// The physical interrupt that `id` is linked to.
    #[inline]
    pub(super) const fn pintid_of(&self, id: IntId) -> u16 {
        if id.is_private() {
            id.0 as u16
        } else {
            self.pintid[id.0 as usize]
        }
    }

    const fn set_pintid(&mut self, id: IntId, pintid: u16) {
        self.pintid[id.0 as usize] = pintid;
    }

    #[inline]
    pub(super) const fn one_of_n_mut(&mut self, word: u32) -> &mut u32 {
        &mut self.one_of_n[word as usize & 7]
    }

    /// No SPI has a target, but with one vCPU (or, GICv3, with affinity 0.0.0.0) that one.
    pub(super) const fn reset_routes(&mut self, to_first: bool) {
        self.route = [0; MAX_INTIDS];
        self.one_of_n = [0; WORDS];
        self.one_of_n_words = 0;
        self.vcpus[0].routed = [if to_first { u32::MAX } else { 0 }; WORDS];
    }
}

#[inline]
#[expect(clippy::arithmetic_side_effects, reason = "a number below 8 and 7")]
const fn bank_index(vcpu: usize, word: u32) -> usize {
    let index = if word == 0 {
        vcpu & 7
    } else {
        (word as usize & 7) + 7
    };
    index & (BANKS - 1)
}

/// The bit of `vcpu` in a mask of vCPUs.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "masked to five bits")]
pub(super) const fn vcpu_bit(vcpu: usize) -> u32 {
    bit((vcpu & 31) as u32)
}
