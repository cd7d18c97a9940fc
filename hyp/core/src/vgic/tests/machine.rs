//! The fake machine.

use super::super::*;
use std::collections::{BTreeMap, BTreeSet};

/// What the physical controller was told; only linked interrupts may appear in it.
#[derive(Default)]
pub struct Physical {
    pub enabled: BTreeSet<u16>,
    pub pending: BTreeSet<u16>,
    pub active: BTreeSet<u16>,
    pub routes: BTreeMap<u16, usize>,
    pub triggers: BTreeMap<u16, Trigger>,
    pub touched: BTreeSet<u16>,
}

/// One core's list registers and its view of the physical controller. PPIs are told apart by core
/// by adding 1000 times the core to their number.
pub struct Core<'a> {
    pub vcpu: usize,
    pub lrs: &'a mut Vec<ListRegister>,
    pub maintenance: &'a mut Maintenance,
    pub physical: &'a mut Physical,
}

impl Core<'_> {
    fn name(&mut self, pintid: u16) -> u16 {
        self.physical.touched.insert(pintid);
        self.physical_name(pintid)
    }

    fn physical_name(&self, pintid: u16) -> u16 {
        ppi_name(self.vcpu, pintid)
    }
}

pub fn ppi_name(vcpu: usize, pintid: u16) -> u16 {
    if pintid < 32 {
        pintid + 1000 * u16::try_from(vcpu).unwrap()
    } else {
        pintid
    }
}

impl HostGic for Core<'_> {
    fn list_registers(&self) -> u32 {
        u32::try_from(self.lrs.len()).unwrap()
    }

    fn empty(&self) -> u32 {
        self.bits(|lr| {
            lr.state() == LrState::Invalid && !matches!(lr.link(), Link::Software { eoi: true, .. })
        })
    }

    fn ended(&self) -> u32 {
        self.bits(|lr| {
            lr.state() == LrState::Invalid && matches!(lr.link(), Link::Software { eoi: true, .. })
        })
    }

    fn read_lr(&self, n: u32) -> ListRegister {
        self.lrs[n as usize]
    }

    fn write_lr(&mut self, n: u32, value: ListRegister) {
        if let Link::Physical(_) = value.link() {
            assert_ne!(
                value.state(),
                LrState::PendingActive,
                "HW with pending and active (IHI 0069 12.4.5)"
            );
        }
        let twin = |(m, lr): (usize, &ListRegister)| {
            m != n as usize && lr.state() != LrState::Invalid && lr.intid() == value.intid()
        };
        assert!(
            value.state() == LrState::Invalid || !self.lrs.iter().enumerate().any(twin),
            "INTID {} in two list registers",
            value.intid()
        );
        self.lrs[n as usize] = value;
    }

    fn set_maintenance(&mut self, wanted: Maintenance) {
        *self.maintenance = wanted;
    }

    fn enable(&mut self, pintid: u16) {
        let name = self.name(pintid);
        self.physical.enabled.insert(name);
    }

    fn disable(&mut self, pintid: u16) {
        let name = self.name(pintid);
        self.physical.enabled.remove(&name);
    }

    fn pend(&mut self, pintid: u16) {
        assert!(pintid & SHARED == 0, "others' interrupt made pending");
        let name = self.name(pintid);
        self.physical.pending.insert(name);
    }

    fn unpend(&mut self, pintid: u16) {
        let name = self.name(pintid);
        self.physical.pending.remove(&name);
    }

    fn is_pending(&self, pintid: u16) -> bool {
        self.physical.pending.contains(&self.physical_name(pintid))
    }

    fn deactivate(&mut self, pintid: u16) {
        let name = self.name(pintid);
        if pintid & SHARED != 0 {
            self.physical.active.remove(&name);
            return;
        }
        assert!(
            self.physical.active.remove(&name),
            "{name} deactivated without being active"
        );
    }

    fn route(&mut self, pintid: u16, vcpu: usize) {
        self.physical.touched.insert(pintid);
        self.physical.routes.insert(pintid, vcpu);
    }

    fn set_trigger(&mut self, pintid: u16, trigger: Trigger) {
        let name = self.name(pintid);
        assert!(
            !self.physical.enabled.contains(&name),
            "trigger of {name} changed while enabled"
        );
        self.physical.triggers.insert(pintid, trigger);
    }
}

impl Core<'_> {
    fn bits(&self, of: impl Fn(&ListRegister) -> bool) -> u32 {
        self.lrs
            .iter()
            .enumerate()
            .fold(0, |mask, (n, lr)| mask | u32::from(of(lr)) << n)
    }
}

