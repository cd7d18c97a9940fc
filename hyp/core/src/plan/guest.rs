//! One guest's files: found, recognised and placed.

use alloc::format;
use alloc::string::ToString;
use alloc::vec::Vec;

use super::GuestPlan;
use super::memory::check_linux;
use crate::addr::IpaRange;
use crate::archive::Archive;
use crate::board::Board;
use crate::config::GuestConfig;
use crate::image::{self, LoadOptions, Memory};
use crate::machine::RAM_BASE;
use crate::refusal::Refusal;

/// Finds, recognises and places a guest's files.
pub(super) fn plan(
    board: &Board,
    config: GuestConfig,
    cores: Vec<usize>,
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
    let refuse = |error: image::ImageError| {
        let refusal = Refusal::new(&config.node)
            .property("kernel")
            .value(format!("\"{}\"", config.kernel));
        refusal.problem(&error).fix(error.fix())
    };
    let options = LoadOptions {
        load_address: config.load_address,
        entry: config.entry,
    };
    let kernel =
        image::recognise(archive.bytes(&kernel_file), options, RAM_BASE).map_err(refuse)?;

    let ramdisk_bytes = ramdisk_file
        .as_ref()
        .map(|file| u64::try_from(file.len()).unwrap_or(u64::MAX));
    let place = |bytes| {
        let memory = Memory {
            ram: IpaRange {
                start: RAM_BASE,
                size: bytes,
            },
            extra: &config.extra_ram,
        };
        image::place(&kernel, ramdisk_bytes, config.dtb_address, memory)
    };
    let placement = place(config.memory.boot_bytes).map_err(refuse)?;
    // A guest that was reset while it has little memory starts with its minimum.
    if let Err(error) = place(config.memory.min_bytes) {
        let value = format!("<{}>", config.memory.min_bytes >> 20);
        let refusal = Refusal::new(&config.node)
            .property("memory-min-mib")
            .value(value);
        let problem = format!(
            "is too little to start \"{}\" with after a reset: it {error}",
            config.kernel
        );
        return Err(refusal.problem(problem).fix("raise memory-min-mib"));
    }
    if kernel.is_linux_sized() {
        check_linux(&config)?;
    }
    let mut guest = GuestPlan {
        config,
        cores,
        kernel_file,
        ramdisk_file,
        kernel,
        placement,
        dtb: Vec::new(),
    };
    guest.dtb = guest.device_tree(board, guest.config.memory.boot_bytes)?;
    Ok(guest)
}
