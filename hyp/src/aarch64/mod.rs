//! The unsafe shell around the architecture: entry, exception vectors, translation, caches, registers.

pub mod cache;
pub mod firmware;
pub mod mmu;
pub mod registers;
pub mod speculation;
pub mod timer;
pub mod tlb;
pub mod window;

core::arch::global_asm!(include_str!("entry.S"));
core::arch::global_asm!(include_str!("vectors.S"), branches = const ballast_core::speculation::BRANCHES);
core::arch::global_asm!(include_str!("memory.S"));
core::arch::global_asm!(include_str!("device.S"));
