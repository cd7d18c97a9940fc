//! The balloon's hypervisor side: a guest's memory as it grows and shrinks.
//!
//! [`GuestMemory`] is one guest's memory: its stage 2, its target and, behind the lock that is the
//! guest's *transaction*, the ledger of what is backed. [`GuestMemory::call`] carries out a hypercall
//! of the interface in `ballast_abi`; the steps outside of hypercalls are [`GuestMemory::boot_assign`],
//! [`GuestMemory::rebuild_step`] (reset and stop) and [`Scrubber::step`] (parked and idle cores).
//!
//! # Flow
//!
//! A hypercall, on the core of the guest that asked:
//!
//! ```ignore
//! let outcome = guest.memory.call(&pool, &mut hardware, x[0] as u32, [x[1], x[2], x[3], x[4]]);
//! match outcome {
//!     None => x[0] = NOT_SUPPORTED,            // not one of ours
//!     Some(outcome) => x[..4].copy_from_slice(&outcome.registers),
//! }
//! set_line(guest, BALLOON_INTID, guest.memory.target.is_pending());
//! for other in outcome.wake.iter() {           // found nothing free before; there is now
//!     guests[other].memory.target.bump();
//!     set_line(other, BALLOON_INTID, true);
//! }
//! ```
//!
//! A stage-2 abort (EC 0x20 or 0x24), with no lock at all:
//!
//! ```ignore
//! // HPFAR_EL2 gives the page, FAR_EL2 the offset.
//! if fault.is_translation() && guest.memory.stage2.judge(&mut window, ipa) == Verdict::Refault {
//!     return;                                  // it was in transition: the access is done again
//! }
//! // otherwise: a device model if ISV, else inject a synchronous external abort
//! ```
//!
//! The monitor sets `guest.memory.target.set_reserve_pages(max - target, deadline)` and raises the
//! line. A parked core runs [`Scrubber::step`] until it says [`Next::Rest`], with a look around in between. To
//! reset or stop a guest, once all its vCPUs have stopped: `begin_rebuild(goal)`, then `rebuild_step`
//! until it says how much is backed; the device tree of the next boot is made from that.
//!
//! # Rules
//!
//! * What a call touches is bounded: see [`budget`]. x1 < n is normal, and so is x1 = 0 (a large page
//!   is being scrubbed): the driver calls again.
//! * The list is copied once, then judged; statuses are written to it at the end.
//! * A wrong epoch does nothing. Two calls at once: one is BUSY. No call waits for another guest but in
//!   the pool's short sections.
//! * Frames change owner only through the states in [`crate::frames::handover`].
#![cfg_attr(
    not(test),
    expect(
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation,
        reason = "page counts within the guest's maximum (below 2^27) that was checked by `GuestMemory::new`"
    )
)]

mod block;
mod boot;
pub mod budget;
mod calls;
mod gather;
pub mod hw;
mod idle;
mod ledger;
mod lifecycle;
mod query;
mod release;
mod relocate;
mod reserve;
pub mod sample;
mod section;
mod span;
mod stretch;
mod target;
#[cfg(test)]
pub(crate) mod tests;

use alloc::boxed::Box;
use alloc::vec;
use core::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, Ordering};

use ballast_abi::{LIST_ENTRIES, Order, Status};
use block::Use;
use hw::Hardware;
pub use idle::{Next, Pace, Scrubber, Step};
pub(crate) use ledger::RECORD_BYTES;
use ledger::{Driver, Ledger, TableRecord};
pub use lifecycle::Progress;
pub use relocate::Relocated;
use span::Span;
use spin::mutex::SpinMutex;
pub use target::{Calls, Counter, Fetched, Report, Reported, Stats, Target};

use crate::addr::{BLOCK_SHIFT, BLOCK_SIZE, Ipa, PAGES_PER_BLOCK, Pa};
use crate::frames::handover::BATCH_WORDS;
use crate::frames::{GuestId, GuestSet};
use crate::limits::MAX_RAM_RANGES;
use crate::stage2::{Bank, Descriptor, Layout, LayoutError, Stage2, Table};
use crate::timeline::Trace;

