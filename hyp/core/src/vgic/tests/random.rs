//! Random accesses and random lives.

use super::super::*;
use super::machine::{Machine, ppi_name};
use proptest::prelude::*;
use std::collections::BTreeMap;

fn version() -> impl Strategy<Value = Version> {
    prop_oneof![Just(Version::V2), Just(Version::V3)]
}

/// The number of an interrupt that is linked in hardware, or of one that is shared.
fn device() -> impl Strategy<Value = u16> {
    prop_oneof![Just(121), Just(SHARED | 5)]
}

fn width() -> impl Strategy<Value = Width> {
    prop_oneof![
        Just(Width::Byte),
        Just(Width::Half),
        Just(Width::Word),
        Just(Width::Double)
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 1 } else { ProptestConfig::default().cases }, ..Default::default() })]

    /// G1, G3: whatever is written wherever, no physical interrupt but the linked ones is touched,
    /// nobody is kicked who does not exist, and reading everything back does no harm.
    #[test]
    fn accesses_touch_only_own_interrupts(
        version in version(),
        device in device(),
        accesses in prop::collection::vec(
            (0..3_usize, any::<bool>(), 0_u32..0x8_0000, width(), any::<u64>()), 1..200),
    ) {
        let mut m = Machine::ready(version, 3, 4);
        prop_assert!(m.link_device(50, device));
        for (vcpu, redistributor, offset, width, value) in accesses {
            let (frame, limit) = if redistributor {
                (Frame::Redistributors, 0x8_0000)
            } else {
                (Frame::Distributor, if version == Version::V2 { 0x1000 } else { 0x1_0000 })
            };
            // Half of the accesses go where the registers are.
            let offset = if value & 1 == 0 { offset % limit } else { (offset % limit) & !0xf003 };
            m.write(vcpu, frame, offset, width, value);
            let _ = m.read(vcpu, frame, offset, width);
            m.deliver_kicks();
        }
        prop_assert!(m.physical.touched.iter().all(|id| [27, 30, device].contains(id)));
        prop_assert_eq!(m.read32(0, 4) & 0x1f, 3);
    }
}

/// One step of a life.
#[derive(Clone, Debug)]
enum Step {
    Sgi { from: usize, id: u8, targets: u8 },
    Edge { by: usize, id: u8 },
    Doorbell { id: u8 },
    Timer { vcpu: usize },
    Device,
    Acknowledge { vcpu: usize },
    End { vcpu: usize },
    Kicks,
    Enable { by: usize, id: u8 },
    Disable { by: usize, id: u8 },
    Route { by: usize, id: u8, to: u8 },
    Priority { by: usize, id: u8, value: u8 },
    Line { by: usize, high: bool },
    Off { vcpu: usize },
    On { vcpu: usize },
}

fn step(vcpus: usize) -> impl Strategy<Value = Step> {
    let v = move || 0..vcpus;
    let edge = || 64..72_u8;
    prop_oneof![
        (v(), 0..16_u8, any::<u8>()).prop_map(|(from, id, targets)| Step::Sgi {
            from,
            id,
            targets
        }),
        // To itself alone, mostly the same again.
        (v(), 0..2_u8).prop_map(|(from, id)| Step::Sgi {
            from,
            id,
            targets: 1 << from
        }),
        (v(), edge()).prop_map(|(by, id)| Step::Edge { by, id }),
        edge().prop_map(|id| Step::Doorbell { id }),
        v().prop_map(|vcpu| Step::Timer { vcpu }),
        Just(Step::Device),
        v().prop_map(|vcpu| Step::Acknowledge { vcpu }),
        v().prop_map(|vcpu| Step::Acknowledge { vcpu }),
        v().prop_map(|vcpu| Step::End { vcpu }),
        Just(Step::Kicks),
        (v(), edge()).prop_map(|(by, id)| Step::Enable { by, id }),
        (v(), edge()).prop_map(|(by, id)| Step::Disable { by, id }),
        (v(), edge(), 0..vcpus).prop_map(|(by, id, to)| Step::Route {
            by,
            id,
            to: u8::try_from(to).unwrap()
        }),
        (v(), edge(), any::<u8>()).prop_map(|(by, id, value)| Step::Priority { by, id, value }),
        (v(), any::<bool>()).prop_map(|(by, high)| Step::Line { by, high }),
        v().prop_map(|vcpu| Step::Off { vcpu }),
        v().prop_map(|vcpu| Step::On { vcpu }),
    ]
}

