//! Ballast's own memory: how large its heap is and where it goes.
//!
//! Decided before the partitions are judged, as judging them takes heap: from bare numbers in the
//! device tree, whatever else is wrong with it. The host's check counts the same heap.
#![cfg_attr(
    not(test),
    expect(
        clippy::arithmetic_side_effects,
        reason = "sums of table sizes: RAM below 2^48 bytes, guests and banks as many as fit a device tree"
    )
)]

use alloc::format;
use alloc::vec::Vec;

use ballast_abi::device_tree::CHANNEL_COMPATIBLE;

use crate::addr::{BLOCK_SIZE, GIB, MIB, PAGE_SIZE, PAGES_PER_BLOCK, PaRange};
use crate::balloon::RECORD_BYTES;
use crate::board::Board;
use crate::dt::{DeviceTree, Node};
use crate::limits::MAX_RAM_RANGES;
use crate::machine::{IPA_LIMIT, RAM_BASE};
use crate::refusal::Refusal;
use crate::sort;

/// From this size on an allocation is a table that lasts: the heap keeps those apart, in their exact
/// size, and rounds smaller ones up to a power of two.
pub const TABLE_BYTES: u64 = 64 << 10;

/// The heap.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OwnMemory {
    /// Where it is.
    pub heap: PaRange,
    /// How much of it, at its end, is for allocations from [`TABLE_BYTES`] on.
    pub tables: u64,
}

impl OwnMemory {
    /// Places the heap close to the `image`, in RAM that neither firmware nor `held` nor the boot archive
    /// has: what is left of a block that is taken in part wastes no whole one.
    ///
    /// # Errors
    /// No piece of RAM is large enough.
    pub fn plan(
        board: &Board,
        tree: &DeviceTree<'_>,
        image: PaRange,
        held: &[PaRange],
    ) -> Result<Self, Refusal> {
        let need = Need::of(board, tree);
        let size = (need.small + need.tables).next_multiple_of(PAGE_SIZE);
        let free = super::memory::free(board, held);
        let place = free
            .iter()
            .filter(|range| range.size >= size)
            .min_by_key(|range| (range.start.0.abs_diff(image.end().0), range.size));
        let place = place.ok_or_else(|| {
            let problem = format!("has no {} KiB in one piece for Ballast itself", size >> 10);
            Refusal::new("/memory")
                .problem(problem)
                .fix("use a board with more memory, or lower the guests' memory-max-mib")
        })?;
        Ok(Self {
            heap: PaRange {
                start: place.start,
                size,
            },
            tables: need.tables,
        })
    }
}

/// What allocations sum up to, in bytes.
#[derive(Clone, Copy, Default)]
struct Need {
    small: u64,
    tables: u64,
}

impl Need {
    fn of(board: &Board, tree: &DeviceTree<'_>) -> Self {
        /// Boot-time work, and what depends on nothing: 59 KiB, of which some is in the early heap, and half as much
        /// again.
        const BASE: u64 = 96 << 10;
        /// Stacks, window table and per-core data: 37 KiB.
        const PER_CORE: u64 = 40 << 10;
        let mut need = Self {
            small: BASE + PER_CORE * board.cores.len() as u64,
            tables: 0,
        };
        need.add_frame_table(board);
        let guests = tree.find("/ballast");
        for node in guests
            .into_iter()
            .chain(guests.iter().flat_map(|node| node.children()))
        {
            need.add_refusals(node);
        }
        for guest in guests.iter().flat_map(|node| node.children()) {
            if guest.is_compatible(CHANNEL_COMPATIBLE) {
                need.add_channel();
            } else {
                need.add_guest(guest);
            }
        }
        need.tables = need.tables.next_multiple_of(PAGE_SIZE);
        need
    }

    /// One allocation.
    fn add(&mut self, bytes: u64) {
        if bytes >= TABLE_BYTES {
            self.tables += bytes;
        } else {
            self.small += bytes.next_power_of_two();
        }
    }

