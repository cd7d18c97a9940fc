//! The translation table: everything mapped to itself, by 1 GiB blocks.
//!
//! The first GiB is devices, the next eight are RAM, all above is mapped as device memory so that the
//! tests can touch every address outside the guest's map.

use core::cell::UnsafeCell;

/// Attr0 Device-nGnRE, Attr1 Normal write-back, Attr2 Normal non-cacheable (Arm ARM DDI 0487 D17.2.97).
pub const MAIR: u64 = 0x04 | 0xff << 8 | 0x44 << 16;
/// T0SZ 25 (39-bit VA: one level-1 table), write-back inner-shareable walks, 4 KiB granule, TTBR1 off.
pub const TCR: u64 = 25 | 1 << 8 | 1 << 10 | 3 << 12 | 1 << 23;
/// RES1 bits of an ARMv8.0 SCTLR_EL1, and I, C, SA0, SA, M.
pub const SCTLR: u64 = 0x30d0_0800 | 1 << 12 | 1 << 4 | 1 << 3 | 1 << 2 | 1;

const BLOCK: u64 = 0b01;
const ACCESSED: u64 = 1 << 10;
const INNER_SHAREABLE: u64 = 3 << 8;
const NORMAL: u64 = BLOCK | ACCESSED | INNER_SHAREABLE | 1 << 2;
const DEVICE: u64 = BLOCK | ACCESSED | 1 << 54 | 1 << 53;
/// MAIR's attribute 2; shareability means nothing there (Arm ARM DDI 0487 D8.6.2).
const NON_CACHEABLE: u64 = BLOCK | ACCESSED | 2 << 2 | 1 << 54 | 1 << 53;
/// UXN: not executable at EL0.
const EXECUTE_NEVER: u64 = 1 << 54;
/// Bytes that an entry of the table maps.
pub const GIB: u64 = 1 << 30;
/// GiB 1 to 8 may hold RAM.
const RAM_GIB: core::ops::RangeInclusive<u64> = 1..=8;

/// Whether what lies there is mapped as RAM.
pub fn is_ram(address: u64) -> bool {
    RAM_GIB.contains(&(address / GIB))
}

/// A level-1 table.
#[repr(C, align(4096))]
pub struct Table(UnsafeCell<[u64; 512]>);

// SAFETY: written only through `replace`, whose caller keeps other cores out.
unsafe impl Sync for Table {}

/// The one table. In `.data` (not constant data) because tests change entries.
#[unsafe(link_section = ".data.level1")]
pub static LEVEL1: Table = Table(UnsafeCell::new(identity()));

const fn identity() -> [u64; 512] {
    let mut table = [0; 512];
    let mut gib = 0;
    while gib < 512 {
        let is_ram = gib >= *RAM_GIB.start() && gib <= *RAM_GIB.end();
        table[gib as usize] = (gib * GIB) | if is_ram { NORMAL } else { DEVICE };
        gib += 1;
    }
    table
}

/// What a test maps a GiB of virtual addresses to.
#[derive(Clone, Copy, Debug)]
pub enum Mapping {
    /// Executable normal memory at this physical address (a multiple of 1 GiB).
    Normal(u64),
    /// Device memory, not executable.
    Device(u64),
    /// Normal memory past the caches, not executable.
    NonCacheable(u64),
    /// A level-2 table at this physical address.
    Table(u64),
    /// Normal memory that EL0 may use, and execute.
    UserNormal(u64),
    /// Device memory that EL0 may use.
    UserDevice(u64),
    /// As it was: the address itself, device memory above the first GiB of RAM that guests of tests have.
    Identity,
}

/// AP\[1\]: EL0 may read and write.
const USER: u64 = 1 << 6;

/// The last GiB, which no test uses for its address: free to be mapped elsewhere.
pub const SCRATCH_GIB: u64 = 511;

/// Maps the GiB of virtual addresses at [`SCRATCH_GIB`] and gives its first address. One core at a time.
pub fn map_scratch(mapping: Mapping) -> u64 {
    map_gib(SCRATCH_GIB, mapping)
}

/// The same for any other GiB that no code or data of the test lies in.
pub fn map_gib(gib: u64, mapping: Mapping) -> u64 {
    let entry = match mapping {
        Mapping::Normal(address) => address | NORMAL,
        Mapping::Device(address) => address | DEVICE,
        Mapping::NonCacheable(address) => address | NON_CACHEABLE,
        Mapping::Table(address) => address | 0b11,
        Mapping::UserNormal(address) => address | (NORMAL | USER) & !EXECUTE_NEVER,
        Mapping::UserDevice(address) => address | DEVICE | USER,
        Mapping::Identity => (gib * GIB) | if is_ram(gib * GIB) { NORMAL } else { DEVICE },
    };
    let slot = LEVEL1.0.get().cast::<u64>().wrapping_add(gib as usize);
    // SAFETY: within the table. Break-before-make (Arm ARM DDI 0487 D8.14.1) of an entry nobody's code or
    // data is mapped by.
    unsafe {
        slot.write_volatile(0);
        core::arch::asm!(
            "dsb ishst",
            "tlbi vmalle1is",
            "dsb ish",
            "isb",
            options(nostack)
        );
        slot.write_volatile(entry);
        core::arch::asm!("dsb ishst", "isb", options(nostack));
    }
    gib * GIB
}

/// Bits of a physical address that ID_AA64MMFR0_EL1.PARange tells (Arm ARM DDI 0487 D17.2.64).
pub fn physical_address_bits() -> u32 {
    use aarch64_cpu::registers::{ID_AA64MMFR0_EL1, Readable};
    const BITS: [u32; 7] = [32, 36, 40, 42, 44, 48, 52];
    let range = ID_AA64MMFR0_EL1.read(ID_AA64MMFR0_EL1::PARange) as usize;
    BITS.get(range).copied().unwrap_or(52)
}
