//! How much memory and how many cores a guest asks for.

use alloc::format;
use alloc::vec::Vec;

use super::reader::Reader;
use super::{CpuConfig, GuestConfig, MemoryConfig};
use crate::addr::MIB;
use crate::board::Board;
use crate::limits::MAX_VCPUS;
use crate::machine::{IPA_LIMIT, RAM_BASE};

/// Memory is configured in whole 2 MiB blocks.
const BLOCK_MIB: u32 = 2;
const SMALLEST_MIB: u32 = 4;

/// A size in MiB, in whole blocks.
fn read_mib(reader: &mut Reader<'_, '_>, name: &str) -> Option<u32> {
    let property = reader.node.property(name)?;
    let mib = property.as_u32();
    let mib = reader.keep(mib)?;
    if mib < SMALLEST_MIB || !mib.is_multiple_of(BLOCK_MIB) {
        let up = mib
            .max(SMALLEST_MIB)
            .checked_next_multiple_of(BLOCK_MIB)
            .unwrap_or(SMALLEST_MIB);
        reader.refuse(
            property,
            "is not a multiple of 2 MiB from 4 on",
            format!("write {name} = <{up}>"),
        );
        return None;
    }
    Some(mib)
}

pub(super) fn read_memory(reader: &mut Reader<'_, '_>) -> Option<MemoryConfig> {
    let required = reader.node.require("memory-mib");
    let required = required
        .map_err(|refusal| refusal.fix("write memory-mib = <N>, the RAM to boot with, in MiB"));
    reader.keep(required)?;
    let boot = read_mib(reader, "memory-mib");
    let min = read_mib(reader, "memory-min-mib");
    let max = read_mib(reader, "memory-max-mib");
    let boot = boot?;
    let (min, max) = (min.unwrap_or(boot), max.unwrap_or(boot));
    if let Some(property) = reader
        .node
        .property("memory-min-mib")
        .filter(|_| min > boot)
    {
        reader.refuse(
            property,
            format!("is above memory-mib = <{boot}>"),
            format!("choose at most {boot}, or raise memory-mib"),
        );
    }
    if let Some(property) = reader
        .node
        .property("memory-max-mib")
        .filter(|_| max < boot)
    {
        reader.refuse(
            property,
            format!("is below memory-mib = <{boot}>"),
            format!("choose at least {boot}, or lower memory-mib"),
        );
    }
    let room = IPA_LIMIT.0.saturating_sub(RAM_BASE.0);
    if let Some(property) = reader
        .node
        .property("memory-max-mib")
        .or(reader.node.property("memory-mib"))
        && u64::from(max).saturating_mul(MIB) > room
    {
        reader.refuse(
            property,
            "is beyond the guest's address space",
            format!("choose at most {}", room >> 20),
        );
        return None;
    }
    let bytes = |mib: u32| u64::from(mib).saturating_mul(MIB);
    Some(MemoryConfig {
        boot_bytes: bytes(boot),
        min_bytes: bytes(min),
        max_bytes: bytes(max),
    })
}

pub(super) fn read_cpus(reader: &mut Reader<'_, '_>, board: &Board) -> Option<CpuConfig> {
    let boot = reader.number("cpus").unwrap_or(1);
    let min = reader.number("cpus-min").unwrap_or(boot);
    let max = reader.number("cpus-max").unwrap_or(boot);
    let most = u32::try_from(MAX_VCPUS).unwrap_or(u32::MAX);
    for (name, value) in [("cpus", boot), ("cpus-min", min), ("cpus-max", max)] {
        if let Some(property) = reader
            .node
            .property(name)
            .filter(|_| !(1..=most).contains(&value))
        {
            reader.refuse(
                property,
                "is no number of CPUs a guest can have",
                format!("choose one from 1 to {most}"),
            );
        }
    }
    if let Some(property) = reader.node.property("cpus-min").filter(|_| min > boot) {
        reader.refuse(
            property,
            format!("is above cpus = <{boot}>"),
            format!("choose at most {boot}, or raise cpus"),
        );
    }
    if let Some(property) = reader.node.property("cpus-max").filter(|_| max < boot) {
        reader.refuse(
            property,
            format!("is below cpus = <{boot}>"),
            format!("choose at least {boot}, or lower cpus"),
        );
    }
    let list = read_cpu_list(reader, board, boot, max)?;
    Some(CpuConfig {
        boot,
        min,
        max,
        list,
    })
}

fn read_cpu_list(
    reader: &mut Reader<'_, '_>,
    board: &Board,
    boot: u32,
    max: u32,
) -> Option<Vec<u32>> {
    let Some(property) = reader.node.property("cpu-list") else {
        return Some(Vec::new());
    };
    let cells = property.cells();
    let list: Vec<u32> = reader.keep(cells)?.collect();
    let cores = u32::try_from(board.cores.len()).unwrap_or(u32::MAX);
    let listed = u32::try_from(list.len()).unwrap_or(u32::MAX);
    if listed < boot {
        reader.refuse(
            property,
            format!("does not list one core for each of cpus = <{boot}>"),
            format!("list at least {boot}"),
        );
    } else if listed > max.max(boot) {
        reader.refuse(
            property,
            format!("lists more cores than cpus-max = <{max}>"),
            format!("list at most {max}, or raise cpus-max"),
        );
    }
    if list.iter().any(|core| *core >= cores) {
        let last = cores.saturating_sub(1);
        reader.refuse(
            property,
            format!("names a core that the board does not have, it has {cores}"),
            format!("choose from 0 to {last}"),
        );
    }
    let twice = list
        .iter()
        .enumerate()
        .any(|(index, core)| list.iter().take(index).any(|other| other == core));
    if twice {
        reader.refuse(property, "names a core twice", "name each once");
    }
    Some(list)
}

/// A real-time guest's memory and cores never change, so a range of them is a contradiction.
pub(super) fn check_realtime(reader: &mut Reader<'_, '_>, guest: &GuestConfig) {
    let MemoryConfig {
        boot_bytes,
        min_bytes,
        max_bytes,
    } = guest.memory;
    let CpuConfig { boot, min, max, .. } = guest.cpus;
    let changing = [
        ("memory-min-mib", min_bytes != boot_bytes),
        ("memory-max-mib", max_bytes != boot_bytes),
        ("cpus-min", min != boot),
        ("cpus-max", max != boot),
    ];
    for (name, differs) in changing {
        if let Some(property) = reader.node.property(name).filter(|_| differs) {
            reader.refuse(
                property,
                "contradicts realtime, which fixes memory and cores",
                "remove one of the two",
            );
        }
    }
    if let Some(property) = reader.node.property("scrub-when-idle") {
        reader.refuse(
            property,
            "contradicts realtime, whose cores do nothing else",
            "remove one of the two",
        );
    }
}
