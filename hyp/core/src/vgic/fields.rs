//! The registers with one field per interrupt, which GICv2's distributor, GICv3's distributor and
//! GICv3's redistributors have at the same offsets (IHI 0048B.b 4.3, IHI 0069 12.9 and 12.11).

use super::bank::{Bits, bit};
use super::host::{HostGic, Trigger};
use super::state::vcpu_bit;
use super::vcpu::Due;
use super::{IntId, Version, Vgic};

/// Who accesses which banks. Registers of banks outside are RAZ/WI.
#[derive(Clone, Copy)]
pub(super) struct View {
    /// The vCPU that accesses, which runs on this core.
    pub own: u8,
    /// The vCPU whose SGIs and PPIs bank 0 is.
    pub of: u8,
    /// First bank shown.
    pub first: u8,
    /// One past the last.
    pub end: u8,
}

impl View {
    #[inline]
    const fn shows(self, word: u32) -> bool {
        self.first as u32 <= word && word < self.end as u32
    }

    #[inline]
    const fn own(self) -> usize {
        self.own as usize
    }

    #[inline]
    const fn of(self) -> usize {
        self.of as usize
    }
}

/// Offset of the distributor's type register.
pub(super) const TYPER: u32 = 0x4;

/// The SGIs of bank 0.
pub(super) const SGIS: u32 = 0xffff;

impl Vgic {
    /// Reads the word at `offset` (a multiple of 4, below 0xd00, not in ITARGETSR).
    #[inline]
    pub(super) fn read_fields<H: HostGic>(&mut self, view: View, offset: u32, host: &H) -> u32 {
        match self.glance_fields(view, offset) {
            Some(value) => value,
            None => self.read_rare(view, offset >> 7, offset, host),
        }
    }

    /// What of this can be read as it stands.
    #[inline(always)]
    pub(super) const fn glance_fields(&self, view: View, offset: u32) -> Option<u32> {
        let index = offset >> 2 & 31;
        match offset >> 7 {
            2 | 3 if view.shows(index) => Some(self.bank(view.of(), index).enabled),
            8..=15 if view.shows(offset >> 5 & 31) => {
                Some(self.bank(view.of(), offset >> 5 & 31).priorities(index))
            }
            _ => None,
        }
    }

    /// What of this can be written without looking at any list register; whether it was.
    #[inline(always)]
    pub(super) const fn poke_fields(&mut self, view: View, offset: u32, value: u32) -> bool {
        let index = offset >> 2 & 31;
        let of = view.of();
        match offset >> 7 {
            family @ (2 | 3) if view.shows(index) => {
                let always = self.always_enabled(index);
                let bank = self.bank_mut(of, index);
                let change = match family {
                    2 => value & !bank.enabled,
                    _ => value & bank.enabled & !always,
                };
                if change & (bank.in_lr | bank.asserted() | bank.linked) != 0 {
                    return false;
                }
                bank.enabled ^= change;
                self.reopen_enabled(of, index);
                true
            }
            8..=15 if view.shows(offset >> 5 & 31) => {
                let bank = self.bank_mut(of, offset >> 5 & 31);
                let four = 0xf_u32.wrapping_shl(index.wrapping_shl(2));
                if four & (bank.in_lr | bank.asserted()) != 0 {
                    return false;
                }
                bank.set_priorities(index, u32::MAX, value);
                true
            }
            _ => false,
        }
    }

    #[inline(never)]
    fn read_rare<H: HostGic>(&mut self, view: View, family: u32, offset: u32, host: &H) -> u32 {
        let word = if family < 8 {
            offset >> 2 & 31
        } else {
            offset >> 3 & 31
        };
        if !view.shows(word) {
            return 0;
        }
        let (own, of) = (view.own(), view.of());
        let bank = self.bank(of, word);
        match family {
            1 => bank.group,
            4 | 5 => self.read_pending(own, of, word, host),
            6 | 7 => self.read_active(own, of, word, host),
            24 | 25 => spread(bank.edge >> (offset >> 2 & 1).wrapping_shl(4)),
            _ => 0,
        }
    }

