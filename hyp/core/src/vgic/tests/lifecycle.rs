//! vCPUs that come and go, linked SPIs, the guest's reset.

use super::super::*;
use super::machine::{Machine, ppi_name};

fn linked(version: Version, vcpus: usize) -> Machine {
    let mut m = Machine::new(version, vcpus, 4);
    assert!(m.vgic.link_spi(IntId(50), 121));
    m.write32(0, 0, 3);
    match version {
        Version::V2 => m.write(0, Frame::Distributor, 0x800 + 50, Width::Byte, 1),
        Version::V3 => m.write(0, Frame::Distributor, 0x6000 + 8 * 50, Width::Double, 0),
    }
    m.write32(0, 0x104, 1 << 18);
    m
}

fn target(m: &mut Machine, vcpu: usize) {
    match m.vgic.version() {
        Version::V2 => m.write(0, Frame::Distributor, 0x800 + 50, Width::Byte, 1 << vcpu),
        Version::V3 => m.write(
            0,
            Frame::Distributor,
            0x6000 + 8 * 50,
            Width::Double,
            vcpu as u64,
        ),
    }
}

fn off(m: &mut Machine, vcpu: usize) {
    m.on_core(vcpu, |vgic, core| vgic.vcpu_off(vcpu, core));
    m.running[vcpu].clear();
    assert!(m.lrs[vcpu].iter().all(|lr| *lr == ListRegister::EMPTY));
}

fn on(m: &mut Machine, vcpu: usize) {
    m.on_core(vcpu, |vgic, core| vgic.vcpu_on(vcpu, core));
}

#[test]
fn only_spis_can_be_linked() {
    let mut vgic = Vgic::new(&Config {
        version: Version::V2,
        vcpus: 1,
        intids: 96,
        linked_ppis: 0,
    });
    assert!(!vgic.link_spi(IntId(31), 40));
    assert!(!vgic.link_spi(IntId(96), 40));
    assert!(!vgic.link_spi(IntId(40), 27));
    assert!(!vgic.link_spi(IntId(40), 1020));
    assert!(vgic.link_spi(IntId(40), 1019));
}

#[test]
fn a_linked_spi_follows_its_target() {
    for version in [Version::V2, Version::V3] {
        let mut m = linked(version, 2);
        assert_eq!(m.physical.routes[&121], 0);
        assert!(m.fire_spi(121, 50));
        assert_eq!(m.drain(), [(0, 50, 0)]);
        target(&mut m, 1);
        assert_eq!(m.physical.routes[&121], 1);
        assert!(m.fire_spi(121, 50));
        assert_eq!(m.drain(), [(1, 50, 0)]);
        // Nobody to take it: held back in hardware.
        off(&mut m, 1);
        assert!(!m.fire_spi(121, 50));
        on(&mut m, 1);
        assert!(m.fire_spi(121, 50));
        target(&mut m, 0);
        assert_eq!(
            m.drain(),
            [(0, 50, 0)],
            "offered to one, then routed to the other"
        );
        m.write32(0, 0x184, 1 << 18);
        assert!(!m.fire_spi(121, 50));
        assert!(m.physical.active.is_empty());
    }
}

/// The physical interrupt is acknowledged on the core of the old target, which takes the guest's lock after the vCPU
/// that writes the new one; the core may by then run no vCPU of this guest.
#[test]
fn a_linked_spi_taken_on_the_old_core_reaches_the_new_target() {
    for version in [Version::V2, Version::V3] {
        for is_left in [false, true] {
            let mut m = linked(version, 2);
            m.physical.active.insert(121);
            target(&mut m, 1);
            if is_left {
                off(&mut m, 0);
                let kicks = m.vgic.inject_spi_remote(IntId(50));
                m.kick(kicks);
            } else {
                m.on_core(0, |vgic, core| vgic.inject_spi(0, IntId(50), core));
            }
            assert_eq!(m.drain(), [(1, 50, 0)]);
            assert!(m.physical.active.is_empty(), "ended by the new target");
            assert!(m.fire_spi(121, 50), "and let through again");
            assert_eq!(m.drain(), [(1, 50, 0)]);
        }
    }
}

#[test]
fn software_cannot_end_or_raise_more_than_its_own() {
    let mut m = linked(Version::V3, 1);
    m.write32(0, 0x204, 1 << 18 | 1 << 19);
    assert!(
        m.physical.pending.contains(&121),
        "ISPENDR goes to the device's interrupt"
    );
    assert_eq!(m.read32(0, 0x204), 1 << 18 | 1 << 19);
    m.write32(0, 0x284, u32::MAX);
    assert!(m.physical.pending.is_empty());
    assert!(m.fire_spi(121, 50));
    m.write32(0, 0x284, 1 << 18);
    assert_eq!(m.drain(), []);
    assert!(
        m.physical.active.is_empty(),
        "cleared while offered: ended in hardware"
    );
    assert!(m.fire_spi(121, 50));
    m.acknowledge(0);
    m.write32(0, 0x384, 1 << 18);
    assert!(m.physical.active.is_empty(), "active cleared by ICACTIVER");
}

/// G10: the trigger is changed with the physical interrupt held back (the fake asserts it).
#[test]
fn a_trigger_change_reaches_the_hardware() {
    let mut m = linked(Version::V2, 1);
    m.write32(0, 0xc0c, 0xffff_ffff);
    assert_eq!(m.physical.triggers[&121], Trigger::Edge);
    assert!(m.physical.enabled.contains(&121));
    assert_eq!(m.physical.triggers.len(), 1);
    assert_eq!(m.read32(0, 0xc0c), 0xaaaa_aaaa);
}

