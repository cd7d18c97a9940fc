//! How the board is turned off and reset. It stays Ballast's: a guest that had it would end the others.

use super::read_psci;
use crate::addr::PaRange;
use crate::dt::{DeviceTree, Node};

/// What turns the board off and resets it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Power {
    /// SYSTEM_OFF and SYSTEM_RESET of firmware's PSCI, called by SMC.
    Psci,
    /// The power management block of a BCM2835 to BCM2711: its watchdog resets the board, and firmware then
    /// starts it again or, told so in PM_RSTS, does not.
    Pm(PaRange),
}

/// What the tree has. Needs nothing else of the board, so that a board that is refused can be turned off.
#[must_use]
pub fn find_power(tree: &DeviceTree<'_>) -> Option<Power> {
    const PM: [&str; 3] = ["brcm,bcm2711-pm", "brcm,bcm2835-pm", "brcm,bcm2835-pm-wdt"];
    let psci = read_psci(tree).ok().flatten();
    if psci.is_some_and(|psci| psci.smc && psci.standard) {
        return Some(Power::Psci);
    }
    let is_pm = |node: &Node<'_>| PM.iter().any(|name| node.is_compatible(name));
    let node = tree.nodes().find(is_pm)?;
    let registers = node.regions().ok()?.first().copied()?;
    // Up to PM_WDOG.
    (registers.size >= 0x28).then_some(Power::Pm(registers))
}
