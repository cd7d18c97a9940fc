//! Device registers.

/// A block of device registers at a fixed address.
#[derive(Clone, Copy, Debug)]
pub struct Mmio {
    base: usize,
}

impl Mmio {
    /// # Safety
    /// `base` is the address of a device that is mapped as device memory, and every offset used with
    /// this value lies within that device.
    pub const unsafe fn new(base: u64) -> Self {
        Self {
            base: base as usize,
        }
    }

    /// Address of the register at `offset`.
    pub const fn address(self, offset: usize) -> u64 {
        (self.base + offset) as u64
    }

    /// Reads 32 bits.
    pub fn read32(self, offset: usize) -> u32 {
        // SAFETY: within the device, by `new`; registers are 4-byte aligned.
        unsafe { ((self.base + offset) as *const u32).read_volatile() }
    }

    /// Writes 32 bits.
    pub fn write32(self, offset: usize, value: u32) {
        // SAFETY: as `read32`.
        unsafe { ((self.base + offset) as *mut u32).write_volatile(value) }
    }

    /// Reads 64 bits.
    pub fn read64(self, offset: usize) -> u64 {
        // SAFETY: within the device, by `new`; 8-byte aligned.
        unsafe { ((self.base + offset) as *const u64).read_volatile() }
    }

    /// Writes 64 bits.
    pub fn write64(self, offset: usize, value: u64) {
        // SAFETY: as `read64`.
        unsafe { ((self.base + offset) as *mut u64).write_volatile(value) }
    }

    /// Writes 8 bits.
    pub fn write8(self, offset: usize, value: u8) {
        // SAFETY: within the device, by `new`.
        unsafe { ((self.base + offset) as *mut u8).write_volatile(value) }
    }
}
