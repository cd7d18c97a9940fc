//! Groups of pins: what a device's `pinctrl` properties say of the pins it comes out at (Linux's
//! `pinctrl-bindings.txt`, `brcm,bcm2835-gpio.txt`).
//!
//! A device whose pins are its guest's is routed by the guest: the groups go into its tree, and their alternate
//! functions may be chosen. One whose pins are another's would be cut off at any time by that other, or come out
//! nowhere, and is refused.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use super::GuestConfig;
use super::separable;
use super::sharing::Guests;
use crate::dt::Node;
use crate::mediate::gpio::{ALL, PINS, Share};
use crate::refusal::Refusal;

/// A group of pins as it stands in a guest's tree, below its GPIO controller.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PinGroup {
    /// Name of the node.
    pub name: String,
    /// What devices' `pinctrl-0` and so on call it; none of a part of a group.
    pub phandle: Option<u32>,
    /// Its properties but for the phandle.
    pub properties: Vec<(String, Vec<u8>)>,
    /// Parts with a function of their own.
    pub parts: Vec<PinGroup>,
}

/// The first phandle of a group in a guest's tree that Ballast writes.
const FIRST_PHANDLE: u32 = 0x400;

/// One pin of a group, and its function-select value if the group gives it one.
type Pin = (u8, Option<u8>);

/// `pinctrl-0`, `pinctrl-1`, ...
fn is_state(name: &str) -> bool {
    name.strip_prefix("pinctrl-")
        .is_some_and(|number| number.parse::<u8>().is_ok())
}

/// The groups of `device`, by property, that belong to the controller at `gpio_path`.
fn states<'t>(device: Node<'t>, gpio_path: &str) -> Vec<(&'t str, Vec<Node<'t>>)> {
    let is_its = |group: &Node<'t>| {
        group
            .parent()
            .is_some_and(|controller| controller.path() == gpio_path)
    };
    let tree = device.tree();
    let states = device
        .properties()
        .filter(|property| is_state(property.name));
    let groups = states.filter_map(|property| {
        let groups = property.cells().ok()?;
        let groups: Vec<Node<'t>> = groups
            .filter_map(|phandle| tree.by_phandle(phandle))
            .filter(is_its)
            .collect();
        (!groups.is_empty()).then_some((property.name, groups))
    });
    groups.collect()
}

/// The pins of a group, those of its parts included.
fn pins(group: Node<'_>) -> Vec<Pin> {
    let mut found = pins_of_part(group);
    group
        .children()
        .for_each(|part| found.extend(pins_of_part(part)));
    found
}

/// The pins that a node names, in the BCM2835's own words or in the generic ones.
fn pins_of_part(part: Node<'_>) -> Vec<Pin> {
    let cells = |name| -> Vec<u32> {
        let cells = part.property(name).and_then(|list| list.cells().ok());
        cells.into_iter().flatten().collect()
    };
    let functions = cells("brcm,function");
    let function = |place: usize| {
        // One value serves all pins of the group.
        let function = functions.get(place).or(functions.first())?;
        u8::try_from(*function).ok().filter(|value| *value <= 7)
    };
    let own = cells("brcm,pins");
    let own = own.iter().enumerate();
    let mut found: Vec<Pin> = own
        .filter_map(|(place, pin)| Some((u8::try_from(*pin).ok()?, function(place))))
        .collect();
    let function = match part.str("function") {
        // Function-select values (BCM2711 ARM Peripherals, table 5-2).
        Ok(Some("alt0")) => Some(4),
        Ok(Some("alt1")) => Some(5),
        Ok(Some("alt2")) => Some(6),
        Ok(Some("alt3")) => Some(7),
        Ok(Some("alt4")) => Some(3),
        Ok(Some("alt5")) => Some(2),
        _ => None,
    };
    if let Some(names) = part.property("pins").and_then(|pins| pins.strings().ok()) {
        let numbers = names
            .iter()
            .filter_map(|name| name.strip_prefix("gpio")?.parse().ok());
        found.extend(numbers.map(|pin| (pin, function)));
    }
    found.retain(|(pin, _)| *pin < PINS);
    found
}

/// Lets the guest choose those alternate functions of its pins that connect them to its own devices.
pub(super) fn allow_own_functions(guest: &mut GuestConfig, node: Node<'_>, gpio_path: &str) {
    let devices = guest.devices.iter();
    let nodes = devices.filter_map(|device| node.tree().find(&device.path));
    let groups = nodes.flat_map(|device| states(device, gpio_path));
    let pins = groups.flat_map(|(_, groups)| groups.into_iter().flat_map(pins));
    for (pin, function) in pins {
        if let Some(function) = function {
            guest.mediated.gpio.allow(pin, function);
        }
    }
}

