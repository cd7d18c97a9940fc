//! The partitions: what the `/ballast` node, merged into the board's tree by an overlay, asks for.
//!
//! This module judges what the text says; [`crate::plan`] judges it against the board's memory and
//! cores and against the files in the boot archive. All mistakes are collected, not only the first, and every
//! one is a [`Refusal`]. `docs/binding.md` is the binding for users.

mod amounts;
mod channel;
mod devices;
mod guest;
mod known;
mod names;
mod pinctrl;
mod pins;
mod policy;
mod primary;
mod reader;
mod scrub;
mod separable;
mod sharing;
#[cfg(test)]
mod tests;
mod trust;

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

pub(crate) use channel::alignment as channel_alignment;
pub use channel::{Access, ChannelConfig};
pub use devices::Device;
pub(crate) use devices::neighbours;
pub(crate) use known::is_board_power;
pub use pinctrl::PinGroup;
pub use policy::PolicyConfig;
pub(crate) use primary::{is_no_device, is_pmu};
pub use scrub::ScrubConfig;
pub use sharing::device_pages;
pub(crate) use sharing::notes;

use crate::addr::{Ipa, IpaRange};
use crate::board::Board;
use crate::dt::{DeviceTree, Node};
use crate::image::{BOARD_DTB_SLOT_BYTES, DTB_SLOT_BYTES};
use crate::limits::MAX_GUESTS;
use crate::machine::Machine;
use crate::mediate::Mediated;
use crate::refusal::Refusal;
use crate::sort;

/// Everything `/ballast` says.
#[derive(Clone, Debug, Default)]
pub struct Partitions {
    /// The guests, by number.
    pub guests: Vec<GuestConfig>,
    /// Memory that guests share, by name: a channel's number is its place here.
    pub channels: Vec<ChannelConfig>,
    /// How free memory is made ready.
    pub scrub: ScrubConfig,
    /// Who decides how much memory guests have.
    pub policy: PolicyConfig,
}

/// One guest, as configured. Sizes are multiples of 2 MiB.
#[derive(Clone, Debug)]
pub struct GuestConfig {
    /// Console number and order: 1 to 9.
    pub number: u8,
    /// The node's name without unit address.
    pub name: String,
    /// Path of the node, for messages.
    pub node: String,
    /// Name of the kernel in the boot archive.
    pub kernel: String,
    /// Name of the ramdisk in the boot archive.
    pub ramdisk: Option<String>,
    /// Command line.
    pub bootargs: String,
    /// RAM.
    pub memory: MemoryConfig,
    /// Cores.
    pub cpus: CpuConfig,
    /// Weight when memory or cores are contended: 1 to 10000.
    pub shares: u32,
    /// Devices of the board.
    pub devices: Vec<Device>,
    /// Load the kernel here, as raw bytes.
    pub load_address: Option<Ipa>,
    /// Entry of a raw kernel.
    pub entry: Option<Ipa>,
    /// Where the device tree goes.
    pub dtb_address: Option<Ipa>,
    /// Further banks of RAM: whole pages.
    pub extra_ram: Vec<IpaRange>,
    /// Windows that read as zero and ignore writes: whole pages.
    pub raz_windows: Vec<IpaRange>,
    /// Its memory and cores never change while it runs.
    pub realtime: bool,
    /// Its cores scrub free memory while they wait for interrupts.
    pub scrub_when_idle: bool,
    /// It may do what the monitor does, by hypercall.
    pub control: bool,
    /// It tests the board, which it has to itself: facts of EL2's, patterns in free RAM, the cores' PMUs.
    pub self_test: bool,
    /// EL2 forgets the branch history with each of its exits.
    pub harden: bool,
    /// It sees the board itself: the board's device tree and every device nobody else was given.
    pub primary: bool,
    /// `dma = "trusted"`: its devices may write any memory of the board.
    pub dma_trusted: bool,
    /// `board = "trusted"`: its devices may have power over the whole board.
    pub board_trusted: bool,
    /// What its own reset and power-off reset and turn off.
    pub on_reset: OnReset,
    /// Where it has what Ballast emulates.
    pub machine: Machine,
    /// What it shares with other holders, page by page, pin by pin.
    pub mediated: Mediated,
}

