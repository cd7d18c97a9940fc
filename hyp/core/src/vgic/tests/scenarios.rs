//! Interrupts on their way, one situation a test.

use super::super::*;
use super::machine::{Machine, ppi_name};
use Version::{V2, V3};

#[test]
fn a_linked_timer_needs_no_exit_for_its_end() {
    for version in [V2, V3] {
        let mut m = Machine::ready(version, 1, 4);
        for _ in 0..20 {
            assert!(m.fire_ppi(0, 27));
            assert!(!m.fire_ppi(0, 27), "active until the guest ends it");
            assert_eq!(m.acknowledge(0), Some((27, 0)));
            m.end(0);
            assert_eq!(m.maintain(0), 0);
        }
        assert!(m.physical.active.is_empty());
    }
}

/// A device whose interrupt other guests have, too: the guest's end is told.
#[test]
fn the_end_of_a_shared_interrupt_is_told() {
    for version in [V2, V3] {
        let line = SHARED | 3;
        let mut m = Machine::ready(version, 2, 4);
        assert!(!m.vgic.share_spi(IntId(20), 3) && !m.vgic.share_spi(IntId(40), SHARED));
        m.write32(0, 0x184, 1 << 8);
        assert!(m.vgic.share_spi(IntId(40), 3));
        m.physical.routes.insert(line, 0);
        assert!(!m.fire_spi(line, 40), "nobody listens");
        m.write32(0, 0x104, 1 << 8);
        for _ in 0..3 {
            assert!(m.fire_spi(line, 40));
            assert_eq!(m.acknowledge(0), Some((40, 0)));
            assert!(m.physical.active.contains(&line));
            m.end(0);
            assert!(m.physical.active.is_empty());
            assert_eq!(m.acknowledge(0), None, "once is enough");
        }
        // What the guest makes pending itself reaches nobody else.
        m.write32(0, 0x204, 1 << 8);
        assert_eq!(m.read32(0, 0x204) & 1 << 8, 1 << 8);
        assert_eq!(m.drain(), [(0, 40, 0)]);
        // It turns the interrupt off while it has it pending, and takes it back.
        assert!(m.fire_spi(line, 40));
        m.write32(0, 0x184, 1 << 8);
        assert!(!m.physical.enabled.contains(&line));
        m.write32(0, 0x284, 1 << 8);
        assert!(m.physical.active.is_empty());
        m.write32(0, 0x104, 1 << 8);
        assert_eq!(m.acknowledge(0), None);
        // Its vCPU goes while it is at it.
        assert!(m.fire_spi(line, 40));
        assert_eq!(m.acknowledge(0), Some((40, 0)));
        m.on_core(0, |vgic, core| vgic.vcpu_off(0, core));
        assert!(m.physical.active.is_empty() && !m.physical.enabled.contains(&line));
    }
}

#[test]
fn a_masked_timer_is_masked_in_hardware() {
    let mut m = Machine::ready(V3, 2, 4);
    m.write_private(1, 0x180, 1 << 27);
    assert!(!m.physical.enabled.contains(&ppi_name(1, 27)));
    assert!(m.physical.enabled.contains(&ppi_name(0, 27)));
    // One vCPU changes another's enables: that one's core does it when kicked.
    m.write(
        0,
        Frame::Redistributors,
        REDISTRIBUTOR_STRIDE + 0x1_0100,
        Width::Word,
        1 << 27,
    );
    assert!(!m.physical.enabled.contains(&ppi_name(1, 27)));
    m.deliver_kicks();
    assert!(m.physical.enabled.contains(&ppi_name(1, 27)));
}

#[test]
fn a_level_interrupt_comes_again_while_the_line_is_high() {
    for version in [V2, V3] {
        let mut m = Machine::ready(version, 1, 4);
        m.set_line(0, 33, Line::High);
        for _ in 0..5 {
            assert_eq!(m.acknowledge(0), Some((33, 0)));
            assert_eq!(m.acknowledge(0), None);
            m.end(0);
        }
        assert_eq!(m.acknowledge(0), Some((33, 0)));
        m.set_line(0, 33, Line::Low);
        m.running[0].clear();
        m.lrs[0]
            .iter_mut()
            .for_each(|lr| *lr = lr.with_state(lr.state().without_active()));
        assert_eq!(
            m.maintain(0),
            0,
            "the end of one whose line is low needs no exit"
        );
        assert_eq!(m.acknowledge(0), None);
    }
}

