//! The console UART.

use super::{Console, gic_node};
use crate::dt::{DeviceTree, Node};

/// The console UART: a PL011 at `stdout-path`, else the first PL011 in use. Needs nothing else of
/// the board, so that a boot error can be printed.
#[must_use]
pub fn find_console(tree: &DeviceTree<'_>) -> Option<Console> {
    let is_uart = |node: &Node<'_>| node.is_compatible("arm,pl011") && node.is_enabled();
    let chosen = tree.root().child("chosen");
    let named = chosen.and_then(|chosen| chosen.str("stdout-path").ok().flatten());
    let node = named
        .and_then(|path| tree.find(path))
        .filter(is_uart)
        .or_else(|| tree.nodes().find(is_uart))?;
    let registers = *node.regions().ok()?.first()?;
    let intid = gic_node(tree)
        .ok()
        .and_then(|gic| node.interrupts(gic).ok());
    let intid = intid.and_then(|all| all.first().map(|interrupt| interrupt.intid));
    let clock = node
        .property("clocks")
        .and_then(|clocks| clocks.cells().ok()?.next());
    let clock_hz = clock.and_then(|phandle| {
        tree.by_phandle(phandle)?
            .u32("clock-frequency")
            .ok()
            .flatten()
    });
    Some(Console {
        path: node.path(),
        registers,
        intid,
        clock_hz,
    })
}