/// A guest with its cores.
pub struct Machine {
    pub vgic: Vgic,
    pub vcpus: usize,
    pub lrs: Vec<Vec<ListRegister>>,
    pub maintenance: Vec<Maintenance>,
    pub shortcuts: Vec<Shortcut>,
    /// The same for SGIs to itself, and how often one was taken.
    pub sgi_shortcuts: Vec<Shortcut>,
    pub sgi_shortcuts_taken: u32,
    pub physical: Physical,
    /// vCPUs with a kick on the way.
    pub kicked: u8,
    /// Kicks sent so far.
    pub kicks: usize,
    /// What each CPU has acknowledged and not ended: intid, source, in order.
    pub running: Vec<Vec<(u8, u8)>>,
}

impl Machine {
    pub fn new(version: Version, vcpus: usize, lrs: usize) -> Self {
        let config = Config {
            version,
            vcpus,
            intids: 128,
            linked_ppis: 1 << 27 | 1 << 30,
        };
        let mut machine = Self {
            vgic: Vgic::new(&config),
            vcpus,
            lrs: vec![vec![ListRegister::EMPTY; lrs]; vcpus],
            maintenance: vec![Maintenance::default(); vcpus],
            shortcuts: vec![Shortcut::NONE; vcpus],
            sgi_shortcuts: vec![Shortcut::NONE; vcpus],
            sgi_shortcuts_taken: 0,
            physical: Physical::default(),
            kicked: 0,
            kicks: 0,
            running: vec![Vec::new(); vcpus],
        };
        for vcpu in 0..vcpus {
            machine.on_core(vcpu, |vgic, core| vgic.vcpu_on(vcpu, core));
        }
        machine
    }

    /// As [`new`](Self::new), with what Linux does at boot: groups on, everything enabled, SPIs to
    /// vCPU 0.
    pub fn ready(version: Version, vcpus: usize, lrs: usize) -> Self {
        let mut m = Self::new(version, vcpus, lrs);
        m.write32(0, 0, 3);
        for vcpu in 0..vcpus {
            m.write_private(vcpu, 0x100, u32::MAX);
        }
        for word in 1..4 {
            m.write32(0, 0x100 + 4 * word, u32::MAX);
        }
        if version == Version::V2 {
            for id in (32..128).step_by(4) {
                m.write32(0, 0x800 + id, 0x0101_0101);
            }
        }
        m.deliver_kicks();
        m
    }