#[test]
fn a_level_interrupt_goes_when_the_line_falls() {
    let mut m = Machine::ready(V2, 2, 4);
    m.write32(0, 0x820, 0x0202);
    m.set_line(0, 33, Line::High);
    m.deliver_kicks();
    m.set_line(0, 33, Line::Low);
    m.deliver_kicks();
    assert_eq!(m.acknowledge(1), None);
    // Set by software as well, it stays.
    m.set_line(0, 33, Line::High);
    m.write32(0, 0x204, 2);
    m.deliver_kicks();
    m.set_line(0, 33, Line::Low);
    assert_eq!(m.drain(), [(1, 33, 0)]);
}

#[test]
fn an_edge_while_active_comes_once_more() {
    for remote in [false, true] {
        let mut m = Machine::ready(V3, 2, 4);
        m.write32(0, 0xc08, u32::MAX);
        if remote {
            m.write(0, Frame::Distributor, 0x6000 + 8 * 40, Width::Double, 1);
        }
        let vcpu = usize::from(remote);
        m.set_line(0, 40, Line::High);
        m.deliver_kicks();
        assert_eq!(m.acknowledge(vcpu), Some((40, 0)));
        for _ in 0..3 {
            m.set_line(0, 40, Line::Low);
            m.set_line(0, 40, Line::High);
        }
        m.deliver_kicks();
        m.end(vcpu);
        assert_eq!(m.drain(), [(vcpu, 40, 0)], "edges merge");
    }
}

#[test]
fn v2_sgis_are_told_apart_by_sender() {
    let mut m = Machine::ready(V2, 4, 4);
    for sender in [3, 1, 2, 0, 1] {
        m.send_sgi(sender, 5, 0b0001);
    }
    m.deliver_kicks();
    assert_eq!(
        m.lrs[0].iter().filter(|lr| lr.state().is_pending()).count(),
        1,
        "one list register"
    );
    let mut taken = m.drain();
    taken.sort_unstable();
    assert_eq!(taken, [(0, 5, 0), (0, 5, 1), (0, 5, 2), (0, 5, 3)]);
}

#[test]
fn v2_sgi_pending_registers() {
    let mut m = Machine::ready(V2, 4, 4);
    m.write_private(1, 0x180, u32::MAX);
    assert_eq!(m.read_private(1, 0x100), 0xffff, "SGIs stay enabled");
    m.write32(0, 0, 0);
    m.deliver_kicks();
    m.send_sgi(2, 6, 0b0010);
    m.send_sgi(3, 6, 0b0010);
    assert_eq!(m.read32(1, 0xf24), 0x000c_0000);
    assert_eq!(m.read32(1, 0x200) & 0xffff, 1 << 6);
    m.write(1, Frame::Distributor, 0xf16, Width::Byte, 1 << 3);
    m.write(1, Frame::Distributor, 0xf21, Width::Byte, 1);
    assert_eq!(
        (m.read32(1, 0xf14), m.read32(1, 0xf10)),
        (0x0004_0000, 0x0100)
    );
    m.write_private(1, 0x280, 0xffff);
    m.write32(0, 0, 3);
    let mut taken = m.drain();
    taken.sort_unstable();
    assert_eq!(taken, [(1, 1, 0), (1, 6, 2)]);
}

#[test]
fn more_pending_than_list_registers_come_by_priority() {
    for version in [V2, V3] {
        for lrs in [2, 4] {
            let mut m = Machine::ready(version, 1, lrs);
            m.write32(0, 0xc08, u32::MAX);
            m.write32(0, 0xc0c, u32::MAX);
            for id in 32..64 {
                m.write(
                    0,
                    Frame::Distributor,
                    0x400 + id,
                    Width::Byte,
                    u64::from((63 - id) * 8),
                );
            }
            for id in 32..64 {
                m.set_line(0, id, Line::High);
            }
            let taken: Vec<u8> = m.drain().into_iter().map(|t| t.1).collect();
            assert_eq!(
                taken,
                (32..64).rev().collect::<Vec<u8>>(),
                "{lrs} list registers"
            );
        }
    }
}