    /// Writes the bits of `mask` in the word at `offset` (as in [`read_fields`](Self::read_fields)).
    #[inline]
    pub(super) fn write_fields<H: HostGic>(
        &mut self,
        view: View,
        offset: u32,
        mask: u32,
        value: u32,
        host: &mut H,
    ) {
        let index = offset >> 2 & 31;
        let (own, of) = (view.own(), view.of());
        match offset >> 7 {
            2 if view.shows(index) => self.set_enabled(own, of, index, value, host),
            3 if view.shows(index) => self.clear_enabled(own, of, index, value, host),
            8..=15 if view.shows(offset >> 5 & 31) => {
                let word = offset >> 5 & 31;
                self.bank_mut(of, word).set_priorities(index, mask, value);
                let four = 0xf_u32.wrapping_shl(index.wrapping_shl(2));
                self.settle(own, of, word, four, host);
            }
            family => self.write_rare(view, family, offset, value, host),
        }
    }

    #[inline(never)]
    fn write_rare<H: HostGic>(
        &mut self,
        view: View,
        family: u32,
        offset: u32,
        value: u32,
        host: &mut H,
    ) {
        let word = if family < 8 {
            offset >> 2 & 31
        } else {
            offset >> 3 & 31
        };
        if !view.shows(word) {
            return;
        }
        let (own, of) = (view.own(), view.of());
        match family {
            1 => self.write_group(own, of, word, value, host),
            4 => self.set_pending(own, of, word, value, host),
            5 => self.clear_pending(own, of, word, value, host),
            6 => {
                let free = !self.bank(of, word).in_lr;
                self.cold_mut(of, word).active |= value & free;
                self.reopen(of, word);
            }
            7 => self.clear_active(own, of, word, value, host),
            24 | 25 => self.write_trigger(own, word, offset >> 2 & 1, value, host),
            _ => {}
        }
    }

    fn write_group<H: HostGic>(
        &mut self,
        own: usize,
        vcpu: usize,
        word: u32,
        value: u32,
        host: &mut H,
    ) {
        let bank = self.bank_mut(vcpu, word);
        let changed = bank.group ^ value;
        bank.group = value;
        self.reopen(vcpu, word);
        self.settle(own, vcpu, word, changed, host);
    }

    #[inline]
    fn set_enabled<H: HostGic>(
        &mut self,
        own: usize,
        vcpu: usize,
        word: u32,
        value: u32,
        host: &mut H,
    ) {
        let bank = self.bank_mut(vcpu, word);
        let new = value & !bank.enabled;
        if new == 0 {
            return;
        }
        bank.enabled |= new;
        let linked = new & bank.linked;
        if linked != 0 {
            self.follow(own, vcpu, word, linked, host);
        }
        self.reopen_enabled(vcpu, word);
        self.settle(own, vcpu, word, new, host);
    }

    #[inline]
    fn clear_enabled<H: HostGic>(
        &mut self,
        own: usize,
        vcpu: usize,
        word: u32,
        value: u32,
        host: &mut H,
    ) {
        let always = self.always_enabled(word);
        let bank = self.bank_mut(vcpu, word);
        let old = value & bank.enabled & !always;
        bank.enabled &= !old;
        let linked = old & bank.linked;
        self.reopen_enabled(vcpu, word);
        if linked != 0 {
            self.follow(own, vcpu, word, linked, host);
        }
        if self.bank(vcpu, word).in_lr & old != 0 {
            self.unsettled |= self.concerned(vcpu, word, old) & self.on & !vcpu_bit(own);
            self.settle(own, vcpu, word, old, host);
        }
    }

    /// GICv2's SGIs cannot be disabled, as in the GIC-400 (IHI 0048B.b, 4.3.5 leaves it open).
    pub(super) const fn always_enabled(&self, word: u32) -> u32 {
        match self.version {
            Version::V2 if word == 0 => SGIS,
            _ => 0,
        }
    }

