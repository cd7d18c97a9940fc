//! EL2's own stage-1 map: what the hypervisor can touch, page by page, and nothing else.
//!
//! The entry code mapped the image W^X; everything further is added here, at boot, by core 0. After
//! [`seal`] the map changes only in the per-core windows, each by its own core.

use alloc::alloc::{Layout, alloc_zeroed, handle_alloc_error};
use core::ptr;
use core::sync::atomic::{AtomicU64, Ordering};

use aarch64_cpu::asm::barrier;
use ballast_core::addr::{PAGE_SIZE, Pa};
use spin::Mutex;

use crate::layout;

/// What a mapping is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Device-nGnRE registers, read-write, execute never.
    Device,
    /// The same as Device-nGnRnE: a store is done when the device has answered it.
    Answered,
    /// Normal write-back memory, read-write, execute never.
    Memory,
    /// Normal non-cacheable memory, read-write, execute never.
    Uncached,
    /// Normal write-back memory, read-only, execute never.
    Data,
}

const VALID: u64 = 1;
const TABLE: u64 = 0b11;
const ADDRESS: u64 = 0x0000_ffff_ffff_f000;

impl Kind {
    /// The attributes of a level-3 page descriptor (DDI 0487, D8.3.2): AF, execute-never, AP\[1\] RES1.
    pub const fn page(self) -> u64 {
        const BASE: u64 = (1 << 54) | (1 << 10) | (1 << 6) | 0b11;
        match self {
            Self::Device => BASE,
            Self::Answered => BASE | (3 << 2),
            Self::Memory => BASE | (0b11 << 8) | (1 << 2),
            Self::Uncached => BASE | (0b11 << 8) | (2 << 2),
            Self::Data => BASE | (0b11 << 8) | (1 << 2) | (1 << 7),
        }
    }

    /// The same for a level-2 block.
    const fn block(self) -> u64 {
        self.page() & !0b10
    }
}

/// A translation table.
#[repr(C, align(4096))]
pub struct Table([AtomicU64; 512]);

impl Table {
    const fn new() -> Self {
        Self([const { AtomicU64::new(0) }; 512])
    }

    /// Entry `index`, taken modulo 512.
    #[expect(clippy::indexing_slicing, reason = "masked to the 512 there are")]
    pub fn entry(&self, index: u64) -> &AtomicU64 {
        &self.0[(index & 511) as usize]
    }
}

unsafe extern "C" {
    static boot_l1: Table;
    static boot_l2_ident: Table;
    static image_start: u8;
    static image_end: u8;
}

/// Tables for what is mapped before there is a heap: level 2 of boot data, level 3 of the device tree, which may lie
/// in two blocks, and of the early heap.
static EARLY: [Table; 4] = [const { Table::new() }; 4];

/// Memory that tables lie in.
#[derive(Clone, Copy)]
struct Region {
    va: u64,
    pa: Pa,
    size: u64,
}

impl Region {
    const NONE: Self = Self {
        va: 0,
        pa: Pa(0),
        size: 0,
    };
}

/// Where the image and the heaps lie, and what of the early tables is used.
struct Map {
    /// The image, the early heap, the heap.
    regions: [Region; 3],
    early_used: usize,
    mmio_used: u64,
    data_used: u64,
}

static MAP: Mutex<Map> = Mutex::new(Map {
    regions: [Region::NONE; 3],
    early_used: 0,
    mmio_used: 0,
    data_used: 0,
});

impl Map {
    fn pa_of(&self, va: u64) -> Pa {
        let mut regions = self.regions.iter();
        let region = regions.find(|region| va.wrapping_sub(region.va) < region.size);
        let region = region.unwrap_or(&Region::NONE);
        assert!(
            region.size != 0,
            "no physical address for EL2 address {va:#x}"
        );
        Pa(va - region.va + region.pa.0)
    }

