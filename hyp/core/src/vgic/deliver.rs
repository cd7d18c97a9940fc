//! Between the state and the list registers: giving interrupts to the hardware, taking them back,
//! and keeping the two in agreement.

use super::bank::{Bits, bit};
use super::list_register::{HostGic, Link, ListRegister, LrState, Maintenance};
use super::{IntId, Kicks, MAX_LIST_REGISTERS, Version, Vgic};

impl Vgic {
    /// The linked PPI `id` fired on this core, which runs `vcpu`; its priority was dropped and it
    /// stays physically active until the guest ends it.
    #[inline]
    pub fn inject_private<H: HostGic>(&mut self, vcpu: usize, id: IntId, host: &mut H) -> Kicks {
        self.deliver(vcpu, id, host);
        self.take_kicks(vcpu)
    }

    /// SPI `id` arrived on this core, which runs `vcpu`: an edge of an emulated device, or, if it
    /// is linked, the physical one fired (its priority was dropped and it stays active).
    #[inline]
    pub fn inject_spi<H: HostGic>(&mut self, vcpu: usize, id: IntId, host: &mut H) -> Kicks {
        let in_lr = self.bank(vcpu, id.word()).in_lr & id.mask() != 0;
        let mine = self.routed(vcpu, id.word()) & id.mask() != 0;
        if mine && (!in_lr || self.holder_of(vcpu, id) == vcpu) {
            self.deliver(vcpu, id, host);
            self.take_kicks(vcpu)
        } else {
            self.inject_spi_remote(id)
        }
    }

    /// [`inject_spi`](Self::inject_spi) from a core that runs none of this guest's vCPUs.
    pub fn inject_spi_remote(&mut self, id: IntId) -> Kicks {
        self.bank_mut(0, id.word()).pending |= id.mask();
        self.kicks |= self.concerned(0, id.word(), id.mask());
        self.take_kicks(NOBODY)
    }

    /// The line of SPI `id`, which is not linked, is driven high or low by a device that is
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