/// G5: everything at once, acknowledged and never ended, then calm.
#[test]
#[cfg_attr(miri, ignore = "long, and nothing an interpreter would find")]
fn a_storm_of_sgis_ends() {
    for version in [V2, V3] {
        for vcpus in [2, 8] {
            let mut m = Machine::ready(version, vcpus, 4);
            for round in 0..3 {
                for sender in 0..vcpus {
                    for id in 0..16 {
                        m.send_sgi(sender, id, 0xff);
                    }
                    if round == 1 {
                        m.acknowledge(sender);
                        m.maintain(sender);
                    }
                }
                m.deliver_kicks();
            }
            for vcpu in 0..vcpus {
                while !m.running[vcpu].is_empty() {
                    m.end(vcpu);
                }
            }
            let taken = m.drain();
            for vcpu in 0..vcpus {
                let seen: std::collections::BTreeSet<u8> =
                    taken.iter().filter(|t| t.0 == vcpu).map(|t| t.1).collect();
                assert_eq!(seen.len(), 16, "{version:?} {vcpus} vCPUs, vCPU {vcpu}");
            }
            assert!(
                m.lrs
                    .iter()
                    .flatten()
                    .all(|lr| lr.state() == LrState::Invalid)
            );
        }
    }
}

/// All list registers active and stuck: what is pending waits, without a maintenance storm, and
/// comes as soon as one of them ends.
#[test]
fn waiting_ends_with_any_active_interrupt() {
    let mut m = Machine::ready(V3, 1, 4);
    for id in 0..4 {
        m.send_sgi(0, id, 1);
        assert_eq!(m.acknowledge(0), Some((id, 0)));
    }
    m.send_sgi(0, 9, 1);
    assert_eq!((m.acknowledge(0), m.maintain(0)), (None, 0));
    m.end_of(0, 1);
    assert_eq!(m.acknowledge(0), Some((9, 0)));
}

/// G6: ends of what is not active change nothing.
#[test]
fn wrong_ends_leak_no_list_register() {
    let mut m = Machine::ready(V3, 1, 4);
    for id in 0..4 {
        m.send_sgi(0, id, 1);
        m.end_of(0, id);
        m.end_of(0, 77);
    }
    assert_eq!(m.drain().len(), 4);
    assert_eq!(m.drain(), []);
    m.set_line(0, 33, Line::High);
    assert_eq!(m.acknowledge(0), Some((33, 0)));
}

#[test]
fn disabling_takes_back_and_enabling_gives_again() {
    for (version, vcpu) in [(V2, 0), (V2, 1), (V3, 0), (V3, 1)] {
        let mut m = Machine::ready(version, 2, 4);
        if version == V2 {
            m.write32(0, 0x828, 0x0101_0101 << vcpu);
        } else {
            m.write(
                0,
                Frame::Distributor,
                0x6000 + 8 * 41,
                Width::Double,
                vcpu as u64,
            );
        }
        m.write32(0, 0xc08, u32::MAX);
        m.set_line(0, 41, Line::High);
        m.deliver_kicks();
        m.write32(0, 0x184, 1 << 9);
        m.deliver_kicks();
        assert_eq!(m.drain(), []);
        assert_ne!(m.read32(0, 0x204) & 1 << 9, 0, "still pending");
        m.write32(0, 0x104, 1 << 9);
        assert_eq!(m.drain(), [(vcpu, 41, 0)]);
    }
}

#[test]
fn clearing_reaches_another_cores_list_register() {
    let mut m = Machine::ready(V3, 2, 4);
    m.write32(0, 0xc08, u32::MAX);
    m.write(0, Frame::Distributor, 0x6000 + 8 * 40, Width::Double, 1);
    m.set_line(0, 40, Line::High);
    m.deliver_kicks();
    assert_ne!(m.read32(0, 0x204) & 1 << 8, 0);
    m.write32(0, 0x284, 1 << 8);
    m.deliver_kicks();
    assert_eq!(m.acknowledge(1), None);
    m.set_line(0, 40, Line::Low);
    m.set_line(0, 40, Line::High);
    m.deliver_kicks();
    assert_eq!(m.acknowledge(1), Some((40, 0)));
    // Polled until it is seen.
    assert_eq!(m.read32(0, 0x304) & 1 << 8, 0);
    m.deliver_kicks();
    assert_ne!(m.read32(0, 0x304) & 1 << 8, 0);
    m.write32(0, 0x384, 1 << 8);
    m.deliver_kicks();
    m.deliver_kicks();
    assert_eq!(m.read32(0, 0x304) & 1 << 8, 0);
}

#[test]
fn groups_are_forwarded_only_when_enabled() {
    let mut m = Machine::ready(V2, 2, 4);
    m.write32(0, 0, 1);
    m.write_private(0, 0x80, 1 << 4);
    m.send_sgi(0, 4, 1);
    m.send_sgi(0, 5, 1);
    assert_eq!(m.drain(), [(0, 5, 0)]);
    m.write32(0, 0, 0);
    m.send_sgi(0, 5, 1);
    assert_eq!(m.drain(), []);
    m.write32(0, 0, 3);
    m.deliver_kicks();
    assert!(
        m.lrs[0]
            .iter()
            .any(|lr| lr.intid() == 4 && lr.group() == Group::One)
    );
    assert_eq!(m.drain().len(), 2);
}

