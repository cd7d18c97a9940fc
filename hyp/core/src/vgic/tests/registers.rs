//! Registers as the architecture gives them.

use super::super::*;
use super::machine::Machine;

#[test]
fn list_registers_encode_as_the_hardware_has_them() {
    let timer = ListRegister::pending(27, 0xa0, Group::One, Link::Physical(27));
    assert_eq!(timer.to_v2(), 0xda00_6c1b);
    assert_eq!(timer.to_v3(), 0x70a0_001b_0000_001b);
    let link = Link::Software {
        source: 5,
        eoi: true,
    };
    let sgi = ListRegister::pending(3, 0x08, Group::Zero, link).with_state(LrState::PendingActive);
    assert_eq!(sgi.to_v2(), 0x3088_1403);
    assert_eq!(sgi.with_eoi(false).to_v2(), 0x3080_1403);
    assert_eq!(
        (sgi.intid(), sgi.priority(), sgi.group(), sgi.link()),
        (3, 8, Group::Zero, link)
    );
    assert_eq!(sgi.with_urgency(0xf8, Group::One).to_v2(), 0x7f88_1403);
    let level = ListRegister::pending(
        33,
        0,
        Group::Zero,
        Link::Software {
            source: 0,
            eoi: true,
        },
    );
    assert_eq!(level.to_v3(), 0x4000_0200_0000_0021);
    for lr in [timer, sgi, ListRegister::EMPTY] {
        assert_eq!(ListRegister::from_v2(lr.to_v2()), lr);
    }
    assert_eq!(ListRegister::from_v3(timer.to_v3()), timer);
    assert_eq!(
        (ListRegister::EMPTY.to_v2(), ListRegister::EMPTY.to_v3()),
        (0, 0)
    );
    assert_eq!(
        Maintenance {
            underflow: true,
            no_pending: true
        }
        .to_hcr(),
        0b1011
    );
}

#[test]
fn v2_identifies_itself() {
    let mut m = Machine::new(Version::V2, 3, 4);
    assert_eq!(m.read32(0, 4), 2 << 5 | 3, "3 interfaces, 128 INTIDs");
    assert_eq!(m.read32(0, 0xfe8), 0x20);
    assert_eq!(m.read32(0, 8) & 0xfff, 0x43b);
    assert_eq!(m.read32(2, 0x800), 0x0404_0404, "own interface, banked");
    assert_eq!(m.read(1, Frame::Distributor, 0x801, Width::Byte), 2);
    assert_eq!(m.read32(0, 0xc00), 0xaaaa_aaaa, "SGIs are edge-triggered");
    assert_eq!(m.read32(0, 0xc04), 0);
}

#[test]
fn v3_identifies_itself() {
    let mut m = Machine::new(Version::V3, 2, 4);
    assert_eq!(m.read32(0, 4) & 0x1f, 3);
    assert_eq!(m.read32(0, 0) & 0x50, 0x50, "ARE and DS");
    assert_eq!(m.read32(0, 0xffe8), 0x30);
    let typer = |m: &mut Machine, vcpu: u32| {
        m.read(
            0,
            Frame::Redistributors,
            REDISTRIBUTOR_STRIDE * vcpu + 8,
            Width::Double,
        )
    };
    assert_eq!(typer(&mut m, 0), 0);
    assert_eq!(typer(&mut m, 1), 1 << 32 | 1 << 8 | 1 << 4, "the last");
    assert_eq!(typer(&mut m, 2), 0, "beyond the last: RAZ");
    assert_eq!(
        m.read(
            0,
            Frame::Redistributors,
            REDISTRIBUTOR_STRIDE + 0xc,
            Width::Word
        ),
        1
    );
    assert_eq!(m.read32(0, 0x100), 0);
    m.write32(0, 0x100, u32::MAX);
    assert_eq!(m.read32(0, 0x100), 0, "bank 0 is the redistributors'");
    assert_eq!(m.read_private(0, 0x100), 0);
}

#[test]
fn a_uniprocessor_has_no_targets() {
    let mut m = Machine::ready(Version::V2, 1, 4);
    assert_eq!((m.read32(0, 0x800), m.read32(0, 0x840)), (0, 0));
    m.set_line(0, 33, Line::High);
    assert_eq!(m.acknowledge(0), Some((33, 0)), "and every SPI comes");
}

