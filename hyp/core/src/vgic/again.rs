//! The short ways, for what comes again and again and finds the list register that it had before.

use super::bank::Bits;
use super::deliver::lr_bit;
use super::fields::SGIS;
use super::host::HostGic;
use super::list_register::{Link, ListRegister};
use super::vcpu::Due;
use super::{IntId, Version, Vgic};

/// The way of a linked PPI, or of an SGI that a vCPU sends to itself, back into the list register it had,
/// without the guest's lock: a timer then waits for no other vCPU.
///
/// It is the core's own, and good until that core next uses the [`Vgic`] for any purpose. What other
/// vCPUs change in the meantime, they kick this one for, which is such a use: an interrupt that
/// slips in before may be offered as it was before the change, or be cancelled with it. That is the guest's own
/// race, as on a real redistributor until `GICR_CTLR.RWP` is clear.
#[derive(Clone, Copy, Debug)]
pub struct Shortcut {
    lr: ListRegister,
    n: u32,
    /// By what it is asked for.
    key: u64,
}

impl Shortcut {
    /// No way.
    pub const NONE: Self = Self {
        lr: ListRegister::EMPTY,
        n: 0,
        key: 0,
    };

    /// The same for an SGI, asked for by writing `value` to the register that sends it.
    #[inline]
    #[must_use]
    pub const fn by_write(self, value: u64) -> Self {
        Self { key: value, ..self }
    }

    /// PPI `id` fired: offers it if this is its way and the guest has ended it since the last time.
    #[inline(always)]
    #[must_use]
    pub fn offer<H: HostGic>(self, id: IntId, host: &mut H) -> bool {
        self.offer_written(u64::from(id.0), host)
    }

    /// The same for an SGI, of which `value` was written.
    #[inline(always)]
    #[must_use]
    pub fn offer_written<H: HostGic>(self, value: u64, host: &mut H) -> bool {
        let is_good = self.key == value
            && self.lr.state().is_pending()
            && host.empty().wrapping_shr(self.n) & 1 != 0;
        if is_good {
            host.write_lr(self.n, self.lr);
        }
        is_good
    }
}

impl Vgic {
    /// The shortest way of a [flush](Self::flush) for `vcpu`, which is on: one SGI has come whose list register is
    /// still there for it, and nothing else is to be done. Whether all is; if not, the flush does what is left.
    #[inline(always)]
    #[must_use]
    pub fn take_sgi<H: HostGic>(&mut self, vcpu: usize, host: &mut H) -> bool {
        let own = self.vcpu(vcpu);
        if !own.due.is_empty() || host.ended() != 0 {
            return false;
        }
        let bank = self.bank(vcpu, 0);
        let posted = bank.pending & bank.open;
        if posted != 0 {
            let [n, ..] = posted.trailing_zeros().to_le_bytes();
            let id = IntId(n);
            let sources = own.sources_of(id);
            let [sender, ..] = sources.trailing_zeros().to_le_bytes();
            let is_one = posted == id.mask() && sources & sources.wrapping_sub(1) == 0;
            let lr = self.lr_number(vcpu, id);
            let has_lr = bank.in_lr & id.mask() != 0 && host.empty().wrapping_shr(lr) & 1 != 0;
            if !(is_one && id.is_sgi() && has_lr) {
                return false;
            }
            let link = Link::Software {
                source: sender & 7,
                eoi: false,
            };
            host.write_lr(lr, self.offer(vcpu, id, link));
            *self.sources_mut(vcpu, id) = 0;
            self.bank_mut(vcpu, 0).pending &= !id.mask();
        }
        let mut waiting = 0;
        for word in Bits(self.open_words) {
            let bank = self.bank(vcpu, word);
            waiting |= bank.asserted() & bank.open & self.routed(vcpu, word);
        }
        waiting == 0
    }

