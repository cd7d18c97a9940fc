//! From the state into the list registers: the ways by which interrupts arrive.

use super::bank::{Bits, bit};
use super::host::{HostGic, SHARED};
use super::list_register::{Link, ListRegister};
use super::state::vcpu_bit;
use super::vcpu::Due;
use super::{IntId, Kicks, MAX_LIST_REGISTERS, Version, Vgic};

/// Level of an emulated interrupt line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Line {
    /// Not asserted.
    Low,
    /// Asserted.
    High,
}

/// In place of the own vCPU on a core that runs none of the guest's.
const NOBODY: usize = 31;

/// The list registers that are used.
pub(super) const LR_MASK: u32 = !u32::MAX.wrapping_shl(MAX_LIST_REGISTERS);

impl Vgic {
    /// The linked PPI `id` fired on this core, which runs `vcpu`; its priority was dropped and it
    /// stays physically active until the guest ends it.
    #[inline]
    pub fn inject_private<H: HostGic>(&mut self, vcpu: usize, id: IntId, host: &mut H) -> Kicks {
        if self.redeliver(vcpu, vcpu, id, host) {
            return Kicks::NONE;
        }
        self.deliver_anew(vcpu, vcpu, id, host);
        self.take_kicks(vcpu)
    }

    /// SPI `id` arrived on this core, which runs `vcpu`: an edge of an emulated device, or, if it
    /// is linked, the physical one fired (its priority was dropped and it stays active).
    #[inline]
    pub fn inject_spi<H: HostGic>(&mut self, vcpu: usize, id: IntId, host: &mut H) -> Kicks {
        let in_lr = self.bank(vcpu, id.word()).in_lr & id.mask() != 0;
        let mine = self.routed(vcpu, id.word()) & id.mask() != 0;
        if mine && (!in_lr || self.holder_of(vcpu, id) == vcpu) {
            if self.redeliver(vcpu, 0, id, host) {
                return Kicks::NONE;
            }
            self.deliver(vcpu, id, host);
            self.take_kicks(vcpu)
        } else {
            self.inject_spi_remote(id)
        }
    }

    /// [`inject_spi`](Self::inject_spi) from a core that runs none of this guest's vCPUs.
    pub fn inject_spi_remote(&mut self, id: IntId) -> Kicks {
        self.bank_mut(0, id.word()).pending |= id.mask();
        self.kicks |= self.waits_for(id);
        self.take_kicks(NOBODY)
    }

    /// The vCPUs that have to look after SPI `id`, of which nothing has changed but that it came: the one in whose list
    /// register it is, or may be offered again, else those that it is routed to.
    fn waits_for(&mut self, id: IntId) -> u32 {
        let bank = self.bank(0, id.word());
        if bank.in_lr & id.mask() != 0 {
            let holder = self.holder_of(0, id);
            if self.routed(holder, id.word()) & id.mask() == 0 {
                // It cannot join what is there, and goes where it is routed when that has ended.
                self.vcpu_mut(holder).due.add(Due::RECONCILE);
            }
            return vcpu_bit(holder);
        }
        let is_ready = bank.ready() & id.mask() != 0;
        let routed = |vcpu: &u32| self.routed(*vcpu as usize, id.word()) & id.mask() != 0;
        let targets = Bits(if is_ready { self.present } else { 0 }).filter(routed);
        targets.fold(0, |mask, vcpu| mask | bit(vcpu))
    }

    /// The line of SPI `id`, which is not linked in hardware, is driven high or low by a device that is
    /// emulated on this core, which runs `vcpu`.
    pub fn set_line<H: HostGic>(
        &mut self,
        vcpu: usize,
        id: IntId,
        line: Line,
        host: &mut H,
    ) -> Kicks {
        if self.drive(id, line) {
            self.settle(vcpu, vcpu, id.word(), id.mask(), host);
        }
        self.take_kicks(vcpu)
    }

    /// [`set_line`](Self::set_line) from a core that runs none of this guest's vCPUs.
    pub fn set_line_remote(&mut self, id: IntId, line: Line) -> Kicks {
        if self.drive(id, line) {
            self.kicks |= self.concerned(0, id.word(), id.mask());
        }
        self.take_kicks(NOBODY)
    }

    /// Changes the line's state; whether it did change. A shared one has a line, too: the emulated console's
    /// in the place of the board's.
    const fn drive(&mut self, id: IntId, line: Line) -> bool {
        let is_shared = self.is_shared(id);
        let bank = self.bank_mut(0, id.word());
        let mask = if is_shared {
            id.mask()
        } else {
            id.mask() & !bank.linked
        };
        let before = bank.level;
        match line {
            Line::High => {
                bank.pending |= mask & bank.edge & !before;
                bank.level |= mask;
            }
            Line::Low => bank.level &= !mask,
        }
        bank.level != before
    }