/// Gives each device its groups, once every guest's pins are known, or refuses it; `kept` are Ballast's pins.
/// A primary guest has them in the board's tree already.
pub(super) fn give_groups(
    guests: &mut Guests<'_>,
    gpio_path: &str,
    kept: u64,
    problems: &mut Vec<Refusal>,
) {
    let holders: Vec<(String, Share)> = guests
        .iter()
        .map(|(guest, _)| (guest.node.clone(), guest.mediated.gpio))
        .collect();
    for (guest, node) in guests.iter_mut().filter(|(guest, _)| !guest.primary) {
        let mut groups: Vec<(Node<'_>, PinGroup)> = Vec::new();
        let mut routed = Vec::new();
        for device in &mut guest.devices {
            let Some(board_node) = node.tree().find(&device.path) else {
                continue;
            };
            let states = states(board_node, gpio_path);
            let own = states.iter().flat_map(|(_, groups)| groups);
            let needed = own
                .flat_map(|group| pins(*group))
                .fold(0, |needed, (pin, _)| needed | bit(pin));
            let missing = needed & !guest.mediated.gpio.pins();
            if missing != 0 {
                let refusal = refuse_pins(*node, &device.path, needed, missing, kept, &holders);
                problems.push(refusal);
                continue;
            }
            for (name, own) in states {
                let phandles: Vec<u8> = own
                    .into_iter()
                    .flat_map(|group| phandle(&mut groups, group).to_be_bytes())
                    .collect();
                routed.push((device.path.clone(), name.to_string(), phandles));
            }
            if needed != 0
                && let Some(names) = board_node.property("pinctrl-names")
            {
                let names = (
                    device.path.clone(),
                    names.name.to_string(),
                    names.value.to_vec(),
                );
                routed.push(names);
            }
        }
        for (path, name, value) in routed {
            let mut devices = guest.devices.iter_mut();
            if let Some(device) = devices.find(|device| device.path == path) {
                device.properties.push((name, value));
            }
        }
        let mut devices = guest.devices.iter_mut();
        if let Some(controller) = devices.find(|device| device.path == gpio_path) {
            controller.pin_groups = groups.into_iter().map(|(_, group)| group).collect();
        }
    }
}

/// The phandle of the copy of `group`, which is made if there is none.
fn phandle<'t>(groups: &mut Vec<(Node<'t>, PinGroup)>, group: Node<'t>) -> u32 {
    let path = group.path();
    let place = groups.iter().position(|(other, _)| other.path() == path);
    let place = place.unwrap_or(groups.len());
    let phandle =
        u32::try_from(place).map_or(u32::MAX, |place| place.saturating_add(FIRST_PHANDLE));
    if place == groups.len() {
        groups.push((group, copy(group, Some(phandle))));
    }
    phandle
}

fn copy(node: Node<'_>, phandle: Option<u32>) -> PinGroup {
    const OWN: [&str; 3] = ["phandle", "linux,phandle", "name"];
    let properties = node
        .properties()
        .filter(|property| !OWN.contains(&property.name))
        .map(|property| (property.name.to_string(), property.value.to_vec()));
    // A group's parts have no parts.
    let parts = match phandle {
        Some(_) => node.children().map(|part| copy(part, None)).collect(),
        None => Vec::new(),
    };
    PinGroup {
        name: node.name().to_string(),
        phandle,
        properties: properties.collect(),
        parts,
    }
}

const fn bit(pin: u8) -> u64 {
    1_u64.wrapping_shl(pin as u32) & ALL
}

/// Why the device at `path` cannot be routed: it comes out at the pins `needed`, and those of `missing` are not
/// its guest's.
fn refuse_pins(
    node: Node<'_>,
    path: &str,
    needed: u64,
    missing: u64,
    kept: u64,
    holders: &[(String, Share)],
) -> Refusal {
    let list = |pins: u64, between: &str| {
        let pins = (0..PINS).filter(|pin| pins & bit(*pin) != 0);
        let pins: Vec<String> = pins.map(|pin| format!("{pin}")).collect();
        pins.join(between)
    };
    let mut whose = Vec::new();
    if missing & kept != 0 {
        whose.push(format!(
            "{} of Ballast's console",
            list(missing & kept, ", ")
        ));
    }
    for (name, share) in holders {
        let theirs = missing & !kept & share.pins();
        if theirs != 0 {
            whose.push(format!("{} of {name}", list(theirs, ", ")));
        }
    }
    let whose = if whose.is_empty() {
        String::new()
    } else {
        format!(" ({})", whose.join(", "))
    };
    let problem = format!(
        "comes out at pins {} by its pinctrl properties, and {} not this guest's{whose}",
        list(needed, ", "),
        match missing.count_ones() {
            1 => format!("{} is", list(missing, ", ")),
            _ => format!("{} are", list(missing, ", ")),
        },
    );
    let fix = if missing & kept == 0 {
        format!(
            "add {} to gpios, or route the device to other pins by an overlay",
            list(missing, " ")
        )
    } else {
        "route the device or the console to other pins by an overlay, or remove it".to_string()
    };
    separable::refuse(node, path, problem, &fix)
}
