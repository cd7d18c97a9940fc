//! The boot-time memory map: what is taken, and where the hypervisor's own memory goes. Nothing outside of the image
//! is written before a first look at the device tree has said what lies there.

use alloc::vec::Vec;
use core::cell::UnsafeCell;

use ballast_core::addr::{Pa, PaRange};
use ballast_core::board::Board;
use ballast_core::dt::{DeviceTree, FirstLook};
use ballast_core::plan::OwnMemory;
use ballast_core::refusal::Refusal;

use crate::aarch64::mmu;
use crate::heap;

/// Heap inside the image, to say with that there is nowhere to put any other.
const SPARE_HEAP: usize = 0x800;

#[repr(align(16))]
struct SpareHeap(UnsafeCell<[u8; SPARE_HEAP]>);
// SAFETY: only the allocator touches it, under its lock.
unsafe impl Sync for SpareHeap {}
static SPARE: SpareHeap = SpareHeap(UnsafeCell::new([0; SPARE_HEAP]));

/// Notes where the image lies and starts the heap inside it.
pub fn image(pa: Pa) -> PaRange {
    let size = mmu::init(pa);
    // SAFETY: `SPARE` is mapped with the image and nothing else refers to it.
    unsafe { heap::init(SPARE.0.get().expose_provenance(), SPARE_HEAP, 0) };
    PaRange { start: pa, size }
}

/// Starts the early heap and reads the device tree at `blob` into it. The heap is in RAM that neither firmware, the
/// boot archive, the `image` nor the tree has, as a first look at the tree without a heap says; it is returned, too.
/// A stack frame of its own: the look is some kilobytes.
#[inline(never)]
pub fn read_tree(blob: &[u8], image: PaRange) -> Result<(DeviceTree<'_>, PaRange), Refusal> {
    let look = FirstLook::new(blob)?;
    let size = look.heap_bytes();
    if size > mmu::EARLY_HEAP_MOST {
        let most = mmu::EARLY_HEAP_MOST >> 10;
        let problem = alloc::format!("needs {} KiB to be read, of {most} at most", size >> 10);
        return Err(Refusal::new("device tree")
            .problem(problem)
            .fix("leave out nodes with many addresses"));
    }
    let tree = PaRange {
        start: mmu::pa_of_data(blob),
        size: blob.len() as u64,
    };
    let place = look.place(size, image, &[image, tree]).ok_or_else(|| {
        let problem = alloc::format!("has no {} KiB in one piece to read it with", size >> 10);
        Refusal::new("device tree")
            .problem(problem)
            .fix("use a board with more memory, or fewer reservations")
    })?;
    let start = mmu::map_early_heap(place.start, size);
    // SAFETY: just mapped; nothing that the loader has left lies there, and it is held from now on.
    unsafe { heap::init(start, size as usize, 0) };
    Ok((look.index(blob)?, place))
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
    mmu::map_more(header, size.clamp(8, LIMIT))
}

/// The memory map, decided.
pub struct Map {
    /// What Ballast itself holds: image, heaps and the board's device tree.
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
    early: PaRange,
    dtb: &[u8],
) -> Result<Map, Refusal> {
    let dtb = PaRange {
        start: mmu::pa_of_data(dtb),
        size: dtb.len() as u64,
    };
    let mut map = Map {
        held: alloc::vec![image, early, dtb],
        own_bytes: 0,
        archive: &[],
    };
    let own = OwnMemory::plan(board, tree, image, &map.held)?;
    let PaRange { start, size } = own.heap;
    let heap = mmu::map_heap(start, size);
    // SAFETY: just mapped; held, so that nothing else uses it.
    unsafe { heap::init(heap, size as usize, own.tables as usize) };
    map.held.push(own.heap);
    map.own_bytes = image.size + early.size + size;
    map.archive = board
        .initrd
        .map_or(&[], |range| mmu::map_data(range.start, range.size));
    Ok(map)
}