    /// Brings the list registers of `vcpu`, which runs on this core, into agreement with the state.
    /// To be called when the core was kicked for this vCPU, and for the maintenance interrupt. Does
    /// nothing for a vCPU that has gone off since.
    pub fn flush<H: HostGic>(&mut self, vcpu: usize, host: &mut H) -> Kicks {
        if self.on & vcpu_bit(vcpu) == 0 {
            return Kicks::NONE;
        }
        if !self.take_again(vcpu, host) {
            self.refresh_ppis(vcpu, host);
            self.flush_own(vcpu, host);
        }
        self.take_kicks(vcpu)
    }

    /// Makes the SGI or PPI `id` pending for `vcpu`, on this core; an SGI comes from `sender`.
    #[inline]
    pub(super) fn deliver_private<H: HostGic>(
        &mut self,
        vcpu: usize,
        sender: usize,
        id: IntId,
        host: &mut H,
    ) {
        if !self.redeliver(vcpu, sender, id, host) {
            self.deliver_anew(vcpu, sender, id, host);
        }
    }

    #[inline(never)]
    fn deliver_anew<H: HostGic>(&mut self, vcpu: usize, sender: usize, id: IntId, host: &mut H) {
        self.latch_sender(vcpu, sender, id);
        self.deliver(vcpu, id, host);
    }

    /// GICv2: remembers who sent SGI `id` to `vcpu`.
    #[inline]
    pub(super) const fn latch_sender(&mut self, vcpu: usize, sender: usize, id: IntId) {
        if id.is_sgi() && matches!(self.version, Version::V2) {
            let [sender, ..] = vcpu_bit(sender).to_le_bytes();
            *self.sources_mut(vcpu, id) |= sender;
        }
    }

    /// Makes `id` pending for `vcpu`, on this core. A list register that was never used, or whose
    /// interrupt has been forgotten, is preferred: others keep theirs for
    /// [`redeliver`](Self::redeliver).
    pub(super) fn deliver<H: HostGic>(&mut self, vcpu: usize, id: IntId, host: &mut H) {
        let mut unused = host.empty() & LR_MASK & !u32::from(self.vcpu(vcpu).lrs.used);
        if unused == 0 || self.bank(vcpu, id.word()).in_lr & id.mask() != 0 {
            // Before it is made pending, or it would seem to wait for its own end.
            unused = self.retire(vcpu, host);
        }
        let bank = self.bank_mut(vcpu, id.word());
        bank.pending |= id.mask();
        if bank.in_lr & id.mask() != 0 || unused == 0 || self.vcpu(vcpu).due.has(Due::BACKLOG) {
            self.flush_own(vcpu, host);
        } else if self.bank(vcpu, id.word()).open & id.mask() != 0 {
            self.place(vcpu, id, unused.trailing_zeros(), host);
        }
    }

    /// Forgets what has left `vcpu`'s list registers. Returns those that are free.
    fn retire<H: HostGic>(&mut self, vcpu: usize, host: &H) -> u32 {
        let empty = host.empty() & LR_MASK;
        for n in Bits(u32::from(self.vcpu(vcpu).lrs.used) & empty) {
            self.forget(vcpu, n);
        }
        empty
    }

    /// List register `n` of `vcpu` is empty. If its interrupt is pending again, it waits for a
    /// flush: here, or where it is routed by now.
    pub(super) fn forget(&mut self, vcpu: usize, n: u32) {
        let id = self.lr_intid(vcpu, n);
        self.vcpu_mut(vcpu).lrs.used &= !lr_bit(n);
        let cold = self.cold_mut(vcpu, id.word());
        cold.cancel_pending &= !id.mask();
        cold.cancel_active &= !id.mask();
        let bank = self.bank_mut(vcpu, id.word());
        bank.in_lr &= !id.mask();
        if bank.asserted() & id.mask() != 0 {
            self.vcpu_mut(vcpu).due.add(Due::BACKLOG);
            self.kicks |= self.concerned(vcpu, id.word(), id.mask());
        }
    }

    /// What the end of `id` does.
    #[inline]
    pub(super) fn link(&self, vcpu: usize, id: IntId, source: u8, eoi: bool) -> Link {
        if self.bank(vcpu, id.word()).linked & id.mask() == 0 {
            return Link::Software { source, eoi };
        }
        match self.pintid_of(id) {
            pintid if pintid & SHARED == 0 => Link::Physical(pintid),
            _ => Link::Software {
                source: 0,
                eoi: true,
            },
        }
    }

