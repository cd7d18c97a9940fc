//! Memory that two guests share: nodes of their own beside the guests'.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use ballast_abi::device_tree::CHANNEL_COMPATIBLE;

use super::GuestConfig;
use super::guest::name_problem;
use super::names::{self, Known};
use super::reader::Reader;
use crate::addr::{BLOCK_SIZE, Ipa, MIB, PAGE_SIZE};
use crate::dt::Node;
use crate::limits::{MAX_CHANNELS, MAX_GUESTS};
use crate::machine::IPA_LIMIT;
use crate::refusal::Refusal;
use crate::sort;

/// Memory that two guests share, as configured.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ChannelConfig {
    /// The node's name, and the label in the guests' device trees.
    pub name: String,
    /// Path of the node, for messages.
    pub node: String,
    /// How much: whole pages, up to [`MAX_BYTES`].
    pub bytes: u64,
    /// The guests, by number, and what each may do.
    pub ends: [(u8, Access); 2],
    /// Where guests have it whose RAM is not where the board has it; chosen by Ballast if missing.
    pub address: Option<Ipa>,
}

/// What a guest may do with shared memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Read and write.
    ReadWrite,
    /// Read: a write is an abort.
    ReadOnly,
}

/// The most that one channel shares.
pub const MAX_BYTES: u64 = 64 * MIB;

pub(super) const PROPERTIES: [Known; 6] = [
    Known::now("compatible"),
    Known::now("status"),
    Known::now("size"),
    Known::now("guests"),
    Known::now("access"),
    Known::now("address"),
];

/// Whether the node is shared memory, and not a guest.
pub(super) fn is_channel(node: Node<'_>) -> bool {
    node.is_compatible(CHANNEL_COMPATIBLE)
}

/// How a channel that begins and ends nowhere else is aligned, in the guests and on the board: from 2 MiB on in whole
/// blocks, which keeps both translations short.
pub(crate) const fn alignment(bytes: u64) -> u64 {
    if bytes < BLOCK_SIZE {
        PAGE_SIZE
    } else {
        BLOCK_SIZE
    }
}

/// Reads the channel at `node`, which [`is_channel`]; `None` if something is missing or wrong.
pub(super) fn parse(node: Node<'_>, problems: &mut Vec<Refusal>) -> Option<ChannelConfig> {
    names::check(node, &PROPERTIES, problems);
    let mut reader = Reader { node, problems };
    for child in node.children() {
        let refusal = child.refuse().problem("shared memory has no child nodes");
        reader.problems.push(refusal.fix("remove it"));
    }
    let name = node.name();
    if let Some(problem) = name_problem(name, "channel") {
        let fix = format!("call it {}", node.base_name());
        let fix = if name.contains('@') {
            fix
        } else {
            "rename it".into()
        };
        reader
            .problems
            .push(node.refuse().problem(problem).fix(fix));
    }
    let bytes = read_size(&mut reader);
    let guests = read_guests(&mut reader);
    let access = read_access(&mut reader);
    let address = reader.address("address");
    let (bytes, [one, two], [one_may, two_may]) = (bytes?, guests?, access?);
    check_address(&mut reader, address, bytes);
    Some(ChannelConfig {
        name: name.to_string(),
        node: node.path(),
        bytes,
        ends: [(one, one_may), (two, two_may)],
        address,
    })
}

fn read_size(reader: &mut Reader<'_, '_>) -> Option<u64> {
    let property = reader.node.require("size");
    let property =
        property.map_err(|refusal| refusal.fix("write size = <N>, the shared memory in bytes"));
    let property = reader.keep(property)?;
    let bytes = property.as_u64();
    let bytes = reader.keep(bytes)?;
    if bytes == 0 || bytes > MAX_BYTES || !bytes.is_multiple_of(PAGE_SIZE) {
        let up = bytes.clamp(1, MAX_BYTES).next_multiple_of(PAGE_SIZE);
        let problem = format!("is not whole pages of {PAGE_SIZE} bytes, up to {MAX_BYTES:#x}");
        reader.refuse(property, problem, format!("write size = <{up:#x}>"));
        return None;
    }
    Some(bytes)
}