    fn va_of(&self, pa: Pa) -> u64 {
        let mut regions = self.regions.iter();
        let region = regions.find(|region| pa.0.wrapping_sub(region.pa.0) < region.size);
        let region = region.unwrap_or(&Region::NONE);
        assert!(region.size != 0, "no EL2 address for a table at {pa}");
        pa.0 - region.pa.0 + region.va
    }

    /// A zeroed table: an early one, then from the heap.
    fn new_table(&mut self) -> &'static Table {
        if let Some(table) = EARLY.get(self.early_used) {
            self.early_used += 1;
            return table;
        }
        let layout = Layout::new::<Table>();
        // SAFETY: the layout has a size.
        let table = unsafe { alloc_zeroed(layout) }.cast::<Table>();
        if table.is_null() {
            handle_alloc_error(layout);
        }
        // SAFETY: allocated for a table, for which zeroes are a value, and never freed.
        unsafe { &*table }
    }

    fn table_at(&self, descriptor: u64) -> &'static Table {
        let va = self.va_of(Pa(descriptor & ADDRESS));
        // SAFETY: only table descriptors written by `next` and the entry code reach here; they
        // name `Table`s in the image or the heap, which live for ever and are only accessed atomically.
        unsafe { &*ptr::with_exposed_provenance::<Table>(va as usize) }
    }

    fn next(&mut self, entry: &AtomicU64) -> &'static Table {
        let descriptor = entry.load(Ordering::Relaxed);
        if descriptor & TABLE == TABLE {
            return self.table_at(descriptor);
        }
        let table = self.new_table();
        let pa = self.pa_of(ptr::from_ref(table).expose_provenance() as u64);
        entry.store(pa.0 | TABLE, Ordering::Release);
        table
    }

    fn map(&mut self, va: u64, pa: Pa, size: u64, kind: Kind) {
        const BLOCK: u64 = 1 << 21;
        // SAFETY: `boot_l1` is the live level-1 table, inside the image; access is atomic.
        let l1 = unsafe { &boot_l1 };
        let mut done = 0;
        while done < size {
            let (at, to) = (va + done, pa.0 + done);
            let l2 = self.next(l1.entry(at >> 30));
            let slot = l2.entry(at >> 21);
            if at.is_multiple_of(BLOCK) && to.is_multiple_of(BLOCK) && size - done >= BLOCK {
                assert!(
                    slot.load(Ordering::Relaxed) & VALID == 0,
                    "EL2 address {at:#x} mapped twice"
                );
                slot.store(to | kind.block(), Ordering::Release);
                done += BLOCK;
                continue;
            }
            let table = self.next(slot);
            // To the end of the table or of what is mapped.
            let end = (done + BLOCK - at % BLOCK).min(size);
            while done < end {
                let entry = table.entry((va + done) >> 12);
                assert!(
                    entry.load(Ordering::Relaxed) & VALID == 0,
                    "EL2 address {at:#x} mapped twice"
                );
                entry.store((pa.0 + done) | kind.page(), Ordering::Release);
                done += PAGE_SIZE;
            }
        }
        // Invalid entries are not cached, so no TLB maintenance: the new entries only have to be
        // visible to the walker before the first access (DDI 0487, D8.16.1 and B2.3.12).
        barrier::dsb(barrier::ISHST);
        barrier::isb(barrier::SY);
    }
}

fn image_span() -> (u64, u64) {
    let start = (&raw const image_start).expose_provenance() as u64;
    let end = (&raw const image_end).expose_provenance() as u64;
    (start, end - start)
}

/// Called first: where the loader put the image. Returns its size in bytes.
pub fn init(image_pa: Pa) -> u64 {
    let (va, size) = image_span();
    let pa = image_pa;
    MAP.lock().regions[0] = Region { va, pa, size };
    size
}

/// The most that the early heap can be: what its one level-3 table maps.
pub const EARLY_HEAP_MOST: u64 = 2 << 20;

