//! Exits: where the vectors call Rust.

/// The guest's general registers while EL2 works; `vectors.S` knows the layout.
#[repr(C)]
pub struct Frame {
    /// x0 to x30; x19 to x29 are there only for exits that save all.
    pub x: [u64; 31],
    _pad: u64,
}

/// HVC from AArch64. Only x0-x18 and x30 are saved in `frame`.
#[unsafe(no_mangle)]
extern "C" fn rust_hypercall(_frame: &mut Frame, _esr: u64) {}

/// A physical interrupt while a guest runs. Only x0-x18 and x30 are saved in `frame`.
#[unsafe(no_mangle)]
extern "C" fn rust_interrupt(_frame: &mut Frame) {}

/// Any other synchronous exit.
#[unsafe(no_mangle)]
extern "C" fn rust_sync(_frame: &mut Frame, _esr: u64) {}

/// An SError while a guest runs.
#[unsafe(no_mangle)]
extern "C" fn rust_serror(_frame: &mut Frame, _esr: u64) {}
