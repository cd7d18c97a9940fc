//! Pages of device registers that have several holders, as EL2 reaches them for guests.
//!
//! What an access does is decided by [`ballast_core::mediate`]; here it is done, on EL2's own
//! Device-nGnRnE mapping of the page. An access that the device answers with an external abort faults in
//! `device.S` alone, which says so.

use core::ptr::NonNull;

use alloc::boxed::Box;
use alloc::vec::Vec;
use ballast_core::addr::{PAGE_SIZE, Pa};
use ballast_core::exit::Width;
use ballast_core::mediate::{ENABLES, Effect};
use spin::mutex::TicketMutex;

use crate::aarch64::mmu;

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
pub struct DeviceFault;

/// One page.
pub struct SharedPage {
    registers: NonNull<u8>,
    /// Held while a register is read, changed and written.
    merging: TicketMutex<()>,
}

// SAFETY: device registers may be accessed from any core; single accesses are the device's to order, and
// `merging` excludes others from what takes two.
unsafe impl Send for SharedPage {}
// SAFETY: as above.
unsafe impl Sync for SharedPage {}

impl SharedPage {
    /// Does what `effect` says, with an access of `width`; a load's value, else 0. Effects that concern no
    /// register of the page do nothing.
    pub fn carry_out(&self, effect: Effect, width: Width) -> Result<u32, DeviceFault> {
        match effect {
            Effect::Read { offset, mask } => Ok(self.load(offset, width)? & mask),
            Effect::Write { offset, value } => self.store(offset, width, value).map(|()| 0),
            Effect::Merge {
                offset,
                mask,
                value,
            } => {
                let _held = self.merging.lock();
                let old = self.load(offset, Width::Word)?;
                self.store(offset, Width::Word, old & !mask | value & mask)?;
                Ok(0)
            }
            Effect::Nothing | Effect::Console { .. } | Effect::Abort => Ok(0),
        }
    }

    fn address(&self, offset: u16) -> u64 {
        let offset = u64::from(offset) & (PAGE_SIZE - 1);
        self.registers.as_ptr().expose_provenance() as u64 + offset
    }

    fn load(&self, offset: u16, width: Width) -> Result<u32, DeviceFault> {
        let address = self.address(offset);
        // SAFETY: `address` lies in a page of device registers that is mapped for ever (`SharedPages`), which
        // no Rust object occupies; the access is naturally aligned and a fault in it is caught.
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

    fn store(&self, offset: u16, width: Width, value: u32) -> Result<(), DeviceFault> {
        let (address, value) = (self.address(offset), u64::from(value));
        // SAFETY: as in `load`; what the store does to the device is its holder's affair, which the core has
        // found the guest to be.
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

/// Every page that is mapped for guests, each once.
#[derive(Default)]
pub struct SharedPages(Vec<(Pa, &'static SharedPage)>);

impl SharedPages {
    /// The page at `pa`, mapped at its first use. At boot only.
    pub fn at(&mut self, pa: Pa) -> &'static SharedPage {
        if let Some((_, page)) = self.0.iter().find(|(at, _)| *at == pa) {
            return page;
        }
        let registers =
            NonNull::new(mmu::map_answered(pa, PAGE_SIZE)).unwrap_or(NonNull::dangling());
        let page = &*Box::leak(Box::new(SharedPage {
            registers,
            merging: TicketMutex::new(()),
        }));
        self.0.push((pa, page));
        page
    }

    /// Turns blocks of the BCM2711's AUX on for a guest that has them and not the switch.
    pub fn enable_aux(&mut self, switch: Pa, blocks: u8) {
        let offset = (switch.0 & (PAGE_SIZE - 1)) as u16 + ENABLES;
        let page = self.at(switch.align_down(PAGE_SIZE));
        // A board whose AUX does not answer has none to turn on.
        let _ = page.carry_out(
            Effect::Merge {
                offset,
                mask: u32::from(blocks),
                value: u32::from(blocks),
            },
            Width::Word,
        );
    }
}
