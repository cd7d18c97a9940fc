//! ISPENDR, ICPENDR, ISACTIVER and ICACTIVER: state that may be in some core's list register just now.

use super::bank::{Bits, bit};
use super::deliver::lr_bit;
use super::fields::SGIS;
use super::host::HostGic;
use super::state::vcpu_bit;
use super::vcpu::Due;
use super::{IntId, Version, Vgic};

impl Vgic {
    /// GICv2's SGIs are made pending by their own registers only (IHI 0048B.b, 4.3.7).
    fn pendable(&self, word: u32, value: u32) -> u32 {
        if word == 0 && self.version == Version::V2 {
            value & !SGIS
        } else {
            value
        }
    }

    /// ISPENDR. Linked interrupts are made pending in the physical controller, through which they
    /// come back when they may; those of another vCPU's PPIs are out of reach and ignored.
    pub(super) fn set_pending<H: HostGic>(
        &mut self,
        own: usize,
        vcpu: usize,
        word: u32,
        value: u32,
        host: &mut H,
    ) {
        let value = self.pendable(word, value);
        let bank = self.bank_mut(vcpu, word);
        let linked = value & bank.linked;
        let mut latched = value & !linked;
        for n in Bits(linked) {
            let id = IntId::new(word, n);
            if self.is_shared(id) {
                // The other holders are not to notice.
                latched |= bit(n);
            } else if word != 0 || vcpu == own {
                host.pend(self.pintid_of(id));
            }
        }
        self.bank_mut(vcpu, word).pending |= latched;
        self.settle(own, vcpu, word, latched, host);
    }

    /// ICPENDR.
    pub(super) fn clear_pending<H: HostGic>(
        &mut self,
        own: usize,
        vcpu: usize,
        word: u32,
        value: u32,
        host: &mut H,
    ) {
        let value = self.pendable(word, value);
        let bank = self.bank_mut(vcpu, word);
        let linked = value & bank.linked;
        let left = linked & bank.pending;
        bank.pending &= !value;
        let held = value & bank.in_lr;
        self.cold_mut(vcpu, word).cancel_pending |= held;
        if word != 0 || vcpu == own {
            for n in Bits(linked) {
                let id = IntId::new(word, n);
                let pintid = self.pintid_of(id);
                if !self.is_shared(id) {
                    host.unpend(pintid);
                }
                if left & bit(n) != 0 {
                    host.deactivate(pintid);
                }
            }
        } else {
            // Only its own core can deactivate a PPI.
            self.bank_mut(vcpu, word).pending |= left;
        }
        self.settle(own, vcpu, word, value, host);
    }

    /// ICACTIVER.
    pub(super) fn clear_active<H: HostGic>(
        &mut self,
        own: usize,
        vcpu: usize,
        word: u32,
        value: u32,
        host: &mut H,
    ) {
        let held = value & self.bank(vcpu, word).in_lr;
        let cold = self.cold_mut(vcpu, word);
        cold.active &= !value;
        cold.cancel_active |= held;
        self.reopen(vcpu, word);
        self.settle(own, vcpu, word, value, host);
    }

    pub(super) fn read_pending<H: HostGic>(
        &mut self,
        own: usize,
        vcpu: usize,
        word: u32,
        host: &H,
    ) -> u32 {
        let bank = self.bank(vcpu, word);
        let mut pending = bank.asserted();
        if word != 0 || vcpu == own {
            for n in Bits(bank.linked & !pending) {
                let id = IntId::new(word, n);
                if !self.is_shared(id) && host.is_pending(self.pintid_of(id)) {
                    pending |= bit(n);
                }
            }
        }
        pending | self.in_list_registers(own, vcpu, word, host).0
    }

    pub(super) fn read_active<H: HostGic>(
        &mut self,
        own: usize,
        vcpu: usize,
        word: u32,
        host: &H,
    ) -> u32 {
        self.cold(vcpu, word).active | self.in_list_registers(own, vcpu, word, host).1
    }

    /// Pending and active bits of bank `word` that are in list registers: the own core's as they
    /// are, others' as last seen, with a kick so that the next read is newer.
    fn in_list_registers<H: HostGic>(
        &mut self,
        own: usize,
        vcpu: usize,
        word: u32,
        host: &H,
    ) -> (u32, u32) {
        let (mut pending, mut active) = (0, 0);
        for b in Bits(self.bank(vcpu, word).in_lr) {
            let id = IntId::new(word, b);
            let holder = self.holder_of(vcpu, id);
            let n = self.lr_number(holder, id);
            let (is_pending, is_active) = if holder == own {
                let state = host.read_lr(n).state();
                (state.is_pending(), state.is_active())
            } else {
                let lrs = self.vcpu(holder).lrs;
                let seen = (
                    lrs.seen_pending & lr_bit(n) != 0,
                    lrs.seen_active & lr_bit(n) != 0,
                );
                self.vcpu_mut(holder).due.add(Due::RECONCILE);
                self.kicks |= vcpu_bit(holder);
                seen
            };
            pending |= if is_pending { bit(b) } else { 0 };
            active |= if is_active { bit(b) } else { 0 };
        }
        (pending, active)
    }
}
