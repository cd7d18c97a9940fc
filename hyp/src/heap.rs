//! EL2's heap: for boot and for slow paths. Traps never allocate.
//!
//! The buddy allocator rounds up to a power of two, which would waste up to half of the frame table.
//! So the few large, lasting tables come from the end of the region, in their exact size.

use core::alloc::{GlobalAlloc, Layout};
use core::ops::Range;
use core::ptr::{self, NonNull};

use buddy_system_allocator::Heap;
use spin::Mutex;

use crate::aarch64::cache;

/// From this size on an allocation is a table: it is never freed.
const LARGE: usize = ballast_core::plan::TABLE_BYTES as usize;

struct State {
    /// Orders up to 2^31 bytes.
    buddy: Heap<32>,
    /// The region of tables, and where in it the next one goes.
    tables: Range<usize>,
    next_table: usize,
}

struct El2Heap(Mutex<State>);

#[global_allocator]
static HEAP: El2Heap = El2Heap(Mutex::new(State {
    buddy: Heap::empty(),
    tables: 0..0,
    next_table: 0,
}));

impl State {
    fn table(&mut self, layout: Layout) -> Option<NonNull<u8>> {
        let start = self.next_table.checked_next_multiple_of(layout.align())?;
        let after = start
            .checked_add(layout.size())
            .filter(|after| *after <= self.tables.end)?;
        self.next_table = after;
        NonNull::new(ptr::with_exposed_provenance_mut(start))
    }

    fn is_table(&self, address: usize) -> bool {
        self.tables.contains(&address)
    }

    fn allocate(&mut self, layout: Layout) -> *mut u8 {
        let table = if layout.size() >= LARGE {
            self.table(layout)
        } else {
            None
        };
        table
            .or_else(|| self.buddy.alloc(layout).ok())
            .map_or(ptr::null_mut(), NonNull::as_ptr)
    }
}

// SAFETY: the buddy allocator and the tables' region hand out disjoint blocks of the memory given to
// them, of the layout's size and alignment, and the lock serialises both.
unsafe impl GlobalAlloc for El2Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.0.lock().allocate(layout)
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let block = self.0.lock().allocate(layout);
        if !block.is_null() {
            // SAFETY: just allocated, of this size.
            unsafe { cache::zero(block, layout.size()) };
        }
        block
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let mut state = self.0.lock();
        if let Some(block) = NonNull::new(block)
            && !state.is_table(block.as_ptr().addr())
        {
            // SAFETY: by GlobalAlloc's contract `block` came from `alloc` with this layout, and it
            // did not come from the tables' region.
            unsafe { state.buddy.dealloc(block, layout) }
        }
    }
}

/// Gives the heap memory: `size` bytes at `start`, the last `tables` of them for tables.
///
/// # Safety
/// `start..start + size` must be mapped read-write and used by nothing else, for ever.
pub unsafe fn init(start: usize, size: usize, tables: usize) {
    let mut state = HEAP.0.lock();
    // SAFETY: passed on.
    unsafe { state.buddy.add_to_heap(start, start + size - tables) };
    if tables != 0 {
        state.tables = start + size - tables..start + size;
        state.next_table = state.tables.start;
    }
}
