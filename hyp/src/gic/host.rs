//! The interrupt controller as the guest model sees it: this core's list registers and the
//! physical interrupts linked to the guest.

use core::sync::atomic::{AtomicU64, Ordering};

use ballast_core::mediate::line::{Line, Steps};
use ballast_core::vgic::{HostGic, ListRegister, Maintenance, SHARED, Trigger};
use tock_registers::interfaces::{Readable, Writeable};

use super::{Gic, Version};
use crate::guest::CoreMap;
use crate::mmio::gicv2::GicV2;
use crate::mmio::gicv3::interface;

/// [`HostGic`] for the calling core and one guest.
pub struct Host<'a> {
    gic: &'a Gic,
    core: usize,
    /// The guest's index.
    guest: usize,
    /// The core of each of the guest's vCPUs.
    cores: &'a CoreMap,
    /// Counts what is offered; its writers hold the guest's lock.
    injected: &'a AtomicU64,
}

impl<'a> Host<'a> {
    /// For core `core`, which must be the calling one, and the guest with this index; `cores` maps its vCPUs to
    /// cores.
    #[inline]
    pub const fn new(
        gic: &'a Gic,
        core: usize,
        guest: usize,
        cores: &'a CoreMap,
        injected: &'a AtomicU64,
    ) -> Self {
        Self {
            gic,
            core,
            guest,
            cores,
            injected,
        }
    }

    /// What the guest does with an interrupt that others share, if `pintid` is one. Whether it was.
    fn share(&self, pintid: u16, step: impl FnOnce(&mut Line, usize, u64) -> Steps) -> bool {
        if pintid & SHARED == 0 {
            return false;
        }
        if let Some(line) = self.gic.lines().get(usize::from(pintid & !SHARED)) {
            let now = crate::boot::counter();
            let _ = self.gic.step(line, |state| step(state, self.guest, now));
        }
        true
    }
}

impl HostGic for Host<'_> {
    #[inline]
    fn list_registers(&self) -> u32 {
        self.gic.list_registers
    }

    #[inline]
    fn empty(&self) -> u32 {
        match self.gic.version() {
            Version::V2(gic) => gic.interface().elrsr[0].get(),
            Version::V3(_) => interface::elrsr() as u32,
        }
    }

    #[inline]
    fn ended(&self) -> u32 {
        match self.gic.version() {
            Version::V2(gic) => {
                let mut ended = gic.interface().eisr[0].get();
                if self.gic.ends_timers && ended != 0 {
                    ended = end_timers(gic, ended);
                }
                ended
            }
            Version::V3(_) => interface::eisr() as u32,
        }
    }

    #[inline]
    #[expect(clippy::indexing_slicing, reason = "masked to the 64 there are")]
    fn read_lr(&self, n: u32) -> ListRegister {
        match self.gic.version() {
            Version::V2(gic) => {
                let raw = gic.interface().lr[(n & 63) as usize].get();
                ListRegister::from_v2(if self.gic.ends_timers {
                    linked(raw)
                } else {
                    raw
                })
            }
            Version::V3(_) => ListRegister::from_v3(interface::list_register(n as usize)),
        }
    }

    #[inline(always)]
    #[expect(clippy::indexing_slicing, reason = "masked to the 64 there are")]
    fn write_lr(&mut self, n: u32, value: ListRegister) {
        if value.state().is_pending() {
            self.injected.store(
                self.injected.load(Ordering::Relaxed).wrapping_add(1),
                Ordering::Relaxed,
            );
        }
        match self.gic.version() {
            Version::V2(gic) => {
                let raw = value.to_v2();
                let raw = if self.gic.ends_timers {
                    unlinked(raw)
                } else {
                    raw
                };
                gic.interface().lr[(n & 63) as usize].set(raw);
            }
            Version::V3(_) => interface::set_list_register(n as usize, value.to_v3()),
        }
    }

    fn set_maintenance(&mut self, wanted: Maintenance) {
        match self.gic.version() {
            Version::V2(gic) => gic.interface().hcr.set(wanted.to_hcr()),
            Version::V3(_) => interface::set_hcr(u64::from(wanted.to_hcr())),
        }
    }

    fn enable(&mut self, pintid: u16) {
        if !self.share(pintid, |line, guest, now| line.listen(guest, true, now)) {
            self.gic.enable(self.core, u32::from(pintid));
        }
    }

    fn disable(&mut self, pintid: u16) {
        if !self.share(pintid, |line, guest, now| line.listen(guest, false, now)) {
            self.gic.disable(self.core, u32::from(pintid));
        }
    }

    fn pend(&mut self, pintid: u16) {
        if pintid & SHARED == 0 {
            self.gic.set_pending(self.core, u32::from(pintid), true);
        }
    }

    fn unpend(&mut self, pintid: u16) {
        if pintid & SHARED == 0 {
            self.gic.set_pending(self.core, u32::from(pintid), false);
        }
    }

    fn is_pending(&self, pintid: u16) -> bool {
        pintid & SHARED == 0 && self.gic.is_pending(self.core, u32::from(pintid))
    }

    fn deactivate(&mut self, pintid: u16) {
        if !self.share(pintid, Line::handled) {
            self.gic.clear_active(self.core, u32::from(pintid));
        }
    }

    fn route(&mut self, pintid: u16, vcpu: usize) {
        if pintid & SHARED == 0
            && let Some(core) = self.cores.get(vcpu)
        {
            self.gic.route(u32::from(pintid), core);
        }
    }

    fn set_trigger(&mut self, pintid: u16, trigger: Trigger) {
        if pintid & SHARED == 0 {
            self.gic
                .set_edge(u32::from(pintid), trigger == Trigger::Edge);
        }
    }
}

