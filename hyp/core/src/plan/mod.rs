//! Admission: the partitions against the board's memory and cores and against the boot archive. All
//! of it holds or nothing starts.
//!
//! Computes sizes, addresses in the guests and cores; which frames a guest gets is decided by
//! whoever owns the frame table, from [`BootPlan::free`].

mod memory;
#[cfg(test)]
mod tests;

use alloc::format;
use alloc::string::ToString;
use alloc::vec::Vec;
use core::ops::Range;

use crate::addr::{Ipa, IpaRange, PaRange};
use crate::archive::Archive;
use crate::board::Board;
use crate::config::{GuestConfig, Partitions};
use crate::dt::DeviceTree;
use crate::guest_dt::{self, GuestMachine};
use crate::image::{self, DTB_SLOT_BYTES, Kernel, LoadOptions, Memory, Placement};
use crate::machine::RAM_BASE;
use crate::refusal::Refusal;

/// Everything decided before the first guest starts.
#[derive(Clone, Debug)]
pub struct BootPlan {
    /// The guests, by number.
    pub guests: Vec<GuestPlan>,
    /// RAM that nobody holds: what guests get theirs from. Sorted, whole pages.
    pub free: Vec<PaRange>,
    /// Zero memory before its first owner gets it, too.
    pub scrub_at_boot: bool,
}

/// One guest, ready to be loaded.
#[derive(Clone, Debug)]
pub struct GuestPlan {
    /// As configured.
    pub config: GuestConfig,
    /// Physical core of each vCPU that runs at boot, as indices into [`Board::cores`].
    pub cores: Vec<usize>,
    /// The kernel as a range of the boot archive; [`Kernel::segments`] are relative to it.
    pub kernel_file: Range<usize>,
    /// The ramdisk as a range of the boot archive.
    pub ramdisk_file: Option<Range<usize>>,
    /// What to load, and the entry point.
    pub kernel: Kernel,
    /// Where device tree and ramdisk go. The same at each start: it fits the guest's minimum.
    pub placement: Placement,
    /// The device tree for the first start, with `memory-mib` backed.
    pub dtb: Vec<u8>,
}

impl GuestPlan {
    /// The guest's device tree for a later start, with `backed_bytes` of RAM from [`RAM_BASE`] on.
    ///
    /// # Errors
    /// The tree is longer than [`DTB_SLOT_BYTES`].
    pub fn device_tree(&self, board: &Board, backed_bytes: u64) -> Result<Vec<u8>, Refusal> {
        let config = &self.config;
        let machine = GuestMachine {
            name: &config.name,
            gic_version: board.gic.version(),
            cpus: config.cpus.max,
            cpu_compatible: board
                .cores
                .first()
                .map_or("arm,armv8", |core| &core.compatible),
            max_bytes: config.memory.max_bytes,
            backed_bytes,
            extra_ram: &config.extra_ram,
            bootargs: &config.bootargs,
            ramdisk: self.placement.ramdisk,
            devices: &config.devices,
        };
        let dtb = guest_dt::build(&machine);
        if u64::try_from(dtb.len()).is_ok_and(|bytes| bytes <= DTB_SLOT_BYTES) {
            return Ok(dtb);
        }
        let problem = format!(
            "its device tree would be longer than {} KiB",
            DTB_SLOT_BYTES >> 10
        );
        Err(Refusal::new(&config.node)
            .problem(problem)
            .fix("remove devices"))
    }
}

impl BootPlan {
    /// Judges `partitions`. `held` is what Ballast itself occupies: its image, heap and tables, and
    /// the board's device tree; `/memreserve/`, reserved-memory and the boot archive are known from `board`.
    ///
    /// # Errors
    /// Every mistake found, at least one.
    pub fn new(
        board: &Board,
        partitions: Partitions,
        archive: &Archive<'_>,
        held: &[PaRange],
    ) -> Result<Self, Vec<Refusal>> {
        let mut problems = Vec::new();
        let free = memory::free(board, held);
        memory::admit(&partitions, &free, &mut problems);
        let cores = assign_cores(board, &partitions.guests, &mut problems);
        let mut guests = Vec::with_capacity(partitions.guests.len());
        for (config, cores) in partitions.guests.into_iter().zip(cores) {
            match plan_guest(board, config, cores, archive) {
                Ok(guest) => guests.push(guest),
                Err(refusal) => problems.push(refusal),
            }
        }
        if problems.is_empty() {
            Ok(Self {
                guests,
                free,
                scrub_at_boot: partitions.scrub_at_boot,
            })
        } else {
            Err(problems)
        }
    }
}

