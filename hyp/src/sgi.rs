//! SGIs that guests send: to other vCPUs by a bit in their state and a kick, to themselves mostly without the lock.

use ballast_core::vgic::{Sgi, SgiRegister, Vgic};
use spin::mutex::TicketMutexGuard;

use crate::gic::Host;
use crate::guest::Guest;
use crate::percpu::{Current, PerCpu};

/// Where a guest wrote what sends an SGI.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum SgiWrite {
    /// `GICD_SGIR`.
    Sgir,
    /// `ICC_SGI1R_EL1`.
    Sgi1r,
}

/// The SGI asked for by `value` goes to the vCPU itself as the last did. Whether it was so.
#[inline(always)]
pub fn sent_to_self(cpu: &PerCpu, guest: &Guest, value: u64) -> bool {
    let mut host = Host::new(
        cpu.gic,
        cpu.index,
        guest.index,
        &guest.core_of,
        &guest.injected,
    );
    cpu.sgi_shortcut.get().offer_written(value, &mut host)
}

/// Sends the SGI asked for by `value`.
#[inline(never)]
pub fn send(cpu: &PerCpu, Current { guest, vcpu }: Current, value: u64, written: SgiWrite) {
    let mut vgic = guest.vgic.lock();
    let sgi = match written {
        SgiWrite::Sgir => vgic.sgi_of_sgir(vcpu, value as u32),
        SgiWrite::Sgi1r => vgic.sgi_of_register(vcpu, SgiRegister::Sgi1, value),
    };
    if sgi.is_for(vcpu) {
        return send_to_self_too(cpu, guest, vcpu, vgic, sgi, value);
    }
    let kicks = vgic.post_sgi(vcpu, sgi);
    drop(vgic);
    guest.kick_each(cpu, kicks);
}

/// Apart, so that the way to others needs no stack.
#[inline(never)]
fn send_to_self_too(
    cpu: &PerCpu,
    guest: &Guest,
    vcpu: usize,
    mut vgic: TicketMutexGuard<'_, Vgic>,
    sgi: Sgi,
    written: u64,
) {
    let kicks = vgic.send_sgi(vcpu, sgi, || guest.host(cpu));
    if sgi.is_only_for(vcpu) {
        let shortcut = vgic.shortcut(vcpu, sgi.id()).by_write(written);
        cpu.sgi_shortcut.set(shortcut);
    }
    drop(vgic);
    guest.kick(cpu, kicks);
}