/// Maps the early heap, `size` bytes at `pa`, at most [`EARLY_HEAP_MOST`], while early tables last. Returns its address.
pub fn map_early_heap(pa: Pa, size: u64) -> usize {
    map_memory(1, layout::EARLY_HEAP_BASE, pa, size)
}

/// Maps the heap, with tables from the early one. Returns its address.
pub fn map_heap(pa: Pa, size: u64) -> usize {
    // The same offset in 2 MiB as the physical address, so that the middle is blocks.
    map_memory(2, layout::HEAP_BASE + pa.0 % (1 << 21), pa, size)
}

fn map_memory(region: usize, va: u64, pa: Pa, size: u64) -> usize {
    let mut map = MAP.lock();
    map.map(va, pa, size, Kind::Memory);
    if let Some(region) = map.regions.get_mut(region) {
        *region = Region { va, pa, size };
    }
    va as usize
}

/// Maps `size` bytes of device registers at `pa` (page aligned or not) and returns their address.
pub fn map_device(pa: Pa, size: u64) -> *mut u8 {
    map_registers(pa, size, Kind::Device)
}

/// The same for registers that are accessed in guests' stead, so that a barrier leaves no abort behind that
/// somebody else would get ([`pending_serror`](super::registers::pending_serror)).
pub fn map_answered(pa: Pa, size: u64) -> *mut u8 {
    map_registers(pa, size, Kind::Answered)
}

fn map_registers(pa: Pa, size: u64, kind: Kind) -> *mut u8 {
    let mut map = MAP.lock();
    let first = pa.0 & !(PAGE_SIZE - 1);
    let bytes = (pa.0 + size - first).next_multiple_of(PAGE_SIZE);
    let va = layout::MMIO_BASE + map.mmio_used;
    assert!(
        map.mmio_used + bytes <= layout::MMIO_SIZE,
        "no EL2 address space left for registers at {pa}"
    );
    map.mmio_used += bytes;
    map.map(va, Pa(first), bytes, kind);
    ptr::with_exposed_provenance_mut((va + (pa.0 - first)) as usize)
}

/// Maps boot data read-only and returns it. Nothing else may own or write that memory.
pub fn map_data(pa: Pa, size: u64) -> &'static [u8] {
    if size == 0 {
        return &[];
    }
    let start = map_boot(pa, size, Kind::Data);
    // SAFETY: just mapped, readable, never written through any other mapping (the caller's contract,
    // kept by reserving the range in the memory map), alive for ever.
    unsafe { core::slice::from_raw_parts(start, size as usize) }
}

