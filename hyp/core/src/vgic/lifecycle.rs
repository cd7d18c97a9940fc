//! vCPUs that come and go, and the guest's reset.

use super::bank::{Bank, Bits, Cold, bit};
use super::deliver::lr_bit;
use super::fields::SGIS;
use super::host::{HostGic, Maintenance, Trigger};
use super::list_register::{Link, ListRegister, LrState};
use super::state::vcpu_bit;
use super::vcpu::{Due, Vcpu};
use super::{IntId, Kicks, Version, Vgic};
use crate::limits::MAX_VCPUS;

impl Vgic {
    /// `vcpu` starts on this core, whose list registers are empty and whose linked PPIs are
    /// disabled: its SPIs find it, and what was pending for it is offered. The CPU interface's own
    /// registers (VMCR, active priorities) are the shell's to reset.
    pub fn vcpu_on<H: HostGic>(&mut self, vcpu: usize, host: &mut H) -> Kicks {
        self.on |= vcpu_bit(vcpu) & self.present;
        self.choose_again(vcpu, host);
        self.route_linked(vcpu, host);
        let bank = self.bank(vcpu, 0);
        if bank.enabled & bank.linked != 0 {
            self.vcpu_mut(vcpu).due.add(Due::PPIS);
        }
        self.flush(vcpu, host)
    }

    /// `vcpu` leaves this core. What is offered to it comes back to the state; what it has
    /// acknowledged ends, physically too; its SGIs and PPIs are reset. SPIs stay pending, their
    /// physical interrupts held back until they have a target that is on.
    pub fn vcpu_off<H: HostGic>(&mut self, vcpu: usize, host: &mut H) -> Kicks {
        for n in Bits(u32::from(self.vcpu(vcpu).lrs.used)) {
            let lr = host.read_lr(n);
            host.write_lr(n, ListRegister::EMPTY);
            self.drain(vcpu, n, lr, host);
        }
        let bank = *self.bank(vcpu, 0);
        for n in Bits(bank.linked) {
            let pintid = self.pintid_of(IntId::new(0, n));
            host.disable(pintid);
            // A latch the guest has set, for whoever has this core next.
            host.unpend(pintid);
            if bank.pending & bit(n) != 0 {
                host.deactivate(pintid);
            }
        }
        host.set_maintenance(Maintenance::default());
        self.on &= !vcpu_bit(vcpu);
        self.unsettled &= !vcpu_bit(vcpu);
        let routed = self.vcpu(vcpu).routed;
        *self.vcpu_mut(vcpu) = Vcpu {
            routed,
            ..Vcpu::RESET
        };
        self.reset_private(vcpu);
        self.choose_again(vcpu, host);
        for word in Bits(self.linked_words) {
            self.follow(vcpu, vcpu, word, self.routed(vcpu, word), host);
        }
        self.take_kicks(vcpu)
    }

    /// The whole guest is reset (or ends): all vCPUs are off. Links stay, everything else is as
    /// new; no physical interrupt of the guest is left enabled, pending, active or otherwise
    /// triggered than the guest is shown. What that was before the first time is firmware's affair
    /// (IHI 0048B.b, 4.3.13; IHI 0069H, 12.9.9).
    pub fn guest_reset<H: HostGic>(&mut self, host: &mut H) {
        for word in Bits(self.linked_words) {
            let bank = *self.bank(0, word);
            for n in Bits(bank.linked) {
                let pintid = self.pintid_of(IntId::new(word, n));
                host.disable(pintid);
                host.set_trigger(pintid, Trigger::Level);
                host.unpend(pintid);
                if bank.pending & bit(n) != 0 {
                    host.deactivate(pintid);
                }
            }
        }
        self.reset_registers();
    }

    /// Registers as after reset; lines of emulated devices keep their level.
    pub(super) const fn reset_registers(&mut self) {
        self.on = 0;
        self.control = 0;
        self.kicks = 0;
        self.unsettled = 0;
        self.open_words = 0;
        let mut vcpu = 0;
        while vcpu < MAX_VCPUS {
            *self.vcpu_mut(vcpu) = Vcpu::RESET;
            self.reset_private(vcpu);
            vcpu = vcpu.wrapping_add(1);
        }
        // GICv3: affinity 0.0.0.0 is vCPU 0. GICv2: no target, unless there is no choice.
        self.reset_routes(matches!(self.version, Version::V3) || self.is_uniprocessor());
        let mut word = 1;
        while word < self.words {
            let Bank { level, linked, .. } = *self.bank(0, word);
            *self.bank_mut(0, word) = Bank {
                level,
                linked,
                ..Bank::RESET
            };
            *self.cold_mut(0, word) = Cold::RESET;
            word = word.wrapping_add(1);
        }
    }

    const fn reset_private(&mut self, vcpu: usize) {
        *self.bank_mut(vcpu, 0) = Bank {
            enabled: self.always_enabled(0),
            linked: self.linked_ppis,
            edge: SGIS,
            ..Bank::RESET
        };
        *self.cold_mut(vcpu, 0) = Cold::RESET;
        self.reopen(vcpu, 0);
    }

    /// Takes list register `n`, read as `lr`, out of the running vCPU `vcpu`'s hands.
    fn drain<H: HostGic>(&mut self, vcpu: usize, n: u32, lr: ListRegister, host: &mut H) {
        let id = self.lr_intid(vcpu, n);
        let latched = self.vcpu(vcpu).lrs.latched & lr_bit(n) != 0;
        let cold = self.cold_mut(vcpu, id.word());
        let cancelled = cold.cancel_pending & id.mask() != 0;
        cold.cancel_pending &= !id.mask();
        cold.cancel_active &= !id.mask();
        let bank = self.bank_mut(vcpu, id.word());
        bank.in_lr &= !id.mask();
        let state = lr.state();
        match lr.link() {
            Link::Physical(pintid) if state != LrState::Invalid => {
                if id.is_private() || state.is_active() || cancelled {
                    host.deactivate(pintid);
                } else {
                    bank.pending |= id.mask();
                }
            }
            Link::Software { .. } if state.is_pending() && latched && !cancelled => {
                bank.pending |= id.mask();
            }
            Link::Software { .. } if self.is_shared(id) => host.deactivate(self.pintid_of(id)),
            _ => {}
        }
        if !id.is_private() {
            self.kicks |= self.concerned(vcpu, id.word(), id.mask());
        }
    }

    /// SPIs with several targets go elsewhere when `vcpu` has come or gone, if they have to.
    fn choose_again<H: HostGic>(&mut self, vcpu: usize, host: &mut H) {
        for word in Bits(self.one_of_n_words) {
            for n in Bits(*self.one_of_n_mut(word)) {
                let id = IntId::new(word, n);
                if self.route_of(id) & vcpu_bit(vcpu) != 0 {
                    let target = self.choose_target(id);
                    if target.is_none_or(|t| self.routed(t, word) & id.mask() == 0) {
                        self.retarget(vcpu, id, target, host);
                    }
                }
            }
        }
    }

    /// Physical SPIs follow their virtual target, `vcpu`, to this core.
    fn route_linked<H: HostGic>(&mut self, vcpu: usize, host: &mut H) {
        for word in Bits(self.linked_words) {
            let linked = self.bank(vcpu, word).linked & self.routed(vcpu, word);
            for n in Bits(linked) {
                host.route(self.pintid_of(IntId::new(word, n)), vcpu);
            }
            self.follow(vcpu, vcpu, word, linked, host);
        }
    }
}