fn read_guests(reader: &mut Reader<'_, '_>) -> Option<[u8; 2]> {
    const FIX: &str = "write guests = <A B>, the numbers of two guests";
    let property = reader.node.require("guests");
    let property = property.map_err(|refusal| refusal.fix(FIX));
    let property = reader.keep(property)?;
    let cells = property.cells();
    let cells: Vec<u32> = reader.keep(cells)?.collect();
    let [one, two] = *cells.as_slice() else {
        reader.refuse(property, "does not name two guests", FIX);
        return None;
    };
    if one == two {
        reader.refuse(property, "names one guest twice", FIX);
        return None;
    }
    let number = |cell: u32| u8::try_from(cell).ok();
    let (Some(one), Some(two)) = (number(one), number(two)) else {
        reader.refuse(
            property,
            "names a guest that there is not",
            format!("guests have numbers from 1 to {MAX_GUESTS}"),
        );
        return None;
    };
    Some([one, two])
}

fn read_access(reader: &mut Reader<'_, '_>) -> Option<[Access; 2]> {
    const FIX: &str =
        "write access = \"read-write\", \"read-only\", what the first and the second guest may do";
    let property = reader.node.require("access");
    let property = property.map_err(|refusal| refusal.fix(FIX));
    let property = reader.keep(property)?;
    let words = property.strings();
    let words = reader.keep(words)?;
    let access = |word: &str| match word {
        "read-write" => Some(Access::ReadWrite),
        "read-only" => Some(Access::ReadOnly),
        _ => None,
    };
    let rights: Vec<Access> = words.iter().copied().filter_map(access).collect();
    let (&[one, two], 2) = (rights.as_slice(), words.len()) else {
        reader.refuse(property, "is not one right for each of the two guests", FIX);
        return None;
    };
    if (one, two) == (Access::ReadOnly, Access::ReadOnly) {
        reader.refuse(property, "lets nobody write", FIX);
        return None;
    }
    Some([one, two])
}

fn check_address(reader: &mut Reader<'_, '_>, address: Option<Ipa>, bytes: u64) {
    let (Some(property), Some(address)) = (reader.node.property("address"), address) else {
        return;
    };
    let align = alignment(bytes);
    if !address.is_aligned(align) {
        let problem = format!("is not aligned for {bytes:#x} bytes");
        reader.refuse(property, problem, format!("use a multiple of {align:#x}"));
    }
    // That it begins within has been checked.
    if address < IPA_LIMIT && address.checked_add(bytes).is_none_or(|end| end > IPA_LIMIT) {
        let problem = "ends beyond the guest's address space";
        reader.refuse(property, problem, format!("choose one below {IPA_LIMIT}"));
    }
}

/// The channels against each other and against the guests that there are. Sorts them by name, which gives their
/// numbers: overlay merging reverses new nodes.
pub(super) fn check(
    channels: &mut [(ChannelConfig, Node<'_>)],
    guests: &[(GuestConfig, Node<'_>)],
    problems: &mut Vec<Refusal>,
) {
    sort::by(channels, |(one, _), (two, _)| one.name < two.name);
    for (channel, node) in channels.iter() {
        let property = node.property("guests");
        for (number, _) in channel.ends {
            if let Some(property) = property
                && !guests.iter().any(|(guest, _)| guest.number == number)
            {
                let problem = format!("names guest {number}, which there is not");
                let refusal = property.refuse().problem(problem);
                problems.push(refusal.fix("name two guests of this configuration"));
            }
        }
    }
    if channels.len() > MAX_CHANNELS {
        let problem = format!(
            "has {} pieces of shared memory, more than the {MAX_CHANNELS} that there can be",
            channels.len()
        );
        problems.push(
            Refusal::new("/ballast")
                .problem(problem)
                .fix("use one for several purposes"),
        );
    }
}
