//! The boot-time memory map: what is taken, and where the hypervisor's own memory goes.

use alloc::vec::Vec;

use ballast_core::addr::{BLOCK_SIZE, PAGE_SIZE, PAGES_PER_BLOCK, Pa, PaRange};
use ballast_core::board::{Board, subtract};
use ballast_core::refusal::Refusal;

use crate::aarch64::mmu;
use crate::{heap, layout};

/// Heap inside the image, until the memory map is known: enough for a device tree's index.
const EARLY_HEAP: usize = 0x10000;

#[repr(align(4096))]
struct EarlyHeap(core::cell::UnsafeCell<[u8; EARLY_HEAP]>);
// SAFETY: only the allocator touches it, under its lock.
unsafe impl Sync for EarlyHeap {}
static EARLY: EarlyHeap = EarlyHeap(core::cell::UnsafeCell::new([0; EARLY_HEAP]));

/// Notes where the image lies and starts the early heap.
pub fn image(pa: Pa) -> PaRange {
    let size = mmu::init(pa);
    // SAFETY: `EARLY` is mapped with the image and nothing else refers to it.
    unsafe { heap::init(EARLY.0.get().expose_provenance(), EARLY_HEAP, 0) };
    PaRange { start: pa, size }
}

/// Maps the device tree read-only: its header first, to learn its size.
pub fn map_device_tree(dtb: Pa) -> &'static [u8] {
    /// More than any board's; also the boot protocol's bound (Linux `booting.rst`: 2 MiB).
    const LIMIT: u64 = 2 << 20;
    let header = mmu::map_data(dtb, 8);
    let size = header
        .get(4..8)
        .and_then(|bytes| bytes.try_into().ok())
        .map_or(0, |bytes| u64::from(u32::from_be_bytes(bytes)));
    mmu::map_data(dtb, size.clamp(8, LIMIT))
}

/// The memory map, decided.
pub struct Map {
    /// What Ballast itself holds: image, heap and the board's device tree.
    pub held: Vec<PaRange>,
    /// Bytes of RAM that Ballast keeps, the boot archive apart.
    pub own_bytes: u64,
    /// The boot archive, mapped read-only.
    pub archive: &'static [u8],
}

impl Map {
    /// Everything in RAM that guests cannot have.
    pub fn taken(&self, board: &Board) -> Vec<PaRange> {
        let mut taken = self.held.clone();
        taken.extend(board.reserved.iter().copied());
        taken.extend(board.initrd);
        taken
    }
}

/// Places the heap and maps it.
pub fn plan(board: &Board, image: PaRange, dtb: &[u8], guests: usize) -> Result<Map, Refusal> {
    let dtb = PaRange {
        start: mmu::pa_of_data(dtb),
        size: dtb.len() as u64,
    };
    let mut map = Map {
        held: alloc::vec![image, dtb],
        own_bytes: 0,
        archive: &[],
    };
    let free = subtract(&board.ram, &map.taken(board));
    let tables = table_bytes(board);
    let size = heap_bytes(board, guests) + tables;
    // Close to the image: what is left of a block that is taken in part wastes no whole one.
    let place = free
        .iter()
        .filter(|range| range.size >= size)
        .min_by_key(|range| (range.start.0.abs_diff(image.end().0), range.size))
        .copied()
        .ok_or_else(|| {
            Refusal::new("/memory")
                .problem(format_args!(
                    "has no {} KiB in one piece for Ballast itself",
                    size >> 10
                ))
                .fix("use a board with more memory")
        })?;
    mmu::map_heap(place.start, size);
    // SAFETY: just mapped; held, so that nothing else uses it.
    unsafe { heap::init(layout::HEAP_BASE as usize, size as usize, tables as usize) };
    map.held.push(PaRange {
        start: place.start,
        size,
    });
    map.own_bytes = image.size + size;
    map.archive = board
        .initrd
        .map_or(&[], |range| mmu::map_data(range.start, range.size));
    Ok(map)
}

/// The frame table (`ballast_core::frames`): four bytes and two bits a frame and less than 24 bytes a
/// block, rounded up to whole blocks, of which each range of RAM can have two in part.
fn table_bytes(board: &Board) -> u64 {
    let blocks: u64 = board
        .ram
        .iter()
        .map(|range| range.size / BLOCK_SIZE + 2)
        .sum();
    let frames = blocks * PAGES_PER_BLOCK as u64;
    let descriptors = blocks * 24;
    // Small ones come from the buddy allocator, in a power of two.
    let descriptors = if descriptors < heap::LARGE as u64 {
        0
    } else {
        descriptors
    };
    (frames * 4 + frames / 4 + descriptors).next_multiple_of(PAGE_SIZE)
}

/// Stacks, guests' tables and rings, and room for boot.
fn heap_bytes(board: &Board, guests: usize) -> u64 {
    /// Boot-time work, small descriptors of the frame table, and what does not depend on the board.
    const BASE: u64 = 256 << 10;
    /// Stacks, window table and per-core data.
    const PER_CORE: u64 = 56 << 10;
    const PER_GUEST: u64 = 96 << 10;
    BASE + PER_CORE * board.cores.len() as u64 + PER_GUEST * guests as u64
}
