//! A block of 32-bit registers whose meaning is the caller's.

use core::ptr::NonNull;

use tock_registers::interfaces::{Readable, Writeable};
use tock_registers::registers::ReadWrite;

/// The block, once it is mapped.
pub struct Words {
    base: NonNull<ReadWrite<u32>>,
    count: usize,
}

// SAFETY: device registers may be accessed from any core; exclusion is the owner's affair.
unsafe impl Send for Words {}
// SAFETY: as above; each access is one volatile load or store.
unsafe impl Sync for Words {}

impl Words {
    /// # Safety
    /// `base`, a multiple of 4, must be `bytes` bytes of registers, mapped for ever.
    pub const unsafe fn new(base: NonNull<u8>, bytes: u64) -> Self {
        Self {
            base: base.cast(),
            count: bytes as usize / 4,
        }
    }

    fn word(&self, offset: u32) -> Option<&ReadWrite<u32>> {
        // SAFETY: by the contract of `new` there are `count` registers, mapped for ever; a cell of this type
        // makes no claim about who else changes it.
        let words = unsafe { core::slice::from_raw_parts(self.base.as_ptr(), self.count) };
        words.get(offset as usize / 4)
    }

    /// The register at `offset`; zero where the block has none.
    pub fn read(&self, offset: u32) -> u32 {
        self.word(offset).map_or(0, |word| word.get())
    }

    /// Writes the register at `offset`; nothing where the block has none.
    pub fn write(&self, offset: u32, value: u32) {
        if let Some(word) = self.word(offset) {
            word.set(value);
        }
    }
}