/// What a guest's memory is to be. All sizes in 4 KiB pages, multiples of 512.
#[derive(Clone, Copy, Debug)]
pub struct MemoryConfig {
    /// The guest.
    pub guest: GuestId,
    /// What it boots with, and what PRESSURE may bring it back to.
    pub memory_pages: u64,
    /// RESERVE never takes it below this.
    pub min_pages: u64,
    /// Its RAM is at IPA = PA: each block it gets is the one at that address, and it gives whole 2 MiB
    /// blocks only.
    pub identity: bool,
    /// Its frames never move: they come from blocks that no identity guest claims.
    pub realtime: bool,
    /// CPU targets are given (`FEATURES`).
    pub cpu_targets: bool,
}

/// One guest's memory. See the [module](self).
pub struct GuestMemory {
    /// The translation; traps read it without a lock.
    pub stage2: Stage2,
    /// What the guest is asked for.
    pub target: Target,
    /// What the guest last said of itself.
    pub report: Report,
    /// What it was seen to use.
    pub sample: sample::Sample,
    /// What its calls have done.
    pub stats: Stats,
    /// When what happened on the way to the target.
    pub trace: Trace,
    config: MemoryConfig,
    chunks: heapless::Vec<Chunk, MAX_RAM_RANGES>,
    max_pages: u64,
    banks: Box<[Bank]>,
    /// Others want frames back that it holds.
    has_to_relocate: AtomicBool,
    /// Calls that are told BUSY, at most, before the next piece of a relocation or round of sampling: it found a call in
    /// progress, and has its turn now. Bounded, so that nobody waits for a core that does not come.
    relocation_turn: AtomicU32,
    /// It is being loaded: nothing moves.
    is_loading: AtomicBool,
    /// Pages of the smallest run that [`Ledger::driver`] may move; 0 if there is none. Written with the ledger's lock held.
    least_pages: AtomicU16,
    /// Whether the driver sends messages. Written in the same way.
    is_by_message: AtomicBool,
    ledger: SpinMutex<Ledger>,
}

/// One range of a guest's RAM.
#[derive(Clone, Copy)]
struct Chunk {
    start: Ipa,
    bytes: u64,
    /// Blocks of the ranges before it.
    before: u32,
}

impl Chunk {
    /// Whether `ipa` lies in it.
    #[inline]
    const fn contains(&self, ipa: u64) -> bool {
        ipa.wrapping_sub(self.start.0) < self.bytes
    }
}

/// How a call came.
enum Via<'a> {
    /// A hypercall: the list is in the driver's page.
    Page,
    /// A message with this list.
    Message(&'a mut [u64]),
}

/// What a hypercall comes to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// x0 to x3.
    pub registers: [u64; 4],
    /// Guests whose sequence is to be bumped.
    pub wake: GuestSet,
    /// Guests that are to move frames out of another's way: `ask_to_relocate`, and a core of each is asked
    /// for [`GuestMemory::relocate_step`].
    pub relocate: GuestSet,
}

impl Outcome {
    const fn new(status: Status, results: [u64; 3]) -> Self {
        let [x1, x2, x3] = results;
        Self {
            registers: [status.to_register(), x1, x2, x3],
            wake: GuestSet::EMPTY,
            relocate: GuestSet::EMPTY,
        }
    }

    const fn status(status: Status) -> Self {
        Self::new(status, [0; 3])
    }
}

impl GuestMemory {
    /// The memory of a guest with this `layout`, nothing of it backed. `pa_of` as for [`Stage2::new`].
    ///
    /// # Errors
    /// See [`LayoutError`].
    pub fn new(
        config: MemoryConfig,
        layout: &Layout<'_>,
        pa_of: impl Fn(&Table) -> Pa,
    ) -> Result<Self, LayoutError> {
        let stage2 = Stage2::new(layout, pa_of)?;
        let mut chunks = heapless::Vec::new();
        let mut blocks = 0;
        for range in layout.ram {
            let chunk = Chunk {
                start: range.start,
                bytes: range.size,
                before: blocks,
            };
            chunks.push(chunk).map_err(|_| LayoutError::RamAlignment)?;
            blocks += (range.size / BLOCK_SIZE) as u32;
        }
        let max_pages = u64::from(blocks) * PAGES_PER_BLOCK as u64;
        let target = Target::default();
        target.set_reserve_pages(max_pages.saturating_sub(config.memory_pages), 0);
        Ok(Self {
            stage2,
            target,
            report: Report::default(),
            sample: sample::Sample::default(),
            stats: Stats::default(),
            trace: Trace::default(),
            config,
            chunks,
            max_pages,
            banks: Bank::parts(layout.banks).collect(),
            has_to_relocate: AtomicBool::new(false),
            relocation_turn: AtomicU32::new(0),
            is_loading: AtomicBool::new(false),
            least_pages: AtomicU16::new(0),
            is_by_message: AtomicBool::new(false),
            ledger: SpinMutex::new(Ledger {
                driver: None,
                epoch: 0,
                backed_pages: 0,
                tables: vec![TableRecord::default(); blocks as usize].into_boxed_slice(),
                list: Box::new([0; LIST_ENTRIES]),
                batch: Box::new([0; BATCH_WORDS]),
                rebuild: None,
                transfer: None,
                gather: gather::Gather::Idle,
                round: sample::Round::default(),
            }),
        })
    }

