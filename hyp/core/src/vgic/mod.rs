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
//! Loops are over the set bits of one word, a guest's eight vCPUs or its list registers; the
//! longest way (more interrupts pending than list registers) is bounded by
//! [`MAX_LIST_REGISTERS`] times [`MAX_INTIDS`](crate::limits::MAX_INTIDS).

mod bank;
mod deliver;
mod distributor;
mod lifecycle;
mod list_register;
#[cfg(test)]
mod tests;
mod v2;
mod v3;

use crate::exit::Width;
use crate::limits::{MAX_INTIDS, MAX_VCPUS};
use bank::{BANK, Bank, bit};

pub use deliver::Line;
pub use list_register::{HostGic, Link, ListRegister, LrState, Maintenance, Trigger};
pub use v3::{REDISTRIBUTOR_STRIDE, SgiRegister};

/// List registers used of a core's. Cores of today have four; the bound keeps the choice among
/// more pending interrupts than list registers short.
pub const MAX_LIST_REGISTERS: u32 = 8;

/// Banks of SPIs.
const SPI_BANKS: usize = MAX_INTIDS / BANK - 1;
/// Private banks, SPI banks, and what fills up the power of two that indices are masked to.
const BANKS: usize = (MAX_VCPUS + SPI_BANKS).next_power_of_two();

// Masked indices and the u8 INTIDs rest on these.
const _: () = assert!(MAX_VCPUS == 8 && MAX_INTIDS == 256 && BANKS == 16);

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

/// What is kept per vCPU besides its private bank.
#[derive(Clone, Copy, Debug)]
struct Vcpu {
    /// SPIs whose target this vCPU is, by bank.
    routed: [u32; MAX_INTIDS / BANK],
    /// GICv2: pending SGIs by sending vCPU, one bit each.
    sources: [u8; 16],
    /// The interrupt each list register was last given.
    lr: [u8; MAX_LIST_REGISTERS as usize],
    /// List registers that were given one.
    used: u32,
    /// Of those, the ones whose pending bit came from a latch and not from a level alone.
    latched: u32,
    /// Pending and active bits of the list registers as last seen, for reads by other vCPUs.
    seen_pending: u32,
    seen_active: u32,
    /// The list registers' contents may contradict the state: look at each.
    reconcile: bool,
    /// Something waits in software for a list register or for the end of what is in one.
    backlog: bool,
    /// Enables of linked PPIs were changed by another vCPU.
    ppis_stale: bool,
    /// As last set.
    maintenance: Maintenance,
}

impl Vcpu {
    const RESET: Self = Self {
        routed: [0; MAX_INTIDS / BANK],
        sources: [0; 16],
        lr: [0; MAX_LIST_REGISTERS as usize],
        used: 0,
        latched: 0,
        seen_pending: 0,
        seen_active: 0,
        reconcile: false,
        backlog: false,
        ppis_stale: false,
        maintenance: Maintenance {
            underflow: false,
            no_pending: false,
        },
    };
}

/// A guest's interrupt controller.
#[derive(Debug)]
pub struct Vgic {
    version: Version,
    /// vCPUs that exist, one bit each.
    present: u32,
    /// vCPUs that are on.
    on: u32,
    /// Banks: 2 to 8.
    words: u32,
    linked_ppis: u32,
    /// `GICD_CTLR` bits 0 and 1: groups forwarded.
    control: u32,
    /// Of group 0 and group 1: all ones if forwarded.
    forward: [u32; 2],
    /// vCPUs to kick when the current call returns.
    kicks: u32,
    /// vCPUs whose list registers may still offer what has been disabled (`GICD_CTLR.RWP`).
    unsettled: u32,
    /// Private banks by vCPU, then SPI banks.
    banks: [Bank; BANKS],
    vcpus: [Vcpu; MAX_VCPUS],
    /// SPIs: `ITARGETSR` byte (GICv2) or affinity as written (GICv3).
    route: [u32; MAX_INTIDS],
    /// SPIs: the vCPU in whose list register it is, if `in_lr`.
    holder: [u8; MAX_INTIDS],
    /// SPIs: the physical one it is linked to.
    pintid: [u16; MAX_INTIDS],
    /// SPIs with several targets, which one of those that are on gets.
    one_of_n: [u32; MAX_INTIDS / BANK],
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
            n if n > MAX_INTIDS / BANK => MAX_INTIDS / BANK,
            n => n,
        };
        let mut vgic = Self {
            version: config.version,
            present: 0xff_u32.wrapping_shr(8_u32.wrapping_sub(vcpus as u32)),
            on: 0,
            words: words as u32,
            linked_ppis: config.linked_ppis & 0xffff_0000,
            control: 0,
            forward: [0; 2],
            kicks: 0,
            unsettled: 0,
            banks: [Bank::RESET; BANKS],
            vcpus: [Vcpu::RESET; MAX_VCPUS],
            route: [0; MAX_INTIDS],
            holder: [0; MAX_INTIDS],
            pintid: [0; MAX_INTIDS],
            one_of_n: [0; MAX_INTIDS / BANK],
        };
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
        true
    }

    /// The architecture version.
    #[must_use]
    pub const fn version(&self) -> Version {
        self.version
    }

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

    #[inline]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "vCPU masks have eight bits"
    )]
    const fn take_kicks(&mut self, own: usize) -> Kicks {
        let kicks = self.kicks & self.on & !bit(own as u32);
        self.kicks = 0;
        Kicks(kicks as u8)
    }
}

