//! Pins: `gpios` of a guest, and what is left for a guest that has the GPIO controller itself.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use super::devices::{self, Device};
use super::{GuestConfig, pinctrl};
use crate::board::{Board, gic_node};
use crate::dt::{DeviceTree, Node, Property};
use crate::machine::RAM_BASE;
use crate::mediate::gpio::{ALL, BYTES, PINS, Share};
use crate::refusal::Refusal;

/// Controllers whose registers [`crate::mediate::gpio`] knows.
const COMPATIBLE: &str = "brcm,bcm2711-gpio";

/// The board's GPIO controller, if it is one that can be split.
pub(super) fn find(tree: &DeviceTree<'_>) -> Option<Device> {
    let node = tree
        .nodes()
        .find(|node| node.is_enabled() && node.is_compatible(COMPATIBLE))?;
    let mut device = devices::describe(node, gic_node(tree).ok()?).ok()?;
    let registers = device.regions.first_mut()?;
    registers.size = registers.size.max(u64::from(BYTES));
    // They name pins that the guest has not got, or nodes.
    device
        .properties
        .retain(|(name, _)| !matches!(&**name, "gpio-ranges" | "gpio-line-names"));
    Some(device)
}

/// `gpios`: the pins, one bit each.
pub(super) fn read(node: Node<'_>, problems: &mut Vec<Refusal>) -> Share {
    let Some(property) = node.property("gpios") else {
        return Share::default();
    };
    let mut pins = 0_u64;
    match property.cells() {
        Ok(cells) => {
            if property.value.is_empty() {
                problems.push(refuse(property, "names no pin", "list pins, or remove it"));
            }
            for pin in cells {
                let bit = 1_u64.checked_shl(pin).unwrap_or(0) & ALL;
                if bit == 0 {
                    let fix = format!("choose from 0 to {}", PINS.saturating_sub(1));
                    problems.push(refuse(property, format!("{pin} is no pin"), fix));
                } else if pins & bit != 0 {
                    let problem = format!("pin {pin} is listed twice");
                    problems.push(refuse(property, problem, "list it once"));
                }
                pins |= bit;
            }
        }
        Err(refusal) => problems.push(refusal),
    }
    Share::new(pins)
}

fn refuse(
    property: Property<'_>,
    problem: impl core::fmt::Display,
    fix: impl core::fmt::Display,
) -> Refusal {
    property.refuse().problem(problem).fix(fix)
}

/// Gives each guest with `gpios` the controller as a device with these pins, and a guest that has the
/// controller itself the pins that nobody else has.
pub(super) fn divide(
    guests: &mut [(GuestConfig, Node<'_>)],
    controller: Option<&Device>,
    board: &Board,
    problems: &mut Vec<Refusal>,
) {
    let console = board.console.iter().flat_map(|console| &console.pins);
    let kept = console.flat_map(|pins| &pins.pins).fold(0, |kept, pin| {
        kept | 1_u64.wrapping_shl(u32::from(pin.number))
    });
    let mut taken = kept;
    for index in 0..guests.len() {
        let (before, rest) = guests.split_at_mut(index);
        let Some((guest, node)) = rest.first_mut() else {
            return;
        };
        let Some(property) = node.property("gpios") else {
            continue;
        };
        let Some(controller) = controller else {
            let problem =
                "needs a GPIO controller that can be split by pins, which this board has not";
            problems.push(refuse(property, problem, "remove it"));
            continue;
        };
        if guest
            .devices
            .iter()
            .any(|device| device.path == controller.path)
        {
            let problem = format!(
                "stands beside {}, with which the guest has every pin that no other has",
                controller.path
            );
            problems.push(refuse(property, problem, "remove one of the two"));
            continue;
        }
        let page = controller
            .regions
            .first()
            .map_or(0, |region| region.start.0);
        let ram = RAM_BASE.0..RAM_BASE.0.saturating_add(guest.memory.max_bytes);
        if !guest.is_identity() && ram.contains(&page) {
            let problem = format!(
                "needs {} at {page:#x}, where the guest's RAM is",
                controller.path
            );
            problems.push(refuse(property, problem, "lower memory-max-mib"));
        }
        let pins = guest.mediated.gpio.pins();
        for pin in (0..PINS).filter(|pin| pins & taken & 1_u64.wrapping_shl(u32::from(*pin)) != 0) {
            let bit = 1_u64.wrapping_shl(u32::from(pin));
            let holder = before
                .iter()
                .find(|(other, _)| other.mediated.gpio.pins() & bit != 0);
            let problem = match holder {
                Some((other, _)) if kept & bit == 0 => {
                    format!("pin {pin} is already given to {}", other.node)
                }
                _ => format!("pin {pin} carries Ballast's console"),
            };
            problems.push(refuse(property, problem, "choose another pin"));
        }
        taken |= pins;
        pinctrl::allow_own_functions(guest, *node, &controller.path);
        guest.devices.push(Device {
            properties: with_reserved_pins(controller, &guest.mediated.gpio),
            ..controller.clone()
        });
    }
    let Some(controller) = controller else { return };
    let without = |(_, node): &&mut (GuestConfig, Node<'_>)| node.property("gpios").is_none();
    for (guest, _) in guests.iter_mut().filter(without) {
        let own = guest
            .devices
            .iter_mut()
            .find(|device| device.path == controller.path);
        let Some(device) = own.filter(|_| taken != 0) else {
            continue;
        };
        device.regions.clone_from(&controller.regions);
        let mut share = Share::new(!taken);
        share.allow_all();
        device.properties = if guest.primary {
            // Its tree has the board's node, to which this is added.
            alloc::vec![reserved_pins(&share)]
        } else {
            with_reserved_pins(controller, &share)
        };
        guest.mediated.gpio = share;
    }
    pinctrl::give_groups(guests, &controller.path, kept, problems);
}

/// The controller's properties with `gpio-reserved-ranges`: the pins that the guest has not got.
fn with_reserved_pins(controller: &Device, share: &Share) -> Vec<(String, Vec<u8>)> {
    let mut properties = controller.properties.clone();
    properties.retain(|(name, _)| name != RESERVED);
    properties.push(reserved_pins(share));
    properties
}

/// Property of Linux's GPIO binding (`gpio.txt`): pins that the controller's driver must leave alone.
const RESERVED: &str = "gpio-reserved-ranges";

/// [`RESERVED`] for a guest with these pins: (first, count) pairs.
fn reserved_pins(share: &Share) -> (String, Vec<u8>) {
    let mut ranges: Vec<u32> = Vec::new();
    let mut before = false;
    for pin in 0..PINS {
        let is_reserved = share.pins() & 1_u64.wrapping_shl(u32::from(pin)) == 0;
        match ranges.last_mut() {
            Some(count) if is_reserved && before => *count = count.saturating_add(1),
            _ if is_reserved => ranges.extend([u32::from(pin), 1]),
            _ => {}
        }
        before = is_reserved;
    }
    let value = ranges.iter().flat_map(|cell| cell.to_be_bytes());
    (RESERVED.to_string(), value.collect())
}