    pub fn on_core(&mut self, vcpu: usize, call: impl FnOnce(&mut Vgic, &mut Core<'_>) -> Kicks) {
        self.shortcuts[vcpu] = Shortcut::NONE;
        self.sgi_shortcuts[vcpu] = Shortcut::NONE;
        let mut core = Core {
            vcpu,
            lrs: &mut self.lrs[vcpu],
            maintenance: &mut self.maintenance[vcpu],
            physical: &mut self.physical,
        };
        let kicks = call(&mut self.vgic, &mut core);
        self.kick(kicks);
    }

    pub fn kick(&mut self, kicks: Kicks) {
        assert_eq!(
            u32::from(kicks.0) >> self.vcpus,
            0,
            "a vCPU that does not exist was kicked"
        );
        self.kicked |= kicks.0;
        self.kicks += kicks.0.count_ones() as usize;
    }

    /// Lets every kicked core flush.
    pub fn deliver_kicks(&mut self) {
        let mut rounds = 0;
        while self.kicked != 0 {
            let vcpu = self.kicked.trailing_zeros() as usize;
            self.kicked &= self.kicked - 1;
            self.on_core(vcpu, |vgic, core| vgic.flush(vcpu, core));
            rounds += 1;
            assert!(rounds < 100, "kicks do not come to rest");
        }
    }

    pub fn write(&mut self, vcpu: usize, frame: Frame, offset: u32, width: Width, value: u64) {
        self.on_core(vcpu, |vgic, core| {
            // As the hypervisor does: the short way first.
            let is_short = width == Width::Word && may_poke(offset);
            if is_short && vgic.poke(vcpu, frame, offset, value as u32) {
                return Kicks::NONE;
            }
            vgic.write(vcpu, frame, offset, width, value, core)
        });
    }

    pub fn read(&mut self, vcpu: usize, frame: Frame, offset: u32, width: Width) -> u64 {
        let mut value = 0;
        self.on_core(vcpu, |vgic, core| {
            let read = vgic.read(vcpu, frame, offset, width, core);
            value = read.value;
            read.kicks
        });
        value
    }

    pub fn write32(&mut self, vcpu: usize, offset: u32, value: u32) {
        self.write(
            vcpu,
            Frame::Distributor,
            offset,
            Width::Word,
            u64::from(value),
        );
    }

    pub fn read32(&mut self, vcpu: usize, offset: u32) -> u32 {
        u32::try_from(self.read(vcpu, Frame::Distributor, offset, Width::Word)).unwrap()
    }

    /// vCPU `by` routes SPI `id` to vCPU `to`.
    pub fn route_spi(&mut self, by: usize, id: u8, to: u8) {
        match self.vgic.version() {
            Version::V2 => self.write(
                by,
                Frame::Distributor,
                0x800 + u32::from(id),
                Width::Byte,
                1 << to,
            ),
            Version::V3 => {
                self.write(
                    by,
                    Frame::Distributor,
                    0x6000 + 8 * u32::from(id),
                    Width::Double,
                    u64::from(to),
                );
            }
        }
    }

    /// A register of the SGIs and PPIs of `vcpu`, which accesses it itself.
    pub fn write_private(&mut self, vcpu: usize, offset: u32, value: u32) {
        let (frame, offset) = self.private(vcpu, offset);
        self.write(vcpu, frame, offset, Width::Word, u64::from(value));
    }

    pub fn read_private(&mut self, vcpu: usize, offset: u32) -> u32 {
        let (frame, offset) = self.private(vcpu, offset);
        u32::try_from(self.read(vcpu, frame, offset, Width::Word)).unwrap()
    }

    fn private(&self, vcpu: usize, offset: u32) -> (Frame, u32) {
        match self.vgic.version() {
            Version::V2 => (Frame::Distributor, offset),
            Version::V3 => {
                let base = REDISTRIBUTOR_STRIDE * u32::try_from(vcpu).unwrap() + 0x1_0000;
                (Frame::Redistributors, base + offset)
            }
        }
    }

    /// `vcpu` sends SGI `id` to the vCPUs `targets`, as the shell has it sent.
    pub fn send_sgi(&mut self, vcpu: usize, id: u8, targets: u8) {
        let (value, sgi) = match self.vgic.version() {
            Version::V2 => {
                let value = u32::from(targets) << 16 | u32::from(id);
                (u64::from(value), self.vgic.sgi_of_sgir(vcpu, value))
            }
            Version::V3 => {
                let value = u64::from(targets) | u64::from(id) << 24;
                let register = SgiRegister::Sgi1;
                (value, self.vgic.sgi_of_register(vcpu, register, value))
            }
        };
        let kept = self.sgi_shortcuts[vcpu];
        let mut core = Core {
            vcpu,
            lrs: &mut self.lrs[vcpu],
            maintenance: &mut self.maintenance[vcpu],
            physical: &mut self.physical,
        };
        if kept.offer_written(value, &mut core) {
            self.sgi_shortcuts_taken += 1;
            return;
        }
        self.send(vcpu, sgi);
        if sgi.is_only_for(vcpu) {
            self.sgi_shortcuts[vcpu] = self.vgic.shortcut(vcpu, sgi.id()).by_write(value);
        }
    }

    /// `vcpu` writes `value` to an SGI register of GICv3's CPU interface.
    pub fn write_sgi_register(&mut self, vcpu: usize, register: SgiRegister, value: u64) {
        self.send(vcpu, self.vgic.sgi_of_register(vcpu, register, value));
    }

    fn send(&mut self, vcpu: usize, sgi: Sgi) {
        let (shortcuts, sgi_shortcuts) = (&mut self.shortcuts, &mut self.sgi_shortcuts);
        let core = Core {
            vcpu,
            lrs: &mut self.lrs[vcpu],
            maintenance: &mut self.maintenance[vcpu],
            physical: &mut self.physical,
        };
        let kicks = self.vgic.send_sgi(vcpu, sgi, || {
            shortcuts[vcpu] = Shortcut::NONE;
            sgi_shortcuts[vcpu] = Shortcut::NONE;
            core
        });
        self.kick(kicks);
    }

    /// Links SPI `id` to the physical `pintid`, or to a shared line.
    pub fn link_device(&mut self, id: u8, pintid: u16) -> bool {
        if pintid & SHARED == 0 {
            self.vgic.link_spi(IntId(id), pintid)
        } else {
            self.vgic.share_spi(IntId(id), pintid & !SHARED)
        }
    }

    /// The physical PPI `id` fires on the core of `vcpu`, if it may.
    pub fn fire_ppi(&mut self, vcpu: usize, id: u8) -> bool {
        let name = ppi_name(vcpu, u16::from(id));
        if !self.physical.enabled.contains(&name) || !self.physical.active.insert(name) {
            return false;
        }
        let mut core = Core {
            vcpu,
            lrs: &mut self.lrs[vcpu],
            maintenance: &mut self.maintenance[vcpu],
            physical: &mut self.physical,
        };
        if !self.shortcuts[vcpu].offer(IntId(id), &mut core) {
            self.on_core(vcpu, |vgic, core| {
                vgic.inject_private(vcpu, IntId(id), core)
            });
            self.shortcuts[vcpu] = self.vgic.shortcut(vcpu, IntId(id));
        }
        true
    }

    /// The physical SPI or shared line `pintid`, linked to `id`, fires where it is routed, if it may and
    /// this guest has handled the last.
    pub fn fire_spi(&mut self, pintid: u16, id: u8) -> bool {
        if !self.physical.enabled.contains(&pintid) || !self.physical.active.insert(pintid) {
            return false;
        }
        let vcpu = self.physical.routes[&pintid];
        self.on_core(vcpu, |vgic, core| vgic.inject_spi(vcpu, IntId(id), core));
        true
    }

    pub fn set_line(&mut self, vcpu: usize, id: u8, line: Line) {
        self.on_core(vcpu, |vgic, core| {
            vgic.set_line(vcpu, IntId(id), line, core)
        });
    }

    /// The guest acknowledges: the most urgent pending list register becomes active.
    pub fn acknowledge(&mut self, vcpu: usize) -> Option<(u8, u8)> {
        let lr = self.lrs[vcpu]
            .iter_mut()
            .filter(|lr| lr.state() == LrState::Pending)
            .min_by_key(|lr| (lr.priority(), lr.intid()))?;
        *lr = lr.with_state(LrState::Active);
        let source = match lr.link() {
            Link::Software { source, .. } => source,
            Link::Physical(_) => 0,
        };
        let taken = (lr.intid(), source);
        self.running[vcpu].push(taken);
        Some(taken)
    }

    /// The guest ends (and deactivates) the interrupt it acknowledged last.
    pub fn end(&mut self, vcpu: usize) {
        let (intid, _) = self.running[vcpu].pop().unwrap();
        self.end_of(vcpu, intid);
    }

    /// The guest deactivates `intid`, whatever it is.
    pub fn end_of(&mut self, vcpu: usize, intid: u8) {
        let is_it = |lr: &&mut ListRegister| lr.intid() == intid && lr.state().is_active();
        if let Some(lr) = self.lrs[vcpu].iter_mut().find(is_it) {
            *lr = lr.with_state(lr.state().without_active());
            if let Link::Physical(pintid) = lr.link() {
                assert!(
                    self.physical.active.remove(&ppi_name(vcpu, pintid)),
                    "{pintid} ended twice"
                );
            }
        }
        self.maintain(vcpu);
    }

    /// Takes the maintenance interrupt as long as it is asserted. Returns how often.
    pub fn maintain(&mut self, vcpu: usize) -> usize {
        let mut taken = 0;
        while self.maintenance_asserted(vcpu) {
            self.on_core(vcpu, |vgic, core| vgic.flush(vcpu, core));
            taken += 1;
            assert!(taken < 4, "the maintenance interrupt storms");
        }
        taken
    }

    fn maintenance_asserted(&self, vcpu: usize) -> bool {
        let lrs = &self.lrs[vcpu];
        let valid = lrs
            .iter()
            .filter(|lr| lr.state() != LrState::Invalid)
            .count();
        let wanted = self.maintenance[vcpu];
        let ended = |lr: &ListRegister| {
            lr.state() == LrState::Invalid && matches!(lr.link(), Link::Software { eoi: true, .. })
        };
        wanted.underflow && valid <= 1
            || wanted.no_pending && !lrs.iter().any(|lr| lr.state().is_pending())
            || lrs.iter().any(ended)
    }

    /// Each vCPU takes and ends interrupts until nothing is offered any more. Returns what was
    /// taken: vCPU, intid, source.
    pub fn drain(&mut self) -> Vec<(usize, u8, u8)> {
        let mut taken = Vec::new();
        loop {
            self.deliver_kicks();
            let before = taken.len();
            for vcpu in 0..self.vcpus {
                self.maintain(vcpu);
                if let Some((id, source)) = self.acknowledge(vcpu) {
                    self.maintain(vcpu);
                    taken.push((vcpu, id, source));
                    self.end(vcpu);
                }
            }
            if taken.len() == before && self.kicked == 0 {
                return taken;
            }
            assert!(taken.len() < 5000, "interrupts without end");
        }
    }
}