#[test]
fn kicks_are_as_few_as_needed() {
    let mut m = Machine::ready(V3, 4, 4);
    let before = m.kicks;
    m.send_sgi(0, 1, 0b0001);
    m.write32(0, 0x104, u32::MAX);
    m.write_private(0, 0x400, 0);
    let _ = m.read_private(0, 0x200);
    assert_eq!(m.kicks, before, "nothing of this concerns another core");
    m.send_sgi(0, 1, 0b0100);
    assert_eq!(m.kicks, before + 1);
}

/// An interrupt that comes again does not take the room that a more urgent one waits for.
#[test]
fn what_comes_again_does_not_overtake() {
    let mut m = Machine::ready(V3, 1, 2);
    m.write_private(0, 0x418, 0xf800_0000);
    assert!(m.fire_ppi(0, 27));
    m.acknowledge(0);
    m.send_sgi(0, 1, 1);
    m.acknowledge(0);
    m.send_sgi(0, 5, 1);
    // The timer ends and fires again before the maintenance interrupt is taken.
    let timer = m.lrs[0].iter().position(|lr| lr.intid() == 27).unwrap();
    m.lrs[0][timer] = m.lrs[0][timer].with_state(LrState::Invalid);
    m.physical.active.clear();
    assert!(m.fire_ppi(0, 27));
    assert_eq!(m.acknowledge(0), Some((5, 0)));
}

/// Room that becomes free without a word, while two others stay active, is found.
#[test]
fn waiting_ends_when_the_last_pending_one_is_taken() {
    let mut m = Machine::ready(V3, 1, 4);
    for id in 0..2 {
        m.send_sgi(0, id, 1);
        m.acknowledge(0);
    }
    m.write_private(0, 0x408, 0x0000_f800);
    for id in [2, 3, 9] {
        m.send_sgi(0, id, 1);
    }
    for id in 2..4 {
        assert_eq!(m.acknowledge(0), Some((id, 0)));
        m.end(0);
    }
    assert_eq!(m.acknowledge(0), Some((9, 0)));
}

#[test]
fn v2_senders_survive_every_way() {
    let mut m = Machine::ready(V2, 3, 4);
    m.send_sgi(1, 5, 1);
    assert_eq!(m.drain(), [(0, 5, 1)]);
    // Two at once, for a list register that has had it before.
    m.send_sgi(1, 5, 1);
    m.send_sgi(2, 5, 1);
    assert_eq!(m.drain(), [(0, 5, 1), (0, 5, 2)]);
    // Offered, taken back, offered again.
    m.send_sgi(2, 5, 1);
    m.deliver_kicks();
    m.write32(0, 0, 0);
    assert_eq!(m.drain(), []);
    m.write32(0, 0, 3);
    assert_eq!(m.drain(), [(0, 5, 2)]);
}

#[test]
fn a_latch_joins_a_level_that_is_offered() {
    let mut m = Machine::ready(V3, 1, 4);
    m.set_line(0, 33, Line::High);
    m.write32(0, 0x204, 2);
    m.set_line(0, 33, Line::Low);
    assert_eq!(
        m.drain(),
        [(0, 33, 0)],
        "set by software while it was offered, once"
    );
}

#[test]
fn a_timer_that_comes_again_takes_its_shortcut() {
    for version in [V2, V3] {
        let mut m = Machine::ready(version, 2, 4);
        assert!(m.fire_ppi(0, 27));
        assert_eq!(m.drain(), [(0, 27, 0)]);
        let offer = |m: &mut Machine, id| {
            let shortcut = m.vgic.shortcut(0, IntId(id));
            let mut taken = false;
            m.on_core(0, |_, core| {
                taken = shortcut.offer(IntId(27), core);
                Kicks::NONE
            });
            taken
        };
        assert!(offer(&mut m, 27));
        assert!(!offer(&mut m, 27), "still offered");
        assert!(!offer(&mut m, 30), "not its own");
        m.physical.active.insert(27);
        assert_eq!(m.drain(), [(0, 27, 0)]);
        // Another vCPU turns it off while it is offered by the shortcut: the kick takes it back.
        if version == V3 {
            m.physical.active.insert(27);
            assert!(offer(&mut m, 27));
            m.write(1, Frame::Redistributors, 0x1_0180, Width::Word, 1 << 27);
            assert!(!offer(&mut m, 27));
            assert_eq!(m.drain(), []);
            m.write_private(0, 0x100, 1 << 27);
            assert_eq!(m.drain(), [(0, 27, 0)]);
        }
    }
}

