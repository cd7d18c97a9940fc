//! EL2's heap: for boot and for slow paths. Traps never allocate.

use core::alloc::{GlobalAlloc, Layout};
use core::ptr::{self, NonNull};

use buddy_system_allocator::Heap;
use spin::Mutex;

/// Largest block order: 2^31 bytes.
struct El2Heap(Mutex<Heap<32>>);

#[global_allocator]
static HEAP: El2Heap = El2Heap(Mutex::new(Heap::empty()));

// SAFETY: the buddy allocator hands out disjoint blocks of the region given to it, of the layout's
// size and alignment, and the lock serialises it.
unsafe impl GlobalAlloc for El2Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.0
            .lock()
            .alloc(layout)
            .map_or(ptr::null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if let Some(block) = NonNull::new(block) {
            // SAFETY: by GlobalAlloc's contract `block` came from `alloc` with this layout.
            unsafe { self.0.lock().dealloc(block, layout) }
        }
    }
}

/// Gives the heap its memory.
///
/// # Safety
/// `start..start + size` must be mapped read-write and used by nothing else, for ever.
pub unsafe fn init(start: usize, size: usize) {
    // SAFETY: passed on.
    unsafe { HEAP.0.lock().init(start, size) }
}

/// Bytes of the heap in use.
pub fn used() -> usize {
    HEAP.0.lock().stats_alloc_actual()
}
