//! One guest's files: found, recognised and placed.

use alloc::format;
use alloc::string::ToString;
use alloc::vec::Vec;

use super::memory::check_linux;
use super::{ChannelEnd, GuestPlan, backed_ram};
use crate::addr::IpaRange;
use crate::archive::Archive;
use crate::board::Board;
use crate::config::GuestConfig;
use crate::dt::DeviceTree;
use crate::guest_dt;
use crate::image::{self, DtbSlot, ImageError, Kernel, LoadOptions, Memory, Placement};
use crate::refusal::Refusal;

/// Finds, recognises and places a guest's files.
pub(super) fn plan(
    board: &Board,
    tree: &DeviceTree<'_>,
    config: GuestConfig,
    cores: Vec<usize>,
    ram: Vec<IpaRange>,
    channels: Vec<ChannelEnd>,
    archive: &Archive<'_>,
) -> Result<GuestPlan, Refusal> {
    let find = |property: &str, name: &str| {
        archive.find(name).ok_or_else(|| {
            let names: Vec<&str> = archive.names().take(16).collect();
            let has = if names.is_empty() {
                "nothing".to_string()
            } else {
                names.join(", ")
            };
            let refusal = Refusal::new(&config.node)
                .property(property)
                .value(format!("\"{name}\""));
            refusal
                .problem(format!("is not in the boot archive, which has {has}"))
                .fix("add it, or correct the name")
        })
    };
    let kernel_file = find("kernel", &config.kernel)?;
    let ramdisk_file = config
        .ramdisk
        .as_deref()
        .map(|name| find("ramdisk", name))
        .transpose()?;
    let files = Files {
        kernel: archive.bytes(&kernel_file),
        ramdisk_bytes: ramdisk_file
            .as_ref()
            .map(|file| u64::try_from(file.len()).unwrap_or(u64::MAX)),
    };
    let (kernel, placement) = place(&config, &ram, &files)?;
    if kernel.is_linux_sized() {
        check_linux(&config)?;
    }
    let mut guest = GuestPlan {
        config,
        ram,
        cores,
        kernel_file,
        ramdisk_file,
        kernel,
        placement,
        channels,
        dtb: Vec::new(),
    };
    let most = if guest.config.primary {
        guest_dt::most_bytes(tree)
    } else {
        0
    };
    let buffer = Vec::with_capacity(most);
    guest.dtb = guest.device_tree(board, tree, guest.config.memory.boot_bytes, buffer)?;
    Ok(guest)
}

/// What is to be placed.
struct Files<'a> {
    kernel: &'a [u8],
    ramdisk_bytes: Option<u64>,
}

/// Recognises the kernel and places everything in the first range of RAM that has room for it, at boot
/// and after a reset with the guest's minimum.
fn place(
    config: &GuestConfig,
    ram: &[IpaRange],
    files: &Files<'_>,
) -> Result<(Kernel, Placement), Refusal> {
    let options = LoadOptions {
        load_address: config.load_address,
        entry: config.entry,
    };
    let at_boot = backed_ram(ram, config.memory.boot_bytes);
    let at_least = backed_ram(ram, config.memory.min_bytes);
    let place_in = |index: usize, base, all: &[IpaRange]| -> Result<_, ImageError> {
        let kernel = image::recognise(files.kernel, options, base)?;
        let mut extra = config.extra_ram.clone();
        let others = all.iter().enumerate().filter(|(other, _)| *other != index);
        extra.extend(others.map(|(_, range)| *range));
        let memory = Memory {
            // Not there at all with so little memory.
            ram: all.get(index).copied().unwrap_or(IpaRange {
                start: base,
                size: 0,
            }),
            extra: &extra,
        };
        let dtb = DtbSlot {
            address: config.dtb_address,
            bytes: config.dtb_bytes(),
        };
        let placement = image::place(&kernel, files.ramdisk_bytes, dtb, memory)?;
        Ok((kernel, placement))
    };
    // What is said is said of the largest range, where it is nearest to fitting.
    let mut problem: Option<(u64, Refusal)> = None;
    for (index, range) in at_boot.iter().enumerate() {
        let refusal = match place_in(index, range.start, &at_boot) {
            Ok(placed) => match place_in(index, range.start, &at_least) {
                Ok(_) => return Ok(placed),
                Err(error) => refuse_minimum(config, &error),
            },
            Err(error) => {
                let refusal = Refusal::new(&config.node)
                    .property("kernel")
                    .value(format!("\"{}\"", config.kernel));
                refusal.problem(&error).fix(error.fix())
            }
        };
        if problem.as_ref().is_none_or(|(size, _)| *size < range.size) {
            problem = Some((range.size, refusal));
        }
    }
    let none = || Refusal::new(&config.node).problem("has no memory");
    Err(problem.map_or_else(none, |(_, refusal)| refusal))
}

/// A guest that was reset while it has little memory starts with its minimum.
fn refuse_minimum(config: &GuestConfig, error: &ImageError) -> Refusal {
    let value = format!("<{}>", config.memory.min_bytes >> 20);
    let refusal = Refusal::new(&config.node)
        .property("memory-min-mib")
        .value(value);
    let problem = format!(
        "is too little to start \"{}\" with after a reset: it {error}",
        config.kernel
    );
    refusal.problem(problem).fix("raise memory-min-mib")
}