/// GICH_LR fields (IHI 0048B.b, 5.3.9): HW, physical identifier, EOI maintenance, virtual identifier.
const HW: u32 = 1 << 31;
const PHYSICAL_SHIFT: u32 = 10;
const PHYSICAL: u32 = 0x3ff << PHYSICAL_SHIFT;
const EOI: u32 = 1 << 19;
const VIRTUAL: u32 = 0x3ff;

/// Whether the list register holds a PPI: of those only the timers are ever offered, and each is
/// linked to the physical one of the same number.
const fn is_ppi(raw: u32) -> bool {
    matches!(raw & VIRTUAL, 16..=31)
}

/// A linked timer as it is offered where EL2 has to end it: with maintenance instead of the HW bit.
const fn unlinked(raw: u32) -> u32 {
    if raw & HW != 0 && is_ppi(raw) {
        raw & !(HW | PHYSICAL) | EOI
    } else {
        raw
    }
}

/// The reverse.
const fn linked(raw: u32) -> u32 {
    if raw & HW == 0 && is_ppi(raw) {
        raw & !EOI | HW | (raw & VIRTUAL) << PHYSICAL_SHIFT
    } else {
        raw
    }
}

/// Deactivates the physical timers that the guest has ended in these list registers, which are then
/// as the HW bit would have left them. Returns the others.
#[cold]
fn end_timers(gic: &GicV2, ended: u32) -> u32 {
    let mut others = ended;
    for (n, lr) in (0..32).zip(&gic.interface().lr) {
        let raw = lr.get();
        if ended & (1 << n) != 0 && is_ppi(raw) {
            lr.set(raw & !EOI);
            gic.deactivate(raw & VIRTUAL);
            others &= !(1 << n);
        }
    }
    others
}

impl Gic {
    /// The maintenance interrupt where EL2 ends the timers: true if it was for nothing else.
    pub fn was_only_timers(&self) -> bool {
        match self.version() {
            Version::V2(gic) if self.ends_timers => {
                end_timers(gic, gic.interface().eisr[0].get());
                gic.interface().misr.get() == 0
            }
            _ => false,
        }
    }
}
