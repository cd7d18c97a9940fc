//! The boot-time memory map: what is taken, and where the hypervisor's own memory goes.

use alloc::vec::Vec;

use ballast_core::addr::{Pa, PaRange};
use ballast_core::board::Board;
use ballast_core::dt::DeviceTree;
use ballast_core::plan::OwnMemory;
use ballast_core::refusal::Refusal;

use crate::aarch64::mmu;
use crate::{heap, layout};

/// Heap inside the image, until the memory map is known: enough for the index of a device tree of 1500 nodes, three
/// times what a Raspberry Pi's has with its overlays.
const EARLY_HEAP: usize = 0x18000;

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
pub fn plan(
    board: &Board,
    tree: &DeviceTree<'_>,
    image: PaRange,
    dtb: &[u8],
) -> Result<Map, Refusal> {
    let dtb = PaRange {
        start: mmu::pa_of_data(dtb),
        size: dtb.len() as u64,
    };
    let mut map = Map {
        held: alloc::vec![image, dtb],
        own_bytes: 0,
        archive: &[],
    };
    let own = OwnMemory::plan(board, tree, image, &map.held)?;
    let PaRange { start, size } = own.heap;
    mmu::map_heap(start, size);
    // SAFETY: just mapped; held, so that nothing else uses it.
    unsafe {
        heap::init(
            layout::HEAP_BASE as usize,
            size as usize,
            own.tables as usize,
        )
    };
    map.held.push(own.heap);
    map.own_bytes = image.size + size;
    map.archive = board
        .initrd
        .map_or(&[], |range| mmu::map_data(range.start, range.size));
    Ok(map)
}