/// An SGI to itself that comes again needs no lock, until something of its vCPU has changed.
#[test]
fn an_sgi_to_itself_that_comes_again_takes_its_shortcut() {
    for version in [V2, V3] {
        let mut m = Machine::ready(version, 2, 4);
        for taken in 0..3 {
            assert_eq!(m.sgi_shortcuts_taken, taken_before(taken));
            m.send_sgi(0, 3, 1);
            assert_eq!(m.drain(), [(0, 3, 0)]);
        }
        // While it is offered it is one; another one is not it; others as targets are told.
        m.send_sgi(0, 3, 1);
        m.send_sgi(0, 3, 1);
        assert_eq!(m.drain(), [(0, 3, 0)]);
        m.send_sgi(0, 4, 1);
        assert_eq!(m.drain(), [(0, 4, 0)]);
        m.send_sgi(0, 4, 0b11);
        let mut taken = m.drain();
        taken.sort_unstable();
        assert_eq!(taken, [(0, 4, 0), (1, 4, 0)]);
        // From another vCPU in between: of GICv2 that is another interrupt, of GICv3 the same one.
        m.send_sgi(0, 3, 1);
        assert_eq!(m.drain(), [(0, 3, 0)]);
        m.send_sgi(1, 3, 1);
        m.send_sgi(0, 3, 1);
        let mut taken = m.drain();
        taken.sort_unstable();
        match version {
            V2 => assert_eq!(taken, [(0, 3, 0), (0, 3, 1)]),
            V3 => assert_eq!(taken, [(0, 3, 0)]),
        }
        // Turned off by the vCPU itself it waits.
        if version == V3 {
            m.send_sgi(0, 3, 1);
            assert_eq!(m.drain(), [(0, 3, 0)]);
            m.write_private(0, 0x180, 1 << 3);
            m.send_sgi(0, 3, 1);
            assert_eq!(m.drain(), []);
            m.write_private(0, 0x100, 1 << 3);
            assert_eq!(m.drain(), [(0, 3, 0)]);
        }
    }
}

/// The first way is the long one.
const fn taken_before(sent: u32) -> u32 {
    sent.saturating_sub(1)
}

/// A doorbell that comes again needs no look at the list registers.
#[test]
fn an_edge_from_elsewhere_that_comes_again_is_offered_at_once() {
    for version in [V2, V3] {
        let mut m = Machine::ready(version, 2, 4);
        m.write32(0, 0xc10, u32::MAX);
        let ring = |m: &mut Machine| {
            let kicks = m.vgic.inject_spi_remote(IntId(64));
            assert_eq!(kicks, Kicks(0b01));
            let mut is_short = false;
            m.on_core(0, |vgic, core| {
                is_short = vgic.take_again(0, core);
                if is_short {
                    return Kicks::NONE;
                }
                vgic.flush(0, core)
            });
            is_short
        };
        assert!(!ring(&mut m), "no list register is its own yet");
        assert_eq!(m.drain(), [(0, 64, 0)]);
        assert!(ring(&mut m));
        assert_eq!(m.drain(), [(0, 64, 0)]);
        // While it is active it comes once more.
        assert!(ring(&mut m));
        assert_eq!(m.acknowledge(0), Some((64, 0)));
        assert!(!ring(&mut m));
        m.end(0);
        assert_eq!(m.drain(), [(0, 64, 0)]);
    }
}

/// While one vCPU has it active it is routed to another and comes again: that one gets it at its end.
#[test]
fn an_edge_from_elsewhere_follows_its_route_when_what_was_there_ends() {
    for version in [V2, V3] {
        let mut m = Machine::ready(version, 2, 4);
        m.write32(0, 0xc10, u32::MAX);
        let ring = |m: &mut Machine| {
            let kicks = m.vgic.inject_spi_remote(IntId(64));
            m.kick(kicks);
            m.deliver_kicks();
        };
        ring(&mut m);
        assert_eq!(m.acknowledge(0), Some((64, 0)));
        m.route_spi(0, 64, 1);
        ring(&mut m);
        assert_eq!(m.acknowledge(1), None);
        m.end(0);
        assert_eq!(m.drain(), [(1, 64, 0)]);
    }
}