    /// Lets the physical interrupts through to which `mask` of bank `word` is linked, or holds them
    /// back: those of enabled ones whose target is on pass.
    pub(super) fn follow<H: HostGic>(
        &mut self,
        own: usize,
        vcpu: usize,
        word: u32,
        mask: u32,
        host: &mut H,
    ) {
        let bank = self.bank(vcpu, word);
        let linked = mask & bank.linked;
        let enabled = if word == 0 {
            bank.enabled
        } else {
            bank.enabled & self.reachable(word)
        };
        if linked != 0 && word == 0 && vcpu != own {
            self.vcpu_mut(vcpu).due.add(Due::PPIS);
            self.kicks |= vcpu_bit(vcpu);
            return;
        }
        for n in Bits(linked) {
            let pintid = self.pintid_of(IntId::new(word, n));
            if enabled & bit(n) != 0 {
                host.enable(pintid)
            } else {
                host.disable(pintid)
            }
        }
    }

    /// Does [`follow`](Self::follow) for the PPIs of `own` if another vCPU changed their enables.
    pub(super) fn refresh_ppis<H: HostGic>(&mut self, own: usize, host: &mut H) {
        if self.vcpu_mut(own).due.take(Due::PPIS) {
            self.follow(own, own, 0, u32::MAX, host);
        }
    }

    /// The SPIs of bank `word` whose target is on.
    fn reachable(&self, word: u32) -> u32 {
        Bits(self.on).fold(0, |mask, vcpu| mask | self.routed(vcpu as usize, word))
    }

    /// ICFGR of SPIs, half a bank at a time; that of SGIs and PPIs is read-only.
    fn write_trigger<H: HostGic>(
        &mut self,
        own: usize,
        word: u32,
        half: u32,
        value: u32,
        host: &mut H,
    ) {
        if word == 0 {
            return;
        }
        let shift = half.wrapping_shl(4);
        let edge = gather(value).wrapping_shl(shift);
        let bank = self.bank_mut(own, word);
        let changed = (bank.edge ^ edge) & 0xffff_u32.wrapping_shl(shift);
        bank.edge ^= changed;
        let (linked, enabled, edge) = (bank.linked & changed, bank.enabled, bank.edge);
        let enabled = enabled & self.reachable(word);
        for n in Bits(linked) {
            let pintid = self.pintid_of(IntId::new(word, n));
            host.disable(pintid);
            host.set_trigger(
                pintid,
                if edge & bit(n) != 0 {
                    Trigger::Edge
                } else {
                    Trigger::Level
                },
            );
            if enabled & bit(n) != 0 {
                host.enable(pintid);
            }
        }
        self.settle(own, own, word, changed, host);
    }

    /// `GICD_CTLR`'s group enables.
    #[inline(never)]
    pub(super) fn write_control<H: HostGic>(&mut self, own: usize, value: u32, host: &mut H) {
        let control = value & 3;
        if control == self.control {
            return;
        }
        self.control = control;
        for vcpu in Bits(self.present) {
            self.reopen(vcpu as usize, 0);
        }
        for word in 1..self.words {
            self.reopen(0, word);
        }
        for vcpu in Bits(self.on) {
            self.vcpu_mut(vcpu as usize).due.add(Due::RECONCILE);
        }
        self.unsettled |= self.on & !vcpu_bit(own);
        self.settle_vcpus(own, self.on, host);
    }
}

/// Half a bank's bits as `ICFGR` shows them: bit n at 2n + 1.
const fn spread(half: u32) -> u32 {
    let mut x = half & 0xffff;
    x = (x | x << 8) & 0x00ff_00ff;
    x = (x | x << 4) & 0x0f0f_0f0f;
    x = (x | x << 2) & 0x3333_3333;
    x = (x | x << 1) & 0x5555_5555;
    x << 1
}

/// The reverse of [`spread`].
const fn gather(config: u32) -> u32 {
    let mut x = config >> 1 & 0x5555_5555;
    x = (x | x >> 1) & 0x3333_3333;
    x = (x | x >> 2) & 0x0f0f_0f0f;
    x = (x | x >> 4) & 0x00ff_00ff;
    (x | x >> 8) & 0xffff
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trigger_fields_round_trip() {
        for half in 0..=0xffff {
            assert_eq!(gather(spread(half)), half);
            assert_eq!(spread(half) & 0x5555_5555, 0);
        }
        assert_eq!(spread(0x8001), 0x8000_0002);
    }
}