    /// The list register that offers `id`.
    // In the shortest ways, where a call makes them save what they hold.
    #[inline(always)]
    pub(super) fn offer(&self, vcpu: usize, id: IntId, link: Link) -> ListRegister {
        let bank = self.bank(vcpu, id.word());
        let priority = bank.priority_of(u32::from(id.0));
        ListRegister::pending(id.0, priority, bank.group_of(id.mask()), link)
    }

    /// Moves the pending state of `id` into the free list register `n`.
    pub(super) fn place<H: HostGic>(&mut self, vcpu: usize, id: IntId, n: u32, host: &mut H) {
        let mask = id.mask();
        let (mut source, mut more) = (0, false);
        if id.is_sgi() && self.version == Version::V2 {
            let sources = self.sources_mut(vcpu, id);
            source = sources.trailing_zeros().to_le_bytes()[0];
            *sources &= sources.wrapping_sub(1);
            more = *sources != 0;
        }
        let bank = self.bank_mut(vcpu, id.word());
        let latched = bank.pending & mask != 0;
        if !more {
            bank.pending &= !mask;
        }
        bank.in_lr |= mask;
        let eoi = more || bank.level & !bank.edge & mask != 0;
        let link = self.link(vcpu, id, source, eoi);
        host.write_lr(n, self.offer(vcpu, id, link));
        self.set_lr_intid(vcpu, n, id);
        let lrs = &mut self.vcpu_mut(vcpu).lrs;
        lrs.used |= lr_bit(n);
        lrs.seen_pending |= lr_bit(n);
        lrs.seen_active &= !lr_bit(n);
        lrs.latched &= !lr_bit(n);
        lrs.latched |= if latched { lr_bit(n) } else { 0 };
    }

    /// Of bank `word`, what could be put into a list register of `vcpu`.
    #[inline]
    pub(super) const fn ready(&self, vcpu: usize, word: u32) -> u32 {
        let ready = self.bank(vcpu, word).ready();
        if word == 0 {
            ready
        } else {
            ready & self.routed(vcpu, word)
        }
    }

    /// Which vCPUs' list registers are concerned by a change to `mask` of bank `word` (bank 0: of
    /// `vcpu`). Those that hold one of the interrupts will look at each list register.
    pub(super) fn concerned(&mut self, vcpu: usize, word: u32, mask: u32) -> u32 {
        let bank = self.bank(vcpu, word);
        let held = bank.in_lr & mask;
        let waiting = bank.ready() & mask;
        let mut concerned = 0;
        if word == 0 {
            if held != 0 {
                self.vcpu_mut(vcpu).due.add(Due::RECONCILE);
            }
            return if held | waiting != 0 {
                vcpu_bit(vcpu)
            } else {
                0
            };
        }
        for n in Bits(held) {
            let holder = self.holder_of(vcpu, IntId::new(word, n));
            self.vcpu_mut(holder).due.add(Due::RECONCILE);
            concerned |= vcpu_bit(holder);
        }
        if waiting != 0 {
            for target in Bits(self.present) {
                if self.routed(target as usize, word) & waiting != 0 {
                    concerned |= bit(target);
                }
            }
        }
        concerned
    }

    /// After a change to `mask` of bank `word` (bank 0: of `vcpu`) by `own`, on this core: `own`'s
    /// list registers are set right at once, the others' vCPUs are kicked.
    #[inline]
    pub(super) fn settle<H: HostGic>(
        &mut self,
        own: usize,
        vcpu: usize,
        word: u32,
        mask: u32,
        host: &mut H,
    ) {
        let bank = self.bank(vcpu, word);
        if (bank.in_lr | bank.asserted()) & mask != 0 {
            self.settle_pending(own, vcpu, word, mask, host);
        }
    }

    #[inline(never)]
    fn settle_pending<H: HostGic>(
        &mut self,
        own: usize,
        vcpu: usize,
        word: u32,
        mask: u32,
        host: &mut H,
    ) {
        self.retire(own, host);
        let concerned = self.concerned(vcpu, word, mask);
        self.settle_vcpus(own, concerned, host);
    }

    /// Flushes `own` if it is among `vcpus`, and has the others kicked.
    pub(super) fn settle_vcpus<H: HostGic>(&mut self, own: usize, vcpus: u32, host: &mut H) {
        self.kicks |= vcpus;
        if vcpus & self.on & vcpu_bit(own) != 0 {
            self.flush_own(own, host);
        }
    }
}

/// The bit of list register `n` (below 8) in a set of them.
#[inline]
pub(super) const fn lr_bit(n: u32) -> u8 {
    1_u8.wrapping_shl(n)
}
