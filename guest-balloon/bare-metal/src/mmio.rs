//! Device registers.
//!
//! Accesses are single load and store instructions with a plain base register: the forms a hypervisor
//! gets a syndrome for (Arm ARM DDI 0487, ESR_ELx.ISV). The compiler may choose others for a volatile
//! access, such as a store with write-back.

use core::arch::asm;

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
        unsafe {
            let value: u32;
            asm!("ldr {:w}, [{}]", out(reg) value, in(reg) self.base + offset, options(nostack, preserves_flags));
            value
        }
    }

    /// Writes 32 bits.
    pub fn write32(self, offset: usize, value: u32) {
        // SAFETY: as `read32`.
        unsafe {
            asm!("str {:w}, [{}]", in(reg) value, in(reg) self.base + offset, options(nostack, preserves_flags))
        }
    }

    /// Reads 64 bits.
    pub fn read64(self, offset: usize) -> u64 {
        // SAFETY: within the device, by `new`; 8-byte aligned.
        unsafe {
            let value: u64;
            asm!("ldr {}, [{}]", out(reg) value, in(reg) self.base + offset, options(nostack, preserves_flags));
            value
        }
    }

    /// Writes 64 bits.
    pub fn write64(self, offset: usize, value: u64) {
        // SAFETY: as `read64`.
        unsafe {
            asm!("str {}, [{}]", in(reg) value, in(reg) self.base + offset, options(nostack, preserves_flags))
        }
    }

    /// Writes 8 bits.
    pub fn write8(self, offset: usize, value: u8) {
        // SAFETY: within the device, by `new`.
        unsafe {
            asm!("strb {:w}, [{}]", in(reg) value, in(reg) self.base + offset, options(nostack, preserves_flags))
        }
    }
}
