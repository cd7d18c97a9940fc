//! Admission: the partitions against the board's memory and cores and against the boot archive. All
//! of it holds or nothing starts.
//!
//! Computes sizes, addresses in the guests and cores; which frames a guest gets is decided by
//! whoever owns the frame table, from [`BootPlan::free`].

mod check;
mod cores;
mod guest;
mod memory;
mod own;
#[cfg(test)]
mod tests;

use alloc::format;
use alloc::vec::Vec;
use core::ops::Range;

pub use check::{Report, check};
pub use own::{OwnMemory, TABLE_BYTES};

use crate::addr::{Ipa, IpaRange, PaRange};
use crate::archive::Archive;
use crate::board::Board;
use crate::config::{GuestConfig, Partitions};
use crate::frames::Pool;
use crate::guest_dt::{self, GuestMachine};
use crate::image::{DTB_SLOT_BYTES, Kernel, Placement};
use crate::machine::RAM_BASE;
use crate::refusal::Refusal;

/// Everything decided before the first guest starts.
#[derive(Clone, Debug)]
pub struct BootPlan {
    /// The guests, by number.
    pub guests: Vec<GuestPlan>,
    /// RAM that nobody holds: what guests' RAM, banks included, comes from. Sorted, whole pages.
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
        let (free, cores, mut problems) = admit(board, &partitions.guests, held);
        let mut guests = Vec::with_capacity(partitions.guests.len());
        for (config, cores) in partitions.guests.into_iter().zip(cores) {
            match guest::plan(board, config, cores, archive) {
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

/// Judges what the guests ask for against what there is. Says what RAM is left for them, the cores
/// of each, and what is wrong.
fn admit(
    board: &Board,
    guests: &[GuestConfig],
    held: &[PaRange],
) -> (Vec<PaRange>, Vec<Vec<usize>>, Vec<Refusal>) {
    let mut problems = Vec::new();
    if let Err(error) = Pool::check(&board.ram) {
        problems.push(Refusal::new("/memory").problem(error));
    }
    let free = memory::free(board, held);
    memory::admit(guests, &free, &mut problems);
    let cores = cores::assign(board, guests, &mut problems);
    (free, cores, problems)
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