    /// The guest.
    #[must_use]
    pub const fn guest(&self) -> GuestId {
        self.config.guest
    }

    /// The most pages it may have.
    #[must_use]
    pub const fn max_pages(&self) -> u64 {
        self.max_pages
    }

    /// Whether a driver has said HELLO since the last start, and not GOODBYE. Takes no lock: who looks makes no
    /// call of the guest's BUSY.
    #[must_use]
    pub fn has_driver(&self) -> bool {
        self.least_pages.load(Ordering::Acquire) != 0
    }

    /// Whether that driver is told of a new target by a message.
    #[must_use]
    pub fn has_messages(&self) -> bool {
        self.is_by_message.load(Ordering::Acquire)
    }

    /// The driver is this one from now on. Its former calls do nothing any more.
    fn set_driver(&self, ledger: &mut Ledger, driver: Option<Driver>) {
        ledger.driver = driver;
        let is_by_message = driver.is_some_and(Driver::is_by_message);
        self.is_by_message.store(is_by_message, Ordering::Release);
        let least = driver.map_or(0, |driver| self.least_pages(driver));
        self.least_pages.store(least, Ordering::Release);
    }

    /// Pages backed now; `None` while a call is in progress.
    #[must_use]
    pub fn backed_pages(&self) -> Option<u64> {
        Some(self.ledger.try_lock()?.backed_pages)
    }

    /// The range of RAM in which `ipa` lies.
    #[inline]
    fn chunk(&self, ipa: u64) -> Option<&Chunk> {
        self.chunks.iter().find(|chunk| chunk.contains(ipa))
    }

    /// Whether `ipa` lies within the guest's maximum.
    fn is_ram(&self, ipa: Ipa) -> bool {
        self.chunk(ipa.0).is_some()
    }

    /// The place of a block of RAM in filling order, which is the index of its [`TableRecord`].
    #[inline]
    fn record(&self, ipa_block: u32) -> usize {
        let chunk = self.chunk(u64::from(ipa_block) << BLOCK_SHIFT);
        chunk.map_or(usize::MAX, |chunk| {
            chunk.before as usize + (ipa_block as usize - chunk.start.block() as usize)
        })
    }

    /// IPA / 2 MiB of the block that is `index`th in filling order.
    fn nth_block(&self, index: u32) -> Option<u32> {
        let chunk = self
            .chunks
            .iter()
            .rev()
            .find(|chunk| chunk.before <= index)?;
        let offset = u64::from(index - chunk.before);
        (offset < chunk.bytes >> BLOCK_SHIFT).then(|| (chunk.start.block() + offset) as u32)
    }

    /// The level-3 table of the 2 MiB at `ipa_block` moves `from` a frame `to` another, through `copy`: what the guest
    /// accesses there meanwhile faults and is done again. Nothing reaches the old frame then. False if there is no
    /// table.
    fn move_table(
        &self,
        hw: &mut impl Hardware,
        copy: &mut [u64; BATCH_WORDS],
        ipa_block: u32,
        [from, to]: [Pa; 2],
    ) -> bool {
        let Some(broken) = self.stage2.break_entry(ipa_block) else {
            return false;
        };
        hw.read_page(from, copy);
        hw.write_page(to, copy);
        let clean = broken.invalidate(hw);
        self.stage2.retire_table();
        clean.make(Descriptor::table(to), hw);
        self.stats.table_moves.add(1);
        self.stats.invalidations.add(1);
        true
    }

    /// Pages of the smallest run that may move: none of the guest's own pages is ever backed in part.
    const fn least_pages(&self, driver: Driver) -> u16 {
        // 512 at most.
        if self.config.identity {
            Order::Block.pages() as u16
        } else {
            driver.granule.pages() as u16
        }
    }
}