    /// The next shortest way, for SPIs' edges as well. The same is true of what it returns.
    #[must_use]
    pub fn take_again<H: HostGic>(&mut self, vcpu: usize, host: &mut H) -> bool {
        if self.take_sgi(vcpu, host) {
            return true;
        }
        let own = self.bank(vcpu, 0);
        own.asserted() & own.open == 0
            && self.vcpu(vcpu).due.is_empty()
            && host.ended() == 0
            && Bits(self.open_words).all(|word| self.take_edges(vcpu, word, host))
    }

    /// Offers again what came of bank `word`, all of it. Whether nothing is left.
    fn take_edges<H: HostGic>(&mut self, vcpu: usize, word: u32, host: &mut H) -> bool {
        let bank = self.bank(vcpu, word);
        let high = bank.level & !bank.edge;
        let come = bank.pending & bank.open & bank.in_lr;
        for n in Bits(come) {
            let id = IntId::new(word, n);
            if self.holder_of(vcpu, id) != vcpu {
                // Its core was kicked, too.
                continue;
            }
            // As it is remembered: here, and from a latch alone.
            let lr = lr_bit(self.lr_number(vcpu, id));
            let is_latched = self.vcpu(vcpu).lrs.latched & lr != 0 && high & id.mask() == 0;
            let is_here = self.routed(vcpu, word) & id.mask() != 0;
            if !is_latched || !is_here || !self.offer_again(vcpu, id, 0, host) {
                return false;
            }
            self.bank_mut(vcpu, word).pending &= !id.mask();
        }
        self.ready(vcpu, word) == 0
    }

    /// The shortest way, for what comes again and again: nothing of `id` waits in software, and its
    /// list register is still there for it. Whether it was so.
    #[inline(always)]
    pub(super) fn redeliver<H: HostGic>(
        &self,
        vcpu: usize,
        sender: usize,
        id: IntId,
        host: &mut H,
    ) -> bool {
        if self.bank(vcpu, id.word()).pending & id.mask() != 0 {
            return false;
        }
        self.offer_again(vcpu, id, self.source(sender, id), host)
    }

    /// What a list register says of `sender`: GICv2 SGIs have one.
    #[inline(always)]
    fn source(&self, sender: usize, id: IntId) -> u8 {
        if id.is_sgi() && self.version == Version::V2 {
            sender.to_le_bytes()[0]
        } else {
            0
        }
    }

    /// If the list register that had `id` last is empty and has not been given to another since, it
    /// has it once more, and all that is remembered of it is true already. Whether it was so.
    #[inline(always)]
    fn offer_again<H: HostGic>(&self, vcpu: usize, id: IntId, source: u8, host: &mut H) -> bool {
        let bank = self.bank(vcpu, id.word());
        let own = self.vcpu(vcpu);
        let n = self.lr_number(vcpu, id);
        if bank.in_lr & bank.open & id.mask() == 0
            || own.due.has(Due::LIST_REGISTERS)
            || host.empty().wrapping_shr(n) & 1 == 0
        {
            return false;
        }
        let link = self.link(vcpu, id, source, false);
        host.write_lr(n, self.offer(vcpu, id, link));
        true
    }

    /// What the core of `vcpu` may keep to offer `id`, a linked PPI that it has just injected or an SGI that
    /// the vCPU has sent to itself, the next time without the lock.
    #[inline]
    #[must_use]
    pub fn shortcut(&self, vcpu: usize, id: IntId) -> Shortcut {
        let bank = self.bank(vcpu, 0);
        let own = self.vcpu(vcpu);
        let may_come = bank.linked | SGIS;
        let is_settled = bank.in_lr & bank.open & may_come & !bank.pending & id.mask() != 0;
        if !is_settled || own.due.has(Due::LIST_REGISTERS) {
            return Shortcut::NONE;
        }
        let link = self.link(vcpu, id, self.source(vcpu, id), false);
        Shortcut {
            lr: self.offer(vcpu, id, link),
            n: self.lr_number(vcpu, id),
            key: u64::from(id.0),
        }
    }
}