#[test]
fn priorities_have_five_bits_and_bytes() {
    for version in [Version::V2, Version::V3] {
        let mut m = Machine::new(version, 1, 4);
        m.write32(0, 0x420, 0xffff_ffff);
        assert_eq!(m.read32(0, 0x420), 0xf8f8_f8f8);
        m.write(0, Frame::Distributor, 0x421, Width::Byte, 0x1234);
        assert_eq!(m.read32(0, 0x420), 0xf8f8_30f8);
        assert_eq!(m.read(0, Frame::Distributor, 0x421, Width::Byte), 0x30);
        m.write(0, Frame::Distributor, 0x420, Width::Half, 0);
        m.write(0, Frame::Distributor, 0x422, Width::Word, 0);
        assert_eq!(
            m.read32(0, 0x420),
            0xf8f8_30f8,
            "half words and unaligned words are ignored"
        );
        m.write(0, Frame::Distributor, 0x104, Width::Byte, 0xff);
        assert_eq!(m.read32(0, 0x104), 0, "no bytes in ISENABLER");
    }
}

#[test]
fn irouter_takes_64_and_32_bits() {
    let mut m = Machine::ready(Version::V3, 2, 4);
    m.write(0, Frame::Distributor, 0x6000 + 8 * 40, Width::Double, 1);
    m.set_line(1, 40, Line::High);
    assert_eq!(m.acknowledge(1), Some((40, 0)));
    m.write(
        0,
        Frame::Distributor,
        0x6000 + 8 * 40 + 4,
        Width::Word,
        0xff,
    );
    assert_eq!(
        m.read(0, Frame::Distributor, 0x6000 + 8 * 40, Width::Double),
        0xff_0000_0001
    );
    m.write(0, Frame::Distributor, 0x6000 + 8 * 31, Width::Double, 1);
    assert_eq!(
        m.read(0, Frame::Distributor, 0x6000 + 8 * 31, Width::Double),
        0,
        "none for PPIs"
    );
}

/// G4: what names CPUs names only this guest's.
#[test]
fn targets_are_only_own_vcpus() {
    let mut m = Machine::ready(Version::V2, 2, 4);
    m.write32(0, 0x820, 0xffff_ffff);
    assert_eq!(m.read32(0, 0x820), 0x0303_0303);
    m.send_sgi(0, 1, 0xff);
    let mut taken = m.drain();
    taken.sort_unstable();
    assert_eq!(taken, [(0, 1, 0), (1, 1, 0)]);
}

/// G8: every affinity field must match, RS and IRM are honoured, group 0 registers do not reach
/// group 1.
#[test]
fn sgi_registers_reach_own_vcpus_only() {
    let mut m = Machine::ready(Version::V3, 3, 4);
    let mut send = |register, value| {
        m.write_sgi_register(0, register, value);
        m.drain()
            .into_iter()
            .map(|(vcpu, ..)| vcpu)
            .collect::<Vec<_>>()
    };
    let all = 0xffff | 2 << 24;
    assert_eq!(send(SgiRegister::Sgi1, all), [0, 1, 2]);
    for elsewhere in [
        1 << 16,
        1 << 23,
        1 << 32,
        1 << 39,
        1 << 44,
        1 << 48,
        1_u64 << 55,
    ] {
        assert_eq!(
            send(SgiRegister::Sgi1, all | elsewhere),
            [0_usize; 0],
            "{elsewhere:#x}"
        );
    }
    assert_eq!(
        send(SgiRegister::Sgi1, 1 << 40 | 2 << 24),
        [1, 2],
        "all but self"
    );
    assert_eq!(
        send(SgiRegister::Sgi1, all | 0xf << 28 | 7 << 41 | 0xff << 56),
        [0, 1, 2],
        "RES0 bits"
    );
    assert_eq!(send(SgiRegister::Group0, all), [0, 1, 2]);
    m.write_private(1, 0x80, 1 << 2);
    m.write_sgi_register(0, SgiRegister::Group0, all);
    assert_eq!(m.drain().iter().map(|t| t.0).collect::<Vec<_>>(), [0, 2]);
}

/// G7: LPIs, power state and other redistributors' frames.
#[test]
fn lpi_registers_do_nothing() {
    let mut m = Machine::new(Version::V3, 2, 4);
    for offset in [0x0, 0x14, 0x70, 0x78, 0x40, 0xa0] {
        for width in [Width::Word, Width::Double] {
            m.write(0, Frame::Redistributors, offset, width, u64::MAX);
            assert_eq!(
                m.read(0, Frame::Redistributors, offset, width),
                0,
                "{offset:#x}"
            );
        }
    }
    assert!(m.physical.touched.iter().all(|&id| id == 27 || id == 30));
}

#[test]
fn rwp_tells_until_a_disable_has_reached_the_other_core() {
    let mut m = Machine::ready(Version::V3, 2, 4);
    m.write(0, Frame::Distributor, 0x6000 + 8 * 40, Width::Double, 1);
    m.set_line(0, 40, Line::High);
    m.deliver_kicks();
    m.write32(0, 0x184, 1 << 8);
    assert_ne!(m.read32(0, 0) >> 31, 0);
    m.deliver_kicks();
    assert_eq!(m.read32(0, 0) >> 31, 0);
    assert_eq!(m.acknowledge(1), None);
}
