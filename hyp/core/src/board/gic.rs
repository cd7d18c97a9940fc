//! The interrupt controller and the interrupts that Ballast itself takes.

use super::{Gic, Timer};
use crate::dt::{DeviceTree, Interrupt, InterruptKind, Node};
use crate::refusal::Refusal;

const GIC_V2: [&str; 5] = [
    "arm,gic-400",
    "arm,cortex-a15-gic",
    "arm,cortex-a7-gic",
    "arm,cortex-a9-gic",
    "arm,eb11mp-gic",
];

/// The node of the GIC: what the root's interrupts go to, else the first there is.
///
/// # Errors
/// There is none that Ballast drives.
pub fn gic_node<'t>(tree: &'t DeviceTree<'t>) -> Result<Node<'t>, Refusal> {
    let known = |node: &Node<'_>| {
        node.is_compatible("arm,gic-v3") || GIC_V2.iter().any(|name| node.is_compatible(name))
    };
    let is_gic = |node: &Node<'_>| node.property("interrupt-controller").is_some() && known(node);
    let default = tree.root().interrupt_parent().ok().filter(is_gic);
    default
        .or_else(|| tree.nodes().find(is_gic))
        .ok_or_else(|| {
            let problem = "has no interrupt controller that is a GICv2 or a GICv3";
            Refusal::new("device tree")
                .problem(problem)
                .fix("use a board with one of these")
        })
}

pub(super) fn read_gic(node: Node<'_>) -> Result<Gic, Refusal> {
    let regions = node.regions()?;
    let maintenance = node.interrupts(node.interrupt_parent().unwrap_or(node))?;
    let maintenance = maintenance
        .first()
        .filter(|interrupt| interrupt.kind == InterruptKind::Ppi);
    let maintenance = maintenance
        .map(|interrupt| interrupt.intid)
        .ok_or_else(|| {
            let problem = "has no maintenance interrupt, so no virtualization extensions";
            node.refuse()
                .property("interrupts")
                .problem(problem)
                .fix("on QEMU virt add virtualization=on to -M")
        })?;
    if node.is_compatible("arm,gic-v3") {
        let count =
            usize::try_from(node.u32("#redistributor-regions")?.unwrap_or(1)).unwrap_or(usize::MAX);
        let stride = node.u64("redistributor-stride")?.unwrap_or(0x2_0000);
        let (Some(gicd), Some(redistributors)) =
            (regions.first(), regions.get(1..count.saturating_add(1)))
        else {
            let problem = "lacks the distributor or a redistributor region";
            return Err(node.require("reg")?.refuse().problem(problem));
        };
        if redistributors.is_empty() || stride < 0x2_0000 || stride & 0xffff != 0 {
            let problem = "has no redistributor region, or a stride that is no multiple of 64 KiB from 128 KiB on";
            return Err(node.require("reg")?.refuse().problem(problem));
        }
        return Ok(Gic::V3 {
            gicd: *gicd,
            redistributors: redistributors.to_vec(),
            stride,
            maintenance,
        });
    }
    match regions.as_slice() {
        [gicd, gicc, gich, gicv, ..] => Ok(Gic::V2 {
            gicd: *gicd,
            gicc: *gicc,
            gich: *gich,
            gicv: *gicv,
            maintenance,
        }),
        _ => {
            let problem = "lacks the virtual interface: it must list GICD, GICC, GICH and GICV";
            Err(node
                .require("reg")?
                .refuse()
                .problem(problem)
                .fix("on QEMU virt add virtualization=on to -M"))
        }
    }
}

pub(super) fn read_timer(tree: &DeviceTree<'_>, gic: Node<'_>) -> Result<Timer, Refusal> {
    let is_timer = |node: &Node<'_>| node.is_compatible("arm,armv8-timer");
    let usual = tree.root().child("timer").filter(is_timer);
    let node = usual.or_else(|| tree.nodes().find(is_timer));
    let node = node.ok_or_else(|| {
        Refusal::new("device tree").problem("has no node compatible with \"arm,armv8-timer\"")
    })?;
    // Secure, non-secure, virtual, hypervisor, in this order.
    match node.interrupts(gic)?.as_slice() {
        [_, physical, virt, hyp, ..] if [physical, virt, hyp].iter().all(|timer| is_ppi(timer)) => {
            Ok(Timer {
                el1_physical: physical.intid,
                el1_virtual: virt.intid,
                el2_physical: hyp.intid,
            })
        }
        _ => Err(node
            .refuse()
            .property("interrupts")
            .problem("does not list the four timers' PPIs")),
    }
}

fn is_ppi(interrupt: &Interrupt) -> bool {
    interrupt.kind == InterruptKind::Ppi
}
