//! Admission: the partitions against the board's memory and cores and against the boot archive. All
//! of it holds or nothing starts.
//!
//! Computes sizes, addresses in the guests and cores; which frames a guest gets is decided by
//! whoever owns the frame table, from [`BootPlan::free`].

mod channels;
mod check;
mod claims;
mod cores;
mod guest;
mod memory;
mod own;
#[cfg(test)]
mod tests;
mod unclaimed;

use alloc::format;
use alloc::vec::Vec;
use core::ops::Range;

pub use channels::{ChannelEnd, ChannelPlan};
pub use check::{Report, check};
pub use own::{OwnMemory, TABLE_BYTES};

use crate::addr::{Ipa, IpaRange, PaRange};
use crate::archive::Archive;
use crate::board::Board;
use crate::config::{GuestConfig, Partitions, PolicyConfig, ScrubConfig};
use crate::dt::DeviceTree;
use crate::frames::Pool;
use crate::guest_dt::{self, BoardTree, GuestMachine};
use crate::image::{Kernel, Placement};
use crate::refusal::Refusal;

/// Everything decided before the first guest starts.
#[derive(Clone, Debug)]
pub struct BootPlan {
    /// The guests, by number.
    pub guests: Vec<GuestPlan>,
    /// Memory that guests share; a channel's number is its place here.
    pub channels: Vec<ChannelPlan>,
    /// RAM that nobody holds: what guests' RAM, banks included, comes from. Sorted, whole pages.
    pub free: Vec<PaRange>,
    /// How free memory is made ready.
    pub scrub: ScrubConfig,
    /// Who decides how much memory guests have.
    pub policy: PolicyConfig,
}

/// One guest, ready to be loaded.
#[derive(Clone, Debug)]
pub struct GuestPlan {
    /// As configured.
    pub config: GuestConfig,
    /// Its RAM up to its maximum: whole 2 MiB blocks, sorted, disjoint, at most
    /// [`MAX_RAM_RANGES`](crate::limits::MAX_RAM_RANGES). What it has at a start is the first so many
    /// bytes in this order; the rest is its boot balloon.
    pub ram: Vec<IpaRange>,
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
    /// The guest's ends of channels.
    pub channels: Vec<ChannelEnd>,
    /// The device tree for the first start, with `memory-mib` backed.
    pub dtb: Vec<u8>,
}

impl GuestPlan {
    /// The cores it would rather have than others.
    #[must_use]
    pub fn wanted_cores(&self) -> Vec<usize> {
        let list = self.config.cpus.list.iter();
        list.map(|core| usize::try_from(*core).unwrap_or(usize::MAX))
            .collect()
    }

    /// The guest's device tree for a start with `backed_bytes` of [`GuestPlan::ram`] backed, written into
    /// `buffer`, whose contents are replaced. `tree` is the board's.
    ///
    /// # Errors
    /// The tree is longer than what is kept for it in the guest's memory.
    pub fn device_tree(
        &self,
        board: &Board,
        tree: &DeviceTree<'_>,
        backed_bytes: u64,
        buffer: Vec<u8>,
    ) -> Result<Vec<u8>, Refusal> {
        let config = &self.config;
        let machine = GuestMachine {
            name: &config.name,
            gic_version: board.gic.version(),
            cpus: config.cpus.max,
            cpu_compatible: board
                .cores
                .first()
                .map_or("arm,armv8", |core| &core.compatible),
            machine: &config.machine,
            ram: &self.ram,
            backed_bytes,
            extra_ram: &config.extra_ram,
            bootargs: &config.bootargs,
            ramdisk: self.placement.ramdisk,
            devices: &config.devices,
            board: config.primary.then_some(BoardTree {
                tree,
                console: board.console.as_ref(),
            }),
            channels: &self.channels,
        };
        let dtb = guest_dt::build(&machine, buffer);
        let most = config.dtb_bytes();
        if u64::try_from(dtb.len()).is_ok_and(|bytes| bytes <= most) {
            return Ok(dtb);
        }
        let problem = format!("its device tree would be longer than {} KiB", most >> 10);
        Err(Refusal::new(&config.node)
            .problem(problem)
            .fix("remove devices"))
    }
}