impl GuestConfig {
    /// Whether its RAM lies where the board has it (IPA = PA), so that devices which do DMA and know
    /// nothing of stage 2 reach what the guest means.
    #[must_use]
    pub const fn is_identity(&self) -> bool {
        self.primary || self.dma_trusted
    }

    /// The device that keeps the guest from being started again, once it was: one that does DMA and that
    /// nobody knows how to stop.
    #[must_use]
    pub fn unstoppable(&self) -> Option<&Device> {
        let mut devices = self.devices.iter();
        devices.find(|device| device.is_dma_master && device.quiesce.is_none())
    }

    /// With which of its devices the guest could reach what is not its own, if with any.
    #[must_use]
    pub fn trust(&self) -> Option<String> {
        let count =
            |is: fn(&Device) -> bool| self.devices.iter().filter(|device| is(device)).count();
        let masters = count(|device| device.is_dma_master);
        let powers = count(|device| device.has_board_power);
        let text = match (masters, powers) {
            (0, 0) => return None,
            (_, 0) => format!("{masters} devices that may write any memory"),
            (0, _) => format!("{powers} devices with power over the board"),
            _ => format!(
                "{masters} devices that may write any memory and {powers} with power over the board"
            ),
        };
        Some(format!(
            "{} is trusted and could break isolation: it has {text}",
            self.name
        ))
    }

    /// Bytes kept in its memory for its device tree.
    #[must_use]
    pub const fn dtb_bytes(&self) -> u64 {
        if self.primary {
            BOARD_DTB_SLOT_BYTES
        } else {
            DTB_SLOT_BYTES
        }
    }
}

/// What a guest's reset and power-off (PSCI, watchdog) act on: `on-reset`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum OnReset {
    /// The guest alone.
    #[default]
    Guest,
    /// The board, with all guests.
    Board,
}

/// RAM of a guest, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemoryConfig {
    /// At boot (`memory-mib`).
    pub boot_bytes: u64,
    /// Never taken below (`memory-min-mib`).
    pub min_bytes: u64,
    /// Never given beyond (`memory-max-mib`); the size of the guest's RAM in its device tree.
    pub max_bytes: u64,
}

/// Cores of a guest.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CpuConfig {
    /// At boot (`cpus`).
    pub boot: u32,
    /// Never taken below (`cpus-min`).
    pub min: u32,
    /// Never given beyond (`cpus-max`); the number of vCPUs in its device tree.
    pub max: u32,
    /// Indices into [`Board::cores`] to start on, one a vCPU (`cpu-list`); chosen by Ballast if
    /// empty.
    pub list: Vec<u32>,
}

/// `compatible` of `/ballast`.
const PARTITIONS_COMPATIBLE: &str = "ballast,partitions";
/// What `/ballast` may have beside guests.
const GLOBAL_PROPERTIES: [names::Known; 7] = [
    names::Known::now("compatible"),
    names::Known::now("#address-cells"),
    names::Known::now("#size-cells"),
    names::Known::now("scrub-at-boot"),
    names::Known::now("scrub-mib-s"),
    names::Known::now("policy"),
    names::Known::now("idle-tax-percent"),
];

