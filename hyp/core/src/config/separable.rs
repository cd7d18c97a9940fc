//! What cannot be divided between two holders, and is refused whoever the other is.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::GuestConfig;
use super::devices::Device;
use super::sharing::Guests;
use crate::addr::PaRange;
use crate::board::Board;
use crate::dt::Node;
use crate::refusal::Refusal;

/// Refuses every device that cannot be divided from Ballast's console or from a device of another guest.
pub(super) fn check(
    guests: &Guests<'_>,
    gpio_path: Option<&str>,
    board: &Board,
    problems: &mut Vec<Refusal>,
) {
    for (index, (guest, node)) in guests.iter().enumerate() {
        let before = guests.get(..index).unwrap_or(&[]);
        check_guest(guest, *node, before, gpio_path, board, problems);
    }
}

/// One guest's devices against Ballast's console and those of the guests `before` it.
fn check_guest(
    guest: &GuestConfig,
    node: Node<'_>,
    before: &Guests<'_>,
    gpio_path: Option<&str>,
    board: &Board,
    problems: &mut Vec<Refusal>,
) {
    for device in &guest.devices {
        if let Some(console) = &board.console {
            let registers = [console.registers];
            let other = Other {
                path: &console.path,
                holder: "Ballast",
                regions: &registers,
            };
            let shared = device
                .interrupts
                .iter()
                .find(|interrupt| Some(interrupt.intid) == console.intid && !interrupt.level);
            problems.extend(other.collide(device, node, shared.map(|one| one.intid)));
        }
        for (holder, other_node) in before {
            for other in &holder.devices {
                // Its pins have been divided, unless both ask for all of it.
                let is_split = gpio_path == Some(&*device.path)
                    && (node.property("gpios").is_some() || other_node.property("gpios").is_some());
                if is_split && device.path == other.path {
                    continue;
                }
                let shared = device.interrupts.iter().find(|one| {
                    let mut theirs = other.interrupts.iter();
                    theirs.any(|two| two.intid == one.intid && !(one.level && two.level))
                });
                let named = Other {
                    path: &other.path,
                    holder: &holder.node,
                    regions: &other.regions,
                };
                // Said of the guest that named the device, if only one of the two did.
                let names = |node: Node<'_>| node.property("devices").is_some();
                let collision = if names(node) || !names(*other_node) {
                    named.collide(device, node, shared.map(|one| one.intid))
                } else {
                    let named = Other {
                        path: &device.path,
                        holder: &guest.node,
                        regions: &device.regions,
                    };
                    named.collide(other, *other_node, shared.map(|one| one.intid))
                };
                problems.extend(collision);
            }
        }
    }
}

/// What a device may collide with.
struct Other<'a> {
    path: &'a str,
    holder: &'a str,
    regions: &'a [PaRange],
}

impl Other<'_> {
    /// Why `device`, named by the guest `node`, cannot be divided from this; `edge` is an interrupt of
    /// both that is not level-sensitive.
    fn collide(&self, device: &Device, node: Node<'_>, edge: Option<u32>) -> Option<Refusal> {
        let Self { path, holder, .. } = self;
        if device.path == self.path {
            let problem = format!("is already given to {holder}");
            return Some(refuse(node, &device.path, problem, "give it to one guest"));
        }
        let overlaps = |region: &PaRange| self.regions.iter().any(|other| other.overlaps(*region));
        let problem = if device.regions.iter().any(overlaps) {
            "their registers overlap, and how such a block is shared is not known".into()
        } else {
            let intid = edge?;
            format!("they share interrupt {intid}, and only level-sensitive ones can be divided")
        };
        let problem = format!("cannot be separated from {path} of {holder}: {problem}");
        let fix = "give both to one guest, or only one of them away";
        Some(refuse(node, &device.path, problem, fix))
    }
}

/// A refusal of what guest `node` says of the device at `path`.
pub(super) fn refuse(node: Node<'_>, path: &str, problem: String, fix: &str) -> Refusal {
    let property = ["devices", "gpios"]
        .into_iter()
        .filter_map(|name| node.property(name))
        .find(|property| {
            property.name == "gpios" || property.strings().is_ok_and(|all| all.contains(&path))
        });
    let refusal = match property {
        Some(property) if property.name == "devices" => {
            property.refuse().value(format!("\"{path}\""))
        }
        Some(property) => property.refuse(),
        None => node.refuse(),
    };
    refusal.problem(problem).fix(fix)
}