/// What must still be taken, per vCPU and SGI and sender, or per edge SPI (any vCPU).
#[derive(Default)]
struct Owed(BTreeMap<(Option<usize>, u8, u8), Debt>);

/// One take at least if `due`; `spare` more are right because a kick was on the way, so that the
/// earlier interrupt may have been acknowledged before the later one reached it.
#[derive(Default, Debug)]
struct Debt {
    due: bool,
    spare: usize,
}

impl Owed {
    fn send(&mut self, vcpu: Option<usize>, id: u8, source: u8, kick_on_the_way: bool) {
        let debt = self.0.entry((vcpu, id, source)).or_default();
        debt.spare += usize::from(debt.due && kick_on_the_way);
        debt.due = true;
    }

    fn take(&mut self, vcpu: usize, id: u8, source: u8) -> Result<(), TestCaseError> {
        let key = match id {
            0..16 => (Some(vcpu), id, source),
            64..72 => (None, id, 0),
            _ => return Ok(()),
        };
        let debt = self.0.entry(key).or_default();
        prop_assert!(
            debt.due || debt.spare > 0,
            "vCPU {vcpu} took {id} from {source}: nobody sent it"
        );
        if !std::mem::take(&mut debt.due) {
            debt.spare -= 1;
        }
        Ok(())
    }
}

fn start(m: &mut Machine, vcpu: usize) {
    m.on_core(vcpu, |vgic, core| vgic.vcpu_on(vcpu, core));
    m.write_private(vcpu, 0x100, u32::MAX);
}

impl Step {
    /// The vCPU that has to be on for it.
    fn actor(&self) -> Option<usize> {
        match *self {
            Self::Device | Self::Doorbell { .. } | Self::Kicks | Self::On { .. } => None,
            Self::Sgi { from, .. } => Some(from),
            Self::Timer { vcpu }
            | Self::Acknowledge { vcpu }
            | Self::End { vcpu }
            | Self::Off { vcpu } => Some(vcpu),
            Self::Edge { by, .. }
            | Self::Enable { by, .. }
            | Self::Disable { by, .. }
            | Self::Route { by, .. }
            | Self::Priority { by, .. }
            | Self::Line { by, .. } => Some(by),
        }
    }
}