/// Gives each vCPU that runs at boot a core: those of `cpu-list` first, then the lowest free ones in
/// the guests' order. One list a guest.
fn assign_cores(
    board: &Board,
    guests: &[GuestConfig],
    problems: &mut Vec<Refusal>,
) -> Vec<Vec<usize>> {
    let index = |core: &u32| usize::try_from(*core).unwrap_or(usize::MAX);
    let mut holders: Vec<Option<&GuestConfig>> = board.cores.iter().map(|_| None).collect();
    for guest in guests {
        for core in guest.cpus.list.iter().map(index) {
            match holders.get_mut(core) {
                Some(Some(holder)) => {
                    let list: Vec<_> = guest.cpus.list.iter().map(ToString::to_string).collect();
                    let refusal = Refusal::new(&guest.node)
                        .property("cpu-list")
                        .value(format!("<{}>", list.join(" ")));
                    let problem = format!("has core {core}, which {} has too", holder.node);
                    problems.push(refusal.problem(problem).fix("give each core to one guest"));
                }
                Some(free) => *free = Some(guest),
                None => {}
            }
        }
    }
    let wanted = guests
        .iter()
        .fold(0_u32, |sum, guest| sum.saturating_add(guest.cpus.boot));
    if usize::try_from(wanted).is_ok_and(|wanted| wanted > board.cores.len()) {
        let each: Vec<_> = guests
            .iter()
            .map(|guest| format!("{} {}", guest.name, guest.cpus.boot))
            .collect();
        let problem = format!(
            "guests ask for {wanted} cores, the board has {} ({})",
            board.cores.len(),
            each.join(", ")
        );
        problems.push(
            Refusal::new("/ballast")
                .property("cpus")
                .problem(problem)
                .fix("lower cpus of some guests"),
        );
    }
    let mut assigned = Vec::with_capacity(guests.len());
    for guest in guests {
        let mut cores: Vec<usize> = guest.cpus.list.iter().map(index).collect();
        while u32::try_from(cores.len()).is_ok_and(|count| count < guest.cpus.boot) {
            let Some((core, holder)) = holders
                .iter_mut()
                .enumerate()
                .find(|(_, holder)| holder.is_none())
            else {
                break;
            };
            *holder = Some(guest);
            cores.push(core);
        }
        assigned.push(cores);
    }
    assigned
}

/// Finds, recognises and places a guest's files.
fn plan_guest(
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
        memory::check_linux(&config)?;
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

/// What the host's check found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Mistakes: Ballast would not start.
    pub refusals: Vec<Refusal>,
    /// What it would start with but was hardly meant.
    pub warnings: Vec<Refusal>,
    /// What would be started, if nothing is refused and an archive was given.
    pub plan: Option<BootPlan>,
}

/// Checks a board's device tree with the partitions merged in as the boot would, and the boot
/// archive if it is given. `held` as for [`BootPlan::new`].
#[must_use]
pub fn check(dtb: &[u8], archive: Option<&[u8]>, held: &[PaRange]) -> Report {
    let mut report = Report::default();
    match check_into(dtb, archive, held, &mut report) {
        Ok(plan) => report.plan = plan,
        Err(mut refusals) => report.refusals.append(&mut refusals),
    }
    report
}

fn check_into(
    dtb: &[u8],
    archive: Option<&[u8]>,
    held: &[PaRange],
    report: &mut Report,
) -> Result<Option<BootPlan>, Vec<Refusal>> {
    let one = |refusal| alloc::vec![refusal];
    let tree = DeviceTree::new(dtb).map_err(|error| one(error.into()))?;
    let board = Board::from_dt(&tree).map_err(one)?;
    let partitions = Partitions::parse(&tree, &board)?;
    report.warnings = crate::config::neighbours(&partitions.guests, &tree);
    report
        .warnings
        .extend(memory::warnings(&partitions, &memory::free(&board, held)));
    match archive {
        Some(bytes) => {
            let archive = Archive::new(bytes).map_err(|error| one(error.into()))?;
            BootPlan::new(&board, partitions, &archive, held).map(Some)
        }
        None => {
            let mut refusals = Vec::new();
            memory::admit(&partitions, &memory::free(&board, held), &mut refusals);
            assign_cores(&board, &partitions.guests, &mut refusals);
            if refusals.is_empty() {
                Ok(None)
            } else {
                Err(refusals)
            }
        }
    }
}

/// The physical address of an offset in the boot archive that lies at `archive`.
#[must_use]
pub fn archive_range(archive: PaRange, file: &Range<usize>) -> Option<PaRange> {
    let start = archive.start.checked_add(u64::try_from(file.start).ok()?)?;
    let range = PaRange {
        start,
        size: u64::try_from(file.len()).ok()?,
    };
    (range.end() <= archive.end()).then_some(range)
}

/// The guest's RAM as it is at a start with `backed_bytes`.
#[must_use]
pub const fn backed_ram(backed_bytes: u64) -> IpaRange {
    IpaRange {
        start: Ipa(RAM_BASE.0),
        size: backed_bytes,
    }
}