/// The tables, with every index masked to the table's length (or a `u8` into 256 entries), so that
/// there is no bound to check and none to pass.
#[expect(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "see above; the addition is of a number below 8 to 7"
)]
impl Vgic {
    #[inline]
    const fn bank(&self, vcpu: usize, word: u32) -> &Bank {
        let index = if word == 0 {
            vcpu & 7
        } else {
            (word as usize & 7) + 7
        };
        &self.banks[index & (BANKS - 1)]
    }

    #[inline]
    const fn bank_mut(&mut self, vcpu: usize, word: u32) -> &mut Bank {
        let index = if word == 0 {
            vcpu & 7
        } else {
            (word as usize & 7) + 7
        };
        &mut self.banks[index & (BANKS - 1)]
    }

    #[inline]
    const fn vcpu(&self, vcpu: usize) -> &Vcpu {
        &self.vcpus[vcpu & 7]
    }

    #[inline]
    const fn vcpu_mut(&mut self, vcpu: usize) -> &mut Vcpu {
        &mut self.vcpus[vcpu & 7]
    }

    #[inline]
    const fn routed(&self, vcpu: usize, word: u32) -> u32 {
        self.vcpus[vcpu & 7].routed[word as usize & 7]
    }

    #[inline]
    const fn routed_mut(&mut self, vcpu: usize, word: u32) -> &mut u32 {
        &mut self.vcpus[vcpu & 7].routed[word as usize & 7]
    }

    #[inline]
    const fn sources_mut(&mut self, vcpu: usize, sgi: IntId) -> &mut u8 {
        &mut self.vcpus[vcpu & 7].sources[sgi.0 as usize & 15]
    }

    #[inline]
    const fn lr_intid(&self, vcpu: usize, n: u32) -> IntId {
        IntId(self.vcpus[vcpu & 7].lr[n as usize & 7])
    }

    #[inline]
    const fn set_lr_intid(&mut self, vcpu: usize, n: u32, id: IntId) {
        self.vcpus[vcpu & 7].lr[n as usize & 7] = id.0;
    }

    #[inline]
    const fn route_of(&self, id: IntId) -> u32 {
        self.route[id.0 as usize]
    }

    #[inline]
    const fn route_mut(&mut self, id: IntId) -> &mut u32 {
        &mut self.route[id.0 as usize]
    }

    /// The vCPU in whose list register `id` of `vcpu`'s view is, if it is in one.
    #[inline]
    const fn holder_of(&self, vcpu: usize, id: IntId) -> usize {
        if id.is_private() {
            vcpu & 7
        } else {
            self.holder[id.0 as usize] as usize & 7
        }
    }

    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "masked to three bits")]
    const fn set_holder(&mut self, id: IntId, vcpu: usize) {
        self.holder[id.0 as usize] = (vcpu & 7) as u8;
    }

    /// The physical interrupt that `id` is linked to.
    #[inline]
    const fn pintid_of(&self, id: IntId) -> u16 {
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
    const fn one_of_n_mut(&mut self, word: u32) -> &mut u32 {
        &mut self.one_of_n[word as usize & 7]
    }

    /// Of the interrupts of a bank, those in a group that is forwarded.
    #[inline]
    const fn forwarded(&self, bank: &Bank) -> u32 {
        (bank.group & self.forward[1]) | (!bank.group & self.forward[0])
    }
}