fn live(
    version: Version,
    vcpus: usize,
    lrs: usize,
    device: u16,
    steps: Vec<Step>,
) -> Result<(), TestCaseError> {
    let mut m = Machine::ready(version, vcpus, lrs);
    prop_assert!(m.link_device(50, device));
    m.route_spi(0, 50, 0);
    m.write32(0, 0x104, 1 << 18);
    for word in 0..2 {
        m.write32(0, 0xc10 + 4 * word, u32::MAX);
    }
    let mut owed = Owed::default();
    let bit = |id: u8| 1 << (id & 31);
    let mut on = vec![true; vcpus];
    for step in steps {
        // A vCPU that is off does nothing.
        if step.actor().is_some_and(|vcpu| !on[vcpu]) {
            continue;
        }
        match step {
            Step::Sgi { from, id, targets } => {
                m.send_sgi(from, id, targets);
                for vcpu in (0..vcpus).filter(|v| targets >> v & 1 != 0) {
                    let source = if version == Version::V2 {
                        u8::try_from(from).unwrap()
                    } else {
                        0
                    };
                    owed.send(Some(vcpu), id, source, m.kicked != 0);
                }
            }
            Step::Edge { by, id } => {
                m.set_line(by, id, Line::Low);
                m.set_line(by, id, Line::High);
                owed.send(None, id, 0, m.kicked != 0);
            }
            Step::Doorbell { id } => {
                let kicks = m.vgic.inject_spi_remote(IntId(id));
                m.kick(kicks);
                owed.send(None, id, 0, m.kicked != 0);
            }
            Step::Timer { vcpu } => {
                m.fire_ppi(vcpu, 27);
            }
            Step::Device => {
                m.fire_spi(device, 50);
            }
            Step::Acknowledge { vcpu } => {
                if let Some((id, source)) = m.acknowledge(vcpu) {
                    owed.take(vcpu, id, source)?;
                }
                m.maintain(vcpu);
            }
            Step::End { vcpu } => {
                if !m.running[vcpu].is_empty() {
                    m.end(vcpu);
                }
            }
            Step::Kicks => m.deliver_kicks(),
            Step::Enable { by, id } => m.write32(by, 0x108, bit(id)),
            Step::Disable { by, id } => m.write32(by, 0x188, bit(id)),
            Step::Route { by, id, to } => m.route_spi(by, id, to),
            Step::Priority { by, id, value } => {
                m.write(
                    by,
                    Frame::Distributor,
                    0x400 + u32::from(id),
                    Width::Byte,
                    u64::from(value),
                );
            }
            Step::Off { vcpu } => {
                m.on_core(vcpu, |vgic, core| vgic.vcpu_off(vcpu, core));
                m.running[vcpu].clear();
                on[vcpu] = false;
                owed.0.retain(|(to, ..), _| *to != Some(vcpu));
            }
            Step::On { vcpu } => {
                if !std::mem::replace(&mut on[vcpu], true) {
                    start(&mut m, vcpu);
                }
            }
            Step::Line { by, high } => {
                m.set_line(by, 33, if high { Line::High } else { Line::Low })
            }
        }
    }
    // Calm: all enabled, everything ended, and all that is owed comes, once.
    for vcpu in (0..vcpus).filter(|&vcpu| !on[vcpu]) {
        start(&mut m, vcpu);
    }
    m.set_line(0, 33, Line::Low);
    m.write32(0, 0x108, u32::MAX);
    m.deliver_kicks();
    for vcpu in 0..vcpus {
        while !m.running[vcpu].is_empty() {
            m.end(vcpu);
        }
    }
    for (vcpu, id, source) in m.drain() {
        owed.take(vcpu, id, source)?;
        prop_assert_ne!(id, 33, "its line is low");
    }
    owed.0.retain(|_, debt| debt.due);
    prop_assert!(owed.0.is_empty(), "never delivered: {:?}", owed.0);
    prop_assert!(
        m.lrs
            .iter()
            .flatten()
            .all(|lr| lr.state() == LrState::Invalid)
    );
    prop_assert!(
        m.physical.active.is_empty(),
        "left active: {:?}",
        m.physical.active
    );
    prop_assert!(m.maintenance.iter().all(|w| *w == Maintenance::default()));
    // And the machine is not worn out.
    prop_assert!(m.fire_ppi(0, 27) && m.fire_spi(device, 50));
    prop_assert!(m.physical.enabled.contains(&ppi_name(vcpus - 1, 27)));
    m.set_line(0, 33, Line::High);
    let mut last: Vec<u8> = Vec::new();
    m.deliver_kicks();
    while let Some((id, _)) = m.acknowledge(0) {
        last.push(id);
        if id == 33 {
            m.set_line(0, 33, Line::Low);
        }
        m.end(0);
    }
    last.sort_unstable();
    prop_assert_eq!(last, [27, 33, 50]);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 1 } else { ProptestConfig::default().cases }, ..Default::default() })]

    /// Every interrupt that is sent and enabled is taken exactly once, in any interleaving.
    #[test]
    fn nothing_is_lost_or_doubled_with_two_vcpus(
        version in version(),
        lrs in 2..5_usize,
        device in device(),
        steps in prop::collection::vec(step(2), 1..120),
    ) {
        live(version, 2, lrs, device, steps)?;
    }

    #[test]
    fn nothing_is_lost_or_doubled_with_eight_vcpus(
        version in version(),
        device in device(),
        steps in prop::collection::vec(step(8), 1..120),
    ) {
        live(version, 8, 4, device, steps)?;
    }
}