/// G9: offered and active ones at CPU_OFF.
#[test]
fn a_core_leaves_nothing_behind() {
    let mut m = linked(Version::V3, 2);
    for vcpu in 0..2 {
        m.write_private(vcpu, 0x100, u32::MAX);
    }
    assert!(m.fire_spi(121, 50) && m.fire_ppi(0, 27) && m.fire_ppi(0, 30));
    m.send_sgi(0, 3, 1);
    m.write_private(0, 0x200, 1 << 30);
    assert!(m.physical.pending.contains(&ppi_name(0, 30)));
    off(&mut m, 0);
    assert!(m.physical.pending.is_empty(), "a latch is not inherited");
    assert_eq!(
        m.physical.active.iter().copied().collect::<Vec<_>>(),
        [121],
        "still to be taken"
    );
    assert!(!m.physical.enabled.contains(&ppi_name(0, 27)));
    target(&mut m, 1);
    assert_eq!(m.drain(), [(1, 50, 0)], "delivered on re-route");
    // Acknowledged ones end.
    assert!(m.fire_spi(121, 50));
    m.acknowledge(1);
    off(&mut m, 1);
    assert!(m.physical.active.is_empty());
    // SGIs and PPIs are as new for the next life.
    on(&mut m, 0);
    assert_eq!((m.read_private(0, 0x100), m.read_private(0, 0x200)), (0, 0));
}

#[test]
fn an_spi_waits_for_its_vcpu() {
    for version in [Version::V2, Version::V3] {
        let mut m = Machine::ready(version, 2, 4);
        off(&mut m, 0);
        let kicks = m.vgic.set_line_remote(IntId(44), Line::High);
        assert_eq!(kicks, Kicks::NONE, "nobody to kick");
        assert_eq!(m.acknowledge(1), None);
        on(&mut m, 0);
        assert_eq!(m.acknowledge(0), Some((44, 0)));
    }
}

#[test]
fn one_of_several_targets_gets_it() {
    let mut m = Machine::ready(Version::V2, 3, 4);
    m.write32(0, 0x820, 0x0606_0606);
    m.set_line(0, 33, Line::High);
    m.deliver_kicks();
    assert_eq!(
        (m.acknowledge(0), m.acknowledge(1), m.acknowledge(2)),
        (None, Some((33, 0)), None)
    );
    off(&mut m, 1);
    m.deliver_kicks();
    assert_eq!(m.acknowledge(2), Some((33, 0)), "its line is still high");
    m.set_line(0, 33, Line::Low);
    m.deliver_kicks();
    m.end(2);
    off(&mut m, 2);
    m.set_line(0, 33, Line::High);
    assert_eq!(m.drain(), []);
    on(&mut m, 2);
    assert_eq!(m.acknowledge(2), Some((33, 0)));
}

/// An SGI to a vCPU that is off is kept until it is on and enables it.
#[test]
fn a_sleeping_vcpu_is_not_kicked() {
    let mut m = Machine::ready(Version::V3, 2, 4);
    off(&mut m, 1);
    let before = m.kicks;
    m.send_sgi(0, 3, 0b10);
    assert_eq!(m.kicks, before);
    on(&mut m, 1);
    m.write_private(1, 0x100, 1 << 3);
    assert_eq!(m.drain(), [(1, 3, 0)]);
}

#[test]
fn a_reset_guest_is_new() {
    for version in [Version::V2, Version::V3] {
        let mut m = linked(version, 2);
        m.set_line(0, 33, Line::High);
        m.write32(0, 0xc0c, 0xffff_ffff);
        assert!(m.fire_spi(121, 50));
        m.write32(0, 0x184, 1 << 18);
        assert!(
            m.physical.active.contains(&121),
            "pending in software, active in hardware"
        );
        off(&mut m, 0);
        off(&mut m, 1);
        m.on_core(0, |vgic, core| {
            vgic.guest_reset(core);
            Kicks::NONE
        });
        assert!(m.physical.active.is_empty() && m.physical.enabled.is_empty());
        assert_eq!(m.physical.triggers[&121], Trigger::Level, "G9");
        on(&mut m, 0);
        for offset in (0x80..0xc00)
            .step_by(4)
            .filter(|o| !(0x200..0x300).contains(o))
        {
            if version == Version::V3 || !(0x800..0x820).contains(&offset) {
                let sgis = version == Version::V2 && (offset == 0x100 || offset == 0x180);
                let expected = if sgis { 0xffff } else { 0 };
                assert_eq!(m.read32(0, offset), expected, "{offset:#x}");
            }
        }
        assert_eq!(
            m.read32(0, 0x204),
            2,
            "the line of an emulated device is the device's"
        );
        assert_eq!(m.read32(0, 0) & 3, 0);
        assert_eq!(m.drain(), []);
    }
}

/// Cleared by another vCPU, but the vCPU it was offered to goes before it hears of that.
#[test]
fn a_cleared_interrupt_does_not_outlive_its_vcpu() {
    let mut m = linked(Version::V3, 2);
    target(&mut m, 1);
    assert!(m.fire_spi(121, 50));
    m.write32(0, 0x284, 1 << 18);
    off(&mut m, 1);
    assert!(m.physical.active.is_empty());
    on(&mut m, 1);
    assert_eq!(m.drain(), []);
}