/// Makes boot data of [`map_data`], the last that was mapped, `size` bytes in all.
pub fn map_more(data: &'static [u8], size: u64) -> &'static [u8] {
    let start = data.as_ptr();
    let va = start.expose_provenance() as u64;
    let mapped = (va + data.len() as u64).next_multiple_of(PAGE_SIZE);
    let end = (va + size).next_multiple_of(PAGE_SIZE);
    if end > mapped {
        let pa = Pa(pa_of_data(data).0 + (mapped - va));
        let mut map = MAP.lock();
        map.data_used = end - layout::DATA_BASE;
        map.map(mapped, pa, end - mapped, Kind::Data);
    }
    // SAFETY: as in `map_data`: one stretch of memory, mapped page by page to one stretch of addresses.
    unsafe { core::slice::from_raw_parts(start, size as usize) }
}

/// Maps memory that firmware keeps and shares with Ballast, read-write, at boot.
pub fn map_shared(pa: Pa, size: u64) -> *mut u8 {
    map_boot(pa, size, Kind::Memory)
}

fn map_boot(pa: Pa, size: u64, kind: Kind) -> *mut u8 {
    let mut map = MAP.lock();
    let first = pa.0 & !(PAGE_SIZE - 1);
    let bytes = (pa.0 + size - first).next_multiple_of(PAGE_SIZE);
    // The same offset in 2 MiB as the physical address, so that the middle is blocks.
    let offset = first & ((1 << 21) - 1);
    let va = layout::DATA_BASE + map.data_used.next_multiple_of(1 << 21) + offset;
    map.data_used = va + bytes - layout::DATA_BASE;
    map.map(va, Pa(first), bytes, kind);
    ptr::with_exposed_provenance_mut((va + (pa.0 - first)) as usize)
}

/// Gives core `index` its stacks (guard pages stay unmapped) and its window's level-3 table.
/// `stack_pa` is the physical address of `STACK_SIZE + EMERGENCY_SIZE` bytes.
pub fn map_core(index: usize, stack_pa: Pa) -> &'static Table {
    let mut map = MAP.lock();
    let top = layout::stack_top(index);
    map.map(
        top - layout::STACK_SIZE,
        stack_pa,
        layout::STACK_SIZE,
        Kind::Memory,
    );
    let emergency = layout::emergency_top(index) - layout::EMERGENCY_SIZE;
    map.map(
        emergency,
        Pa(stack_pa.0 + layout::STACK_SIZE),
        layout::EMERGENCY_SIZE,
        Kind::Memory,
    );
    // SAFETY: as in `map`.
    let l1 = unsafe { &boot_l1 };
    let window = layout::WINDOW_BASE + index as u64 * layout::WINDOW_SLOT;
    let l2 = map.next(l1.entry(window >> 30));
    let table = map.next(l2.entry(window >> 21));
    barrier::dsb(barrier::ISHST);
    barrier::isb(barrier::SY);
    table
}

/// Removes the one-to-one page of the entry code. After every core has come up.
pub fn seal() {
    // SAFETY: both are live tables of this map, accessed atomically.
    let (l1, ident) = unsafe { (&boot_l1, &boot_l2_ident) };
    let ident = ptr::from_ref(ident).expose_provenance() as u64;
    let pa = pa_of(ident).0;
    let maps_it = |index: &u64| l1.entry(*index).load(Ordering::Relaxed) & ADDRESS == pa;
    if let Some(index) = (0..512).find(maps_it) {
        l1.entry(index).store(0, Ordering::Release);
    }
    barrier::dsb(barrier::ISHST);
    crate::aarch64::tlb::invalidate_el2();
}

/// The physical address of an object in the image or on the heap.
pub fn pa_of(va: u64) -> Pa {
    MAP.lock().pa_of(va)
}

/// The physical address of boot data that [`map_data`] returned.
pub fn pa_of_data(data: &[u8]) -> Pa {
    let va = data.as_ptr().expose_provenance() as u64;
    // SAFETY: as in `map`.
    let l1 = unsafe { &boot_l1 };
    let map = MAP.lock();
    let l2 = map.table_at(l1.entry(va >> 30).load(Ordering::Relaxed));
    let descriptor = l2.entry(va >> 21).load(Ordering::Relaxed);
    if descriptor & TABLE == TABLE {
        let page = map
            .table_at(descriptor)
            .entry(va >> 12)
            .load(Ordering::Relaxed);
        return Pa((page & ADDRESS) | (va & (PAGE_SIZE - 1)));
    }
    Pa((descriptor & ADDRESS & !((1 << 21) - 1)) | (va & ((1 << 21) - 1)))
}

/// What lies at `va`, for fault reports.
pub fn describe(va: u64) -> &'static str {
    match va {
        layout::IMAGE_BASE..layout::MMIO_BASE => "the image",
        layout::MMIO_BASE..layout::EARLY_HEAP_BASE => "device registers",
        layout::EARLY_HEAP_BASE..layout::STACK_BASE => "the heap",
        layout::STACK_BASE..layout::WINDOW_BASE => "a stack or its guard page",
        layout::WINDOW_BASE.. => "a window into guest memory",
        layout::DATA_BASE..layout::IMAGE_BASE => "boot data",
        _ => "unmapped space",
    }
}