impl Partitions {
    /// Reads the partitions out of `tree`, which describes `board`.
    ///
    /// # Errors
    /// Every mistake found, at least one.
    pub fn parse(tree: &DeviceTree<'_>, board: &Board) -> Result<Self, Vec<Refusal>> {
        let root = tree.root().child("ballast").ok_or_else(|| {
            let problem = "is missing, so there are no guests";
            alloc::vec![
                Refusal::new("/ballast")
                    .problem(problem)
                    .fix("merge a partitions overlay into the device tree")
            ]
        })?;
        let mut problems = Vec::new();
        names::check(root, &GLOBAL_PROPERTIES, &mut problems);
        check_header(root, &mut problems);

        let mut guests = Vec::new();
        let mut channels = Vec::new();
        let mut is_empty = true;
        for node in root.children().filter(|node| node.is_enabled()) {
            if channel::is_channel(node) {
                channels.extend(channel::parse(node, &mut problems).map(|channel| (channel, node)));
                continue;
            }
            is_empty = false;
            if let Some(guest) = guest::parse(node, board, &mut problems) {
                guests.push((guest, node));
            }
        }
        if is_empty {
            problems.push(
                root.refuse()
                    .problem("has no guests")
                    .fix("add a node with compatible = \"ballast,guest\""),
            );
        }
        // Overlay merging reverses new nodes: the number alone gives the order.
        sort::by_key(&mut guests, |(guest, _)| guest.number);
        check_distinct(&guests, &mut problems);
        check_self_test(&guests, &mut problems);
        primary::complete(&mut guests, board, &mut problems);
        sharing::divide(&mut guests, tree, board, &mut problems);
        channel::check(&mut channels, &guests, &mut problems);
        let policy = policy::read(root, &mut problems);
        let scrub = scrub::read(root, &mut problems);
        if !problems.is_empty() {
            return Err(problems);
        }
        Ok(Self {
            guests: guests.into_iter().map(|(guest, _)| guest).collect(),
            channels: channels.into_iter().map(|(channel, _)| channel).collect(),
            scrub,
            policy,
        })
    }
}

fn check_header(root: Node<'_>, problems: &mut Vec<Refusal>) {
    if !root.is_compatible(PARTITIONS_COMPATIBLE) {
        let refusal = root
            .property("compatible")
            .map_or_else(|| root.refuse().property("compatible"), |p| p.refuse());
        let problem = format!("does not name \"{PARTITIONS_COMPATIBLE}\"");
        problems.push(
            refusal
                .problem(problem)
                .fix(format!("write compatible = \"{PARTITIONS_COMPATIBLE}\"")),
        );
    }
    for (name, expected) in [("#address-cells", 1), ("#size-cells", 0)] {
        match root
            .require(name)
            .and_then(|property| Ok((property, property.as_u32()?)))
        {
            Ok((_, value)) if value == expected => {}
            Ok((property, _)) => {
                let fix = format!("write {name} = <{expected}>");
                problems.push(
                    property
                        .refuse()
                        .problem("does not fit the guests' reg")
                        .fix(fix),
                );
            }
            Err(refusal) => problems.push(refusal.fix(format!("write {name} = <{expected}>"))),
        }
    }
}

/// What tests the board reaches beyond itself, so nobody else is there.
fn check_self_test(guests: &[(GuestConfig, Node<'_>)], problems: &mut Vec<Refusal>) {
    for (guest, node) in guests.iter().filter(|(guest, _)| guest.self_test) {
        let mut others = guests
            .iter()
            .filter(|(other, _)| other.number != guest.number);
        let problem = if let Some((other, _)) = others.next() {
            format!(
                "needs the board to itself, and {} is there, too",
                other.node
            )
        } else if guest.primary {
            "is of no use to a guest that sees the board itself".into()
        } else {
            continue;
        };
        let refusal = node.refuse().property("self-test").problem(problem);
        problems.push(refusal.fix("remove it: it is for a card that does nothing else"));
    }
}

/// Numbers and names stand for one guest each.
fn check_distinct(guests: &[(GuestConfig, Node<'_>)], problems: &mut Vec<Refusal>) {
    for (index, (guest, node)) in guests.iter().enumerate() {
        for (other, _) in guests.iter().take(index) {
            if other.number == guest.number {
                let refusal = Refusal::new(&guest.node)
                    .property("reg")
                    .value(format!("<{}>", guest.number));
                let fix = format!("choose another number from 1 to {MAX_GUESTS}");
                problems.push(
                    refusal
                        .problem(format!("is also the number of {}", other.node))
                        .fix(fix),
                );
            }
            if other.name == guest.name {
                let problem = format!("has the same name as {}", other.node);
                problems.push(
                    node.refuse()
                        .problem(problem)
                        .fix("give each guest a name of its own"),
                );
            }
        }
    }
}
