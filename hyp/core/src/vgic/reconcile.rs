//! Keeping the list registers and the state in agreement: what may not be offered any more comes
//! back, what waits goes in, the most urgent first.

use super::bank::Bits;
use super::deliver::{LR_MASK, lr_bit};
use super::host::{HostGic, Maintenance};
use super::list_register::{Link, ListRegister, LrState};
use super::state::vcpu_bit;
use super::vcpu::Due;
use super::{IntId, MAX_LIST_REGISTERS, Version, Vgic};

impl Vgic {
    /// The slow way: looks at what is in the list registers, then fills the free ones.
    #[inline(never)]
    pub(super) fn flush_own<H: HostGic>(&mut self, vcpu: usize, host: &mut H) {
        let used = u32::from(self.vcpu(vcpu).lrs.used);
        let all = self.vcpu_mut(vcpu).due.take(Due::RECONCILE);
        if used != 0 {
            self.look_at_lrs(vcpu, used, all, host);
        }
        self.unsettled &= !vcpu_bit(vcpu);

        let mut free = self.free_lrs(vcpu, host);
        let mut waiting = false;
        for word in Bits(self.open_words | 1) {
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
        own.due.take(Due::BACKLOG);
        if waiting {
            own.due.add(Due::BACKLOG);
        }
        if own.maintenance != wanted {
            own.maintenance = wanted;
            host.set_maintenance(wanted);
        }
    }

    /// Forgets what has left the list registers `used` and sets the others right: `all`, or those
    /// whose interrupt is pending again.
    fn look_at_lrs<H: HostGic>(&mut self, vcpu: usize, used: u32, all: bool, host: &mut H) {
        let ended = host.ended() & used;
        for n in Bits(ended) {
            host.write_lr(n, ListRegister::EMPTY);
            let id = self.lr_intid(vcpu, n);
            if self.is_shared(id) {
                host.deactivate(self.pintid_of(id));
            }
        }
        let gone = (host.empty() | ended) & used & LR_MASK;
        for n in Bits(gone) {
            self.forget(vcpu, n);
        }
        for n in Bits(used & !gone) {
            let id = self.lr_intid(vcpu, n);
            if all || self.bank(vcpu, id.word()).asserted() & id.mask() != 0 {
                self.reconcile(vcpu, n, id, host);
            }
        }
    }

    /// List registers that hold nothing.
    fn free_lrs<H: HostGic>(&self, vcpu: usize, host: &H) -> u32 {
        let count = host.list_registers().min(MAX_LIST_REGISTERS);
        !u32::from(self.vcpu(vcpu).lrs.used) & !u32::MAX.wrapping_shl(count)
    }

    /// Sets one occupied list register right: what may not be offered any more comes back, what
    /// has become pending again joins it or has its end told.
    fn reconcile<H: HostGic>(&mut self, vcpu: usize, n: u32, id: IntId, host: &mut H) {
        let before = host.read_lr(n);
        let link = before.link();
        let (word, mask) = (id.word(), id.mask());
        let mine = id.is_private() || self.routed(vcpu, word) & mask != 0;
        let bank = self.bank(vcpu, word);
        let offered = mine && bank.open & mask != 0;
        let edge = bank.edge & mask != 0;
        let high = bank.level & !bank.edge & mask != 0;
        let (priority, group) = (bank.priority_of(u32::from(id.0)), bank.group_of(mask));
        let is_linked = matches!(link, Link::Physical(_));
        let latched = self.vcpu(vcpu).lrs.latched & lr_bit(n) != 0;

        let mut state = self.cancel(vcpu, id, before.state());
        if state.is_pending() {
            if !is_linked && !edge && !high && !latched {
                state = state.without_pending();
            } else if !offered {
                state = state.without_pending();
                self.take_back(vcpu, id, link, latched);
            }
        }
        let mut lr = before;
        if let Link::Software { source, .. } = link {
            let joins = edge && state != LrState::Invalid || state == LrState::Pending;
            if joins && offered && self.take_latch(vcpu, id, source) {
                state = state.with_pending();
                self.vcpu_mut(vcpu).lrs.latched |= lr_bit(n);
            }
            let again = self.bank(vcpu, word).asserted() & mask != 0;
            lr = lr.with_eoi(again || self.is_shared(id));
        }
        if state == LrState::Invalid {
            self.end(vcpu, id, before, host);
            host.write_lr(n, ListRegister::EMPTY);
            self.forget(vcpu, n);
            return;
        }
        if state == LrState::Pending {
            lr = lr.with_urgency(priority, group);
        }
        lr = lr.with_state(state);
        if lr != before {
            host.write_lr(n, lr);
        }
        let lrs = &mut self.vcpu_mut(vcpu).lrs;
        lrs.seen_pending =
            lrs.seen_pending & !lr_bit(n) | if state.is_pending() { lr_bit(n) } else { 0 };
        lrs.seen_active =
            lrs.seen_active & !lr_bit(n) | if state.is_active() { lr_bit(n) } else { 0 };
    }

    /// Does what another vCPU asked for by writing ICPENDR or ICACTIVER to a list register in
    /// `state`; returns what is left of it.
    fn cancel(&mut self, vcpu: usize, id: IntId, mut state: LrState) -> LrState {
        let bank = self.bank(vcpu, id.word());
        let high = bank.level & !bank.edge & id.mask() != 0;
        let cold = self.cold_mut(vcpu, id.word());
        if cold.cancel_pending & id.mask() != 0 {
            cold.cancel_pending &= !id.mask();
            if !high {
                state = state.without_pending();
            }
        }
        if cold.cancel_active & id.mask() != 0 {
            cold.cancel_active &= !id.mask();
            state = state.without_active();
        }
        state
    }

    /// The guest will not end what was in a list register, as `before`: if that was linked, and has
    /// not been taken back to be offered again, its physical interrupt ends now.
    fn end<H: HostGic>(&mut self, vcpu: usize, id: IntId, before: ListRegister, host: &mut H) {
        if matches!(before.link(), Link::Physical(_)) || self.is_shared(id) {
            let taken_back = self.bank(vcpu, id.word()).pending & id.mask() != 0;
            if before.state() != LrState::Invalid && !taken_back {
                host.deactivate(self.pintid_of(id));
            }
        }
    }

    /// Restores the latch that [`place`](Self::place) or [`take_latch`](Self::take_latch) moved out.
    fn take_back(&mut self, vcpu: usize, id: IntId, link: Link, latched: bool) {
        if let Link::Software { source, .. } = link {
            if !latched {
                return;
            }
            self.latch_sender(vcpu, usize::from(source), id);
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
            let latched = self.vcpu(vcpu).lrs.latched & lr_bit(n) != 0;
            self.take_back(vcpu, out, host.read_lr(n).link(), latched);
            self.bank_mut(vcpu, out.word()).in_lr &= !out.mask();
            self.place(vcpu, id, n, host);
        }
        // Underflow alone would leave free list registers unused while two others stay active, so
        // the end of each active one is told as well. Without a pending one NPIE would fire at once.
        let mut no_pending = false;
        for n in Bits(u32::from(self.vcpu(vcpu).lrs.used)) {
            let lr = host.read_lr(n);
            no_pending |= lr.state().is_pending();
            if let (LrState::Active, Link::Software { eoi: false, .. }) = (lr.state(), lr.link()) {
                host.write_lr(n, lr.with_eoi(true));
            }
        }
        Maintenance {
            underflow: host.list_registers() > 1,
            no_pending,
        }
    }

    /// The most urgent interrupt that waits for a list register, with its priority.
    fn most_urgent(&self, vcpu: usize) -> Option<(u8, IntId)> {
        Bits(self.open_words | 1)
            .flat_map(|word| {
                let bank = self.bank(vcpu, word);
                Bits(self.ready(vcpu, word))
                    .map(move |n| (bank.priority_of(n), IntId::new(word, n)))
            })
            .min()
    }

    /// The least urgent interrupt that is in a list register and not acknowledged, with its priority.
    fn least_urgent_lr<H: HostGic>(&self, vcpu: usize, host: &H) -> Option<(u8, u32)> {
        Bits(u32::from(self.vcpu(vcpu).lrs.used))
            .map(|n| (host.read_lr(n), n))
            .filter(|(lr, _)| lr.state() == LrState::Pending)
            .map(|(lr, n)| (lr.priority(), n))
            .max()
    }
}
