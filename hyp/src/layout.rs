//! The EL2 virtual address space: one gibibyte for the hypervisor itself, one for what it reads.
//!
//! Nothing else is ever mapped. Guest memory is reached only through a core's own window, so a
//! stray pointer in EL2 faults instead of reaching a guest.

/// Where the image is linked (`linker/ballast.ld`).
pub const IMAGE_BASE: u64 = 0x7f_c000_0000;
/// Device registers, one page table of them, in order of mapping.
pub const MMIO_BASE: u64 = IMAGE_BASE + 0x20_0000;
/// Bytes of [`MMIO_BASE`]'s space.
pub const MMIO_SIZE: u64 = 0x60_0000;
/// What boot begins with: the heap for the device tree's index.
pub const EARLY_HEAP_BASE: u64 = IMAGE_BASE + 0x80_0000;
/// The hypervisor's own memory: heap with the frame table.
pub const HEAP_BASE: u64 = IMAGE_BASE + 0x100_0000;
/// Stacks: a slot of [`STACK_SLOT`] bytes for each core.
pub const STACK_BASE: u64 = IMAGE_BASE + 0x1000_0000;
/// A core's slot: guard page, stack, guard page, emergency stack.
pub const STACK_SLOT: u64 = 0x1_0000;
/// Bytes of a core's stack.
pub const STACK_SIZE: u64 = 0x6000;
/// Bytes of a core's stack for EL2's own faults.
pub const EMERGENCY_SIZE: u64 = 0x2000;
/// Windows into guest memory: [`WINDOW_SLOT`] bytes for each core.
pub const WINDOW_BASE: u64 = IMAGE_BASE + 0x2000_0000;
/// A core's window: one level-3 table.
pub const WINDOW_SLOT: u64 = 0x20_0000;
/// Read-only boot data: the device tree and the boot archive.
pub const DATA_BASE: u64 = 0x7f_8000_0000;

/// Top of core `index`'s stack.
pub const fn stack_top(index: usize) -> u64 {
    STACK_BASE + index as u64 * STACK_SLOT + 0x1000 + STACK_SIZE
}

/// Top of core `index`'s emergency stack.
pub const fn emergency_top(index: usize) -> u64 {
    stack_top(index) + 0x1000 + EMERGENCY_SIZE
}