impl BootPlan {
    /// Judges `partitions`, which were merged into the board's `tree`. `held` is what Ballast itself occupies: its image, heap and tables, and
    /// the board's device tree; `/memreserve/`, reserved-memory and the boot archive are known from `board`.
    ///
    /// # Errors
    /// Every mistake found, at least one.
    pub fn new(
        board: &Board,
        tree: &DeviceTree<'_>,
        partitions: Partitions,
        archive: &Archive<'_>,
        held: &[PaRange],
    ) -> Result<Self, Vec<Refusal>> {
        let Admitted {
            free,
            ram,
            cores,
            channels,
            mut problems,
        } = admit(board, &partitions, held);
        let mut guests = Vec::with_capacity(partitions.guests.len());
        let all = partitions.guests.into_iter().zip(cores).zip(ram);
        for (index, ((config, cores), ram)) in all.enumerate() {
            // A guest whose RAM was refused has nowhere to be placed.
            if ram.is_empty() {
                continue;
            }
            let ends = channels.iter().flat_map(|channel| &channel.ends);
            let ends = ends.filter(|end| end.guest == index).cloned().collect();
            match guest::plan(board, tree, config, cores, ram, ends, archive) {
                Ok(guest) => guests.push(guest),
                Err(refusal) => problems.push(refusal),
            }
        }
        if problems.is_empty() {
            Ok(Self {
                guests,
                channels,
                free,
                scrub: partitions.scrub,
                policy: partitions.policy,
            })
        } else {
            Err(problems)
        }
    }
}

/// What there is for the guests, one entry each, and what is wrong.
struct Admitted {
    free: Vec<PaRange>,
    /// Empty where it was refused.
    ram: Vec<Vec<IpaRange>>,
    cores: Vec<Vec<usize>>,
    /// What they share.
    channels: Vec<ChannelPlan>,
    problems: Vec<Refusal>,
}

/// Judges what the guests ask for against what there is.
fn admit(board: &Board, partitions: &Partitions, held: &[PaRange]) -> Admitted {
    let guests = &partitions.guests;
    let mut problems = Vec::new();
    if let Err(error) = Pool::check(&board.ram) {
        problems.push(Refusal::new("/memory").problem(error));
    }
    let mut free = memory::free(board, held);
    let channels = channels::place(guests, &partitions.channels, &mut free, &mut problems);
    memory::admit(guests, &free, &mut problems);
    let ram = claims::ram(guests, &free, &mut problems);
    if problems.is_empty() {
        // Of what is refused anyway there is no more to say.
        let scrub_at_boot = partitions.scrub.at_boot;
        unclaimed::admit(guests, &free, &ram, scrub_at_boot, &mut problems);
    }
    let cores = cores::assign(board, guests, &mut problems);
    Admitted {
        free,
        ram,
        cores,
        channels,
        problems,
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

/// The first `bytes` of `ram`, in its order.
#[must_use]
pub fn backed_ram(ram: &[IpaRange], bytes: u64) -> Vec<IpaRange> {
    let mut left = bytes;
    let mut backed = Vec::with_capacity(ram.len());
    for range in ram {
        let size = range.size.min(left);
        left = left.saturating_sub(size);
        if size != 0 {
            backed.push(IpaRange { size, ..*range });
        }
    }
    backed
}

/// What of `ram` lies beyond its first `bytes`.
#[must_use]
pub fn unbacked_ram(ram: &[IpaRange], bytes: u64) -> Vec<IpaRange> {
    let mut left = bytes;
    let mut unbacked = Vec::with_capacity(ram.len());
    for range in ram {
        let skipped = range.size.min(left);
        left = left.saturating_sub(skipped);
        let size = range.size.saturating_sub(skipped);
        if size != 0 {
            let start = Ipa(range.start.0.saturating_add(skipped));
            unbacked.push(IpaRange { start, size });
        }
    }
    unbacked
}
