//! Registers that may answer with an external abort, at an offset, a width or a time that EL2 cannot know.
//!
//! Such an access faults in `device.S` alone, which says so.

use core::ptr::NonNull;

use ballast_core::exit::Width;

/// What `device.S` returns.
#[repr(C)]
struct Answer {
    value: u64,
    fault: u64,
}

unsafe extern "C" {
    fn device_load8(address: u64) -> Answer;
    fn device_load16(address: u64) -> Answer;
    fn device_load32(address: u64) -> Answer;
    fn device_store8(address: u64, value: u64) -> Answer;
    fn device_store16(address: u64, value: u64) -> Answer;
    fn device_store32(address: u64, value: u64) -> Answer;
}

/// The device answered with an external abort, or cannot be asked.
#[derive(Debug)]
pub struct DeviceFault;

/// Some registers.
pub struct Guarded {
    base: NonNull<u8>,
    bytes: u32,
}

// SAFETY: device registers may be accessed from any core; single accesses are the device's to order.
unsafe impl Send for Guarded {}
// SAFETY: as above.
unsafe impl Sync for Guarded {}

impl Guarded {
    /// # Safety
    /// `bytes` from `base` on must be device registers, mapped for ever, which no Rust object occupies; what
    /// writing to them does must be for the caller to decide.
    pub const unsafe fn new(base: NonNull<u8>, bytes: u32) -> Self {
        Self { base, bytes }
    }

    /// The address for an access of `width` at `offset`: naturally aligned, inside.
    fn address(&self, offset: u32, width: Width) -> Result<u64, DeviceFault> {
        let bytes = width.bytes() as u32;
        let is_inside =
            offset.is_multiple_of(bytes) && self.bytes.checked_sub(bytes) >= Some(offset);
        let start = self.base.as_ptr().expose_provenance() as u64;
        is_inside
            .then_some(start + u64::from(offset))
            .ok_or(DeviceFault)
    }

    /// Loads from `offset`.
    pub fn load(&self, offset: u32, width: Width) -> Result<u32, DeviceFault> {
        let address = self.address(offset, width)?;
        // SAFETY: `address` lies in registers that are mapped for ever, which no Rust object occupies (the
        // contract of `new`); the access is naturally aligned and a fault in it is caught.
        let answer = unsafe {
            match width {
                Width::Byte => device_load8(address),
                Width::Half => device_load16(address),
                Width::Word => device_load32(address),
                Width::Double => return Err(DeviceFault),
            }
        };
        match answer.fault {
            0 => Ok(answer.value as u32),
            _ => Err(DeviceFault),
        }
    }

    /// Stores to `offset`.
    pub fn store(&self, offset: u32, width: Width, value: u32) -> Result<(), DeviceFault> {
        let (address, value) = (self.address(offset, width)?, u64::from(value));
        // SAFETY: as in `load`; what the store does is the caller's to decide.
        let answer = unsafe {
            match width {
                Width::Byte => device_store8(address, value),
                Width::Half => device_store16(address, value),
                Width::Word => device_store32(address, value),
                Width::Double => return Err(DeviceFault),
            }
        };
        match answer.fault {
            0 => Ok(()),
            _ => Err(DeviceFault),
        }
    }
}