    /// More properties than there are in the binding: each may be refused.
    fn add_refusals(&mut self, node: Node<'_>) {
        const KNOWN: u64 = 48;
        /// Path, name, value, what is wrong and what to do.
        const REFUSAL: u64 = 768;
        let properties = node.properties().count() as u64;
        self.small += properties.saturating_sub(KNOWN) * REFUSAL;
    }

    /// [`crate::frames`]: four bytes and two bits a frame and less than 24 bytes a block, of all blocks that a range
    /// of RAM has a part of.
    fn add_frame_table(&mut self, board: &Board) {
        let blocks = board.ram.iter().map(|range| {
            range.end().0.div_ceil(BLOCK_SIZE) - range.start.align_down(BLOCK_SIZE).0 / BLOCK_SIZE
        });
        let blocks: u64 = blocks.sum();
        let frames = blocks * PAGES_PER_BLOCK as u64;
        self.add(frames * 4);
        self.add(frames / 4);
        self.add(blocks * 24);
    }

    /// Level 2, and level 3 at both ends, in each of the two guests.
    const fn add_channel(&mut self) {
        const TEXTS: u64 = 1 << 10;
        self.small += TEXTS + 2 * 3 * PAGE_SIZE;
    }

    /// Rings and models, and what grows with the maximum and with banks: stage-2 tables
    /// ([`crate::stage2`]) and a record for each block.
    fn add_guest(&mut self, node: Node<'_>) {
        /// 56 KiB, and some 10 more with a balloon's UART.
        const BASE: u64 = 80 << 10;
        let number = |name| node.property(name)?.as_u32().ok();
        let mib = number("memory-max-mib")
            .or_else(|| number("memory-mib"))
            .unwrap_or(0);
        let bytes = (u64::from(mib) * MIB).min(IPA_LIMIT.0 - RAM_BASE.0);
        // IPA = PA: each range of RAM may add a GiB in part.
        let is_identity = ["primary", "dma"]
            .iter()
            .any(|name| node.property(name).is_some());
        let ranges = if is_identity {
            MAX_RAM_RANGES as u64
        } else {
            0
        };
        let mut tables = bytes.div_ceil(GIB) + ranges;
        if let Some(banks) = node.property("extra-ram") {
            for bank in banks.value.as_chunks::<16>().0 {
                let size = u64::from_be_bytes(*bank.last_chunk().unwrap_or(&[0; 8]));
                // Level 3 of the blocks at both ends, level 2 of every GiB.
                tables += 2 + size.min(IPA_LIMIT.0) / GIB + 2;
            }
        }
        self.small += BASE + tables * PAGE_SIZE;
        self.add(bytes / BLOCK_SIZE * RECORD_BYTES);
        if node.property("primary").is_some() {
            self.add_board(node.tree());
        } else if let Some(paths) = node.property("devices") {
            let paths = paths.strings().unwrap_or_default();
            self.add_devices(paths.iter().filter_map(|path| node.tree().find(path)));
        }
    }

    /// A primary guest's devices, and the board's tree written anew.
    fn add_board(&mut self, tree: &DeviceTree<'_>) {
        /// What is made of the whole tree on the way.
        const BASE: u64 = 64 << 10;
        self.small += BASE;
        self.add_devices(tree.nodes());
        self.add(crate::guest_dt::most_bytes(tree) as u64);
    }

    /// A guest's devices: their description and their stage-2 tables.
    fn add_devices<'t>(&mut self, nodes: impl Iterator<Item = Node<'t>>) {
        /// A path, the list's entry, ranges and interrupts.
        const DEVICE: u64 = 512;
        let mut blocks = Vec::new();
        for node in nodes {
            let regions = node.regions().unwrap_or_default();
            for region in regions.iter().chain(&node.windows().unwrap_or_default()) {
                self.small += DEVICE;
                blocks.extend([region.start, region.end()].map(|at| at.0 / BLOCK_SIZE));
            }
        }
        sort::by_key(&mut blocks, |block| *block);
        blocks.dedup();
        let level3 = blocks.len() as u64;
        blocks.dedup_by_key(|block| *block / PAGES_PER_BLOCK as u64);
        self.small += (level3 + blocks.len() as u64) * PAGE_SIZE;
    }
}