    /// Changes the line's state; whether it did change.
    const fn drive(&mut self, id: IntId, line: Line) -> bool {
        let bank = self.bank_mut(0, id.word());
        let mask = id.mask() & !bank.linked;
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
    /// To be called when the core was kicked for this vCPU, and for the maintenance interrupt.
    pub fn flush<H: HostGic>(&mut self, vcpu: usize, host: &mut H) -> Kicks {
        self.refresh_ppis(vcpu, host);
        self.flush_own(vcpu, host);
        self.take_kicks(vcpu)
    }

    /// Makes `id` pending for `vcpu`, on this core. What left the list registers is forgotten
    /// first, or the interrupt would seem to wait for its own end.
    #[inline]
    pub(super) fn deliver<H: HostGic>(&mut self, vcpu: usize, id: IntId, host: &mut H) {
        let empty = self.retire(vcpu, host);
        let bank = self.bank_mut(vcpu, id.word());
        bank.pending |= id.mask();
        let bank = self.bank(vcpu, id.word());
        let enabled = bank.enabled & self.forwarded(bank);
        if bank.in_lr & id.mask() != 0 || self.vcpu(vcpu).backlog || empty == 0 {
            self.flush_own(vcpu, host);
        } else if enabled & !bank.active & id.mask() != 0 {
            self.place(vcpu, id, empty.trailing_zeros(), host);
        }
    }

    /// Forgets what has left `vcpu`'s list registers. Returns those that are free.
    #[inline]
    fn retire<H: HostGic>(&mut self, vcpu: usize, host: &H) -> u32 {
        let empty = host.empty() & LR_MASK;
        for n in Bits(self.vcpu(vcpu).used & empty) {
            self.forget(vcpu, n);
        }
        empty
    }

    /// List register `n` of `vcpu` is empty. If its interrupt is pending again, it waits for a
    /// flush: here, or where it is routed by now.
    #[inline]
    fn forget(&mut self, vcpu: usize, n: u32) {
        let id = self.lr_intid(vcpu, n);
        let own = self.vcpu_mut(vcpu);
        own.used &= !bit(n);
        let bank = self.bank_mut(vcpu, id.word());
        bank.in_lr &= !id.mask();
        bank.cancel_pending &= !id.mask();
        bank.cancel_active &= !id.mask();
        if bank.asserted() & id.mask() != 0 {
            self.vcpu_mut(vcpu).backlog = true;
            self.kicks |= self.concerned(vcpu, id.word(), id.mask());
        }
    }

    /// Moves the pending state of `id` into the free list register `n`.
    #[inline]
    fn place<H: HostGic>(&mut self, vcpu: usize, id: IntId, n: u32, host: &mut H) {
        let mask = id.mask();
        let mut source = 0;
        let mut more = 0;
        if id.is_sgi() && self.version == Version::V2 {
            let sources = self.sources_mut(vcpu, id);
            source = sources.trailing_zeros().to_le_bytes()[0];
            *sources &= sources.wrapping_sub(1);
            more = u32::from(*sources);
        }
        let pintid = self.pintid_of(id);
        let bank = self.bank_mut(vcpu, id.word());
        let latched = bank.pending & mask;
        if more == 0 {
            bank.pending &= !mask;
        }
        bank.in_lr |= mask;
        let link = if bank.linked & mask != 0 {
            Link::Physical(pintid)
        } else {
            Link::Software {
                source,
                eoi: more != 0 || bank.level & !bank.edge & mask != 0,
            }
        };
        let value = ListRegister {
            intid: id.0,
            priority: bank.priority_of(u32::from(id.0)),
            group1: bank.group & mask != 0,
            state: LrState::Pending,
            link,
        };
        host.write_lr(n, value);
        if !id.is_private() {
            self.set_holder(id, vcpu);
        }
        self.set_lr_intid(vcpu, n, id);
        let own = self.vcpu_mut(vcpu);
        own.used |= bit(n);
        own.seen_pending |= bit(n);
        own.seen_active &= !bit(n);
        if latched == 0 {
            own.latched &= !bit(n);
        } else {
            own.latched |= bit(n);
        }
    }

    /// Of bank `word`, what could be put into a list register of `vcpu`.
    #[inline]
    fn ready(&self, vcpu: usize, word: u32) -> u32 {
        let bank = self.bank(vcpu, word);
        let ready = bank.asserted() & bank.enabled & !bank.active & !bank.in_lr;
        if ready == 0 {
            return 0;
        }
        let mine = if word == 0 {
            u32::MAX
        } else {
            self.routed(vcpu, word)
        };
        ready & self.forwarded(bank) & mine
    }

    /// Which vCPUs' list registers are concerned by a change to `mask` of bank `word` (bank 0: of
    /// `vcpu`). Those that hold one of the interrupts will look at each list register.
    pub(super) fn concerned(&mut self, vcpu: usize, word: u32, mask: u32) -> u32 {
        let bank = self.bank(vcpu, word);
        let held = bank.in_lr & mask;
        let waiting = bank.asserted() & bank.enabled & !bank.in_lr & mask;
        let mut concerned = 0;
        for n in Bits(held) {
            let holder = self.holder_of(vcpu, IntId::new(word, n));
            self.vcpu_mut(holder).reconcile = true;
            concerned |= vcpu_bit(holder);
        }
        if waiting != 0 {
            if word == 0 {
                concerned |= vcpu_bit(vcpu);
            } else {
                for target in Bits(self.present) {
                    if self.routed(target as usize, word) & waiting != 0 {
                        concerned |= bit(target);
                    }
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
        if (bank.in_lr | bank.asserted()) & mask == 0 {
            return;
        }
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

    /// The slow way: looks at what is in the list registers, then fills the free ones.
    #[inline(never)]
    fn flush_own<H: HostGic>(&mut self, vcpu: usize, host: &mut H) {
        let ended = host.ended() & self.vcpu(vcpu).used;
        for n in Bits(ended) {
            host.write_lr(n, ListRegister::EMPTY);
        }
        for n in Bits((host.empty() | ended) & self.vcpu(vcpu).used) {
            self.forget(vcpu, n);
        }
        let own = self.vcpu_mut(vcpu);
        let all = core::mem::replace(&mut own.reconcile, false);
        for n in Bits(own.used) {
            let id = self.lr_intid(vcpu, n);
            if all || self.bank(vcpu, id.word()).asserted() & id.mask() != 0 {
                self.reconcile(vcpu, n, id, host);
            }
        }
        self.unsettled &= !vcpu_bit(vcpu);

        let mut free = self.free_lrs(vcpu, host);
        let mut waiting = false;
        for word in 0..self.words {
            for n in Bits(self.ready(vcpu, word)) {
                if free == 0 {
                    waiting = true;
                    break;
                }
                self.place(vcpu, IntId::new(word, n), free.trailing_zeros(), host);
                free &= free.wrapping_sub(1);
            }
        }
        let wanted = if waiting {
            self.overflow(vcpu, host)
        } else {
            Maintenance::default()
        };
        let own = self.vcpu_mut(vcpu);
        own.backlog = waiting;
        if own.maintenance != wanted {
            own.maintenance = wanted;
            host.set_maintenance(wanted);
        }
    }

    /// List registers that hold nothing.
    fn free_lrs<H: HostGic>(&self, vcpu: usize, host: &H) -> u32 {
        let count = host.list_registers().min(MAX_LIST_REGISTERS);
        !self.vcpu(vcpu).used & !u32::MAX.wrapping_shl(count)
    }

    /// Sets one occupied list register right: what may not be offered any more comes back, what
    /// has become pending again joins it or has its end told.
    fn reconcile<H: HostGic>(&mut self, vcpu: usize, n: u32, id: IntId, host: &mut H) {
        let before = host.read_lr(n);
        let mut lr = before;
        let mask = id.mask();
        let word = id.word();
        let mine = id.is_private() || self.routed(vcpu, word) & mask != 0;
        let latched = self.vcpu(vcpu).latched & bit(n) != 0;
        let bank = self.bank(vcpu, word);
        let offered = mine && bank.enabled & self.forwarded(bank) & mask != 0;
        let edge = bank.edge & mask != 0;
        let high = bank.level & !bank.edge & mask != 0;
        let linked = matches!(lr.link, Link::Physical(_));

        self.cancel(vcpu, id, &mut lr);
        if lr.state.is_pending() {
            if !linked && !edge && !high && !latched {
                lr.state = lr.state.without_pending();
            } else if !offered {
                lr.state = lr.state.without_pending();
                self.take_back(vcpu, id, lr.link, latched);
            }
        }
        if lr.state == LrState::Pending {
            let bank = self.bank(vcpu, word);
            lr.priority = bank.priority_of(u32::from(id.0));
            lr.group1 = bank.group & mask != 0;
        }
        if let Link::Software { source, .. } = lr.link {
            let joins = edge && lr.state != LrState::Invalid || lr.state == LrState::Pending;
            if joins && offered && self.take_latch(vcpu, id, source) {
                lr.state = lr.state.with_pending();
                self.vcpu_mut(vcpu).latched |= bit(n);
            }
            let again = self.bank(vcpu, word).asserted() & mask != 0;
            lr.link = Link::Software { source, eoi: again };
        }
        if let (Link::Physical(pintid), LrState::Invalid) = (lr.link, lr.state) {
            // Nothing will end it in the guest, unless it was taken back to be offered again.
            if self.bank(vcpu, word).pending & mask == 0 && before.state != LrState::Invalid {
                host.deactivate(pintid);
            }
        }
        if lr.state == LrState::Invalid {
            host.write_lr(n, ListRegister::EMPTY);
            self.forget(vcpu, n);
            return;
        }
        if lr != before {
            host.write_lr(n, lr);
        }
        let own = self.vcpu_mut(vcpu);
        own.seen_pending =
            own.seen_pending & !bit(n) | if lr.state.is_pending() { bit(n) } else { 0 };
        own.seen_active = own.seen_active & !bit(n) | if lr.state.is_active() { bit(n) } else { 0 };
    }

    /// Does what another vCPU asked for by writing ICPENDR or ICACTIVER.
    fn cancel(&mut self, vcpu: usize, id: IntId, lr: &mut ListRegister) {
        let bank = self.bank_mut(vcpu, id.word());
        if bank.cancel_pending & id.mask() != 0 {
            bank.cancel_pending &= !id.mask();
            if bank.level & !bank.edge & id.mask() == 0 {
                lr.state = lr.state.without_pending();
            }
        }
        if bank.cancel_active & id.mask() != 0 {
            bank.cancel_active &= !id.mask();
            lr.state = lr.state.without_active();
        }
    }

    /// Restores the latch that [`place`](Self::place) or [`take_latch`](Self::take_latch) moved out.
    fn take_back(&mut self, vcpu: usize, id: IntId, link: Link, latched: bool) {
        if let Link::Software { source, .. } = link {
            if !latched {
                return;
            }
            if id.is_sgi() && self.version == Version::V2 {
                *self.sources_mut(vcpu, id) |= 1_u8.wrapping_shl(u32::from(source));
            }
        }
        self.bank_mut(vcpu, id.word()).pending |= id.mask();
    }

    /// Takes the latch out of the state if the list register that `id` is in can carry it: a GICv2
    /// SGI from another sender cannot join. Whether it did.
    fn take_latch(&mut self, vcpu: usize, id: IntId, source: u8) -> bool {
        if id.is_sgi() && self.version == Version::V2 {
            let sources = self.sources_mut(vcpu, id);
            let sender = 1_u8.wrapping_shl(u32::from(source));
            let joins = *sources & sender != 0;
            *sources &= !sender;
            if *sources == 0 {
                self.bank_mut(vcpu, 0).pending &= !id.mask();
            }
            return joins;
        }
        let bank = self.bank_mut(vcpu, id.word());
        let joins = bank.pending & id.mask() != 0;
        bank.pending &= !id.mask();
        joins
    }

    /// More is pending than there are list registers: the most urgent go in, and a maintenance
    /// interrupt is asked for when there is room again.
    #[cold]
    fn overflow<H: HostGic>(&mut self, vcpu: usize, host: &mut H) -> Maintenance {
        for _ in 0..MAX_LIST_REGISTERS {
            let Some((urgency, id)) = self.most_urgent(vcpu) else {
                break;
            };
            let Some((priority, n)) = self.least_urgent_lr(vcpu, host) else {
                break;
            };
            if urgency >= priority {
                break;
            }
            let out = self.lr_intid(vcpu, n);
            let link = host.read_lr(n).link;
            let latched = self.vcpu(vcpu).latched & bit(n) != 0;
            self.take_back(vcpu, out, link, latched);
            self.bank_mut(vcpu, out.word()).in_lr &= !out.mask();
            self.place(vcpu, id, n, host);
        }
        // Underflow alone would leave free list registers unused while two others stay active, so
        // the end of each active one is told as well. Without a pending one NPIE would fire at once.
        let mut no_pending = false;
        for n in Bits(self.vcpu(vcpu).used) {
            let mut lr = host.read_lr(n);
            no_pending |= lr.state.is_pending();
            if let (LrState::Active, Link::Software { source, eoi: false }) = (lr.state, lr.link) {
                lr.link = Link::Software { source, eoi: true };
                host.write_lr(n, lr);
            }
        }
        Maintenance {
            underflow: host.list_registers() > 1,
            no_pending,
        }
    }

    /// The most urgent interrupt that waits for a list register, with its priority.
    fn most_urgent(&self, vcpu: usize) -> Option<(u8, IntId)> {
        (0..self.words)
            .flat_map(|word| {
                let bank = self.bank(vcpu, word);
                Bits(self.ready(vcpu, word))
                    .map(move |n| (bank.priority_of(n), IntId::new(word, n)))
            })
            .min()
    }

    /// The least urgent interrupt that is in a list register and not acknowledged, with its priority.
    fn least_urgent_lr<H: HostGic>(&self, vcpu: usize, host: &H) -> Option<(u8, u32)> {
        Bits(self.vcpu(vcpu).used)
            .map(|n| (host.read_lr(n), n))
            .filter(|(lr, _)| lr.state == LrState::Pending)
            .map(|(lr, n)| (lr.priority, n))
            .max()
    }
}

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
const LR_MASK: u32 = !u32::MAX.wrapping_shl(MAX_LIST_REGISTERS);

/// The bit of `vcpu` in a mask of vCPUs.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "masked to five bits")]
pub(super) const fn vcpu_bit(vcpu: usize) -> u32 {
    bit((vcpu & 31) as u32)
}
